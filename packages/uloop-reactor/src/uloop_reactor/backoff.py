"""Backoff: how long to leave out what fails again and again, so that nobody spins on it."""

from __future__ import annotations

__all__ = ["LONGEST_PAUSE", "pause_after"]

FIRST_PAUSE = 0.01  # seconds
LONGEST_PAUSE = 1.0  # seconds


def pause_after(failures: int) -> float:
    """Seconds until the next try.

    Parameters:
        failures: how many tries have failed before; each doubles the pause, up to a limit.
    """
    return min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE)
