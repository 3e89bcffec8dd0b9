"""SIGTERM: what has reached the server is answered before it ends."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no signals to send to another process", allow_module_level=True)

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


@contextmanager
def stopped(process: Any) -> Iterator[None]:
    """While it is stopped, nothing that reaches it is read: it waits in the kernel."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30)


def send_until_nothing_is_read(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(b"time?")
    except TimeoutError:
        pass


def test_nothing_that_has_arrived_is_lost(server: Any) -> None:
    with ExitStack() as stack:
        old = [stack.enter_context(connect(server)) for _ in range(50)]
        for client in old:
            client.sendall(b"time?")
            assert TIME.fullmatch(client.recv(100))
        with stopped(server.process):
            new = [stack.enter_context(connect(server)) for _ in range(200)]  # in the backlog
            for client in old + new:
                client.sendall(b"time?")
            asking = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(50)
            ]
            for sock in asking:  # one source, and within its share
                sock.settimeout(30)
                sock.sendto(b"time?", ("127.0.0.1", server.ports["udp"]))
            server.process.send_signal(signal.SIGTERM)
        assert all(TIME.fullmatch(client.recv(100)) for client in old + new)
        assert all(TIME.fullmatch(sock.recv(100)) for sock in asking)
        assert all(client.recv(100) == b"" for client in old + new)  # and then the end, in order
    assert server.wait() == 0


def test_who_waits_for_room_is_let_in(start_server: Callable[..., Any], backend: str) -> None:
    server = start_server(backend, "tcp://127.0.0.1:0", "--max-connections", "5")
    with ExitStack() as stack:
        inside = [stack.enter_context(connect(server)) for _ in range(5)]
        for client in inside:
            client.sendall(b"time?")
            assert TIME.fullmatch(client.recv(100))
        waiting = [stack.enter_context(connect(server)) for _ in range(3)]
        for client in waiting:
            client.sendall(b"time?")
        server.process.send_signal(signal.SIGTERM)
        for client in inside:
            client.close()
        assert all(TIME.fullmatch(client.recv(100)) for client in waiting)
    assert server.wait() == 0


def test_clients_that_do_not_leave_hold_nothing_up(server: Any) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(20)]
        for client in clients:
            client.sendall(b"time?")
            assert client.recv(100)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0  # though all of them are connected still


def test_a_second_signal_ends_it_at_once(start_server: Callable[..., Any], start_program: Any) -> None:
    """With a client that takes nothing, draining lasts as long as the grace period."""
    program = start_program(
        *("-m", "uloop_servers", "serve", "tcp://127.0.0.1:0", "--grace", "100", "--write-timeout", "100")
    )
    port = int(program.next_line().rpartition(":")[2])
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        greedy.connect(("127.0.0.1", port))
        greedy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greedy.settimeout(0.5)
        send_until_nothing_is_read(greedy)
        while program.process.poll() is None:
            program.process.send_signal(signal.SIGTERM)
            try:
                program.process.wait(0.1)
            except Exception:
                continue
    assert program.wait() == 1
    assert not [line for line in program.lines if "Traceback" in line]
