"""Listeners: accept connections, and hand each to the program.

>>> from uloop_reactor.stream import Stream
>>> class Echo(Stream):
...     def on_data(self, data):
...         self.write(data)
>>> listener = TcpListener(loop, ("127.0.0.1", 3333), Echo)         # doctest: +SKIP

``factory(loop, sock)`` makes the connection: a class, or any function. The rules:

1. A turn accepts 64 at most, so that a crowd at the door does not starve those who are in.
2. A client that has gone before we came is passed over. When the factory raises, the socket is
   closed, the error goes to the loop as that of a callback, and the listener goes on. As that
   of a handler it would pause the listener: a stranger who finds a way to make the factory
   fail must not lock out all the others.
3. At ``max_connections`` the listener stops to accept, and clients wait in the backlog.
4. The same when the process or the system runs out of descriptors or memory: such a shortage
   is logged once when it begins, and once when it is over. Accepting is tried again in 10 ms,
   then in twice as long each time, up to 1 s, and at once when one of our connections closes.
   The other way to go on, a spare descriptor that is closed to accept and turn away
   whoever waits, would turn away clients that a little patience could serve.
5. The same when the program says so: ``admit`` is asked before each accept. While it says no, it
   is asked four times a second, if anybody waits.
6. The same when the backend has no room (select has 1024 descriptors, on Windows 512), but that
   shows only once a client is accepted, so that one is closed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from uloop_events import UEvent

from .backoff import LONGEST_PAUSE, pause_after
from .port_sharing import option_to_share_a_port
from .socket_file import AF_UNIX, SocketFile, remove_dead_socket

if TYPE_CHECKING:
    from .timers import Timer
    from .uloop import Uloop

    Factory = Callable[[Uloop, socket.socket], "Connection | None"]

__all__ = ["Connection", "Listener", "TcpListener", "UnixListener", "inherited_sockets"]

log = logging.getLogger("uloop.reactor")

BACKLOG = 1024  # connections that the kernel holds until we accept them, if it allows so many
ACCEPTS_PER_TURN = 64
LARGEST_BACKLOG = 64 * 1024  # connections; no system holds more of them
ADMIT_INTERVAL = 0.25  # seconds

EXHAUSTED = {
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "WSAEMFILE", "WSAENOBUFS")
    if hasattr(errno, name)
}
#: what has happened to a connection in the backlog, and accept(2) on Linux tells as if it were
#: the listener's own trouble; EPERM is a firewall's
TROUBLE_OF_ONE_CLIENT = {
    getattr(errno, name)
    for name in (
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENONET"),
        *("ENOPROTOOPT", "EOPNOTSUPP", "EPERM", "EPROTO"),
    )
    if hasattr(errno, name)
}


class Connection(Protocol):
    """What a listener needs of that which a factory makes; a ``Stream`` is one."""

    def when_closed(self, callback: Callable[[Any], object], /) -> object:
        """Have ``callback(connection)`` called once, when it is closed."""
        ...


class Listener:
    """Accepts on a socket that listens already: inherited from systemd or inetd, or made by a test.

    Parameters:
        loop: the loop to accept on, from now.
        sock: a listening stream socket of any family. It is made non-blocking, which holds
            in all processes that share it, and is the listener's to close from now on.
        factory: called as ``factory(loop, sock)`` with each new socket, which does not block and
            is not inherited by child processes. Returns a connection that has ``when_closed``;
            or ``None`` to turn the client away, and the listener closes the socket.
        max_connections: open at once; ``None`` for as many as there are descriptors.
        admit: called as ``admit()`` before each accept, though perhaps nobody waits; ``False``
            leaves who waits in the backlog. For limits that several listeners share, say.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the socket does not listen, or has no room in the backend.
        OSError: the loop cannot watch it.
    """

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        factory: Factory,
        *,
        max_connections: int | None = None,
        admit: Callable[[], bool] | None = None,
    ) -> None:
        _check_listening(sock)
        if not callable(factory):
            raise TypeError(f"factory must be callable as factory(loop, sock), not {factory!r}")
        if max_connections is not None and max_connections < 1:
            raise ValueError(
                f"max_connections must be at least 1, or None for no limit, not {max_connections}"
            )
        # A dict, since a set of so many takes twice as much memory.
        self._connections: dict[Any, None] = {}
        self._when_closed = self._connection_closed  # one for all: a bound method has 64 bytes
        #: where it listens, as ``getsockname`` says: with the real port
        self.address: Any = sock.getsockname()
        self.loop = loop
        self._sock = sock
        self._factory = factory
        self._max_connections = max_connections
        self._admit = admit
        self._asks_again: Timer | None = None  # when admit has said no
        self._shortage: Shortage | None = None
        self._accepting = True
        self._closed = False
        sock.setblocking(False)
        loop.add(sock, UEvent.poll_in, self)

    @property
    def connections(self) -> frozenset[Any]:
        """Those that are open now: what the factory has made. They may be closed while one looks at them."""
        return frozenset(self._connections)

    def fileno(self) -> int:
        """The descriptor it listens on; -1 once it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Stop listening; the connections live on. A second call does nothing.

        Clients in the backlog, which nobody has accepted, are reset by the kernel.
        """
        if self._closed:
            return
        self._closed = True
        if self._shortage is not None and self._shortage.timer is not None:
            self._shortage.timer.cancel()
        if self._asks_again is not None:
            self._asks_again.cancel()
        self.loop.remove(self._sock)
        self._sock.close()

    def accept_backlog(self) -> bool:
        """Accept all who wait, before ``close``, say, which would have the kernel reset them.

        Returns:
            Whether nobody waits any more; ``False`` if there was no room for all, or no descriptor.
        """
        return self._accept(LARGEST_BACKLOG)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Accept who waits, but no more than leaves time for others."""
        self._accept(ACCEPTS_PER_TURN)

    def _accept(self, most: int) -> bool:
        for _ in range(most):
            if self._closed or self._is_full():  # a factory can have seen to either
                return False
            if self._admit is not None and not self._admit():
                self._ask_again_later()
                return False
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return True
            except ConnectionError:
                continue  # gone before we came
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._begin_pause(error)
                    return False
                elif error.errno not in TROUBLE_OF_ONE_CLIENT:
                    raise
            else:
                self._welcome(sock)
                if self._shortage is not None and self._shortage.resting:
                    return False
        return False

    def _is_full(self) -> bool:
        return self._max_connections is not None and len(self._connections) >= self._max_connections

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._connections)} connections"
        return f"<{type(self).__name__} on {self.address!r}, {state}>"

    # Connections

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            connection = self._factory(self.loop, sock)
            if connection is not None:
                self._count(connection)
                return
            self._drop(sock)
        except Exception as error:
            lack = self._lack_behind(error, sock)
            self._drop(sock)
            if lack is not None:
                self._begin_pause(lack)
            else:
                self._tell(error)
        except BaseException:
            self._drop(sock)
            raise

    def _count(self, connection: Connection) -> None:
        if not callable(getattr(connection, "when_closed", None)):
            raise TypeError(
                f"a factory returns a connection with a method when_closed(callback), or None; "
                f"{connection!r} has none"
            )
        if connection in self._connections:
            raise ValueError(f"a factory makes a new connection for each socket; {connection!r} has one")
        self._connections[connection] = None  # first, since one that is closed may say so at once
        try:
            connection.when_closed(self._when_closed)
        except BaseException:
            self._connections.pop(connection, None)
            raise
        self._watch()

    def _connection_closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        if self._closed:
            return
        if self._asks_again is not None and self._asks_again.active:
            self._asks_again.cancel()
            self._ask_again()
        shortage = self._shortage
        # The timers of a loop that was closed are not active, and it takes no new ones.
        if shortage is not None and shortage.resting and shortage.timer and shortage.timer.active:
            shortage.timer.cancel()
            self._end_pause(shortage)
        else:
            self._watch()

    def _watch(self) -> None:
        """Ask for clients, unless there are enough of them, or too few descriptors."""
        resting = self._shortage is not None and self._shortage.resting
        accepting = not (self._is_full() or resting or self._asks_again is not None)
        if accepting != self._accepting:
            self._accepting = accepting
            self.loop.modify(self._sock, UEvent.poll_in if accepting else UEvent.poll_none)

    def _ask_again_later(self) -> None:
        if not self._closed and self._asks_again is None:  # admit may have closed us
            self._asks_again = self.loop.call_later(ADMIT_INTERVAL, self._ask_again)
            self._watch()

    def _ask_again(self) -> None:
        self._asks_again = None
        self._watch()

    # What goes wrong

    def _tell(self, error: Exception) -> None:
        if self.loop.closed:
            self.close()  # the factory has closed the loop, and failed because of it
        else:
            self.loop.report_error(error, self._factory)

    def _lack_behind(self, error: Exception, sock: socket.socket) -> OSError | ValueError | None:
        """What is used up, if it was that which made a factory fail."""
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return error
        if not isinstance(error, (OSError, ValueError)) or sock.fileno() == -1:
            return None
        # Was it the backend, which has no room? Try the same without the factory.
        self.loop.remove(sock)
        try:
            self.loop.add(sock, UEvent.poll_none, self)
        except (OSError, ValueError) as lack:
            return lack
        except RuntimeError:
            pass  # the factory has closed the loop
        return None

    def _drop(self, sock: socket.socket) -> None:
        self.loop.remove(sock)
        sock.close()

    def _begin_pause(self, error: OSError | ValueError) -> None:
        if self._closed:
            return
        shortage = self._shortage
        if shortage is None:
            log.warning("%r accepts nobody for now: %s", self, error)
            shortage = self._shortage = Shortage(self.loop.time())
        elif shortage.timer is not None:
            shortage.timer.cancel()
        pause = pause_after(shortage.failures)
        shortage.failures += 1
        shortage.resting = True
        shortage.timer = self.loop.call_later(pause, self._end_pause, shortage)
        self._watch()

    def _end_pause(self, shortage: Shortage) -> None:
        shortage.resting = False
        shortage.ended = self.loop.time()
        shortage.timer = self.loop.call_later(LONGEST_PAUSE, self._end_shortage, shortage)
        self._watch()

    def _end_shortage(self, shortage: Shortage) -> None:
        self._shortage = None
        seconds = shortage.ended - shortage.began
        log.info("%r accepts again, after %d failures in %.2f s", self, shortage.failures, seconds)


