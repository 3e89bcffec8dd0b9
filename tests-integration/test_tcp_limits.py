"""What TCP clients may do, and for how long."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
ANOTHER_ADDRESS = pytest.mark.skipif(
    sys.platform not in ("linux", "win32"),
    reason="the other addresses of this loopback interface have to be set up",
)


def connect(server: Any, host: str = "127.0.0.1", scheme: str = "tcp") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.ports[scheme]), timeout=30, source_address=(host, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(sock: socket.socket) -> bytes:
    sock.sendall(b"time?")
    return sock.recv(100)


def has_ended(sock: socket.socket) -> bool:
    """Wait until the server has closed or reset this connection."""
    try:
        while sock.recv(100):
            pass
    except ConnectionError:
        pass  # a reset
    return True


@pytest.mark.parametrize("scheme", ["tcp", "daytime+tcp"])
def test_a_silent_client_is_closed_in_order(
    start_server: Callable[..., Any], backend: str, scheme: str
) -> None:
    server = start_server(backend, f"{scheme}://127.0.0.1:0", "--idle-timeout", "0.2")
    with connect(server, scheme=scheme) as silent:
        while silent.recv(100):
            pass  # no ConnectionResetError: it is told with a FIN


def test_a_client_that_does_not_read(start_server: Callable[..., Any], backend: str) -> None:
    server = start_server(backend, "tcp://127.0.0.1:0", "--write-timeout", "0.3")
    with socket.socket() as greedy, connect(server) as other:
        greedy.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1024
        )  # before it connects, or it has no effect
        greedy.settimeout(30)
        greedy.connect(("127.0.0.1", server.ports["tcp"]))
        try:
            while True:
                greedy.sendall(b"time?" * 100)
                assert TIME.fullmatch(ask(other))
        except ConnectionError:
            pass  # in the end it is reset, and nobody else has noticed
        assert TIME.fullmatch(ask(other))


def test_the_longest_silent_makes_room_when_it_is_full(
    start_server: Callable[..., Any], backend: str
) -> None:
    server = start_server(backend, "tcp://127.0.0.1:0", "daytime+tcp://127.0.0.1:0", "--max-connections", "2")
    with connect(server) as first, connect(server) as second:
        assert TIME.fullmatch(ask(first))
        assert TIME.fullmatch(ask(second))
        with connect(server, scheme="daytime+tcp") as third:  # the cap is one for all endpoints
            third.setblocking(False)
            with pytest.raises(BlockingIOError):
                third.recv(100)  # not at once: the others may only be thinking
            third.settimeout(30)
            assert third.recv(100)
        assert has_ended(first)
        assert TIME.fullmatch(ask(second))


def test_a_client_who_leaves_makes_room_at_once(start_server: Callable[..., Any], backend: str) -> None:
    server = start_server(backend, "tcp://127.0.0.1:0", "--max-connections", "1")
    for _ in range(20):
        with connect(server) as client:
            assert TIME.fullmatch(ask(client))


def test_who_has_been_told_all_makes_room_at_once(start_server: Callable[..., Any], backend: str) -> None:
    """Else each of these would keep its place until it goes, or for two seconds."""
    server = start_server(backend, "tcp://127.0.0.1:0", "daytime+tcp://127.0.0.1:0", "--max-connections", "1")
    with ExitStack() as stack:
        for _ in range(50):
            lingering = stack.enter_context(connect(server, scheme="daytime+tcp"))
            assert lingering.recv(100)
        with connect(server) as client:
            assert TIME.fullmatch(ask(client))


@ANOTHER_ADDRESS
def test_the_cap_of_one_source(start_server: Callable[..., Any], backend: str) -> None:
    server = start_server(backend, "tcp://127.0.0.1:0", "--max-connections-per-source", "2")
    with connect(server) as first, connect(server) as second, connect(server, "127.0.0.2") as other:
        for client in (first, second, other):
            assert TIME.fullmatch(ask(client))
        with connect(server) as third:
            assert has_ended(third)
        first.close()
        while True:  # until the server has noticed
            try:
                with connect(server) as again:
                    if ask(again):
                        break
            except ConnectionError:
                pass
        assert TIME.fullmatch(ask(second))


@ANOTHER_ADDRESS
@pytest.mark.parametrize("options", [["--deny", "127.0.0.2"], ["--allow", "127.0.0.1/32"]])
def test_those_who_are_denied(start_server: Callable[..., Any], backend: str, options: list[str]) -> None:
    server = start_server(backend, *options)
    with connect(server, "127.0.0.2") as denied:
        assert has_ended(denied)
    with connect(server) as allowed:
        assert TIME.fullmatch(ask(allowed))


@ANOTHER_ADDRESS
@pytest.mark.parametrize("options", [["--deny", "127.0.0.2"], ["--allow", "127.0.0.1/32"]])
def test_those_who_are_denied_datagrams(
    start_server: Callable[..., Any], backend: str, options: list[str]
) -> None:
    if sys.platform == "win32":
        pytest.skip("wine sends from 127.0.0.1, whatever a datagram socket is bound to")
    server = start_server(backend, *options)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as denied,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as allowed,
    ):
        for sock, host in ((denied, "127.0.0.2"), (allowed, "127.0.0.1")):
            sock.bind((host, 0))
            sock.settimeout(30)
            sock.sendto(b"time?", ("127.0.0.1", server.ports["udp"]))
        assert TIME.fullmatch(allowed.recv(100))  # sent later, and answered
        denied.setblocking(False)
        with pytest.raises(BlockingIOError):
            denied.recv(100)


def test_what_comes_after_the_last_word_does_not_destroy_it(
    start_server: Callable[..., Any], backend: str
) -> None:
    """Unread input makes close() send a reset, and a reset throws away what the client has not read."""
    server = start_server(backend, "daytime+tcp://127.0.0.1:0", "time+tcp://127.0.0.1:0", "--utc")
    for scheme, length in (("daytime+tcp", 26), ("time+tcp", 4)):
        for _ in range(50):
            with connect(server, scheme=scheme) as client:
                client.sendall(b"who is there?\r\n" * 1000)
                answer = b""
                while chunk := client.recv(100):
                    answer += chunk
                assert len(answer) == length
