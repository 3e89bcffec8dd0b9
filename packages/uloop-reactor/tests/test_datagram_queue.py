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
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.mmsg import UNIX
from uloop_reactor.testing import VirtualClock

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
    sender = Sender(loop, server.sock, queue_limit=1 << 21)
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
@pytest.mark.parametrize("is_connected", [False, True])
def test_the_queue_has_a_limit(
    is_connected: bool, data: bytes, loop: Uloop, make_peer: Callable[[str], Peer]
) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    address = receiver.sock.getsockname()
    target = None if is_connected else address
    if is_connected:
        server.sock.connect(address)
    sender = Sender(loop, server.sock, queue_limit=3000 if is_connected else 12000)
    sent = 0
    while not sender.errors:
        sender.send(data, target)
        sent += 1
        assert sender.queued <= 3000
    assert sender.errors == [(errno.ENOBUFS, address)]
    assert sender.queued > 2500  # for one peer, a quarter of the limit
    while sender.queued:
        receiver.read()
        loop.run_once(30)
    receiver.read()
    assert receiver.data == [data] * (sent - 1)  # all but the one that was dropped
    sender.send(b"and on", target)
    receiver.read()
    assert receiver.data[-1] == b"and on"
    sender.close()


def fill(sender: Sender, address: Address, data: bytes = b"x") -> None:
    """Until not even the queue takes more."""
    before = len(sender.errors)
    while len(sender.errors) == before:
        sender.send(data, address)
    assert sender.errors[before:] == [(errno.ENOBUFS, address)]


def test_peers_that_do_not_read_leave_the_others_their_answers(
    loop: Uloop, make_peer: Callable[[str], Peer]
) -> None:
    lazy = [make_peer(f"lazy{number}") for number in range(6)]
    eager, server = make_peer("eager"), make_peer("server")
    sender = Sender(loop, server.sock, queue_limit=12000)
    for peer in lazy:  # together they would hold more than all
        fill(sender, peer.sock.getsockname())
        assert sender.queued <= 12000
    assert sender.queued > 11000
    told = len(sender.errors)
    for data in numbers(COUNT):
        sender.send(data, eager.sock.getsockname())
        eager.read()
    assert eager.data == numbers(COUNT)
    assert len(sender.errors) == told
    sender.close()


def test_in_a_batch_too(loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    lazy, eager, server = make_peer("lazy"), make_peer("eager"), make_peer("server")

    class Echo(Sender):
        def on_datagram(self, data: bytes, sender: Address) -> None:
            self.reply(data)

    echo = Echo(loop, server.sock, queue_limit=12000)
    fill(echo, lazy.sock.getsockname())
    told = len(echo.errors)
    for data in numbers(100):
        for peer in (lazy, eager):
            while True:
                try:
                    peer.sock.sendto(data, echo.address)
                    break
                except OSError:  # the server's queue is full
                    loop.run_once(30)
        eager.read()
    while eager.read() is False or len(eager.data) < 100:
        loop.run_once(30)
    assert eager.data == numbers(100)
    assert set(echo.errors[told:]) == {(errno.ENOBUFS, lazy.sock.getsockname())}
    echo.abort()


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


def test_without_a_queue_a_full_peer_is_asked_again_at_once(
    loop: Uloop, make_peer: Callable[[str], Peer]
) -> None:
    receiver, server = make_peer("receiver"), make_peer("server")
    sender = Sender(loop, server.sock, queue_limit=0)
    fill(sender, receiver.sock.getsockname())
    assert sender.queued == 0
    receiver.read()
    sender.send(b"room again", receiver.sock.getsockname())
    receiver.read()
    assert receiver.data[-1] == b"room again"
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


def test_what_waits_for_a_peer_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    """By a virtual clock: after five seconds; and it is asked ever more seldom."""
    assert UNIX is not None
    with (
        Uloop(clock=VirtualClock()) as loop,
        socket.socket(UNIX, socket.SOCK_DGRAM) as lazy,
        socket.socket(UNIX, socket.SOCK_DGRAM) as sock,
    ):
        lazy.setblocking(False)
        lazy.bind(str(tmp_path / "lazy"))
        address = lazy.getsockname()
        sender = Sender(loop, sock)
        flushes: list[float] = []
        calls: Any = sender._calls
        send = calls.send

        def count(*columns: Any) -> Any:
            flushes.append(loop.time())
            return send(*columns)

        calls.send = count
        fill(sender, address)
        started, waiting = loop.time(), sender.queued
        flushes.clear()
        sender.errors.clear()
        loop.call_later(2, lazy.recv, 100)  # which makes room for one: then it has five seconds again
        loop.call_later(6.5, loop.stop)
        loop.run()
        assert sender.errors == []
        assert 0 < sender.queued < waiting
        assert 15 < len(flushes) < 35
        while sender.queued:
            loop.run_once(30)
        assert sender.errors == [(errno.ETIMEDOUT, address)]
        assert 7 <= loop.time() - started < 10
        Peer(lazy).read()
        sender.send(b"a new start", address)
        assert lazy.recv(100) == b"a new start"
        sender.close()


@pytest.mark.parametrize("what", ["close", "abort", "raise"])
def test_on_error_of_a_peer_without_room(what: str, loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    lazy, server = make_peer("lazy"), make_peer("server")
    sender = Sender(loop, server.sock, queue_limit=4000)
    address = lazy.sock.getsockname()

    def fail() -> None:
        raise ArithmeticError("in on_error")

    failures: list[str] = []
    loop.on_error(lambda error, culprit: failures.append(str(error)))
    sender.at_error = {"close": sender.close, "abort": sender.abort, "raise": fail}[what]
    while not sender.errors:
        sender.send(b"x", address)
    assert (errno.ENOBUFS, address) in sender.errors
    assert failures == (["in on_error"] if what == "raise" else [])
    assert (sender.fileno() == -1) is (what != "raise")
    sender.close()
    assert sender.queued == 0
    loop.run_once(0)


def test_a_full_peer_that_dies(loop: Uloop, make_peer: Callable[[str], Peer]) -> None:
    lazy, server = make_peer("lazy"), make_peer("server")
    address = lazy.sock.getsockname()
    sender = Sender(loop, server.sock, queue_limit=12000)
    fill(sender, address)
    lazy.sock.close()
    while sender.queued:
        loop.run_once(30)
    assert set(sender.errors[1:]) == {(errno.ECONNREFUSED, address)}
    sender.close()
