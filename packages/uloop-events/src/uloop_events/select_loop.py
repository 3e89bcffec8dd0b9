"""SelectLoop: epoll's contract on select(2), for any platform.

select is the floor: every system has it, and it is all that Python has on Windows. It takes
three sets of descriptors and says which are readable, which writable and which exceptional,
at a cost of O(n) of those registered. The rules that make up for the rest are those of
``interest.py``.

What it cannot see: ``poll_err``, ``poll_hup`` and ``poll_rdhup`` as such. An error or the end
of a stream makes a descriptor readable or writable, and the next ``recv`` or ``send`` tells
which. So who asks for neither ``poll_in`` nor ``poll_out`` is told of neither.

What it cannot hold: on Unix descriptors of 1024 and more, on Windows more than 512 sockets.
The one too many is refused by ``register``.

On Windows it takes sockets alone; a failed connect makes them exceptional, not writable.

Not possible: ``poll_et`` and ``poll_exclusive``.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections.abc import Iterable

from .event import UEvent
from .interest import Event, UserSpaceLoop, is_open

__all__ = ["SelectLoop"]

WINDOWS = sys.platform == "win32"
# An fd_set is a bit per number on Unix, and a list of handles on Windows; CPython's are this large.
FD_SETSIZE = 512 if WINDOWS else 1024

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
FAILED_CONNECT = int(UEvent.poll_in | UEvent.poll_out | UEvent.poll_err | UEvent.poll_hup)
NOT_OPEN = {errno.EBADF, getattr(errno, "WSAENOTSOCK", errno.EBADF)}
LONGEST_SLEEP = 0.1  # seconds; what a registration by another thread may have to wait on Windows


class SelectLoop(UserSpaceLoop):
    """``select.epoll`` on select(2)."""

    call = "select"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        super().__init__(sizehint, flags)
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._exceptional: set[int] = set()

    def _watch(self, number: int, mask: int) -> None:
        self._check_room(number)
        _put(number, self._readers, mask & IN)
        _put(number, self._writers, mask & OUT)
        # On Windows a failed connect shows here alone, whatever is asked for.
        _put(number, self._exceptional, WINDOWS or mask & PRI)

    def _forget(self, number: int) -> None:
        for numbers in (self._readers, self._writers, self._exceptional):
            numbers.discard(number)

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        seconds = None if milliseconds is None else milliseconds / 1000
        while True:
            if WINDOWS and not (self._readers or self._writers or self._exceptional):
                # Winsock calls three empty sets an error (bpo-29256).
                time.sleep(LONGEST_SLEEP if seconds is None else min(seconds, LONGEST_SLEEP))
                return ()
            try:
                readable, writable, exceptional = select.select(
                    self._readers, self._writers, self._exceptional, seconds
                )
                break
            except OSError as error:
                # One closed descriptor fails the call for all of them.
                if error.errno not in NOT_OPEN:
                    raise
                self._drop_closed()
                seconds = 0  # see what the others have; poll waits for what is left of the time
        masks = dict.fromkeys(readable, IN)
        for number in writable:
            masks[number] = masks.get(number, 0) | OUT
        for number in exceptional:
            masks[number] = masks.get(number, 0) | self._meaning_of_exceptional(number)
        return masks.items()

    def _check_room(self, number: int) -> None:
        if not WINDOWS and number >= FD_SETSIZE:
            raise ValueError(
                f"descriptor {number} does not fit into select, which takes numbers below {FD_SETSIZE}"
            )
        if WINDOWS and number not in self._interests and len(self._interests) >= FD_SETSIZE:
            self._drop_closed()
            if len(self._interests) >= FD_SETSIZE:
                raise ValueError(
                    f"descriptor {number} does not fit into select, "
                    f"which takes {FD_SETSIZE} sockets on Windows"
                )

    def _meaning_of_exceptional(self, number: int) -> int:
        """Urgent data; or, on Windows, a connect that has failed, which a connected socket has not."""
        if WINDOWS and not _is_connected(number):
            return FAILED_CONNECT
        interest = self._interests.get(number)
        if interest is None or not interest.mask & PRI:
            # Nobody asked for urgent data, and a connect that has succeeded cannot fail any more.
            self._exceptional.discard(number)
        return PRI

    def _drop_closed(self) -> None:
        for number in list(self._interests):
            if not is_open(number):
                self._drop(number)


def _put(number: int, numbers: set[int], wanted: int) -> None:
    if wanted:
        numbers.add(number)
    else:
        numbers.discard(number)


def _is_connected(number: int) -> bool:
    sock = socket.socket(fileno=number)
    try:
        sock.getpeername()  # unlike SO_ERROR, it leaves the error to whoever asks for it next
    except OSError:
        return False
    finally:
        sock.detach()
    return True
