"""Several threads on one loop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]
THREADS = 4
POLLS = 50
ROUNDS = 10
CHANGING_POLLS = 2000


@pytest.fixture
def nervous_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that what can go wrong between them does."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_several_threads_may_poll_at_once(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)

    def poll_often() -> list[list[tuple[int, int]]]:
        return [loop.poll(0.001) for _ in range(POLLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        idle = [pool.submit(poll_often) for _ in range(THREADS)]
        assert all(events == [] for each in idle for events in each.result())
        theirs.send(b"x")
        assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
        busy = [pool.submit(poll_often) for _ in range(THREADS)]
        for each in busy:
            assert all(events == [(ours.fileno(), EPOLLIN)] for events in each.result())


@pytest.mark.usefixtures("nervous_threads")
def test_a_oneshot_is_reported_to_one_of_several_threads(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLONESHOT)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(ROUNDS):
            polling = [pool.submit(loop.poll, 0.03) for _ in range(THREADS)]
            theirs.send(b"x")
            reports = [event for each in polling for event in each.result()]
            reports = reports or loop.poll(5)  # the threads may all have been too early
            assert reports == [(ours.fileno(), EPOLLIN)]
            ours.recv(1)
            loop.modify(ours, EPOLLIN | EPOLLONESHOT)


@pytest.mark.usefixtures("nervous_threads")
def test_the_table_may_change_while_another_thread_polls(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    steady, steady_peer = socket_pair()
    steady_peer.send(b"x")
    loop.register(steady, EPOLLIN)
    assert loop.poll(5) == [(steady.fileno(), EPOLLIN)]
    changing = [socket_pair()[0] for _ in range(30)]
    numbers = {each.fileno() for each in changing}

    def poll_often() -> None:
        for _ in range(CHANGING_POLLS):
            events = dict(loop.poll(1))
            assert events.pop(steady.fileno()) == EPOLLIN
            assert set(events) <= numbers
            assert set(events.values()) <= {EPOLLOUT}

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll_often)
        while not polling.done():
            for each in changing:
                loop.register(each, EPOLLOUT)
            for each in changing:
                loop.unregister(each)
        polling.result()
