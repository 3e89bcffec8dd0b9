"""Connectors: from the name of a server to a connection with it.

A name may stand for several addresses, of which some may not answer: IPv6 that leads nowhere, a
machine that is down. To try one after the other would take minutes, so they race, as RFC 8305
("happy eyeballs") says:

1. The name is resolved on a thread, into addresses in the system's order of preference (RFC 6724).
   The RFC's races between the queries (§3) are left out: getaddrinfo waits for both of them.
2. The families take turns, whichever comes first (§4).
3. An attempt begins 250 ms after the last one, or at once when one has failed (§5). Those that
   were begun before run on.
4. The first to be connected is handed to the program, and the others are closed.

One deadline covers all of it. Nothing is called from within the constructor; then either the
factory is called once or ``on_error`` is, or neither if the connector was closed before.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from uloop_events import UEvent

from .backoff import pause_after

if TYPE_CHECKING:
    from .offload import AddressInfo
    from .timers import Timer
    from .uloop import Uloop

__all__ = ["ConnectError", "TcpConnector", "UnixConnector"]

MOST_NAMED = 10  # addresses in a message
#: how connect says that it has begun. On Unix EWOULDBLOCK is something else: a Unix socket's full backlog.
IN_PROGRESS = {0, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS), errno.EINPROGRESS}
#: what our own side says, before anybody was asked
NO_WAY_THERE = {
    getattr(errno, prefix + name)
    for prefix in ("", "WSA")
    for name in ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT")
    if hasattr(errno, prefix + name)
}


class ConnectError(OSError):
    """No connection: the message names every address that was tried, up to ten, and why each failed.

    ``errno`` is that of the first attempt, passing over those for which there was no way out of
    this machine; ``None`` when the name could not be resolved, as that has numbers of its own
    (see ``__cause__``).

    Attributes:
        attempts: pairs of an address and the ``OSError`` of the attempt, in the order in which
            they failed.
    """

    def __init__(
        self, target: str, attempts: list[tuple[Any, OSError]], cause: BaseException | None = None
    ) -> None:
        self.attempts = attempts
        errors = [error for _, error in attempts]
        if cause is None:
            nowhere = errors[0] if errors else OSError(errno.EADDRNOTAVAIL, "it has no address")
            cause = next((error for error in errors if error.errno not in NO_WAY_THERE), nowhere)
        number = None if isinstance(cause, socket.gaierror) else getattr(cause, "errno", None)
        reasons = [f"{_readable(address)}: {_reason(error)}" for address, error in attempts[:MOST_NAMED]]
        if len(attempts) > MOST_NAMED:
            reasons.append(f"and {len(attempts) - MOST_NAMED} more")
        super().__init__(number, f"cannot connect to {target}: {'; '.join(reasons) or _reason(cause)}")
        self.__cause__ = cause

    def __str__(self) -> str:
        return str(self.strerror)


class Connector:
    """What connectors have in common: the race, once there are addresses.

    Parameters:
        loop: the loop to connect on, from now.
        target: what to connect to, for the messages.
        factory: called as ``factory(loop, sock)`` with the connected socket, which does not block.
            What it raises goes to the loop's log, and the socket is closed.
        on_error: called with the ``ConnectError``.
        timeout: seconds for all of it.
        attempt_delay: seconds from the beginning of an attempt to that of the next.
        local_address: where to connect from, as ``bind`` takes it.
    """

    def __init__(
        self,
        loop: Uloop,
        target: str,
        factory: Callable[[Uloop, socket.socket], object],
        on_error: Callable[[ConnectError], object],
        timeout: float,
        attempt_delay: float = 0.0,
        local_address: Any = None,
    ) -> None:
        if not callable(factory):
            raise TypeError(f"factory must be callable as factory(loop, sock), not {factory!r}")
        if not callable(on_error):
            raise TypeError(f"on_error must be callable with a ConnectError, not {on_error!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
        if not attempt_delay >= 0:
            raise ValueError(f"attempt_delay must be a number of seconds, 0 or more, not {attempt_delay}")
        self.loop = loop
        #: what the factory has returned; ``None`` until then
        self.connection: Any = None
        self._target = target
        self._factory = factory
        self._on_error = on_error
        self._attempt_delay = attempt_delay
        self._local_address = local_address
        self._timeout = timeout
        self._untried: deque[AddressInfo] = deque()
        self._under_way: dict[int, tuple[socket.socket, Any]] = {}
        self._failed: list[tuple[Any, OSError]] = []
        self._next: Timer | None = None
        self._over = False
        self._deadline = loop.call_later(timeout, self._timed_out)

    def close(self) -> None:
        """Give up; nothing is called any more. Does nothing once it is connected, or has failed."""
        self._over = True
        self._deadline.cancel()
        if self._next is not None:
            self._next.cancel()
        self._untried.clear()
        for sock, _ in self._under_way.values():
            self.loop.remove(sock)
            sock.close()
        self._under_way.clear()

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """An attempt has come to its end, one way or the other."""
        sock, address = self._under_way.pop(fileno)
        self.loop.remove(sock)
        try:
            _check_connected(sock)
        except OSError as error:
            sock.close()
            self._has_failed(address, error)
            self._begin_next()
        else:
            self._succeed(sock)

    def __repr__(self) -> str:
        state = "over" if self._over else f"{len(self._under_way)} attempts under way"
        return f"<{type(self).__name__} to {self._target}, {state}>"

    def _race(self, addresses: Iterable[AddressInfo]) -> None:
        if not self._over:
            self._untried.extend(addresses)
            self._begin_next()

    def _begin_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
        while self._untried:
            family, kind, protocol, _, address = self._untried.popleft()
            try:
                self._begin(family, kind, protocol, address)
            except OSError as error:
                self._has_failed(address, error)
                continue
            if self._untried:
                self._next = self.loop.call_later(self._attempt_delay, self._begin_next)
            return
        if not self._under_way:
            self._fail(ConnectError(self._target, self._failed))

    def _begin(self, family: int, kind: int, protocol: int, address: Any) -> None:
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            sock.setblocking(False)
            if self._local_address is not None:
                sock.bind(self._local_address)
            number = sock.connect_ex(address)
            if number not in IN_PROGRESS:
                raise _error(number)
            try:
                # Also if it is connected already, as Unix sockets are: what is known now is told
                # in the same way as what will be.
                self.loop.add(sock, UEvent.poll_out, self)
            except ValueError as error:
                # The backend has no room, which to the attempt is as no descriptors.
                raise OSError(errno.EMFILE, str(error)) from error
            self._under_way[sock.fileno()] = sock, address
            undo.pop_all()

    def _has_failed(self, address: Any, error: OSError) -> None:
        # Its traceback would hold on to us, who hold on to it.
        self._failed.append((address, error.with_traceback(None)))

    def _succeed(self, sock: socket.socket) -> None:
        self.close()
        try:
            self.connection = self._factory(self.loop, sock)
        except BaseException:
            self.loop.remove(sock)
            sock.close()
            raise

    def _fail(self, error: ConnectError) -> None:
        self.close()
        self._on_error(error)

    def _timed_out(self) -> None:
        asked = self._under_way or self._failed
        late = TimeoutError(
            errno.ETIMEDOUT,
            f"{'no answer' if asked else 'the name was not resolved'} within {self._timeout:g} s",
        )
        self._failed += [(address, late) for _, address in self._under_way.values()]
        self._fail(ConnectError(self._target, self._failed, late))


class TcpConnector(Connector):
    """Connects to a TCP server, by name or address.

    Parameters:
        loop: the loop to connect on, from now.
        host: a name or a numeric address.
        port: the port, 1 to 65535.
        factory: called as ``factory(loop, sock)`` with the connected socket, which does not
            block; what it returns is the attribute ``connection``. What it raises goes to the
            loop's log, and the socket is closed.
        on_error: called with a :class:`ConnectError` when there is no connection.
        timeout: seconds for all of it: the name, and every attempt.
        local_address: numeric address and port (0 for any) to connect from.
        attempt_delay: seconds from the beginning of an attempt to that of the next, 0.1 to 2
            as RFC 8305 §5 recommends.
        family: ``AF_INET`` or ``AF_INET6`` for one of them alone; 0 is both.

    Raises:
        TypeError: ``factory`` or ``on_error`` cannot be called.
        ValueError: there is no such port, or a time or ``local_address`` is not possible.
    """

    def __init__(
        self,
        loop: Uloop,
        host: str,
        port: int,
        factory: Callable[[Uloop, socket.socket], object],
        on_error: Callable[[ConnectError], object],
        *,
        timeout: float = 30.0,
        local_address: tuple[str, int] | None = None,
        attempt_delay: float = 0.25,
        family: int = 0,
    ) -> None:
        if not 1 <= port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {port}")
        local: Any = None
        if local_address is not None:
            family, local = _numeric(local_address, family)
        target = f"{host!r}, port {port}"
        super().__init__(loop, target, factory, on_error, timeout, attempt_delay, local)
        try:
            self._resolution = loop.resolve(
                host, port, self._resolved, family=family, type=socket.SOCK_STREAM
            )
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Give up, as every connector does; a call to the name servers ends by itself."""
        super().close()
        self._resolution.cancel()

    def _resolved(self, resolution: Future[list[AddressInfo]]) -> None:
        if self._over:
            return
        try:
            addresses = resolution.result()
        except Exception as error:
            self._fail(ConnectError(self._target, [], error))
        else:
            self._race(_in_turn(addresses))


