"""What the user-space loops share: the half of epoll that is rules and bookkeeping.

epoll keeps a table of interests in the kernel. poll(2) and select(2) are told everything
anew at each call, so the table lives here, and with it every rule that does not depend on
the call: which arguments are good, which error says what, how long a timeout is, what
happens to a oneshot, to a descriptor that was closed, and to those that ``maxevents`` left
out. A loop is this class and three functions for its platform: ``_watch``, ``_forget`` and
``_wait``.

Three of the rules need more than a table:

* *A closed descriptor drops out by itself.* The kernel holds on to the open file behind a
  number; we have the number alone. So the file's identity (device and inode) is kept at
  ``register``, and looked at again before an event is reported and before an interest is
  changed: another identity is another file, and the interest is gone as it would be in the
  kernel. This costs one fstat(2), about 1 µs, for each event. Where different files share an
  inode (Linux's eventfds and the like), or have none (TCP sockets on macOS, all on Windows), a
  number that was closed and opened again counts as the one it was.
* *Files and the like are refused.* epoll says EPERM to what has no readiness; poll and
  select call it always ready. fstat(2) tells these too; it cannot tell the few regular files
  that do have readiness, as /proc/mounts does, so those are refused as well.
* *Everybody has a turn.* poll and select report in the same order every time, so with a
  small ``maxevents`` the last ones would starve. When some must be left out, those go first
  that have waited longest since they were last reported.

A change made while another thread is inside ``poll`` is seen by the next ``poll``, but for one
that takes something away: that is not reported any more.
"""

from __future__ import annotations

import errno
import functools
import math
import operator
import os
import select
import stat
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self, SupportsIndex

from .contract import Descriptor
from .event import UEvent

__all__ = ["Event", "UserSpaceLoop", "is_open"]

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
ONESHOT = int(UEvent.poll_oneshot)
ALWAYS_REPORTED = int(UEvent.poll_err | UEvent.poll_hup)
REFUSED = (UEvent.poll_et, UEvent.poll_exclusive)

INT_MAX = 2**31 - 1
UINT_MAX = 2**32 - 1
EPOLL_CLOEXEC = 0o2000000  # the one flag that epoll_create1(2) knows
MAXEVENTS = 1023  # what select.epoll makes of -1

Event = tuple[int, int]  # (descriptor, mask)
Identity = tuple[int, int] | None  # (device, inode); None where the platform has none


class Interest:
    """One row of the table: what is wanted of a descriptor, and which file it was."""

    __slots__ = ("identity", "last_report", "mask")

    def __init__(self, mask: int, identity: Identity) -> None:
        self.mask = mask
        self.identity = identity
        self.last_report = 0  # which report of a crowded poll was its last one


