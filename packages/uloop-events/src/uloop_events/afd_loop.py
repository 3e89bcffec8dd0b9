r"""AfdLoop: epoll's contract on AFD, the driver of Windows' sockets.

It holds as many sockets as Windows does, where ``select`` holds 512. A ``poll`` costs O(r) of
the sockets that have something to report, or have been changed: for each of them a request to
AFD, and a look at its addresses. How many others are registered does not matter. ``register``,
``modify`` and ``unregister`` cost O(1); the first two leave the request to the next ``poll``.

How it works. AFD is asked to poll a socket, and answers once, through a completion port, when
one of the events holds. A level that lasts is therefore asked for anew: what was reported is
asked for again when the next ``poll`` begins, and answered at once if it holds still. What
was answered while nobody waited may have changed since, so that is asked for again, too.
There is never more than one request out for a socket, as AFD confuses two: if an interest
grows, the old request is taken back first, and when it has come back the new one is made.

When several threads poll, those that wait are woken when one of them has got something, and
ask for it themselves; so all get what lasts. When a thread makes a change, one that waits is
woken and asks for what is new. A ``poll(0)`` beside a thread that waits may be too early to
see what that thread is about to be told.

What differs from epoll:

* Sockets alone can be watched. Not possible: ``poll_et`` and ``poll_exclusive``.
* ``poll_hup`` comes with ``poll_err`` only, after a reset or a refused connect: AFD does not
  tell whether our own half is shut. Both stay after the error was read from the socket.
* AFD tells that a socket is closed while a request for it is out. Between a report and the
  next ``poll`` none is, and when the number is another socket's by then, the two are told
  apart by their addresses: the port, and the peer of a stream. Sockets without addresses, and
  those that were bound to the same port one after the other, look the same. Unregister first.
* A duplicate of a socket counts as a socket of its own here, but AFD may mix up the events of
  the two. So it may for a socket in two loops: Windows Server 2016 was seen to lose some
  (https://github.com/piscisaureus/wepoll/issues/35). Use one loop for a socket.
"""

from __future__ import annotations

from .event import UEvent
from .identity import is_open
from .interest import UserSpaceLoop

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ctypes import c_void_p

    from .afd import Completions, Driver
    from .identity import Identity
    from .interest import Event, Interest

__all__ = ["AfdLoop"]

LONGEST_WAIT = 100  # milliseconds; the wait is not ended by Ctrl-C, its handler runs after it
LONGEST_CANCEL = 1000  # milliseconds to wait for a cancelled request; it takes far less
GROUP_SIZE = 32  # requests for one handle of AFD: what it takes to cancel one grows with their number

IN = int(UEvent.poll_in)
PRI = int(UEvent.poll_pri)
OUT = int(UEvent.poll_out)
ERR = int(UEvent.poll_err)
RDHUP = int(UEvent.poll_rdhup)
BROKEN = IN | OUT | ERR | RDHUP | int(UEvent.poll_hup)

# What AFD can be asked for. CONNECT (0x040) is not used, for it would be answered again and again.
RECEIVE = 0x001
RECEIVE_EXPEDITED = 0x002
SEND = 0x004
DISCONNECT = 0x008  # the peer sends no more
ABORT = 0x010  # a reset
LOCAL_CLOSE = 0x020  # the last handle of the socket is closed
ACCEPT = 0x080
CONNECT_FAIL = 0x100

MEANINGS = (  # an event of AFD, and what epoll shows in that situation
    (RECEIVE | ACCEPT, IN),
    (RECEIVE_EXPEDITED, PRI),
    (SEND, OUT),
    (DISCONNECT, IN | RDHUP),
    (ABORT | CONNECT_FAIL, BROKEN),
)

FOR_EVER = 2**63 - 1

# NTSTATUS
SUCCESS = 0
PENDING = 0x103
CANCELLED = 0xC0000120
NOT_A_SOCKET = (0xC0000008, 0xC0000024)  # STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH

# Requests that did not end when they were cancelled, for the system may write into them still.
_ABANDONED: list[object] = []


class Group:
    """A handle of AFD, and how many watches make their requests with it."""

    __slots__ = ("device", "size")

    def __init__(self, driver: Driver, port: c_void_p) -> None:
        self.device = driver.open_device(port)
        self.size = 0


class Watch:
    """A registration, and the one request that it has out at a time.

    What AFD answers is for the watch that has asked, and is known by the request's address. An
    answer that comes late, when the socket's number is another's already, finds the old watch,
    which is gone.
    """

    __slots__ = (
        *("asked", "gone", "group", "is_stream", "number", "peer", "port"),
        *("request", "socket", "start", "wanted"),
    )

    def __init__(self, driver: Driver, number: int, group: Group) -> None:
        self.number = number
        self.socket = driver.base_socket(number)
        self.is_stream = driver.is_stream(number)
        self.port = self.peer = b""  # as afd.Names tells them; empty until they are known
        self.group = group
        self.request = driver.new_request()
        self.start = driver.starter(group.device, self.request)
        self.wanted = 0  # the events of AFD that are to be asked for
        self.asked = 0  # those of the request that is out; 0 if none is
        self.gone = False  # unregistered