class Shortage:
    """An episode: from the first failure until there was none for ``LONGEST_PAUSE``.

    It outlasts a success, since at the limit every client who leaves makes room for one, and
    each would be an episode, with its two lines in the log.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended = began
        self.failures = 0
        self.resting = False
        self.timer: Timer | None = None  # what ends the pause, and after it the shortage


def _check_listening(sock: socket.socket) -> None:
    if not isinstance(sock, socket.socket):
        raise TypeError(f"a listener needs a socket, not {sock!r}")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a listener needs a stream socket, not {sock!r}")
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return  # macOS does not tell
    if not listening:
        raise ValueError(f"a listener needs a socket on which listen() was called, unlike {sock!r}")


# TCP


class TcpListener(Listener):
    """Listens on a TCP port.

    Parameters:
        loop, factory, max_connections, admit: see :class:`Listener`.
        address: a pair of host and port. The host is a numeric address or a name, of which the
            first address is taken; ``None`` or ``""`` is every address of this host: all of
            IPv4, or with ``dual_stack`` of both. Port 0 is one that is free, which the
            attribute ``address`` tells.
        backlog: connections that the kernel holds until they are accepted; it may have a
            lower limit (on Linux ``net.core.somaxconn``).
        reuse_port: share the port with other sockets that ask for it too, as a rule in other
            processes; the kernel deals the connections out. Linux and FreeBSD do.
        dual_stack: one IPv6 socket that takes IPv4 too, for the hosts ``None`` and ``"::"``.
            Without it an IPv6 socket takes IPv6 alone, whatever the system's default. Where
            the system cannot, ``None`` is IPv4 alone.

    Raises:
        ValueError: the address is not a pair of host and port, or this platform has no such option.
        OSError: the name is unknown, the address not ours or in use, or the port not allowed.
            The message names the address.
    """

    def __init__(
        self,
        loop: Uloop,
        address: tuple[str | None, int],
        factory: Factory,
        *,
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        dual_stack: bool = False,
        max_connections: int | None = None,
        admit: Callable[[], bool] | None = None,
    ) -> None:
        with ExitStack() as undo:
            sock = _listen_on_tcp(address, backlog, reuse_port, dual_stack)
            undo.callback(sock.close)
            super().__init__(loop, sock, factory, max_connections=max_connections, admit=admit)
            undo.pop_all()


def _listen_on_tcp(
    address: tuple[str | None, int], backlog: int, reuse_port: bool, dual_stack: bool
) -> socket.socket:
    try:
        host, port = address
        if isinstance(address, str) or not 0 <= port <= 65535:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"address must be a pair of host and port (0 to 65535), not {address!r}") from None
    if dual_stack and host not in (None, "", "::"):
        raise ValueError(f"dual_stack is for the host None or '::', not {host!r}")
    sharing = option_to_share_a_port() if reuse_port else None
    try:
        if not host:
            dual_stack = dual_stack and socket.has_dualstack_ipv6()
            host = "::" if dual_stack else "0.0.0.0"
        family, _, _, _, bound = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if sys.platform == "win32":
                # Its SO_REUSEADDR would let any program of this machine take the port over.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                # Connections of the last run, in TIME_WAIT, are no reason not to start.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
            if sharing is not None:
                sock.setsockopt(socket.SOL_SOCKET, sharing, 1)
            sock.bind(bound)
            sock.listen(backlog)
            undo.pop_all()
            return sock
    except OSError as error:
        # Of the same type and number, and with the address, which the system's own lack.
        raise type(error)(error.errno, f"cannot listen on {host!r}, port {port}: {error.strerror}") from error


# Unix sockets


class UnixListener(Listener):
    """Listens on a Unix socket.

    Its file is there while it listens. What a server that died has left behind, to which
    connecting is refused, is replaced; a living server's and what is no socket never are.
    Two servers that start in the same instant can each take the other's for dead, since a
    socket refuses connections until it listens: leave it to a service manager to start one. And
    only Linux tells a full backlog from nobody: elsewhere a server that is overrun at the moment
    when another one starts on its path is taken for dead.

    Parameters:
        loop, factory, max_connections, admit: see :class:`Listener`.
        path: of the file, about 100 bytes at most; on Linux also an abstract name, of which
            the first byte is NUL and which needs no file.
        mode: the file's permissions, as for ``chmod``; on Linux who may write may connect.
            ``None`` is what the umask leaves.
        backlog: as for :class:`TcpListener`.

    Raises:
        NotImplementedError: Python has no Unix sockets on this platform.
        ValueError: there can be no such path.
        OSError: the file is there and not ours to replace (EADDRINUSE), or cannot be made. The
            message names the path.
    """

    def __init__(
        self,
        loop: Uloop,
        path: str | bytes | os.PathLike[str],
        factory: Factory,
        *,
        mode: int | None = None,
        backlog: int = BACKLOG,
        max_connections: int | None = None,
        admit: Callable[[], bool] | None = None,
    ) -> None:
        with ExitStack() as undo:
            sock, self._file = _listen_on_unix(os.fsencode(path), mode, backlog)
            undo.callback(sock.close)
            if self._file is not None:
                undo.callback(self._file.unlink)
            super().__init__(loop, sock, factory, max_connections=max_connections, admit=admit)
            undo.pop_all()

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours; the connections live on."""
        # The file first: as long as the socket is open no other file can get the number of its inode.
        if self._file is not None and not self._closed:
            self._file.unlink()
        super().close()


