"""For tests of programs that use a loop: time that jumps, and loops on every backend.

A timeout of an hour takes no time on a :class:`VirtualClock`::

    clock = VirtualClock()
    with Uloop(clock=clock) as loop:
        loop.call_later(3600, loop.stop)
        loop.run()
    assert clock.time() == 3600

The clock stands still while there is something to do, and when there is nothing it jumps to
where the next timer is due. Sockets are real, and what is under way between them is waited for
a little, ``patience``, before time jumps.

With pytest there are fixtures, for a ``conftest.py`` that says
``pytest_plugins = ["uloop_reactor.testing"]``:

* ``uloop``: a loop on each backend of the platform in turn; the test fails if it runs for 30 s.
* ``virtual_uloop``: the same on a virtual clock, which the fixture ``virtual_clock`` is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from .factory import available_backends
from .uloop import Uloop

__all__ = ["VirtualClock"]

Events = list[tuple[int, int]]

LONGEST_TEST = 30.0  # seconds that a loop of a fixture may run


class VirtualClock:
    """A clock for one loop, which jumps over the time in which nothing happens.

    Parameters:
        start: what time it is at first, in seconds.
        patience: real seconds without any event until time jumps. Between sockets of one
            machine a few milliseconds are plenty; where there are timers alone, 0 will do.

    The loop's own longest wait, ``loop.timeout``, is a time to jump to like any other. So when no
    timer is set, and the loop waits for a thread, say, time goes by in steps of ten seconds.
    """

    def __init__(self, start: float = 0.0, patience: float = 0.005) -> None:
        self._now = start
        self._patience = patience

    def time(self) -> float:
        """What time it is, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass by hand; timers that are due then are late.

        Raises:
            ValueError: time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s")
        self._now += seconds

    def wait(self, poll: Callable[[float], Events], timeout: float) -> Events:
        """See :class:`uloop_reactor.Clock`."""
        events = poll(min(self._patience, timeout))
        if not events and timeout > 0:
            due = self._now + timeout
            # A sum of floats may be rounded to a time just before the timer's, or to no step at all.
            self._now = due if due > self._now else math.nextafter(self._now, math.inf)
        return events


try:
    import pytest
except ImportError:
    pass  # the clock works without
else:

    def _fail() -> None:
        # Not an Exception, so run() lets it pass.
        pytest.fail(f"the loop still ran after {LONGEST_TEST} seconds")

    class _ClockOfATest(VirtualClock):
        """Fails the test when it takes too long in real time."""

        def __init__(self) -> None:
            super().__init__()
            self._limit = time.monotonic() + LONGEST_TEST

        def wait(self, poll: Callable[[float], Events], timeout: float) -> Events:
            if time.monotonic() > self._limit:
                _fail()
            return super().wait(poll, timeout)

    @pytest.fixture(params=available_backends())
    def uloop(request: pytest.FixtureRequest) -> Iterator[Uloop]:
        """A loop on each backend in turn."""
        with Uloop(request.param) as loop:
            loop.call_later(LONGEST_TEST, _fail)
            yield loop

    @pytest.fixture
    def virtual_clock() -> VirtualClock:
        """The clock of ``virtual_uloop``."""
        return _ClockOfATest()

    @pytest.fixture(params=available_backends())
    def virtual_uloop(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Uloop]:
        """A loop on each backend in turn, on a virtual clock."""
        with Uloop(request.param, clock=virtual_clock) as loop:
            yield loop