class AfdLoop(UserSpaceLoop):
    """``select.epoll`` on AFD.

    Raises:
        NotImplementedError: when constructed on another platform than Windows.
    """

    call = "afd"

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        from . import afd  # not above, for it imports ctypes

        self._driver = afd.driver()
        super().__init__(sizehint, flags)
        self._watches: dict[int, Watch] = {}  # by number
        self._out: dict[int, Watch] = {}  # by the address of the request that is out
        self._due: dict[Watch, None] = {}  # to ask: no request is out, or one that asks for too little
        self._cancelling: set[Watch] = set()  # whose request was taken back to make another one
        self._groups: set[Group] = set()
        self._with_room: set[Group] = set()
        self._names = self._driver.new_names()
        self._spare: list[Completions] = []
        self._waiting: set[Completions] = set()  # one for each thread that waits
        self._port = self._driver.open_port()

    # What the base asks for

    def _watch(self, number: int, mask: int) -> None:
        watch = self._watches.get(number)
        if watch is None:
            watch = self._watches[number] = self._new_watch(number)
        watch.wanted = _events_for(mask)
        self._due[watch] = None

    def _forget(self, number: int) -> None:
        watch = self._watches.get(number)
        if watch is None:
            return
        if number in self._interests:
            # A oneshot that has fired. It is registered still, until the socket is closed.
            watch.wanted = LOCAL_CLOSE
            self._due[watch] = None
            return
        del self._watches[number]
        self._due.pop(watch, None)
        watch.gone = True
        if not watch.asked:
            self._leave_group(watch.group)
        elif watch in self._cancelling:
            self._cancelling.remove(watch)
        elif not self._released and not self._is_closed(watch):
            # Else they are cancelled all at once, or AFD has answered when the socket was closed.
            self._driver.cancel(watch.group.device, watch.request)

    def _changed(self) -> None:
        if self._waiting:
            self._driver.wake(self._port)  # who is woken asks for what is due

    def _current(self, number: int, identity: Identity) -> Interest | None:
        watch = self._watches.get(number)
        if watch is not None:
            if watch.asked:  # AFD may have told already that the socket was closed
                completions = self._completions()
                self._take_all(completions, {})
                self._spare.append(completions)
                if self._due:
                    self._changed()
            if not watch.gone and self._is_closed(watch):
                self._drop(number)
        return super()._current(number, identity)

    def _wait(self, milliseconds: int | None) -> Iterable[Event]:
        if milliseconds is None or milliseconds > LONGEST_WAIT:
            milliseconds = LONGEST_WAIT
        found: dict[Watch, int] = {}
        completions = self._completions()
        try:
            with self._lock:
                self._cancel_outgrown()
                self._take_all(completions, {})  # from before this poll, and perhaps not true any more
                self._await_cancelled(completions)
                may_be_answered = self._ask(found)
                self._waiting.add(completions)
            if may_be_answered or not found:
                self._driver.wait(self._port, completions, 0 if found else milliseconds)
        finally:  # in any case, or what the port has told would be lost by Ctrl-C
            with self._lock:
                self._waiting.discard(completions)
                if self._take(completions, found) == completions.SIZE:
                    self._take_all(completions, found)
                if self._due:
                    for _ in self._waiting:
                        self._driver.wake(self._port)  # they ask for the same, and find it if it lasts
                self._spare.append(completions)
        return self._those_not_gone(found)

    def _report(self, ready: Iterable[Event], limit: int) -> list[Event]:
        with self._lock:  # no number may change its meaning from _those_not_gone to the table
            return super()._report(ready, limit)

    def _release(self) -> None:
        try:
            completions = self._completions()
            for group in self._groups:
                self._driver.cancel(group.device, None)
            while self._out:
                self._driver.wait(self._port, completions, LONGEST_CANCEL)
                if not self._take(completions, {}):
                    break
        finally:
            if self._out:
                _ABANDONED.append(self._out)
            for group in self._groups:
                self._driver.close(group.device)
            self._driver.close(self._port)

    # Requests. The lock is held in all of these.

    def _cancel_outgrown(self) -> None:
        """Take back the requests that lack an event which is wanted now.

        One that asks for too much stays, and asks for less when it has been answered.
        """
        for watch in list(self._due):
            if watch.asked and watch.wanted & ~watch.asked and watch not in self._cancelling:
                self._cancelling.add(watch)
                self._driver.cancel(watch.group.device, watch.request)

    def _await_cancelled(self, completions: Completions) -> None:
        """Wait until they are back. That takes no time, but a thread that waits already may get them."""
        while self._cancelling and not self._waiting:
            self._driver.wait(self._port, completions, LONGEST_CANCEL)
            if not self._take(completions, {}):
                break

    def _ask(self, found: dict[Watch, int]) -> bool:
        """Make the requests that are due, and say whether some of them were not answered at once."""
        some_are_out = False
        for watch in list(self._due):
            if not watch.asked and not watch.gone:
                some_are_out |= self._start(watch, found)
            if watch.asked or watch.gone:
                self._due.pop(watch, None)
        return some_are_out

    def _start(self, watch: Watch, found: dict[Watch, int]) -> bool:
        if self._is_another(watch):  # closed while no request was out, or AFD would have told
            self._socket_is_gone(watch)
            return False
        request = watch.request
        # All of it anew, for the answer is written over it.
        request.status = PENDING
        request.timeout = FOR_EVER
        request.count = 1
        request.exclusive = 0
        request.socket = watch.socket
        request.events = watch.asked = watch.wanted
        self._out[request.address] = watch
        status = watch.start()
        if status == PENDING:
            return True
        del self._out[request.address]
        if not self._driver.failed(status):
            self._answered(watch, found)
        else:
            watch.asked = 0
            if status not in NOT_A_SOCKET and is_open(watch.number):
                raise self._driver.error_of(status)
            self._socket_is_gone(watch)
        return False

    def _take_all(self, completions: Completions, found: dict[Watch, int]) -> None:
        """Take what AFD has answered until now."""
        count = completions.SIZE if self._out else 0
        while count == completions.SIZE:
            self._driver.wait(self._port, completions, 0)
            count = self._take(completions, found)

    def _take(self, completions: Completions, found: dict[Watch, int]) -> int:
        """Take what a wait has left, and say how much it was."""
        addresses = completions.take()
        for address in addresses:
            watch = self._out.pop(address, None)
            if watch is not None:
                self._answered(watch, found)
        return len(addresses)

    def _answered(self, watch: Watch, found: dict[Watch, int]) -> None:
        """Note what the request of a watch was answered. It is due again."""
        request = watch.request
        watch.asked = 0
        self._cancelling.discard(watch)
        if watch.gone:
            self._leave_group(watch.group)
            return
        self._due[watch] = None
        status = request.status & 0xFFFFFFFF  # what it shares its place with is wider
        if status == SUCCESS and request.count:
            events = request.events
            if events & LOCAL_CLOSE:
                self._socket_is_gone(watch)
            elif mask := _MASKS[events]:
                found[watch] = mask
        elif self._driver.failed(status) and status != CANCELLED:
            found[watch] = ERR

    def _socket_is_gone(self, watch: Watch) -> None:
        if watch.number in self._interests:
            self._drop(watch.number)

    def _those_not_gone(self, found: dict[Watch, int]) -> Iterator[Event]:
        for watch, mask in found.items():
            if not watch.gone:
                yield watch.number, mask

    # What a watch has

    def _new_watch(self, number: int) -> Watch:
        if not self._with_room:
            group = Group(self._driver, self._port)
            self._groups.add(group)
            self._with_room.add(group)
        group = next(iter(self._with_room))
        watch = Watch(self._driver, number, group)
        self._is_another(watch)  # learns what the addresses are
        group.size += 1
        if group.size == GROUP_SIZE:
            self._with_room.remove(group)
        return watch

    def _leave_group(self, group: Group) -> None:
        group.size -= 1
        self._with_room.add(group)
        if not group.size and len(self._with_room) > 1:  # the last one stays for the next socket
            self._with_room.remove(group)
            self._groups.remove(group)
            self._driver.close(group.device)

    def _is_closed(self, watch: Watch) -> bool:
        """Whether the socket of a watch is no more, as far as the addresses tell."""
        return (watch.port != b"" and not self._names.port(watch.number)) or self._is_another(watch)

    def _is_another(self, watch: Watch) -> bool:
        """Whether the number of a watch is another socket's by now, as far as the addresses tell.

        A socket keeps its port once it has one. If it is a stream it keeps its peer until that is
        gone, too; of a datagram socket, the peer may change.
        """
        port = self._names.port(watch.number)
        peer = self._names.peer(watch.number) if watch.is_stream else b""
        if (port and watch.port and port != watch.port) or (peer and watch.peer and peer != watch.peer):
            return True
        watch.port, watch.peer = port or watch.port, peer or watch.peer
        return False

    def _completions(self) -> Completions:
        try:
            return self._spare.pop()
        except IndexError:
            return self._driver.new_completions()


def _events_for(mask: int) -> int:
    """The events of AFD that show what an interest is in."""
    events = ABORT | CONNECT_FAIL | LOCAL_CLOSE
    for theirs, ours in MEANINGS:
        if mask & ours:
            events |= theirs
    return events


class _Masks(dict[int, int]):
    """The answers of AFD met so far, and the mask for each."""

    def __missing__(self, events: int) -> int:
        mask = 0
        for theirs, ours in MEANINGS:
            if events & theirs:
                mask |= ours
        self[events] = mask
        return mask


_MASKS = _Masks()
