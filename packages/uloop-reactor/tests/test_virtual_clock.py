"""VirtualClock: time jumps to the next timer when there is nothing to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.testing import VirtualClock

HOUR = 3600.0


def test_a_timeout_of_hours_takes_no_time(virtual_uloop: Uloop, virtual_clock: VirtualClock) -> None:
    called: list[float] = []
    virtual_uloop.call_later(HOUR, lambda: called.append(virtual_uloop.time()))
    virtual_uloop.call_later(3 * HOUR, virtual_uloop.stop)
    virtual_uloop.run()
    assert called == [HOUR]
    assert virtual_clock.time() == 3 * HOUR


def test_a_periodic_callback_keeps_its_grid() -> None:
    clock = VirtualClock(start=0.1, patience=0)
    ticks: list[float] = []
    with Uloop(clock=clock) as loop:
        loop.call_every(0.1, lambda: ticks.append(loop.time()))
        loop.call_later(1000 * 0.1 + 0.05, loop.stop)
        loop.run()
    assert len(ticks) == 1000
    assert ticks == pytest.approx([0.2 + 0.1 * number for number in range(1000)])


def test_time_does_not_jump_over_io(
    virtual_uloop: Uloop, make_pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    ours, theirs = make_pair()
    seen: list[tuple[str, float]] = []

    class Reader:
        def process_event(self, fileno: int, event: UEvent) -> None:
            seen.append((ours.recv(10).decode(), virtual_uloop.time()))

    virtual_uloop.add(ours, UEvent.poll_in, Reader())
    virtual_uloop.call_later(HOUR, theirs.send, b"one")
    virtual_uloop.call_later(2 * HOUR, theirs.send, b"two")
    virtual_uloop.call_later(3 * HOUR, virtual_uloop.stop)
    virtual_uloop.run()
    assert seen == [("one", HOUR), ("two", 2 * HOUR)]


def test_a_thread_wakes_a_loop_whose_time_jumps(virtual_uloop: Uloop) -> None:
    done: list[int] = []

    def finish(future: Future[int]) -> None:
        done.append(future.result())
        virtual_uloop.stop()

    virtual_uloop.run_in_thread(lambda: 7, done=finish)
    virtual_uloop.run()
    assert done == [7]


def test_time_stands_still_for_a_thread(virtual_uloop: Uloop, virtual_clock: VirtualClock) -> None:
    """As long as that is no matter of seconds."""
    go = threading.Event()

    def finish(future: Future[bool]) -> None:
        assert future.result()
        virtual_uloop.stop()

    virtual_uloop.call_later(HOUR, pytest.fail, "an hour has passed")
    virtual_uloop.run_in_thread(go.wait, 30, done=finish)
    virtual_uloop.call_soon(threading.Timer(0.05, go.set).start)
    virtual_uloop.run()
    assert virtual_clock.time() == 0


def test_time_passes_by_hand() -> None:
    clock = VirtualClock(start=5.0)
    called: list[int] = []
    with Uloop(clock=clock) as loop:
        loop.call_later(10, called.append, 1)
        clock.advance(9.5)
        loop.run_once(0)
        assert called == []
        clock.advance(0.5)
        loop.run_once(0)
        assert called == [1]
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_what_is_too_small_to_change_the_time_passes_anyway() -> None:
    clock = VirtualClock(start=1e9, patience=0)
    called: list[int] = []
    with Uloop(clock=clock) as loop:
        loop.call_at(1e9 + 1e-6, called.append, 1)
        loop.call_at(1e9 + 1e-6, loop.stop)
        loop.run()
    assert called == [1]
