"""systemd: what a service tells it, and the sockets that it opens for one.

The other direction of both is in systemd's manual pages sd_notify(3), sd_watchdog_enabled(3) and
sd_listen_fds(3). There is nothing to install: it is a datagram to a Unix socket, and environment
variables. Where there is no systemd there are no such variables, and nothing happens.

A socket that systemd has opened says by its name (``FileDescriptorName=`` of the socket unit) what
is spoken on it. Without such a name, whoever gave the endpoint says it, or else the port.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from .endpoint import SCHEMES, Endpoint

__all__ = ["Notifier", "match_inherited", "notify", "watchdog_interval"]

log = logging.getLogger("uloop.servers")

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)  # Python on Windows has none
PATIENCE = 1.0  # seconds; systemd reads at once, and what hangs with it must not be the time service
FOREVER = 2**64 - 1  # USEC_INFINITY


# Telling it


def notify(*assignments: str) -> None:
    """Tell the service manager, if there is one: ``notify("READY=1", "STATUS=serving")``.

    It never raises: a service that cannot say how it is serves all the same. The first failure of a kind
    is logged at DEBUG.

    Parameters:
        assignments: as in sd_notify(3), each without a line end.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or AF_UNIX is None:
        return
    try:
        if address[0] not in "/@":
            raise ValueError("neither a path nor an abstract name")
        # An abstract name begins with NUL, and the variable shows that as @.
        name = f"\0{address[1:]}" if address[0] == "@" else address
        with socket.socket(AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto("\n".join(assignments).encode(), os.fsencode(name))
    except (OSError, ValueError) as error:
        _complain(address, getattr(error, "strerror", None) or str(error))


@cache
def _complain(address: str, reason: str) -> None:
    log.debug("the service manager at %s cannot be told: %s", address, reason)


class Notifier:
    """What a service tells: in the terms of ``systemctl status``, and for ``Type=notify``."""

    def ready(self) -> None:
        """It serves; or it has read its configuration again."""
        notify("READY=1")

    def reloading(self) -> None:
        """It reads its configuration again, from now until ``ready``."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It has begun to end."""
        notify("STOPPING=1")

    def watchdog(self) -> None:
        """It is alive."""
        notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """How long ``Notifier.watchdog`` may be missing, in seconds, before systemd ends this process.

    To be called twice as often, as sd_watchdog_enabled(3) says. ``None`` if nobody watches.
    """
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if pid not in (None, str(os.getpid())):
        return None  # meant for who has started us
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or not 0 < int(text) < FOREVER:
        return None
    return int(text) / 1e6


# The sockets it opens


def match_inherited(
    sockets: Iterable[tuple[str, socket.socket]], endpoints: Sequence[Endpoint], explicit: bool
) -> tuple[list[tuple[Endpoint, socket.socket]], list[Endpoint]]:
    """Find out what is to be spoken on sockets that somebody else has opened. The rules:

    1. One whose name is a scheme, like ``ntp`` or ``daytime+udp``, speaks that. The name can be
       a protocol as well, like ``daytime``: all sockets of a unit have the same one, and
       those of Daytime can be of both types.
    2. Else it is that of an endpoint with its type, address and port.
    3. Else its port tells, if it is one that a protocol has: 13, 37 or 123.
    4. Else it speaks the base protocol.

    Parameters:
        sockets: as ``uloop_reactor.inherited_sockets`` gives them. They do not block from now on.
        endpoints: what the service is to serve.
        explicit: somebody asked for these endpoints. Those that nobody asked for, the defaults,
            are not served beside inherited sockets.

    Returns:
        The sockets, each with its endpoint, and the endpoints that are still to be bound.

    Raises:
        ValueError: a socket cannot be served on, or not with the protocol that it is named after.
    """
    wanted = list(endpoints)
    bound = []
    for name, sock in sockets:
        transport = _transport(name, sock)
        host, port = sock.getsockname()[:2]
        scheme = _scheme_by_name(name, transport)
        if scheme is None:
            endpoint = _endpoint_at(sock, wanted) or Endpoint(_scheme_by_port(port, transport), host, port)
        else:
            endpoint = Endpoint(scheme, host, port)
        sock.setblocking(False)
        bound.append((endpoint, sock))
        taken = [one for one in wanted if one.scheme == endpoint.scheme and _is_at(sock, one)]
        wanted = [one for one in wanted if one not in taken]
    return bound, wanted if explicit or not bound else []


def _transport(name: str, sock: socket.socket) -> str:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(
            f"the inherited socket {name!r} is no Internet socket, but of the family {_plain(sock.family)}"
        )
    if sock.type == socket.SOCK_DGRAM:
        return "udp"
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(
            f"the inherited socket {name!r} is neither stream nor datagram, but {_plain(sock.type)}"
        )
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listening = 1  # macOS does not tell
    if not listening:
        raise ValueError(f"the inherited socket {name!r} does not listen; a socket unit needs Accept=no")
    return "tcp"


def _plain(number: Any) -> str:
    return str(getattr(number, "name", number))


def _scheme_by_name(name: str, transport: str) -> str | None:
    named = [scheme for scheme, what in SCHEMES.items() if name in (scheme, what.protocol)]
    fitting = [scheme for scheme in named if SCHEMES[scheme].transport == transport]
    if named and not fitting:
        has, needs = ("stream", "datagram") if transport == "tcp" else ("datagram", "stream")
        raise ValueError(f"the inherited socket {name!r} is a {has} socket; {name} needs a {needs} socket")
    return fitting[0] if fitting else None


def _endpoint_at(sock: socket.socket, endpoints: Iterable[Endpoint]) -> Endpoint | None:
    return next((endpoint for endpoint in endpoints if _is_at(sock, endpoint)), None)


def _is_at(sock: socket.socket, endpoint: Endpoint) -> bool:
    address = sock.getsockname()
    if endpoint.kind != sock.type or endpoint.port != address[1]:
        return False
    try:
        return (sock.family, address) in endpoint.addresses()
    except (OSError, UnicodeError):
        return False  # whoever binds it has the reason


def _scheme_by_port(port: int, transport: str) -> str:
    known = {(what.port, what.transport): scheme for scheme, what in SCHEMES.items()}
    return known.get((port, transport), transport)  # the base protocol has the names of the transports