def _listen_on_unix(path: bytes, mode: int | None, backlog: int) -> tuple[socket.socket, SocketFile | None]:
    if AF_UNIX is None:
        raise NotImplementedError(
            "Python has no Unix sockets on this platform; TcpListener on 127.0.0.1 comes close"
        )
    abstract = path.startswith(b"\0")
    if abstract and not sys.platform.startswith("linux"):
        raise ValueError(f"only Linux has abstract names; {sys.platform} needs a path, not {path!r}")
    if abstract and mode is not None:
        raise ValueError(f"mode is for files; the abstract name {path!r} has none")
    if not path or (b"\0" in path and not abstract):
        raise ValueError(f"path must be the name of a file, not {path!r}")
    with ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(AF_UNIX, socket.SOCK_STREAM))
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or abstract:
                    raise
                remove_dead_socket(path)
                sock.bind(path)
            file = None
            if not abstract:
                file = SocketFile(path)
                undo.callback(file.unlink)
                if mode is not None:
                    # Before listen, and until then connecting is refused: so nobody slips in. To set
                    # the umask around bind would be a race, as all threads of a process share it;
                    # and fchmod of a socket does something on Linux alone.
                    os.chmod(path, mode)
            sock.listen(backlog)
        except OSError as error:
            reason = error.strerror or error  # Python's own "AF_UNIX path too long" has no number
            name = os.fsdecode(path)
            raise OSError(
                error.errno or errno.ENAMETOOLONG, f"cannot listen on {name!r}: {reason}"
            ) from error
        undo.pop_all()
    return sock, file


