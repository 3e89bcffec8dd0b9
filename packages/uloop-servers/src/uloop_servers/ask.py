"""Asking a time server: its time, how long the answer took, and how far the clocks are apart."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from .endpoint import Endpoint
from .protocols import clock

__all__ = ["NoAnswerError", "Reading", "ask"]

QUESTION = b"time?"  # anything would do
PATIENCE = 5.0  # seconds for an answer, and for a connection
PROBE_PATIENCE = 1.0  # seconds, for each address but the last of a name that has several
LARGEST_DATAGRAM = 64 * 1024  # bytes


class NoAnswerError(Exception):
    """The server did not answer, or not with a time; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer.

    Parameters:
        endpoint: who was asked.
        time: the server's local time, as it sent it.
        round_trip: seconds from the question to the answer.
        offset: seconds that the server's clock is ahead of ours, if both have the same time
            zone and the way there took as long as the way back; so it can be wrong by half of
            ``round_trip``.
    """

    endpoint: str
    time: str
    round_trip: float
    offset: float

    def __str__(self) -> str:
        return (
            f"{self.time} from {self.endpoint}, round trip {self.round_trip * 1000:.3f} ms, "
            f"offset {self.offset * 1000:+.3f} ms"
        )

    def as_dict(self) -> dict[str, object]:
        """The same for JSON."""
        return asdict(self)


def ask(endpoint: Endpoint, count: int = 1) -> Iterator[Reading]:
    """Ask a server, over TCP on one connection.

    Parameters:
        endpoint: whom to ask.
        count: how often; each time after the last answer has come.

    Raises:
        NoAnswerError: it cannot be reached, does not answer within 5 seconds, or answers something else.
    """
    try:
        with _connect(endpoint) as sock:
            for _ in range(count):
                yield _ask_once(endpoint, sock)
    except TimeoutError:
        raise NoAnswerError(f"{endpoint} did not answer within {PATIENCE:g} seconds") from None
    except UnicodeError:
        raise NoAnswerError(f"{endpoint} cannot be asked: {endpoint.host!r} is no host name") from None
    except OSError as error:
        raise NoAnswerError(f"{endpoint} cannot be asked: {error.strerror or error}") from error


def _connect(endpoint: Endpoint) -> socket.socket:
    if endpoint.kind == socket.SOCK_STREAM:
        return socket.create_connection((endpoint.host, endpoint.port), PATIENCE)
    *others, last = endpoint.addresses()
    for family, address in others:  # of a name with several, the first that answers
        sock = _connect_datagram(family, address, PROBE_PATIENCE)
        try:
            sock.send(QUESTION)
            sock.recv(LARGEST_DATAGRAM)
        except OSError:
            sock.close()
        else:
            sock.settimeout(PATIENCE)
            return sock
    return _connect_datagram(*last, PATIENCE)


def _connect_datagram(family: socket.AddressFamily, address: Any, patience: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(patience)
        # connected, it takes answers from nobody else, and hears that nobody is there
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _ask_once(endpoint: Endpoint, sock: socket.socket) -> Reading:
    asked_at = datetime.now()
    start = time.perf_counter()
    sock.sendall(QUESTION)
    answer = _receive(sock, endpoint.kind)
    round_trip = time.perf_counter() - start
    try:
        told = clock.read_answer(answer)
    except ValueError as error:
        raise NoAnswerError(f"{endpoint} does not tell the time: {error}") from error
    offset = told - (asked_at + timedelta(seconds=round_trip / 2))
    return Reading(str(endpoint), answer.decode("ascii"), round_trip, offset.total_seconds())


def _receive(sock: socket.socket, kind: socket.SocketKind) -> bytes:
    if kind == socket.SOCK_DGRAM:
        return sock.recv(LARGEST_DATAGRAM)
    deadline = time.monotonic() + PATIENCE
    answer = b""
    while len(answer) < clock.ANSWER_LENGTH:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = sock.recv(clock.ANSWER_LENGTH - len(answer))
        if not chunk:
            break
        answer += chunk
    sock.settimeout(PATIENCE)
    return answer
