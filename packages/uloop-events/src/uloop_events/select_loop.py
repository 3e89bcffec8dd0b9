"""SelectLoop: epoll's contract on select(2), for any platform.

select is the floor: every system has it. It takes three sets of descriptors and says which
are readable, which writable and which exceptional, at a cost of O(n) of those registered. The
rules that make up for the rest are those of ``interest.py`` and ``snapshot.py``; and what makes
a descriptor readable is found out by the probes of ``probes.py``, which consume nothing.

Everything that is registered is in the set of readers, whatever was asked for, since an error
and the end of a stream make a descriptor readable, and epoll tells of those unasked. Where it
is something else that nobody has asked for, the descriptor is left out for a tenth of a second,
or it would not be a wait; so an end that comes after that is told a little late.

What it cannot see: how many of the ends of a stream have ended while data waits (but on Linux,
TCP), whether an error was read already, and an error on a datagram socket as such: that one
is readable, and the next ``recv`` tells. ``FIDELITY.md`` has it situation by situation.

What it cannot hold: on Unix descriptors of 1024 and more, on Windows more than 512 sockets.
The one too many is refused by ``register``.

On Windows it takes sockets alone. A failed connect makes them exceptional, not writable. Ctrl-C
does not end the system's call, so a long wait is done in short ones.

Not possible: ``poll_et`` and ``poll_exclusive``.
"""

from __future__ import annotations

import errno
import select
import sys
import time

from .event import UEvent
from .identity import identity_of, is_open
from .probes import has_peer, probe_for
from .snapshot import SnapshotLoop, Waker

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .interest import Event
    from .probes import Probe

    Ready = tuple[list[int], list[int], list[int]]

__all__ = ["SelectLoop"]

WINDOWS = sys.platform == "win32"
# An fd_set is a bit per number on Unix, and a list of handles on Windows; CPython's are this large.
FD_SETSIZE = 512 if WINDOWS else 1024

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
FAILED_CONNECT = int(UEvent.poll_in | UEvent.poll_out | UEvent.poll_err | UEvent.poll_hup | UEvent.poll_rdhup)
NOT_OPEN = {errno.EBADF, getattr(errno, "WSAENOTSOCK", errno.EBADF)}
LONGEST_WAIT = 0.1  # seconds; for Windows' Python to run its signal handlers, and see unwanted above


class SelectLoop(SnapshotLoop):
    """``select.epoll`` on select(2)."""

    call = "select"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        # Dictionaries where sets would do, since they keep the order of registration.
        self._readers: dict[int, None] = {}
        self._writers: dict[int, None] = {}
        self._exceptional: dict[int, None] = {}
        self._probes: dict[int, Probe] = {}  # of everything registered, oneshots that have fired included
        super().__init__(sizehint, flags)

    def _watch(self, number: int, mask: int) -> None:
        if number not in self._probes:
            self._check_room(number)
            self._probes[number] = probe_for(number)
        self._readers[number] = None
        _put(number, self._writers, mask & OUT)
        # On Windows a failed connect shows here alone, whatever is asked for.
        _put(number, self._exceptional, WINDOWS or mask & PRI)

    def _forget(self, number: int) -> None:
        self._readers.pop(number, None)
        self._writers.pop(number, None)
        self._exceptional.pop(number, None)
        if number not in self._interests:  # else it is a oneshot that has fired
            self._probes.pop(number, None)

    def _new_waker(self) -> Waker:
        waker = super()._new_waker()
        if not WINDOWS and waker.number >= FD_SETSIZE:
            self._wakers.remove(waker)
            waker.close()
            raise OSError(
                errno.EMFILE, f"select takes descriptors below {FD_SETSIZE} alone, and they are all in use"
            )
        return waker

    def _call(self, milliseconds: int | None, waker: Waker) -> Iterable[Event]:
        seconds = None if milliseconds is None else milliseconds / 1000
        if WINDOWS and (seconds is None or seconds > LONGEST_WAIT):
            seconds = LONGEST_WAIT
        deadline = None if seconds is None else time.monotonic() + seconds
        unwanted: set[int] = set()
        while True:
            readable, writable, exceptional = self._select(waker, unwanted, seconds)
            masks = dict.fromkeys(writable, OUT)
            for number in exceptional:
                masks[number] = masks.get(number, 0) | self._meaning_of_exceptional(number)
            seen = len(unwanted)
            for number in readable:
                if number == waker.number:
                    continue
                mask = self._meaning_of_readable(number)
                if mask:
                    masks[number] = masks.get(number, 0) | mask
                else:
                    unwanted.add(number)
            if waker.number in readable:
                waker.clear()
                return masks.items()
            if masks or len(unwanted) == seen:
                return masks.items()
            # A short wait, after which they are looked at again: what is behind the data may have ended.
            seconds = LONGEST_WAIT
            if deadline is not None:
                seconds = min(seconds, max(0, deadline - time.monotonic()))

    def _select(self, waker: Waker, unwanted: set[int], seconds: float | None) -> Ready:
        while True:
            readers = [number for number in self._readers.copy() if number not in unwanted]
            if not WINDOWS or len(readers) < FD_SETSIZE:
                # Where there is no room for it, a change has to wait for the end of a short wait.
                readers.append(waker.number)
            try:
                return select.select(readers, self._writers, self._exceptional, seconds)
            except OSError as error:
                if error.errno not in NOT_OPEN or not is_open(waker.number):
                    raise
                # One closed descriptor fails the call for all of them.
                self._drop_closed()
                seconds = 0  # see what the others have; poll waits for what is left of the time

    def _meaning_of_readable(self, number: int) -> int:
        """What is wanted of what a readable descriptor has."""
        interest, probe = self._interests.get(number), self._probes.get(number)
        if interest is None or probe is None:
            return 0
        if interest.identity != identity_of(number):
            self._drop_stale(number, interest)  # a probe for something else might take a stranger's error
            return 0
        try:
            return probe(number) & interest.reported
        except OSError:  # closed meanwhile, by another thread; or no probe works: let the program read
            return IN & interest.reported

    def _meaning_of_exceptional(self, number: int) -> int:
        """Urgent data; or, on Windows, a connect that has failed, which a connected socket has not."""
        if WINDOWS and not has_peer(number):
            return FAILED_CONNECT
        interest = self._interests.get(number)
        if interest is None or not interest.mask & PRI:
            # Nobody asked for urgent data, and a connect that has succeeded cannot fail any more.
            self._exceptional.pop(number, None)
            return 0
        return PRI

    def _check_room(self, number: int) -> None:
        if not WINDOWS and number >= FD_SETSIZE:
            raise ValueError(
                f"descriptor {number} does not fit into select, which takes numbers below {FD_SETSIZE}"
            )
        if WINDOWS and len(self._probes) >= FD_SETSIZE:
            self._drop_closed()
            if len(self._probes) >= FD_SETSIZE:
                raise ValueError(
                    f"socket {number} does not fit into select, which takes {FD_SETSIZE} sockets on Windows; "
                    "AfdLoop takes any number"
                )

    def _drop_closed(self) -> None:
        for number, interest in list(self._interests.items()):
            if not is_open(number):
                self._drop_stale(number, interest)


def _put(number: int, numbers: dict[int, None], wanted: int) -> None:
    if wanted:
        numbers[number] = None
    else:
        numbers.pop(number, None)
