"""Signals: their handlers run while the loop sleeps, and may stop it or leave it something to do.

The signals are raised by another thread. So the loop's call is not interrupted, which would
wake it by chance; and Windows has no other way to send a process one that it can handle.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from uloop_reactor import Uloop

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture(autouse=True)
def nothing_ends_a_wait_by_itself(loop: Uloop) -> None:
    loop.timeout = 1000


@contextmanager
def handling(number: signal.Signals, function: Callable[[], object]) -> Iterator[None]:
    previous = signal.signal(number, lambda *_: function())
    try:
        yield
    finally:
        signal.signal(number, previous)


def raise_from_a_thread(number: signal.Signals, seconds: float) -> threading.Thread:
    return threading.Timer(seconds, signal.raise_signal, [number])


def wakeup_fd() -> int:
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_a_signal_handler_may_stop_a_sleeping_loop(seconds: float, loop: Uloop) -> None:
    with handling(signal.SIGTERM, loop.stop):
        for _ in range(3):
            thread = raise_from_a_thread(signal.SIGTERM, seconds)
            loop.call_soon(thread.start)
            loop.run()
            thread.join()


def test_a_signal_handler_may_stop_a_loop_that_is_awake(loop: Uloop) -> None:
    with handling(signal.SIGTERM, loop.stop):
        loop.call_soon(signal.raise_signal, signal.SIGTERM)
        loop.run()


def test_a_signal_handler_may_leave_the_loop_something_to_do(loop: Uloop) -> None:
    with handling(signal.SIGTERM, lambda: loop.call_threadsafe(loop.stop)):
        thread = raise_from_a_thread(signal.SIGTERM, 0.02)
        loop.call_soon(thread.start)
        loop.run()
        thread.join()


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_an_interrupt_ends_a_sleeping_loop(seconds: float, loop: Uloop) -> None:
    called: list[int] = []
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(3):
            thread = raise_from_a_thread(signal.SIGINT, seconds)
            loop.call_soon(thread.start)
            with pytest.raises(KeyboardInterrupt):
                loop.run()
            thread.join()
    finally:
        signal.signal(signal.SIGINT, previous)
    loop.call_soon(called.append, 1)
    loop.call_soon(loop.stop)
    loop.run()
    assert called == [1]


def test_the_wakeup_descriptor_is_the_loops_only_while_it_runs(loop: Uloop) -> None:
    seen: list[int] = []
    assert wakeup_fd() == -1
    loop.call_soon(lambda: seen.append(wakeup_fd()))
    loop.call_soon(loop.stop)
    loop.run()
    assert seen[0] != -1
    assert wakeup_fd() == -1


@pytest.mark.parametrize("end", ["stop", "exception", "close"])
def test_the_wakeup_descriptor_that_was_there_is_restored(end: str, loop: Uloop, make_pair: MakePair) -> None:
    _, theirs = make_pair()

    def interrupt() -> None:
        raise KeyboardInterrupt

    ends: dict[str, Callable[[], None]] = {"stop": loop.stop, "exception": interrupt, "close": loop.close}
    assert signal.set_wakeup_fd(theirs.fileno()) == -1
    try:
        loop.call_soon(ends[end])
        if end == "exception":
            with pytest.raises(KeyboardInterrupt):
                loop.run()
        else:
            loop.run()
    finally:
        restored = signal.set_wakeup_fd(-1)
    assert restored == theirs.fileno()


def test_a_refused_run_leaves_the_wakeup_descriptor_alone(loop: Uloop) -> None:
    seen: list[int] = []

    def run_again() -> None:
        before = wakeup_fd()
        with pytest.raises(RuntimeError):
            loop.run()
        seen.extend([before, wakeup_fd()])

    loop.call_soon(run_again)
    loop.call_soon(loop.stop)
    loop.run()
    before, after = seen
    assert before == after != -1


def test_a_loop_inside_another_gives_the_signals_back(loop: Uloop) -> None:
    with Uloop(loop.backend) as inner, handling(signal.SIGTERM, loop.stop):
        inner.call_soon(inner.stop)
        loop.call_soon(inner.run)
        thread = raise_from_a_thread(signal.SIGTERM, 0.02)
        loop.call_soon(thread.start)
        loop.run()
        thread.join()


def test_a_loop_of_another_thread_leaves_signals_alone(loop: Uloop) -> None:
    running = threading.Event()
    thread = threading.Thread(target=loop.run)
    loop.call_soon(running.set)
    thread.start()
    assert running.wait(30)
    try:
        assert wakeup_fd() == -1  # Python's signal handlers run in the main thread
    finally:
        loop.stop()
        thread.join()


def test_many_signals_do_no_harm(loop: Uloop) -> None:
    called: list[int] = []

    def count() -> None:
        called.append(1)
        if len(called) < 500:
            loop.call_soon(signal.raise_signal, signal.SIGTERM)
        else:
            loop.stop()

    with handling(signal.SIGTERM, count):
        loop.call_soon(signal.raise_signal, signal.SIGTERM)
        loop.run()
    assert len(called) == 500
