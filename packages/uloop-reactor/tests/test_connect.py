"""Connectors: one connection or one error, whatever the addresses do."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import Timer, Uloop
from uloop_reactor.connect import ConnectError, TcpConnector, UnixConnector
from uloop_reactor.listener import Listener
from uloop_reactor.offload import AddressInfo

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")


@pytest.fixture
def server(undo: ExitStack) -> Callable[..., socket.socket]:
    """Makes sockets that listen, and accept nobody."""

    def server(host: str = "127.0.0.1", backlog: int = 10) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = undo.enter_context(socket.socket(family))
        sock.bind((host, 0))
        sock.listen(backlog)
        return sock

    return server


@pytest.fixture
def refusing(undo: ExitStack) -> Callable[..., Any]:
    """Makes addresses where nobody listens."""

    def refusing(host: str = "127.0.0.1") -> Any:
        sock = undo.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        sock.bind((host, 0))  # and nobody else can
        return sock.getsockname()

    return refusing


@pytest.fixture
def silent(undo: ExitStack, server: Callable[..., socket.socket]) -> Callable[..., socket.socket]:
    """Makes servers that do not answer, as their backlog is full."""
    if sys.platform == "win32":
        pytest.skip("Windows refuses connections when a backlog is full")

    def silent(host: str = "127.0.0.1") -> socket.socket:
        full = server(host, backlog=0)
        while True:
            client = undo.enter_context(socket.socket(full.family))
            client.setblocking(False)
            client.connect_ex(full.getsockname())
            if not select.select([], [client], [client], 0.1)[1]:
                return full

    return silent


class Outcome:
    """What a connector has called."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.errors: list[ConnectError] = []

    def __bool__(self) -> bool:
        return bool(self.sockets or self.errors)

    def connected(self, loop: Uloop, sock: socket.socket) -> str:
        self.sockets.append(sock)
        return "the connection"


@pytest.fixture
def outcome() -> Iterator[Outcome]:
    outcome = Outcome()
    yield outcome
    for sock in outcome.sockets:
        sock.close()


@pytest.fixture
def connect(loop: Uloop, outcome: Outcome, undo: ExitStack) -> Callable[..., TcpConnector]:
    def connect(host: str, port: int, **options: Any) -> TcpConnector:
        factory = options.pop("factory", outcome.connected)
        connector = TcpConnector(loop, host, port, factory, outcome.errors.append, **options)
        undo.callback(connector.close)
        return connector

    return connect


