"""stop(): from wherever it is called, run() ends after the turn, and may be called again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from uloop_reactor import UEvent, Uloop

MakeReadable = Callable[[], socket.socket]


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@pytest.fixture(autouse=True)
def nothing_ends_a_wait_by_itself(loop: Uloop) -> None:
    loop.timeout = 1000


def from_a_handler(loop: Uloop, make_readable: MakeReadable) -> None:
    def read_and_stop(fileno: int, event: UEvent) -> None:
        sock.recv(100)
        loop.remove(sock)
        loop.stop()

    sock = make_readable()
    loop.add(sock, UEvent.poll_in, Handler(read_and_stop))


def from_a_timer(loop: Uloop, make_readable: MakeReadable) -> None:
    loop.call_later(0.01, loop.stop)


def from_a_callback(loop: Uloop, make_readable: MakeReadable) -> None:
    loop.call_soon(loop.stop)


def from_a_periodic_callback(loop: Uloop, make_readable: MakeReadable) -> None:
    def stop() -> None:
        loop.remove_periodic(stop)
        loop.timeout = 1000
        loop.stop()

    loop.timeout = 0.01
    loop.add_periodic(stop)


def from_a_thread_at_once(loop: Uloop, make_readable: MakeReadable) -> None:
    threading.Thread(target=loop.stop).start()


def from_a_thread_when_it_sleeps(loop: Uloop, make_readable: MakeReadable) -> None:
    threading.Timer(0.02, loop.stop).start()


PLACES = [
    from_a_handler,
    from_a_timer,
    from_a_callback,
    from_a_periodic_callback,
    from_a_thread_at_once,
    from_a_thread_when_it_sleeps,
]


@pytest.mark.parametrize("place", PLACES)
def test_it_ends_run_each_time(
    place: Callable[[Uloop, MakeReadable], None], loop: Uloop, make_readable: MakeReadable
) -> None:
    for _ in range(3):
        place(loop, make_readable)
        loop.run()


def test_no_stop_of_a_thread_is_lost(loop: Uloop) -> None:
    for _ in range(300):
        thread = threading.Thread(target=loop.stop)
        loop.call_soon(thread.start)
        loop.run()  # the thread stops it before it sleeps, when it sleeps, or in between
        thread.join()


def test_before_run_it_makes_run_return_at_once(loop: Uloop) -> None:
    called: list[int] = []
    loop.call_soon(called.append, 1)
    loop.stop()
    loop.stop()
    loop.run()
    assert called == []
    loop.call_soon(loop.stop)  # and that is all it does: the next run is a run again
    loop.run()
    assert called == [1]


def test_the_turn_is_completed(loop: Uloop, make_readable: MakeReadable) -> None:
    called: list[str] = []

    def stop(fileno: int, event: UEvent) -> None:
        called.append("handler")
        loop.call_soon(called.append, "callback")
        loop.stop()

    for _ in range(2):
        loop.add(make_readable(), UEvent.poll_in, Handler(stop))
    loop.call_later(0, called.append, "timer")
    loop.run()
    assert called == ["handler", "handler", "timer", "callback", "callback"]


def test_what_is_left_is_done_by_the_next_run(loop: Uloop) -> None:
    called: list[int] = []

    def stop_and_put_off() -> None:
        loop.stop()
        loop.call_soon(called.append, 1)
        loop.call_soon(loop.stop)

    loop.call_soon(stop_and_put_off)
    loop.run()
    assert called == []
    loop.run()
    assert called == [1]


def test_run_once_does_not_wait_when_stopped(loop: Uloop) -> None:
    loop.stop()
    loop.run_once(1000)
    loop.call_soon(loop.stop)
    loop.run_once(1000)
    called: list[int] = []
    loop.call_soon(called.append, 1)
    loop.call_soon(loop.stop)
    loop.run()  # the stop before was for the run_once before
    assert called == [1]


def test_another_thread_ends_the_wait_of_run_once(loop: Uloop) -> None:
    threading.Timer(0.02, loop.stop).start()
    loop.run_once()


def test_a_loop_does_not_run_inside_itself(loop: Uloop) -> None:
    called: list[str] = []

    def run_again() -> None:
        with pytest.raises(RuntimeError, match="runs already"):
            loop.run()
        called.append("run")
        with pytest.raises(RuntimeError, match="runs already"):
            loop.run_once()
        called.append("run_once")

    loop.call_soon(run_again)
    loop.call_later(0.01, called.append, "still running")
    loop.call_later(0.02, loop.stop)
    loop.run()
    loop.call_soon(run_again)
    loop.run_once()
    assert called == ["run", "run_once", "still running", "run", "run_once"]


def test_a_loop_may_run_inside_another(loop: Uloop) -> None:
    called: list[str] = []
    with Uloop(loop.backend) as inner:
        inner.call_soon(called.append, "inner")
        inner.call_soon(inner.stop)
        loop.call_soon(inner.run)
        loop.call_soon(called.append, "outer")
        loop.call_soon(loop.stop)
        loop.run()
    assert called == ["inner", "outer"]
