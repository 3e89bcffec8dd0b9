"""Where a TcpListener listens: names, families, shared ports, and what cannot be."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.listener import Connection, TcpListener, UnixListener

needs_ipv6 = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="there is no IPv6 that takes IPv4 too"
)


def no_connection(loop: Uloop, sock: socket.socket) -> Connection | None:
    return None


@pytest.fixture
def listen(loop: Uloop, undo: ExitStack) -> Callable[..., TcpListener]:
    def listen(host: str | None, port: int = 0, **options: Any) -> TcpListener:
        factory = options.pop("factory", no_connection)
        listener = TcpListener(loop, (host, port), factory, **options)
        undo.callback(listener.close)
        return listener

    return listen


def is_reached(loop: Uloop, listener: TcpListener, host: str) -> bool:
    """Whether a client of an address gets to the listener, which turns it away."""
    met: list[Any] = []

    def meet(loop: Uloop, sock: socket.socket) -> Connection | None:
        met.append(sock.getpeername())
        return None

    listener._factory = meet
    try:
        client = socket.create_connection((host, listener.address[1]), timeout=30)
    except OSError:
        return False
    with client:
        while not met:
            loop.run_once()
        return bool(met[0][1] == client.getsockname()[1])


def test_a_numeric_address_and_a_free_port(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    listener = listen("127.0.0.1")
    assert listener.address[0] == "127.0.0.1"
    assert listener.address[1] > 0
    assert is_reached(loop, listener, "127.0.0.1")


def test_a_name(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    listener = listen("localhost")
    assert listener.address[0] in ("127.0.0.1", "::1")
    assert is_reached(loop, listener, listener.address[0])


@pytest.mark.parametrize("host", [None, ""])
def test_no_host_is_all_of_ipv4(loop: Uloop, listen: Callable[..., TcpListener], host: str | None) -> None:
    listener = listen(host)
    assert listener.address[0] == "0.0.0.0"
    assert is_reached(loop, listener, "127.0.0.1")


@needs_ipv6
@pytest.mark.parametrize("host", [None, "", "::"])
def test_dual_stack_takes_both_families(
    loop: Uloop, listen: Callable[..., TcpListener], host: str | None
) -> None:
    listener = listen(host, dual_stack=True)
    assert listener.address[0] == "::"
    assert is_reached(loop, listener, "::1")
    assert is_reached(loop, listener, "127.0.0.1")


def test_dual_stack_is_ipv4_where_there_is_nothing_else(
    loop: Uloop, listen: Callable[..., TcpListener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listener = listen(None, dual_stack=True)
    assert listener.address[0] == "0.0.0.0"
    assert is_reached(loop, listener, "127.0.0.1")


@needs_ipv6
def test_ipv6_alone_leaves_the_port_of_ipv4_free(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    for tries_left in reversed(range(10)):
        listener = listen("::")
        assert is_reached(loop, listener, "::1")
        assert not is_reached(loop, listener, "127.0.0.1")
        try:
            assert listen("0.0.0.0", listener.address[1]).address[1] == listener.address[1]
        except OSError:  # another program has it in IPv4
            if not tries_left:
                raise
        else:
            break


def test_dual_stack_of_one_address_is_refused(listen: Callable[..., TcpListener]) -> None:
    with pytest.raises(ValueError, match=r"dual_stack is for the host None or '::', not '127\.0\.0\.1'"):
        listen("127.0.0.1", dual_stack=True)


def test_a_port_in_use_is_named(listen: Callable[..., TcpListener]) -> None:
    port = listen("127.0.0.1").address[1]
    with pytest.raises(OSError, match=rf"cannot listen on '127\.0\.0\.1', port {port}: ") as refused:
        listen("127.0.0.1", port)
    assert refused.value.errno == errno.EADDRINUSE


def test_a_port_can_be_listened_on_again_at_once(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    first = listen("127.0.0.1")
    assert is_reached(loop, first, "127.0.0.1")  # and was closed by our side first: TIME_WAIT is ours
    first.close()
    assert is_reached(loop, listen("127.0.0.1", first.address[1]), "127.0.0.1")


def test_a_name_that_nobody_knows(listen: Callable[..., TcpListener]) -> None:
    with pytest.raises(socket.gaierror, match=r"cannot listen on 'no-such-host\.invalid', port 0: "):
        listen("no-such-host.invalid")


def test_an_address_that_is_not_ours(listen: Callable[..., TcpListener]) -> None:
    with pytest.raises(OSError, match=r"cannot listen on '192\.0\.2\.1', port 0: ") as refused:
        listen("192.0.2.1")  # TEST-NET-1 of RFC 5737
    assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:80", "ab", ("127.0.0.1",), ("127.0.0.1", 65536), ("127.0.0.1", -1), ("::1", "80"), None],
)
def test_what_is_no_address(loop: Uloop, address: Any) -> None:
    with pytest.raises(ValueError, match=r"address must be a pair of host and port \(0 to 65535\), not "):
        TcpListener(loop, address, no_connection)


SHARES = sys.platform.startswith(("linux", "freebsd"))


@pytest.mark.skipif(not SHARES, reason="only Linux and FreeBSD share the connections of a port")
def test_a_shared_port_is_dealt_out_to_all(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    met: dict[int, int] = {}

    def listen_as(name: int, port: int) -> TcpListener:
        def meet(loop: Uloop, sock: socket.socket) -> Connection | None:
            met[name] = met.get(name, 0) + 1
            return None

        return listen("127.0.0.1", port, reuse_port=True, factory=meet)

    port = listen_as(0, 0).address[1]
    for name in (1, 2):
        listen_as(name, port)
    clients = 0
    while len(met) < 3:  # by chance, 3 times (2/3)^64 that one of them still has none
        for _ in range(64):
            with socket.create_connection(("127.0.0.1", port), timeout=30):
                clients += 1
        while sum(met.values()) < clients:
            loop.run_once()


@pytest.mark.skipif(not SHARES, reason="only Linux and FreeBSD share the connections of a port")
def test_a_port_is_shared_with_those_alone_who_ask_for_it(listen: Callable[..., TcpListener]) -> None:
    port = listen("127.0.0.1", reuse_port=True).address[1]
    with pytest.raises(OSError, match="cannot listen on"):
        listen("127.0.0.1", port)


def test_sharing_is_refused_where_one_socket_would_have_all(
    listen: Callable[..., TcpListener], monkeypatch: pytest.MonkeyPatch
) -> None:
    if SHARES:
        monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match=r"reuse_port: .* does not share"):
        listen("127.0.0.1", reuse_port=True)


def test_a_failure_leaves_the_port_free(loop: Uloop, listen: Callable[..., TcpListener]) -> None:
    port = listen("127.0.0.1").address[1]
    nonsense: Any = 42
    for options in ({"max_connections": 0}, {"factory": nonsense}):
        with pytest.raises((ValueError, TypeError)):
            listen("127.0.0.1", **options)
    assert port  # and no descriptor is left open, which the fixture of every test looks at


def test_the_socket_listens_with_the_backlog_that_was_asked_for(
    listen: Callable[..., TcpListener], undo: ExitStack
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux is known to count a backlog exactly")
    listener = listen("127.0.0.1", backlog=1)
    results = []
    for _ in range(4):
        client = undo.enter_context(socket.socket())
        client.setblocking(False)
        results.append(client.connect_ex(listener.address))
    assert set(results) <= {0, errno.EINPROGRESS}
    with open(f"/proc/{os.getpid()}/net/tcp") as table:
        port = f":{listener.address[1]:04X}"
        (listening,) = [
            row.split() for row in table if row.split()[1].endswith(port) and row.split()[3] == "0A"
        ]
    assert int(listening[4].split(":")[1], 16) <= 2  # waiting to be accepted: one more than the backlog


def test_unix_sockets_where_python_has_none(loop: Uloop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uloop_reactor.listener.AF_UNIX", None)
    with pytest.raises(NotImplementedError, match="no Unix sockets on this platform; TcpListener"):
        UnixListener(loop, "server", no_connection)
