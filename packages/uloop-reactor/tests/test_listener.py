"""Listeners: whom they accept, what they make of them, and how they end."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.listener import ACCEPTS_PER_TURN, Connection, Listener, TcpListener
from uloop_reactor.stream import Stream

LOCAL = ("127.0.0.1", 0)


class Peer:
    """The least that a listener counts as a connection; closes when its client does."""

    def __init__(self, loop: Uloop, sock: socket.socket) -> None:
        self.loop, self.sock = loop, sock
        self.callback: Callable[[Any], object] | None = None
        loop.add(sock, UEvent.poll_in, self)

    def when_closed(self, callback: Callable[[Any], object], /) -> None:
        self.callback = callback

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        if not self.sock.recv(100):
            self.close()

    def close(self) -> None:
        self.loop.remove(self.sock)
        self.sock.close()
        if self.callback is not None:
            self.callback(self)


@pytest.fixture
def listen(loop: Uloop, undo: ExitStack) -> Callable[..., TcpListener]:
    loop.slow_callback = 60  # the log is looked at here, and a busy machine is not the listener's fault

    def listen(
        factory: Callable[[Uloop, socket.socket], Connection | None] = Peer, **options: Any
    ) -> TcpListener:
        listener = TcpListener(loop, LOCAL, factory, **options)

        def close() -> None:
            listener.close()
            for peer in list(listener.connections):
                assert isinstance(peer, (Peer, Stream))
                peer.close() if isinstance(peer, Peer) else peer.abort()

        undo.callback(close)
        return listener

    return listen


@pytest.fixture
def connect(undo: ExitStack) -> Callable[[Listener], socket.socket]:
    def connect(listener: Listener) -> socket.socket:
        return undo.enter_context(socket.create_connection(listener.address[:2], timeout=30))

    return connect


def run_until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once()


def wait_for_client(listener: Listener) -> None:
    """A connection may reach the backlog a moment after the client has it."""
    assert select.select([listener], [], [], 30)[0]


def test_each_client_becomes_a_connection(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen()
    clients = [connect(listener) for _ in range(5)]
    run_until(loop, lambda: len(listener.connections) == 5)
    peers = {peer.sock.getpeername() for peer in listener.connections if isinstance(peer, Peer)}
    assert peers == {client.getsockname() for client in clients}
    for left, client in enumerate(clients, 1):
        client.close()
        run_until(loop, lambda left=left: len(listener.connections) == 5 - left)  # type: ignore[misc]


def test_a_stream_is_a_connection(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    class Echo(Stream):
        def on_data(self, data: bytes) -> None:
            self.write(data)

    listener = listen(Echo)
    client = connect(listener)
    client.sendall(b"hello")
    run_until(loop, lambda: select.select([client], [], [], 0)[0])
    assert client.recv(100) == b"hello"
    client.close()
    run_until(loop, lambda: not listener.connections)


def test_the_sockets_do_not_block_and_are_not_inherited(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(loop: Uloop, sock: socket.socket) -> Peer:
        seen.append((sock.getblocking(), sock.get_inheritable()))
        return Peer(loop, sock)

    listener = listen(look)
    connect(listener)
    run_until(loop, lambda: seen)
    assert seen == [(False, False)]
    assert not listener._sock.get_inheritable()


def test_a_turn_accepts_so_many_at_most(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen(lambda loop, sock: None)
    accepted: list[int] = []
    factory_calls: list[int] = []

    def turn_away(loop: Uloop, sock: socket.socket) -> None:
        factory_calls.append(1)

    listener._factory = turn_away
    for _ in range(ACCEPTS_PER_TURN + 10):
        connect(listener)
    while len(factory_calls) < ACCEPTS_PER_TURN + 10:
        before = len(factory_calls)
        loop.run_once()
        accepted.append(len(factory_calls) - before)
    assert max(accepted) <= ACCEPTS_PER_TURN


def test_none_turns_a_client_away(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = listen(lambda loop, sock: None)
    client = connect(listener)
    wait_for_client(listener)
    loop.run_once()
    assert client.recv(1) == b""
    assert not listener.connections
    assert not caplog.records


def test_a_factory_that_fails_harms_one_client(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[socket.socket] = []

    def fail_at_first(loop: Uloop, sock: socket.socket) -> Peer:
        calls.append(sock)
        peer = Peer(loop, sock)  # what the factory has registered is undone
        if len(calls) <= 10:
            raise ValueError("the factory fails")
        return peer

    listener = listen(fail_at_first)
    clients = [connect(listener) for _ in range(11)]
    with caplog.at_level(logging.INFO, "uloop"):
        run_until(loop, lambda: len(calls) == 11)
        loop.run_once(0)
    assert [client.recv(1) for client in clients[:10]] == [b""] * 10
    assert len(listener.connections) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 10
    assert all(record.exc_info and record.exc_info[0] is ValueError for record in caplog.records)


def test_what_the_factory_raises_reaches_on_error(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    def fail(loop: Uloop, sock: socket.socket) -> Peer:
        raise LookupError("the factory fails")

    errors: list[Exception] = []
    loop.on_error(lambda error, culprit: errors.append(error))
    connect(listen(fail))
    run_until(loop, lambda: errors)
    assert [type(error) for error in errors] == [LookupError]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_factory_passes_and_closes_the_socket(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    end: type[BaseException],
) -> None:
    def interrupt(loop: Uloop, sock: socket.socket) -> Peer:
        Peer(loop, sock)
        raise end

    client = connect(listen(interrupt))
    with pytest.raises(end):
        loop.run()
    assert client.recv(1) == b""


def test_a_connection_that_cannot_be_counted_is_refused(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    nonsense: Any = lambda loop, sock: 42  # noqa: E731
    listener = listen(nonsense)
    client = connect(listener)
    run_until(loop, lambda: caplog.records)
    assert client.recv(1) == b""
    assert "when_closed" in str(caplog.records[0].exc_info)
    assert not listener.connections


def test_a_connection_that_is_closed_already_is_not_counted(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    made: list[Peer] = []

    class Gone(Peer):
        def __init__(self, loop: Uloop, sock: socket.socket) -> None:
            super().__init__(loop, sock)
            made.append(self)
            self.close()

        def when_closed(self, callback: Callable[[Any], object], /) -> None:
            callback(self)

    listener = listen(Gone)
    connect(listener)
    run_until(loop, lambda: made)
    assert not listener.connections


def test_a_connection_that_does_not_want_to_be_watched_is_not_counted(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Peer):
        def when_closed(self, callback: Callable[[Any], object], /) -> None:
            raise LookupError("no callbacks here")

    listener = listen(Failing)
    client = connect(listener)
    run_until(loop, lambda: caplog.records)
    assert client.recv(1) == b""
    assert not listener.connections


def test_clients_that_have_reset_do_no_harm(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen()
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    for _ in range(5):
        client = connect(listener)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
    last = connect(listener)

    def last_has_come() -> bool:
        names = []
        for peer in listener.connections:
            assert isinstance(peer, Peer)
            try:
                names.append(peer.sock.getpeername())
            except OSError:
                pass  # reset
        return last.getsockname() in names

    run_until(loop, last_has_come)


class TroubledSocket(socket.socket):
    """Its accept fails as those of other systems do; the loopback of this one may never."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.bind(LOCAL)
        self.listen()
        self.errors = [OSError(number, os.strerror(number)) for number in numbers]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            raise self.errors.pop(0)
        return super().accept()