class UnixConnector(Connector):
    """Connects to a Unix socket.

    Parameters:
        path: of the socket's file; on Linux also an abstract name, of which the first byte is NUL.
        loop, factory, on_error, timeout: see :class:`TcpConnector`.

    Raises:
        NotImplementedError: Python has no Unix sockets on this platform.
    """

    def __init__(
        self,
        loop: Uloop,
        path: str | bytes | os.PathLike[str],
        factory: Callable[[Uloop, socket.socket], object],
        on_error: Callable[[ConnectError], object],
        *,
        timeout: float = 30.0,
    ) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise NotImplementedError("Python has no Unix sockets on this platform; TcpConnector comes close")
        super().__init__(loop, repr(path), factory, on_error, timeout)
        self._found_full = 0  # how often
        loop.call_soon(self._race, [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", os.fsencode(path))])

    def _begin(self, family: int, kind: int, protocol: int, address: Any) -> None:
        try:
            super()._begin(family, kind, protocol, address)
        except BlockingIOError as error:
            # The backlog is full: where TCP would wait its turn, Linux wants us to come again.
            self._failed.clear()
            self._has_failed(address, error)
            again = (socket.AddressFamily(family), socket.SocketKind(kind), protocol, "", address)
            self._next = self.loop.call_later(pause_after(self._found_full), self._race, (again,))
            self._found_full += 1


def _numeric(address: tuple[str, int], family: int) -> tuple[int, Any]:
    """The family and the full form of an address to bind to."""
    try:
        host, port = address
        info = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0]
    except (OSError, TypeError, ValueError):
        raise ValueError(
            f"local_address must be a numeric address (of the family, if one is given) and a port, "
            f"not {address!r}"
        ) from None
    return info[0], info[4]


def _in_turn(addresses: Iterable[AddressInfo]) -> Iterable[AddressInfo]:
    """Let the families take turns, in the order of their first addresses; each address once."""
    families: dict[int, list[AddressInfo]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address[0], []).append(address)
    return (address for address in chain(*zip_longest(*families.values())) if address is not None)


def _check_connected(sock: socket.socket) -> None:
    """Raise the error of an attempt that has failed."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    # Who connects to a free port of this very machine may be given that port to connect from, and
    # then TCP connects the socket with itself (RFC 9293 §3.5, simultaneous open).
    if not number and sock.getpeername() == sock.getsockname():
        number = errno.ECONNREFUSED
    if number:
        raise _error(number)


def _error(number: int) -> OSError:
    texts: dict[int, str] = getattr(socket, "errorTab", {})  # Windows' strerror does not know its sockets'
    return OSError(number, texts.get(number) or os.strerror(number))


def _readable(address: Any) -> str:
    if isinstance(address, tuple):
        return str(address[0])
    return os.fsdecode(address)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
