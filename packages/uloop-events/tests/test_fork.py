"""The child of a fork and its parent do not get in each other's way."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike, KqueueLoop
from uloop_events.interest import UserSpaceLoop

if sys.platform == "win32":
    pytest.skip("Windows has no fork", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]
WAIT = 0.05  # seconds; a loop that spins uses them all

# Python warns of a fork in a process with threads, which is what some of this is about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def succeeds_in_a_child(do: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return status == 0


def test_a_child_goes_on_with_the_loop(
    user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    if isinstance(user_space_loop, KqueueLoop):
        pytest.skip("a kqueue is not inherited by fork")
    ours, theirs = socket_pair()
    user_space_loop.register(ours, EPOLLIN)

    def go_on() -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(user_space_loop.poll, 30)
            user_space_loop.modify(ours, EPOLLOUT)
            assert waiting.result() == [(ours.fileno(), EPOLLOUT)]
        user_space_loop.close()

    assert succeeds_in_a_child(go_on)
    theirs.send(b"x")
    assert user_space_loop.poll(5) == [(ours.fileno(), EPOLLIN)]


def test_a_child_is_not_held_up_by_a_lock_that_a_thread_of_the_parent_held(
    user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    assert isinstance(user_space_loop, UserSpaceLoop)
    user_space_loop.register(ours, EPOLLIN)
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with user_space_loop._lock:
            is_held.set()
            may_go.wait()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        is_held.wait()
        try:
            assert succeeds_in_a_child(user_space_loop.close)
        finally:
            may_go.set()


def test_what_a_child_does_keeps_no_thread_of_the_parent_busy(
    user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    used: list[float] = []

    def wait() -> list[tuple[int, int]]:
        started.set()
        start = time.thread_time()
        events = user_space_loop.poll(10 * WAIT)
        used.append(time.thread_time() - start)
        return events

    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()
        waiting = pool.submit(wait)
        started.wait()
        assert succeeds_in_a_child(user_space_loop.close)
        assert waiting.result() == []
    assert used[0] < WAIT, "seconds of processor time"
    user_space_loop.register(ours, EPOLLOUT)
    assert user_space_loop.poll(5) == [(ours.fileno(), EPOLLOUT)]
