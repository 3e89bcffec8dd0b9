"""NTP: the packet, byte for byte, the eras, what is refused, and what a client makes of answers."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime

import pytest
from uloop_servers.counters import Count
from uloop_servers.protocols.ntp import (
    KISS_CODES,
    KissError,
    OriginError,
    Question,
    Reply,
    answer,
    offset_and_delay,
    precision,
    read_answer,
    refusal,
    request,
)
from uloop_servers.timesource import SECOND, UNSYNCHRONISED, Quality, TimeSource

NOW = 1_592_235_273 * SECOND + 899_256_123
GOOD = Quality(0, 2, bytes((192, 0, 2, 1)), NOW - 5 * SECOND, 0.03125, 0.25)
CLIENT_PORT = 40_000
COARSE = 2.0 ** precision()  # seconds: what is finer in a time is random


def ns(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * SECOND  # type: ignore[misc,arg-type]


class Server(TimeSource):
    """A clock that stands still, or goes on with each look."""

    def __init__(self, now: int = NOW, quality: Quality = GOOD, step: int = 0) -> None:
        super().__init__()
        self.shown = now
        self.told = quality
        self.step = step

    def now(self) -> int:
        self.shown += self.step
        return self.shown

    def quality(self, now: int) -> Quality:
        return self.told


def asked(first: int = 0x23, *, poll: int = 6, stamp: bytes = b"ABCDEFGH", tail: bytes = b"") -> bytes:
    return bytes((first, 99, poll)) + b"\xaa" * 37 + stamp + tail


def answered(data: bytes, arrival: int = NOW, source: TimeSource | None = None) -> bytes:
    reply = answer(data, arrival, Server() if source is None else source)
    assert len(reply) == 48 <= len(data)
    return reply


def stamps(reply: bytes) -> tuple[int, int, int]:
    """Reference, receive and transmit time, in 2**-32 seconds since 1900, without the era."""
    reference, _, received, transmitted = struct.unpack_from("!QQQQ", reply, 16)
    return reference, received, transmitted


def expected(moment: int) -> int:
    return ((moment << 32) // SECOND + (2_208_988_800 << 32)) % 2**64


# What the server says


def test_an_answer_byte_for_byte() -> None:
    reply = answered(asked(0x23), NOW - 1_000_000)
    assert reply[0] == 0x24  # leap 0, version 4, mode 4
    assert reply[1] == 2
    assert reply[2] == 6  # the client's poll
    assert struct.unpack_from("b", reply, 3) == (precision(),)
    assert reply[4:8] == bytes.fromhex("00000800")  # 1/32 s
    assert reply[8:12] == bytes.fromhex("00004000")  # 1/4 s
    assert reply[12:16] == bytes((192, 0, 2, 1))
    assert reply[24:32] == b"ABCDEFGH"
    reference, received, transmitted = stamps(reply)
    assert reference == expected(NOW - 5 * SECOND)
    assert abs(received - expected(NOW - 1_000_000)) < COARSE * 2**32
    assert abs(transmitted - expected(NOW)) < COARSE * 2**32


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("leap", [0, 1, 2, 3])
def test_the_version_is_the_clients_and_the_leap_is_not(version: int, leap: int) -> None:
    reply = answered(asked(leap << 6 | version << 3 | 3))
    assert reply[0] == version << 3 | 4


def test_a_client_of_version_1_that_knows_no_modes_has_an_answer_with_one() -> None:
    data = asked(1 << 3)
    assert refusal(data, CLIENT_PORT) is None
    assert answered(data)[0] == 1 << 3 | 4


@pytest.mark.parametrize("leap", [0, 1, 2])
def test_leap_seconds_are_told(leap: int) -> None:
    quality = Quality(leap, 1, b"LOCL", NOW, 0.0, 0.0)
    assert answered(asked(), source=Server(quality=quality))[0] >> 6 == leap


@pytest.mark.parametrize("poll", [0, 6, 17, 127, 128, 250, 255])
def test_any_poll_is_copied(poll: int) -> None:
    assert answered(asked(poll=poll))[2] == poll


@pytest.mark.parametrize("stamp", [bytes(8), b"\xff" * 8, b"nonsense"])
def test_the_origin_is_copied_bit_for_bit(stamp: bytes) -> None:
    assert answered(asked(stamp=stamp))[24:32] == stamp


@pytest.mark.parametrize("quality", [UNSYNCHRONISED, Quality(3, 2, b"INIT", NOW, 0.0, 0.0)])
def test_who_is_not_synchronised_says_so_and_tells_the_time(quality: Quality) -> None:
    reply = answered(asked(), source=Server(quality=quality))
    assert reply[0] >> 6 == 3
    assert reply[1] == 0
    assert reply[12:16] == b"INIT"
    reference, received, transmitted = stamps(reply)
    assert reference == 0
    assert abs(received - expected(NOW)) < COARSE * 2**32
    assert abs(transmitted - expected(NOW)) < COARSE * 2**32


@pytest.mark.parametrize("tail", [b"", bytes(4), b"\x01\x04\x00\x10" + bytes(12), bytes(20), b"\xff" * 1000])
def test_a_tail_is_never_echoed(tail: bytes) -> None:
    assert refusal(asked(tail=tail), CLIENT_PORT) is None
    assert len(answered(asked(tail=tail))) == 48


@pytest.mark.parametrize("length", [0, 1, 47])
def test_what_is_no_packet_has_no_answer(length: int) -> None:
    with pytest.raises(ValueError, match=f"48 bytes or more, not {length}"):
        answer(b"\x23" * length, NOW, Server())


def test_the_largest_dispersion_is_cut_off() -> None:
    reply = answered(asked(), source=Server(quality=Quality(0, 1, b"LOCL", NOW, 1e6, 1e6)))
    assert reply[4:12] == b"\xff" * 8


def test_the_dispersion_is_rounded_up() -> None:
    reply = answered(asked(), source=Server(quality=Quality(0, 1, b"LOCL", NOW, 0.0, 1e-6)))
    assert reply[8:12] == bytes((0, 0, 0, 1))


def test_times_are_in_order_even_if_the_clock_was_set_back() -> None:
    quality = Quality(0, 1, b"LOCL", NOW + SECOND, 0.0, 0.0)
    for arrival in (NOW, NOW + 1, NOW + 3600 * SECOND):
        for _ in range(50):  # their last bits are random
            reference, received, transmitted = stamps(answered(asked(), arrival, Server(quality=quality)))
            assert reference <= transmitted
            assert received <= transmitted


def test_the_transmit_time_is_read_last() -> None:
    source = Server(step=SECOND)
    _, _, transmitted = stamps(answered(asked(), NOW, source))
    assert abs(transmitted - expected(source.shown)) < COARSE * 2**32


def test_what_the_clock_cannot_tell_is_random_and_no_more() -> None:
    bits = 32 + precision()
    received, transmitted = zip(*(stamps(answered(asked()))[1:] for _ in range(300)), strict=True)
    for times in (received, transmitted):
        low = [moment % 2**bits for moment in times]
        for bit in range(bits):
            assert {value >> bit & 1 for value in low} == {0, 1}
        assert {moment >> bits for moment in times} == {expected(NOW) >> bits}


def test_the_precision_is_that_of_a_real_clock() -> None:
    assert -32 <= precision() <= -6  # Windows' is read in steps of 1/64 s at worst
    assert 2.0 ** precision() >= time.get_clock_info("time").resolution


# 2036 and 2038

ERA_1 = ns(2036, 2, 7, 6, 28, 16)
MOMENTS = [
    0,
    NOW,
    ERA_1 - SECOND,
    ERA_1 - 1,
    ERA_1,
    ERA_1 + 1,
    ERA_1 + SECOND,
    ns(2038, 1, 19, 3, 14, 7),
    ns(2038, 1, 19, 3, 14, 8),
    ns(2100, 1, 1),
    ns(2104, 2, 26, 9, 42, 24),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_any_time_is_told_and_read(moment: int) -> None:
    question = request(moment + 30 * 365 * 86400 * SECOND)  # a client whose clock is wrong by 30 years
    quality = Quality(0, 1, b"LOCL", moment - 64 * SECOND, 0.0, 0.0)
    reply = read_answer(answered(question.data, moment, Server(moment, quality)), question)
    assert abs(reply.received - moment) <= COARSE * SECOND
    assert abs(reply.transmitted - moment) <= COARSE * SECOND
    assert reply.reference_time == moment - 64 * SECOND


def test_the_first_moment_of_an_era_is_not_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.getrandbits", lambda bits: 0)
    _, received, transmitted = stamps(answered(asked(), ERA_1, Server(ERA_1)))
    assert (received, transmitted) == (1, 1)


# What is not answered


@pytest.mark.parametrize(
    "first", [leap << 6 | version << 3 | 3 for leap in range(4) for version in range(1, 5)]
)
@pytest.mark.parametrize("port", [123, 1, 1023, CLIENT_PORT, 65535])
def test_every_client_is_answered(first: int, port: int) -> None:
    assert refusal(asked(first), port) is None


@pytest.mark.parametrize("length", [0, 1, 4, 12, 44, 47, 49, 50, 51, 66])
def test_lengths(length: int) -> None:
    assert refusal(b"\x23" * length, CLIENT_PORT) is Count.LENGTH


@pytest.mark.parametrize("version", [0, 5, 6, 7])
def test_versions(version: int) -> None:
    for mode in range(8):
        assert refusal(asked(version << 3 | mode), CLIENT_PORT) is Count.VERSION


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", [0, 1, 2, 4, 5, 6, 7])
def test_modes(version: int, mode: int) -> None:
    if (version, mode) != (1, 0):
        assert refusal(asked(version << 3 | mode), CLIENT_PORT) is Count.MODE


def test_version_1_without_a_mode_is_a_server_on_the_servers_port() -> None:
    assert refusal(asked(1 << 3), 123) is Count.MODE
    assert refusal(asked(1 << 3), 124) is None


def test_nobody_can_be_answered_on_port_0() -> None:
    assert refusal(asked(), 0) is Count.PORT


# What a client makes of answers


def packet(question: Question, **fields: int | bytes) -> bytes:
    """An answer, with some fields that are not as they should be."""
    values: dict[str, int | bytes] = {
        "first": 0x24,
        "stratum": 2,
        "poll": 6,
        "precision": -20,
        "delay": 1 << 15,
        "dispersion": 1 << 14,
        "reference_id": b"GPS\0",
        "reference": expected(NOW - SECOND),
        "origin": question.stamp,
        "received": expected(NOW),
        "transmitted": expected(NOW + 1000),
    }
    return struct.pack("!BBbbII4sQ8sQQ", *(values | fields).values())


def test_a_question_is_one_that_we_answer() -> None:
    for version in (1, 2, 3, 4):
        question = request(NOW, version)
        assert len(question.data) == 48
        assert refusal(question.data, CLIENT_PORT) is None
        assert question.data[0] == version << 3 | 3
        assert question.data[40:] == question.stamp
        assert read_answer(answered(question.data), question).version == version


def test_questions_tell_nothing_and_differ() -> None:
    questions = [request(NOW) for _ in range(100)]
    assert len({question.stamp for question in questions}) == 100
    assert {question.data[1:40] for question in questions} == {bytes(39)}


@pytest.mark.parametrize("version", [-1, 0, 5])
def test_a_version_that_there_is_not(version: int) -> None:
    with pytest.raises(ValueError, match=f"the version of NTP must be 1 to 4, not {version}"):
        request(NOW, version)


def test_a_reply() -> None:
    question = request(NOW)
    assert read_answer(packet(question), question) == Reply(
        leap=0,
        version=4,
        stratum=2,
        poll=6,
        precision=-20,
        root_delay=0.5,
        root_dispersion=0.25,
        reference_id=b"GPS\0",
        reference_time=NOW - SECOND,
        received=NOW,
        transmitted=NOW + 1000,
    )


def test_fields_below_0_and_unknown() -> None:
    question = request(NOW)
    reply = read_answer(packet(question, poll=-3, reference=0), question)
    assert reply.poll == -3
    assert reply.reference_time is None


@pytest.mark.parametrize(
    ("fields", "synchronised"),
    [
        ({}, True),
        ({"first": 0x64}, True),
        ({"first": 0xE4}, False),
        ({"stratum": 15}, True),
        ({"stratum": 16}, False),
        ({"stratum": 255}, False),
        ({"stratum": 0, "reference_id": bytes(4)}, False),
    ],
)
def test_who_is_synchronised(fields: dict[str, int | bytes], synchronised: bool) -> None:
    question = request(NOW)
    assert read_answer(packet(question, **fields), question).synchronised is synchronised


def test_more_than_an_answer_is_read_without_the_rest() -> None:
    question = request(NOW)
    assert read_answer(packet(question) + bytes(20), question).stratum == 2


@pytest.mark.parametrize("length", [0, 4, 26, 47])
def test_a_short_answer(length: int) -> None:
    question = request(NOW)
    with pytest.raises(ValueError, match=f"it has {length} bytes, not 48"):
        read_answer(packet(question)[:length], question)


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 5, 6, 7])
def test_an_answer_of_no_server(mode: int) -> None:
    question = request(NOW)
    with pytest.raises(ValueError, match=f"its mode is {mode}, not 4"):
        read_answer(packet(question, first=0x20 | mode), question)


@pytest.mark.parametrize("origin", [bytes(8), b"guessed!"])
def test_the_answer_to_another_question(origin: bytes) -> None:
    question = request(NOW)
    with pytest.raises(OriginError, match="late or forged"):
        read_answer(packet(question, origin=origin), question)


@pytest.mark.parametrize("field", ["received", "transmitted"])
def test_an_answer_without_the_time(field: str) -> None:
    question = request(NOW)
    with pytest.raises(ValueError, match="does not tell the time"):
        read_answer(packet(question, **{field: 0}), question)


@pytest.mark.parametrize("code", [*KISS_CODES, "XFOO"])
def test_kiss_codes(code: str) -> None:
    question = request(NOW)
    data = packet(question, first=0xE4, stratum=0, reference_id=code.encode(), received=0, transmitted=0)
    with pytest.raises(KissError, match=f"^the server says {code}: .") as kiss:
        read_answer(data, question)
    assert kiss.value.code == code
    assert kiss.value.meaning == KISS_CODES.get(code, "for a reason that only it knows")
    assert kiss.value.reply.leap == 3
    assert not kiss.value.reply.synchronised


def test_a_kiss_needs_the_right_origin_too() -> None:
    question = request(NOW)
    with pytest.raises(OriginError):
        read_answer(packet(question, stratum=0, reference_id=b"DENY", origin=bytes(8)), question)


def test_our_own_server_that_is_not_synchronised_is_understood() -> None:
    question = request(NOW)
    with pytest.raises(KissError, match="INIT: it is not synchronised yet") as kiss:
        read_answer(answered(question.data, source=Server(quality=UNSYNCHRONISED)), question)
    assert abs(kiss.value.reply.transmitted - NOW) <= COARSE * SECOND


@pytest.mark.parametrize(
    ("times", "offset", "delay"),
    [
        ((0, 0, 0, 0), 0.0, 0.0),
        ((1000, 2000, 2000, 1000), 1e-6, 0.0),
        # the server is 3 s ahead, the way takes 0.1 s each, the server 0.5 s
        ((0, 3_100_000_000, 3_600_000_000, 700_000_000), 3.0, 0.2),
        # all on the way back
        ((NOW, NOW, NOW, NOW + SECOND), -0.5, 1.0),
    ],
)
def test_offset_and_delay(times: tuple[int, int, int, int], offset: float, delay: float) -> None:
    assert offset_and_delay(*times) == pytest.approx((offset, delay))
