"""The base protocol, without sockets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from uloop_servers.protocols.clock import ANSWER_LENGTH, answer, read_answer
from uloop_servers.timesource import SECOND, LocalReference, TimeSource

MOMENT = 1_592_235_273 * SECOND + 899_256_999  # 2020-06-15 15:34:33.899256999 UTC


class StoppedClock(TimeSource):
    """A clock that shows what it is told to."""

    def __init__(self, now: int, *, utc: bool = True) -> None:
        super().__init__(LocalReference(), utc=utc)
        self.shown = now

    def now(self) -> int:
        return self.shown


def test_an_answer_in_utc() -> None:
    assert answer(b"", 0, StoppedClock(MOMENT)) == b"2020-06-15 15:34:33.899256"


@pytest.mark.parametrize("request_", [b"", b"time?", b"\xff" * 5000])
def test_whatever_is_asked_the_time_is_answered(request_: bytes) -> None:
    assert answer(request_, MOMENT, StoppedClock(MOMENT)) == b"2020-06-15 15:34:33.899256"


@pytest.mark.parametrize("fraction", [0, 1, 999, 1000, 120_000_000, 999_999_999])
def test_every_answer_has_26_bytes_and_can_be_read(fraction: int) -> None:
    second = MOMENT // SECOND
    told = answer(b"", 0, StoppedClock(second * SECOND + fraction))
    assert len(told) == ANSWER_LENGTH == 26
    expected = datetime.fromtimestamp(second, UTC).replace(microsecond=fraction // 1000, tzinfo=None)
    assert read_answer(told) == expected


def test_the_answers_of_a_running_clock_never_go_back() -> None:
    source = TimeSource(LocalReference(), utc=True)
    answers = [answer(b"", 0, source) for _ in range(1000)]
    assert answers == sorted(answers)


def test_the_next_second_has_another_answer() -> None:
    source = StoppedClock(MOMENT)
    answer(b"", 0, source)
    source.shown += SECOND
    assert answer(b"", 0, source) == b"2020-06-15 15:34:34.899256"
    source.shown -= 3600 * SECOND  # the clock is set back
    assert answer(b"", 0, source) == b"2020-06-15 14:34:34.899256"


def test_each_answer_is_that_of_its_moment() -> None:
    """To and fro over the edges of milliseconds and seconds, of which something is kept."""
    source = StoppedClock(MOMENT)
    steps = (0, 1, 999, 1_000, 742_999, 743_000, 743_001, 1_743_001, 100_743_001, 100_743_000, 2 * SECOND)
    for step in (*steps, *(-step for step in steps), *reversed(steps)):
        source.shown = MOMENT + step
        second, fraction = divmod(source.shown, SECOND)
        moment = datetime.fromtimestamp(second, UTC).replace(microsecond=fraction // 1000, tzinfo=None)
        assert answer(b"", 0, source).decode() == moment.isoformat(" ", "microseconds")


def test_two_sources_in_the_same_second() -> None:
    here, utc = StoppedClock(MOMENT, utc=False), StoppedClock(MOMENT)
    local = datetime.fromtimestamp(MOMENT // SECOND)
    for _ in range(2):
        assert answer(b"", 0, utc).startswith(b"2020-06-15 15:34:33.")
        assert answer(b"", 0, here).decode().startswith(str(local))


@pytest.fixture
def move_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this process to another time zone, for one test."""
    if sys.platform == "win32":
        pytest.skip("on Windows Python has no tzset, so a process stays in its time zone")

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_summer_time_begins_and_ends_on_the_second(move_to: Callable[[str], None]) -> None:
    move_to("CET-1CEST,M3.5.0,M10.5.0/3")
    source = StoppedClock(0, utc=False)
    for second, expected in [
        (1_585_443_599, b"2020-03-29 01:59:59.000000"),
        (1_585_443_600, b"2020-03-29 03:00:00.000000"),
        (1_603_587_599, b"2020-10-25 02:59:59.000000"),
        (1_603_587_600, b"2020-10-25 02:00:00.000000"),
        (1_603_591_200, b"2020-10-25 03:00:00.000000"),
    ]:
        source.shown = second * SECOND
        assert answer(b"", 0, source) == expected


def test_an_offset_of_45_minutes(move_to: Callable[[str], None]) -> None:
    move_to("<+0545>-5:45")
    assert answer(b"", 0, StoppedClock(MOMENT, utc=False)) == b"2020-06-15 21:19:33.899256"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"2020-06-15 15:34:33",
        b"2020-06-15 15:34:33.899256\n",
        b"2020-13-15 15:34:33.899256",
        b"no time at all, 26 bytes..",
        b"\xff" * 26,
    ],
)
def test_what_is_not_an_answer_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not a time like 2020-06-15 15:34:33\.899256") as refusal:
        read_answer(data)
    assert repr(data) in str(refusal.value)
