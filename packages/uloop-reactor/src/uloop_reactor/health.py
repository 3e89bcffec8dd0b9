"""Health: how a loop is doing, in counters that are always on, and what it warns of.

A loop has one thread, so whoever takes long keeps everybody waiting. Counted are the turns, the
events, how long turns take (the lag: so long an event may have waited) and who was slowest. It
costs one look at the clock per event. Warned of, with the handler's name, are

* a callback or handler that takes longer than ``slow_callback`` seconds;
* a handler that is called again and again for what it leaves as it is: the loop spins. A busy
  loop looks each second what some descriptors have unread, or how much was written to them, before
  and after their handlers; if nothing has changed in three such seconds, it is no accident.
  Of TCP on Linux that is certain, for it counts the bytes of a connection; of datagrams, and of
  listening sockets, it cannot be told;
* a descriptor that was closed before it was removed. Nobody tells the loop, so it looks through
  its descriptors, a few each second. Until then nothing goes wrong, but the entry is a leak,
  and may hide that two parts of a program believe to own the same number.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from uloop_events import UEVENT_OF, UEvent

from .registry import TOLD_ONCE, Registration

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["Health", "Stats"]

log = logging.getLogger("uloop.reactor")

SLOW = 0.1  # seconds that a callback may take without a warning
CHECK_INTERVAL = 1.0  # seconds
BUSY = 1000  # turns in that time, which only a loop under load or a spinning one makes
SUSPICIONS = 3  # checks in a row
MOST_SUSPECTS = 16  # descriptors examined in one check
SWEPT_AT_ONCE = 100  # descriptors looked at in one check
MOST_LOGGED = 10  # tracebacks of one kind between two checks
DATAGRAM = int(socket.SOCK_DGRAM).to_bytes(4, sys.byteorder)
LEVELS = int(UEvent.poll_in | UEvent.poll_out)
IN = int(UEvent.poll_in)
OUT = int(UEvent.poll_out)


@dataclass(frozen=True)
class Stats:
    """What :meth:`Uloop.stats` returns; times are in seconds, counts since the loop was made."""

    backend: str
    descriptors: int  #: that have a handler
    timers: int  #: calls to come
    turns: int
    events: int  #: that the backend told of
    failures: int  #: exceptions that handlers and callbacks raised
    lag: float  #: how long the last turn took, from waking to waiting again
    longest_lag: float
    slowest: float  #: how long the slowest handler or callback took
    slowest_name: str  #: which that was; empty if there was none yet
    slow: int  #: how often one took longer than ``slow_callback`` allows
    spinning: int  #: handlers that left what they were called for as it was
    closed: int  #: descriptors that were closed before they were removed


#: a handler's registration, what it was called for, and what there was then to read and written
Suspect = tuple[Registration, int, tuple[int, int] | None]


class Health:
    """The counters of one loop. The loop itself counts events and lags."""

    def __init__(self, registrations: Mapping[int, Registration], now: float) -> None:
        self.events = 0
        self.failures = 0
        self.lag = 0.0
        self.longest_lag = 0.0
        self.slowest = 0.0
        self.slowest_name = ""
        self.slow = 0
        self.spinning = 0
        self.closed = 0
        self.allowed = SLOW
        self.remarkable = 0.0  # seconds; the loop tells of callbacks that take longer
        self.next_check = now + CHECK_INTERVAL
        self._registrations = registrations
        self._turns_before = 0
        self._logged: dict[tuple[str, str], int] = {}
        self._suspects: dict[int, tuple[Suspect, int]] = {}  # and how often in a row
        self._sweep: Iterator[int] = iter(())

    def allow(self, seconds: float) -> None:
        """Warn of callbacks that take longer than this."""
        self.allowed = seconds
        self.remarkable = min(self.slowest, seconds)

    def took(self, seconds: float, culprit: object) -> None:
        """A callback took longer than any before, or longer than is allowed."""
        if seconds > self.slowest:
            self.slowest = seconds
            self.slowest_name = _name(culprit)
        if seconds > self.allowed:
            self.slow += 1
            log.warning("%s took %.3f s, and everything else waited", _name(culprit), seconds)
        self.remarkable = min(self.slowest, self.allowed)

    def may_log(self, error: Exception) -> bool:
        """Whether one more exception is logged with its traceback.

        A bug that any stranger can trigger must not fill the disk. So of the same exception from
        the same line more than a few in a second are counted, and told of in one line then.
        """
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}, line {place.tb_lineno}" if place else "nowhere"
        kind = type(error).__name__, where
        self._logged[kind] = self._logged.get(kind, 0) + 1
        return self._logged[kind] <= MOST_LOGGED

    def was_closed(self, number: int, handler: object) -> None:
        """A descriptor was found closed that nobody had removed."""
        self.closed += 1
        log.warning("removed descriptor %d: it was closed; its handler was %r", number, handler)

    def check(self, now: float, turn: int, ready: list[tuple[int, int]]) -> Callable[[], None] | None:
        """Look for handlers that spin, and for closed descriptors.

        Parameters:
            now: the time it is.
            turn: how many turns there were.
            ready: what was just collected, and will be handed to the handlers.

        Returns:
            What to call when that is done, if anything.
        """
        busy = turn - self._turns_before >= BUSY * (now - self.next_check + CHECK_INTERVAL)
        self._turns_before = turn
        self.next_check = now + CHECK_INTERVAL
        for (name, where), times in self._logged.items():
            if times > MOST_LOGGED:
                log.error("%s was raised %d times more in %s", name, times - MOST_LOGGED, where)
        self._logged.clear()
        if not busy:
            self._suspects.clear()
            return None
        before: dict[int, Suspect] = {}
        for number, mask in ready[:MOST_SUSPECTS]:
            registration = self._registrations.get(number)
            if registration is not None and mask & LEVELS and not registration.mask & TOLD_ONCE:
                before[number] = registration, mask & LEVELS, _backlog(number, mask)
        return lambda: self._compare(before)

    def closed_ones(self) -> list[int]:
        """Some numbers, if any, of registered descriptors that are closed; others at each call."""
        found = []
        for _ in range(min(SWEPT_AT_ONCE, len(self._registrations))):
            number = next(self._sweep, None)
            if number is None:
                self._sweep = iter(list(self._registrations))
                break
            if number in self._registrations and not _is_open(number):
                found.append(number)
        return found

    def _compare(self, before: dict[int, Suspect]) -> None:
        """See what the handlers have left as it was."""
        suspects: dict[int, tuple[Suspect, int]] = {}
        for number, (registration, mask, backlog) in before.items():
            if (
                self._registrations.get(number) is registration
                and registration.mask & mask == mask
                and backlog is not None
                and _backlog(number, mask) == backlog
            ):
                suspect = registration, mask, backlog
                known, times = self._suspects.get(number, (suspect, 0))
                times = times + 1 if known == suspect else 1
                suspects[number] = suspect, times
                if times == SUSPICIONS:
                    self.spinning += 1
                    log.warning(
                        "%r is called for %r of descriptor %d again and again, and leaves it as it is",
                        registration.handler,
                        UEVENT_OF[mask],
                        number,
                    )
        self._suspects = suspects


def _name(culprit: object) -> str:
    try:
        return repr(culprit)
    except Exception:  # whose fault it is, is not to be ours
        return object.__repr__(culprit)


def _backlog(number: int, mask: int) -> tuple[int, int] | None:
    """What a handler changes by reading or writing; ``None`` where that cannot be told."""
    if _option(number, socket.SOL_SOCKET, socket.SO_TYPE, 4) == DATAGRAM:
        return None  # FIONREAD is the size of the first one, and the next may be as long
    read, written = 0, 0
    received, sent = _tcp_bytes(number)
    if mask & IN:
        unread = _ask(number, FIONREAD)
        if unread < 0:
            return None  # it listens, as a rule
        read = received - unread
    if mask & OUT:
        if sent < 0:
            return None
        written = sent
    return read, written


# ctypes is imported when a loop is busy at last, because that takes longer than all the rest.

if sys.platform == "win32":
    FIONREAD = 0x4004667F  # <winsock2.h>

    def _ask(number: int, question: int) -> int:
        import ctypes

        answer = ctypes.c_ulong()
        failed = ctypes.windll.ws2_32.ioctlsocket(ctypes.c_size_t(number), question, ctypes.byref(answer))
        return -1 if failed else answer.value

    def _option(number: int, level: int, name: int, size: int) -> bytes:
        import ctypes

        answer, length = ctypes.create_string_buffer(size), ctypes.c_int(size)
        failed = ctypes.windll.ws2_32.getsockopt(
            ctypes.c_size_t(number), level, name, answer, ctypes.byref(length)
        )
        return b"" if failed else answer.raw[: length.value]

    def _tcp_bytes(number: int) -> tuple[int, int]:
        """How many bytes a TCP connection has received and sent: not to be had here."""
        return 0, -1

    def _is_open(number: int) -> bool:
        try:
            select.select([number], [], [], 0)
        except OSError:
            return False
        return True

else:
    FIONREAD = termios.FIONREAD

    def _ask(number: int, question: int) -> int:
        try:
            return int.from_bytes(fcntl.ioctl(number, question, bytes(4)), sys.byteorder)
        except OSError:
            return -1

    def _option(number: int, level: int, name: int, size: int) -> bytes:
        import ctypes

        answer, length = ctypes.create_string_buffer(size), ctypes.c_uint(size)
        failed = ctypes.CDLL(None).getsockopt(number, level, name, answer, ctypes.byref(length))
        return b"" if failed else answer.raw[: length.value]

    def _tcp_bytes(number: int) -> tuple[int, int]:
        """How many bytes a TCP connection has received and sent; 0 and -1 where that is not to be had."""
        if sys.platform == "linux":
            info = _option(number, socket.IPPROTO_TCP, socket.TCP_INFO, 208)
            if len(info) == 208:  # tcpi_bytes_received, tcpi_bytes_sent; <linux/tcp.h>
                return int.from_bytes(info[128:136], sys.byteorder), int.from_bytes(
                    info[200:208], sys.byteorder
                )
        return 0, -1

    def _is_open(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return False
        return True
