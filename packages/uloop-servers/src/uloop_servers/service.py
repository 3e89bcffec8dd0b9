"""A server for an endpoint: the protocol, put on its transport."""

from __future__ import annotations

from datetime import datetime

from uloop_reactor import Uloop

from .endpoint import Endpoint
from .protocols import clock
from .server import Server
from .tcp import TcpServer
from .udp import UdpServer

__all__ = ["open_server"]


def open_server(loop: Uloop, endpoint: str | Endpoint) -> Server:
    """Serve the time on a loop, beside whatever else runs on it.

    Parameters:
        loop: the loop to serve on.
        endpoint: where, as in ``tcp://127.0.0.1:3333`` or ``udp://[::1]:0``.

    Returns:
        The server, bound and serving; its ``endpoint`` has the real port, and its ``close()``
        ends it.

    Raises:
        ValueError: this is no endpoint, or the loop's backend has no room for another one.
        OSError: the endpoint cannot be had.
    """
    if isinstance(endpoint, str):
        endpoint = Endpoint.parse(endpoint)
    if endpoint.scheme == "tcp":
        return TcpServer(loop, endpoint, _answer_chunk)
    return UdpServer(loop, endpoint, _answer_datagram)


def _answer_chunk(chunk: bytes) -> bytes:
    return clock.answer(datetime.now())


def _answer_datagram(datagram: bytes) -> bytes | None:
    return None if clock.is_answer(datagram) else clock.answer(datetime.now())
