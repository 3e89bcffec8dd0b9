"""PollLoop: epoll's contract on poll(2), for Linux, macOS and the BSDs.

poll(2) has epoll's events under epoll's names, and on Linux it sees the same masks in every
situation. What is different is how it is asked: everything is told anew at each call, so a
``poll`` costs O(n) of the descriptors that are registered, and the events come in the
order of registration. The rules that make up for this are those of ``interest.py``.

Not possible: ``poll_et`` and ``poll_exclusive``.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from typing import Protocol

from .event import UEvent
from .interest import ONESHOT, Event, UserSpaceLoop

__all__ = ["PollLoop"]

CLOSED = int(UEvent.poll_nval)

# The system's constants differ from Linux's here and there (POLLRDHUP is 0x4000 on FreeBSD,
# and macOS has none), so they are paired by name: (ours, the system's).
BITS = [
    (int(event), system)
    for event, name in (
        (UEvent.poll_in, "POLLIN"),
        (UEvent.poll_pri, "POLLPRI"),
        (UEvent.poll_out, "POLLOUT"),
        (UEvent.poll_err, "POLLERR"),
        (UEvent.poll_hup, "POLLHUP"),
        (UEvent.poll_nval, "POLLNVAL"),
        (UEvent.poll_rdhup, "POLLRDHUP"),
    )
    if (system := getattr(select, name, 0))
]


class SystemPoll(Protocol):
    """A ``select.poll`` object, which the type checkers do not know on every platform."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]: ...


class PollLoop(UserSpaceLoop):
    """``select.epoll`` on poll(2).

    Raises:
        NotImplementedError: when constructed on a platform without poll(2), as Windows is.
    """

    call = "poll"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        super().__init__(sizehint, flags)
        self._poll = _system_poll()
        # A poll object serves one call at a time; see _wait.
        self._idle = [self._poll]

    def _watch(self, number: int, mask: int) -> None:
        self._poll.register(number, _to_system(mask))

    def _forget(self, number: int) -> None:
        try:
            self._poll.unregister(number)
        except KeyError:
            pass  # a oneshot that has fired

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        try:
            poll = self._idle.pop()
        except IndexError:
            # Another thread is in it, or the code that a signal handler has interrupted to poll.
            ready = self._copy().poll(milliseconds)
        else:
            try:
                ready = poll.poll(milliseconds)
            finally:
                self._idle.append(poll)
        events = [(number, _FROM_SYSTEM[mask]) for number, mask in ready]
        for number, mask in events:
            if mask & CLOSED:
                self._drop(number)  # or it would be reported by every call from now on
        return events

    def _copy(self) -> SystemPoll:
        copy = _system_poll()
        for number, interest in list(self._interests.items()):
            if number in self._armed or not interest.mask & ONESHOT:
                copy.register(number, _to_system(interest.mask))
        return copy


def _system_poll() -> SystemPoll:
    if sys.platform == "win32" or not hasattr(select, "poll"):
        raise NotImplementedError(f"{sys.platform} has no poll(2); SelectLoop runs everywhere")
    return select.poll()


def _to_system(mask: int) -> int:
    return sum(system for ours, system in BITS if mask & ours)


class _FromSystem(dict[int, int]):
    """The system's masks met so far, and ours for each."""

    def __missing__(self, mask: int) -> int:
        ours = self[mask] = sum(ours for ours, system in BITS if mask & system)
        return ours


_FROM_SYSTEM = _FromSystem()
