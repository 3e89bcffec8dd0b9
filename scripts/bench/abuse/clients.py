"""The clients, good and bad: the same for every contestant."""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

PATIENCE = 5.0  # seconds, for an answer


def address(port: int) -> tuple[str, int]:
    return "127.0.0.1", port


@contextmanager
def connected(port: int, count: int = 1) -> Iterator[list[socket.socket]]:
    """Clients that wait for what they ask for; closed in the end."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(socket.create_connection(address(port), PATIENCE))
            clients[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield clients
    finally:
        for client in clients:
            client.close()


def ask(client: socket.socket, question: bytes) -> bytes:
    """Send something and wait for as much as was sent; less if there is an end, or no answer in time."""
    reply = b""
    try:
        client.sendall(question)
        while len(reply) < len(question):
            data = client.recv(len(question) - len(reply))
            if not data:
                break
            reply += data
    except OSError:
        pass
    return reply


def served(clients: list[socket.socket], question: bytes = b"question") -> int:
    """How many of these clients get what they sent."""
    return sum(ask(client, question) == question for client in clients)


def newly_served(port: int, count: int) -> int:
    """How many new clients get what they sent."""
    number = 0
    for _ in range(count):
        try:
            with connected(port) as clients:
                number += served(clients)
        except OSError:
            pass
    return number


def reset(client: socket.socket) -> None:
    """Close with a reset: SO_LINGER of 0 seconds."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class Crowd:
    """Clients that come all at once, ask one thing, and take what comes."""

    def __init__(self, port: int, count: int) -> None:
        self.asking: dict[int, socket.socket] = {}
        self.answered: list[socket.socket] = []
        self.shed = 0  # sent away without an answer
        self.poll = select.poll()
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address(port))
            self.asking[client.fileno()] = client
            self.poll.register(client, select.POLLOUT)

    def wait(self, seconds: float, *, leaving: bool = False) -> None:
        """Take answers for so long; or, if those who are answered leave at once, until all are."""
        end = time.monotonic() + seconds
        while (self.asking or not leaving) and (rest := end - time.monotonic()) > 0:
            for number, _ in self.poll.poll(rest * 1000):
                self.look_at(self.asking[number])
            if leaving:
                self.leave(len(self.answered))

    def look_at(self, client: socket.socket) -> None:
        try:
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionError
            try:
                data = client.recv(100)
            except BlockingIOError:
                client.send(b"hello")  # connected, and writable for the first time
                self.poll.modify(client, select.POLLIN)
                return
        except OSError:
            data = b""
        self.poll.unregister(client)
        del self.asking[client.fileno()]
        if data:
            self.answered.append(client)
        else:
            self.shed += 1
            client.close()

    def leave(self, count: int) -> None:
        for _ in range(count):
            self.answered.pop().close()

    def close(self) -> None:
        for client in (*self.asking.values(), *self.answered):
            client.close()


class Flood:
    """Sends as much as it can, and reads all that comes back, or nothing at all."""

    def __init__(self, port: int, *, reads: bool, at_most: int) -> None:
        self.client = socket.create_connection(address(port), PATIENCE)
        self.client.setblocking(False)
        self.reads = reads
        self.left = at_most  # bytes to send
        self.poll = select.poll()
        self.poll.register(self.client, select.POLLOUT | (select.POLLIN if reads else 0))

    def flow(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.left and (rest := end - time.monotonic()) > 0:
            for _, mask in self.poll.poll(rest * 1000):
                try:
                    if mask & select.POLLIN:
                        self.client.recv(1 << 20)
                    if mask & select.POLLOUT:
                        self.left -= self.client.send(bytes(min(self.left, 1 << 16)))
                except BlockingIOError:
                    pass
                except OSError:
                    return  # sent away
