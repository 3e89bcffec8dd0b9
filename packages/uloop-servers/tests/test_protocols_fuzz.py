"""Any bytes at all, to every parser; and no answer of ours is a question to us."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from uloop_servers.counters import Count
from uloop_servers.protocols import PROTOCOLS, answers, clock, daytime, ntp, time_protocol
from uloop_servers.timesource import SECOND, UNSYNCHRONISED, Quality, TimeSource

pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

FIRST = int(datetime(1968, 1, 21, tzinfo=UTC).timestamp()) * SECOND
LAST = int(datetime(2053, 1, 1, tzinfo=UTC).timestamp()) * SECOND  # see protocols/answers.py
NOW = 1_592_235_273 * SECOND

REFUSALS: dict[str, Callable[[bytes, int], Count | None]] = {
    "clock": clock.refusal,
    "daytime": daytime.refusal,
    "time": time_protocol.refusal,
    "ntp": ntp.refusal,
}

packets = st.binary(max_size=200) | st.binary(min_size=48, max_size=48)
# what passes the first checks, so that the later ones see something too
ntp_like = st.builds(lambda first, rest: bytes((first,)) + rest, st.integers(0, 255), st.binary(min_size=47))
lines = st.from_regex(
    rb"\A\s*[0-9A-Za-z]{0,9}[ ,-]{0,2}[A-Za-z0-9]{1,9}[ -]{1,2}\d{1,4}[ ,-T]{1,2}\d\d:\d\d:\d\d"
    rb"[ .+-]?[A-Z0-9:]{0,6}\s*\Z"
)
anything = packets | ntp_like | lines | st.text(max_size=100).map(str.encode)
ports = st.integers(0, 65535)
moments = st.integers(FIRST, LAST)
qualities = st.builds(
    Quality,
    leap=st.integers(0, 3),
    stratum=st.integers(1, 16),
    reference_id=st.binary(min_size=4, max_size=4),
    reference_time=moments,
    root_delay=st.floats(0, 1e6),
    root_dispersion=st.floats(0, 1e6),
)
zones = st.builds(
    lambda minutes, name: timezone(timedelta(minutes=minutes), name),
    st.integers(-1439, 1439),
    st.sampled_from(["UTC", "CEST", "AbCdE", "+03", "W. Europe Standard Time", "Wintér", "<x>", "1:23:45"]),
)


class Anywhere(TimeSource):
    """A clock that stands still."""

    def __init__(self, now: int, quality: Quality, zone: timezone) -> None:
        super().__init__()
        self.shown, self.told, self.zone = now, quality, zone

    def now(self) -> int:
        return self.shown

    def quality(self, now: int) -> Quality:
        return self.told

    def local(self, now: int) -> datetime:
        return super().local(now).astimezone(self.zone)


sources = st.builds(Anywhere, moments, qualities, zones)


@settings(deadline=None)
@given(anything, moments, sources)
def test_every_answer_is_made_without_an_error(request: bytes, arrival: int, source: TimeSource) -> None:
    assert len(clock.answer(request, arrival, source)) == 26
    assert len(time_protocol.answer(request, arrival, source)) == 4
    assert len(ntp.answer(request.ljust(48, b"."), arrival, source)) == 48
    for layout in daytime.FORMATS:
        line = daytime.answer(request, arrival, source, layout)
        assert line.endswith(b"\r\n")
        assert all(0x20 <= byte < 0x7F for byte in line[:-2])
        assert len(line) < 48 or (layout == "nist" and len(line) == 50)


@settings(deadline=None)
@given(anything, ports)
def test_every_datagram_is_judged_without_an_error(datagram: bytes, port: int) -> None:
    for name, refusal in REFUSALS.items():
        verdict = refusal(datagram, port)
        allowed = {Count.LENGTH, Count.VERSION, Count.MODE} if name == "ntp" else {Count.FORM}
        assert verdict is None or verdict in allowed | {Count.PORT}


@settings(deadline=None)
@given(anything)
@example(b"\x24" + bytes(47))
def test_every_parser_has_no_error_but_its_own(data: bytes) -> None:
    for parse in (clock.read_answer, daytime.read_answer):
        try:
            parse(data)
        except ValueError as error:
            assert repr(data[:60]) in str(error)  # noqa: PT017
    question = ntp.request(NOW)
    for forged in (data, data[:24] + question.stamp + data[32:]):
        try:
            ntp.read_answer(forged, question)
        except ValueError as error:
            assert str(error).isprintable()  # noqa: PT017
    try:
        assert abs(time_protocol.read_answer(data, NOW) - NOW) <= 2**31 * SECOND
    except ValueError:
        assert len(data) != 4


@settings(deadline=None)
@given(moments, moments, qualities)
def test_ntp_times_survive_the_wire(now: int, near: int, quality: Quality) -> None:
    if abs(now - near) >= 2**31 * SECOND:
        return
    question = ntp.request(near)
    told = ntp.answer(question.data, now, Anywhere(now, quality, UTC))
    try:
        reply = ntp.read_answer(told, question)
    except ntp.KissError as kiss:
        reply = kiss.reply
    coarse = 2.0 ** ntp.precision() * SECOND + 1
    assert abs(reply.received - now) <= coarse
    assert abs(reply.transmitted - now) <= coarse
    assert reply.received <= reply.transmitted
    assert reply.leap == quality.leap


def all_answers(request: bytes, source: TimeSource) -> list[bytes]:
    told = [daytime.answer(b"", 0, source, layout) for layout in daytime.FORMATS]
    told += [protocol.answer(request, NOW, source) or b"" for protocol in PROTOCOLS.values()]
    return told


@settings(max_examples=300, deadline=None)
@given(sources, ntp_like, st.integers(1024, 65535))
@example(Anywhere(FIRST, UNSYNCHRONISED, UTC), bytes((0x23,)) + bytes(47), 50_000)
@example(Anywhere(LAST, UNSYNCHRONISED, UTC), bytes((0x08,)) + bytes(47), 50_000)
def test_no_answer_of_ours_is_a_question_to_us(source: TimeSource, request: bytes, port: int) -> None:
    for told in all_answers(request, source):
        for name, refusal in REFUSALS.items():
            assert refusal(told, port) is not None, (name, told)


# Where the forms come from


@pytest.mark.parametrize(
    "question",
    [b"", b"\n", b"\r\n", b"time", b"time?", b"hello\r\n", b"x" * 26, b"what time is it?", b"12:34"],
)
def test_questions_are_answered(question: bytes) -> None:
    assert answers.refusal(question, 40_000) is None


@pytest.mark.parametrize(
    "told",
    [
        b"2020-06-15 15:34:33.899256",
        b"2020-06-15 15:34:33",
        b"15 JUN 2020 15:34:33 UTC\r\n",
        b"\r\n3:34:33 PM 6/15/2020\n",  # Windows' Simple TCP/IP Services
        b"x" * 120 + b"15:34:33",
        struct.pack("!I", NOW // SECOND + 2_208_988_800),
        struct.pack("<q", NOW // SECOND),
        struct.pack("!I", NOW // SECOND + 2_208_988_800) + bytes(4),
        bytes(4),
        b"\r\n\r\n",
        *(bytes((0x20 | mode,)) + bytes(47) for mode in (2, 4, 5, 6, 7)),
        b"\x24" + bytes(999),
    ],
)
def test_what_servers_say_is_not_answered(told: bytes) -> None:
    assert answers.refusal(told, 40_000) is Count.FORM


@pytest.mark.parametrize("port", [0, 7, 13, 19, 37, 53, 123, 1023, 1900, 2049, 3333, 5353, 11211])
def test_what_comes_from_a_servers_port_is_not_answered(port: int) -> None:
    for refusal in (clock.refusal, daytime.refusal, time_protocol.refusal):
        assert refusal(b"time?", port) is Count.PORT
        assert refusal(b"", port) is Count.PORT


@pytest.mark.parametrize("port", [1024, 3332, 3334, 32768, 49152, 65535])
def test_clients_ports(port: int) -> None:
    assert answers.refusal(b"", port) is None