def test_the_trouble_of_one_client_is_passed_over(
    loop: Uloop, connect: Callable[[Listener], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    numbers = [errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ENETDOWN]
    met: list[socket.socket] = []
    listener = Listener(loop, TroubledSocket(*numbers), lambda loop, sock: met.append(sock))
    connect(listener)
    wait_for_client(listener)
    run_until(loop, lambda: met)
    assert not caplog.records
    listener.close()


def test_what_nobody_knows_goes_to_the_loop(
    loop: Uloop, connect: Callable[[Listener], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(loop, TroubledSocket(errno.EDOM), lambda loop, sock: loop.stop())
    connect(listener)
    loop.run()  # it is accepted in another turn
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    listener.close()


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_every_kind_of_shortage(
    loop: Uloop,
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    number = getattr(errno, name)
    listener = Listener(loop, TroubledSocket(number, number), lambda loop, sock: loop.stop())
    connect(listener)
    loop.run()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert os.strerror(number) in record.getMessage()
    listener.close()


# The cap


def test_at_the_cap_clients_wait_until_one_leaves(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen(max_connections=3)
    clients = [connect(listener) for _ in range(10)]
    run_until(loop, lambda: len(listener.connections) == 3)
    served = {peer.sock.getpeername() for peer in listener.connections if isinstance(peer, Peer)}
    assert served == {client.getsockname() for client in clients[:3]}
    loop.run_once(0)  # and nobody else
    assert len(listener.connections) == 3
    most = 0
    for client in clients[:8]:
        client.close()
        run_until(
            loop,
            lambda client=client: (
                any(  # type: ignore[misc]
                    isinstance(peer, Peer) and peer.sock.getpeername() == clients[-1].getsockname()
                    for peer in listener.connections
                )
                or len(listener.connections) == 3
            ),
        )
        most = max(most, len(listener.connections))
    run_until(loop, lambda: len(listener.connections) == 2)  # the last two
    assert most == 3


def test_a_listener_at_the_cap_costs_no_turns(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen(max_connections=1)
    connect(listener)
    connect(listener)
    run_until(loop, lambda: listener.connections)
    wait_for_client(listener)  # there is one more
    passed: list[bool] = []
    loop.call_later(0.05, passed.append, True)
    turns = 0
    while not passed:
        loop.run_once(1000)
        turns += 1
    assert turns <= 3  # a backend may wake up early for what it then filters out


@pytest.mark.parametrize("number", [0, -1])
def test_a_cap_of_nobody_is_refused(loop: Uloop, number: int) -> None:
    with pytest.raises(ValueError, match=f"max_connections must be at least 1, .* not {number}"):
        TcpListener(loop, LOCAL, Peer, max_connections=number)


# The end


def test_close_lets_the_connections_live_on(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen()
    client = connect(listener)
    run_until(loop, lambda: listener.connections)
    address = listener.address
    assert listener.fileno() >= 0
    listener.close()
    listener.close()
    assert listener.fileno() == -1
    assert listener.address == address
    with pytest.raises(OSError, match=r".") as refused:
        socket.create_connection(address, timeout=30)
    assert isinstance(refused.value, (ConnectionRefusedError, TimeoutError))
    (peer,) = listener.connections
    client.close()
    run_until(loop, lambda: not listener.connections)
    assert isinstance(peer, Peer)
    assert peer.sock.fileno() == -1


@pytest.mark.parametrize("end", ["listener.close", "loop.close", "loop.stop"])
def test_a_factory_ends_it_all(
    loop: Uloop,
    listen: Callable[..., TcpListener],
    connect: Callable[[Listener], socket.socket],
    caplog: pytest.LogCaptureFixture,
    end: str,
) -> None:
    def finish(loop: Uloop, sock: socket.socket) -> Peer:
        peer = Peer(loop, sock)
        if end == "listener.close":
            listener.close()
            loop.stop()
        elif end == "loop.close":
            loop.close()
        else:
            loop.stop()
        return peer

    listener = listen(finish)
    for _ in range(3):
        connect(listener)
    loop.run()
    if end != "loop.close":
        assert not caplog.records
    for peer in list(listener.connections):
        assert isinstance(peer, Peer)
        peer.close()
    assert not listener.connections


def test_shutdown_closes_a_listener(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    listener = listen()
    loop.shutdown(30)
    loop.run()
    assert listener.fileno() == -1


def test_repr_tells_where_and_how_many(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    listener = listen()
    assert repr(listener) == f"<TcpListener on {listener.address!r}, 0 connections>"
    listener.close()
    assert repr(listener) == f"<TcpListener on {listener.address!r}, closed>"


# Sockets that were made elsewhere


def test_a_socket_that_was_handed_in(
    loop: Uloop, undo: ExitStack, connect: Callable[[Listener], socket.socket]
) -> None:
    sock = undo.enter_context(socket.create_server(LOCAL))
    sock.setblocking(True)
    listener = Listener(loop, sock, Peer)
    assert not sock.getblocking()
    assert listener.address == sock.getsockname()
    connect(listener)
    run_until(loop, lambda: listener.connections)
    listener.close()
    assert sock.fileno() == -1  # it was the listener's
    for peer in list(listener.connections):
        assert isinstance(peer, Peer)
        peer.close()


def test_a_socket_that_does_not_listen_is_refused_and_left_alone(loop: Uloop, undo: ExitStack) -> None:
    with socket.socket() as sock:
        sock.bind(LOCAL)
        if not _tells_who_listens():
            pytest.skip("macOS does not tell whether a socket listens")
        with pytest.raises(ValueError, match="on which listen"):
            Listener(loop, sock, Peer)
        assert sock.fileno() != -1


def _tells_who_listens() -> bool:
    with socket.create_server(LOCAL) as sock:
        try:
            return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError:
            return False


def test_a_datagram_socket_is_refused(loop: Uloop) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="stream socket"),
    ):
        Listener(loop, sock, Peer)


def test_what_is_no_socket_is_refused(loop: Uloop) -> None:
    nonsense: Any = 42
    with pytest.raises(TypeError, match="needs a socket, not 42"):
        Listener(loop, nonsense, Peer)


def test_a_factory_that_cannot_be_called_is_refused(loop: Uloop) -> None:
    nonsense: Any = 42
    with pytest.raises(TypeError, match="factory must be callable"):
        TcpListener(loop, LOCAL, nonsense)


def test_a_closed_loop_takes_no_listener(loop: Uloop) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        TcpListener(loop, LOCAL, Peer)


# A door of the program's own


def test_admit_leaves_clients_waiting_until_it_lets_them_in(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    asked: list[bool] = []

    def admit() -> bool:
        asked.append(len(asked) >= 2)
        return asked[-1]

    listener = listen(admit=admit)
    for _ in range(3):
        connect(listener)
    turns = 0
    while len(listener.connections) < 3:
        loop.run_once(1000)
        turns += 1
    assert asked[:3] == [False, False, True]  # asked again though nothing has happened
    assert turns < 20  # and not all the time


def test_a_connection_that_closes_has_admit_asked_at_once(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listeners: list[Listener] = []
    listener = listen(admit=lambda: not listeners[0].connections)
    listeners.append(listener)
    first = connect(listener)
    run_until(loop, lambda: listener.connections)
    connect(listener)
    run_until(loop, lambda: listener._asks_again is not None)
    (served,) = listener.connections
    first.close()
    run_until(loop, lambda: listener.connections and listener.connections != {served})


def test_a_listener_closed_by_admit(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    def admit() -> bool:
        closing[0].close()
        return False

    before = loop.stats().timers
    listener = listen(admit=admit)
    closing = [listener]
    connect(listener)
    run_until(loop, lambda: listener.fileno() == -1)
    assert loop.stats().timers == before


def test_closed_while_clients_are_not_admitted(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    before = loop.stats().timers
    listener = listen(admit=lambda: False)
    connect(listener)
    run_until(loop, lambda: listener._asks_again is not None)
    listener.close()
    assert loop.stats().timers == before


def test_the_whole_backlog_is_accepted(
    loop: Uloop, listen: Callable[..., TcpListener], connect: Callable[[Listener], socket.socket]
) -> None:
    listener = listen()
    clients = [connect(listener) for _ in range(100)]  # more than a turn takes
    run_until(loop, lambda: listener.connections)
    listener.accept_backlog()
    listener.close()
    assert len(listener.connections) == len(clients)