# Sockets that somebody else has opened


def inherited_sockets() -> list[tuple[str, socket.socket]]:
    """Take over the sockets that systemd has opened for this process: ``sd_listen_fds(3)``.

    They become non-inheritable, and the environment variables ``LISTEN_PID``, ``LISTEN_FDS`` and
    ``LISTEN_FDNAMES`` are removed, so a second call, like one in a child process, finds none.

    Returns:
        Each socket with its name (``FileDescriptorName=`` of the unit), ``"unknown"`` if it has
        none. They are the caller's to close. Empty if there are none for this process.

    Raises:
        ValueError: the number of sockets is not a number.
        OSError: a descriptor is not an open socket.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):
        return []  # they were for a parent
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS must be a number of descriptors, not {count!r}")
    labels = names.split(":") if names else []
    sockets = []
    with ExitStack() as undo:
        for index in range(int(count)):
            number = 3 + index  # SD_LISTEN_FDS_START
            try:
                os.set_inheritable(number, False)
                sock = undo.enter_context(socket.socket(fileno=number))
            except OSError as error:
                raise OSError(
                    error.errno, f"descriptor {number} of LISTEN_FDS={count} is no open socket"
                ) from error
            sockets.append((labels[index] if index < len(labels) else "unknown", sock))
        undo.pop_all()
    return sockets