class UserSpaceLoop:
    """Base of the loops whose table of interests lives in this process.

    Registering, modifying and unregistering cost O(1); a ``poll`` costs what the platform's
    call does, which is O(n) of what is registered.
    """

    #: the platform's call, for error messages
    call = ""

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        """Take the arguments of ``select.epoll``, which have no effect here.

        Parameters:
            sizehint: -1 or a positive number.
            flags: 0 or ``EPOLL_CLOEXEC``.

        Raises:
            ValueError: ``sizehint`` is 0 or less than -1.
            OSError: ``flags`` is something else.
        """
        sizehint, flags = _c_int(sizehint), _c_int(flags)
        if sizehint < -1 or sizehint == 0:
            raise ValueError(f"sizehint must be -1 or greater than 0, got {sizehint}")
        if flags not in (0, EPOLL_CLOEXEC):
            raise OSError(f"flags must be 0 or EPOLL_CLOEXEC, got {flags:#x}")
        self._interests: dict[int, Interest] = {}
        self._armed: set[int] = set()  # the oneshots that have not fired
        self._reports = 0  # of polls that had to leave some out
        self._closed = False

    # The interface of epoll

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    def register(self, fd: Descriptor, eventmask: int = IN | PRI | OUT) -> None:
        """Start to watch a descriptor: see :meth:`EpollLike.register`."""
        number, mask = _file_number(fd), _event_mask(eventmask)
        self._check_open()
        identity = _identify(number)
        if self._current(number, identity) is not None:
            raise FileExistsError(errno.EEXIST, f"descriptor {number} is registered already")
        self._check_possible(mask)
        self._watch(number, mask)
        self._interests[number] = Interest(mask, identity)
        self._arm(number, mask)

    def modify(self, fd: Descriptor, eventmask: int) -> None:
        """Watch a descriptor for something else: see :meth:`EpollLike.modify`."""
        number, mask = _file_number(fd), _event_mask(eventmask)
        self._check_open()
        interest = self._registered(number)
        self._check_possible(mask)
        self._watch(number, mask)
        interest.mask = mask
        self._arm(number, mask)

    def unregister(self, fd: Descriptor) -> None:
        """Stop watching a descriptor: see :meth:`EpollLike.unregister`."""
        number = _file_number(fd)
        self._check_open()
        self._registered(number)
        self._drop(number)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for events: see :meth:`EpollLike.poll`."""
        maxevents = _c_int(maxevents)
        self._check_open()
        milliseconds = _milliseconds(timeout)
        if maxevents < 1 and maxevents != -1:
            raise ValueError(f"maxevents must be -1 or greater than 0, got {maxevents}")
        limit = MAXEVENTS if maxevents == -1 else maxevents
        if milliseconds is None:
            while True:
                if events := self._report(self._wait(None), limit):
                    return events
        deadline = time.monotonic() + milliseconds / 1000
        while True:
            if events := self._report(self._wait(milliseconds), limit):
                return events
            # The time is up, or there were only closed descriptors: epoll would sleep on.
            milliseconds = math.ceil((deadline - time.monotonic()) * 1000)
            if milliseconds <= 0:
                return events

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        self._closed = True
        for number in list(self._interests):
            self._drop(number)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None:
        self.close()

    # What a platform supplies

    def _watch(self, number: int, mask: int) -> None:
        """Have the platform watch a descriptor for what is new, or for something else."""
        raise NotImplementedError

    def _forget(self, number: int) -> None:
        """Have the platform watch a descriptor no more; nothing to do if it does not."""
        raise NotImplementedError

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        """Wait for events, ``None`` for ever; ``_drop`` what turns out to be closed."""
        raise NotImplementedError

    # The rules

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"I/O operation on closed {self.call} object")

    def _check_possible(self, mask: int) -> None:
        for event in REFUSED:
            if mask & int(event):
                raise ValueError(f"{event.name} is not possible with {self.call}: epoll alone has it")

    def _registered(self, number: int) -> Interest:
        interest = self._current(number, _identify(number))
        if interest is None:
            raise FileNotFoundError(errno.ENOENT, f"descriptor {number} is not registered")
        return interest

    def _current(self, number: int, identity: Identity) -> Interest | None:
        """The interest in a descriptor, if it is in the file that has this number now."""
        interest = self._interests.get(number)
        if interest is not None and interest.identity != identity:
            self._drop(number)
            return None
        return interest

    def _arm(self, number: int, mask: int) -> None:
        if mask & ONESHOT:
            self._armed.add(number)
        else:
            self._armed.discard(number)

    def _drop(self, number: int) -> None:
        self._interests.pop(number, None)
        self._armed.discard(number)
        self._forget(number)

    def _report(self, ready: Iterable[Event], limit: int) -> list[Event]:
        """What poll may return of what the platform found ready."""
        events = []
        for number, mask in ready:
            # A signal handler or another thread may have changed the table during the wait.
            interest = self._interests.get(number)
            if interest is None:
                continue
            mask &= interest.mask | ALWAYS_REPORTED
            if mask and self._is_current(number, interest):
                events.append(((number, mask), interest))
        if len(events) > limit:
            events.sort(key=lambda each: each[1].last_report)
            del events[limit:]
            for _, interest in events:
                self._reports += 1
                interest.last_report = self._reports
        return [
            event for event, interest in events if not interest.mask & ONESHOT or self._take_oneshot(event[0])
        ]

    def _take_oneshot(self, number: int) -> bool:
        """Whether a oneshot is this poll's to report: of several threads one succeeds."""
        try:
            self._armed.remove(number)
        except KeyError:
            return False
        self._forget(number)  # not even errors are reported until the next modify
        return True

    def _is_current(self, number: int, interest: Interest) -> bool:
        if interest.identity is None or interest.identity == _identity(number):
            return True
        self._drop(number)
        return False


