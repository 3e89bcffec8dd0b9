"""KqueueLoop: epoll's contract on kqueue(2), for macOS and the BSDs.

kqueue is what these systems have for epoll: the table of what is watched is in the kernel. A
``poll`` costs O(ready) and a change O(1), a change is seen by the calls that wait already, and
the kernel lets closed descriptors go by itself. What it watches is different: filters, one for
each direction, which report the number of bytes, the end of the stream (EV_EOF) and the error
behind it (fflags). They become epoll's mask after the rules that jiixyj/epoll-shim has found
out on these systems:

===============  =======================  ====================================================
what             filter and flags         mask
===============  =======================  ====================================================
socket           READ; READ and EOF       IN; IN and RDHUP
socket           WRITE, EOF or not        OUT
socket           both at their EOF        HUP besides
pipe, reader     READ; READ and EOF       IN; HUP, and IN while there is data
pipe, writer     WRITE; WRITE and EOF     OUT; OUT and ERR
anything else    EOF                      HUP besides
anything         EOF with an error        ERR besides
socket           EXCEPT and NOTE_OOB      PRI
===============  =======================  ====================================================

* *The other direction.* One filter does not tell HUP. When a socket's filter is at its EOF, a
  kqueue made for this one question is asked about the other direction: three calls more, for
  as long as a socket that has ended stays registered.
* *Nothing asked for.* ERR and HUP are always reported, so who asks for neither IN nor OUT gets
  a sentinel: a filter with EV_CLEAR, which speaks when something changes and not for as long
  as it lasts. What arrives there costs a wake-up each. A sentinel that had something to report
  is set anew, so that the next ``poll`` reports it again.
* *PRI* has a filter on macOS, OpenBSD and DragonFly. Elsewhere poll(2) watches the sockets that
  are registered for it, and a ``poll`` costs O(n) of these.
* *A pipe's writer without a reader.* Systems refuse to add its filter (EPIPE, on NetBSD EBADF),
  so ERR and OUT are reported without one, and every ``poll`` tries to add it again.
* *What kqueue does not take.* macOS refuses /dev/tty and some other devices. Such descriptors
  are served by an outer select(2), or poll(2) where that takes devices, which watches the
  kqueue besides. A ``poll`` costs O(n) of these, and as one more call that waits; SelectLoop's
  limits hold for them.

Where it differs from epoll: nothing is reported of a TCP socket that was never connected (epoll
says OUT and HUP), an error of a datagram socket shows as IN and OUT, a terminal whose other side
has closed has no ERR, and a full pipe without a reader is OUT besides ERR, as no write to it
would wait. A kqueue is not inherited by fork.

Not possible: ``poll_et`` and ``poll_exclusive``.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys

from .event import UEvent
from .interest import UserSpaceLoop

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Protocol

    from .identity import Identity
    from .interest import Event, Interest

    class Kevent(Protocol):
        """A ``select.kevent``, which the type checkers do not know on every platform."""

        ident: int
        filter: int
        flags: int
        fflags: int
        data: int

    class Kqueue(Protocol):
        """A ``select.kqueue`` object."""

        @property
        def closed(self) -> bool: ...
        def close(self) -> None: ...
        def fileno(self) -> int: ...
        def control(
            self, changes: Sequence[Kevent] | None, most: int, seconds: float | None, /
        ) -> list[Kevent]: ...

    class MakeKevent(Protocol):
        def __call__(self, ident: int, filter: int, flags: int, fflags: int = 0) -> Kevent: ...  # noqa: A002


__all__ = ["KqueueLoop"]

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
ERR = int(UEvent.poll_err)
HUP = int(UEvent.poll_hup)
RDHUP = int(UEvent.poll_rdhup)

# How a filter is set: to report for as long as something lasts, or when something changes.
LEVEL = 0
SENTINEL = 1
SILENT = 2  # disabled, of a oneshot that has fired

# What a descriptor is.
SOCKET = "socket"
READER = "reader of a pipe"
WRITER = "writer of a pipe"
BOTH_ENDS = "both ends of a pipe"  # a named one that was opened for both; on FreeBSD, every pipe
OTHER = "something else"
ODD = "something that kqueue does not take"

# How kqueue says that it does not take a device.
NOT_TAKEN = {errno.EINVAL, errno.ENODEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}

# The filter for exceptional conditions and its flag for urgent data, which ``select`` has no names for.
NO_FILTER = 0x7FFF  # no system has one of this number
EXCEPT_AND_OOB = {"darwin": (-15, 2), "openbsd": (-9, 4), "dragonfly": (-8, 2)}
FILTERS_EACH = 3  # READ, WRITE, EXCEPT


class Watch:
    """What the kernel watches of one descriptor."""

    __slots__ = ("filters", "kind", "mask")

    def __init__(self, kind: str, mask: int, filters: dict[int, int]) -> None:
        self.kind = kind
        self.mask = mask
        self.filters = filters  # filter: LEVEL, SENTINEL or SILENT


class System:
    """The names of kqueue, looked up in ``select`` when a loop is made."""

    def __init__(self) -> None:
        if not hasattr(select, "kqueue"):
            raise NotImplementedError(f"{sys.platform} has no kqueue; SelectLoop runs everywhere")
        names: Any = select
        self.make_kqueue = names.kqueue
        self.kevent: MakeKevent = names.kevent
        self.read: int = names.KQ_FILTER_READ
        self.write: int = names.KQ_FILTER_WRITE
        self.add: int = names.KQ_EV_ADD
        self.delete: int = names.KQ_EV_DELETE
        self.enable: int = names.KQ_EV_ENABLE
        self.disable: int = names.KQ_EV_DISABLE
        self.oneshot: int = names.KQ_EV_ONESHOT
        self.clear: int = names.KQ_EV_CLEAR
        self.error: int = names.KQ_EV_ERROR
        self.eof: int = names.KQ_EV_EOF
        self.urgent: int = getattr(select, "KQ_FILTER_EXCEPT", NO_FILTER)
        self.oob: int = getattr(select, "KQ_NOTE_OOB", 0)
        for system, numbers in EXCEPT_AND_OOB.items():
            if sys.platform.startswith(system):
                self.urgent, self.oob = numbers


class KqueueLoop(UserSpaceLoop):
    """``select.epoll`` on kqueue.

    Raises:
        NotImplementedError: when constructed on a platform without kqueue, as Linux and Windows are.
    """

    call = "kqueue"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        self._system = System()
        super().__init__(sizehint, flags)
        self._kqueue: Kqueue = self._system.make_kqueue()
        try:
            self._bell, writer = os.pipe()
        except BaseException:
            self._kqueue.close()
            raise
        os.close(writer)  # so that the bell is readable whenever it is watched
        self._watches: dict[int, Watch] = {}
        self._broken: set[int] = set()  # writers of pipes for whom kqueue has no filter any more
        self._outer: UserSpaceLoop | None = None  # what serves the odd ones; it watches our kqueue as well
        self._sleepers: list[object] = []  # one for each wait under way
        self._called: list[object] = []  # those of them that the bell is ringing for
        self._unseen = False  # whether the table has something new that kevent does not tell to who waits

    def fileno(self) -> int:
        """The kqueue's descriptor, which is readable while something is ready.

        What kqueue does not take (see the module) is not behind it: odd descriptors, a pipe's
        writer that was registered when the reader had closed, and where there is no filter for
        them, urgent data.

        Raises:
            ValueError: the loop is closed.
        """
        self._check_open()
        if self._kqueue.closed:
            raise self._lost()
        return self._kqueue.fileno()

    def _check_possible(self, number: int, mask: int) -> None:
        super()._check_possible(number, mask)
        if number == self._bell or (not self._kqueue.closed and number == self._kqueue.fileno()):
            raise OSError(errno.EINVAL, f"descriptor {number} belongs to this loop itself")

    # Changes

    def _watch(self, number: int, mask: int) -> None:
        before = self._watches.get(number)
        kind = before.kind if before is not None else kind_of(number)
        former = before.filters if before is not None else {}
        filters = self._filters_for(kind, mask)
        broken = False
        if kind != ODD:
            try:
                broken = self._set(number, kind, former, filters)
            except OSError as error:
                if kind != OTHER or error.errno not in NOT_TAKEN:
                    raise
                kind, filters = ODD, {}
        try:
            if kind == ODD:
                self._watch_outside(number, mask)
                self._delete(number, former)  # it may be one filter alone that kqueue does not take
            elif kind == SOCKET and mask & PRI and self._system.urgent == NO_FILTER:
                self._watch_outside(number, PRI)
            else:
                self._forget_outside(number)
        except BaseException:
            self._delete(number, filters)
            for each in former:
                self._try(self._addition(number, each, former[each]))
            raise
        self._watches[number] = Watch(kind, mask, filters)
        self._broken.discard(number)
        if broken:
            self._broken.add(number)
            self._unseen = True

    def _forget(self, number: int) -> None:
        watch = self._watches.get(number)
        self._broken.discard(number)
        self._forget_outside(number)
        if watch is None:
            return
        if number in self._interests:
            # A oneshot that has fired. The filters stay, to be gone when the descriptor is closed.
            for each in watch.filters:
                watch.filters[each] = SILENT
                self._try(self._kevent(number, each, self._system.disable))
            return
        del self._watches[number]
        if not self._released:  # the kernel itself forgets a kqueue that is closed
            self._delete(number, watch.filters)

    def _current(self, number: int, identity: Identity) -> Interest | None:
        """As the base, but ask the kernel as well: the TCP sockets of macOS have no inode to know them by."""
        interest = super()._current(number, identity)
        if interest is not None and self._was_closed(number):
            self._drop(number)
            return None
        return interest

    def _was_closed(self, number: int) -> bool:
        """Whether a socket's filters are gone, as they are when it is closed."""
        watch = self._watches.get(number)
        if watch is not None and watch.kind == SOCKET:
            for each in (self._system.read, self._system.write):
                if each in watch.filters:
                    silent = watch.filters[each] == SILENT
                    same = self._system.disable if silent else self._system.enable
                    try:
                        self._control([self._kevent(number, each, same)])
                    except OSError as error:
                        return error.errno == errno.ENOENT
        return False

    def _filters_for(self, kind: str, mask: int) -> dict[int, int]:
        """The filters that tell what a mask asks for, and ERR and HUP, which nobody has to ask for."""
        read, write = self._system.read, self._system.write
        filters = {}
        if mask & IN and kind != WRITER:
            filters[read] = LEVEL
        if mask & OUT and kind != READER:
            filters[write] = LEVEL
        if not filters:
            filters[write if kind == WRITER else read] = SENTINEL
        if kind == SOCKET:
            if mask & RDHUP:
                filters.setdefault(read, SENTINEL)
            if mask & PRI and self._system.urgent != NO_FILTER:
                filters[self._system.urgent] = SENTINEL
        return filters

    def _set(self, number: int, kind: str, before: dict[int, int], filters: dict[int, int]) -> bool:
        """Replace the filters of a descriptor; whether it writes to a pipe that nobody reads any more.

        A filter that stays is added once more: it costs no call, and would be missing if the
        number was closed and opened again. A sentinel is made anew, for it may have spoken.
        """
        deleted = [each for each in before if before[each] != LEVEL or filters.get(each) != LEVEL]
        try:
            changes = [self._kevent(number, each, self._system.delete) for each in deleted]
            self._control([*changes, *(self._addition(number, each, filters[each]) for each in filters)])
            return False
        except OSError:
            if self._kqueue.closed:
                raise
        # A call ends with its first error, and does not say which change it was.
        broken = False
        self._delete(number, deleted)
        try:
            for each in filters:
                broken |= not self._add(number, kind, each, filters[each])
        except OSError:
            self._delete(number, filters)
            for each in before:
                self._try(self._addition(number, each, before[each]))
            raise
        return broken

    def _add(self, number: int, kind: str, which: int, how: int) -> bool:
        """Add a filter; ``False`` if it would tell a pipe's writer that nobody reads any more."""
        try:
            self._control([self._addition(number, which, how)])
        except OSError as error:
            # NetBSD says EBADF; but the descriptor is open, or will be found closed.
            if which == self._system.write and (
                error.errno == errno.EPIPE or (error.errno == errno.EBADF and kind in (WRITER, BOTH_ENDS))
            ):
                return False
            if which != self._system.urgent or error.errno not in NOT_TAKEN:
                raise  # else it is a socket of a kind that has no urgent data
        return True

    def _delete(self, number: int, filters: Iterable[int]) -> None:
        """Delete filters, of which the kernel may have let go already."""
        for each in filters:
            self._try(self._kevent(number, each, self._system.delete))

    def _try(self, change: Kevent) -> None:
        try:
            self._control([change])
        except OSError:
            pass  # closed, or gone with what was closed

    def _addition(self, number: int, which: int, how: int) -> Kevent:
        flags = self._system.add
        if how == SENTINEL:
            flags |= self._system.clear
        elif how == SILENT:
            flags |= self._system.disable
        return self._kevent(number, which, flags)

    def _kevent(self, number: int, which: int, flags: int) -> Kevent:
        return self._system.kevent(
            number, which, flags, self._system.oob if which == self._system.urgent else 0
        )

    def _control(
        self, changes: Sequence[Kevent] | None, most: int = 0, seconds: float | None = 0
    ) -> list[Kevent]:
        try:
            return self._kqueue.control(changes, most, seconds)
        except ValueError:
            if not self._kqueue.closed:
                raise
            raise self._lost() from None

    def _lost(self) -> OSError:
        return OSError(
            errno.EBADF, "a kqueue is not inherited by fork: the child must make a loop of its own"
        )

    # What is served outside of the kqueue

    def _watch_outside(self, number: int, mask: int) -> None:
        if self._outer is None:
            self._outer = self._make_outer()
        with self._outer._lock:
            if number in self._outer._interests:
                self._outer.modify(number, mask)
            else:
                self._outer.register(number, mask)
        self._unseen = True

    def _forget_outside(self, number: int) -> None:
        if self._outer is not None:
            with self._outer._lock:
                if number in self._outer._interests:
                    self._outer._drop(number)

    def _outer_type(self) -> type[UserSpaceLoop]:
        if sys.platform == "darwin":  # whose poll(2) takes no devices
            from .select_loop import SelectLoop

            return SelectLoop
        from .poll_loop import PollLoop

        return PollLoop

    def _make_outer(self) -> UserSpaceLoop:
        outer = self._outer_type()()
        try:
            outer.register(self._kqueue.fileno(), IN)
        except BaseException:
            outer.close()
            raise
        return outer

    def _changed(self) -> None:
        """Have everybody who waits look again, if kevent does not do so by itself."""
        if self._unseen or self._closed:
            with self._lock:
                self._unseen = False
                if self._sleepers:
                    self._called = list(self._sleepers)
                    self._try(self._kevent(self._bell, self._system.read, self._system.add))

    def _renew(self) -> None:
        super()._renew()
        self._sleepers.clear()
        self._called.clear()

    def _release(self) -> None:
        if self._outer is not None:
            self._outer.close()
        self._kqueue.close()
        os.close(self._bell)

    # Waiting

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        me = object()
        self._sleepers.append(me)  # before the look at what is there to wait for
        try:
            return self._find(milliseconds)
        finally:
            with self._lock:
                self._sleepers.remove(me)
                if me in self._called:
                    self._called.remove(me)
                    if not self._called:
                        self._delete(self._bell, [self._system.read])

    def _find(self, milliseconds: int | None) -> Iterable[Event]:
        found: dict[int, int] = {}
        if self._broken:
            milliseconds = 0
        if self._outer is not None and len(self._outer._interests) > 1:  # one of them is the kqueue
            found.update(self._outer._wait(milliseconds))
            milliseconds = 0
        seconds = None if milliseconds is None else milliseconds / 1000
        # With room for no event the call would not wait.
        self._translate(self._control(None, FILTERS_EACH * len(self._watches) + 1, seconds), found)
        for number in list(self._broken):
            found[number] = found.get(number, 0) | OUT | ERR
            self._mend(number)
        return found.items()

    def _mend(self, number: int) -> None:
        """See whether a pipe has a reader again, as a named one may."""
        with self._lock:
            watch = self._watches.get(number)
            if watch is not None and number in self._broken:
                write = self._system.write
                try:
                    if self._add(number, watch.kind, write, watch.filters[write]):
                        self._broken.discard(number)
                except OSError:
                    pass  # it is closed, as will be found out

    def _translate(self, events: list[Kevent], found: dict[int, int]) -> None:
        """Merge what the filters say into one mask for each descriptor."""
        read, write = self._system.read, self._system.write
        remarkable = self._system.eof | self._system.error
        others: dict[int, dict[int, Kevent]] = {}
        for event in events:
            if event.flags & remarkable or event.filter not in (read, write):
                others.setdefault(event.ident, {})[event.filter] = event
            else:
                found[event.ident] = found.get(event.ident, 0) | (IN if event.filter == read else OUT)
        # Of what is not registered any more, and of the bell, there is nothing to say.
        watched = [(watch, number) for number in others if (watch := self._watches.get(number))]
        questions = [
            self._kevent(number, each, self._system.add | self._system.oneshot)
            for watch, number in watched
            for each in self._doubts(watch, others[number])
        ]
        answers = self._ask(questions) if questions else {}
        for watch, number in watched:
            mask = found.get(number, 0) | self._mask(watch, others[number], answers.get(number, {}))
            found[number] = mask
            self._set_sentinels(number, watch, others[number], mask)

    def _doubts(self, watch: Watch, told: dict[int, Kevent]) -> list[int]:
        """The filters to ask about before it is known what a socket has to report."""
        doubts = []
        if watch.kind == SOCKET:
            if any(event.flags & self._system.eof for event in told.values()):
                doubts = [
                    each
                    for each in (self._system.read, self._system.write)
                    # A level would have told of its end.
                    if each not in told and watch.filters.get(each) != LEVEL
                ]
            if self._tells_of_urgent_data(told):  # macOS goes on with it, but not to who is new
                doubts.append(self._system.urgent)
        return doubts

    def _tells_of_urgent_data(self, told: dict[int, Kevent]) -> bool:
        urgent = self._system.urgent
        return urgent in told and bool(told[urgent].fflags & self._system.oob)

    def _ask(self, questions: list[Kevent]) -> dict[int, dict[int, Kevent]]:
        """What a new kqueue says about some filters now."""
        answers: dict[int, dict[int, Kevent]] = {}
        try:
            kqueue: Kqueue = self._system.make_kqueue()
        except OSError:
            return answers  # no descriptor is left: what is known without must do
        try:
            events = kqueue.control(questions, len(questions), 0)
            if any(event.flags & self._system.error for event in events):
                # Something was closed meanwhile, and its error comes instead of all events.
                events += kqueue.control(None, len(questions), 0)
        except OSError:
            events = []
        finally:
            kqueue.close()
        for event in events:
            if not event.flags & self._system.error:
                answers.setdefault(event.ident, {})[event.filter] = event
        return answers

    def _mask(self, watch: Watch, told: dict[int, Kevent], answers: dict[int, Kevent]) -> int:
        """What filters that are not just READ or WRITE without an end tell of a descriptor."""
        read, write = self._system.read, self._system.write
        mask = 0
        ended: dict[int, Kevent] = {}
        for each, event in (told | answers).items():
            if event.flags & self._system.error:
                mask |= ERR
            if event.flags & self._system.eof and each in (read, write):
                ended[each] = event
                if event.fflags:
                    mask |= ERR
        if watch.kind == SOCKET:
            if read in ended:
                mask |= IN | RDHUP
            if write in ended:
                mask |= OUT
            if len(ended) == 2:
                mask |= HUP
            if self._tells_of_urgent_data(answers):
                mask |= PRI
        elif watch.kind == OTHER:
            if ended:
                mask |= HUP | (IN if read in ended else 0) | (OUT if write in ended else 0)
        else:
            if read in ended:
                mask |= HUP | (IN if ended[read].data else 0)
            if write in ended:
                # The free space in ``data`` is 0 now on most systems, whether the pipe is full or not.
                mask |= HUP if read in watch.filters else OUT | ERR
        return mask

    def _set_sentinels(self, number: int, watch: Watch, told: dict[int, Kevent], mask: int) -> None:
        """Have the sentinels that were right speak again, for as long as they are."""
        read, write = self._system.read, self._system.write
        again = []
        if mask & (watch.mask | ERR | HUP):
            again = [each for each in (read, write) if each in told and watch.filters.get(each) == SENTINEL]
        if self._tells_of_urgent_data(told):
            again.append(self._system.urgent)
        if write not in watch.filters and mask & RDHUP and watch.filters.get(read) == SENTINEL:
            again.append(write)  # READ has said its last word, and the end of the other direction is HUP
        if again:
            with self._lock:
                if self._watches.get(number) is watch:  # else it is new, as its sentinels are
                    for each in again:
                        self._delete(number, [each])
                        watch.filters[each] = SENTINEL
                        try:
                            if not self._add(number, watch.kind, each, SENTINEL):
                                self._broken.add(number)
                                self._unseen = True
                        except OSError:
                            pass  # it is closed, as will be found out
            if self._unseen:
                self._changed()


def kind_of(number: int) -> str:
    """What kind of thing an open descriptor is."""
    mode = os.fstat(number).st_mode
    if stat.S_ISSOCK(mode):
        return SOCKET
    if stat.S_ISFIFO(mode) and sys.platform != "win32":
        import fcntl  # which Windows has not

        access = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        return {os.O_RDONLY: READER, os.O_WRONLY: WRITER}.get(access, BOTH_ENDS)
    return OTHER
