"""A thousand TCP clients at once, and what happens when there are more than fit."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop

if sys.platform == "win32":
    pytest.skip("Windows has no limit of descriptors to raise or to lower", allow_module_level=True)

import resource

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


@pytest.fixture
def room_for_descriptors() -> Iterator[None]:
    """As many descriptors as these tests need, for us and for the servers we start."""
    wanted = 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may have {hard} descriptors, and the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def few_descriptors(limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


class Client:
    """Asks so many times, each time after the answer; counts itself out when it is done."""

    def __init__(self, loop: Uloop, port: int, questions: int, waiting: set[Client]) -> None:
        self.loop = loop
        self.questions = questions
        self.waiting = waiting
        self.answers: list[bytes] = []
        self.received = b""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.sock.setblocking(False)
        waiting.add(self)
        loop.add(self.sock, UEvent.poll_in, self)

    def process_event(self, fileno: int, event: UEvent) -> None:
        try:
            chunk = self.sock.recv(100)
        except ConnectionResetError:
            chunk = b""  # closed by the server before it read the question
        self.received += chunk
        if not chunk:
            self.finish()
        elif len(self.received) == 26:
            self.answers.append(self.received)
            self.received = b""
            if len(self.answers) == self.questions:
                self.finish()
            else:
                self.ask()

    def ask(self) -> None:
        self.sock.send(b"time?")

    def finish(self) -> None:
        self.loop.remove(self.sock)
        self.waiting.discard(self)
        if not self.waiting:
            self.loop.stop()

    def close(self) -> None:
        self.sock.close()


@pytest.mark.usefixtures("room_for_descriptors")
def test_a_thousand_clients_ask_twenty_times_each(start_server: Callable[..., Any], backend: str) -> None:
    if backend == "select":
        pytest.skip("select takes descriptors below 1024, and the server has some of its own")
    server = start_server(backend)
    waiting: set[Client] = set()
    with Uloop() as loop, ExitStack() as cleanup:
        clients = [Client(loop, server.ports["tcp"], 20, waiting) for _ in range(1000)]
        for client in clients:
            cleanup.callback(client.close)
            client.ask()
        loop.run()
    answers = [answer for client in clients for answer in client.answers]
    assert len(answers) == 20_000
    assert all(TIME.fullmatch(answer) for answer in answers)
    assert all(client.answers == sorted(client.answers) for client in clients)


@pytest.mark.usefixtures("room_for_descriptors")
def test_select_serves_more_than_it_can_hold(start_server: Callable[..., Any]) -> None:
    """Those who do not fit wait until those who were answered have been silent for a while."""
    server = start_server("select")
    waiting: set[Client] = set()
    with Uloop() as loop, ExitStack() as cleanup:
        clients = [Client(loop, server.ports["tcp"], 1, waiting) for _ in range(1100)]
        for client in clients:
            cleanup.callback(client.close)
        for client in clients:
            client.ask()
        loop.run()
        assert all(client.answers for client in clients)
    assert len(server.lines) == 2, server.lines


@pytest.mark.parametrize("options", [[], ["--max-connections", "1000"]])
def test_few_descriptors(start_server: Callable[..., Any], backend: str, options: list[str]) -> None:
    """There are no more connections than descriptors, so none is accepted in vain."""
    server = start_server(backend, *options, preexec_fn=few_descriptors(48))
    with ExitStack() as cleanup:
        clients = [
            cleanup.enter_context(socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30))
            for _ in range(60)
        ]
        for client in clients:
            client.sendall(b"time?")
        for client in clients:
            assert TIME.fullmatch(client.recv(100))
            client.close()
    assert len(server.lines) == (3 if options else 2), server.lines
    assert not options or "--max-connections 1000 is more than the 30 for which" in server.lines[2]


def test_few_descriptors_and_clients_that_say_nothing(start_server: Callable[..., Any], backend: str) -> None:
    """They make room in time, though there are more of them than descriptors."""
    server = start_server(backend, "--max-connections", "1000", preexec_fn=few_descriptors(48))
    address = ("127.0.0.1", server.ports["tcp"])
    with ExitStack() as cleanup:
        for _ in range(60):
            cleanup.enter_context(socket.create_connection(address, timeout=30))
        honest = cleanup.enter_context(socket.create_connection(address, timeout=30))
        honest.sendall(b"time?")
        assert TIME.fullmatch(honest.recv(100))
