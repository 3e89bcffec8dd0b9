"""TCP: a protocol on a listener.

A client that is let in is served until it goes; what it can do wrong, and what becomes of it:

* It says nothing: it is closed after ``idle_timeout``. It does not read: when a few answers wait
  for it nothing more is read from it, and after ``write_timeout`` it is closed. So no client makes
  us hold more than a few kilobytes.
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
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uloop_reactor import Listener, Stream, Uloop

from .counters import Count

if TYPE_CHECKING:
    from .guard import Guard
    from .protocols import Answer, TimeProtocol
    from .timesource import TimeSource

__all__ = ["Conversation", "Crowd", "LastWord", "TcpServer"]

MOST_UNSENT = 1024  # bytes; a few dozen answers
#: bytes that the kernel holds for a client each way. By default it may hold megabytes of answers for one
#: that does not read them, and ours are 26 bytes long.
KERNEL_BUFFER = 16 * 1024
LINGER = 2.0  # seconds that a client has to close after us, before what it still sends resets it
PATIENCE = 2.0  # seconds of silence after which a connection may have to make room


class Crowd:
    """The open connections of all TCP endpoints of a process.

    Parameters:
        limit: how many there may be at once.

    Attributes:
        waited: how often somebody was left waiting because nobody could make room.
        now: the time of the loop when ``tick`` was last called. As exact as silence needs to be
            measured, and to read it costs a client's question nothing.
    """

    def __init__(self, loop: Uloop, limit: int) -> None:
        self.limit = limit
        self.now = loop.time()
        self.waited = 0
        self.connections: dict[Connection, None] = {}  # in the order in which they came
        self._loop = loop
        self._served: dict[Connection, None] = {}  # those who only have to go
        self._silent: deque[tuple[float, Connection]] = deque()  # since when; the longest first
        self._look_again = 0.0  # when somebody may have become silent enough

    def tick(self) -> None:
        """To be called twice a second or so."""
        self.now = self._loop.time()

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

    def enter(self, connection: Connection) -> None:
        """One more."""
        self.connections[connection] = None

    def leave(self, connection: Connection) -> bool:
        """One less; tells whether it was in."""
        self._served.pop(connection, None)
        return self.connections.pop(connection, self) is None

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
    """One client."""

    __slots__ = ("_host", "_server", "last_heard")

    def __init__(self, loop: Uloop, sock: socket.socket, server: TcpServer, host: str) -> None:
        self._server = server
        self._host = host
        self.last_heard = server.crowd.now
        super().__init__(
            loop,
            sock,
            high_water=MOST_UNSENT,
            idle_timeout=server.idle_timeout,
            write_timeout=server.write_timeout,
            linger_timeout=LINGER,
        )
        server.crowd.enter(self)
        server.guard.connected(host)
        server.tally[Count.CONNECTIONS] += 1
        server.tally[Count.OPEN_CONNECTIONS] += 1

    def on_timeout(self, error: TimeoutError, /) -> None:
        self._server.tally[Count.TIMED_OUT] += 1
        if self.unsent:
            self.abort(error)
        else:
            self.close()  # it is told in order

    def on_close(self, reason: BaseException | None, /) -> None:
        self._leave()

    @property
    def is_denied(self) -> bool:
        """Whether it would not be let in any more."""
        return self._server.guard.refuses_connection(self._host) is Count.DENIED

    def evict(self) -> None:
        """Make room for another, now."""
        self._server.tally[Count.EVICTED] += 1
        self.abort()
        self._leave()

    def _leave(self) -> None:
        server = self._server
        if server.crowd.leave(self):
            server.guard.disconnected(self._host)
            server.tally[Count.OPEN_CONNECTIONS] -= 1


class Conversation(Connection):
    """The connection stays open, and each chunk that is read is answered."""

    __slots__ = ()

    def on_data(self, data: bytes, /) -> None:
        server = self._server
        tally = server.tally
        self.last_heard = server.crowd.now
        tally[Count.RECEIVED_BYTES] += len(data)
        answer = server.answer(data, server.source.now(), server.source)
        if answer is None:
            tally[Count.UNREADY] += 1
            self.close()
            return
        self.write(answer)
        tally[Count.ANSWERED] += 1
        tally[Count.SENT_BYTES] += len(answer)


class LastWord(Connection):
    """The client is told once, unasked, and the connection ends."""

    __slots__ = ()

    def on_connect(self) -> None:
        server = self._server
        answer = server.answer(b"", server.source.now(), server.source)
        if answer is None:
            server.tally[Count.UNREADY] += 1
        else:
            self.write(answer)
            server.tally[Count.ANSWERED] += 1
            server.tally[Count.SENT_BYTES] += len(answer)
        self.close()
        server.crowd.may_leave(self)


class TcpServer:
    """Serves a protocol on a socket that listens.

    Parameters:
        sock: non-blocking and listening; ours from now on, unless this fails.
        protocol: what is spoken.
        answer: its answers.
        tally: the numbers of its scheme.
        idle_timeout, write_timeout: seconds, for connections accepted from now on.
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
        idle_timeout: float,
        write_timeout: float,
    ) -> None:
        self.answer = answer
        self.source = source
        self.guard = guard
        self.crowd = crowd
        self.tally = tally
        self.idle_timeout = idle_timeout
        self.write_timeout = write_timeout
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)  # accepted sockets inherit them
        self._kind: Callable[..., Connection] = LastWord if protocol.once else Conversation
        self._listener = Listener(loop, sock, self._welcome, admit=crowd.admit)

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
