"""SnapshotLoop: for the calls that are told everything anew each time, poll(2) and select(2).

Such a call waits for the table as it was when the call began. A change that another thread or
a signal handler makes meanwhile must end the wait, so that it can begin again with the table
as it is now. So each ``poll`` under way has a waker, a pair of connected sockets: it watches
the one beside its descriptors, and a byte into the other makes it readable.

One waker for each and not one for all: with one, who is woken first would swallow the byte
before the others have seen it. Nothing is lost between the table and the wait, either: who
changes the table does that first and then looks who is waiting; who waits says so first and
then looks at the table.

While nobody waits, as always in a program with one thread, a change costs nothing.
"""

from __future__ import annotations

import errno
import socket
import sys

from .interest import UserSpaceLoop

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .interest import Event

__all__ = ["SnapshotLoop", "Waker"]


class Waker:
    """What a poll watches so that a change of the table can end its wait."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if sys.platform == "win32":  # a TCP connection, where a byte would wait for the last one's ACK
            self._writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self._reader.fileno()

    def wake(self) -> None:
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # full: there is enough in it; closed: nobody waits any more

    def clear(self) -> None:
        """Take the bytes out; for who has found it readable."""
        try:
            while self._reader.recv(4096):
                pass
        except OSError:
            pass  # nothing left

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class SnapshotLoop(UserSpaceLoop):
    """Base of the loops whose system call works on a snapshot of the table."""

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        super().__init__(sizehint, flags)
        self._waiting: list[Waker] = []
        self._wakers: list[Waker] = []
        self._start_wakers()

    def _start_wakers(self) -> None:
        self._first_waker = self._new_waker()

    def _new_waker(self) -> Waker:
        waker = Waker()
        self._wakers.append(waker)
        return waker

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        waker = None
        try:
            with self._lock:
                waker = self._free_waker()
                self._waiting.append(waker)
            return self._call(milliseconds, waker)
        finally:
            if waker in self._waiting:  # a Ctrl-C may have come before
                self._waiting.remove(waker)

    def _free_waker(self) -> Waker:
        for waker in self._wakers:
            if waker not in self._waiting:
                return waker
        # Other threads wait, or this one did until a signal handler interrupted it to poll.
        return self._new_waker()

    def _call(self, milliseconds: int | None, waker: Waker) -> Iterable[Event]:
        """Do the system call, and return when the waker is readable, too; then clear it.

        No two calls have the same waker at a time.
        """
        raise NotImplementedError

    def _check_possible(self, number: int, mask: int) -> None:
        super()._check_possible(number, mask)
        if number == self._first_waker.number:  # what epoll says when it is to watch itself
            raise OSError(errno.EINVAL, f"descriptor {number} belongs to this loop itself")

    def _changed(self) -> None:
        for waker in list(self._waiting):
            waker.wake()

    def _renew(self) -> None:
        super()._renew()
        self._waiting.clear()
        if not self._released:
            # The old ones are the parent's as well: a byte in them would be for either of us.
            for waker in self._wakers:
                waker.close()
            self._wakers.clear()
            self._start_wakers()

    def _release(self) -> None:
        for waker in self._wakers:
            waker.close()
