"""DatagramSocket: datagrams in and out, in batches, over UDP or Unix sockets.

>>> from uloop_reactor import Uloop
>>> class Echo(DatagramSocket):
...     def on_datagram(self, data, sender):
...         self.reply(data)
...         loop.stop()
>>> with Uloop() as loop:
...     server = Echo.bind(loop, ("127.0.0.1", 0))
...     server.send(b"to itself", server.address)
...     loop.run()
...     server.close()

The rules:

1. One wake-up reads a batch of at most 64 datagrams, so that nobody starves; where the system
   has recvmmsg(2) that is one call. What ``on_datagram`` sends goes into the queue, and the
   queue leaves with one sendmmsg(2) after the batch; on Linux, runs of datagrams of one size to
   one peer as one piece that the kernel cuts up (UDP_SEGMENT). Outside a batch, a datagram is
   sent at once. A program that is called with the whole batch, by overriding ``on_batch``, does
   once what is the same for all of it.
2. What the kernel does not take yet stays in the queue, in order, and leaves when it says so.
   The queue has a limit; a datagram beyond it is dropped, and ``on_error`` told. A Unix peer that
   does not read, on a socket that is not connected, holds up nobody else: what is for it is put
   aside, up to a quarter of the limit, and dropped if it takes nothing for five seconds.
3. An error is one datagram's business: it goes to ``on_error``, with the peer where the system
   tells, and the next datagram has its turn. No error ends the socket.
4. ``on_datagram`` that raises costs the one datagram it was called with. The loop is told, as of
   a handler that failed, but it does not pause us: that is for events that come again and again
   unless they are dealt with. A datagram has been taken from the kernel by then; a pause would
   only let a stranger who has found a bug keep the others waiting.
5. A batch is copied out of the receive buffers before the first callback, so all sockets of a
   loop share one set of buffers (4 MiB of address space for datagrams of up to 64 KiB, of which
   the system backs with memory what was ever written to), and a callback may do as it likes.
6. Where recvmmsg or sendmmsg turns out to be forbidden or unknown, as in some sandboxes, datagrams
   go one by one. If nothing can be read at all, we ask again at most every second: nobody spins.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import length_hint
from typing import TYPE_CHECKING, Self, TypedDict, Unpack
from weakref import WeakKeyDictionary

from uloop_events import UEvent

from . import control, mmsg
from .backoff import pause_after
from .control import CONTROL_ROOM, Control
from .datagram_io import FAILURES, Arrays, Batch, Batches, OneByOne, Peer, Source, Waiting
from .datagram_sockets import Address, bound_socket, connected_socket, numeric
from .mmsg import BATCH, UNIX
from .socket_file import SocketFile

if TYPE_CHECKING:
    from .timers import Timer
    from .uloop import Uloop

__all__ = ["Address", "Batch", "DatagramSocket", "Peer"]

log = logging.getLogger("uloop.reactor")

IN, OUT, HUP, ERR = (int(e) for e in (UEvent.poll_in, UEvent.poll_out, UEvent.poll_hup, UEvent.poll_err))

LARGEST_BACKLOG = 4096  # batches; who sends faster than we deliver is not waited for
OVERHEAD = 128  # bytes that a waiting datagram takes besides its data, about; the empty ones count too
FLUSH_CALLS = 16  # batches sent in one go; when more are waiting, others have their turn first
#: seconds until a call that failed for now is tried again, where poll(2) does not know; from time
#: to time it doubles
RETRY, LONGEST_RETRY = 0.001, 1.0
PEER_SHARE = 4  # the part of queue_limit that one peer may hold is one in so many
PEER_PATIENCE = 5.0  # seconds after which what waits for a peer that takes nothing is dropped
#: What an ICMP message about an earlier datagram makes of the next call (Linux: net/ipv4/icmp.c
#: icmp_err_convert, net/ipv6/icmp.c). On Windows it is ECONNRESET, WSAECONNRESET in recvfrom's docs.
BY_ICMP = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENONET"),
        *("ENOPROTOOPT", "EPROTO", "EOPNOTSUPP", "EACCES", "EMSGSIZE", "ENETRESET"),
    )
    if hasattr(errno, name)
)
#: Of these, what receiving never fails with again and again: it is gone once it is told.
TOLD_ONCE = BY_ICMP - {errno.EACCES, errno.EOPNOTSUPP}  # a sandbox may say those
MSG_ERRQUEUE = 0x2000 if sys.platform == "linux" else 0  # recv(2)
IP_RECVERR, IPV6_RECVERR = 11, 25  # ip(7), ipv6(7)
EXTENDED_ERROR = struct.Struct("=IBBBxII")  # struct sock_extended_err, ip(7)
BY_ICMP_MESSAGE = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; a local error is told by the send itself

#: of a batch, for on_datagram: data, sender, the same as the batch has it, control data
Received = tuple[bytes, Address, Peer, Control]


class FullPeer:
    """A Unix peer whose queue is full, and what waits for it.

    poll(2) knows of connected peers alone, so each has a timer to be tried again by.
    """

    def __init__(self, address: Address, now: float) -> None:
        self.address = address
        self.waiting: list[Waiting] = []
        self.size = 0  # of these, in bytes with OVERHEAD
        self.since = now  # when it has last taken something
        self.delay = RETRY
        self.timer: Timer | None = None


_arrays: WeakKeyDictionary[Uloop, Arrays] = WeakKeyDictionary()


class Options(TypedDict, total=False):
    """What ``bind`` and ``connect`` pass on to the constructor, where it is explained."""

    max_size: int
    queue_limit: int
    timestamps: bool
    packet_info: bool
    peer_errors: bool
    receive_buffer: int | None


class DatagramSocket:
    """A datagram socket on a loop; inherit from it, and override ``on_datagram``.

    Parameters:
        loop: its handler we become at once.
        sock: a bound or connected datagram socket, IPv4, IPv6 or Unix. It is ours from now on,
            but remains the caller's if the constructor raises.
        max_size: bytes of the largest datagram that is wanted. A longer one is not delivered cut
            off: ``on_error`` is told (EMSGSIZE).
        queue_limit: bytes of datagrams that may wait to be sent, each counted with 128 more. Of
            these, one Unix peer of a socket that is not connected may hold a quarter.
        timestamps: have the kernel take the time at which each datagram arrives, where it can.
        packet_info: have the kernel say where each datagram was sent to (``destination``), and
            answer from there. It is asked on sockets that are bound to all addresses; others
            know.
        peer_errors: on Linux, be told of ICMP messages about datagrams of a socket that is not
            connected, with the peer they were sent to. Not by default: a server has no use for
            what anybody can cause by asking and going away.
        receive_buffer: bytes that the kernel holds for us (SO_RCVBUF; Linux silently takes no
            more than net.core.rmem_max); ``None`` for the system's default.

    Attributes:
        loop: the loop that it is on.

    Raises:
        TypeError: it is not a datagram socket.
        ValueError: a size is out of range.
        OSError: the system refuses an option, or the socket is closed.
    """

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        *,
        max_size: int = 65535,
        queue_limit: int = 1 << 20,
        timestamps: bool = False,
        packet_info: bool = False,
        peer_errors: bool = False,
        receive_buffer: int | None = None,
    ) -> None:
        if not isinstance(sock, socket.socket) or sock.type != socket.SOCK_DGRAM:
            raise TypeError(f"a DatagramSocket needs a socket of type SOCK_DGRAM, not {sock!r}")
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1 byte, not {max_size}")
        if queue_limit < 0:
            raise ValueError(f"queue_limit must be 0 bytes or more, not {queue_limit}")
        self.loop = loop
        self._sock = sock
        self._fileno = sock.fileno()
        self._max_size = max_size
        self._queue_limit = queue_limit
        self._closed = False
        self._left: Iterator[Received] = iter(())  # of the batch, what on_datagram is not called with yet
        self._current: Received | None = None  # the datagram that on_datagram is called with
        self._read_at = 0  # when its batch was read, ns since the epoch
        self._delivering = False  # what is sent meanwhile waits for the end of the batch
        self._queue: list[Waiting] = []
        self._full: dict[Address, FullPeer] = {}  # nothing in the queue is for one of these
        self._tried: FullPeer | None = None  # the one that a flush tries again
        self._queued = 0  # bytes, with OVERHEAD, of these and of what waits for full peers
        self._flushing = False
        self._watched = IN
        self._retry: Timer | None = None
        self._retry_delay = RETRY
        self._failures = 0  # in a row, of receiving
        self._rest: Timer | None = None  # when receiving has failed again and again
        self._closing = False
        self._file: SocketFile | None = None

        sock.setblocking(False)
        self._address: Address = None
        bound_to_all = _bound_to_all(self.address, sock.family)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._timestamps = timestamps and control.ask_for_timestamps(sock)
        # FreeBSD takes an address to answer from on a socket that is bound to all of them alone: ip(4).
        self._packet_info = packet_info and bound_to_all and control.ask_for_packet_info(sock)
        self._one_destination = packet_info and not bound_to_all
        self._bound_to_group = (
            self._one_destination and sock.family != UNIX and control.is_shared_address(self.address[0])
        )
        self._has_error_queue = MSG_ERRQUEUE != 0 and sock.family != UNIX
        if peer_errors and self._has_error_queue:
            sock.setsockopt(*_recverr(sock), 1)
        self._told_by_error_queue = self._has_error_queue and bool(sock.getsockopt(*_recverr(sock)))
        size = max_size + 1  # what fills this is too long
        told = self._timestamps or self._packet_info
        if mmsg.SUPPORTED and sock.family in (socket.AF_INET, socket.AF_INET6, UNIX):
            arrays = _arrays.get(loop)
            if arrays is None:
                arrays = _arrays[loop] = Arrays()
            self._calls: OneByOne = Batches(sock, size, told, arrays)
        else:
            self._calls = OneByOne(sock, size, told)
        loop.add(self._fileno, UEvent.poll_in, self)

    @classmethod
    def bind(
        cls, loop: Uloop, address: Address, *, reuse_port: bool = False, **options: Unpack[Options]
    ) -> Self:
        """Make a socket, bind it and put it on a loop: a server.

        Parameters:
            loop: as for the constructor.
            address: ``(host, port)``; a host with colons is IPv6, and the socket IPv6 only; an
                empty one is all IPv4 addresses. A name is looked up, which blocks. Or the path
                of a Unix socket, whose file is removed again when the socket is closed. The file
                of a server that died is replaced.
            reuse_port: let other sockets that ask for it too bind the same address, and have the kernel deal
                out the peers among them.
            options: as for the constructor. A class whose constructor takes more may have a
                ``bind`` of its own, or be called with a socket.

        Raises:
            OSError: the address is in use, not ours, or not found.
            ValueError: the platform has no Unix datagram sockets, or does not share a port among sockets.
        """
        sock, file = bound_socket(address, reuse_port)
        return cls._with(loop, sock, file, options)

    @classmethod
    def connect(
        cls, loop: Uloop, address: Address, *, local_address: Address = None, **options: Unpack[Options]
    ) -> Self:
        """Make a socket, connect it to one peer and put it on a loop: a client.

        It hears this peer alone, ``send`` needs no address, and errors like ECONNREFUSED reach
        ``on_error``. Nothing is sent, and nothing blocks.

        Parameters:
            loop: as for the constructor.
            address: ``(host, port)``, the host in numbers, since to look up a name would block:
                ``loop.resolve`` does so on a thread. Or the path of a Unix socket.
            local_address: where to send from, in the same form. Without it the system chooses; but
                other systems than Linux have no names for Unix sockets to choose, and the peer
                cannot answer one that has none.
            options: as for ``bind``.

        Raises:
            OSError: there is no way to the address, or no such Unix socket; ``local_address`` is
                in use or not ours.
            ValueError: the host is a name, the port out of range, or the path too long; or the
                platform has no Unix datagram sockets.
        """
        sock, file = connected_socket(address, local_address)
        return cls._with(loop, sock, file, options)

    @classmethod
    def _with(cls, loop: Uloop, sock: socket.socket, file: SocketFile | None, options: Options) -> Self:
        with ExitStack() as undo:
            undo.callback(sock.close)
            if file is not None:
                undo.callback(file.unlink)
            self = cls(loop, sock, **options)
            undo.pop_all()
        self._file = file
        return self

    # To override

    def on_datagram(self, data: bytes, sender: Address) -> object:
        """A datagram has arrived; the default ignores it.

        Parameters:
            data: its bytes; there may be none.
            sender: as ``socket.recvfrom`` returns it.
        """

    def on_batch(self, batch: Batch) -> None:
        """Datagrams have arrived together, 64 at most; the default calls ``on_datagram`` with each.

        Override this instead where a datagram must cost little: what is the same for all of a batch is
        then done once, and Python's part of the work for each is a quarter. An answer is sent with
        ``reply_each``. Rule 4 holds for the batch then: an exception costs all of it.

        Parameters:
            batch: one datagram or more.
        """
        self._read_at = batch.read_at
        addresses = map(self._calls.address_of, batch.senders)
        self._left = iter(list(zip(batch.data, addresses, batch.senders, batch.controls, strict=True)))
        self._hand_out()

    def on_error(self, error: OSError, peer: Address | None) -> object:
        """Something went wrong with one datagram, received or sent; the default logs it at DEBUG.

        Called by ``send`` too, if it finds out at once.

        Parameters:
            error: ``ECONNREFUSED`` and other ICMP messages, ``EMSGSIZE`` for a datagram that is
                too long, ``ENOBUFS`` for one that does not fit the queue, and what else the
                system says.
            peer: whose datagram it was, or ``None`` if the system does not tell.
        """
        log.debug("%r: %s, peer %r", self, error, peer)
        return None

    # To use

    def send(self, data: bytes | bytearray | memoryview, address: Address | None = None) -> None:
        """Send a datagram: at the end of the batch if called by ``on_datagram``, or else at once.

        Parameters:
            data: its bytes; there may be none.
            address: where to, in numbers, since to look up a name would block; ``None`` for the
                connected peer.

        Raises:
            ValueError: the host is a name, the port out of range, or the path of a Unix socket too long.
            RuntimeError: this socket is closed.
        """
        if address is not None:
            address = numeric(self._sock.family, address)
        self._enqueue((_bytes(data), address, ()))

    def reply(self, data: bytes | bytearray | memoryview) -> None:
        """Send a datagram to the sender of the current one, from the address that was asked.

        The latter where ``packet_info`` was asked for, and otherwise if the socket is bound to
        one address.

        Raises:
            RuntimeError: ``on_datagram`` is not being called, or this socket is closed.
        """
        current = self._current
        if current is None:
            raise RuntimeError("reply() answers the datagram that on_datagram is called with; use send()")
        _, _, peer, told = current
        source = control.answer_from(control.packet_info(told)) if self._packet_info else ()
        self._enqueue((_bytes(data), peer, source))

    def reply_each(self, batch: Batch, replies: Sequence[bytes]) -> None:
        """Answer the datagrams of a batch: as ``reply`` does, each with the one at its place.

        Parameters:
            batch: what ``on_batch`` was given, or what was left of it ``without`` some.
            replies: as many as there are datagrams.

        Raises:
            ValueError: there are more of the one than of the other.
            RuntimeError: this socket is closed.
        """
        if len(replies) != len(batch):
            raise ValueError(f"there are {len(replies)} replies to {len(batch)} datagrams")
        if not replies:
            return
        sources: list[Source] = [()] * len(batch)
        if self._packet_info:
            sources = [control.answer_from(control.packet_info(told)) for told in batch.controls]
        # As a rule nothing waits and the kernel takes all. So they are not queued one by one.
        sent, failure = 0, None
        if self._delivering and not (self._queue or self._full or self._flushing or self._closed):
            sent, failure = self._calls.send(replies, batch.senders, sources)
            if sent == len(replies):
                return
        messages = zip(map(_bytes, replies[sent:]), batch.senders[sent:], sources[sent:], strict=True)
        if failure is not None:
            # The queue deals with what has failed before another one can take its place in it.
            message = next(messages)
            self._queue.append(message)
            self._queued += len(message[0]) + OVERHEAD
            self._flush(failure)
        for message in messages:
            if failure is not None and self._closed:
                break  # by on_error
            self._enqueue(message)

    def address_of(self, sender: Peer) -> Address:
        """The address of a sender as a batch has it: as ``socket.recvfrom`` returns it."""
        return self._calls.address_of(sender)

    def arrivals_of(self, batch: Batch) -> list[int | None]:
        """When each datagram of a batch arrived, in ns since the epoch; ``None`` if the kernel does not tell.

        It tells where ``timestamps`` was asked for; otherwise there is ``batch.read_at``.
        """
        if not self._timestamps or not batch:
            return [None] * len(batch)
        return control.arrivals(batch.controls)

    def broadcasts_in(self, batch: Batch) -> list[int]:
        """The places in a batch of what was sent to many hosts at once: see ``broadcast``."""
        if not self._packet_info:
            return list(range(len(batch))) if self._bound_to_group else []
        return [place for place, told in enumerate(batch.controls) if self._is_broadcast(told)]

    def receive_backlog(self, *, turn_away: bool = False) -> None:
        """Deliver all that has arrived, before ``close``, which would throw it away.

        Parameters:
            turn_away: have the kernel turn away what comes from now on, so that nothing comes between
                this and ``close``. On Linux alone; and only for a socket that no other process has
                as well, for it would hear nothing any more either.
        """
        if turn_away and sys.platform == "linux" and self._sock.family != UNIX and not self._closed:
            # A connected socket takes datagrams of its peer alone. Ours is then ourselves, and the kernel
            # tells the others that nobody is here, or gives theirs to another socket on this port.
            try:
                self._sock.connect(self._sock.getsockname())
            except OSError:
                pass  # there is no way to ourselves: the last ones may be lost
        for _ in range(LARGEST_BACKLOG):
            if self._closed or self.loop.closed or not self._receive():
                return

    @property
    def arrival(self) -> int:
        """When the current datagram arrived, in nanoseconds since the epoch: during ``on_datagram``."""
        return self._kernel_timestamp() or self._read_at

    @property
    def timestamp_source(self) -> str:
        """Who took the time of ``arrival``: the ``"kernel"``, or the ``"program"`` when it read the batch."""
        return "program" if self._kernel_timestamp() is None else "kernel"

    @property
    def destination(self) -> str | None:
        """The host that the current datagram was sent to, which may be a broadcast or multicast address.

        During ``on_datagram``, with ``packet_info``; ``None`` where the system does not tell.
        """
        if self._current is None:
            return None
        if self._one_destination:
            host: str = self.address[0]
            return host
        if not self._packet_info:
            return None
        info = control.packet_info(self._current[3])
        return None if info is None else control.destination(info)

    @property
    def broadcast(self) -> bool:
        """Whether the current datagram was sent to a broadcast or multicast address.

        During ``on_datagram``, with ``packet_info``; ``False`` where the system does not tell, which
        on FreeBSD, and for IPv4 on an IPv6 socket, includes the broadcast address of a network.
        Such a question may reach many hosts at once, and the answers of all would go to one sender,
        who may be forged.
        """
        if self._current is None:
            return False
        if not self._packet_info:
            return self._bound_to_group
        return self._is_broadcast(self._current[3])

    def _is_broadcast(self, told: Control) -> bool:
        info = control.packet_info(told)
        return info is not None and control.is_shared(info)

    @property
    def address(self) -> Address:
        """What the socket is bound to, with the real port if 0 was asked for.

        One that is not bound yet will be by its first ``send``; until then it is what the system
        says, which is port 0, or ``None`` on Windows.
        """
        if not self._closed:
            try:
                self._address = self._sock.getsockname()
            except OSError:
                pass  # Windows: it is not bound yet
        return self._address

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent, as they count towards ``queue_limit``."""
        return self._queued

    def fileno(self) -> int:
        """The number of the descriptor; -1 when closed."""
        return self._fileno

    def close(self) -> None:
        """Send what is queued and the kernel takes, then close. A second call does nothing."""
        self._closing = True
        for peer in list(self._full.values()):
            self._fetch_back(peer)
        try:
            for _ in range(len(self._queue)):  # not for ever, should on_error send again and again
                if not self._flush():
                    break
        finally:
            self.abort()

    def abort(self) -> None:
        """Close, and drop what is queued. A second call does nothing."""
        if self._closed:
            return
        self._address = self.address  # which the system does not know any more afterwards
        self._closed = True
        timers = [self._retry, self._rest, *(peer.timer for peer in self._full.values())]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        self._queue.clear()
        self._full.clear()
        self._queued = 0
        self._left = iter(())
        self.loop.remove(self._fileno)
        self._fileno = -1
        if self._file is not None:
            self._file.unlink()  # as long as the socket is open, no other file can get its inode
        self._sock.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self.address!r}"
        return f"<{type(self).__name__} {state}>"

    # Receiving

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """For the loop: read a batch, take errors, send what is queued."""
        if event == IN:  # nearly always, and a comparison of ints
            if not self._receive():
                self._take_errors()  # which select(2) calls readable
            return
        mask = int(event)
        if mask & OUT and not self._flush() and self._queue and not self.loop.closed:
            # Writable, it says, and takes nothing: on the BSDs, poll(2) does not know that the
            # queue of a Unix socket's peer is full. We look again by the clock.
            self._retry = self.loop.call_later(self._retry_delay, self._try_again)
            self._retry_delay = min(2 * self._retry_delay, LONGEST_RETRY)
            self._watch_what_is_due()
        if mask & ERR and not self._closed:
            self._take_errors()
        if self._rest is not None:
            return
        if mask & ~OUT and not self._closed and not self._receive() and mask & HUP:
            self._watch(0)  # the program has shut it down, which would be told for ever

    def _receive(self) -> bool:
        """Read and deliver a batch; whether there was anything."""
        # An exception that is not ours to deal with, like KeyboardInterrupt, may have left a rest.
        if length_hint(self._left):
            self._deliver(None)
            return True
        batch, error = self._calls.receive()
        if batch or error is None or error.errno in TOLD_ONCE:
            self._failures = 0
            if not batch and error is None:
                return False
        else:
            self._note_failure()
        if batch:
            batch.read_at = time.time_ns()
            self._deliver(batch)
        if error is not None and not self._closed:
            self._report_pending(error)
        return True

    def _note_failure(self) -> None:
        """Nothing could be read; if it goes on like that, rest, since we would be woken for ever."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._rest = self.loop.call_later(pause_after(self._failures - FAILURES), self._end_rest)
            self._watch_what_is_due()

    def _end_rest(self) -> None:
        self._rest = None
        self._watch_what_is_due()

    def _deliver(self, batch: Batch | None) -> None:
        """Hand a batch to the program; ``None``: what is left of the last one."""
        outermost, self._delivering = not self._delivering, True
        try:
            if batch is None:
                self._hand_out()
            else:
                if max(map(len, batch.data)) > self._max_size:
                    batch = self._without_too_long(batch)
                if batch and not self._closed and not self.loop.closed:
                    self.on_batch(batch)
        except Exception as error:
            self.loop.report_error(error, self)
        finally:
            self._delivering = not outermost
            self._current = None
            if self._queue:
                self._flush_unless_busy()
            if length_hint(self._left) and not self.loop.closed:
                self.loop.call_soon(self._deliver, None)  # nothing may arrive any more

    def _hand_out(self) -> None:
        """Call ``on_datagram`` with what is left of a batch."""
        loop, on_datagram = self.loop, self.on_datagram
        for current in self._left:
            self._current = current
            try:
                on_datagram(current[0], current[1])
            except Exception as error:
                loop.report_error(error, self)
            if self._closed or loop.closed:
                break

    def _without_too_long(self, batch: Batch) -> Batch:
        places = [place for place, data in enumerate(batch.data) if len(data) > self._max_size]
        for place in places:
            if not self._closed:
                self._report(_too_long(self._max_size), self._calls.address_of(batch.senders[place]))
        return batch.without(places)

    def _kernel_timestamp(self) -> int | None:
        if self._current is None or not self._timestamps:
            return None
        return control.arrival(self._current[3])

    # Sending

    def _enqueue(self, message: Waiting) -> None:
        if self._closed:
            raise RuntimeError(f"{self!r} does not send any more")
        size = len(message[0]) + OVERHEAD
        if self._queued + size > self._queue_limit and not self._make_room(size, message[1]):
            return
        self._queued += size
        if self._full and message[1] in self._full:
            self._put_aside(self._full[message[1]], [message])
            return
        self._queue.append(message)
        if not self._delivering:
            self._flush_unless_busy()

    def _make_room(self, size: int, peer: Peer) -> bool:
        """Send others first, if need be; whether one more datagram may be queued."""
        self._flush_unless_busy()
        if self._closed:
            return False
        if not self._queue or self._queued + size <= self._queue_limit:
            return True  # the kernel is asked before the limit counts
        self._report_full(peer, self._queued, self._queue_limit)
        return False

    def _report_full(self, peer: Peer, queued: int, limit: int) -> None:
        text = f"dropped: {queued} bytes wait to be sent already, and the limit is {limit}"
        self._report(OSError(errno.ENOBUFS, text), self._address_of(peer))

    def _flush_unless_busy(self) -> None:
        """Send what is queued, unless that is being done, or has to wait for poll_out."""
        if not self._flushing and not self._watched & OUT:
            self._flush()

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _flush(self, failure: OSError | None = None) -> bool:
        """Send what is queued, as far as the kernel takes it; whether it took anything.

        Parameters:
            failure: the first one has been tried already, and has failed with this.

        An error is reported after the queue is in order again, since ``on_error`` may send,
        close, or raise what passes.
        """
        outermost, self._flushing = not self._flushing, True
        progress = False
        try:
            for _ in range(FLUSH_CALLS):
                batch = self._queue[:BATCH]
                if not batch:
                    break
                columns = tuple(zip(*batch, strict=True))
                sent, error = self._calls.send(*columns) if failure is None else (0, failure)
                failure = None
                pending = False
                if error is not None and error.errno in BY_ICMP:
                    # Perhaps about a datagram that was sent before: then the kernel is rid of it
                    # by telling us, and takes this one now.
                    sent_now, again = self._calls.send(*(column[sent : sent + 1] for column in columns))
                    sent += sent_now
                    pending = again is None or again.errno != error.errno
                progress = progress or sent > 0
                self._forget(sent)
                if error is None:
                    continue
                if pending:
                    self._report_pending(error)
                elif not self._is_full(error):
                    peer = batch[sent][1]
                    self._forget(1)
                    progress = True
                    self._report(error, self._address_of(peer))
                elif self._sock.family == UNIX and (address := batch[sent][1]) is not None:
                    # It is this peer whose queue is full. Its datagrams wait, those of others go on.
                    self._set_aside(address)
                    progress = True  # of the queue
                else:
                    break
                if self._closed:
                    break
        finally:
            self._flushing = not outermost
            if progress:
                self._retry_delay = RETRY
            if not self._closed:
                self._watch_what_is_due()
        return progress

    # Unix peers that do not read

    def _set_aside(self, address: Address) -> None:
        """What the queue has for this peer waits elsewhere."""
        waiting = [message for message in self._queue if message[1] == address]
        self._queue = [message for message in self._queue if message[1] != address]
        now = self.loop.time()
        peer = self._tried
        if peer is None or peer.address != address:
            peer = FullPeer(address, now)
        elif waiting[0] is not peer.waiting[0]:  # it has taken some
            peer.since, peer.delay = now, RETRY
        else:
            peer.delay = min(2 * peer.delay, LONGEST_RETRY)
        self._tried = None
        peer.waiting, peer.size = [], 0
        if now - peer.since >= PEER_PATIENCE:
            self._queued -= sum(len(message[0]) + OVERHEAD for message in waiting)
            text = f"dropped {len(waiting)} datagrams: the peer took none for {PEER_PATIENCE:g} seconds"
            self._report(OSError(errno.ETIMEDOUT, text), address)
            return
        self._put_aside(peer, waiting)

    def _put_aside(self, peer: FullPeer, messages: list[Waiting]) -> None:
        """Have these wait for the peer, as far as there is room."""
        share = self._queue_limit // PEER_SHARE
        dropped = 0
        for message in messages:
            size = len(message[0]) + OVERHEAD
            if peer.size + size > share or self._queued > self._queue_limit:
                self._queued -= size
                dropped += 1
            else:
                peer.waiting.append(message)
                peer.size += size
        if peer.waiting:  # or else its next datagram may try for itself
            self._full[peer.address] = peer
            if peer.timer is None and not self._closing and not self.loop.closed:
                peer.timer = self.loop.call_later(peer.delay, self._try_peer, peer)
        for _ in range(dropped):
            if not self._closed:
                self._report_full(peer.address, peer.size, share)

    def _fetch_back(self, peer: FullPeer) -> None:
        """Have the queue try what waits for a peer."""
        if peer.timer is not None:
            peer.timer.cancel()
            peer.timer = None
        del self._full[peer.address]
        self._queue[:0] = peer.waiting

    def _try_peer(self, peer: FullPeer) -> None:
        self._fetch_back(peer)
        self._tried = peer
        try:
            self._flush()
        finally:
            self._tried = None

    def _forget(self, count: int) -> None:
        """The first ones in the queue are done with."""
        if count == len(self._queue) and not self._full:
            self._queue, self._queued = [], 0  # as a rule
            return
        for message in self._queue[:count]:
            self._queued -= len(message[0]) + OVERHEAD
        del self._queue[:count]

    def _is_full(self, error: OSError) -> bool:
        """Whether a send failed because it has to wait."""
        # The BSDs and macOS say ENOBUFS if the queue of a Unix peer is full.
        return isinstance(error, BlockingIOError) or (
            error.errno == errno.ENOBUFS and self._sock.family == UNIX
        )

    def _watch_what_is_due(self) -> None:
        mask = IN if self._rest is None else 0
        self._watch(mask | OUT if self._queue and self._retry is None else mask)

    def _watch(self, mask: int) -> None:
        if mask != self._watched:
            self._watched = mask
            self.loop.modify(self._fileno, mask)

    # Errors

    def _report(self, error: OSError, peer: Address | None) -> None:
        try:
            self.on_error(error, peer)
        except Exception as failure:
            self.loop.report_error(failure, self)

    def _report_pending(self, error: OSError) -> None:
        """An error that a call has told, but is about an earlier datagram."""
        if self._told_by_error_queue:
            self._take_error_messages()  # it is there too, and with the peer
        else:
            self._report(error, self._connected_peer())

    def _take_errors(self) -> None:
        """Take what poll_err is about, or it would be told for ever."""
        if self._has_error_queue:
            self._take_error_messages()
        if not self._closed:
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._report(OSError(code, os.strerror(code)), self._connected_peer())

    def _take_error_messages(self) -> None:
        """Take what is in Linux's error queue: IP_RECVERR in ip(7)."""
        for _ in range(BATCH):
            try:
                _, ancillary, _, peer = self._calls.sock.recvmsg(0, CONTROL_ROOM, MSG_ERRQUEUE)
            except OSError:
                return  # that was the last one
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                    code, origin, *_ = EXTENDED_ERROR.unpack_from(data)
                    if origin in BY_ICMP_MESSAGE:
                        self._report(OSError(code, os.strerror(code)), peer)
            if self._closed:
                return

    def _address_of(self, peer: Peer) -> Address | None:
        return self._connected_peer() if peer is None else self._calls.address_of(peer)

    def _connected_peer(self) -> Address | None:
        try:
            return self._sock.getpeername()
        except OSError:
            return None  # it is not connected


def _bytes(data: bytes | bytearray | memoryview) -> bytes:
    return data if type(data) is bytes else bytes(memoryview(data))  # bytes(7) would be seven zeros


def _too_long(max_size: int) -> OSError:
    return OSError(errno.EMSGSIZE, f"dropped: it has more than {max_size} bytes, which is max_size")


def _bound_to_all(address: Address, family: int) -> bool:
    """Whether datagrams to any address of ours arrive; one that is not bound yet will be so."""
    return family != UNIX and (address is None or address[0] in ("0.0.0.0", "::"))


def _recverr(sock: socket.socket) -> tuple[int, int]:
    if sock.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, IPV6_RECVERR
    return socket.IPPROTO_IP, IP_RECVERR
