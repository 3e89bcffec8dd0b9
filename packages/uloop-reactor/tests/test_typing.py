"""What a type checker tells a user: mypy checks this file, strictly, on each platform.

Each ``type: ignore`` is a mistake that it must find, for one that is not needed is an error too.
"""

from __future__ import annotations

import socket
from concurrent.futures import Future
from typing import assert_type

from uloop_reactor import (
    ConnectError,
    DatagramSocket,
    EventHandler,
    Stats,
    Stream,
    TcpConnector,
    TcpListener,
    Timer,
    UEvent,
    Uloop,
)


class Chat(Stream):
    def __init__(self, loop: Uloop, sock: socket.socket, room: set[Chat]) -> None:
        super().__init__(loop, sock, idle_timeout=60)
        self.room = room

    def on_data(self, data: bytes, /) -> None:
        for guest in self.room:
            guest.write(data)

    def on_close(self, reason: BaseException | None, /) -> None:
        self.room.discard(self)


class Wrong(Stream):
    def on_data(self, data: str, /) -> None:  # type: ignore[override]
        pass


class Service(DatagramSocket):
    def on_datagram(self, data: bytes, sender: tuple[str, int]) -> None:
        self.reply(data)


class Reader(EventHandler):
    def fileno(self) -> int:
        return 0

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        assert_type(event & UEvent.poll_in, UEvent)


def add(one: int, other: int) -> int:
    return one + other


def check_callbacks(loop: Uloop) -> None:
    assert_type(loop.call_later(1, add, 1, 2), Timer)
    loop.call_soon(add, 1, "2")  # type: ignore[arg-type]
    loop.call_later(1, add, 1)  # type: ignore[arg-type]
    loop.call_every(1, add, 1, 2, jitter=0.1, first=0)
    loop.call_threadsafe(add)  # type: ignore[arg-type]
    loop.on_error(lambda error, culprit: print(error.args, culprit))

    def done(future: Future[int]) -> None:
        assert_type(future.result(), int)

    assert_type(loop.run_in_thread(add, 1, 2, done=done), Future[int])
    loop.run_in_thread(str, 1, done=done)  # type: ignore[misc]
    assert_type(loop.stats(), Stats)
    loop.add(0, UEvent.poll_in, object())  # type: ignore[arg-type]


def check_connections(loop: Uloop) -> None:
    room: set[Chat] = set()
    TcpListener(loop, ("127.0.0.1", 0), lambda loop, sock: Chat(loop, sock, room))
    TcpListener(loop, ("127.0.0.1", 0), Stream)
    TcpListener(loop, ("127.0.0.1", 0), Chat)  # type: ignore[arg-type]

    def failed(error: ConnectError) -> None:
        print(error.attempts)

    TcpConnector(loop, "localhost", 80, Stream, failed, timeout=5)
    TcpConnector(loop, "localhost", 80, Stream, add)  # type: ignore[arg-type]
    assert_type(Service.bind(loop, ("127.0.0.1", 0)), Service)


def test_the_classes_above_work_too() -> None:
    with Uloop() as loop:
        Service.bind(loop, ("127.0.0.1", 0)).close()
        assert isinstance(Reader(), EventHandler)
        assert issubclass(Wrong, Stream)
