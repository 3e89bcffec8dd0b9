"""What time it is, and how good that is."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from uloop_servers import kernel_clock
from uloop_servers.kernel_clock import KernelClock
from uloop_servers.timesource import (
    PHI,
    SECOND,
    UNSYNCHRONISED,
    KernelReference,
    LocalReference,
    Quality,
    TimeSource,
)

NOW = 1_592_235_273 * SECOND + 899_256_123
ALL_STRATA = range(1, 16)


def kernel_says(monkeypatch: pytest.MonkeyPatch, clock: KernelClock | None) -> None:
    """In place of the real kernel, whose clock is in the one state that it happens to be in."""
    monkeypatch.setattr(kernel_clock, "read", lambda: clock)


class Moody:
    """A reference that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def quality(self, now: int) -> Quality:
        self.asked += 1
        return Quality(0, self.asked, b"MOOD", now, 0.25, 0.5)


def test_the_time_is_that_of_this_machine() -> None:
    before = time.time_ns()
    now = TimeSource().now()
    assert before <= now <= time.time_ns()


def test_local_time_is_aware_and_exact_to_the_microsecond() -> None:
    here, utc = TimeSource().local(NOW), TimeSource(utc=True).local(NOW)
    assert here == utc == datetime(2020, 6, 15, 15, 34, 33, 899256, UTC)
    assert here.replace(tzinfo=None) == datetime.fromtimestamp(NOW // SECOND).replace(microsecond=899256)
    assert utc.tzname() == "UTC"


def test_the_reference_is_asked_once_a_second() -> None:
    reference = Moody()
    source = TimeSource(reference)
    strata = [source.quality(NOW + after).stratum for after in (0, 1, SECOND - 1, SECOND, SECOND + 1)]
    assert strata == [1, 1, 1, 2, 2]


def test_the_reference_is_asked_again_when_the_clock_was_set() -> None:
    source = TimeSource(Moody())
    assert [source.quality(now).stratum for now in (NOW, NOW - 1, NOW + 10**6 * SECOND, NOW)] == [1, 2, 3, 4]


def test_what_is_kept_has_grown_to_the_end_of_its_second() -> None:
    quality = TimeSource(Moody()).quality(NOW)
    assert quality.root_dispersion == 0.5 + PHI
    assert (quality.root_delay, quality.reference_time, quality.reference_id) == (0.25, NOW, b"MOOD")


@pytest.mark.parametrize("leap", [0, 1, 2])
def test_the_kernel_is_believed(leap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch, KernelClock(True, leap, maxerror=0.0625, esterror=0.001))
    assert KernelReference(3).quality(NOW) == Quality(
        leap=leap,
        stratum=3,
        reference_id=b"\x7f\x7f\x01\x01",
        reference_time=1_592_235_264 * SECOND,  # a multiple of 64 s
        root_delay=0.0,
        root_dispersion=0.0625,
    )


@pytest.mark.parametrize("clock", [None, KernelClock(False, 0, 16.0, 16.0), KernelClock(False, 1, 0.0, 0.0)])
def test_no_word_of_the_kernel_is_no_time(clock: KernelClock | None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch, clock)
    quality = KernelReference().quality(NOW)
    assert quality == UNSYNCHRONISED
    assert not quality.synchronised
    assert (quality.leap, quality.stratum) == (3, 16)


@pytest.mark.parametrize("clock", [None, KernelClock(False, 0, 16.0, 16.0), KernelClock(True, 0, 0.5, 0.5)])
def test_the_operators_word_stands_against_the_kernels(
    clock: KernelClock | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch, clock)
    quality = LocalReference().quality(NOW)
    assert quality.synchronised
    assert (quality.leap, quality.stratum, quality.reference_id) == (0, 10, b"\x7f\x7f\x01\x01")
    assert quality.root_delay == 0


@pytest.mark.parametrize("age", [0, 1, 33, 63])
def test_the_dispersion_of_a_local_clock_grows_until_it_is_compared(age: int) -> None:
    compared = NOW - NOW % (64 * SECOND)
    quality = LocalReference().quality(compared + age * SECOND)
    assert quality.reference_time == compared
    assert quality.root_dispersion == pytest.approx(0.001 + 15e-6 * age)


@pytest.mark.parametrize("synchronised", [True, False])
def test_a_leap_second_that_the_kernel_will_make_is_announced(
    synchronised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch, KernelClock(synchronised, 2, 16.0, 16.0))
    assert LocalReference().quality(NOW).leap == 2


@pytest.mark.parametrize("kind", [KernelReference, LocalReference])
def test_strata(kind: type[KernelReference] | type[LocalReference], monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch, KernelClock(True, 0, 0.5, 0.5))
    assert [kind(stratum).quality(NOW).stratum for stratum in ALL_STRATA] == list(ALL_STRATA)
    assert kind(1).quality(NOW).reference_id == b"LOCL"
    for stratum in (0, 16, -1):
        with pytest.raises(ValueError, match=f"the stratum must be 1 to 15, not {stratum}"):
            kind(stratum)
