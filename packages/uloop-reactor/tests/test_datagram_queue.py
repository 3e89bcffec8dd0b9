"""What the kernel does not take yet: it waits, in order, up to a limit, and nobody spins.

Unix sockets, because on the loopback interface the kernel takes every UDP datagram, and drops it
if the receiver's buffer is full.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.mmsg import UNIX

if sys.platform == "win32":
    pytest.skip("Python has no Unix datagram sockets on Windows", allow_module_level=True)

COUNT = 2000  # more than any Unix socket holds
FULL = 100  # of one byte; more than the queue of a Unix socket holds on some systems, not on all


class Sender(DatagramSocket):
    def __init__(self, loop: Uloop, sock: socket.socket, queue_limit: int = 1 << 20):
        self.errors: list[tuple[int | None, Address | None]] = []
        self.events = 0
        self.at_error: Callable[[], object] = lambda: None
        super().__init__(loop, sock, queue_limit=queue_limit)

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append((error.errno, peer))
        self.at_error()

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        self.events += 1
        super().process_event(fileno, event)


class Peer:
    """A socket that is read when the test says so."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.data: list[bytes] = []

    def read(self) -> bool:
        try:
            while True:
                self.data.append(self.sock.recv(100))
        except BlockingIOError:
            return bool(self.data)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.fixture
def pair(loop: Uloop) -> Iterator[tuple[Sender, Peer]]:
    assert UNIX is not None
    sock, theirs = socket.socketpair(UNIX, socket.SOCK_DGRAM)
    sender = Sender(loop, sock)
    yield sender, Peer(theirs)
    sender.abort()
    theirs.close()


@pytest.fixture
def make_peer(tmp_path: Path) -> Iterator[Callable[[str], Peer]]:
    made = []

    def make(name: str) -> Peer:
        assert UNIX is not None
        made.append(sock := socket.socket(UNIX, socket.SOCK_DGRAM))
        sock.bind(str(tmp_path / name))
        return Peer(sock)

    yield make
    for sock in made:
        sock.close()


def read_until(loop: Uloop, peer: Peer, count: int) -> None:
    while peer.read() is False or len(peer.data) < count:
        loop.run_once(30)


def test_in_order(loop: Uloop, pair: tuple[Sender, Peer]) -> None:
    sender, peer = pair
    for data in numbers(COUNT):
        sender.send(data)
    waiting = sender.queued
    assert waiting > 0
    read_until(loop, peer, COUNT)
    assert peer.data == numbers(COUNT)
    assert sender.queued == 0
    assert sender.errors == []
    sender.send(b"again, at once")
    peer.read()
    assert peer.data[-1] == b"again, at once"


def test_nobody_spins_while_a_connected_peer_is_full(loop: Uloop, pair: tuple[Sender, Peer]) -> None:
    sender, peer = pair
    for data in numbers(COUNT):
        sender.send(data)
    loop.call_later(0.1, loop.stop)
    loop.run()
    assert sender.events < 20
    read_until(loop, peer, COUNT)
    assert peer.data == numbers(COUNT)


def test_a_peer_that_does_not_read_holds_up_nobody_else(
    loop: Uloop, make_peer: Callable[[str], Peer]
) -> None:
    lazy, eager, server = make_peer("lazy"), make_peer("eager"), make_peer("server")
    sender = Sender(loop, server.sock)
    for number in range(COUNT):
        sender.send(b"%d" % number, lazy.sock.getsockname())
        if number % 10 == 0:
            sender.send(b"%d" % number, eager.sock.getsockname())
            eager.read()
    while len(eager.data) < COUNT // 10:
        loop.run_once(30)
        eager.read()
    assert eager.data == numbers(COUNT)[::10]
    assert sender.queued > 0

    before = sender.events  # poll_out says that we may write, and it is not so
    loop.call_later(0.1, loop.stop)
    loop.run()
    assert sender.events - before < 30

    read_until(loop, lazy, COUNT)
    assert lazy.data == numbers(COUNT)
    assert sender.errors == []
    sender.close()


@pytest.mark.parametrize("data", [b"x" * 100, b""])
def test_the_queue_has_a_limit(
    data: bytes, loop: Uloop, pair: tuple[Sender, Peer], make_peer: Callable[[str], Peer]
) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    address = receiver.sock.getsockname()
    sender = Sender(loop, server.sock, queue_limit=3000)
    sent = 0
    while not sender.errors:
        sender.send(data, address)
        sent += 1
        assert sender.queued <= 3000
    assert sender.errors == [(errno.ENOBUFS, address)]
    assert sender.queued > 2500
    while sender.queued:
        receiver.read()
        loop.run_once(30)
    receiver.read()
    assert receiver.data == [data] * (sent - 1)  # all but the one that was dropped
    sender.send(b"and on", address)
    receiver.read()
    assert receiver.data[-1] == b"and on"
    sender.close()


def test_without_a_queue(loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    sender = Sender(loop, server.sock, queue_limit=0)
    for data in (b"one", b"two"):
        sender.send(
            data, receiver.sock.getsockname()
        )  # the kernel takes them, so the limit is nothing to them
    receiver.read()
    assert receiver.data == [b"one", b"two"]
    assert sender.errors == []
    sender.close()


def test_close_sends_what_the_kernel_takes(loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    sender = Sender(loop, server.sock)
    for data in numbers(COUNT):
        sender.send(data, receiver.sock.getsockname())
    receiver.read()
    before = len(receiver.data)
    sender.close()
    receiver.read()
    assert COUNT > len(receiver.data) > before
    assert receiver.data == numbers(COUNT)[: len(receiver.data)]
    assert sender.queued == 0


@pytest.mark.parametrize("what", ["close", "abort", "send"])
def test_on_error_may_do_as_it_likes(what: str, loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    address, gone = receiver.sock.getsockname(), receiver.sock.getsockname() + "gone"
    sender = Sender(loop, server.sock)

    class Both(Sender):
        def on_datagram(self, data: bytes, sender: Address) -> None:
            for target in (address, gone, address):
                self.send(b"x", target)

    sender.abort()
    server = make_peer("server2")
    both = Both(loop, server.sock)
    both.at_error = {
        "close": both.close,
        "abort": both.abort,
        "send": lambda: both.send(b"error", address),
    }[what]
    receiver.sock.sendto(b"go", both.address)
    while not both.errors:
        loop.run_once(30)
    receiver.read()
    assert both.errors == [(errno.ENOENT, gone)]
    expected = {"close": [b"x", b"x"], "abort": [b"x"], "send": [b"x", b"x", b"error"]}
    assert receiver.data == expected[what]
    both.close()


def test_on_error_that_sends_again_and_again(loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    server = make_peer("server")
    gone = server.sock.getsockname() + "gone"
    sender = Sender(loop, server.sock)
    sender.at_error = lambda: sender.send(b"x", gone)
    sender.send(b"x", gone)
    turns: list[int] = []
    loop.call_soon(turns.append, 1)
    loop.run_once(30)
    assert turns == [1]  # the loop still has its turns
    assert len(sender.errors) > 1
    sender.close()  # which comes to an end as well
    assert sender.queued == 0
