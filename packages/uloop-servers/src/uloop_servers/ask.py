"""Asking a time server: its time, how long the answer took, and how far the clocks are apart.

What can be known. The server has read its clock at some moment between our question and its answer. We
take it for the middle of that time, and are wrong by half the round trip at most. Daytime and Time tell
whole seconds, so the told one had begun up to a second ago: half a second is added, and half a second more
we can be wrong. NTP tells when the question came and when the answer left, so only the time on the
way counts; and how wrong the server itself can be, which is added. That is the ``error`` of a reading: the
clocks are apart by ``offset``, give or take ``error``.

Whose answer it is. On UDP each question leaves from a new socket, so from another port, and a late answer
to an earlier one cannot be taken for this one's; and the sockets are connected, so that the system lets in
nobody but the one who was asked. Who forges an answer has to guess the port, and for NTP 64 random bits that
come back in the answer. Whatever comes without them is passed over, and the right one waited for.

How long it takes. A question has 5 seconds in all, connecting included, however slowly its answer comes in.
Of a name with several addresses each but the last has one second, and the first that answers is kept.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from .endpoint import Endpoint
from .protocols import PROTOCOLS, clock, daytime, ntp, time_protocol
from .timesource import EPOCH, SECOND

__all__ = ["NoAnswerError", "NotSynchronisedError", "NtpReading", "Reading", "ask", "ask_and_print"]

PATIENCE = 5.0  # seconds for an answer, the connection included
ADDRESS_PATIENCE = 1.0  # seconds, for each address but the last of a name that has several
LARGEST_DATAGRAM = 64 * 1024  # bytes
LONGEST_ANSWER = 256  # bytes, more than any answer has
LONGEST_SHOWN = 60  # characters of an answer, in a complaint
END_PATIENCE = 1.0  # seconds for the end of a connection after all that should come
NTP_ORIGIN = slice(24, 32)  # of a packet: where the stamp of its question comes back
#: these say that the clock is not synchronised, and a server tells the time with them all the same; the
#: other codes say that we are not wanted
TELLING_CODES = ("INIT", "STEP")
OUR_RESOLUTION = time.get_clock_info("time").resolution  # seconds

ANSWERED, NOT_ANSWERED, NOT_SYNCHRONISED = 0, 1, 3  # exit codes; 2 is for arguments that make no sense

Notice = Callable[[str], object]


class NoAnswerError(Exception):
    """The server did not answer, or not with a time; says why in one sentence."""


class NotSynchronisedError(NoAnswerError):
    """The server answered that its clock is not synchronised, and told no time; says so in one sentence."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer.

    Parameters:
        endpoint: who was asked.
        time: what it told: a text as it was sent, seconds and NTP's times as RFC 3339 has them, in UTC.
        round_trip: seconds from the question to the answer; where the server speaks unasked
            (``daytime+tcp``, ``time+tcp``), from the beginning of the connection.
        offset: seconds that the server's clock is ahead of ours. ``None``: it cannot be known, because
            a line of Daytime does not say what its time zone is. The base protocol does not say so
            either; there it holds if both have the same.
        error: seconds by which ``offset`` can be wrong; ``None`` like it.
    """

    endpoint: str
    time: str
    round_trip: float
    offset: float | None
    error: float | None

    def __str__(self) -> str:
        apart = "offset unknown"
        if self.offset is not None and self.error is not None:
            apart = f"offset {self.offset * 1000:+.3f} ms ± {self.error * 1000:.3f} ms"
        return f"{self.time} from {self.endpoint}, round trip {self.round_trip * 1000:.3f} ms, {apart}"

    def as_dict(self) -> dict[str, object]:
        """The same for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NtpReading(Reading):
    """One answer of NTP, with what the server says of itself (RFC 5905, section 7.3).

    Parameters:
        stratum: 1 to 15, how many clocks away the reference clock is; 0: not synchronised.
        leap: the last minute of this month has 60 (0), 61 (1) or 59 (2) seconds; 3: not synchronised.
        reference: what it is synchronised to: a name (stratum 1), an IPv4 address, or 4 bytes that look
            like one; if it is not synchronised, a code that says why.
        root_delay: seconds, the round trip to the reference clock.
        root_dispersion: seconds, by which its clock can be wrong, but for the delay.
        synchronised: whether clocks may be set by it.
    """

    stratum: int
    leap: int
    reference: str
    root_delay: float
    root_dispersion: float
    synchronised: bool

    def __str__(self) -> str:
        quality = f"stratum {self.stratum}"
        if not self.synchronised:
            reason = ntp.KISS_CODES.get(self.reference, f"stratum {self.stratum}, leap {self.leap}")
            quality = f"not synchronised ({self.reference}: {reason})"
        return f"{Reading.__str__(self)}, {quality}"


