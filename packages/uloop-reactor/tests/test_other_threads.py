"""Other threads: call_threadsafe from many of them, and loops that run in one."""

from __future__ import annotations

import queue
import select
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.waker import Waker


@pytest.fixture(autouse=True)
def nothing_ends_a_wait_by_itself(loop: Uloop) -> None:
    loop.timeout = 1000


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


def test_a_sleeping_loop_is_woken(loop: Uloop) -> None:
    called: list[str] = []

    def call() -> None:
        loop.call_threadsafe(called.append, "first")
        loop.call_threadsafe(called.append, "second")
        loop.call_threadsafe(loop.stop)

    thread = threading.Timer(0.05, call)
    thread.start()
    loop.run()
    thread.join()
    assert called == ["first", "second"]


def test_callbacks_run_in_the_thread_of_the_loop(loop: Uloop) -> None:
    seen: list[threading.Thread] = []
    thread = threading.Thread(
        target=loop.call_threadsafe, args=[lambda: seen.append(threading.current_thread())]
    )
    thread.start()
    while not seen:
        loop.run_once()
    thread.join()
    assert seen == [threading.current_thread()]


def test_every_call_of_every_thread_runs_once_and_in_order(loop: Uloop) -> None:
    called: dict[int, list[int]] = {thread: [] for thread in range(8)}
    done: list[int] = []

    def finish(thread: int) -> None:
        done.append(thread)
        if len(done) == 8:
            loop.stop()

    def call(thread: int) -> None:
        for number in range(1000):
            loop.call_threadsafe(called[thread].append, number)
        loop.call_threadsafe(finish, thread)

    threads = [threading.Thread(target=call, args=[number]) for number in range(8)]
    for thread in threads:
        loop.call_soon(thread.start)
    loop.run()
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(1000)) for numbers in called.values())


def test_no_wake_is_lost(loop: Uloop) -> None:
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()
    received: list[int] = []

    def ask() -> None:
        for number in range(1000):  # by the time of the next one, the loop is about to sleep
            loop.call_threadsafe(answers.put, number)
            received.append(answers.get(timeout=30))
        loop.call_threadsafe(loop.stop)

    thread = threading.Thread(target=ask)
    loop.call_soon(thread.start)
    loop.run()
    thread.join()
    assert received == list(range(1000))


def test_a_loop_runs_in_any_thread(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sock = make_readable()
    events: list[UEvent] = []

    def receive(fileno: int, event: UEvent) -> None:
        events.append(event)
        loop.stop()

    loop.add(sock, UEvent.poll_in, Handler(receive))
    for calls in (1, 2):
        thread = threading.Thread(target=loop.run)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert events == [UEvent.poll_in] * calls


def test_loops_of_two_threads_talk_to_each_other(loop: Uloop) -> None:
    heard: list[int] = []
    with Uloop(loop.backend) as other:
        other.timeout = 1000

        def ping(number: int) -> None:
            heard.append(number)
            if number < 200:
                other.call_threadsafe(pong, number + 1)
            else:
                other.stop()
                loop.stop()

        def pong(number: int) -> None:
            heard.append(number)
            loop.call_threadsafe(ping, number + 1)

        thread = threading.Thread(target=other.run)
        thread.start()
        loop.call_soon(ping, 0)
        loop.run()
        thread.join()
    assert heard == list(range(201))


def test_a_waker_takes_any_number_of_wakes(loop: Uloop) -> None:
    waker = Waker()
    for _ in range(100):
        waker.wake()
    if sys.platform != "win32":
        waker.process_event(waker.fileno(), UEvent.poll_in)  # takes all at once
        assert not select.select([waker], [], [], 0)[0]
    for _ in range(2):
        for _ in range(20_000):  # more than there is room for, which must not block either
            waker.wake()
        assert select.select([waker], [], [], 30)[0]
        # What is on its way may arrive after the first look, as a socket pair is TCP on Windows.
        while select.select([waker], [], [], 0.01)[0]:
            waker.process_event(waker.fileno(), UEvent.poll_in)
    waker.process_event(waker.fileno(), UEvent.poll_in)  # nothing there, and no harm
    waker.close()
    waker.wake()  # nobody there, and no harm
    waker.close()
