"""The files of Unix sockets: a dead server's is replaced, a living one's never, ours is removed."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

__all__ = ["AF_UNIX", "SocketFile", "remove_dead_socket"]

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)  # Windows has it, its Python has not


class SocketFile:
    """A file that we have made, to be removed unless it is another's by now."""

    def __init__(self, path: bytes) -> None:
        self._path = os.path.abspath(path)  # the program may change its directory
        self._identity = _identity(self._path)
        self._maker = os.getpid()  # a forked child that closes its copy leaves the file alone

    def unlink(self) -> None:
        """Remove it if it is still ours."""
        try:
            if self._maker == os.getpid() and _identity(self._path) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass  # it has gone, or its directory is not ours any more


def remove_dead_socket(path: bytes) -> None:
    """Remove a socket's file if nobody listens on it.

    Raises:
        OSError: somebody does, or it is no socket, or nobody can tell.
    """
    identity = _identity(path)
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EADDRINUSE, "this file is there already, and is no socket")
    with socket.socket(AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if _identity(path) == identity:
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # it lives, with a full backlog
    raise OSError(errno.EADDRINUSE, "a server listens on it already")


def _identity(path: bytes) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
