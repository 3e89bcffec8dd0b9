"""Timers: ours beside those of asyncio, which are handles in a heap.

The clocks of both loops stand still until they are set, so that many timers can be due in one turn.
Their times come in no order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from uloop_reactor import Uloop

from micro.statement import Statement

TIMERS = 1000
TIMES = random.Random(6).sample(range(1, TIMERS + 1), TIMERS)  # seconds from now


def nothing() -> None:
    pass


class OurClock:
    """Goes on when it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def wait(
        self, poll: Callable[[float], list[tuple[int, int]]], timeout: float, /
    ) -> list[tuple[int, int]]:
        return poll(0)


class OurTimers:
    """A loop of ours on its own clock."""

    def __init__(self) -> None:
        self._clock = OurClock()
        self._loop = Uloop(clock=self._clock)

    def add_and_cancel(self) -> None:
        now, call_at = self._clock.now, self._loop.call_at
        for timer in [call_at(now + time, nothing) for time in TIMES]:
            timer.cancel()
        self._loop.run_once(0)

    def add_and_run(self) -> None:
        now, call_at = self._clock.now, self._loop.call_at
        for time in TIMES:
            call_at(now + time, nothing)
        self._clock.now += TIMERS
        self._loop.run_once(0)

    def put_off(self) -> None:
        timer = self._loop.call_later(TIMERS, nothing)
        now = self._clock.now
        for time in range(TIMERS):
            timer.reschedule(now + TIMERS + time)
        timer.cancel()
        self._loop.run_once(0)


class AsyncioLoop(asyncio.SelectorEventLoop):
    """One whose clock goes on when it is told."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


class AsyncioTimers:
    """The same with asyncio."""

    def __init__(self) -> None:
        self._loop = AsyncioLoop()

    def add_and_cancel(self) -> None:
        now, call_at = self._loop.now, self._loop.call_at
        for timer in [call_at(now + time, nothing) for time in TIMES]:
            timer.cancel()
        self._loop.turn()

    def add_and_run(self) -> None:
        now, call_at = self._loop.now, self._loop.call_at
        for time in TIMES:
            call_at(now + time, nothing)
        self._loop.now += TIMERS
        self._loop.turn()

    def put_off(self) -> None:
        timer = self._loop.call_later(TIMERS, nothing)
        now, call_at = self._loop.now, self._loop.call_at
        for time in range(TIMERS):
            timer.cancel()
            timer = call_at(now + TIMERS + time, nothing)
        timer.cancel()
        self._loop.turn()


STATEMENTS = [
    statement
    for says, code in (
        ("add and cancel one", "timers.add_and_cancel()"),
        ("add one and run it when it is due", "timers.add_and_run()"),
        ("put one off", "timers.put_off()"),
    )
    for statement in (
        Statement("timers", f"{says}, asyncio", code, {"timers": AsyncioTimers()}, TIMERS),
        Statement("timers", says, code, {"timers": OurTimers()}, TIMERS, f"{says}, asyncio"),
    )
]
