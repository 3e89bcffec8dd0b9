"""The bucket of answers that each source has. The time is given, so nothing here waits."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from uloop_servers.guard import SOURCES, RateLimit

SOURCE = b"\x7f\0\0\x01"


def answers(limit: RateLimit, now: float, *, most: int = 1000, source: bytes = SOURCE) -> int:
    """How many answers the source gets at this moment."""
    taken = 0
    while taken < most and limit.take(source, now):
        taken += 1
    return taken


def forged(count: int, first: int = 0) -> Iterator[bytes]:
    return (number.to_bytes(8) for number in range(first, first + count))


@pytest.mark.parametrize("rate", [0.001, 0.3, 1.0, 3.0, 7.0, 1000.0])
@pytest.mark.parametrize("burst", [1, 2, 60, 1000])
@pytest.mark.parametrize("now", [0.0, 1.7, 1e6, 1e8 / 3])
def test_a_burst_and_then_the_rate(rate: float, burst: int, now: float) -> None:
    limit = RateLimit(rate, burst)
    assert answers(limit, now, most=2000) == burst
    for number in range(1, 100):  # also where the sums are not exact
        assert answers(limit, now + (number - 0.5) / rate) == 0
        assert answers(limit, now + number / rate) == 1


def test_what_is_refused_costs_nothing() -> None:
    """Who goes on asking beyond the limit waits no longer than who stops."""
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    for step in range(900):
        assert not limit.take(SOURCE, step / 1000)
    assert limit.take(SOURCE, 1.0)


def test_none_is_answered_while_a_source_is_over_its_share() -> None:
    """There is no leak, or a loop would live on it."""
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    assert answers(limit, 0.9) == 0
    assert not any(limit.take(SOURCE, 0.9) for _ in range(100_000))


def test_a_bucket_does_not_overflow() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    assert answers(limit, 1e6) == 60


def test_each_source_has_a_bucket_of_its_own() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    assert answers(limit, 0.0, source=b"other") == 60


def test_a_flood_of_forged_sources_is_bounded_and_refuses_nobody() -> None:
    limit = RateLimit(1, 1)
    for source in forged(5 * SOURCES):
        assert limit.take(source, 0.0), "new, so its bucket is full"
        assert len(limit) <= 2 * SOURCES
    assert len(limit) >= SOURCES


def test_who_keeps_asking_is_not_forgotten_in_a_flood() -> None:
    """Or a flood would set a loop free that the limit has ended, or is to end."""
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    for number, source in enumerate(forged(5 * SOURCES)):
        limit.take(source, 0.0)
        if number % (SOURCES // 2) == 0:
            assert not limit.take(SOURCE, 0.0), "refused, and remembered for asking"
    assert answers(limit, 1.0) == 1


def test_who_is_silent_in_a_flood_is_forgotten() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    for source in forged(2 * SOURCES):
        limit.take(source, 0.0)
    assert answers(limit, 0.0) == 60


def test_what_was_taken_stays_taken_when_the_rate_changes() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 100.0, most=50) == 50
    limit.change(10, 60)
    assert answers(limit, 100.0) == 10
    assert answers(limit, 100.1) == 1
    limit.change(0.1, 60)
    assert answers(limit, 109.0) == 0
    assert answers(limit, 110.2) == 1


def test_a_bucket_that_shrinks_is_empty_at_worst() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    limit.change(1, 5)
    assert answers(limit, 0.0) == 0
    assert answers(limit, 1.0) == 1
    assert answers(limit, 100.0) == 5


def test_a_bucket_that_grows_has_the_room_at_once() -> None:
    limit = RateLimit(1, 5)
    assert answers(limit, 0.0) == 5
    limit.change(1, 60)
    assert answers(limit, 0.0) == 55


def test_a_change_reaches_those_of_the_old_generation() -> None:
    limit = RateLimit(1, 60)
    assert answers(limit, 0.0) == 60
    for source in forged(SOURCES):
        limit.take(source, 0.0)
    limit.change(2, 60)
    assert answers(limit, 0.25) == 0
    assert answers(limit, 0.5) == 1


class Bucket:
    """What a source may have, in exact arithmetic."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate, self.burst = Fraction(rate), burst
        self.level = Fraction(burst)
        self.now = Fraction(now)

    def wait_until(self, now: float) -> None:
        self.level = min(self.level + (Fraction(now) - self.now) * self.rate, Fraction(self.burst))
        self.now = Fraction(now)

    def change(self, rate: float, burst: int) -> None:
        self.level = max(burst - (self.burst - self.level), Fraction(0))
        self.rate, self.burst = Fraction(rate), burst


def test_it_does_the_same_as_exact_arithmetic() -> None:
    pytest.importorskip("hypothesis", reason="the times are made up by Hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    doubt = Fraction(1, 500)  # of an answer: what rounding, and what is done about it, may make of it
    rates = st.tuples(st.floats(0.01, 1000), st.integers(1, 100))
    #: the pause before the next question, in units of what an answer takes to fill in; or another rate
    steps = st.lists(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 1000.0]) | rates, max_size=200)

    @settings(deadline=None)
    @given(rates, st.floats(0, 1e6), steps)
    def check(first: tuple[float, int], now: float, steps: list[float | tuple[float, int]]) -> None:
        limit = RateLimit(*first)
        bucket = Bucket(*first, now)
        for step in steps:
            if isinstance(step, tuple):
                limit.change(*step)
                bucket.change(*step)
            else:
                now += step / float(bucket.rate)
                bucket.wait_until(now)
            answered = limit.take(SOURCE, now)
            if abs(bucket.level - 1) > doubt:
                assert answered == (bucket.level > 1)
            if answered:
                bucket.level -= 1

    check()
