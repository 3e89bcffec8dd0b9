"""What the servers share: a socket that is bound to an endpoint, on a loop."""

from __future__ import annotations

import socket
from abc import abstractmethod

from uloop_reactor import EventHandler, Uloop

from .endpoint import Endpoint

__all__ = ["Server"]


class Server(EventHandler):
    """Serves an endpoint until ``close``.

    Parameters:
        loop: the loop to serve on.
        endpoint: where; the attribute ``endpoint`` has the real port.

    Raises:
        OSError: the endpoint cannot be had.
        ValueError: the loop's backend has no room for another descriptor.
    """

    def __init__(self, loop: Uloop, endpoint: Endpoint) -> None:
        self.loop = loop
        self._sock, self.endpoint = endpoint.bind()
        try:
            self._prepare(self._sock)
            self.add_to_event_loop(loop)
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Stop serving. A second call does nothing."""
        self.loop.remove(self)
        self._sock.close()

    @abstractmethod
    def _prepare(self, sock: socket.socket) -> None:
        """What the bound socket needs before it is watched."""
