"""TCP: one answer for each chunk that a client sends.

What a client can do wrong, and what becomes of it:

* It half-closes: it is answered for what it sent, then closed.
* It closes or resets: it is let go of at once, without a word.
* It does not read: when the kernel takes no more of an answer, nothing more is read from this
  client until it does. So no client makes us hold more than one answer.
* There are too many: when no descriptor is left, the listener rests, first for 10 ms, then
  for longer and up to 1 s, and the clients wait in the backlog. A descriptor that the backend
  cannot take (select has room for 1024) is closed, and the others are served on.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from uloop_reactor import UEvent, Uloop

from .endpoint import Endpoint
from .server import Server

__all__ = ["TcpServer"]

log = logging.getLogger("uloop.servers")

BACKLOG = 1024  # connections that the kernel holds until we accept them, if it allows so many
ACCEPTS_PER_TURN = 64
MOST_READ = 64 * 1024  # bytes at once
FIRST_REST = 0.01  # seconds
LONGEST_REST = 1.0  # seconds
COMPLAINT_INTERVAL = 60.0  # seconds


class TcpServer(Server):
    """A listening socket and the connections it has accepted.

    Parameters:
        loop: the loop to serve on.
        endpoint: where to listen.
        answer: what to send for a chunk of bytes that was read.
    """

    def __init__(self, loop: Uloop, endpoint: Endpoint, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.connections: set[Connection] = set()
        self._rest = 0.0
        self._complain = Complaint()
        super().__init__(loop, endpoint)

    def _prepare(self, sock: socket.socket) -> None:
        sock.listen(BACKLOG)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Accept who waits, but no more than leaves time for the others."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # this one has gone before we came
            except OSError as error:
                self._rest_a_while(error)  # as a rule: no descriptor is left
                return
            self._rest = 0.0
            self._welcome(sock, peer)

    def close(self) -> None:
        """Stop listening, and close every connection. A second call does nothing."""
        super().close()
        for connection in list(self.connections):
            connection.close()

    def _welcome(self, sock: socket.socket, peer: object) -> None:
        sock.setblocking(False)
        try:
            connection = Connection(self, sock)
        except (OSError, ValueError) as error:
            sock.close()
            self._complain("%s: closed the connection of %s: %s", self.endpoint, peer, error)
        else:
            self.connections.add(connection)

    def _rest_a_while(self, error: OSError) -> None:
        self._complain("%s: no new connections for now: %s", self.endpoint, error)
        self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
        self.loop.modify(self, UEvent.poll_none)
        # once closed, the loop passes over a descriptor that it does not know
        self.loop.call_later(self._rest, self.loop.modify, self, UEvent.poll_in)


class Connection:
    """One client. Reads and answers in turn, so that it never holds more than one answer."""

    __slots__ = ("_server", "_sock", "_unsent")

    def __init__(self, server: TcpServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._unsent = b""
        try:
            # Answers are small and each is sent whole: none has to wait for the last one's ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # macOS says so of a client that has reset already, which recv will tell too
        server.loop.add(sock, UEvent.poll_in, self)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Read and answer, or send the rest of an answer."""
        try:
            if self._unsent:
                self._send(self._unsent)
                if not self._unsent:
                    self._server.loop.modify(fileno, UEvent.poll_in)
            elif chunk := self._sock.recv(MOST_READ):
                self._send(self._server.answer(chunk))
                if self._unsent:
                    self._server.loop.modify(fileno, UEvent.poll_out)
            else:
                self.close()
        except BlockingIOError:
            pass  # not ready after all
        except OSError:
            self.close()  # reset or gone: there is nobody to tell

    def close(self) -> None:
        self._server.loop.remove(self._sock)
        self._sock.close()
        self._server.connections.discard(self)

    def _send(self, data: bytes) -> None:
        """Send what the kernel takes, and keep the rest."""
        try:
            self._unsent = data[self._sock.send(data) :]
        except BlockingIOError:
            self._unsent = data


class Complaint:
    """A warning that strangers can cause: said at most once a minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, message: str, *args: object) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + COMPLAINT_INTERVAL
            log.warning(message, *args)
