"""PollLoop: epoll's contract on poll(2), for Linux, macOS and the BSDs.

poll(2) has epoll's events under epoll's names, and on Linux it sees the same masks in every
situation. What is different is how it is asked: everything is told anew at each call, so a
``poll`` costs O(n) of the descriptors that are registered, and the events come in the
order of registration. The rules that make up for this are those of ``interest.py`` and
``snapshot.py``.

On macOS poll(2) takes no devices, such as /dev/tty: they are refused with EPERM.

Not possible: ``poll_et`` and ``poll_exclusive``.
"""

from __future__ import annotations

import errno
import select
import sys

from .event import UEvent
from .snapshot import SnapshotLoop, Waker

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from .interest import Event

    class SystemPoll(Protocol):
        """A ``select.poll`` object, which the type checkers do not know on every platform."""

        def register(self, fd: int, eventmask: int, /) -> None: ...
        def unregister(self, fd: int, /) -> None: ...
        def poll(self, timeout: float | None, /) -> list[tuple[int, int]]: ...


__all__ = ["PollLoop"]

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
        # Old names for parts of IN and OUT, which epoll takes; UEvent has no names for them.
        (0x40, "POLLRDNORM"),
        (0x80, "POLLRDBAND"),
        (0x100, "POLLWRNORM"),
        (0x200, "POLLWRBAND"),
    )
    if (system := getattr(select, name, 0))
]
NOT_OPEN = getattr(select, "POLLNVAL", 0)
SAME_BITS = all(ours == system for ours, system in BITS)


class PollLoop(SnapshotLoop):
    """``select.epoll`` on poll(2).

    Raises:
        NotImplementedError: when constructed on a platform without poll(2), as Windows is.
    """

    call = "poll"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        self._poll = _system_poll()
        super().__init__(sizehint, flags)

    def _start_wakers(self) -> None:
        super()._start_wakers()
        self._poll = self._copy(self._first_waker)

    def _watch(self, number: int, mask: int) -> None:
        if sys.platform == "darwin" and not _is_taken(number):
            raise PermissionError(
                errno.EPERM,
                f"descriptor {number} is a device, which poll on macOS does not take: SelectLoop does",
            )
        self._poll.register(number, _to_system(mask))

    def _forget(self, number: int) -> None:
        try:
            self._poll.unregister(number)
        except KeyError:
            pass  # a oneshot that has fired

    def _call(self, milliseconds: int | None, waker: Waker) -> Iterable[Event]:
        # A poll object serves one call at a time.
        poll = self._poll if waker is self._first_waker else self._copy(waker)
        ready = poll.poll(milliseconds)
        if ready and ready[0][0] == waker.number:  # it was registered first
            if ready[0][1] & NOT_OPEN:
                raise OSError(errno.EBADF, "somebody has closed the descriptors of this loop itself")
            waker.clear()
        if SAME_BITS:
            return ready
        return [(number, _FROM_SYSTEM[mask]) for number, mask in ready]

    def _copy(self, waker: Waker) -> SystemPoll:
        copy = _system_poll()
        copy.register(waker.number, _to_system(UEvent.poll_in))
        with self._lock:
            for number, interest in self._interests.items():
                if interest.reported:
                    copy.register(number, _to_system(interest.mask))
        return copy


def _system_poll() -> SystemPoll:
    if sys.platform == "win32" or not hasattr(select, "poll"):
        raise NotImplementedError(f"{sys.platform} has no poll(2); SelectLoop runs everywhere")
    return select.poll()


def _is_taken(number: int) -> bool:
    """Whether poll calls an open descriptor open: macOS's does not, of /dev/tty and other devices."""
    poll = _system_poll()
    poll.register(number, 0)
    return not any(mask & NOT_OPEN for _, mask in poll.poll(0))


def _to_system(mask: int) -> int:
    return sum(system for ours, system in BITS if mask & ours)


class _FromSystem(dict[int, int]):
    """The system's masks met so far, and ours for each."""

    def __missing__(self, mask: int) -> int:
        ours = self[mask] = sum(ours for ours, system in BITS if mask & system)
        return ours


_FROM_SYSTEM = _FromSystem()
