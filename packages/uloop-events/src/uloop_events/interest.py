"""What the user-space loops share: the half of epoll that is rules and bookkeeping.

epoll keeps a table of interests in the kernel. The calls of other systems are told everything
anew each time, or keep less, so the table lives here, and with it every rule that does not
depend on the call: which arguments are good, which error says what, how long a timeout is,
what happens to a oneshot, to a descriptor that was closed, and to those that ``maxevents``
left out. A loop is this class and a few functions for its platform.

Some of the rules need more than a table:

* *A closed descriptor drops out by itself.* The file's identity is kept at ``register``, and
  looked at again before an event is reported and before an interest is changed: another
  identity is another file, and the interest is gone as it would be in the kernel. This costs
  one fstat(2), about 1 µs, for each event; see ``identity.py`` for what it cannot tell.
* *Everybody has a turn.* Systems report in the same order every time, so with a small
  ``maxevents`` the last ones would starve. When some must be left out, then and in the next
  poll those come first that have waited longest since they were last reported.
* *Threads.* One lock guards the table, for as long as it takes to change a row. Nobody holds
  it while waiting, so a change reaches the table at once; how it reaches a platform's call
  that is waiting already is the loop's business (``_changed``). The child of a fork has the
  table, but not the threads: it starts with a lock that nobody holds (``_renew``).
"""

from __future__ import annotations

import errno
import math
import os
import time
import weakref
from _thread import RLock, get_ident

from .arguments import c_int, event_mask, file_number, maximum_of_events, milliseconds_of
from .event import UEvent
from .identity import identify, identity_of

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import NoReturn, Self

    from .contract import Descriptor
    from .identity import Identity

    Event = tuple[int, int]  # (descriptor, mask)

__all__ = ["Interest", "UserSpaceLoop"]

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
CLOSED = int(UEvent.poll_nval)
ONESHOT = int(UEvent.poll_oneshot)
ALWAYS_REPORTED = int(UEvent.poll_err | UEvent.poll_hup)
REFUSED = (UEvent.poll_et, UEvent.poll_exclusive)

EPOLL_CLOEXEC = 0o2000000  # the one flag that epoll_create1(2) knows


class Interest:
    """One row of the table: what is wanted of a descriptor, and which file it was."""

    __slots__ = ("identity", "last_report", "mask", "reported")

    def __init__(self, mask: int, identity: Identity) -> None:
        self.ask(mask)
        self.identity = identity
        self.last_report = 0  # which report of a crowded poll was its last one

    def ask(self, mask: int) -> None:
        self.mask = mask
        self.reported = mask | ALWAYS_REPORTED  # 0 once a oneshot has fired: not even errors


GONE = Interest(0, None)  # stands for what another thread has unregistered since


