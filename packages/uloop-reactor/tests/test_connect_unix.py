"""UnixConnector: to a path or an abstract name."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.connect import ConnectError, UnixConnector
from uloop_reactor.testing import VirtualClock

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("Python has no Unix sockets on this platform", allow_module_level=True)

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)


@pytest.fixture
def server(undo: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., socket.socket]:
    monkeypatch.chdir(tmp_path)  # a short path, as 100 bytes are the most

    def server(name: str = "server", backlog: int = 10) -> socket.socket:
        sock: socket.socket = undo.enter_context(socket.socket(AF_UNIX))
        sock.bind(name)
        sock.listen(backlog)
        return sock

    return server


@pytest.fixture
def try_to_connect(loop: Uloop, undo: ExitStack) -> Callable[[Any], socket.socket | ConnectError]:
    def try_to_connect(path: Any) -> socket.socket | ConnectError:
        outcome: list[Any] = []

        def connected(loop: Uloop, sock: socket.socket) -> None:
            outcome.append(undo.enter_context(sock))

        connector = UnixConnector(loop, path, connected, outcome.append)
        undo.callback(connector.close)
        assert not outcome
        while not outcome:
            loop.run_once()
        loop.run_once(0)
        (result,) = outcome
        assert isinstance(result, (socket.socket, ConnectError))
        return result

    return try_to_connect


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_the_factory_gets_a_connected_socket(
    server: Callable[..., socket.socket],
    try_to_connect: Callable[[Any], socket.socket | ConnectError],
    kind: Callable[[str], object],
) -> None:
    server()
    sock = try_to_connect(kind("server"))
    assert isinstance(sock, socket.socket)
    assert sock.getpeername() == "server"
    assert not sock.getblocking()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name(
    server: Callable[..., socket.socket], try_to_connect: Callable[[Any], socket.socket | ConnectError]
) -> None:
    name = f"\0uloop-test-{os.getpid()}"
    server(name)
    assert isinstance(try_to_connect(name), socket.socket)


def test_a_path_where_nothing_is(
    server: Callable[..., socket.socket], try_to_connect: Callable[[Any], socket.socket | ConnectError]
) -> None:
    error = try_to_connect("missing")
    assert isinstance(error, ConnectError)
    assert error.errno == errno.ENOENT
    assert str(error) == "cannot connect to 'missing': missing: No such file or directory"


def test_a_dead_server(
    server: Callable[..., socket.socket], try_to_connect: Callable[[Any], socket.socket | ConnectError]
) -> None:
    server().close()
    error = try_to_connect("server")
    assert isinstance(error, ConnectError)
    assert error.errno == errno.ECONNREFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog is a refusal")
@pytest.mark.parametrize("accepts", [True, False])
def test_a_server_whose_backlog_is_full(
    accepts: bool,
    server: Callable[..., socket.socket],
    virtual_uloop: Uloop,
    virtual_clock: VirtualClock,
    undo: ExitStack,
) -> None:
    listener = server(backlog=0)
    while True:
        client = undo.enter_context(socket.socket(AF_UNIX))
        client.setblocking(False)
        if client.connect_ex("server"):
            break
    outcome: list[Any] = []

    def connected(loop: Uloop, sock: socket.socket) -> None:
        outcome.append(undo.enter_context(sock))

    UnixConnector(virtual_uloop, "server", connected, outcome.append, timeout=20)
    if accepts:
        virtual_uloop.call_later(10, lambda: undo.enter_context(listener.accept()[0]))
    while not outcome:
        virtual_uloop.run_once()
    (result,) = outcome
    if accepts:
        assert isinstance(result, socket.socket)
        assert 10 <= virtual_clock.time() <= 11
    else:
        assert isinstance(result, ConnectError)
        assert virtual_clock.time() == 20
        assert "server: Resource temporarily unavailable" in str(result)


def test_a_path_that_is_too_long(try_to_connect: Callable[[Any], socket.socket | ConnectError]) -> None:
    error = try_to_connect("x" * 200)
    assert isinstance(error, ConnectError)
    assert "too long" in str(error)


def test_closed_before_it_began(loop: Uloop, server: Callable[..., socket.socket]) -> None:
    server()
    called: list[object] = []
    connector = UnixConnector(loop, "server", lambda loop, sock: called.append(sock), called.append)
    connector.close()
    loop.run_once(0)
    loop.run_once(0)
    assert not called