@pytest.fixture
def resolve_to(loop: Uloop, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has names mean what a test needs, as no real name has addresses that are down, and local."""

    def resolve_to(*addresses: Any) -> None:
        def resolve(
            host: str, port: int, done: Callable[[Future[list[AddressInfo]]], object], **options: int
        ) -> Future[list[AddressInfo]]:
            infos = [
                info
                for address in addresses
                for info in socket.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)
            ]
            future: Future[list[AddressInfo]] = Future()
            future.set_result([*infos])
            loop.call_soon(done, future)
            return future

        monkeypatch.setattr(loop, "resolve", resolve)

    return resolve_to


@pytest.fixture
def timers(loop: Uloop, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Timer]]:
    """What the connector has its loop wait for."""
    timers: list[tuple[float, Timer]] = []
    call_later = loop.call_later

    def note(delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = call_later(delay, callback, *args)
        timers.append((delay, timer))
        return timer

    monkeypatch.setattr(loop, "call_later", note)
    return timers


def run_until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once()


def run_a_while(loop: Uloop) -> None:
    """Long enough for what should not happen, and if it is not, no test fails for it."""
    passed: list[bool] = []
    loop.call_later(0.05, passed.append, True)
    run_until(loop, lambda: passed)


# One address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_factory_gets_a_connected_socket(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    outcome: Outcome,
    host: str,
) -> None:
    listening = server()
    connector = connect(host, listening.getsockname()[1])
    assert not outcome
    assert connector.connection is None
    run_until(loop, lambda: outcome)
    (sock,) = outcome.sockets
    assert connector.connection == "the connection"
    assert sock.getpeername() == listening.getsockname()
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    run_a_while(loop)
    assert (len(outcome.sockets), outcome.errors) == (1, [])
    assert not connector._deadline.active
    connector.close()
    assert sock.fileno() != -1  # it is not the connector's any more
    with listening.accept()[0] as peer:
        peer.send(b"hello")
        assert select.select([sock], [], [], 30)[0]
        assert sock.recv(10) == b"hello"


def test_a_refused_connection_is_an_error_that_says_so(
    loop: Uloop, connect: Callable[..., TcpConnector], refusing: Callable[..., Any], outcome: Outcome
) -> None:
    address = refusing()
    connector = connect("127.0.0.1", address[1])
    assert not outcome
    run_until(loop, lambda: outcome)
    (error,) = outcome.errors
    assert error.errno == errno.ECONNREFUSED
    ((tried, cause),) = error.attempts
    assert tried == address
    assert isinstance(cause, ConnectionRefusedError)
    assert cause.strerror
    assert str(error) == f"cannot connect to '127.0.0.1', port {address[1]}: 127.0.0.1: {cause.strerror}"
    assert error.__cause__ is cause
    assert connector.connection is None
    assert not outcome.sockets
    assert not connector._deadline.active


def test_a_name_that_nobody_knows(
    loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome
) -> None:
    connect("no-such-host.invalid", 80)
    run_until(loop, lambda: outcome)
    (error,) = outcome.errors
    assert str(error).startswith("cannot connect to 'no-such-host.invalid', port 80: ")
    assert isinstance(error.__cause__, socket.gaierror)
    assert error.errno is None  # which would be taken for a number of another kind
    assert error.attempts == []


def test_what_cannot_be_a_name(loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome) -> None:
    connect("x" * 64 + ".invalid", 80)
    run_until(loop, lambda: outcome)
    assert isinstance(outcome.errors[0].__cause__, (UnicodeError, socket.gaierror))


def test_family(
    loop: Uloop, connect: Callable[..., TcpConnector], server: Callable[..., socket.socket], outcome: Outcome
) -> None:
    listening = server()
    connect("localhost", listening.getsockname()[1], family=socket.AF_INET, attempt_delay=1000)
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].family == socket.AF_INET


def test_a_socket_that_is_connected_with_itself_is_a_refusal(
    loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    connect(*address, local_address=address)
    run_until(loop, lambda: outcome)
    assert outcome.errors[0].errno == errno.ECONNREFUSED


# Several addresses


def test_all_that_were_tried_are_named_in_turns_of_the_families(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    outcome: Outcome,
) -> None:
    first, second, third, fourth = (refusing() for _ in range(4))
    resolve_to(first, second, first, third, fourth)
    connect("server", 80, attempt_delay=1000)  # so each begins because the last one has failed
    run_until(loop, lambda: outcome)
    (error,) = outcome.errors
    assert [address for address, _ in error.attempts] == [first, second, third, fourth]
    assert str(error).count("127.0.0.1: ") == 4


@needs_ipv6
@pytest.mark.parametrize("first", [4, 6])
def test_families_take_turns(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    outcome: Outcome,
    first: int,
) -> None:
    four = [refusing() for _ in range(3)]
    six = [refusing("::1") for _ in range(2)]
    resolve_to(*(four + six if first == 4 else six + four))
    connect("server", 80, attempt_delay=1000)
    run_until(loop, lambda: outcome)
    turns = [four[0], six[0], four[1], six[1], four[2]]
    if first == 6:
        turns = [six[0], four[0], six[1], four[1], four[2]]
    assert [address for address, _ in outcome.errors[0].attempts] == turns


def test_a_refusal_begins_the_next_attempt_at_once(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    outcome: Outcome,
) -> None:
    listening = server()
    resolve_to(refusing(), refusing(), listening.getsockname())
    connect("server", 80, attempt_delay=1000)
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].getpeername() == listening.getsockname()
    assert not outcome.errors


def test_each_attempt_has_the_delay_to_itself(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    silent: Callable[..., socket.socket],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    timers: list[tuple[float, Timer]],
) -> None:
    resolve_to(refusing(), silent().getsockname(), silent().getsockname())
    connector = connect("server", 80, attempt_delay=1000)
    run_until(loop, lambda: connector._failed)
    assert [timer.active for delay, timer in timers if delay == 1000] == [False, True]


def test_silence_begins_the_next_attempt_after_the_delay(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    silent: Callable[..., socket.socket],
    resolve_to: Callable[..., None],
    timers: list[tuple[float, Timer]],
    outcome: Outcome,
) -> None:
    listening = server()
    resolve_to(silent().getsockname(), silent().getsockname(), listening.getsockname())
    connector = connect("server", 80, timeout=20, attempt_delay=0.02)
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].getpeername() == listening.getsockname()
    # The last address has nobody to be followed by.
    assert [delay for delay, _ in timers] == [20, 0.02, 0.02]
    assert not any(timer.active for _, timer in timers)
    assert repr(connector) == "<TcpConnector to 'server', port 80, over>"


def test_an_attempt_that_was_overtaken_can_still_win(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    silent: Callable[..., socket.socket],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    outcome: Outcome,
    undo: ExitStack,
) -> None:
    slow = silent()
    resolve_to(slow.getsockname(), refusing(), refusing())
    connector = connect("server", 80, attempt_delay=0)
    run_until(loop, lambda: len(connector._failed) == 2)
    # Now there is room in its backlog, when the client tries again, as TCP does after a second.
    undo.callback(Listener(loop, slow, lambda loop, sock: None).close)
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].getpeername() == slow.getsockname()


def test_one_of_those_who_are_connected_at_the_same_time(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    resolve_to: Callable[..., None],
    outcome: Outcome,
) -> None:
    servers = [server() for _ in range(5)]
    resolve_to(*(listening.getsockname() for listening in servers))
    connect("server", 80, attempt_delay=0)
    run_until(loop, lambda: outcome)
    run_a_while(loop)
    assert len(outcome.sockets) == 1  # and that the others are closed, the fixture of every test sees


def test_the_error_s_number_is_not_that_of_a_way_that_we_lack() -> None:
    unreachable, refused = OSError(errno.ENETUNREACH, "unreachable"), OSError(errno.ECONNREFUSED, "refused")
    four, six = ("127.0.0.1", 80), ("::1", 80, 0, 0)
    error = ConnectError("'server', port 80", [(six, unreachable), (four, refused)])
    assert error.errno == errno.ECONNREFUSED
    assert str(error) == "cannot connect to 'server', port 80: ::1: unreachable; 127.0.0.1: refused"
    assert ConnectError("'server', port 80", [(six, unreachable)]).errno == errno.ENETUNREACH


# The deadline


def test_the_deadline_of_attempts(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    silent: Callable[..., socket.socket],
    refusing: Callable[..., Any],
    resolve_to: Callable[..., None],
    outcome: Outcome,
) -> None:
    refused = refusing()
    resolve_to(refused, silent().getsockname(), silent().getsockname(), refusing())
    connect("server", 80, timeout=0.1, attempt_delay=0.07)
    run_until(loop, lambda: outcome)
    (error,) = outcome.errors
    assert error.errno == errno.ETIMEDOUT
    assert error.attempts[0][0] == refused
    assert "127.0.0.1: no answer within 0.1 s" in str(error)
    assert isinstance(error.attempts[-1][1], TimeoutError)
    run_a_while(loop)
    assert len(outcome.errors) == 1


def test_the_deadline_of_the_name(
    loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    never: Future[list[AddressInfo]] = Future()
    monkeypatch.setattr(loop, "resolve", lambda host, port, done, **options: never)
    connect("server", 80, timeout=0.02)
    run_until(loop, lambda: outcome)
    (error,) = outcome.errors
    assert str(error) == "cannot connect to 'server', port 80: the name was not resolved within 0.02 s"
    assert error.errno == errno.ETIMEDOUT
    assert never.cancelled()


# Closed


def test_closed_while_the_name_is_resolved(
    loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome
) -> None:
    connector = connect("localhost", 80)
    connector.close()
    connector.close()
    seen: list[object] = []
    loop.resolve("localhost", 80, seen.append)
    run_until(loop, lambda: seen)
    run_a_while(loop)
    assert not outcome


@pytest.mark.parametrize("failed", [False, True])
def test_closed_while_the_name_server_is_asked(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    failed: bool,
) -> None:
    resolution: Future[list[AddressInfo]] = Future()
    resolution.set_running_or_notify_cancel()  # too late to cancel it
    monkeypatch.setattr(loop, "resolve", lambda host, port, done, **options: resolution)
    connector = connect("server", 80)
    connector.close()
    if failed:
        resolution.set_exception(socket.gaierror(socket.EAI_NONAME, "unknown"))
    else:
        resolution.set_result([*socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)])
    connector._resolved(resolution)
    run_a_while(loop)
    assert not outcome
    assert not connector._under_way
    assert not connector._deadline.active


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_closed_while_attempts_are_under_way(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    silent: Callable[..., socket.socket],
    resolve_to: Callable[..., None],
    outcome: Outcome,
    attempts: int,
) -> None:
    resolve_to(*(silent().getsockname() for _ in range(3)))
    connector = connect("server", 80, timeout=0.2, attempt_delay=0.01)
    run_until(loop, lambda: len(connector._under_way) == attempts)
    assert repr(connector) == f"<TcpConnector to 'server', port 80, {attempts} attempts under way>"
    connector.close()
    run_a_while(loop)
    assert not outcome


def test_closed_by_the_factory_and_by_on_error(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    refusing: Callable[..., Any],
    outcome: Outcome,
) -> None:
    def close(loop: Uloop, sock: socket.socket) -> None:
        first.close()
        outcome.connected(loop, sock)

    first = connect(*server().getsockname(), factory=close)
    run_until(loop, lambda: outcome.sockets)
    errors: list[ConnectError] = []

    def close_again(error: ConnectError) -> None:
        second.close()
        errors.append(error)

    second = TcpConnector(loop, "127.0.0.1", refusing()[1], outcome.connected, close_again)
    run_until(loop, lambda: errors)
    assert outcome.sockets[0].fileno() != -1


def test_shutdown_closes_a_connector(
    loop: Uloop, connect: Callable[..., TcpConnector], silent: Callable[..., socket.socket], outcome: Outcome
) -> None:
    connector = connect(*silent().getsockname())
    run_until(loop, lambda: connector._under_way)
    loop.shutdown(30)
    loop.run()
    assert not outcome
    assert not connector._under_way


def test_the_loop_is_closed_by_the_factory(
    loop: Uloop, connect: Callable[..., TcpConnector], server: Callable[..., socket.socket], outcome: Outcome
) -> None:
    def close(loop: Uloop, sock: socket.socket) -> None:
        outcome.connected(loop, sock)
        loop.close()

    connect(*server().getsockname(), factory=close)
    loop.run()
    assert len(outcome.sockets) == 1


# What goes wrong on our side


def test_what_the_factory_raises_is_logged_and_the_socket_closed(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    outcome: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(loop: Uloop, sock: socket.socket) -> None:
        loop.add(sock, 1, connector)
        outcome.connected(loop, sock)
        raise LookupError("the factory fails")

    connector = connect(*server().getsockname(), factory=fail)
    with caplog.at_level(logging.WARNING, "uloop"):
        run_until(loop, lambda: outcome)
        run_a_while(loop)
    assert outcome.sockets[0].fileno() == -1
    assert not outcome.errors
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_no_descriptor_is_left(
    loop: Uloop, connect: Callable[..., TcpConnector], outcome: Outcome, undo: ExitStack
) -> None:
    resource: Any = pytest.importorskip(
        "resource", reason="Windows has no limit of descriptors that can be lowered"
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, limits[1]))
        connect("127.0.0.1", 80)
        run_until(loop, lambda: outcome)
    assert outcome.errors[0].errno == errno.EMFILE
    assert "127.0.0.1: " in str(outcome.errors[0])


def test_no_room_in_the_backend(
    loop: Uloop,
    connect: Callable[..., TcpConnector],
    server: Callable[..., socket.socket],
    outcome: Outcome,
    undo: ExitStack,
) -> None:
    if loop.backend != "select" or sys.platform == "win32":
        pytest.skip("select on Unix alone has no room for descriptors of 1024 and more")
    import resource  # which Windows lacks

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1100, hard))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    address = server().getsockname()
    while True:
        number = os.open(os.devnull, os.O_RDONLY)
        undo.callback(os.close, number)
        if number >= 1023:
            break
    connect(*address)
    run_until(loop, lambda: outcome)
    assert "does not fit into select" in str(outcome.errors[0])
    assert outcome.errors[0].errno == errno.EMFILE


# Arguments


def test_local_address(
    loop: Uloop, connect: Callable[..., TcpConnector], server: Callable[..., socket.socket], outcome: Outcome
) -> None:
    listening = server()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        local = sock.getsockname()
    connect("localhost", listening.getsockname()[1], local_address=local)
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].getsockname() == local


@needs_ipv6
def test_a_local_address_says_which_family(
    loop: Uloop, connect: Callable[..., TcpConnector], server: Callable[..., socket.socket], outcome: Outcome
) -> None:
    listening = server("::1")
    connect("::1", listening.getsockname()[1], local_address=("::1", 0))
    run_until(loop, lambda: outcome)
    assert outcome.sockets[0].getsockname()[0] == "::1"


@pytest.mark.parametrize("address", [("localhost", 0), "127.0.0.1", ("127.0.0.1",), ("::1", 0), 42])
def test_what_is_no_local_address(connect: Callable[..., TcpConnector], address: Any) -> None:
    with pytest.raises(ValueError, match="local_address must be a numeric address"):
        connect("127.0.0.1", 80, local_address=address, family=socket.AF_INET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, "port must be 1 to 65535, not 0"),
        ({"port": 65536}, "port must be 1 to 65535, not 65536"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": float("nan")}, "timeout must be a positive number of seconds, not nan"),
        ({"attempt_delay": -1}, "attempt_delay must be a number of seconds, 0 or more, not -1"),
    ],
)
def test_what_is_not_possible(
    connect: Callable[..., TcpConnector], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        connect("127.0.0.1", **{"port": 80, **options})


def test_what_cannot_be_called(loop: Uloop, outcome: Outcome) -> None:
    nonsense: Any = 42
    with pytest.raises(TypeError, match="factory must be callable as factory"):
        TcpConnector(loop, "127.0.0.1", 80, nonsense, outcome.errors.append)
    with pytest.raises(TypeError, match="on_error must be callable"):
        TcpConnector(loop, "127.0.0.1", 80, outcome.connected, nonsense)


def test_a_closed_loop_takes_no_connector(loop: Uloop, connect: Callable[..., TcpConnector]) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        connect("127.0.0.1", 80)


def test_unix_sockets_where_python_has_none(
    loop: Uloop, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(NotImplementedError, match="no Unix sockets on this platform; TcpConnector"):
        UnixConnector(loop, "server", outcome.connected, outcome.errors.append)
