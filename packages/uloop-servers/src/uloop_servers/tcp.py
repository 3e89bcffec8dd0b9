"""TCP: a protocol on a listener.

A client that is let in is served until it goes; what it can do wrong, and what becomes of it:

* It says nothing: it is closed after ``idle_timeout``. It does not read: while an answer waits for
  it nothing more is read from it, and after ``write_timeout`` it is closed. So no client makes us
  hold more than a few bytes.
* It half-closes: it is answered for what it sent, then closed. It resets: it is let go of at once.
* There are too many: all TCP endpoints of a process share one limit. When it is reached, the
  next client takes the place of one that has been told all it came for and does not go, or of
  whoever has been silent longest, if that is two seconds or more; otherwise it waits in the
  backlog. Without that rule, whoever opens enough connections and says nothing shuts the others
  out for as long as ``idle_timeout``. Who talks on all of them still does; against that there is the
  limit for one source, which is off by default since a farm behind NAT is one source, too.
* No descriptor is left: the next ones wait in the backlog, too (see ``uloop_reactor.Listener``).
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uloop_reactor import Listener, Stream, UEvent, Uloop
from uloop_reactor.stream import OPEN, READ, READ_SIZE

from .counters import Count

if TYPE_CHECKING:
    from .guard import Guard
    from .protocols import Answer, TimeProtocol
    from .timesource import TimeSource

__all__ = ["Conversation", "Crowd", "LastWord", "TcpServer"]

#: bytes that the kernel holds for a client each way. By default it may hold megabytes of answers for one
#: that does not read them, and ours are 26 bytes long.
KERNEL_BUFFER = 16 * 1024
LINGER = 2.0  # seconds that a client has to close after us, before what it still sends resets it
#: seconds of silence after which a connection may have to make room: two, and one tick, since it is known
#: only between which two ticks it was last heard
PATIENCE = 2.5
#: for ``answer``: only NTP tells when a question came, and that is not spoken on TCP
NO_ARRIVAL = 0
QUESTION = bytearray(READ_SIZE)
#: On Linux what was received is not even copied, tcp(7): 0.1 us less, of the 6 that an answer costs in all.
DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0


class Crowd:
    """The open connections of all TCP endpoints of a process.

    The silent ones are found by looking at all of them now and then, which takes 60 ns for each. A timer for
    each connection would cost 260 bytes of memory, and two looks at the clock for each message.

    Parameters:
        limit: how many there may be at once.
        idle_timeout: seconds of silence until a connection is closed, never earlier; late by a
            second and 2 % at most. May be changed, and holds for those that are open, too: who has been
            silent for longer already is closed before the new time has passed once.

    Attributes:
        connections: each with the address of its client, in the order in which they came.
        waited: how often somebody was left waiting because nobody could make room.
        now: the time of the loop when ``tick`` was last called. As exact as silence needs to be
            measured, and to read it costs a client's question nothing.
        servers: those whose connections these are.
    """

    def __init__(self, loop: Uloop, limit: int, idle_timeout: float) -> None:
        self.limit = limit
        self._idle_timeout = idle_timeout
        self.now = loop.time()
        self.waited = 0
        self.servers: list[TcpServer] = []
        self.connections: dict[Connection, str] = {}
        self._loop = loop
        self._served: dict[Connection, None] = {}  # those who only have to go
        self._silent: deque[tuple[float, Connection]] = deque()  # since when; the longest first
        self._look_again = 0.0  # when somebody may have become silent enough
        self._sweeps: deque[float] = deque()  # when it was looked for idle connections; the earliest first
        self._next_sweep = self.now

    @property
    def idle_timeout(self) -> float:
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float) -> None:
        self._idle_timeout = seconds
        self._next_sweep = self.now  # not at the pace of the old one

    def tick(self) -> None:
        """To be called twice a second or so."""
        self.now = self._loop.time()
        self.count()
        if len(self.connections) < self.limit:
            self._silent.clear()  # nobody has to make room, and who has left is not to be kept
        if self.now >= self._next_sweep:
            self._next_sweep = self.now + self.idle_timeout / 100
            self._close_idle()

    def _close_idle(self) -> None:
        # ``last_heard`` is not when a client was heard, but the tick before that. So it may have been heard
        # until the next tick, but whose tick was before a sweep was heard before that sweep.
        sweep = None
        self._sweeps.append(self.now)
        while self._sweeps[0] <= self.now - self.idle_timeout:
            sweep = self._sweeps.popleft()
        if sweep is not None:
            for connection in [one for one in self.connections if one.last_heard < sweep]:
                connection.close_if_idle()

    def count(self) -> None:
        """Have all that was counted in the tallies."""
        for server in self.servers:
            server.count()

    def admit(self) -> bool:
        """Whether one more may come: there is room, or somebody who can make room."""
        if len(self.connections) < self.limit or self._next_to_leave() is not None:
            return True
        self.waited += 1
        return False

    def make_room(self) -> None:
        """Close who has been silent longest, if there is no room for the one who comes now."""
        while len(self.connections) >= self.limit:
            connection = self._next_to_leave()
            if connection is None:
                break  # the limit was lowered, and nobody is silent
            connection.evict()

    def may_leave(self, connection: Connection) -> None:
        """This one has been served, and only has to go: it is the first to make room."""
        self._served[connection] = None

    def enter(self, connection: Connection, host: str) -> None:
        """One more."""
        self.connections[connection] = host

    def leave(self, connection: Connection) -> str | None:
        """One less; tells the address of its client, or ``None`` if it was not in."""
        self._served.pop(connection, None)
        return self.connections.pop(connection, None)

    def _next_to_leave(self) -> Connection | None:
        for connection in self._served:
            return connection
        silent = self._silent
        while True:
            while silent:
                since, connection = silent[0]
                if connection in self.connections and connection.last_heard == since:
                    return connection
                silent.popleft()  # it has left, or has said something since
            now = self._loop.time()
            if now < self._look_again:
                return None
            # To look through all of them takes a while, so not before it can find anybody.
            heard = [(one.last_heard, one) for one in self.connections]
            found = [entry for entry in heard if entry[0] <= now - PATIENCE]
            if not found:
                self._look_again = min(heard, default=(now,), key=lambda entry: entry[0])[0] + PATIENCE
                return None
            silent.extend(sorted(found, key=lambda entry: entry[0]))  # of equals, who came first is first


class Connection(Stream):
    """One client.

    Attributes:
        last_heard: when it last said something, or took what it had to be told: ``crowd.now``.
    """

    __slots__ = ("_server", "last_heard")

    keeps_peer = False  # there may be very many, and the crowd knows who they are

    def __init__(self, loop: Uloop, sock: socket.socket, server: TcpServer, host: str) -> None:
        self._server = server
        self.last_heard = server.crowd.now
        super().__init__(
            loop,
            sock,
            high_water=0,
            idle_timeout=None,  # the crowd sees to that
            write_timeout=server.write_timeout,
            linger_timeout=LINGER,
        )
        server.crowd.enter(self, host)
        server.guard.connected(host)
        server.tally[Count.CONNECTIONS] += 1
        server.tally[Count.OPEN_CONNECTIONS] += 1

    def on_timeout(self, error: TimeoutError, /) -> None:
        self._server.tally[Count.TIMED_OUT] += 1
        self.abort(error)

    def close_if_idle(self) -> None:
        """It was not heard for long. What waits to be sent has a timeout of its own, and so has its end."""
        if self.state is OPEN and not self.unsent:
            self._server.tally[Count.TIMED_OUT] += 1
            self.close()  # it is told in order

    def on_drain(self) -> None:
        self.last_heard = self._server.crowd.now  # it is idle from now on, not since it asked
        super().on_drain()

    def on_close(self, reason: BaseException | None, /) -> None:
        self._leave()

    @property
    def is_denied(self) -> bool:
        """Whether it would not be let in any more."""
        server = self._server
        return server.guard.refuses_connection(server.crowd.connections[self]) is Count.DENIED

    def evict(self) -> None:
        """Make room for another, now."""
        self._server.tally[Count.EVICTED] += 1
        self.abort()
        self._leave()

    def _answer(self, size: int) -> bytes:
        """The answer to so many bytes, counted as sent."""
        server = self._server
        answer = server.answer(b"", NO_ARRIVAL, server.source)
        self.last_heard = server.crowd.now
        server.received_bytes += size
        server.answered += 1
        server.sent_bytes += len(answer)
        return answer

    def _leave(self) -> None:
        server = self._server
        host = server.crowd.leave(self)
        if host is not None:
            server.guard.disconnected(host)
            server.tally[Count.OPEN_CONNECTIONS] -= 1


class Conversation(Connection):
    """The connection stays open, and each chunk that is read is answered, whatever is in it."""

    __slots__ = ()

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        # The usual case: a question, and nothing waits. It is what Stream does, but the question is read
        # into a buffer that all share, since nobody looks at it: 0.15 us less, of the 6 that an answer
        # costs in all; and without the calls of ``on_data`` and ``write``: 0.1 us less.
        if self._interest != READ or self._state is not OPEN:
            self._deal_with(event)
            return
        try:
            size = self._sock.recv_into(QUESTION, 0, DISCARD)
        except OSError as error:
            self._read_failed(error)
            return
        if not size:
            self._received_eof()
            return
        answer = self._answer(size)
        try:
            sent = self._sock.send(answer)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        if sent != len(answer):
            self._enqueue(memoryview(answer)[sent:])

    def on_data(self, data: bytes, /) -> None:
        self.write(self._answer(len(data)))


class LastWord(Connection):
    """The client is told once, unasked, and the connection ends."""

    __slots__ = ()

    def on_connect(self) -> None:
        self.write(self._answer(0))
        self.close()
        self._server.crowd.may_leave(self)


class TcpServer:
    """Serves a protocol on a socket that listens.

    Parameters:
        sock: non-blocking and listening; ours from now on, unless this fails.
        protocol: what is spoken.
        answer: its answers.
        tally: the numbers of its scheme. What is counted for each message gets there by ``count``.
        write_timeout: seconds, for connections accepted from now on.
    """

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        protocol: TimeProtocol,
        answer: Answer,
        *,
        source: TimeSource,
        guard: Guard,
        crowd: Crowd,
        tally: memoryview[int],
        write_timeout: float,
    ) -> None:
        self.answer = answer
        self.source = source
        self.guard = guard
        self.crowd = crowd
        self.tally = tally
        self.answered = self.received_bytes = self.sent_bytes = 0  # since the last call of count
        self.write_timeout = write_timeout
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)  # accepted sockets inherit them
        self._kind: Callable[..., Connection] = LastWord if protocol.once else Conversation
        self._listener = Listener(loop, sock, self._welcome, admit=crowd.admit)
        crowd.servers.append(self)

    def count(self) -> None:
        """Add to the tally what was counted since the last call.

        To add to the tally itself for each answer, three times in shared memory, would cost 0.1 us of 6.
        """
        self.tally[Count.ANSWERED] += self.answered
        self.tally[Count.RECEIVED_BYTES] += self.received_bytes
        self.tally[Count.SENT_BYTES] += self.sent_bytes
        self.answered = self.received_bytes = self.sent_bytes = 0

    def finish(self) -> bool:
        """Let in who waits, then listen no more. The connections live on.

        Returns:
            Whether that is done; ``False`` if there is no room for all who wait: try again later.
        """
        done = self._listener.accept_backlog()
        if done:
            self._listener.close()
        return done

    def stop_listening(self) -> None:
        """Listen no more, whoever waits. The connections live on."""
        self._listener.close()

    def close(self) -> None:
        """Listen no more, and close the connections at once."""
        self._listener.close()
        for connection in list(self._listener.connections):
            connection.abort()

    def _welcome(self, loop: Uloop, sock: socket.socket) -> Connection | None:
        try:
            peer: Any = sock.getpeername()
        except OSError:
            return None  # it has gone before we came
        refusal = self.guard.refuses_connection(peer[0])
        if refusal is not None:
            self.tally[refusal] += 1
            return None
        self.crowd.make_room()
        return self._kind(loop, sock, self, peer[0])