def ask(endpoint: Endpoint, count: int = 1, *, notice: Notice = lambda sentence: None) -> Iterator[Reading]:
    """Ask a server; over TCP with the base protocol on one connection.

    Parameters:
        endpoint: whom to ask.
        count: how often; each time after the last answer has come.
        notice: is told in a sentence of an answer that was passed over, once for each question at most.

    Raises:
        NotSynchronisedError: the server tells no time, and by a kiss code of NTP that it has none.
        NoAnswerError: it cannot be reached, does not answer within 5 seconds, or answers something else.
    """
    try:
        with closing(_Peer(endpoint)) as peer:
            for _ in range(count):
                question = QUESTIONS[endpoint.protocol](endpoint, notice)
                yield question.read(peer.exchange(question))
    except TimeoutError:
        raise NoAnswerError(f"{endpoint} did not answer within {PATIENCE:g} seconds") from None
    except UnicodeError:
        raise NoAnswerError(f"{endpoint} cannot be asked: {endpoint.host!r} is no host name") from None
    except OSError as error:
        raise NoAnswerError(f"{endpoint} cannot be asked: {error.strerror or error}") from error
    except ValueError as error:
        raise NoAnswerError(f"{endpoint} does not tell the time: {error}") from error


def ask_and_print(endpoint: Endpoint, count: int = 1, as_json: bool = False) -> int:
    """Ask a server, and print each answer on a line of its own; what goes wrong, on standard error.

    Parameters:
        endpoint: whom to ask.
        count: how often.
        as_json: print the fields of a reading as a JSON object.

    Returns:
        The exit code: 0 if all were answered; 1 if one was not, or not with a time, or if it could
        not be printed; 3 if the server says that its clock is not synchronised.
    """
    exit_code = ANSWERED
    try:
        for reading in ask(endpoint, count, notice=_complain):
            if sys.stdout is None:
                return NOT_ANSWERED  # it was closed before we came
            try:
                print(
                    json.dumps(reading.as_dict(), allow_nan=False) if as_json else _printable(reading),
                    flush=True,
                )
            except OSError as error:
                return _output_failed(error)
            if isinstance(reading, NtpReading) and not reading.synchronised:
                exit_code = NOT_SYNCHRONISED
    except NoAnswerError as error:
        _complain(str(error))
        return NOT_SYNCHRONISED if isinstance(error, NotSynchronisedError) else NOT_ANSWERED
    return exit_code


def _printable(reading: Reading) -> str:
    """The line, in characters that standard output has."""
    line, encoding = str(reading), sys.stdout.encoding or "ascii"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return line.replace("±", "+/-").encode(encoding, "backslashreplace").decode(encoding)
    return line


def _output_failed(error: OSError) -> int:
    # Windows says EINVAL when whoever read our output has gone, and that is no news to anybody.
    if error.errno not in (errno.EPIPE, errno.EINVAL):
        _complain(f"cannot write the answer: {error.strerror}")
    # What could not be written would be tried once more, and complained of, when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOT_ANSWERED


