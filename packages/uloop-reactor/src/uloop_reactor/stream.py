"""Stream: a connected byte stream, TCP or Unix, with buffers, backpressure, timeouts and half close.

A program inherits from :class:`Stream` and overrides the ``on_…`` methods it cares for. The rules:

1. ``on_connect`` comes first and ``on_close`` last, once each at most, ``on_close`` for sure: with
   the reason if the stream failed, with ``None`` if it ended in order. All are called by the loop,
   none from within a call of the program's own; except ``on_pause``, which ``write`` calls, so
   that a program that writes and writes learns in time that it should not.
2. What is written is sent at once if nothing waits; the loop is asked for writability only when
   the kernel says "wait". What is written may be changed afterwards.
3. The end comes in order. ``close`` sends what waits, says so to the peer (FIN), and reads on, and
   throws away, until the peer has ended too or its patience is over: closing a socket with unread
   data sends a reset, which destroys at the peer what we sent (RFC 1122, 4.2.2.13).
4. Everything has an end: more than ``high_water`` unsent asks the program to pause, more than
   ``write_limit`` gives the stream up, and so does a peer that takes nothing for ``write_timeout``.
5. A send that fails says that the peer is gone, not that it said nothing: what it sent before it
   left ("413 too large", and a reset in the middle of the upload) is read first.
6. A callback may do anything: the state is in order before one is called. What a callback raises
   is logged by the loop, and changes nothing here.

The life of a stream is a table: what each event makes of each state. What is not in it does not
happen.

    state       connected  peer_eof    write_eof  close      flushed    broken  lost
    CONNECTING  OPEN       -           WE_ENDED   CLOSING    -          -       CLOSED
    OPEN        -          THEY_ENDED  WE_ENDED   CLOSING    -          BROKEN  CLOSED
    WE_ENDED    WE_ENDED   FINISHING   -          CLOSING    WE_ENDED   BROKEN  CLOSED
    THEY_ENDED  -          -           FINISHING  FINISHING  -          -       CLOSED
    BROKEN      -          CLOSED      -          CLOSED     -          -       CLOSED
    CLOSING     CLOSING    FINISHING   -          -          LINGERING  -       CLOSED
    FINISHING   -          -           -          -          CLOSED     -       CLOSED
    LINGERING   -          CLOSED      -          -          -          -       CLOSED
    CLOSED      -          -           -          -          -          -       -
"""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from uloop_events import UEvent

if TYPE_CHECKING:
    from .timers import Timer
    from .uloop import Uloop

__all__ = ["State", "Stream"]

log = logging.getLogger("uloop.reactor")


class State(Enum):
    """Where a stream is in its life."""

    __hash__ = object.__hash__  # enum's own is written in Python: 150 ns, several times per chunk

    #: nothing can be sent yet; what is written waits
    CONNECTING = "connecting"
    #: both directions are open
    OPEN = "open"
    #: after ``write_eof``: we send what waits, and no more; the peer may go on
    WE_ENDED = "we have ended"
    #: the peer sends no more; we may go on
    THEY_ENDED = "they have ended"
    #: sending has failed; what the peer said before is being read
    BROKEN = "broken"
    #: after ``close``: what waits is being sent, what comes is thrown away
    CLOSING = "closing"
    #: both have ended; what waits is being sent
    FINISHING = "finishing"
    #: all is sent, our end as well; the peer has a few seconds to end too
    LINGERING = "lingering"
    #: the socket is closed
    CLOSED = "closed"


class Event(Enum):
    """What makes a stream change its state."""

    __hash__ = object.__hash__

    CONNECTED = "connected"
    #: the peer sends no more
    PEER_EOF = "peer_eof"
    #: the program: I write no more
    WRITE_EOF = "write_eof"
    #: the program: end it in order
    CLOSE = "close"
    #: the kernel has all that was written, and our end
    FLUSHED = "flushed"
    #: a send has failed
    BROKEN = "broken"
    #: a failure, ``abort``, or the end of our patience
    LOST = "lost"


