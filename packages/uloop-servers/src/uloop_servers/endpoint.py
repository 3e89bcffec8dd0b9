"""Endpoints: where a server is, and what it speaks, as in ``tcp://127.0.0.1:3333``."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass, replace
from typing import Any

from uloop_reactor.port_sharing import option_to_share_a_port

__all__ = ["SCHEMES", "Bound", "Endpoint", "Scheme"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a scheme stands for: ``"clock"``, ``"daytime"``, ``"time"`` or ``"ntp"``, on a transport."""

    protocol: str
    transport: str
    port: int


SCHEMES = {
    "tcp": Scheme("clock", "tcp", 3333),
    "udp": Scheme("clock", "udp", 3333),
    "daytime+tcp": Scheme("daytime", "tcp", 13),
    "daytime+udp": Scheme("daytime", "udp", 13),
    "time+tcp": Scheme("time", "tcp", 37),
    "time+udp": Scheme("time", "udp", 37),
    "ntp": Scheme("ntp", "udp", 123),
}
BACKLOG = 1024  # connections that the kernel holds until they are accepted, if it allows so many
EXAMPLES = "tcp://127.0.0.1:3333 or udp://[::1]:3333"
FORM = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:\[(?P<ipv6>[^][/?#@\s]+)\]|(?P<host>[^][:/?#@\s]+))(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A protocol and an address.

    Parameters:
        scheme: one of ``SCHEMES``.
        host: an IPv4 or IPv6 address, or a name.
        port: 0 to 65535; a server that asks for 0 is given a free one.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``SCHEME://HOST:PORT``; IPv6 addresses stand in brackets, the port may be left out.

        Raises:
            ValueError: one sentence that names the text and what would be right.
        """
        match = FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an endpoint like {EXAMPLES}")
        scheme, ipv6, host, port = match["scheme"], match["ipv6"], match["host"], match["port"]
        if scheme not in SCHEMES:
            raise ValueError(f"{text!r} has the unknown scheme {scheme!r}; known are {', '.join(SCHEMES)}")
        if ipv6 is not None and not _is_ipv6(ipv6):
            raise ValueError(f"{text!r} has {ipv6!r} in brackets, which is not an IPv6 address")
        number = SCHEMES[scheme].port if port is None else int(port)
        if number > 65535:
            raise ValueError(f"{text!r} has the port {number}; ports are 0 to 65535")
        return cls(scheme, ipv6 or host, number)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def kind(self) -> socket.SocketKind:
        """``SOCK_STREAM`` or ``SOCK_DGRAM``."""
        return socket.SOCK_STREAM if self.transport == "tcp" else socket.SOCK_DGRAM

    @property
    def protocol(self) -> str:
        """``"clock"``, ``"daytime"``, ``"time"`` or ``"ntp"``."""
        return SCHEMES[self.scheme].protocol

    @property
    def transport(self) -> str:
        """``"tcp"`` or ``"udp"``."""
        return SCHEMES[self.scheme].transport

    def addresses(self) -> list[tuple[socket.AddressFamily, Any]]:
        """What the host stands for, one address or more: the family, and what ``bind`` takes.

        Raises:
            OSError: it stands for none.
            UnicodeError: it is no host name at all.
        """
        found = socket.getaddrinfo(self.host, self.port, type=self.kind)
        return [(family, address) for family, _, _, _, address in found]

    def bind(self, *, share: bool = False) -> tuple[socket.socket, Endpoint]:
        """A non-blocking socket at this endpoint, and the endpoint with its real port.

        A stream socket listens. Of a name with several addresses it is the first. ``[::]`` takes
        IPv6 alone, so that it can stand beside ``0.0.0.0``.

        Parameters:
            share: let other sockets that ask for it too have the same port, and have the kernel
                deal out the clients (SO_REUSEPORT of Linux, SO_REUSEPORT_LB of FreeBSD).

        Raises:
            OSError: the name is unknown, or the address cannot be had.
            ValueError: this platform has no such sharing.
        """
        family, address = self.addresses()[0]
        sock = socket.socket(family, self.kind)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _claim_address(sock)
            if share:
                sock.setsockopt(socket.SOL_SOCKET, _option_for_workers(), 1)
            sock.bind(address)
            if self.kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock, replace(self, port=sock.getsockname()[1])


#: what a service needs to begin: each endpoint with its socket
Bound = list[tuple[Endpoint, socket.socket]]


def _claim_address(sock: socket.socket) -> None:
    """Have the address to ourselves, and have it again right after a restart."""
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        # Windows: without it anybody can bind the same address and take our clients.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    elif sock.type == socket.SOCK_STREAM:
        # Unix: old connections in TIME_WAIT do not count. For UDP it would let others in.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _option_for_workers() -> int:
    try:
        return option_to_share_a_port()
    except ValueError:
        raise ValueError(f"several workers cannot share a port on {sys.platform}; use one") from None


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return False
    return True
