"""What UDP clients send, and what they get."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


@pytest.fixture
def server(start_server: Callable[..., Any], backend: str) -> Any:
    return start_server(backend, "--rate-limit", "0")  # all of these clients are one source


@pytest.fixture
def client(server: Any) -> Iterator[socket.socket]:
    with connect(server) as sock:
        yield sock


def connect(server: Any) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", server.ports["udp"]))
    return sock


@pytest.mark.parametrize("datagram", [b"", b"time?", b"x" * 9000], ids=["empty", "short", "long"])
def test_a_datagram_is_answered(client: socket.socket, datagram: bytes) -> None:
    client.send(datagram)
    assert TIME.fullmatch(client.recv(100))


def test_each_of_many_clients_gets_its_own_answers(server: Any) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(200)]
        for _ in range(5):
            for client in clients:
                client.send(b"time?")
            answers = [client.recv(100) for client in clients]
            assert all(TIME.fullmatch(answer) for answer in answers)
        for client in clients:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(100)  # one answer each, and no more


def test_what_could_be_an_answer_is_not_answered(client: socket.socket) -> None:
    """Or one forged datagram would make two servers talk to each other for ever."""
    for answer in (b"2020-06-15 15:34:33.899256", b"2020-06-15 15:34:33", b"2020-06-15 15:34:33.899256\r\n"):
        client.send(answer)
    client.send(b"time?")
    assert TIME.fullmatch(client.recv(100))
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)  # datagrams are answered in order, so the others were dropped


def test_clients_that_are_gone_before_the_answer(server: Any, client: socket.socket) -> None:
    """Their answers come back as errors on some systems; nobody else must notice."""
    for _ in range(50):
        with connect(server) as gone:
            gone.send(b"time?")
        client.send(b"time?")
        assert TIME.fullmatch(client.recv(100))
