"""Timers: callbacks at a time to come, once or again and again.

Times are seconds of the loop's clock, which is ``time.monotonic()``; the wall clock may jump as
it likes.

* A timer never fires early, and fires in the turn in which it is due.
* A periodic one keeps to the grid of its first time: it does not drift by what the callbacks
  cost, and ticks that were missed are skipped, not made up for in a bunch.
* Its next tick is set before the callback runs, so one that raises keeps its place.

The queue is a heap of entries ``(time, ticket, timer)``. What would need a search in it is left
undone until the entry comes up, because most timers are timeouts that never happen:

* A cancelled timer stays as a husk. When most of the heap are husks it is built anew without.
* A timer that is put off keeps its entry, and goes back into the heap when that comes up: so a
  timeout that every packet puts off costs one assignment. One that is brought forward gets a
  second entry with a new ticket, and the first becomes a husk.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import count
from typing import Protocol

__all__ = ["Clock", "Timer", "TimerQueue"]

#: fewer husks than this are not worth building a heap for
FEW = 100


class Clock(Protocol):
    """Time for a loop: it is asked what time it is, and to let time pass."""

    def time(self) -> float:
        """Now, in seconds; it never goes back."""
        ...

    def wait(
        self, poll: Callable[[float], list[tuple[int, int]]], timeout: float, /
    ) -> list[tuple[int, int]]:
        """Wait for events.

        Parameters:
            poll: waits for events, for so many real seconds at most.
            timeout: seconds of this clock to wait at most.

        Returns:
            What ``poll`` returned; nothing when the time has passed.
        """
        ...


class Timer:
    """A callback that waits for its time; ``call_later`` and its kin return one."""

    __slots__ = ("_args", "_callback", "_queue", "_ticket", "_when")

    def __init__(
        self,
        queue: TimerQueue,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        self._queue = queue
        self._when = when
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._ticket = 0  # that of our entry in the heap

    @property
    def when(self) -> float:
        """The time of the next call, on the clock of ``Uloop.time()``."""
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

    def reschedule(self, when: float) -> None:
        """Call at another time than was said; a periodic one goes on from there.

        Parameters:
            when: seconds on the clock of ``Uloop.time()``.

        Raises:
            RuntimeError: there is no next call: the timer is over, or was cancelled.
            TypeError, ValueError: the time is no number, or not finite.
        """
        if self._callback is None:
            raise RuntimeError("this timer is over; make a new one")
        later = _finite(when) >= self._when
        self._when = when
        if not later:
            self._queue._push(self)
            self._queue._count_husk()  # its former entry

    def _release(self) -> None:
        self._callback = None  # what the callback holds on to is let go of now
        self._args = ()
        self._ticket = 0

    def _advance(self, now: float) -> bool:
        """Prepare the call after this one, if there is to be one."""
        return False

    def __repr__(self) -> str:
        if not self.active:
            return "<Timer, over>"
        return f"<Timer for {self._callback!r} at {self._when:.6f}{self._every()}>"

    def _every(self) -> str:
        return ""


class PeriodicTimer(Timer):
    """A timer with a next time, always."""

    __slots__ = ("_jitter", "_period", "_tick")

    def __init__(
        self,
        queue: TimerQueue,
        first: float,
        period: float,
        jitter: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        super().__init__(queue, first, callback, args)
        self._period = period
        self._jitter = jitter
        self._tick = first  # on the grid, where _when may be a little later
        self._when += random.uniform(0.0, jitter)

    def reschedule(self, when: float) -> None:
        super().reschedule(when)
        self._tick = when

    def _advance(self, now: float) -> bool:
        self._tick = _next_tick(self._tick, self._period, now)
        self._when = self._tick + random.uniform(0.0, self._jitter) if self._jitter else self._tick
        return True

    def _every(self) -> str:
        return f", every {self._period} s"


class TimerQueue:
    """The timers of one loop, the next one first."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Timer]] = []  # for the loop to glance at; its head may be a husk
        self._tickets = count(1)  # timers of the same time fire in the order they were made
        self._husks = 0
        self._floor = -math.inf  # when run_due was last called

    def __len__(self) -> int:
        """How many calls are to come."""
        return max(len(self.heap) - self._husks, 0)  # what is put aside can be cancelled, too

    def add(self, when: float, callback: Callable[..., object], args: tuple[object, ...] = ()) -> Timer:
        """Call ``callback(*args)`` at ``when``.

        Raises:
            TypeError: the callback cannot be called, or the time is no number.
            ValueError: the time is not finite.
        """
        return self._push(Timer(self, _finite(when), _callable(callback), args))

    def add_periodic(
        self,
        first: float,
        period: float,
        jitter: float,
        callback: Callable[..., object],
        args: tuple[object, ...] = (),
    ) -> Timer:
        """Call ``callback(*args)`` at ``first``, and then every ``period`` seconds.

        Parameters:
            jitter: each call is put off by a random time of up to so many seconds.

        Raises:
            TypeError: the callback cannot be called, or a time is no number.
            ValueError: a time is not finite, the period not positive, or the jitter not
                between 0 and the period.
        """
        if not 0 < period < math.inf:
            raise ValueError(f"period must be a positive number of seconds, not {period}")
        if not 0 <= jitter <= period:
            raise ValueError(f"jitter must be from 0 to the period of {period} seconds, not {jitter}")
        return self._push(PeriodicTimer(self, _finite(first), period, jitter, _callable(callback), args))

    def next_time(self) -> float:
        """When the next timer is due; infinity if there is none."""
        heap = self.heap
        while heap:
            when, ticket, timer = heap[0]
            if timer._ticket == ticket and timer._when <= when:
                return when
            heapq.heappop(heap)
            self._sort_in(ticket, timer)
        return math.inf

    def run_due(self, now: float, run: Callable[[Callable[..., object], tuple[object, ...]], None]) -> None:
        """Run what is due; what the callbacks add waits for the next call.

        Parameters:
            now: the time it is.
            run: called with each callback and its arguments; deals with what they raise.
        """
        self._floor = now
        newcomer = next(self._tickets)
        heap = self.heap
        while heap and heap[0][0] <= now and heap[0][1] < newcomer:
            when, ticket, timer = heapq.heappop(heap)
            callback, args = timer._callback, timer._args
            if callback is None or timer._ticket != ticket or timer._when > when:
                self._sort_in(ticket, timer)
                continue
            if timer._advance(now):
                self._push(timer)
            else:
                timer._release()
            run(callback, args)

    def put_aside(self) -> list[tuple[float, int, Timer]]:
        """Take all timers out, even in the middle of ``run_due``; see :meth:`put_back`."""
        heap = self.heap[:]
        self.heap.clear()
        self._husks = 0
        return heap

    def put_back(self, heap: list[tuple[float, int, Timer]]) -> None:
        """Undo :meth:`put_aside`."""
        self.heap[:] = heap
        self._husks = sum(timer._ticket != ticket for _, ticket, timer in heap)

    def clear(self) -> None:
        """Cancel all timers."""
        for _, _, timer in self.heap:
            timer._release()
        self.heap.clear()
        self._husks = 0

    def _push(self, timer: Timer) -> Timer:
        timer._ticket = ticket = next(self._tickets)
        when = timer._when
        # One that is overdue already takes its place behind those that were due before it.
        heapq.heappush(self.heap, (when if when > self._floor else self._floor, ticket, timer))
        return timer

    def _sort_in(self, ticket: int, timer: Timer) -> None:
        """Deal with an entry whose time has come, though it is not its timer's time."""
        if timer._ticket != ticket:
            self._husks -= 1
        else:  # it was put off; it keeps its ticket, for it is no newcomer
            heapq.heappush(self.heap, (timer._when, ticket, timer))

    def _count_husk(self) -> None:
        self._husks += 1
        if self._husks > FEW and self._husks > len(self.heap) // 2:
            # in place: run_due may be in the middle of it
            self.heap[:] = [entry for entry in self.heap if entry[2]._ticket == entry[1]]
            heapq.heapify(self.heap)
            self._husks = 0


def _callable(callback: Callable[..., object]) -> Callable[..., object]:
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    return callback


def _finite(when: float) -> float:
    try:
        if math.isfinite(when):
            return when
    except TypeError:
        raise TypeError(f"the time of a timer must be a number of seconds, not {when!r}") from None
    raise ValueError(f"the time of a timer must be finite, not {when}")


def _next_tick(last: float, period: float, now: float) -> float:
    """The first tick after ``now`` on the grid of ``last``."""
    tick = last + period
    if tick <= now:
        tick = now - math.fmod(now - last, period) + period
    return tick if tick > now else now + period  # rounding can leave a tick on ``now`` itself