def _complain(text: str) -> None:
    if sys.stderr is not None:  # or print would take standard output for it
        print(f"uloop-servers: {text}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question that was answered.

    Parameters:
        answer: what the server has sent.
        asked: when the question left, in ns since the epoch.
        round_trip: ns from then until the answer was there.
    """

    answer: bytes
    asked: int
    round_trip: int


class Question:
    """A question in the base protocol, and what there is to know of a protocol for asking.

    Attributes:
        data: what to send.
        ends: TCP: the server ends the connection right after the answer, so more of it can be seen.
    """

    data = b"time?"  # anything would do
    ends = False

    def __init__(self, endpoint: Endpoint, notice: Notice) -> None:
        self.endpoint = endpoint
        self.notice = notice

    def is_whole(self, answer: bytes) -> bool:
        """TCP: whether what has come so far is all of the answer."""
        return len(answer) >= clock.ANSWER_LENGTH

    def is_answered_by(self, datagram: bytes) -> bool:
        """UDP: whether this is the answer, be it a wrong one, and not that to another question."""
        return True

    def read(self, exchange: Exchange) -> Reading:
        """What the answer tells.

        Raises:
            ValueError: not the time; one sentence says what instead.
        """
        told = clock.read_answer(exchange.answer)
        return self._reading(exchange, _line(exchange.answer), told, 1e-6)

    def _reading(self, exchange: Exchange, text: str, told: datetime, resolution: float) -> Reading:
        """For a time that is told in steps of ``resolution`` seconds, local time if it is naive."""
        half = exchange.round_trip // 2
        seconds, rest = divmod(exchange.asked + half, SECOND)
        ours = EPOCH + timedelta(seconds=seconds)
        if told.tzinfo is None:
            ours = ours.astimezone().replace(tzinfo=None)
        offset = (told - ours).total_seconds() - rest / SECOND + resolution / 2
        error = half / SECOND + resolution / 2 + OUR_RESOLUTION
        return Reading(str(self.endpoint), text, exchange.round_trip / SECOND, offset, error)


class DaytimeQuestion(Question):
    """A question in Daytime (RFC 867)."""

    def is_whole(self, answer: bytes) -> bool:
        return answer.endswith(b"\n") and not answer.isspace()  # NIST's begins with an empty line

    def read(self, exchange: Exchange) -> Reading:
        told, resolution = daytime.read_answer(exchange.answer)
        text = _line(exchange.answer)
        if told.tzinfo is None:
            return Reading(str(self.endpoint), text, exchange.round_trip / SECOND, None, None)
        return self._reading(exchange, text, told, resolution)


class TimeQuestion(Question):
    """A question in Time (RFC 868)."""

    data = b""  # as RFC 868 wants it
    ends = True

    def is_whole(self, answer: bytes) -> bool:
        return len(answer) >= time_protocol.ANSWER_LENGTH

    def read(self, exchange: Exchange) -> Reading:
        told = _utc(time_protocol.read_answer(exchange.answer, exchange.asked))
        return self._reading(exchange, f"{told:%Y-%m-%dT%H:%M:%SZ}", told, 1.0)


class NtpQuestion(Question):
    """A question in NTP (RFC 5905), with a stamp of its own."""

    def __init__(self, endpoint: Endpoint, notice: Notice) -> None:
        super().__init__(endpoint, notice)
        self._question = ntp.request(time.time_ns())
        self._noticed = False
        self.data = self._question.data

    def is_answered_by(self, datagram: bytes) -> bool:
        if datagram[NTP_ORIGIN] == self._question.stamp or datagram == self.data:
            return True  # it may be wrong, but it is from who has seen the question; read will say how
        if not self._noticed:  # once is enough, in case somebody sends them by the thousand
            self._noticed = True
            try:
                ntp.read_answer(datagram, self._question)
            except ValueError as error:
                self.notice(f"{self.endpoint}: passed over an answer: {error}")
        return False

    def read(self, exchange: Exchange) -> Reading:
        try:
            reply = ntp.read_answer(exchange.answer, self._question)
        except ntp.KissError as error:
            if error.code not in TELLING_CODES:
                raise
            if not any(exchange.answer[ntp.TRANSMIT]):
                sentence = f"{self.endpoint} does not tell the time: {error}"
                raise NotSynchronisedError(sentence) from error
            reply = error.reply
        if reply.version != self._question.version:
            raise ValueError(f"it answers in version {reply.version} of NTP, not in {self._question.version}")
        # It may fill the bits that its clock does not tell with random ones.
        if (reply.received - reply.transmitted) / SECOND > 2.0**reply.precision:
            raise ValueError("its answer is older than its receipt of our question: transmit before receive")
        answered = exchange.asked + exchange.round_trip
        offset, delay = ntp.offset_and_delay(exchange.asked, reply.received, reply.transmitted, answered)
        return NtpReading(
            endpoint=str(self.endpoint),
            time=f"{_utc(reply.transmitted):%Y-%m-%dT%H:%M:%S.%fZ}",
            round_trip=exchange.round_trip / SECOND,
            offset=offset,
            # a delay below 0 is a clock that jumped in between, or is coarse
            error=abs(delay) / 2
            + OUR_RESOLUTION
            + 2.0**reply.precision
            + reply.root_delay / 2
            + reply.root_dispersion,
            stratum=reply.stratum,
            leap=reply.leap,
            reference=_reference(reply),
            root_delay=reply.root_delay,
            root_dispersion=reply.root_dispersion,
            synchronised=reply.synchronised,
        )


QUESTIONS: dict[str, type[Question]] = {
    "clock": Question,
    "daytime": DaytimeQuestion,
    "time": TimeQuestion,
    "ntp": NtpQuestion,
}


class _Peer:
    """Who is asked: the addresses of an endpoint, of which the first that answers is kept."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._addresses = endpoint.addresses()
        self._connection: socket.socket | None = None  # of the base protocol
        self._is_tcp = endpoint.transport == "tcp"
        self._speaks_unasked = self._is_tcp and PROTOCOLS[endpoint.protocol].once

    def exchange(self, question: Question) -> Exchange:
        """Ask, and wait for the answer.

        Raises:
            TimeoutError: it does not come.
            OSError: there is nobody.
            ValueError: what has come is no answer in any protocol; says why.
        """
        deadline = time.monotonic() + PATIENCE
        if self._connection is not None:
            return self._converse(self._connection, question, deadline, _now())
        while True:
            (family, address), *others = self._addresses
            until = min(time.monotonic() + ADDRESS_PATIENCE, deadline) if others else deadline
            try:
                exchange = self._connect_and_converse(family, address, question, until)
            except OSError:
                if not others:
                    raise
                self._addresses = others
            else:
                self._addresses = [(family, address)]
                return exchange

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def _connect_and_converse(
        self, family: socket.AddressFamily, address: Any, question: Question, deadline: float
    ) -> Exchange:
        sock = socket.socket(family, self._endpoint.kind)
        try:
            sock.settimeout(_left(deadline))
            began = _now()
            sock.connect(address)
            if not self._speaks_unasked:
                began = _now()  # or else it may have read its clock at any moment since it was connected
            exchange = self._converse(sock, question, deadline, began)
        except BaseException:
            sock.close()
            raise
        if self._is_tcp and not self._speaks_unasked:
            self._connection = sock
        else:
            sock.close()
        return exchange

    def _converse(
        self, sock: socket.socket, question: Question, deadline: float, began: tuple[int, int]
    ) -> Exchange:
        if not self._speaks_unasked:
            sock.send(question.data)
        receive = self._receive_stream if self._is_tcp else self._receive_datagram
        answer, arrived = receive(sock, question, deadline)
        asked, start = began
        if len(answer) > LONGEST_ANSWER:
            raise ValueError(f"its answer {_shown(answer)} has more than {LONGEST_ANSWER} bytes")
        if self._is_tcp and not answer:
            raise ValueError("it ends the connection without an answer")
        if answer == question.data:
            raise ValueError(f"it sends our question back, {_shown(answer)}")
        return Exchange(answer, asked, arrived - start)

    def _receive_datagram(
        self, sock: socket.socket, question: Question, deadline: float
    ) -> tuple[bytes, int]:
        while True:
            sock.settimeout(_left(deadline))
            datagram = sock.recv(LARGEST_DATAGRAM)
            arrived = time.perf_counter_ns()
            if question.is_answered_by(datagram):
                return datagram, arrived

    def _receive_stream(self, sock: socket.socket, question: Question, deadline: float) -> tuple[bytes, int]:
        answer = b""
        while True:
            try:
                sock.settimeout(_left(deadline))
                chunk = sock.recv(LONGEST_ANSWER + 1 - len(answer))
            except TimeoutError:
                if not answer:
                    raise
                raise ValueError(f"it sends no more than {_shown(answer)} in {PATIENCE:g} seconds") from None
            arrived = time.perf_counter_ns()
            answer += chunk
            too_long = len(answer) > LONGEST_ANSWER
            if not chunk or too_long or answer == question.data:
                return answer, arrived
            if question.is_whole(answer):
                return answer + (_what_follows(sock, deadline) if question.ends else b""), arrived


def _what_follows(sock: socket.socket, deadline: float) -> bytes:
    """What comes after an answer that should have been all; a server that does not end may be silent."""
    try:
        sock.settimeout(min(_left(deadline), END_PATIENCE))
        return sock.recv(LONGEST_ANSWER)
    except OSError:
        return b""


def _shown(answer: bytes) -> str:
    shown = repr(answer)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."


def _line(answer: bytes) -> str:
    """A text, which is to be shown on a terminal or kept in a log."""
    text = answer.decode("ascii").strip()
    if not text.isprintable():
        raise ValueError(f"{_shown(answer)} has control characters in it")
    return text


def _now() -> tuple[int, int]:
    """The time in ns since the epoch, and in ns of a clock that nobody sets."""
    return time.time_ns(), time.perf_counter_ns()


def _left(deadline: float) -> float:
    """Seconds until then.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _utc(moment: int) -> datetime:
    return EPOCH + timedelta(microseconds=moment // 1000)


def _reference(reply: ntp.Reply) -> str:
    if (
        reply.stratum <= 1
        and (name := reply.reference_id.rstrip(b"\0").decode("latin-1")).isalnum()
        and name.isascii()
    ):
        return name
    return socket.inet_ntoa(reply.reference_id)