class UserSpaceLoop:
    """Base of the loops whose table of interests lives in this process.

    Registering, modifying and unregistering cost O(1); a ``poll`` costs what the platform's
    call does.
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
            OSError: ``flags`` is something else; or no descriptor is left (EMFILE).
        """
        sizehint, flags = c_int(sizehint), c_int(flags)
        if sizehint < -1 or sizehint == 0:
            raise ValueError(f"sizehint must be -1 or greater than 0, got {sizehint}")
        if flags not in (0, EPOLL_CLOEXEC):
            raise OSError(f"flags must be 0 or EPOLL_CLOEXEC, got {flags:#x}")
        self._interests: dict[int, Interest] = {}
        self._lock = RLock()  # reentrant, for the signal handler that interrupts its own thread in here
        self._polls: list[int] = []  # for each poll under way, its thread
        self._reports = 0  # of polls that had to leave some out
        self._some_wait = False  # since the last poll left some out
        self._closed = False
        self._closed_by = 0  # the thread that did it
        self._released = False
        _LOOPS.add(self)

    # The interface of epoll

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    if not TYPE_CHECKING:  # or a type checker would think that there is every attribute

        def __getattr__(self, name):
            # An AttributeError, since programs look whether there is a fileno before they use it.
            if name == "fileno":
                raise AttributeError(
                    f"a loop on {self.call} has no fileno(): there is no descriptor that stands for it"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def register(self, fd: Descriptor, eventmask: int = IN | PRI | OUT) -> None:
        """Start to watch a descriptor: see :meth:`EpollLike.register`."""
        number, mask = file_number(fd), event_mask(eventmask)
        with self._lock:
            self._check_open()
            identity = identify(number)
            if self._current(number, identity) is not None:
                raise FileExistsError(errno.EEXIST, f"descriptor {number} is registered already")
            self._check_possible(number, mask)
            # Into the table first: the platform may tell another thread of an event at once.
            self._interests[number] = Interest(mask, identity)
            try:
                self._watch(number, mask)
            except BaseException:
                del self._interests[number]
                raise
        self._changed()

    def modify(self, fd: Descriptor, eventmask: int) -> None:
        """Watch a descriptor for something else: see :meth:`EpollLike.modify`."""
        number, mask = file_number(fd), event_mask(eventmask)
        with self._lock:
            self._check_open()
            interest = self._registered(number)
            self._check_possible(number, mask)
            self._watch(number, mask)
            interest.ask(mask)
        self._changed()

    def unregister(self, fd: Descriptor) -> None:
        """Stop watching a descriptor: see :meth:`EpollLike.unregister`."""
        number = file_number(fd)
        with self._lock:
            self._check_open()
            self._registered(number)
            self._drop(number)
        self._changed()  # or a call that waits would hold on to the file, and keep it open

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for events: see :meth:`EpollLike.poll`."""
        maxevents = c_int(maxevents)
        if self._closed:
            self._check_open()
        milliseconds = deadline = None
        if timeout is not None:
            milliseconds = milliseconds_of(timeout)
            if milliseconds:
                deadline = time.monotonic() + milliseconds / 1000
        if maxevents < 1:
            maxevents = maximum_of_events(maxevents)
        me = get_ident()
        try:
            self._polls.append(me)
            self._check_open()  # again, since nobody lets go of anything from here on
            while True:
                events = self._report(self._wait(milliseconds), maxevents)
                if events or milliseconds == 0:
                    return events
                # Nothing yet: the time is up, or only closed descriptors were ready, or the
                # table has changed. epoll would sleep on.
                if deadline is not None:
                    milliseconds = math.ceil((deadline - time.monotonic()) * 1000)
                    if milliseconds <= 0:
                        return events
                if self._closed_by == me:
                    raise OSError(errno.EBADF, "a signal handler has closed the loop that was waiting")
        finally:
            if me in self._polls:  # a Ctrl-C may have come before
                self._polls.remove(me)
            if self._closed:
                self._let_go()

    def close(self) -> None:
        """Let go of everything; a second call does nothing.

        As with epoll, a ``poll`` that another thread is in goes on; with its end the rest goes.
        """
        if not self._closed:
            self._closed_by = get_ident()
            self._closed = True
            self._changed()
            self._let_go()

    def __del__(self) -> None:
        # As an epoll does, it goes in silence when nobody refers to it any more.
        try:
            self.close()
        except AttributeError:
            pass  # the constructor has failed

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")

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
        """Have the platform watch a descriptor, which it may watch for something else already.

        Called with the lock held. An error must leave things as they were.
        """
        raise NotImplementedError

    def _forget(self, number: int) -> None:
        """Have the platform watch a descriptor no more; nothing to do if it does not.

        Called with the lock held. The number may be closed, or another file's by now.
        """
        raise NotImplementedError

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        """Wait for events, ``None`` for ever. May return too early, with nothing.

        Called without the lock, by several threads at once. May tell of more than was asked
        for, of descriptors that are not registered (any more), and by ``poll_nval`` of those
        that are not open.
        """
        raise NotImplementedError

    def _changed(self) -> None:
        """Have those who wait already wait for what the table says now."""

    def _renew(self) -> None:
        """Do without what the parent's threads had in hand: this is the child of a fork.

        What epoll shares, the table, stays; which threads wait, and who holds the lock, does not.
        """
        self._lock = RLock()
        self._polls.clear()

    def _release(self) -> None:
        """Close what the loop itself had open. Called once, when nobody waits any more."""

    # The rules

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"I/O operation on closed {self.call} object")

    def _check_possible(self, number: int, mask: int) -> None:
        """Refuse what epoll refuses, or has and we have not."""
        for event in REFUSED:
            if mask & int(event):
                raise ValueError(f"{event.name} is not possible with {self.call}: epoll alone has it")

    def _registered(self, number: int) -> Interest:
        try:
            interest = self._current(number, identify(number))
        except OSError:
            if number in self._interests:
                self._drop(number)  # what has the number next may look the same
            raise
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

    def _drop(self, number: int) -> None:
        del self._interests[number]
        self._forget(number)

    def _drop_stale(self, number: int, interest: Interest) -> None:
        """Drop an interest in a closed file, unless another has taken its place by now."""
        with self._lock:
            if self._interests.get(number) is interest:
                self._drop(number)

    def _let_go(self) -> None:
        with self._lock:
            if not self._polls and not self._released:
                self._released = True
                for number in list(self._interests):
                    self._drop(number)
                self._release()

    def _report(self, ready: Iterable[Event], limit: int) -> list[Event]:
        """What poll may return of what the platform found ready."""
        events = []
        interests = self._interests
        oneshots = 0
        for number, mask in ready:
            # A signal handler or another thread may have changed the table during the wait.
            interest = interests.get(number)
            if interest is None:
                continue
            if mask & CLOSED or interest.identity != identity_of(number):
                self._drop_stale(number, interest)
                continue
            mask &= interest.reported
            if mask:
                events.append((number, mask))
                oneshots |= interest.mask
        if len(events) > limit or self._some_wait:
            events = self._whose_turn_it_is(events, limit)
        if oneshots & ONESHOT:
            events = [event for event in events if self._claim(event[0])]
        return events

    def _whose_turn_it_is(self, events: list[Event], limit: int) -> list[Event]:
        self._some_wait = len(events) > limit
        rows = [(self._interests.get(event[0], GONE), event) for event in events]
        rows.sort(key=lambda row: row[0].last_report)
        del rows[limit:]
        for interest, _ in rows:
            self._reports += 1
            interest.last_report = self._reports
        return [event for _, event in rows]

    def _claim(self, number: int) -> bool:
        """Whether an event is this poll's to report: a oneshot is for one of several threads."""
        with self._lock:
            interest = self._interests.get(number, GONE)
            if not interest.mask & ONESHOT:
                return True
            if not interest.reported:
                return False
            interest.reported = 0
            self._forget(number)
            return True


_LOOPS: weakref.WeakSet[UserSpaceLoop] = weakref.WeakSet()


def _renew_all() -> None:
    for loop in list(_LOOPS):
        loop._renew()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_all)
