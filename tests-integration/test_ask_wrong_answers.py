"""What ``uloop-servers ask`` makes of answers that are wrong, late, forged or strange."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from uloop_servers.ask import (
    QUESTIONS,
    Exchange,
    NoAnswerError,
    NotSynchronisedError,
    NtpReading,
    Reading,
    ask,
)
from uloop_servers.endpoint import SCHEMES, Endpoint

PATIENCE = 30  # seconds; a test that runs into it has failed
SINCE_1900 = 2_208_988_800
PACKET = struct.Struct("!BBbbII4s8s8s8s8s")

Answers = Callable[[bytes], Sequence[bytes]]  # from a datagram
Conversation = Callable[[socket.socket], object]  # with a client that has connected


def run(endpoint: object, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uloop_servers", "ask", str(endpoint), *options]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def now(ahead: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=ahead)


def stamp(moment: datetime) -> bytes:
    """A time as NTP has it."""
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return struct.pack("!Q", ((microseconds << 32) // 10**6 + (SINCE_1900 << 32)) % 2**64)


def packet(
    question: bytes,
    *,
    leap: int = 0,
    version: int = 4,
    mode: int = 4,
    stratum: int = 2,
    root_delay: float = 0.0,
    root_dispersion: float = 0.0,
    reference: bytes = b"\x0a\0\0\x07",
    origin: bytes | None = None,
    told: datetime | None = None,
    receive: bytes | None = None,
    transmit: bytes | None = None,
) -> bytes:
    """An answer of NTP, in which all is well but for what is said otherwise."""
    moment = stamp(told or now())
    return PACKET.pack(
        leap << 6 | version << 3 | mode,
        stratum,
        6,
        -20,
        int(root_delay * 2**16),
        int(root_dispersion * 2**16),
        reference,
        moment,
        question[40:48] if origin is None else origin,
        moment if receive is None else receive,
        moment if transmit is None else transmit,
    )


@pytest.fixture
def serve_datagrams() -> Iterator[Callable[..., Endpoint]]:
    """Answers some questions as a test wants it."""
    with ExitStack() as cleanup:

        def start(scheme: str, answers: Answers, questions: int = 1) -> Endpoint:
            sock = cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.settimeout(PATIENCE)
            sock.bind(("127.0.0.1", 0))

            def serve() -> None:
                for _ in range(questions):
                    question, client = sock.recvfrom(1000)
                    for answer in answers(question):
                        sock.sendto(answer, client)

            thread = Thread(target=serve)
            thread.start()
            cleanup.callback(thread.join)
            return Endpoint(scheme, "127.0.0.1", sock.getsockname()[1])

        yield start


@pytest.fixture
def serve_connection() -> Iterator[Callable[[str, Conversation], Endpoint]]:
    """Talks with one client as a test wants it."""
    with ExitStack() as cleanup:

        def start(scheme: str, talk: Conversation) -> Endpoint:
            listener = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(PATIENCE)

            def serve() -> None:
                client, _ = listener.accept()
                with client:
                    client.settimeout(PATIENCE)
                    talk(client)

            thread = Thread(target=serve)
            thread.start()
            cleanup.callback(thread.join)
            return Endpoint(scheme, "127.0.0.1", listener.getsockname()[1])

        yield start


ServeDatagrams = Callable[..., Endpoint]
ServeConnection = Callable[[str, Conversation], Endpoint]

#: what is no answer, and what is said of it
WRONG_DATAGRAMS: dict[str, tuple[str, Answers, str]] = {
    "no time": ("udp", lambda q: [b"no idea"], "b'no idea' is not a time like"),
    "empty": ("udp", lambda q: [b""], "b'' is not a time like"),
    "echo": ("udp", lambda q: [q], "it sends our question back, b'time?'"),
    "long": ("udp", lambda q: [b"x" * 1000], "has more than 256 bytes"),
    "no such day": ("udp", lambda q: [b"2026-02-30 00:00:00.000000"], "is not a time like"),
    "control": ("udp", lambda q: [b"2026-1-11\n\n0:46:44.753805"], r"b'2026-1-11\n\n0:46:44.753805'"),
    "daytime, no time": ("daytime+udp", lambda q: [b"half past nine\r\n"], "b'half past nine\\r\\n' is not"),
    "daytime, control": ("daytime+udp", lambda q: [b"\x1b[2J15 JUN 2020 15:34:33 UTC\r\n"], r"b'\x1b[2J15"),
    "nist, control": (
        "daytime+udp",
        lambda q: [b"59015 20-06-15 15:34:33 50 0 0 422.5 UTC(NIST) \x1b\r\n"],
        r"UTC(NIST) \x1b",
    ),
    "daytime, echo": ("daytime+udp", lambda q: [q], "it sends our question back"),
    "time, 8 bytes": ("time+udp", lambda q: [bytes(8)], "it has 8 bytes, not 4"),
    "time, echo": ("time+udp", lambda q: [q], "it sends our question back, b''"),
    "ntp, short": ("ntp", lambda q: [packet(q)[:47]], "it has 47 bytes, not 48"),
    "ntp, echo": (
        "ntp",
        lambda q: [q],
        "it sends our question back, b",
    ),  # the quotes depend on its random bytes
    "ntp, version 3": ("ntp", lambda q: [packet(q, version=3)], "in version 3 of NTP, not in 4"),
    "ntp, backwards": (
        "ntp",
        lambda q: [packet(q, receive=stamp(now(1)))],
        "older than its receipt of our question",
    ),
    "ntp, question": ("ntp", lambda q: [packet(q, mode=3)], "its mode is 3, not 4"),
    "ntp, time 0": ("ntp", lambda q: [packet(q, transmit=bytes(8))], "transmit time is 0"),
}


@pytest.mark.parametrize("what", WRONG_DATAGRAMS)
def test_a_datagram_that_is_no_answer(serve_datagrams: ServeDatagrams, what: str) -> None:
    scheme, answers, complaint = WRONG_DATAGRAMS[what]
    endpoint = serve_datagrams(scheme, answers)
    result = run(endpoint)
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"uloop-servers: {endpoint} does not tell the time: ")
    assert complaint in line
    assert line.isprintable()
    assert len(line) < 250


WRONG_STREAMS: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("tcp", b"", "it ends the connection without an answer"),
    "half": ("tcp", b"2026-11-2", "b'2026-11-2' is not a time like"),
    "more than one": ("tcp", b"2026-11-23 12:46:44.753805" * 2, "is not a time like"),
    "echo": ("tcp", b"time?", "it sends our question back"),
    "no end": ("tcp", b"x" * 1000, "has more than 256 bytes"),
    "daytime, nothing": ("daytime+tcp", b"", "it ends the connection without an answer"),
    "daytime, two": ("daytime+tcp", b"15 JUN 2020 15:34:33 UTC\r\n" * 2, "is not a line with a date"),
    "daytime, no end": ("daytime+tcp", b" " * 1000, "has more than 256 bytes"),
    "time, nothing": ("time+tcp", b"", "it ends the connection without an answer"),
    "time, 3 bytes": ("time+tcp", b"abc", "it has 3 bytes, not 4"),
    "time, 8 bytes": ("time+tcp", bytes(8), "it has 8 bytes, not 4"),
}


@pytest.mark.parametrize("what", WRONG_STREAMS)
def test_a_stream_that_is_no_answer(serve_connection: ServeConnection, what: str) -> None:
    scheme, answer, complaint = WRONG_STREAMS[what]

    def talk(client: socket.socket) -> None:
        if scheme == "tcp":
            client.recv(100)
        client.sendall(answer)

    with pytest.raises(NoAnswerError, match="does not tell the time: ") as caught:
        list(ask(serve_connection(scheme, talk)))
    assert complaint in str(caught.value)


def test_a_time_that_is_longer_than_it_seems(serve_connection: ServeConnection) -> None:
    """The rest comes after a while."""

    def talk(client: socket.socket) -> None:
        client.sendall(bytes(4))
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.sendall(bytes(4))

    with pytest.raises(NoAnswerError, match="it has 8 bytes, not 4"):
        list(ask(serve_connection("time+tcp", talk)))


def test_a_time_after_which_the_connection_stays_open(
    serve_connection: ServeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look whether more comes does not count as time on the way."""
    monkeypatch.setattr("uloop_servers.ask.END_PATIENCE", 0.5)

    def talk(client: socket.socket) -> None:
        client.sendall(bytes(4))
        client.recv(1)

    [reading] = ask(serve_connection("time+tcp", talk))
    assert reading.time == "2036-02-07T06:28:16Z"
    assert reading.round_trip < 0.5


