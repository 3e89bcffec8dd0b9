"""A model of kqueue(2) on Linux, so that what is built on kqueue can be tested there.

``install()`` gives the module ``select`` the names of kqueue where it has none. Then whole
programs run on the model, too::

    PYTHONPATH=packages/uloop-events/tests python -c "import kqueue_model; kqueue_model.install(); ..."

The descriptors are real and so is their readiness: each filter has an epoll of its own that
tells when something has changed (EPOLLET), and what a knote then has to say is found out by
poll(2), FIONREAD, TCP_INFO and the like. ``control`` waits in epoll_wait(2), so it releases
the GIL, runs signal handlers, and sees the changes that other threads make.

What is *measured* on NetBSD's own kqueue, and followed:

* refused or reset connections: READ and WRITE at EV_EOF with the error in fflags, and SO_ERROR
  still there for whoever asks for it;
* a TCP socket that was never connected has nothing to report;
* the peer has shut down, with data unread: READ is at EV_EOF with ``data`` the bytes, WRITE is not;
* a pipe's reader has closed: WRITE at EV_EOF with fflags 0;
* a listening socket: ``data`` is the number of connections that wait;
* EV_ADD of a knote that exists takes the new udata and keeps EV_CLEAR as it was, and a knote
  with EV_CLEAR speaks again if there is something;
* EV_DELETE: ENOENT of what is not there, or has spoken its EV_ONESHOT; EBADF of what is not open;
* the errors of changes come as EV_ERROR events if there is room for events, else are raised.

What was *read* in NetBSD's source (``sys_pipe.c``, ``uipc_socket.c``), not measured:

* WRITE of a pipe without a reader has ``data`` 0; EV_ADD of it is EBADF then (``broken_pipe``:
  EPIPE is what other systems say, 0 has it report EV_EOF);
* an error of a socket that is not shut down (UDP) makes READ and WRITE report without EV_EOF.

What is *assumed*, so that what a program does there is unproven:

* AF_UNIX: the peer's close is the end of both directions; there fflags is 0;
* terminals: the other side's close is EV_EOF of both filters;
* when errors of changes are returned, events are not, until the next call;
* EVFILT_EXCEPT (macOS has it, NetBSD has not: ``urgent=False``) with what jiixyj/epoll-shim says
  of it: it speaks of ordinary data, too, and says NOTE_OOB as long as the knote lives once there
  was urgent data;
* ``odd=True``: EINVAL of character devices, as macOS says of /dev/tty;
* the descriptor of the kqueue is readable when events wait, and now and then when none do;
* in the child of a fork a kqueue is closed;
* several threads that wait are all told of a level, and one of them of what has EV_CLEAR.

Known to be different: UDP's ``data`` is one datagram with 16 bytes of header (NetBSD counts
those of all); a timeout is exact (NetBSD has ticks of 10 ms); the numbers of errors are Linux's;
refused by EINVAL are regular files, and all filters but READ, WRITE and EXCEPT; one file that
has more than 500 numbers is looked at now and then, for epoll takes no more of them in here.
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError("the model of kqueue is made of Linux's epoll")

import errno
import fcntl
import math
import os
import select
import socket
import stat
import struct
import termios
import threading
import time
import weakref
from collections.abc import Iterable

__all__ = ["Kevent", "Kqueue", "install", "options"]

# As in NetBSD's <sys/event.h>, which unlike the others counts from 0.
READ = 0
WRITE = 1
# As on macOS.
EXCEPT = -15
NOTE_OOB = 2

EV_ADD = 0x0001
EV_DELETE = 0x0002
EV_ENABLE = 0x0004
EV_DISABLE = 0x0008
EV_ONESHOT = 0x0010
EV_CLEAR = 0x0020
EV_RECEIPT = 0x0040
EV_ERROR = 0x4000
EV_EOF = 0x8000

NAMES = {
    "KQ_FILTER_READ": READ,
    "KQ_FILTER_WRITE": WRITE,
    "KQ_EV_ADD": EV_ADD,
    "KQ_EV_DELETE": EV_DELETE,
    "KQ_EV_ENABLE": EV_ENABLE,
    "KQ_EV_DISABLE": EV_DISABLE,
    "KQ_EV_ONESHOT": EV_ONESHOT,
    "KQ_EV_CLEAR": EV_CLEAR,
    "KQ_EV_ERROR": EV_ERROR,
    "KQ_EV_EOF": EV_EOF,
}
# What CPython has no names for.
NAMES_OF_URGENT = {"KQ_FILTER_EXCEPT": EXCEPT, "KQ_NOTE_OOB": NOTE_OOB}

HEADER_OF_DATAGRAM = 16
PERIOD = 0.01  # seconds between two looks at what epoll does not take
MAXEVENTS = 1023  # what select.epoll returns at most when it is not told


class Options:
    """What differs from system to system; may be changed at any time."""

    def __init__(self) -> None:
        #: whether character devices are refused
        self.odd = False
        #: what adding WRITE says of a pipe without a reader; 0: nothing
        self.broken_pipe = errno.EBADF


options = Options()


def install(*, urgent: bool = True, odd: bool = False, broken_pipe: int = errno.EBADF) -> bool:
    """Give ``select`` the names of kqueue, unless the platform has them.

    Parameters:
        urgent: also those of EVFILT_EXCEPT and NOTE_OOB, which CPython itself does not have.
        odd: refuse character devices.
        broken_pipe: the error of adding a WRITE filter to a pipe without a reader, or 0.

    Returns:
        Whether the model is in place.
    """
    if getattr(select, "kqueue", Kqueue) is not Kqueue:
        return False
    options.odd = odd
    options.broken_pipe = broken_pipe
    for name, value in {"kqueue": Kqueue, "kevent": Kevent, **NAMES}.items():
        setattr(select, name, value)
    for name, number in NAMES_OF_URGENT.items():
        if urgent:
            setattr(select, name, number)
        elif hasattr(select, name):
            delattr(select, name)
    return True


class Kevent:
    """``select.kevent``: a change or an event."""

    __slots__ = ("data", "fflags", "filter", "flags", "ident", "udata")

    def __init__(
        self,
        ident: object,
        filter: int = READ,  # noqa: A002
        flags: int = EV_ADD,
        fflags: int = 0,
        data: int = 0,
        udata: int = 0,
    ) -> None:
        if not isinstance(ident, int):
            fileno = getattr(ident, "fileno", None)
            if fileno is None:
                raise TypeError("argument must be an int, or have a fileno() method.")
            ident = fileno()
        assert isinstance(ident, int)
        if ident < 0:
            raise ValueError(f"file descriptor cannot be a negative integer ({ident})")
        self.ident = ident
        self.filter = filter
        self.flags = flags
        self.fflags = fflags
        self.data = data
        self.udata = udata

    def _key(self) -> tuple[int, ...]:
        return (self.ident, self.filter, self.flags, self.fflags, self.data, self.udata)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Kevent) else NotImplemented

    def __lt__(self, other: Kevent) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return (
            f"<select.kevent ident={self.ident} filter={self.filter} flags={self.flags:#x} "
            f"fflags={self.fflags:#x} data={self.data:#x} udata={self.udata:#x}>"
        )


class Knote:
    """What a kqueue knows of one filter of one descriptor."""

    __slots__ = ("disabled", "flags", "ident", "identity", "told_of_oob", "udata", "what")

    def __init__(self, ident: int, what: int, flags: int, udata: int) -> None:
        self.ident = ident
        self.what = what
        self.flags = flags & (EV_CLEAR | EV_ONESHOT)
        self.udata = udata
        self.disabled = False
        self.told_of_oob = False
        self.identity = identity_of(ident)

    def event(self) -> Kevent | None:
        """What there is to report now, if there is something."""
        if self.what == EXCEPT:
            found = exceptional(self.ident)
            if found is not None:
                self.told_of_oob |= bool(found[1])
                found = (0, NOTE_OOB if self.told_of_oob else 0, found[2])
        else:
            found = (readable if self.what == READ else writable)(self.ident)
        if found is None:
            return None
        flags, fflags, data = found
        return Kevent(self.ident, self.what, EV_ADD | self.flags | flags, fflags, data, self.udata)


Key = tuple[int, int]  # (descriptor, filter)
Finding = tuple[int, int, int]  # (EV_EOF or 0, fflags, data)

_ALIVE: weakref.WeakValueDictionary[int, _State]


class _State:
    """What the kernel would have of one kqueue.

    ``outer`` is its descriptor. It watches the epolls of the filters, and a counter that is
    not 0 while there are knotes that may have something to report whatever their epolls say.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant, for signal handlers
        self.knotes: dict[Key, Knote] = {}
        self.dirty: dict[Key, None] = {}  # those that may have something to report, the next one first
        self.restless: dict[Key, None] = {}  # those that have to be looked at each time
        self.outer = select.epoll()
        self.inner = {what: select.epoll() for what in (READ, WRITE, EXCEPT)}
        self.counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.counted = False
        self.outer.register(self.counter, select.EPOLLIN)
        for each in self.inner.values():
            self.outer.register(each, select.EPOLLIN)
        _ALIVE[self.outer.fileno()] = self

    def close(self) -> None:
        if self.outer.closed:
            return  # by another object for the same kqueue
        _ALIVE.pop(self.outer.fileno(), None)
        self.outer.close()
        for each in self.inner.values():
            each.close()
        os.close(self.counter)

    def change(self, change: Kevent) -> None:
        key = (change.ident, change.filter)
        if change.filter not in (READ, WRITE, EXCEPT) or (
            change.filter == EXCEPT and not hasattr(select, "KQ_FILTER_EXCEPT")
        ):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.fstat(change.ident)  # EBADF if it is not open
        with self.lock:
            knote = self.knotes.get(key)
            if knote is not None and not self.is_watched(knote):
                self.drop(key)
                knote = None
            if knote is None:
                if not change.flags & EV_ADD or change.flags & EV_DELETE:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                self.check_possible(change)
                knote = Knote(change.ident, change.filter, change.flags, change.udata)
                try:
                    self.inner[change.filter].register(change.ident, edges(change.filter))
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    self.restless[key] = None
                self.knotes[key] = knote
            if change.flags & EV_DELETE:
                self.drop(key)
                return
            if change.flags & EV_ADD:
                knote.udata = change.udata
                knote.flags |= change.flags & EV_ONESHOT
            if change.flags & EV_DISABLE:
                knote.disabled = True
            elif change.flags & (EV_ADD | EV_ENABLE):
                knote.disabled = False
                if key not in self.restless:  # an edge, if it is ready
                    self.inner[change.filter].modify(change.ident, edges(change.filter))

    def is_watched(self, knote: Knote) -> bool:
        """Whether the file of a knote still has its number; epoll itself knows it best."""
        if identity_of(knote.ident) != knote.identity:
            return False
        if (knote.ident, knote.what) in self.restless:
            return True
        try:
            self.inner[knote.what].modify(knote.ident, edges(knote.what))
        except OSError:
            return False
        return True

    def drop(self, key: Key) -> None:
        knote = self.knotes.pop(key)
        self.dirty.pop(key, None)
        self.restless.pop(key, None)
        if identity_of(knote.ident) == knote.identity:
            try:
                self.inner[knote.what].unregister(knote.ident)
            except OSError:
                pass  # another file, after all

    def check_possible(self, change: Kevent) -> None:
        mode = os.fstat(change.ident).st_mode
        error = 0
        if (
            stat.S_ISREG(mode)
            or stat.S_ISDIR(mode)
            or stat.S_ISBLK(mode)
            or (options.odd and stat.S_ISCHR(mode))
            or change.ident == self.outer.fileno()
        ):
            error = errno.EINVAL
        elif (
            options.broken_pipe
            and stat.S_ISFIFO(mode)
            and change.filter == WRITE
            and access_of(change.ident) != os.O_RDONLY
            and poll_now(change.ident) & select.POLLERR
        ):
            error = options.broken_pipe
        if error:
            raise OSError(error, os.strerror(error))

    def collect(self, most: int) -> list[Kevent]:
        """The events there are now, and all that was told of levels is the last in the queue."""
        with self.lock:
            for what, epoll in self.inner.items():
                while True:
                    edged = epoll.poll(0)
                    for ident, _ in edged:
                        if (ident, what) in self.knotes:
                            self.dirty.setdefault((ident, what))
                    if len(edged) < MAXEVENTS:
                        break
            for key in self.restless:
                self.dirty.setdefault(key)
            events: list[Kevent] = []
            for key in list(self.dirty):
                if len(events) == most:
                    break
                knote = self.knotes.get(key)
                self.dirty.pop(key, None)
                if knote is None or knote.disabled:
                    continue
                if identity_of(knote.ident) != knote.identity:
                    self.drop(key)
                    continue
                event = knote.event()
                if event is None:
                    continue
                events.append(event)
                if knote.flags & EV_ONESHOT:
                    self.drop(key)
                elif not knote.flags & EV_CLEAR:
                    self.dirty[key] = None
            self.count()
            return events

    def count(self) -> None:
        if bool(self.dirty) != self.counted:
            self.counted = not self.counted
            if self.counted:
                os.eventfd_write(self.counter, 1)
            else:
                os.eventfd_read(self.counter)


