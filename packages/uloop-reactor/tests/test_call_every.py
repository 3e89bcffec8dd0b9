"""Timers that fire again and again: on the grid of their first time, whatever the callbacks cost."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from uloop_reactor import Timer, Uloop

PERIOD = 0.005


@dataclass
class Ticks:
    """Notes every call: when it was, and which tick of the grid the next one will be."""

    loop: Uloop
    work: float = 0.0  # seconds that each call takes
    called: list[float] = field(default_factory=list)
    scheduled: list[float] = field(default_factory=list)

    def start(self, period: float = PERIOD) -> Timer:
        self.timer = self.loop.call_every(period, self.tick)
        self.scheduled.append(self.timer.when)
        return self.timer

    def tick(self) -> None:
        self.called.append(time.monotonic())
        self.scheduled.append(self.timer.when)
        time.sleep(self.work)

    def grid(self) -> list[int]:
        """The number of each tick, which must be a whole one."""
        numbers = [(when - self.scheduled[0]) / PERIOD for when in self.scheduled]
        assert numbers == pytest.approx([round(number) for number in numbers], abs=1e-3)
        return [round(number) for number in numbers]


def run_until(ticks: Ticks, calls: int) -> None:
    while len(ticks.called) < calls:
        ticks.loop.run_once()


def test_the_first_call_comes_after_one_period(loop: Uloop) -> None:
    ticks = Ticks(loop)
    started = time.monotonic()
    ticks.start()
    run_until(ticks, 1)
    assert ticks.called[0] - started >= PERIOD - 1e-6  # but for the rounding of floats


def test_no_call_is_early(loop: Uloop) -> None:
    ticks = Ticks(loop)
    ticks.start()
    run_until(ticks, 20)
    for called, scheduled in zip(ticks.called, ticks.scheduled, strict=False):
        assert called >= scheduled


@pytest.mark.parametrize("work", [0, 0.5 * PERIOD, 1.5 * PERIOD])
def test_it_does_not_drift(work: float, loop: Uloop) -> None:
    ticks = Ticks(loop, work)
    ticks.start()
    run_until(ticks, 10)
    grid = ticks.grid()
    assert grid[0] == 0
    assert all(earlier < later for earlier, later in pairwise(grid))


def test_missed_ticks_are_skipped(loop: Uloop) -> None:
    ticks = Ticks(loop, work=10 * PERIOD)
    ticks.start()
    run_until(ticks, 1)
    ticks.work = 0
    run_until(ticks, 3)
    # The second tick was set before the long call, and is late. The next one lies ahead of it.
    first, second, third, *_ = ticks.grid()
    assert first == 0
    assert third - second > 5
    assert ticks.called[2] >= ticks.scheduled[2]


def test_ticks_missed_before_the_loop_runs_are_skipped(loop: Uloop) -> None:
    ticks = Ticks(loop)
    ticks.start()
    time.sleep(10 * PERIOD)
    run_until(ticks, 2)
    assert ticks.grid()[1] > 5


def test_arguments_are_passed_each_time(loop: Uloop) -> None:
    seen: list[tuple[object, ...]] = []
    loop.call_every(0.001, lambda *args: seen.append(args), 1, "two")
    while len(seen) < 3:
        loop.run_once()
    assert seen == [(1, "two")] * 3


def test_it_may_cancel_itself(loop: Uloop) -> None:
    fired: list[int] = []

    def tick() -> None:
        fired.append(1)
        if len(fired) == 3:
            timer.cancel()

    timer = loop.call_every(0.001, tick)
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert len(fired) == 3
    assert not timer.active


def test_a_cancelled_one_does_not_fire(loop: Uloop) -> None:
    fired: list[int] = []
    timer = loop.call_every(0.001, fired.append, 1)
    timer.cancel()
    timer.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert fired == []


def test_a_short_period_leaves_room_for_others(loop: Uloop) -> None:
    counted = {"tick": 0, "turn": 0}

    def count(what: str) -> None:
        counted[what] += 1

    loop.call_every(1e-9, count, "tick")
    for _ in range(50):
        loop.call_soon(count, "turn")
        loop.run_once()
    assert counted["turn"] == 50
    assert 1 <= counted["tick"] <= 50


@pytest.mark.parametrize("period", [0, -1, math.nan, math.inf, -math.inf])
def test_a_period_must_be_positive_and_finite(period: float, loop: Uloop) -> None:
    with pytest.raises(ValueError, match=r"finite|positive"):
        loop.call_every(period, int)


def test_the_first_call_when_it_is_asked_for(virtual_uloop: Uloop) -> None:
    called: list[float] = []
    for first in (0, 0.5, 7):
        start = virtual_uloop.time()
        called.clear()
        timer = virtual_uloop.call_every(2, lambda: called.append(virtual_uloop.time()), first=first)
        while len(called) < 3:
            virtual_uloop.run_once()
        timer.cancel()
        assert called == pytest.approx([start + first + 2 * tick for tick in range(3)], abs=1e-9)


def test_jitter_moves_the_calls_and_not_the_grid(virtual_uloop: Uloop) -> None:
    called: list[float] = []
    virtual_uloop.call_every(10, lambda: called.append(virtual_uloop.time()), jitter=4)
    while len(called) < 50:
        virtual_uloop.run_once()
    late = [called[tick] - 10 * (tick + 1) for tick in range(50)]
    assert all(0 <= seconds <= 4 for seconds in late)
    assert len(set(late)) > 40
    assert max(late) - min(late) > 1


@pytest.mark.parametrize("jitter", [-1, 2.5, math.nan, math.inf])
def test_a_jitter_that_does_not_fit_the_period(jitter: float, loop: Uloop) -> None:
    with pytest.raises(ValueError, match="jitter must be from 0 to the period of 2 seconds"):
        loop.call_every(2, int, jitter=jitter)


def test_a_periodic_call_that_is_put_off_goes_on_from_there(virtual_uloop: Uloop) -> None:
    called: list[float] = []
    timer = virtual_uloop.call_every(10, lambda: called.append(virtual_uloop.time()))
    timer.reschedule(17)
    while len(called) < 2:
        virtual_uloop.run_once()
    timer.reschedule(30)
    while len(called) < 4:
        virtual_uloop.run_once()
    assert called == [17, 27, 30, 40]
