"""Programs written for the loop that this one descends from run unchanged.

Their handlers inherit from nothing; they have ``fileno()``, ``add_to_event_loop(loop)`` and
``process_event(fileno, event)``, and deal with events by ``event & UEvent.poll_in``.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest
from uloop_reactor import EventHandler, UEvent, Uloop

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


class Connection:
    """Sends back what it reads, when there is room to write."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unsent = b""
        self.seen: list[UEvent] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    def add_to_event_loop(self, loop: Uloop) -> None:
        self.loop = loop
        loop.add(self.sock, UEvent.poll_in, self)

    def process_event(self, fileno: int, event: UEvent) -> None:
        assert fileno == self.sock.fileno()
        self.seen.append(event)
        if event & UEvent.poll_in:
            self.unsent = self.sock.recv(100)
            if not self.unsent:
                self.loop.remove(self.sock)
                self.sock.close()
                self.loop.stop()
                return
            self.loop.modify(self.sock, UEvent.poll_out)
        if event & UEvent.poll_out:
            self.sock.send(self.unsent)
            self.loop.modify(fileno, UEvent.poll_in)


class Listener:
    """Accepts connections, and hands them to the loop."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.connections: list[Connection] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    def add_to_event_loop(self, loop: Uloop) -> None:
        self.loop = loop
        loop.add(self.sock.fileno(), UEvent.poll_in, self)

    def process_event(self, fileno: int, event: UEvent) -> None:
        sock, _ = self.sock.accept()
        sock.setblocking(False)
        connection = Connection(sock)
        self.connections.append(connection)
        connection.add_to_event_loop(self.loop)


class Client:
    """Says something, and hangs up when it has the answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=30)
        self.sock.sendall(b"hello")
        self.answer = b""

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.answer += self.sock.recv(100)
        if self.answer == b"hello":
            self.loop.remove(self.sock)
            self.sock.close()

    def add_to_event_loop(self, loop: Uloop) -> None:
        self.loop = loop
        loop.add(self.sock, UEvent.poll_in, self)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    with listener.sock:
        yield listener


def test_an_echo_server(loop: Uloop, listener: Listener) -> None:
    listener.add_to_event_loop(loop)
    client = Client(listener.sock.getsockname())
    client.add_to_event_loop(loop)
    loop.run()
    assert client.answer == b"hello"
    (connection,) = listener.connections
    assert all(type(event) is UEvent for event in connection.seen)
    reading, writing, end = connection.seen
    assert reading & UEvent.poll_in
    assert not reading & UEvent.poll_out
    assert writing == UEvent.poll_out
    assert end & UEvent.poll_in


def test_the_defaults_are_those_of_the_ancestor(loop: Uloop) -> None:
    assert loop.timeout == 10
    assert Uloop.poll.__defaults__ == (10,)


def test_programs_may_call_their_handlers_themselves(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    connection = Connection(ours)
    connection.add_to_event_loop(loop)
    theirs.send(b"hello")
    for _ in range(2):  # one to read, one to write
        events = loop.poll(30)
        assert [(handler, fileno) for handler, fileno, _ in events] == [(connection, ours.fileno())]
        for handler, fileno, event in events:
            handler.process_event(fileno, event)
    assert select.select([theirs], [], [], 30)[0]
    assert theirs.recv(100) == b"hello"


def test_periodic_callbacks_take_no_arguments(loop: Uloop) -> None:
    loop.timeout = 0.001
    loop.add_periodic(loop.stop)
    loop.run()
    loop.remove_periodic(loop.stop)


class Inheriting(EventHandler):
    def __init__(self, sock: socket.socket, loop: Uloop) -> None:
        self.sock = sock
        self.loop = loop
        self.heard = b""

    def fileno(self) -> int:
        return self.sock.fileno()

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        assert event == UEvent.poll_in
        self.heard += self.sock.recv(100)
        self.loop.stop()


def test_the_base_class_adds_itself_for_reading(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    handler = Inheriting(ours, loop)
    handler.add_to_event_loop(loop)
    theirs.send(b"hello")
    loop.run()
    assert handler.heard == b"hello"
    loop.remove(handler)
    theirs.send(b"more")
    assert select.select([ours], [], [], 30)[0]
    loop.run_once(0)
    assert handler.heard == b"hello"


@pytest.mark.parametrize("missing", ["fileno", "process_event"])
def test_the_base_class_says_what_is_missing(missing: str) -> None:
    methods = {"fileno": lambda self: 0, "process_event": lambda self, fileno, event: None}
    del methods[missing]
    incomplete = type("Incomplete", (EventHandler,), methods)
    with pytest.raises(TypeError, match=missing):
        incomplete()
