"""UDP: one answer for each datagram.

A datagram is answered or dropped; no error of one of them touches the others. An answer that
the kernel does not take at once is dropped too, as any router on its way might have done.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from uloop_reactor import UEvent, Uloop

from .endpoint import Endpoint
from .server import Server

__all__ = ["UdpServer"]

DATAGRAMS_PER_TURN = 64
LARGEST_DATAGRAM = 64 * 1024  # bytes; Windows calls one that is cut off an error
RECEIVE_BUFFER = 1024 * 1024  # bytes; a burst of clients must fit into it, or some are lost


class UdpServer(Server):
    """A socket that answers datagrams.

    Parameters:
        loop: the loop to serve on.
        endpoint: where to listen.
        answer: what to send for a datagram, or ``None`` for one that is not answered.
    """

    def __init__(self, loop: Uloop, endpoint: Endpoint, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        super().__init__(loop, endpoint)

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Answer what has come, but no more than leaves time for the others."""
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                datagram, client = self._sock.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # Windows tells here that an earlier answer reached nobody
            reply = self.answer(datagram)
            if reply is not None:
                try:
                    self._sock.sendto(reply, client)
                except OSError:
                    pass  # dropped
