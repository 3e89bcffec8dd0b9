"""One process with thousands of sockets on Windows, where ``select`` ends at 512."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, AfdLoop

if sys.platform != "win32":
    pytest.skip("AFD is Windows' own", allow_module_level=True)

CLIENTS = 4000
AT_ONCE = 100  # connections that wait to be accepted; Windows refuses what its backlog has no room for
LIMIT = 512
LENGTH = 6  # bytes of a message
DEADLINE = 60.0  # seconds without any event


class Poller(Protocol):
    """As much of epoll as the program below needs."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...


class SelectPoller:
    """That much of epoll, on select.select."""

    def __init__(self) -> None:
        self.masks: dict[int, int] = {}

    def register(self, fd: int, eventmask: int) -> None:
        self.masks[fd] = eventmask

    modify = register

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        readers = [number for number, mask in self.masks.items() if mask & EPOLLIN]
        writers = [number for number, mask in self.masks.items() if mask & EPOLLOUT]
        readable, writable, _ = select.select(readers, writers, [], timeout)
        return [(number, EPOLLIN) for number in readable] + [(number, EPOLLOUT) for number in writable]


class EchoProgram:
    """An echo server and its clients, all of them in one thread and all open at the same time."""

    def __init__(self, poller: Poller, stack: ExitStack, clients: int) -> None:
        self.poller = poller
        self.stack = stack
        self.handlers: dict[int, Callable[[], None]] = {}
        self.unconnected = list(range(clients))
        self.echoed: set[int] = set()
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2 * AT_ONCE))
        self.watch(self.listener, EPOLLIN, self.accept)

    def run(self) -> None:
        clients = len(self.unconnected)
        for _ in range(min(AT_ONCE, clients)):
            self.connect()
        while len(self.echoed) < clients:
            events = self.poller.poll(DEADLINE)
            assert events, f"nothing has happened after {len(self.echoed)} of {clients} echoes"
            for number, _ in events:
                self.handlers[number]()

    def watch(self, sock: socket.socket, mask: int, handler: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.handlers[sock.fileno()] = handler
        self.poller.register(sock.fileno(), mask)

    def accept(self) -> None:
        server = self.stack.enter_context(self.listener.accept()[0])

        def echo() -> None:
            assert server.send(server.recv(LENGTH)) == LENGTH

        self.watch(server, EPOLLIN, echo)

    def connect(self) -> None:
        index = self.unconnected.pop()
        message = b"%*d" % (LENGTH, index)
        client = self.stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(self.listener.getsockname())

        def send() -> None:
            assert client.send(message) == LENGTH
            self.handlers[client.fileno()] = check
            self.poller.modify(client.fileno(), EPOLLIN)

        def check() -> None:
            assert client.recv(LENGTH) == message
            self.echoed.add(index)
            if self.unconnected:
                self.connect()

        self.watch(client, EPOLLOUT, send)


def test_every_one_of_thousands_of_clients_gets_its_echo(stack: ExitStack) -> None:
    with AfdLoop() as loop:
        program = EchoProgram(loop, stack, CLIENTS)
        program.run()
        assert program.echoed == set(range(CLIENTS))
        assert len(program.handlers) == 2 * CLIENTS + 1, "sockets that were open at the same time"


def test_select_refuses_one_socket_more_than_512(stack: ExitStack) -> None:
    program = EchoProgram(SelectPoller(), stack, CLIENTS)
    with pytest.raises(ValueError, match=r"too many file descriptors in select\(\)"):
        program.run()
    assert LIMIT < len(program.handlers) <= LIMIT + 2 * AT_ONCE
