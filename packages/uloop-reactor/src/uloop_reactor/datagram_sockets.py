"""Datagram sockets: what address they have, and how they are opened."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from . import mmsg
from .mmsg import UNIX
from .port_sharing import option_to_share_a_port
from .socket_file import SocketFile, remove_dead_socket

__all__ = ["Address", "bound_socket", "connected_socket", "numeric"]

#: as Python's socket module has them: ``(host, port)``, ``(host, port, flowinfo, scope_id)``, the
#: path of a Unix socket (bytes if it is abstract), ``None`` for one that has no path
Address = Any

UNIX_PATH_ROOM = mmsg.UNIX_PATH_ROOM if sys.platform == "linux" else 104  # <sys/un.h> of the BSDs and macOS


@lru_cache(mmsg.KNOWN)
def numeric(family: int, address: Any) -> Address:
    """The address, if it can be sent to without a look-up.

    Raises:
        ValueError: it cannot.
    """
    if family == UNIX:
        if len(os.fsencode(address)) >= UNIX_PATH_ROOM:
            raise ValueError(
                f"the path of a Unix socket has less than {UNIX_PATH_ROOM} bytes; not so {address!r}"
            )
        return address
    host, port = address[:2]
    if not 0 <= port <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    if host == "<broadcast>":  # as Python's socket module takes it
        host = "255.255.255.255"
    try:
        socket.inet_pton(family, host)
    except OSError:
        try:  # fe80::1%eth0 has a number for a name
            ((*_, found),) = socket.getaddrinfo(
                host, port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
            )
        except OSError:
            version = "IPv6" if family == socket.AF_INET6 else "IPv4"
            raise ValueError(
                f"the host must be an {version} address in numbers, not {host!r}; look names up before"
            ) from None
        return found
    return (host, *address[1:])


def bound_socket(address: Address, reuse_port: bool) -> tuple[socket.socket, SocketFile | None]:
    """A bound socket, and the file if it has one."""
    if _is_path(address):
        family, address = _unix_family(address), os.fspath(address)
    else:
        host, port = address[:2]
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, option_to_share_a_port(), 1)
        file = _bind(sock, address)
        undo.pop_all()
    return sock, file


def connected_socket(address: Address, local_address: Address) -> tuple[socket.socket, SocketFile | None]:
    if _is_path(address):
        family, address = _unix_family(address), os.fspath(address)
        if local_address is None and sys.platform == "linux":
            local_address = ""  # a name that the kernel chooses, unix(7)
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    address = numeric(family, address)
    if local_address is not None:
        local_address = os.fspath(local_address) if family == UNIX else numeric(family, local_address)
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        file = None
        if local_address is not None:
            file = _bind(sock, local_address)
            if file is not None:
                undo.callback(file.unlink)
        try:
            sock.connect(address)
        except OSError as error:
            raise _about("connect to", address, error) from None
        undo.pop_all()
    return sock, file


def _bind(sock: socket.socket, address: Address) -> SocketFile | None:
    """Bind it, in place of a dead one's file, and return the file if it has one."""
    try:
        try:
            sock.bind(address)
        except OSError as error:
            if sock.family != UNIX or error.errno != errno.EADDRINUSE or os.fsencode(address)[:1] == b"\0":
                raise
            remove_dead_socket(os.fsencode(address))
            sock.bind(address)
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:  # what a living one says to the question whether it lives
            error = OSError(errno.EADDRINUSE, "another socket is bound to it")
        raise _about("bind", address, error) from None
    path = sock.getsockname() if sock.family == UNIX else b""
    return SocketFile(os.fsencode(path)) if isinstance(path, str) and path else None


def _is_path(address: Address) -> bool:
    return isinstance(address, (str, bytes, os.PathLike))


def _unix_family(address: Address) -> int:
    if UNIX is None:
        raise ValueError(f"this platform has no Unix datagram sockets, so no address {address!r}")
    return UNIX


def _about(what: str, address: Address, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot {what} {address!r}: {error.strerror or error}")