TABLE: Final[dict[State, dict[Event, State]]] = {
    State.CONNECTING: {
        Event.CONNECTED: State.OPEN,
        Event.WRITE_EOF: State.WE_ENDED,
        Event.CLOSE: State.CLOSING,
        Event.LOST: State.CLOSED,
    },
    State.OPEN: {
        Event.PEER_EOF: State.THEY_ENDED,
        Event.WRITE_EOF: State.WE_ENDED,
        Event.CLOSE: State.CLOSING,
        Event.BROKEN: State.BROKEN,
        Event.LOST: State.CLOSED,
    },
    State.WE_ENDED: {
        Event.CONNECTED: State.WE_ENDED,
        Event.PEER_EOF: State.FINISHING,
        Event.CLOSE: State.CLOSING,
        Event.FLUSHED: State.WE_ENDED,
        Event.BROKEN: State.BROKEN,
        Event.LOST: State.CLOSED,
    },
    State.THEY_ENDED: {
        Event.WRITE_EOF: State.FINISHING,
        Event.CLOSE: State.FINISHING,
        Event.LOST: State.CLOSED,
    },
    State.BROKEN: {
        Event.PEER_EOF: State.CLOSED,
        Event.CLOSE: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.CLOSING: {
        Event.CONNECTED: State.CLOSING,
        Event.PEER_EOF: State.FINISHING,
        Event.FLUSHED: State.LINGERING,
        Event.LOST: State.CLOSED,
    },
    State.FINISHING: {
        Event.FLUSHED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.LINGERING: {
        Event.PEER_EOF: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.CLOSED: {},
}

OPEN = State.OPEN  # looked at for every chunk
CLOSED = State.CLOSED
#: what comes in is for the program
LISTENING = frozenset({State.OPEN, State.WE_ENDED, State.BROKEN})
#: what comes in is read, and thrown away
DISCARDING = frozenset({State.CLOSING, State.LINGERING})
#: our end follows what waits to be sent
ENDING = frozenset({State.WE_ENDED, State.CLOSING, State.FINISHING})
#: the program may yet write or hear something, so that silence is worth a timeout
IN_USE = frozenset({State.CONNECTING, State.OPEN, State.WE_ENDED, State.THEY_ENDED})
#: the program can be told to pause: not before on_connect
PAUSING = IN_USE - {State.CONNECTING}

# What is true of a stream beside its state, in one number: an attribute for each would cost 8 bytes.
CONNECTED = 1  # the socket is; with TLS, the stream is not yet
PAUSED = 2  # by the program
HELD = 4  # by the default of on_pause
FULL = 8  # on_pause was called, and on_drain was not yet
WRITE_EOF_CALLED = 16
END_SENT = 32  # the FIN

# Masks as plain numbers: an operation with a UEvent costs 100 ns, which every chunk would pay.
READ = int(UEvent.poll_in)
WRITE = int(UEvent.poll_out)
FAILING = int(UEvent.poll_err | UEvent.poll_hup)

#: Bytes asked for in one read. From 128 KiB up glibc maps memory anew each time. Fewer than 480 would have
#: Python's own allocator serve them, and save 0.1 us of the 6 that an answer to a short message costs in all;
#: but then what was sent in one piece of more would come in several.
READ_SIZE = 64 * 1024

#: Bytes given to one send. Linux takes what fits; Windows may take all, and runs out of memory
#: for what is huge (WSAENOBUFS).
SEND_SIZE = 1024 * 1024

#: close sends a reset, and drops what waits (socket(7), SO_LINGER); Windows has short integers there
RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

#: The buffer of every stream of which nothing waits. Nobody adds to this one: it is replaced first.
NOTHING = bytearray()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits and timeouts of a stream, as of :class:`Stream`."""

    high_water: int
    low_water: int
    write_limit: int
    idle_timeout: float | None
    write_timeout: float | None
    linger_timeout: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_water <= self.high_water <= self.write_limit:
            raise ValueError(
                "0 <= low_water <= high_water <= write_limit must hold, but they are"
                f" {self.low_water}, {self.high_water} and {self.write_limit}"
            )
        for name in ("idle_timeout", "write_timeout", "linger_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds, not {seconds}")


# The streams of a server have the same limits, and share them: 40 bytes less for each connection.
shared_limits = lru_cache(maxsize=64, typed=True)(Limits)


class Stream:
    """A connected byte stream: TCP or Unix. A base class to inherit from.

    What a callback raises is logged by the loop, and the stream goes on. One that raises again and
    again is paused by the loop like any handler: for 10 ms after the second failure in a row, for
    up to 1 s after more.

    Parameters:
        loop: the loop that calls it.
        sock: a stream socket that is connected, or whose ``connect_ex`` is in progress. It belongs
            to the stream from now on, and is closed with it; to the caller, if this fails.
        high_water: bytes; when more wait to be sent, ``on_pause`` is called.
        low_water: bytes; when no more wait to be sent after that, ``on_drain`` is called. ``None``
            is a quarter of ``high_water``.
        write_limit: bytes; a write to a stream where more wait already aborts it. One write alone
            may be larger.
        idle_timeout: seconds without anything read or sent, until ``on_timeout``; ``None`` is for
            ever. A stream that is not read from (``pause_reading``, ``on_pause``) is not idle: the
            silence is ours, and the peer's patience would be punished for it.
        write_timeout: seconds in which the peer takes nothing of what waits, until ``on_timeout``;
            ``None`` is for ever.
        linger_timeout: seconds that the peer has to end too, after ``close`` has sent everything.

    Raises:
        ValueError: the socket is no stream socket, or an ``ssl.SSLSocket``, or closed, or a number
            makes no sense.
        FileExistsError: the loop has a handler for the socket already.
        RuntimeError: the loop is closed.
        OSError: from the socket or the loop.

    >>> class Echo(Stream):
    ...     def on_data(self, data):
    ...         self.write(data)
    """

    __slots__ = (
        "__dict__",  # made when it is used: for attributes of subclasses, and ``stream.on_data = f``
        "__weakref__",
        "_buffer",
        "_flags",
        "_heard",
        "_interest",
        "_limits",
        "_listeners",
        "_peer",
        "_reason",
        "_sock",
        "_state",
        "_taken",
        "_timer",
        "loop",
    )

    #: Whether ``peer`` is asked for when the socket is connected, and kept, so that it is known for good.
    #: A class for many thousand idle connections may set this to ``False``, which saves 150 bytes for
    #: each. ``peer`` then asks the kernel, and is ``None`` as soon as that has forgotten it: in ``on_close``,
    #: for one. A client that has gone before the stream was open ends it without ``on_connect`` then.
    keeps_peer: ClassVar[bool] = True

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        *,
        high_water: int = 64 * 1024,
        low_water: int | None = None,
        write_limit: int = 16 * 1024 * 1024,
        idle_timeout: float | None = None,
        write_timeout: float | None = 60.0,
        linger_timeout: float = 5.0,
    ) -> None:
        self.loop = loop
        self._sock = sock
        self._state = State.CONNECTING
        self._peer: object = None
        # What waits to be sent. One bytearray, though a deque of chunks with sendmsg takes a write
        # of 10 MB in 3 ms, not 5: chunks of 16 KiB cost the same, small ones three times more in it.
        self._buffer = NOTHING
        self._interest = 0  # what the loop watches for, once we are connected
        self._flags = 0
        self._reason: BaseException | None = None  # why it ends, known before it has ended
        # Who is told of the end. One alone, a listener as a rule, is not put into a tuple: 48 bytes less.
        self._listeners: Callable[[Any], object] | tuple[Callable[[Any], object], ...] = ()
        self._timer: Timer | None = None
        self._heard = 0.0  # when something was last read or sent, if there is an idle_timeout
        self._taken = 0.0  # when the peer last took something of what waits, or could have begun to
        try:
            self._limits = shared_limits(
                high_water,
                high_water // 4 if low_water is None else low_water,
                write_limit,
                idle_timeout,
                write_timeout,
                linger_timeout,
            )
            self._check_socket()
            self._begin()
        except BaseException:
            self._state = CLOSED
            raise

    def _check_socket(self) -> None:
        if self._sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a Stream needs a socket of type SOCK_STREAM, not {self._sock!r}")
        ssl = sys.modules.get("ssl")  # no ssl, no such socket: we need not import it
        if ssl is not None and isinstance(self._sock, ssl.SSLSocket):
            raise ValueError(f"for TLS, give the plain socket to a TlsStream, not {self._sock!r}")

    def _begin(self) -> None:
        sock = self._sock
        if sock.gettimeout() != 0:
            sock.setblocking(False)
        try:
            peer = sock.getpeername()
        except OSError:
            mode = WRITE  # not connected yet, or no more: its writability will tell
        else:
            mode = READ
            if self.keeps_peer:
                self._peer = peer
            self.loop.call_soon(self._check_connected)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # We send what we have at once; Nagle's algorithm would keep it until the last ACK.
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                pass  # macOS has EINVAL for a peer that has reset already, which reading will tell
        self.loop.add(sock, mode, self)  # behind everything that may fail
        self._interest = mode
        if self._limits.idle_timeout is not None:
            self._heard = self.loop.time()
        self._set_timer()

    # To override

    def on_connect(self) -> None:
        """The stream is open. Nothing by default."""

    def on_data(self, data: bytes, /) -> None:
        """Something has come; never empty. Nothing by default."""

    def on_eof(self) -> None:
        """The peer sends no more, and may still read. By default ``close()``."""
        self.close()

    def on_pause(self) -> None:
        """More than ``high_water`` bytes wait to be sent. Called by ``write``, but not before ``on_connect``.

        By default the peer is not read from until ``on_drain``, whatever ``resume_reading`` says:
        one who asks without reading the answers gets no more of them. Two peers that both send
        much without reading would wait for each other; so would a client that uploads, and a server
        that answers in the middle of it, reads no more and waits: its answer, or its end, is not
        seen until ``write_timeout``. Who sends much before reading should override this.
        """
        self._flags |= HELD
        self._watch()

    def on_drain(self) -> None:
        """After ``on_pause``: no more than ``low_water`` bytes wait. By default undoes what that did."""
        if self._flags & HELD:
            self._flags &= ~HELD
            self._resume()

    def on_timeout(self, error: TimeoutError, /) -> None:
        """A timeout has passed; the error says which. By default ``abort(error)``.

        A stream that goes on gets as much time again. One that is not open yet is not asked: there
        the error is the reason of ``on_close``.
        """
        self.abort(error)

    def on_close(self, reason: BaseException | None, /) -> None:
        """The socket is closed. The last call. Nothing by default.

        Parameters:
            reason: what went wrong, an ``OSError`` for what the kernel reported; ``None`` if
                nothing did.
        """

    # To call

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send this, after all that was written before.

        On a stream that was closed it is dropped in silence: the program may not know yet.

        Parameters:
            data: any object with contiguous bytes. It may be changed afterwards.

        Raises:
            TypeError: it has no bytes.
            RuntimeError: after ``write_eof``.
        """
        # The usual case: bytes for one send, and nothing waits. It is ``_transmit``, written out here since
        # its call and that of ``_checked`` cost 0.1 us, of the 2 us that an answer costs in Python.
        if (
            self._state is OPEN
            and data.__class__ is bytes
            and not self._buffer
            and 0 < (size := len(data)) <= SEND_SIZE
        ):
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._send_failed(error)
                return
            if self._limits.idle_timeout is not None:
                self._heard = self.loop.time()
            if sent != size:
                self._enqueue(memoryview(data)[sent:])
            return
        data = self._checked(data)
        if data:
            self._transmit(data)

    def write_eof(self) -> None:
        """Tell the peer, behind all that was written, that no more comes; it may go on sending.

        The stream is closed when the peer has ended, too.
        """
        if Event.WRITE_EOF in TABLE[self._state]:
            self._flags |= WRITE_EOF_CALLED
            self._go(Event.WRITE_EOF)
            if self._flags & CONNECTED:
                self._flush()

    def close(self) -> None:
        """Send what waits, then end in order. Nothing more is heard of the stream but ``on_close``.

        The write timeout still watches, and ``linger_timeout`` bounds the rest. A stream that is
        not connected yet and has nothing to send is given up.
        """
        if self._state is State.CONNECTING and not self.unsent:
            self._go(Event.LOST)
        elif Event.CLOSE in TABLE[self._state]:
            self._go(Event.CLOSE)
            if self._flags & CONNECTED and self._state is not CLOSED:
                self._flush()

    def abort(self, reason: BaseException | None = None) -> None:
        """End at once, and let what waits be lost; the peer of a TCP connection sees a reset.

        Parameters:
            reason: what ``on_close`` is told, unless the stream had failed before.
        """
        if self._state is CLOSED:
            return
        if self._state is not State.LINGERING:  # there all is sent, and a reset might destroy it
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:
                pass  # it is dead already, or was closed by somebody else
        self._lost(reason)

    def pause_reading(self) -> None:
        """Read no more until ``resume_reading``: the peer is slowed down when the kernel's buffers are full.

        The end of the stream, or a reset, is not noticed until then, except by writing.
        """
        self._flags |= PAUSED
        self._watch()

    def resume_reading(self) -> None:
        """Read on after ``pause_reading``."""
        if self._flags & PAUSED:
            self._flags &= ~PAUSED
            self._resume()

    def when_closed(self, callback: Callable[[Self], object]) -> None:
        """Have ``callback(stream)`` called after ``on_close``; soon, if that is over."""
        if self._state is CLOSED:
            self._call_soon(callback, self)
        elif isinstance(self._listeners, tuple):
            self._listeners = (*self._listeners, callback) if self._listeners else callback
        else:
            self._listeners = (self._listeners, callback)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when it is closed."""
        return self._sock.fileno()

    @property
    def state(self) -> State:
        return self._state

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._buffer)

    @property
    def peer(self) -> object:
        """The peer's address, as ``getpeername`` gives it; ``None`` before the socket is connected."""
        if self.keeps_peer:
            return self._peer
        try:
            return self._sock.getpeername()
        except OSError:
            return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self.peer!r}, {self._state.value}, {self.unsent} bytes unsent>"

    # Events

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Called by the loop. Reads once and sends once at most, so that others get their turn."""
        # The usual case: there is something to read, and nothing waits. It is ``_read``, written out here
        # since its call and that of ``_received`` cost 0.1 us, of the 2 us that an answer costs in Python.
        if self._interest == READ and self._state is OPEN:
            try:
                data = self._sock.recv(READ_SIZE)
            except OSError as error:
                self._read_failed(error)
                return
            if self._limits.idle_timeout is not None:
                self._heard = self.loop.time()
            if data:
                self.on_data(data)
            else:
                self._received_eof()
            return
        self._deal_with(event)

    def _deal_with(self, event: UEvent) -> None:
        """Any case."""
        if not self._flags & CONNECTED:
            self._check_connected()
            return
        failing = int(event) & FAILING
        if self._interest & READ and event != WRITE:
            # A failure is read, too: behind what came before it.
            self._read()
            if failing:
                return
        if self._interest & WRITE and (failing or int(event) & WRITE):
            self._flush()

    def _check_connected(self) -> None:
        """The connect has ended, one way or the other."""
        if self._flags & CONNECTED or self._state is CLOSED:
            return
        if self._sock.fileno() == -1:  # closed by the caller, which failed after it had made us
            self._lost(None)
            return
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lost(_os_error(code))
            return
        try:
            peer = self._sock.getpeername() if self._peer is None else self._peer
        except OSError as error:
            self._lost(error.with_traceback(None))
            return
        if self.keeps_peer:
            self._peer = peer
        self._flags |= CONNECTED
        if self.unsent:
            self._taken = self.loop.time()
        self._socket_connected()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except OSError as error:
            self._read_failed(error)
            return
        if self._limits.idle_timeout is not None:
            self._heard = self.loop.time()
        if data:
            self._received(data)
        else:
            self._received_eof()

    def _read_failed(self, error: OSError) -> None:
        if not isinstance(error, (BlockingIOError, InterruptedError)):
            self._lost(error.with_traceback(None))

    def _flush(self) -> None:
        """Send of what waits as much as the kernel takes, and then our end, if it is time for that."""
        buffer = self._buffer
        if buffer:
            try:
                if len(buffer) <= SEND_SIZE:
                    sent = self._sock.send(buffer)
                else:
                    with memoryview(buffer) as view, view[:SEND_SIZE] as head:  # released, or del fails
                        sent = self._sock.send(head)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._send_failed(error)
                return
            if sent:
                del buffer[:sent]  # moves the start, not the bytes
                if not buffer:
                    self._buffer = NOTHING
                self._heard = self._taken = self.loop.time()
        if self._state in ENDING and not self.unsent and not self._send_end():
            return
        self._watch()
        if self._flags & FULL and self.unsent <= self._limits.low_water:
            self._flags &= ~FULL
            if self._state in IN_USE:
                self.on_drain()

    def _send_end(self) -> bool:
        """Everything is sent, so the FIN is next. Returns whether the stream goes on."""
        if not self._flags & END_SENT and self._state is not State.FINISHING:  # there, closing says it
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._send_failed(_os_error(code) if code else error)  # the cause, rather than ENOTCONN
                return False
            self._flags |= END_SENT
        self._go(Event.FLUSHED)
        if self._state is State.LINGERING:
            self._taken = self.loop.time()
            self._set_timer()
        return self._state is not CLOSED

    def _send_failed(self, error: OSError) -> None:
        """Nothing can be sent any more; what the peer said before it left is read first.

        A dead socket has no more than it has, and its end or its error is read behind that. If not
        (a Unix peer that has only stopped to read), it has as long as a peer that should end.
        """
        error.with_traceback(None)  # see _release
        # The program that has paused may never resume, so that it would never learn of the failure.
        if Event.BROKEN not in TABLE[self._state] or self._flags & PAUSED or self._sock.fileno() == -1:
            self._lost(error)
            return
        self._go(Event.BROKEN)
        self._reason = error
        self._buffer.clear()
        self._flags &= ~HELD
        self._flags |= END_SENT  # or as good as that
        self._heard = self.loop.time()
        self._set_timer()
        self._watch()

    # What TlsStream does otherwise

    def _socket_connected(self) -> None:
        """The socket is connected."""
        self._established()

    def _received(self, data: bytes) -> None:
        """Bytes have come from the socket, or out of the decryption."""
        if self._state in LISTENING:
            self.on_data(data)

    def _received_eof(self) -> None:
        """The peer has shut its half of the connection."""
        self._peer_ended()

    def _transmit(self, data: bytes | memoryview) -> None:
        """Send bytes, or put them behind those that wait. The only way into the buffer."""
        if not self._buffer and self._flags & CONNECTED:
            size = len(data)
            try:
                sent = self._sock.send(data if size <= SEND_SIZE else memoryview(data)[:SEND_SIZE])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._send_failed(error)
                return
            if self._limits.idle_timeout is not None:
                self._heard = self.loop.time()
            if sent == size:
                return
            data = memoryview(data)[sent:]
        self._enqueue(data)

    def _enqueue(self, data: bytes | memoryview) -> None:
        first = not self.unsent
        if not self._buffer:
            self._buffer = bytearray()
        self._buffer += data
        self._enqueued(first)

    def _enqueued(self, first: bool) -> None:
        """Something waits that did not; ``first``, because nothing did."""
        if first:
            self._taken = self.loop.time()
            self._set_timer()
        self._watch()
        self._look_at_high_water()

    def _look_at_high_water(self) -> None:
        if not self._flags & FULL and self.unsent > self._limits.high_water and self._state in PAUSING:
            self._flags |= FULL
            self.on_pause()

    def _resume(self) -> None:
        """Reading goes on, if nothing else is against it."""
        self._heard = self.loop.time()
        self._set_timer()
        self._watch()

    def _deadline(self) -> tuple[float, str]:
        """The time to stop waiting, infinite if there is none, and what for."""
        if self._state is State.LINGERING:
            return self._taken + self._limits.linger_timeout, "linger"
        if self._state is State.BROKEN:
            return math.inf if self._flags & PAUSED else self._heard + self._limits.linger_timeout, "linger"
        deadline = math.inf, ""
        if self._limits.write_timeout is not None and self.unsent:
            deadline = self._taken + self._limits.write_timeout, "write"
        if (
            self._limits.idle_timeout is not None
            and self._state in IN_USE
            and not self._flags & (PAUSED | HELD)
        ):
            deadline = min(deadline, (self._heard + self._limits.idle_timeout, "idle"))
        return deadline

    def _time_is_up(self, what: str) -> None:
        if what == "linger":
            self._go(Event.LOST)
            return
        # First the next period, which begins now, for an on_timeout that lets the stream go on.
        if what == "write":
            self._taken = self.loop.time()
            error = TimeoutError(
                f"the peer took nothing for {self._limits.write_timeout} s (write_timeout);"
                f" {self.unsent} bytes wait"
            )
        else:
            self._heard = self.loop.time()
            error = TimeoutError(f"nothing was read or sent for {self._limits.idle_timeout} s (idle_timeout)")
        self._set_timer()
        if self._state is State.CONNECTING:
            self.abort(error)  # nothing is said before on_connect
        else:
            self.on_timeout(error)

    # Steps that events have in common

    def _go(self, event: Event, reason: BaseException | None = None) -> None:
        """Change the state as the table says."""
        self._state = TABLE[self._state][event]
        if self._state is CLOSED:
            self._release(reason)

    def _release(self, reason: BaseException | None) -> None:
        """The last state: let go of everything, and have everybody told."""
        self._interest = 0
        self._cancel_timer()
        self._buffer.clear()
        self.loop.remove(self._sock)
        self._sock.close()
        # An error keeps the frames of its traceback alive, and those this stream: it is not kept here,
        # and those of the kernel and of TLS have no traceback, for a program that keeps them here.
        reason, self._reason = self._reason or reason, None
        self._call_soon(self.on_close, reason)
        listeners, self._listeners = self._listeners, ()
        for callback in listeners if isinstance(listeners, tuple) else (listeners,):
            self._call_soon(callback, self)

    def _lost(self, reason: BaseException | None) -> None:
        if self._state is not CLOSED:
            self._go(Event.LOST, reason)

    def _established(self) -> None:
        """The stream is open: tell the program, then send what it had written before."""
        self._go(Event.CONNECTED)
        self._watch()
        try:
            if self._state is not State.CLOSING:
                self.on_connect()
        finally:
            if self._state is not CLOSED:
                self._flush()
                self._look_at_high_water()  # what was written before counts from now on

    def _peer_ended(self) -> None:
        """The peer sends no more; in states that expect nothing from it, that is no news."""
        # When sending has failed, an end is what a reset looks like that was told by the send.
        listening = self._state in LISTENING and self._state is not State.BROKEN
        self._go(Event.PEER_EOF)
        if self._state is State.FINISHING:
            self._flush()
        else:
            self._watch()  # what waits is sent later: on_drain could raise, or close, before on_eof
        if listening:
            self.on_eof()

    def _checked(self, data: bytes | bytearray | memoryview) -> bytes | memoryview:
        """What there is to send of this: all or nothing."""
        if not isinstance(data, bytes):
            view = memoryview(data)
            data = view.cast("B") if view.nbytes else b""
        if self._flags & WRITE_EOF_CALLED:
            raise RuntimeError("write() after write_eof()")
        if self._state not in IN_USE:
            return b""
        return b"" if self._too_much_waits() else data

    def _too_much_waits(self) -> bool:
        """Whether the stream was given up for more than ``write_limit``, before anything is added."""
        if self.unsent <= self._limits.write_limit:
            return False
        self.abort(
            BufferError(
                f"{self.unsent} bytes wait to be sent, more than write_limit={self._limits.write_limit}"
            )
        )
        return True

    def _wants_to_read(self) -> bool:
        if self._state in LISTENING:
            return not self._flags & (PAUSED | HELD)
        return self._state in DISCARDING

    def _watch(self) -> None:
        """Have the loop watch for what is wanted now; for nothing, not even failures, if that is nothing."""
        if not self._flags & CONNECTED or self._state is CLOSED:
            return
        interest = (READ if self._wants_to_read() else 0) | (WRITE if self._buffer else 0)
        if interest != self._interest:
            self._interest = interest
            self.loop.modify(self._sock, interest)

    # One timer per stream, which is not touched while things go well: when it fires it looks how
    # long there has been nothing, and waits for the rest.

    def _set_timer(self) -> None:
        """See to it that the timer does not fire later than the next deadline."""
        if self._state is CLOSED:
            return
        deadline, _ = self._deadline()
        if deadline == math.inf or (self._timer is not None and self._timer.when <= deadline):
            return
        self._cancel_timer()
        try:
            self._timer = self.loop.call_at(deadline, self._look_at_the_clock)
        except RuntimeError:
            pass  # the loop is closed: there is no time any more

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_the_clock(self) -> None:
        self._timer = None
        deadline, what = self._deadline()
        if deadline <= self.loop.time():
            self._time_is_up(what)
        else:
            self._set_timer()

    def _call_soon(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self.loop.call_soon(callback, *args)
        except RuntimeError:  # the loop is closed, and will not call anybody any more
            try:
                callback(*args)
            except Exception:
                log.exception("callback %r failed", callback)


def _os_error(code: int) -> OSError:
    """The error that a socket has kept, as the exception that it would have been."""
    message = getattr(socket, "errorTab", {}).get(code)  # Windows' own, which os.strerror does not know
    return OSError(code, message or os.strerror(code))
