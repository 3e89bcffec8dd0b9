"""Timers that fire once: in order, never early, not after they have been cancelled."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable

import pytest
from uloop_reactor import Timer, Uloop


def run_for(loop: Uloop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def test_they_fire_in_the_order_of_their_times(loop: Uloop) -> None:
    fired: list[float] = []
    for delay in (0.03, 0.01, 0.02, 0):
        loop.call_later(delay, fired.append, delay)
    while len(fired) < 4:
        loop.run_once()
    assert fired == [0, 0.01, 0.02, 0.03]


def test_those_of_the_same_time_fire_in_the_order_they_were_made(loop: Uloop) -> None:
    fired: list[int] = []
    when = time.monotonic() + 0.01
    for number in range(10):
        loop.call_at(when, fired.append, number)
    while not fired:
        loop.run_once()
    assert fired == list(range(10))


def test_they_are_never_early(loop: Uloop) -> None:
    lateness: list[float] = []
    timers: list[Timer] = []

    def note(index: int) -> None:
        lateness.append(time.monotonic() - timers[index].when)

    for index, delay in enumerate((0, 0.0001, 0.0005, 0.001, 0.0015, 0.01, 0.0333)):
        timers.append(loop.call_later(delay, note, index))
    while len(lateness) < len(timers):
        loop.run_once()
    assert min(lateness) >= 0


def test_when_is_the_time_that_was_asked_for(loop: Uloop) -> None:
    when = time.monotonic() + 5
    assert loop.call_at(when, int).when == when
    before = time.monotonic()
    timer = loop.call_later(5, int)
    assert before + 5 <= timer.when <= time.monotonic() + 5


def test_arguments_are_passed(loop: Uloop) -> None:
    seen: list[tuple[object, ...]] = []
    loop.call_later(0, lambda *args: seen.append(args), 1, None, "three")
    loop.call_at(0, lambda *args: seen.append(args))
    loop.run_once()
    assert sorted(seen, key=len) == [(), (1, None, "three")]


def test_a_timer_that_has_fired_is_over(loop: Uloop) -> None:
    fired: list[int] = []
    timer = loop.call_later(0, fired.append, 1)
    assert timer.active
    loop.run_once()
    assert not timer.active
    timer.cancel()  # too late, and no harm
    loop.run_once(0)
    assert fired == [1]


def test_a_cancelled_one_does_not_fire(loop: Uloop) -> None:
    fired: list[str] = []
    cancelled = loop.call_later(0.01, fired.append, "cancelled")
    cancelled.cancel()
    cancelled.cancel()
    assert not cancelled.active
    loop.call_later(0.01, fired.append, "kept")
    while not fired:
        loop.run_once()
    run_for(loop, 0.02)
    assert fired == ["kept"]


@pytest.mark.parametrize("ahead", [0, 0.001])
def test_one_may_cancel_another_of_the_same_turn(ahead: float, loop: Uloop) -> None:
    fired: list[str] = []
    when = time.monotonic()

    def cancel_the_second() -> None:
        fired.append("first")
        second.cancel()

    loop.call_at(when - ahead, cancel_the_second)
    second = loop.call_at(when, fired.append, "second")
    loop.call_at(when, fired.append, "third")
    loop.run_once()
    assert fired == ["first", "third"]


def test_one_may_cancel_itself(loop: Uloop) -> None:
    fired: list[int] = []

    def cancel_itself() -> None:
        timer.cancel()
        fired.append(1)

    timer = loop.call_later(0, cancel_itself)
    loop.run_once()
    loop.run_once(0)
    assert fired == [1]


@pytest.mark.parametrize("delay", [0, -1, -1e9])
def test_no_delay_is_the_next_turn(delay: float, loop: Uloop) -> None:
    fired: list[int] = []
    loop.call_later(delay, fired.append, 1)
    assert fired == []
    loop.run_once()
    assert fired == [1]


@pytest.mark.parametrize("delay", [0, -1])
def test_what_a_timer_adds_waits_for_the_next_turn(delay: float, loop: Uloop) -> None:
    fired: list[int] = []

    def add_another() -> None:
        fired.append(len(fired))
        loop.call_later(delay, add_another)

    loop.call_later(0, add_another)
    for turn in range(1, 5):
        loop.run_once()
        assert len(fired) == turn


def test_what_a_timer_adds_does_not_keep_others_waiting(loop: Uloop) -> None:
    fired: list[str] = []

    def add_one_that_is_long_overdue() -> None:
        loop.call_at(0, add_one_that_is_long_overdue)

    loop.call_at(0, add_one_that_is_long_overdue)
    loop.call_later(0, fired.append, "the other")
    loop.run_once()
    assert fired == ["the other"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_time_must_be_finite(number: float, loop: Uloop) -> None:
    with pytest.raises(ValueError, match="finite"):
        loop.call_later(number, int)
    with pytest.raises(ValueError, match="finite"):
        loop.call_at(number, int)


@pytest.mark.parametrize("callback", [None, 5, "callback"])
def test_a_callback_must_be_callable(callback: Callable[[], object], loop: Uloop) -> None:
    for call in (loop.call_later, loop.call_at, loop.call_every):
        with pytest.raises(TypeError, match="callable"):
            call(1, callback)


@pytest.mark.parametrize("delay", ["1", None])
def test_a_delay_must_be_a_number(delay: float, loop: Uloop) -> None:
    for call in (loop.call_later, loop.call_at, loop.call_every):
        with pytest.raises(TypeError):
            call(delay, int)


class Callback:
    def __call__(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("end", ["cancelled", "fired", "closed"])
def test_a_timer_lets_go_of_its_callback(end: str, loop: Uloop) -> None:
    callback, argument = Callback(), Callback()
    references = [weakref.ref(callback), weakref.ref(argument)]
    timer = loop.call_later(0, callback, argument)
    del callback, argument
    assert all(reference() for reference in references)
    if end == "cancelled":
        timer.cancel()
    elif end == "fired":
        loop.run_once()
    else:
        loop.close()
    gc.collect()
    assert not any(reference() for reference in references)


def test_an_idle_loop_sleeps_until_the_next_timer(loop: Uloop) -> None:
    loop.timeout = 1000
    loop.call_later(0.1, loop.stop)
    loop.run()
    assert loop.stats().turns <= 3  # one would do, if all clocks were equally fine


def test_repr(loop: Uloop) -> None:
    timer = loop.call_later(5, int)
    assert repr(int) in repr(timer)
    assert f"{timer.when:.6f}" in repr(timer)
    assert "every 5" in repr(loop.call_every(5, int))
    timer.cancel()
    assert repr(timer) == "<Timer, over>"