class Kqueue:
    """``select.kqueue``."""

    def __init__(self) -> None:
        self._state: _State | None = _State()
        _OPEN.add(self)

    @classmethod
    def fromfd(cls, fd: int) -> Kqueue:
        """A second object for a kqueue that is there, known by its number."""
        state = _ALIVE.get(fd)
        if state is None:
            raise NotImplementedError("the model knows its own kqueues alone")
        made = cls.__new__(cls)
        made._state = state
        _OPEN.add(made)
        return made

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self.close()

    @property
    def closed(self) -> bool:
        return self._state is None

    def close(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            state.close()

    def fileno(self) -> int:
        return self._open().outer.fileno()

    def _open(self) -> _State:
        if self._state is None:
            raise ValueError("I/O operation on closed kqueue object")
        return self._state

    def control(
        self,
        changelist: Iterable[Kevent] | None,
        max_events: int,
        timeout: float | None = None,
        /,
    ) -> list[Kevent]:
        """kevent(2): make the changes, then wait for events."""
        state = self._open()
        if max_events < 0:
            raise ValueError(f"Length of eventlist must be 0 or positive, got {max_events}")
        if timeout is not None:
            if not isinstance(timeout, (int, float)):
                raise TypeError(f"timeout argument must be a number or None, got {type(timeout).__name__!r}")
            if timeout < 0:
                raise ValueError("timeout must be positive or None")
        changes = [] if changelist is None else list(changelist)
        if not all(isinstance(each, Kevent) for each in changes):
            raise TypeError("changelist must be an iterable of select.kevent objects")
        if state.outer.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        failed: list[Kevent] = []
        for change in changes:
            try:
                state.change(change)
                error = 0
            except OSError as exception:
                error = exception.errno or errno.EINVAL
            if not error and not change.flags & EV_RECEIPT:
                continue
            if len(failed) == max_events:
                if error:
                    raise OSError(error, os.strerror(error))
                continue
            failed.append(
                Kevent(
                    change.ident, change.filter, change.flags | EV_ERROR, change.fflags, error, change.udata
                )
            )
        if failed or max_events == 0:  # without room for events the timeout counts for nothing
            return failed
        return self._wait(state, max_events, timeout)

    def _wait(self, state: _State, most: int, timeout: float | None) -> list[Kevent]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if state.outer.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if events := state.collect(most):
                return events
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return []
            if state.restless:
                rest = PERIOD if rest is None else min(rest, PERIOD)
            # To the microsecond, which epoll rounds up to a millisecond.
            state.outer.poll(None if rest is None else math.ceil(rest * 1e6) / 1e6, 1)


_ALIVE = weakref.WeakValueDictionary()
_OPEN: weakref.WeakSet[Kqueue] = weakref.WeakSet()


def _close_in_child() -> None:
    for each in list(_OPEN):
        each.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def edges(what: int) -> int:
    """The epoll mask of what may change what a filter has to report; ERR and HUP are always in it."""
    bits = {
        READ: select.EPOLLIN | select.EPOLLRDHUP,
        WRITE: select.EPOLLOUT,
        EXCEPT: select.EPOLLIN | select.EPOLLPRI,
    }
    return bits[what] | select.EPOLLET


def identity_of(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def access_of(number: int) -> int:
    return int(fcntl.fcntl(number, fcntl.F_GETFL)) & os.O_ACCMODE


def poll_now(number: int) -> int:
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP)
    ready = poll.poll(0)
    return ready[0][1] if ready else 0


def count_of(number: int, request: int) -> int:
    """What an ioctl like FIONREAD counts; 0 where it is not possible."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(number, request, bytes(4)))
    except OSError:
        return 0
    return max(0, int(count))


def readable(number: int) -> Finding | None:
    """What a READ filter has to report."""
    mode = os.fstat(number).st_mode
    ready = poll_now(number)
    if stat.S_ISSOCK(mode):
        with Borrowed(number) as sock:
            return sock.readable(ready)
    count = count_of(number, termios.FIONREAD)
    if ready & select.POLLHUP:
        return EV_EOF, 0, count
    if ready & select.POLLIN:
        return 0, 0, count or 1
    return None


def writable(number: int) -> Finding | None:
    """What a WRITE filter has to report."""
    mode = os.fstat(number).st_mode
    ready = poll_now(number)
    if stat.S_ISSOCK(mode):
        with Borrowed(number) as sock:
            return sock.writable(ready)
    if stat.S_ISFIFO(mode):
        if ready & select.POLLERR:
            return EV_EOF, 0, 0
    elif ready & select.POLLHUP:
        return EV_EOF, 0, 0
    if ready & select.POLLOUT:
        room = 4096
        if stat.S_ISFIFO(mode):
            room = fcntl.fcntl(number, fcntl.F_GETPIPE_SZ) - count_of(number, termios.FIONREAD)
        return 0, 0, max(room, select.PIPE_BUF)
    return None


def exceptional(number: int) -> Finding | None:
    """What an EXCEPT filter has to report: urgent data, or on macOS ordinary data, too."""
    ready = poll_now(number)
    if ready & select.POLLPRI:
        return 0, NOTE_OOB, 1
    if ready & select.POLLIN:
        return 0, 0, 0
    return None


# The states of TCP, as TCP_INFO tells them.
SYN_SENT = 2
SYN_RECEIVED = 3
CLOSED = 7
HAVE_SENT_FIN = {4, 5, 6, 9, 11}  # FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING


class Borrowed:
    """A socket known by its number, to be asked what changes nothing about it."""

    def __init__(self, number: int) -> None:
        self.sock = socket.socket(fileno=number)
        self.is_stream = self.sock.type == socket.SOCK_STREAM
        self.is_tcp = self.is_stream and self.sock.family in (socket.AF_INET, socket.AF_INET6)

    def __enter__(self) -> Borrowed:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.detach()

    def readable(self, ready: int) -> Finding | None:
        number = self.sock.fileno()
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return (0, 0, self.pending()) if ready & select.POLLIN else None
        count = count_of(number, termios.FIONREAD)
        if ready & select.POLLRDHUP:
            return EV_EOF, self.error(ready), count
        if ready & select.POLLERR:
            return 0, 0, count
        if ready & select.POLLIN:
            return 0, 0, max(count, 1) if self.is_stream else count + HEADER_OF_DATAGRAM
        return None

    def writable(self, ready: int) -> Finding | None:
        if self.sends_no_more(ready):
            return EV_EOF, self.error(ready), 0
        if self.is_stream and not ready & select.POLLERR and not self.is_connected():
            return None
        if ready & (select.POLLOUT | select.POLLERR):
            room = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            return 0, 0, max(1, room - count_of(self.sock.fileno(), termios.TIOCOUTQ))
        return None

    def error(self, ready: int) -> int:
        """The error that waits. SO_ERROR would tell which one, and take it away."""
        if not ready & select.POLLERR or not self.is_tcp:
            return 0
        return errno.ECONNRESET if self.was_connected() else errno.ECONNREFUSED

    def sends_no_more(self, ready: int) -> bool:
        if ready & select.POLLHUP and ready & select.POLLRDHUP:
            return True
        if self.is_tcp:
            return self.tcp_info()[0] in HAVE_SENT_FIN
        if self.is_stream and self.sock.family == socket.AF_UNIX:
            try:
                self.sock.send(b"", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # sends nothing
            except BrokenPipeError:
                return True
            except OSError:
                return False
        return False

    def is_connected(self) -> bool:
        if self.is_tcp:
            return self.tcp_info()[0] not in (CLOSED, SYN_SENT, SYN_RECEIVED)
        try:
            self.sock.getpeername()
        except OSError:
            return False
        return True

    def tcp_info(self) -> bytes:
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)

    def was_connected(self) -> bool:
        """Whether a reset ended a connection, and not an attempt at one: it has received more than that."""
        segments_received = 140  # the offset of tcpi_segs_in
        info = self.tcp_info()
        if len(info) < segments_received + 4:
            return True
        (segments,) = struct.unpack_from("I", info, segments_received)
        return bool(segments > 1)

    def pending(self) -> int:
        if not self.is_tcp:
            return 1
        (unacked,) = struct.unpack_from("I", self.tcp_info(), 24)  # of a listening socket, its backlog
        return max(1, int(unacked))
