"""One port for several sockets, among which the kernel deals out what comes."""

from __future__ import annotations

import socket
import sys

__all__ = ["option_to_share_a_port"]


def option_to_share_a_port() -> int:
    """The socket option, of SOL_SOCKET: socket(7) for Linux, getsockopt(2) for FreeBSD.

    macOS and the other BSDs have SO_REUSEPORT too, but there it gives everything to one of the sockets:
    workers would idle, and nobody would know why.

    Raises:
        ValueError: this platform does not share a port in that way.
    """
    if sys.platform == "linux":
        return socket.SO_REUSEPORT
    if sys.platform.startswith("freebsd"):
        return getattr(socket, "SO_REUSEPORT_LB", 0x00010000)
    raise ValueError(f"reuse_port: {sys.platform} does not share what comes to a port among sockets")
