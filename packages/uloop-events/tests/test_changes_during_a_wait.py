"""What another thread changes while a poll waits takes effect on that poll."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, EpollLike

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
Events = list[tuple[int, int]]
WaitElsewhere = Callable[..., "Future[Events]"]

LONG = 30.0  # seconds; a poll that is not ended by the change returns nothing after that
ROUNDS = 20


@pytest.fixture
def wait_elsewhere(loop: EpollLike) -> Iterator[WaitElsewhere]:
    """Starts a poll in another thread, and returns when that thread is about to wait.

    It has the interpreter to itself until it waits, or for a switch interval, which is made
    long: so the test goes on when the poll waits.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1)
    with ThreadPoolExecutor(4) as pool:

        def start(timeout: float | None = LONG, maxevents: int = -1) -> Future[Events]:
            started = threading.Event()

            def wait() -> Events:
                started.set()
                return loop.poll(timeout, maxevents)

            waiting = pool.submit(wait)
            started.wait()
            return waiting

        yield start
    sys.setswitchinterval(usual)


def test_register(loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere) -> None:
    for _ in range(ROUNDS):
        ours, theirs = socket_pair()
        theirs.send(b"x")
        waiting = wait_elsewhere()
        loop.register(ours, EPOLLIN)
        assert waiting.result() == [(ours.fileno(), EPOLLIN)]
        loop.unregister(ours)


