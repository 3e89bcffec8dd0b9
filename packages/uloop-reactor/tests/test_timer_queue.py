"""TimerQueue: the heap of timers by itself, without a loop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import pytest
from uloop_reactor.timers import TimerQueue

# Negative times are past on every machine: monotonic clocks start at 0 or later.


def call(callback: Callable[..., object], args: tuple[object, ...]) -> None:
    callback(*args)


def size(queue: TimerQueue) -> int:
    return len(queue.heap)


def test_an_empty_queue() -> None:
    queue = TimerQueue()
    assert queue.next_time() == math.inf
    queue.run_due(time.monotonic(), call)
    queue.clear()


def test_the_next_time_is_the_earliest_active_one() -> None:
    queue = TimerQueue()
    now = time.monotonic()
    timers = {delay: queue.add(now + delay, int) for delay in (300, 100, 200)}
    for delay in (100, 200, 300):
        assert queue.next_time() == now + delay
        timers[delay].cancel()
    assert queue.next_time() == math.inf


def test_what_is_not_due_stays() -> None:
    queue = TimerQueue()
    fired: list[str] = []
    now = time.monotonic()
    queue.add(now, fired.append, ("due",))
    queue.add(now + 1000, fired.append, ("not due",))
    queue.run_due(time.monotonic(), call)
    queue.run_due(time.monotonic(), call)
    assert fired == ["due"]
    assert queue.next_time() == now + 1000


def test_many_timers_fire_in_order() -> None:
    queue = TimerQueue()
    fired: list[int] = []
    numbers = list(range(1000))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        queue.add(number / 1e6 - 1, fired.append, (number,))
    queue.run_due(time.monotonic(), call)
    assert fired == sorted(numbers)
    assert size(queue) == 0


def test_timeouts_that_never_happen_leave_a_small_heap() -> None:
    queue = TimerQueue()
    far = time.monotonic() + 1000
    largest = 0
    for _ in range(100_000):
        queue.add(far, int).cancel()
        largest = max(largest, size(queue))
    assert largest < 1000


def test_timers_cancelled_all_at_once_leave_a_small_heap() -> None:
    queue = TimerQueue()
    far = time.monotonic() + 1000
    kept = queue.add(far, int)
    timers = [queue.add(far + number, int) for number in range(100_000)]
    for timer in timers:
        timer.cancel()
    assert size(queue) < 1000
    assert queue.next_time() == kept.when


def test_the_order_survives_the_husks() -> None:
    queue = TimerQueue()
    fired: list[int] = []
    numbers = list(range(10_000))
    rng = random.Random(3)
    rng.shuffle(numbers)
    timers = {number: queue.add(number / 1e6 - 1, fired.append, (number,)) for number in numbers}
    rng.shuffle(numbers)
    for number in numbers[1000:]:
        timers[number].cancel()
    assert size(queue) < 2500
    queue.run_due(time.monotonic(), call)
    assert fired == sorted(numbers[:1000])


def test_the_heap_may_be_built_anew_while_it_is_run() -> None:
    queue = TimerQueue()
    fired: list[int] = []
    timers = [queue.add(number / 1e6 - 1, fired.append, (number,)) for number in range(1000)]

    def cancel_most() -> None:
        for number, timer in enumerate(timers):
            if number % 10:
                timer.cancel()
        assert size(queue) < 1000

    queue.add(-2, cancel_most)
    queue.run_due(time.monotonic(), call)
    assert fired == list(range(0, 1000, 10))
    assert size(queue) == 0
    assert queue._husks == 0


def test_the_husks_are_counted_right() -> None:
    queue = TimerQueue()
    rng = random.Random(2)
    timers = [queue.add(rng.random() - 1, int) for _ in range(500)]
    timers += [queue.add_periodic(time.monotonic() + 1000, 1000.0, 0.0, int) for _ in range(500)]
    for timer in rng.sample(timers, 400):
        timer.cancel()
        timer.cancel()
    queue.run_due(time.monotonic(), call)
    assert queue._husks == sum(not timer.active for _, _, timer in queue.heap)
    for timer in timers:
        timer.cancel()
    assert queue._husks == size(queue) <= 200
    assert queue.next_time() == math.inf
    assert (size(queue), queue._husks) == (0, 0)


def test_clearing_cancels_all() -> None:
    queue = TimerQueue()
    fired: list[int] = []
    timers = [queue.add(0, fired.append, (number,)) for number in range(10)]
    timers[0].cancel()
    queue.clear()
    assert not any(timer.active for timer in timers)
    timers[1].cancel()
    assert (size(queue), queue._husks) == (0, 0)
    queue.run_due(time.monotonic(), call)
    assert fired == []


def test_a_callback_may_clear_the_queue() -> None:
    queue = TimerQueue()
    fired: list[int] = []
    queue.add(-2, queue.clear)
    queue.add_periodic(-2, 0.001, 0.0, queue.clear)
    queue.add(-1, fired.append, (1,))
    queue.run_due(time.monotonic(), call)
    assert fired == []
    assert size(queue) == 0


def test_what_a_callback_adds_waits_and_keeps_nobody_waiting() -> None:
    queue = TimerQueue()
    fired: list[str] = []
    queue.add(-2, lambda: queue.add(-3, fired.append, ("newcomer",)))
    queue.add(-1, fired.append, ("old",))
    queue.run_due(time.monotonic(), call)
    assert fired == ["old"]
    queue.run_due(time.monotonic(), call)
    assert fired == ["old", "newcomer"]


def test_what_raises_passes_and_loses_nothing() -> None:
    queue = TimerQueue()
    fired: list[int] = []

    def fail() -> None:
        raise KeyboardInterrupt

    queue.add_periodic(-2, 1000.0, 0.0, fail)
    queue.add(-1, fired.append, (1,))
    with pytest.raises(KeyboardInterrupt):
        queue.run_due(time.monotonic(), call)
    queue.run_due(time.monotonic(), call)
    assert fired == [1]
    assert size(queue) == 1  # the periodic one keeps its place


@pytest.mark.parametrize("period", [1e-9, 1e-300, 5e-324])
def test_the_smallest_periods(period: float) -> None:
    queue = TimerQueue()
    fired: list[int] = []
    queue.add_periodic(time.monotonic() - 1, period, 0.0, fired.append, (1,))
    for _ in range(3):
        queue.run_due(time.monotonic(), call)
    assert 1 <= len(fired) <= 3
    assert size(queue) == 1


@pytest.mark.parametrize("late", [0, 0.1, 1, 1000.3])
@pytest.mark.parametrize("period", [0.001, 0.1, 1 / 3, 7])
def test_a_late_tick_is_followed_by_the_next_one_of_the_grid(period: float, late: float) -> None:
    queue = TimerQueue()
    first = time.monotonic() - late
    timer = queue.add_periodic(first, period, 0.0, int)
    before = time.monotonic()
    queue.run_due(time.monotonic(), call)
    after = time.monotonic()
    assert before < timer.when <= after + period * 1.001
    ticks = (timer.when - first) / period
    assert ticks == pytest.approx(round(ticks), abs=1e-3)
