"""Timer.reschedule: put off, brought forward, again and again."""

from __future__ import annotations

import math
import random

import pytest
from uloop_reactor import Uloop


def test_put_off_and_brought_forward(virtual_uloop: Uloop) -> None:
    called: list[tuple[str, float]] = []

    def note(name: str) -> None:
        called.append((name, virtual_uloop.time()))

    later = virtual_uloop.call_later(10, note, "later")
    sooner = virtual_uloop.call_later(20, note, "sooner")
    later.reschedule(30)
    sooner.reschedule(5)
    assert (later.when, sooner.when) == (30, 5)
    virtual_uloop.call_later(40, virtual_uloop.stop)
    virtual_uloop.run()
    assert called == [("sooner", 5), ("later", 30)]


def test_to_the_past_is_the_next_turn(virtual_uloop: Uloop) -> None:
    called: list[float] = []
    timer = virtual_uloop.call_later(10, lambda: called.append(virtual_uloop.time()))
    timer.reschedule(-5)
    virtual_uloop.run_once()
    assert called == [0]


def test_one_that_is_over_says_so(virtual_uloop: Uloop) -> None:
    fired, cancelled = virtual_uloop.call_later(1, int), virtual_uloop.call_later(5, int)
    cancelled.cancel()
    while fired.active:
        virtual_uloop.run_once()
    for timer in (fired, cancelled):
        with pytest.raises(RuntimeError, match="over"):
            timer.reschedule(10)


@pytest.mark.parametrize("when", [math.nan, math.inf])
def test_times_that_never_come(when: float, loop: Uloop) -> None:
    timer = loop.call_later(10, int)
    before = timer.when
    with pytest.raises(ValueError, match="finite"):
        timer.reschedule(when)
    assert timer.when == before


def test_a_timeout_that_is_put_off_by_every_packet(virtual_uloop: Uloop) -> None:
    called: list[float] = []
    timeout = virtual_uloop.call_later(10, lambda: called.append(virtual_uloop.time()))

    def packet() -> None:
        if timeout.active:
            timeout.reschedule(virtual_uloop.time() + 10)

    virtual_uloop.call_every(1, packet)
    virtual_uloop.call_later(100.5, timeout.cancel)
    virtual_uloop.call_later(120, virtual_uloop.stop)
    virtual_uloop.run()
    assert called == []


def test_by_chance_against_a_plain_list(virtual_uloop: Uloop) -> None:
    rng = random.Random(7)
    fired: list[tuple[float, int]] = []

    def fire(number: int) -> None:
        fired.append((virtual_uloop.time(), number))

    timers = [virtual_uloop.call_at(rng.randrange(100), fire, number) for number in range(2000)]
    for timer in rng.choices(timers, k=5000):
        if timer.active:
            if rng.random() < 0.2:
                timer.cancel()
            else:
                timer.reschedule(rng.randrange(100))
    expected = {(timer.when, number) for number, timer in enumerate(timers) if timer.active}
    assert virtual_uloop.stats().timers == len(expected)
    virtual_uloop.call_at(101, virtual_uloop.stop)
    virtual_uloop.run()
    assert len(fired) == len(expected)
    assert set(fired) == expected
    assert [when for when, _ in fired] == sorted(when for when, _ in fired)
    assert virtual_uloop.stats().timers == 0