def is_open(number: int) -> bool:
    """Whether select takes a descriptor; on Windows the one way to ask, and of sockets alone."""
    try:
        select.select([number], [], [], 0)
    except OSError:
        return False
    return True


def _identity(number: int) -> Identity:
    """Which file a number stands for now; ``None`` if for none."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


if sys.platform == "win32":

    def _identify(number: int) -> Identity:
        """Check that a number is that of an open socket; there is no telling which."""
        if not is_open(number):
            raise OSError(errno.EBADF, f"descriptor {number} is not an open socket")
        return None

else:

    def _identify(number: int) -> Identity:
        """Check that a descriptor can be watched, and say which file it is.

        Raises:
            OSError: it is not open (EBADF), or of a kind that is always ready (EPERM).
        """
        status = os.fstat(number)
        if _always_ready(status):
            raise PermissionError(errno.EPERM, f"descriptor {number} cannot be watched: it is always ready")
        return status.st_dev, status.st_ino

    def _always_ready(status: os.stat_result) -> bool:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR:
            return status.st_rdev in _devices_without_readiness()
        return kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFBLK)

    @functools.cache
    def _devices_without_readiness() -> frozenset[int]:
        """The character devices that epoll refuses: most can be watched, these cannot."""
        devices = set()
        for name in ("null", "zero", "full", "mem", "port", "urandom"):
            try:
                devices.add(os.stat(f"/dev/{name}").st_rdev)
            except OSError:
                continue  # this system has no such device
        return frozenset(devices)


def _file_number(fd: Descriptor) -> int:
    """The number of a descriptor, as CPython's ``PyObject_AsFileDescriptor`` finds it."""
    if isinstance(fd, int):
        number = int(fd)
    else:
        fileno = getattr(fd, "fileno", None)
        if fileno is None:
            raise TypeError(f"fd must be an int, or have a fileno() method, not {fd!r}")
        result = fileno()
        if not isinstance(result, int):
            raise TypeError(f"fileno() of {fd!r} must return an int, not {result!r}")
        number = int(result)
    if _c_int(number) < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    return number


def _event_mask(eventmask: SupportsIndex) -> int:
    return operator.index(eventmask) & UINT_MAX


def _c_int(value: SupportsIndex) -> int:
    number = operator.index(value)
    if not -INT_MAX - 1 <= number <= INT_MAX:
        raise OverflowError(f"{number} does not fit into a C int")
    return number


def _milliseconds(timeout: float | None) -> int | None:
    """A timeout as epoll_wait(2) counts it; ``None`` for ever.

    Seconds are rounded away from zero to nanoseconds, then up to milliseconds: no wait is
    shorter than asked for, and -0.0009 is no wait at all.
    """
    if timeout is None:
        return None
    if isinstance(timeout, float):
        if math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds or None, not NaN")
        if math.isinf(timeout):
            raise OverflowError(f"timeout is too large: {timeout}")
        scaled = timeout * 1e9
        nanoseconds = math.ceil(scaled) if scaled >= 0 else math.floor(scaled)
    else:
        try:
            nanoseconds = operator.index(timeout) * 1_000_000_000
        except TypeError:
            raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}") from None
    milliseconds = -(-nanoseconds // 1_000_000)
    if not -INT_MAX - 1 <= milliseconds <= INT_MAX:
        raise OverflowError(f"timeout is too large: {timeout}")
    return None if milliseconds < 0 else milliseconds
