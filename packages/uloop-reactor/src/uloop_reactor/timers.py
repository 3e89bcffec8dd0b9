"""Timers: callbacks at a time to come, once or again and again.

Time is ``time.monotonic()``, in seconds; the wall clock may jump as it likes.

* A timer never fires early, and fires in the turn in which it is due.
* A periodic one keeps to the grid of its first time: it does not drift by what the callbacks
  cost, and ticks that were missed are skipped, not made up for in a bunch.
* Its next tick is set before the callback runs, so one that raises keeps its place.

The queue is a heap. A cancelled timer stays in it as a husk until its time comes, because
finding it would cost O(n); when most of the heap are husks it is built anew without them, so
many long timeouts that never happen (the usual fate of timeouts) cost O(log n) each.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from itertools import count

__all__ = ["Timer", "TimerQueue"]

#: fewer husks than this are not worth building a heap for
FEW = 100


class Timer:
    """A callback that waits for its time; ``call_later`` and its kin return one."""

    __slots__ = ("_args", "_callback", "_period", "_queue", "_when")

    def __init__(
        self,
        queue: TimerQueue,
        when: float,
        period: float | None,
        callback: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        self._queue = queue
        self._when = when
        self._period = period
        self._callback: Callable[..., object] | None = callback
        self._args = args

    @property
    def when(self) -> float:
        """The time of the next call, on the clock of ``time.monotonic()``."""
        return self._when

    @property
    def active(self) -> bool:
        """Whether there is a next call."""
        return self._callback is not None

    def cancel(self) -> None:
        """Never call again. Cancelling twice, or too late, does nothing."""
        if self._callback is not None:
            self._release()
            self._queue._count_husk()

    def _release(self) -> None:
        self._callback = None  # what the callback holds on to is let go of now
        self._args = ()

    def __repr__(self) -> str:
        if not self.active:
            return "<Timer, over>"
        every = "" if self._period is None else f", every {self._period} s"
        return f"<Timer for {self._callback!r} at {self._when:.6f}{every}>"


class TimerQueue:
    """The timers of one loop, the next one first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()  # timers of the same time fire in the order they were made
        self._husks = 0
        self._floor = -math.inf  # when run_due was last called

    def add(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...] = (),
        period: float | None = None,
    ) -> Timer:
        """Call ``callback(*args)`` at ``when``, and then every ``period`` seconds.

        Raises:
            TypeError: the callback cannot be called, or a time is no number.
            ValueError: a time is not finite, or a period not positive.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        when += 0.0  # a TypeError now for what cannot be compared with the clock later
        if not math.isfinite(when):
            raise ValueError(f"the time of a timer must be finite, not {when}")
        if period is not None and not 0 < period < math.inf:
            raise ValueError(f"period must be a positive number of seconds, not {period}")
        timer = Timer(self, when, period, callback, args)
        # One that is overdue already takes its place behind those that were due before it.
        heapq.heappush(self._heap, (max(when, self._floor), next(self._order), timer))
        return timer

    def next_time(self) -> float:
        """When the next timer is due; infinity if there is none."""
        heap = self._heap
        while heap and not heap[0][2].active:
            heapq.heappop(heap)
            self._husks -= 1
        return heap[0][0] if heap else math.inf

    def run_due(self, run: Callable[[Callable[..., object], tuple[object, ...]], None]) -> None:
        """Run what is due now; what the callbacks add waits for the next call.

        Parameters:
            run: called with each callback and its arguments; deals with what they raise.
        """
        now = self._floor = time.monotonic()
        newcomer = next(self._order)
        heap = self._heap
        while heap and heap[0][0] <= now and heap[0][1] < newcomer:
            timer = heapq.heappop(heap)[2]
            callback, args = timer._callback, timer._args
            if callback is None:
                self._husks -= 1
                continue
            if timer._period is None:
                timer._release()
            else:
                timer._when = _next_tick(timer._when, timer._period, now)
                heapq.heappush(heap, (timer._when, next(self._order), timer))
            run(callback, args)

    def clear(self) -> None:
        """Cancel all timers."""
        for _, _, timer in self._heap:
            timer._release()
        self._heap.clear()
        self._husks = 0

    def _count_husk(self) -> None:
        self._husks += 1
        if self._husks > FEW and self._husks > len(self._heap) // 2:
            # in place: run_due may be in the middle of it
            self._heap[:] = [entry for entry in self._heap if entry[2].active]
            heapq.heapify(self._heap)
            self._husks = 0


def _next_tick(last: float, period: float, now: float) -> float:
    """The first tick after ``now`` on the grid of ``last``."""
    tick = last + period
    if tick <= now:
        tick = now - math.fmod(now - last, period) + period
    return tick if tick > now else now + period  # rounding can leave a tick on ``now`` itself