def test_register_of_what_becomes_ready_later(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    for _ in range(ROUNDS):
        ours, theirs = socket_pair()
        waiting = wait_elsewhere()
        loop.register(ours, EPOLLIN)
        theirs.send(b"x")
        assert waiting.result() == [(ours.fileno(), EPOLLIN)]
        loop.unregister(ours)


def test_modify(loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    for _ in range(ROUNDS):
        waiting = wait_elsewhere()
        loop.modify(ours, EPOLLIN | EPOLLOUT)
        assert waiting.result() == [(ours.fileno(), EPOLLOUT)]
        loop.modify(ours, EPOLLIN)


def test_modify_of_a_oneshot_that_has_fired(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(5) == [(ours.fileno(), EPOLLOUT)]
    for _ in range(ROUNDS):
        waiting = wait_elsewhere()
        loop.modify(ours, EPOLLOUT | EPOLLONESHOT)
        assert waiting.result() == [(ours.fileno(), EPOLLOUT)]


def test_modify_to_less(loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere) -> None:
    ours, theirs = socket_pair()
    other, other_peer = socket_pair()
    loop.register(ours, EPOLLIN)
    loop.register(other, EPOLLIN)
    waiting = wait_elsewhere()
    loop.modify(ours, EPOLLRDHUP)
    theirs.send(b"x")
    other_peer.send(b"x")
    assert waiting.result() == [(other.fileno(), EPOLLIN)]


def test_unregister(loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere) -> None:
    gone, gone_peer = socket_pair()
    ours, theirs = socket_pair()
    loop.register(gone, EPOLLIN)
    loop.register(ours, EPOLLIN)
    waiting = wait_elsewhere()
    loop.unregister(gone)
    gone_peer.send(b"x")
    theirs.send(b"x")
    assert waiting.result() == [(ours.fileno(), EPOLLIN)]


def test_unregister_and_close(loop: EpollLike, tcp_pair: MakePair, wait_elsewhere: WaitElsewhere) -> None:
    """A call that waits holds on to the file, and the peer would not be told that it was closed."""
    ours, theirs = tcp_pair()
    other, other_peer = tcp_pair()
    loop.register(ours, EPOLLIN)
    loop.register(other, EPOLLIN)
    waiting = wait_elsewhere()
    loop.unregister(ours)
    ours.close()
    theirs.settimeout(LONG / 2)
    assert theirs.recv(1) == b""
    other_peer.send(b"x")
    assert waiting.result() == [(other.fileno(), EPOLLIN)]


def test_unregister_and_register(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    for _ in range(ROUNDS):
        waiting = wait_elsewhere()
        loop.unregister(ours)
        loop.register(ours, EPOLLOUT)
        assert waiting.result() == [(ours.fileno(), EPOLLOUT)]
        loop.modify(ours, EPOLLIN)


def test_every_thread_that_waits_is_told(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    for _ in range(ROUNDS):
        ours, _ = socket_pair()
        waiting = [wait_elsewhere() for _ in range(3)]
        loop.register(ours, EPOLLOUT)
        assert [each.result() for each in waiting] == [[(ours.fileno(), EPOLLOUT)]] * 3
        loop.unregister(ours)


def test_a_oneshot_is_told_to_one_thread(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    for _ in range(ROUNDS):
        pairs = [socket_pair() for _ in range(3)]
        waiting = [wait_elsewhere(maxevents=1) for _ in pairs]
        for ours, _ in pairs:
            loop.register(ours, EPOLLOUT | EPOLLONESHOT)
        told = sorted(event for each in waiting for event in each.result())
        assert told == sorted((ours.fileno(), EPOLLOUT) for ours, _ in pairs)
        for ours, _ in pairs:
            loop.unregister(ours)


def test_a_change_that_brings_nothing_does_not_end_the_wait(
    loop: EpollLike, socket_pair: MakePair, wait_elsewhere: WaitElsewhere
) -> None:
    ours, theirs = socket_pair()
    waiting = wait_elsewhere(None)
    for _ in range(ROUNDS):
        loop.register(ours, EPOLLIN)
        loop.modify(ours, EPOLLIN | EPOLLRDHUP)
        loop.unregister(ours)
    loop.register(ours, EPOLLIN)
    assert not waiting.done()
    theirs.send(b"x")
    assert waiting.result() == [(ours.fileno(), EPOLLIN)]


def test_close_does_not_end_the_wait(loop_type: Callable[[], EpollLike], socket_pair: MakePair) -> None:
    for attempt in range(ROUNDS):
        ours, theirs = socket_pair()
        loop = loop_type()
        loop.register(ours, EPOLLIN)
        with ThreadPoolExecutor(1) as pool:
            started = threading.Event()

            def wait(loop: EpollLike = loop, started: threading.Event = started) -> Events:
                started.set()
                return loop.poll(LONG)

            waiting = pool.submit(wait)
            started.wait()
            # Nothing tells that the kernel has begun to wait; a close that comes too early is
            # seen below, and the next attempt leaves more time, however slow the machine is.
            time.sleep(0.001 * 2 ** min(attempt, 10))
            loop.close()
            theirs.send(b"x")
            try:
                events = waiting.result()
            except (ValueError, OSError):
                continue  # it was closed before the wait had begun
        assert loop.closed
        assert events == [(ours.fileno(), EPOLLIN)]
        with pytest.raises(ValueError, match="closed"):
            loop.poll(0)
        return
    pytest.fail("no wait began before the loop was closed")


def test_many_threads_change_and_wait(loop: EpollLike, socket_pair: MakePair) -> None:
    """Each thread registers a socket of its own, waits until somebody is told of it, and unregisters it."""
    pairs = [socket_pair() for _ in range(4)]
    told = {ours.fileno(): threading.Event() for ours, _ in pairs}

    def work(ours: socket.socket, theirs: socket.socket) -> None:
        mine = told[ours.fileno()]
        for _ in range(100):
            loop.register(ours, EPOLLIN | EPOLLONESHOT)
            theirs.send(b"x")
            while not mine.is_set():
                for number, _ in loop.poll(0.01):
                    told[number].set()
            mine.clear()
            assert ours.recv(1) == b"x"
            loop.unregister(ours)

    with ThreadPoolExecutor(len(pairs)) as pool:
        for each in [pool.submit(work, *pair) for pair in pairs]:
            each.result()
