"""What systemd is told, and what is served on the sockets that it opens."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_servers import Endpoint
from uloop_servers.systemd import Notifier, match_inherited, notify, watchdog_interval

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)

UNIX_SOCKETS = pytest.mark.skipif(AF_UNIX is None, reason="Python has no Unix sockets on this platform")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's socket."""
    # Not in tmp_path: an address has room for about 100 bytes.
    with tempfile.TemporaryDirectory() as directory, socket.socket(AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = f"{directory}/notify"
        sock.bind(path)
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield sock


def told(manager: socket.socket) -> list[str]:
    """The next message."""
    return manager.recv(4096).decode().split("\n")


@UNIX_SOCKETS
def test_all_that_it_is_told(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready()
    assert told(manager) == ["READY=1"]
    notifier.watchdog()
    assert told(manager) == ["WATCHDOG=1"]
    notifier.stopping()
    assert told(manager) == ["STOPPING=1"]
    notify("A=1", "B=2")
    assert told(manager) == ["A=1", "B=2"]


@UNIX_SOCKETS
def test_a_reload_has_the_time_of_its_beginning(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    Notifier().reloading()
    after = time.monotonic_ns() // 1000
    reloading, begun = told(manager)
    assert reloading == "RELOADING=1"
    name, _, number = begun.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(number) <= after


@LINUX
def test_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"uloop-test-{secrets.token_hex(8)}"
    with socket.socket(AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert told(manager) == ["READY=1"]


def test_nobody_to_tell(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "uloop.servers")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    Notifier().ready()
    assert not caplog.records


@UNIX_SOCKETS
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/no/such/directory/notify", "No such file"),
        ("relative", "neither a path nor an abstract name"),
        ("vsock:2:1234", "neither a path nor an abstract name"),
        ("/" + "x" * 300, "too long"),
    ],
)
def test_one_that_cannot_be_told(
    address: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service runs all the same, and says so once, to whoever wants to know."""
    caplog.set_level(logging.DEBUG, "uloop.servers")
    monkeypatch.setenv("NOTIFY_SOCKET", address + secrets.token_hex(4))
    for _ in range(3):
        Notifier().ready()
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert address in record.getMessage()
    assert reason in record.getMessage()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 30.0),
        pytest.param("500000", str(os.getpid()), 0.5, id="ours"),
        ("30000000", "1", None),
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("-1", None, None),
        ("soon", None, None),
        ("٣", None, None),
        ("18446744073709551615", None, None),  # infinity
        pytest.param("9" * 5000, None, None, id="far too long"),
    ],
)
def test_the_watchdog(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in [("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)]:
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == interval


# Sockets

Open = Callable[..., socket.socket]


@pytest.fixture
def open_socket() -> Iterator[Open]:
    """Opens sockets on a free port, or on one that another socket has with another type."""
    with ExitStack() as cleanup:

        def open_socket(transport: str, port: int = 0, host: str = "127.0.0.1") -> socket.socket:
            sock, _ = Endpoint(transport, host, port).bind()
            sock.setblocking(True)
            return cleanup.enter_context(sock)

        yield open_socket


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "transport", "scheme"),
    [
        ("ntp", "udp", "ntp"),
        ("udp", "udp", "udp"),
        ("tcp", "tcp", "tcp"),
        ("daytime+udp", "udp", "daytime+udp"),
        ("time+tcp", "tcp", "time+tcp"),
        # a unit gives the same name to all of its sockets
        ("daytime", "udp", "daytime+udp"),
        ("daytime", "tcp", "daytime+tcp"),
        ("time", "udp", "time+udp"),
        ("clock", "tcp", "tcp"),
        # any other name says nothing
        ("unknown", "tcp", "tcp"),
        ("uloop.socket", "udp", "udp"),
        ("NTP", "udp", "udp"),
    ],
)
def test_the_name_says_what_it_speaks(name: str, transport: str, scheme: str, open_socket: Open) -> None:
    sock = open_socket(transport)
    bound, wanted = match_inherited([(name, sock)], [Endpoint("tcp", "127.0.0.1", 3333)], explicit=False)
    assert bound == [(Endpoint(scheme, "127.0.0.1", port_of(sock)), sock)]
    assert not wanted  # nobody asked for the defaults
    assert not sock.getblocking()


@pytest.mark.parametrize(
    ("name", "transport", "sentence"),
    [
        ("ntp", "tcp", "the inherited socket 'ntp' is a stream socket; ntp needs a datagram socket"),
        ("tcp", "udp", "the inherited socket 'tcp' is a datagram socket; tcp needs a stream socket"),
        (
            "daytime+tcp",
            "udp",
            "the inherited socket 'daytime+tcp' is a datagram socket; daytime+tcp needs a stream socket",
        ),
    ],
)
def test_a_name_that_the_socket_cannot_keep(
    name: str, transport: str, sentence: str, open_socket: Open
) -> None:
    with pytest.raises(ValueError, match="needs a") as refusal:
        match_inherited([(name, open_socket(transport))], [], explicit=True)
    assert str(refusal.value) == sentence


def test_an_endpoint_at_its_address_takes_it(open_socket: Open) -> None:
    stream = open_socket("tcp")
    datagrams = open_socket("udp")
    mine = Endpoint("daytime+tcp", "127.0.0.1", port_of(stream))
    other = Endpoint("ntp", "127.0.0.1", 0)
    bound, wanted = match_inherited(
        [("unknown", datagrams), ("unknown", stream)], [other, mine], explicit=True
    )
    assert bound == [(Endpoint("udp", "127.0.0.1", port_of(datagrams)), datagrams), (mine, stream)]
    assert wanted == [other]


def test_a_name_is_looked_up(open_socket: Open) -> None:
    sock = open_socket("udp")
    mine = Endpoint("time+udp", "localhost", port_of(sock))
    if (socket.AF_INET, ("127.0.0.1", port_of(sock))) not in mine.addresses():
        pytest.skip("localhost is not 127.0.0.1 here")
    assert match_inherited([("unknown", sock)], [mine], explicit=True) == ([(mine, sock)], [])


def test_an_endpoint_elsewhere_does_not_take_it(open_socket: Open) -> None:
    sock = open_socket("tcp")
    port = port_of(sock)
    others = [
        Endpoint("daytime+tcp", "127.0.0.1", port ^ 1),
        Endpoint("daytime+tcp", "127.0.0.2", port),
        Endpoint("daytime+tcp", "no-such-host.invalid", port),
        Endpoint("daytime+tcp", "a..b", port),
        Endpoint("daytime+udp", "127.0.0.1", port),
    ]
    bound, wanted = match_inherited([("unknown", sock)], others, explicit=True)
    assert bound == [(Endpoint("tcp", "127.0.0.1", port), sock)]
    assert wanted == others


def test_an_endpoint_that_a_named_socket_serves_is_not_bound_again(open_socket: Open) -> None:
    sock = open_socket("udp")
    mine = Endpoint("ntp", "127.0.0.1", port_of(sock))
    assert match_inherited([("ntp", sock)], [mine], explicit=True) == ([(mine, sock)], [])
    # but one that would speak something else there is, and whoever asked for it is told why it cannot be
    other = Endpoint("udp", "127.0.0.1", port_of(sock))
    assert match_inherited([("ntp", sock)], [other], explicit=True) == ([(mine, sock)], [other])


def test_ipv6(open_socket: Open) -> None:
    try:
        sock = open_socket("udp", host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    mine = Endpoint("ntp", "::1", port_of(sock))
    assert match_inherited([("unknown", sock)], [mine], explicit=True) == ([(mine, sock)], [])
    assert match_inherited([("unknown", sock)], [], explicit=True)[0][0][0] == Endpoint(
        "udp", "::1", mine.port
    )


@pytest.mark.parametrize(
    ("transport", "port", "scheme"),
    [
        ("udp", 123, "ntp"),
        ("udp", 13, "daytime+udp"),
        ("tcp", 13, "daytime+tcp"),
        ("udp", 37, "time+udp"),
        ("tcp", 37, "time+tcp"),
        ("tcp", 123, "tcp"),  # NTP has datagrams only
        ("tcp", 3333, "tcp"),
    ],
)
def test_the_port_says_what_it_speaks(transport: str, port: int, scheme: str, open_socket: Open) -> None:
    try:
        sock = open_socket(transport, port, "127.0.0.7")
    except OSError as error:
        pytest.skip(f"port {port} of 127.0.0.7 cannot be had: {error.strerror}")
    bound, _ = match_inherited([("unknown", sock)], [], explicit=False)
    assert bound == [(Endpoint(scheme, "127.0.0.7", port), sock)]


@pytest.mark.parametrize("explicit", [True, False])
def test_nothing_inherited(explicit: bool) -> None:
    endpoints = [Endpoint("tcp", "127.0.0.1", 3333)]
    assert match_inherited([], endpoints, explicit) == ([], endpoints)


def test_a_socket_that_does_not_listen() -> None:
    """As systemd gives them with Accept=yes: one for each client."""
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            pytest.skip("this platform does not tell whether a socket listens")
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="'time' does not listen; a socket unit needs Accept=no"):
            match_inherited([("time", sock)], [], explicit=True)


@UNIX_SOCKETS
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_unix_socket(kind: str) -> None:
    with socket.socket(AF_UNIX, getattr(socket, kind)) as sock:
        inherited: list[Any] = [("x", sock)]
        with pytest.raises(ValueError, match="'x' is no Internet socket, but of the family AF_UNIX"):
            match_inherited(inherited, [], explicit=True)