def test_bytes_that_trickle_in(serve_connection: ServeConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not make the time for an answer longer."""
    monkeypatch.setattr("uloop_servers.ask.PATIENCE", 1.5)

    def talk(client: socket.socket) -> None:
        client.settimeout(0.1)  # a byte in this time
        try:
            while True:
                client.sendall(b" ")
                try:
                    if not client.recv(100):
                        return
                except TimeoutError:
                    pass
        except OSError:
            pass  # it has lost its patience

    with pytest.raises(NoAnswerError, match=r"it sends no more than b' +' in 1.5 seconds"):
        list(ask(serve_connection("daytime+tcp", talk)))


@pytest.mark.parametrize(
    "scheme", ["tcp", "daytime+tcp", "time+tcp", "udp", "daytime+udp", "time+udp", "ntp"]
)
def test_silence(
    serve_connection: ServeConnection,
    serve_datagrams: ServeDatagrams,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    monkeypatch.setattr("uloop_servers.ask.PATIENCE", 0.2)
    if scheme.endswith("tcp"):
        endpoint = serve_connection(scheme, lambda client: client.recv(100) and client.recv(100))
    else:
        endpoint = serve_datagrams(scheme, lambda question: [])
    with pytest.raises(NoAnswerError, match=r"did not answer within 0.2 seconds"):
        list(ask(endpoint))


def test_late_and_forged_answers_of_ntp_are_passed_over(serve_datagrams: ServeDatagrams) -> None:
    """It is said once, however many they are, and the right one is waited for."""
    hour = timedelta(hours=1)

    def answers(question: bytes) -> list[bytes]:
        forged = [packet(question, origin=bytes([number] * 8), told=now() + hour) for number in range(50)]
        return [*forged, packet(question)]

    endpoint = serve_datagrams("ntp", answers, questions=2)
    result = run(endpoint, "--json", "--count", "2")
    assert result.returncode == 0, result.stderr
    readings = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(readings) == 2
    for reading in readings:
        assert abs(reading["offset"]) <= reading["error"] + 1e-5
    notices = result.stderr.splitlines()
    assert len(notices) == 2
    for notice in notices:
        assert notice.startswith(f"uloop-servers: {endpoint}: ")
        assert "late or forged" in notice


@pytest.mark.parametrize("junk", [b"", b"x", bytes(47), bytes(48), bytes(1000)], ids=len)
def test_junk_before_the_answer_is_passed_over(serve_datagrams: ServeDatagrams, junk: bytes) -> None:
    endpoint = serve_datagrams("ntp", lambda question: [junk, junk, packet(question)])
    notices: list[str] = []
    [reading] = ask(endpoint, notice=notices.append)
    assert isinstance(reading, NtpReading)
    assert reading.synchronised
    [notice] = notices
    assert notice.startswith(f"{endpoint}: passed over an answer: it is no answer of ")


def test_a_server_whose_clock_is_coarse(serve_datagrams: ServeDatagrams) -> None:
    """It may fill what it does not know with random bits, so that the answer seems to leave a bit early."""
    later = stamp(now())

    def answer(question: bytes) -> list[bytes]:
        early = (int.from_bytes(later) - 1000).to_bytes(8)  # 1000 of 4096 in 2**-20 s
        return [packet(question, receive=later, transmit=early)]

    [reading] = ask(serve_datagrams("ntp", answer))
    assert reading.offset is not None


def test_nothing_but_forged_answers(serve_datagrams: ServeDatagrams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uloop_servers.ask.PATIENCE", 1)
    endpoint = serve_datagrams("ntp", lambda question: [packet(question, origin=bytes(8))])
    notices: list[str] = []
    with pytest.raises(NoAnswerError, match=r"did not answer within 1 seconds"):
        list(ask(endpoint, notice=notices.append))
    assert len(notices) == 1


def test_a_late_answer_is_not_taken_for_the_next_one(serve_datagrams: ServeDatagrams) -> None:
    """Texts do not say what they answer; but each question leaves from a port of its own."""
    texts = iter(
        [[b"2026-01-01 00:00:00.000000", b"2026-01-01 00:00:00.000001"], [b"2026-01-02 00:00:00.000000"]]
    )
    endpoint = serve_datagrams("udp", lambda question: next(texts), questions=2)
    told = [reading.time for reading in ask(endpoint, 2)]
    assert told == ["2026-01-01 00:00:00.000000", "2026-01-02 00:00:00.000000"]


def test_a_stranger_s_answer_does_not_arrive() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        asked.settimeout(PATIENCE)
        asked.bind(("127.0.0.1", 0))

        def serve() -> None:
            _, client = asked.recvfrom(100)
            stranger.sendto(b"2000-01-01 00:00:00.000000", client)
            asked.sendto(b"2026-01-01 00:00:00.000000", client)

        thread = Thread(target=serve)
        thread.start()
        [reading] = ask(Endpoint("udp", "127.0.0.1", asked.getsockname()[1]))
        thread.join()
    assert reading.time == "2026-01-01 00:00:00.000000"


#: a kiss code, and what is said of it
KISS_CODES = {
    b"RATE": "RATE: we have asked too often",
    b"DENY": "DENY: it denies us access",
    b"RSTR": "RSTR: its policy denies us access",
    b"XYZ1": "XYZ1: ",
}


@pytest.mark.parametrize("code", KISS_CODES, ids=bytes.decode)
def test_kiss_codes(serve_datagrams: ServeDatagrams, code: bytes) -> None:
    """The times that come with them are anything, as a rule our own stamp."""
    endpoint = serve_datagrams(
        "ntp", lambda q: [packet(q, leap=3, stratum=0, reference=code, transmit=q[40:48])]
    )
    result = run(endpoint)
    assert result.returncode == 1  # its clock may be as good as any
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert f"{endpoint} does not tell the time: the server says {KISS_CODES[code]}" in line


@pytest.mark.parametrize(
    ("leap", "stratum", "reference", "said"),
    [
        (3, 0, b"INIT", "not synchronised (INIT: it is not synchronised yet)"),
        (3, 0, b"STEP", "not synchronised (STEP: its clock was set, and is not synchronised again yet)"),
        (3, 2, b"\x0a\0\0\x07", "not synchronised (10.0.0.7: stratum 2, leap 3)"),
        (0, 16, b"\x0a\0\0\x07", "not synchronised (10.0.0.7: stratum 16, leap 0)"),
        (0, 0, bytes(4), "not synchronised (0.0.0.0: stratum 0, leap 0)"),
    ],
)
def test_a_clock_that_is_not_synchronised(
    serve_datagrams: ServeDatagrams, leap: int, stratum: int, reference: bytes, said: str
) -> None:
    """The time is shown all the same, and is not to be relied on."""
    endpoint = serve_datagrams(
        "ntp", lambda q: [packet(q, leap=leap, stratum=stratum, reference=reference)], questions=2
    )
    result = run(endpoint, "--count", "2")
    assert result.returncode == 3, result
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.endswith(f" ms, {said}") for line in lines), lines


def test_a_kiss_code_without_a_time(serve_datagrams: ServeDatagrams) -> None:
    endpoint = serve_datagrams(
        "ntp", lambda q: [packet(q, leap=3, stratum=0, reference=b"INIT", transmit=bytes(8))]
    )
    result = run(endpoint)
    assert result.returncode == 3
    assert result.stdout == ""
    assert "INIT: it is not synchronised yet" in result.stderr


def read_one(endpoint: Endpoint) -> Reading:
    [reading] = ask(endpoint)
    return reading


@pytest.mark.parametrize("ahead", [0.0, 3600.0, -86400.0, 0.25])
def test_the_offset_of_ntp(serve_datagrams: ServeDatagrams, ahead: float) -> None:
    endpoint = serve_datagrams("ntp", lambda q: [packet(q, told=now(ahead))])
    reading = read_one(endpoint)
    assert reading.offset is not None
    assert reading.error is not None
    assert abs(reading.offset - ahead) <= reading.error + 1e-5


def test_the_error_of_ntp_holds_that_of_the_server(serve_datagrams: ServeDatagrams) -> None:
    """Half of its root delay, and its root dispersion, RFC 5905, appendix A.5.5.2."""
    endpoint = serve_datagrams("ntp", lambda q: [packet(q, root_delay=2.0, root_dispersion=0.5)])
    reading = read_one(endpoint)
    assert isinstance(reading, NtpReading)
    assert (reading.root_delay, reading.root_dispersion) == (2.0, 0.5)
    assert reading.error is not None
    assert 1.5 < reading.error <= 1.5 + reading.round_trip / 2 + 0.02  # Windows' clocks are coarse


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("ahead", [0, 3600, -7200])
@pytest.mark.parametrize("scheme", ["daytime+udp", "time+udp"])
def test_the_offset_of_whole_seconds(
    serve_datagrams: ServeDatagrams, scheme: str, ahead: int, fraction: float
) -> None:
    """The second that is told has begun up to a second ago."""
    offsets = []

    def answers(question: bytes) -> list[bytes]:
        moment = now()
        clock = moment.replace(microsecond=int(fraction * 1e6)) + timedelta(seconds=ahead)
        offsets.append((clock - moment).total_seconds())
        if scheme == "daytime+udp":
            return [f"{clock:%Y-%m-%dT%H:%M:%SZ}\r\n".encode()]
        return [struct.pack("!I", int(clock.timestamp()) + SINCE_1900)]

    reading = read_one(serve_datagrams(scheme, answers))
    assert reading.offset is not None
    assert reading.error is not None
    assert abs(reading.offset - offsets[0]) <= reading.error + 1e-5
    assert reading.error >= 0.5


def test_a_slow_answer(serve_connection: ServeConnection) -> None:
    """The server may have read its clock at any moment since the question: half of that, either way."""

    def talk(client: socket.socket) -> None:
        client.recv(100)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.sendall(datetime.now().isoformat(" ", "microseconds")[:26].encode())

    reading = read_one(serve_connection("tcp", talk))
    assert reading.offset is not None
    assert reading.error is not None
    assert reading.round_trip >= 0.19
    assert (
        reading.round_trip / 2 <= reading.error <= reading.round_trip / 2 + 0.02
    )  # Windows' clocks are coarse
    assert 0 < reading.offset <= reading.error + 1e-5


@pytest.mark.parametrize(
    ("line", "offset_is_known"),
    [
        (b"15 JUN 2020 15:34:33 UTC\r\n", True),
        (b"15 JUN 2020 15:34:33 CST\r\n", False),  # of China, of America, or of Cuba
        (b"Mon Jun 15 15:34:33 2020\r\n", False),
        (b"\n59015 20-06-15 15:34:33 50 0 0 422.5 UTC(NIST) * \n", True),
        (b"2020-06-15T15:34:33+00:00\r\n", True),
        (b"2020-06-15T18:34:33+03:00\r\n", True),
    ],
)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_lines_of_daytime(
    serve_datagrams: ServeDatagrams,
    serve_connection: ServeConnection,
    transport: str,
    line: bytes,
    offset_is_known: bool,
) -> None:

    def talk(client: socket.socket) -> None:
        client.sendall(line[:1])
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
        client.sendall(line[1:])
        client.recv(1)  # it does not end the connection; but the line has ended

    if transport == "udp":
        endpoint = serve_datagrams("daytime+udp", lambda question: [line])
    else:
        endpoint = serve_connection("daytime+tcp", talk)
    before = now()
    reading = read_one(endpoint)
    assert reading.time == line.decode().strip()
    if offset_is_known:
        assert reading.offset is not None
        assert reading.error is not None
        told = datetime(2020, 6, 15, 15, 34, 33, tzinfo=UTC)
        assert (told - now()).total_seconds() <= reading.offset + reading.error
        assert reading.offset - reading.error <= (told - before).total_seconds() + 1
    else:
        assert reading.offset is None
        assert reading.error is None
        assert str(reading).endswith(", offset unknown")
        assert json.loads(json.dumps(reading.as_dict()))["offset"] is None


@pytest.mark.parametrize("text", ["0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"])
def test_the_ends_of_time(serve_datagrams: ServeDatagrams, text: str) -> None:
    reading = read_one(serve_datagrams("udp", lambda question: [text.encode()]))
    assert reading.time == text
    assert reading.offset is not None
    assert abs(reading.offset) > 2000 * 365 * 86400


def test_the_next_era(serve_datagrams: ServeDatagrams) -> None:
    """0 is 1900, or 2036 since that is nearer to our own time."""
    reading = read_one(serve_datagrams("time+udp", lambda question: [bytes(4)]))
    assert reading.time == "2036-02-07T06:28:16Z"


def test_no_answer_does_harm() -> None:
    """Whatever comes is a reading of one printable line and of strict JSON, or refused in one such line."""
    hypothesis = pytest.importorskip("hypothesis")
    some = hypothesis.strategies
    texts = (
        some.text(max_size=60)
        | some.datetimes().map(lambda moment: moment.isoformat(" ", "microseconds"))
        | some.from_regex(r"\A\d{1,2} [A-Z]{3} \d{4} \d\d:\d\d:\d\d [A-Z]{3}\r\n\Z")
        | some.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\r\n\Z")
    )
    answers = some.binary(max_size=300) | some.binary(min_size=48, max_size=48) | texts.map(str.encode)

    def try_one(scheme: str, answer: bytes) -> None:
        question = QUESTIONS[SCHEMES[scheme].protocol](Endpoint(scheme, "host", 1), lambda sentence: None)
        if scheme == "ntp":  # as if it came from a server, and to this question
            answer = b"\x24" + answer[1:24] + question.data[40:48] + answer[32:]
        try:
            reading = question.read(Exchange(answer, time.time_ns(), 1000))
        except (ValueError, NotSynchronisedError) as error:
            line = str(error)
        else:
            line = str(reading)
            json.dumps(reading.as_dict(), allow_nan=False)
        assert line.isprintable()

    fuzz = hypothesis.given(some.sampled_from(sorted(SCHEMES)), answers)(try_one)
    hypothesis.settings(max_examples=500, deadline=None)(fuzz)()


def test_the_first_address_that_answers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name with several, the others have a moment each, and are not asked again."""
    monkeypatch.setattr("uloop_servers.ask.PATIENCE", 3.0)
    with ExitStack() as cleanup:
        first, second, third = (
            cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        )
        for sock in (first, second, third):
            sock.settimeout(PATIENCE)
            sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            for _ in range(2):
                _, client = second.recvfrom(100)
                second.sendto(b"2026-01-01 00:00:00.000000", client)

        addresses = [(socket.AF_INET, sock.getsockname()) for sock in (first, second, third)]
        monkeypatch.setattr(Endpoint, "addresses", lambda self: addresses)
        thread = Thread(target=serve)
        thread.start()
        readings = ask(Endpoint("udp", "several.example", 3333), 3)
        assert next(readings)
        assert next(readings)
        thread.join()
        with pytest.raises(NoAnswerError, match="did not answer"):
            next(readings)
        assert len(arrived(first)) == 1
        assert len(arrived(second)) == 1  # the last question
        assert arrived(third) == []


def arrived(sock: socket.socket) -> list[bytes]:
    """What has come that nobody has read."""
    sock.setblocking(False)
    datagrams = []
    while True:
        try:
            datagrams.append(sock.recv(1000))
        except BlockingIOError:
            return datagrams
