"""Turns: what a loop does, one turn after another.

A turn waits, hands each event to its handler, runs the timers that are due, and then the
callbacks that were put off to it. The rules:

1. A handler that raises is logged, and the loop goes on. ``KeyboardInterrupt`` and
   ``SystemExit`` pass, and leave the loop in order.
2. A handler that raises again and again is not called in a spin: it is left out for 10 ms,
   then for twice as long each time, up to 1 s. It is removed only if its descriptor is
   closed. One event that it deals with ends the matter.
3. What a handler does to a descriptor counts at once: of what was collected before, one that
   was removed or added gets nothing, and one that was modified what it still asks for.
4. Nobody starves: a turn runs the timers and callbacks that are there when it comes to
   them; what they add waits for the next turn, after I/O.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

from uloop_events import UEVENT_OF, HasFileno, UEvent

from .backoff import pause_after
from .handler import ProcessesEvents
from .health import Health
from .registry import Registration, Registry
from .timers import Clock, TimerQueue
from .waker import Waker

__all__ = ["Turns"]

log = logging.getLogger("uloop.reactor")

Events = list[tuple[int, int]]

LONGEST_WAIT = 24 * 3600.0  # seconds; the platforms' calls have limits of their own
PATIENCE = 1.0  # real seconds until a virtual clock jumps though a thread has not finished
MOST_STRANGERS = 100  # remembered
SHORT_WAIT = 0.05  # seconds; of a longer one a millisecond is no matter
MILLISECOND = 0.001  # seconds
#: seconds; a wait that is shorter has cost more than to stay awake, since to fall asleep and be woken takes
#: the processor 4 to 20 microseconds
NAP = 20e-6
MANY_NAPS = 64


class Turns:
    """The inside of a loop: what is registered and put off, and the turns that deal with it.

    Parameters:
        backend: as for ``create_backend``.
        clock: where the time comes from; ``None`` is ``time.monotonic()``.
    """

    def __init__(self, backend: str | None, clock: Clock | None) -> None:
        self.time: Callable[[], float] = time.monotonic if clock is None else clock.time
        self.registry = Registry(backend)
        self.timers = TimerQueue()
        self.soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.health = Health(self.registry.table, self.time())
        # A virtual clock has no hurry: it takes no naps, and every wait costs it a look at the sockets.
        self.longest_wait = 10.0 if clock is None else LONGEST_WAIT
        self.stopping = False
        self.on_error: Callable[[Exception, object], object] | None = None
        self.elsewhere: set[Future[Any]] = set()  # calls on threads, which the loop waits for
        self._clock = clock
        # A clock that ticks every 16 ms, as Windows' did before Python 3.13, cannot tell a nap.
        exact = clock is None and time.get_clock_info("monotonic").resolution < NAP
        self._longest_nap = NAP if exact else 0.0
        self._asleep = False
        self._now = 0.0  # when the callback that runs was called
        self._failed_polls = 0
        self._strangers: dict[int, int] = {}  # in which turn a number was met last
        with ExitStack() as undo:
            undo.callback(self.registry.close)
            self.waker = Waker()
            undo.callback(self.waker.close)
            self.registry.add(self.waker.fileno(), int(UEvent.poll_in), self.waker)
            undo.pop_all()
        self.use_backend()

    def run(self, longest_wait: float | None) -> None:
        """Run one turn that waits for so long at most; or if that is ``None``, turns until ``stop``.

        All of it is one function, and reads what does not change once, because calls cost more
        here than what they do: in pieces a turn with one event costs 0.14 microseconds more, of 4.
        """
        registry, timers, soon, health = self.registry, self.timers, self.soon, self.health
        table, heap, time = registry.table, timers.heap, self.time
        added, modified = registry.added, registry.modified
        debug = log.isEnabledFor(logging.DEBUG)
        longest_nap = self._longest_nap
        naps = 0  # in a row
        now = time()
        while not self.stopping or longest_wait is not None:
            # Wait, but not beyond the next timer, nor if there is something to do.
            poll = self._poll
            wait = self.longest_wait if longest_wait is None else longest_wait
            if heap:
                wait = min(wait, timers.next_time() - now)
                if wait < SHORT_WAIT:
                    poll = self._poll_briefly
            if naps > MANY_NAPS:
                poll = self._poll_awake
            # Whoever wakes us leaves a note first and looks at _asleep then; we do it the other
            # way round. So either we see the note, or they see that we sleep.
            self._asleep = True
            try:
                events = poll(0 if soon or self.stopping else wait)
            except OSError as error:
                events = self._poll_failed(error)
            else:
                if self._failed_polls:
                    self._poll_works()
            finally:
                self._asleep = False

            registry.turn += 1
            if added or modified:  # seldom, and to ask costs less than the calls
                added.clear()
                modified.clear()
            woken = time()
            naps = naps + 1 if woken - now < longest_nap else 0
            now = woken
            if now >= health.next_check:
                self._check_health(now, events)
                debug = log.isEnabledFor(logging.DEBUG)

            # Hand each event to its handler.
            health.events += len(events)
            number = -1  # the one that is being dealt with
            try:
                for number, mask in events:
                    # All three were right when the event was collected; an earlier handler of
                    # this turn may have removed the descriptor, given its number away, or
                    # modified it.
                    registration = table.get(number)
                    if registration is None:
                        self._met_stranger(number)
                        continue
                    mask &= registration.reportable
                    if not mask or (added and number in added):
                        continue
                    if debug:
                        log.debug("descriptor %d: %r", number, UEVENT_OF[mask])
                    try:
                        registration.handler.process_event(number, UEVENT_OF[mask])
                    except Exception as error:
                        self._handler_failed(number, registration, error)
                    else:
                        if registration.failures:
                            registration.failures = 0
                    before, now = now, time()
                    if now - before > health.remarkable:
                        health.took(now - before, registration.handler)
            except BaseException:
                self._arm_those_after(number, events)
                raise

            # The timers that are due, and then what was put off to this turn.
            if heap and heap[0][0] <= now:
                self._now = now
                timers.run_due(now, self._run_callback)
                now = self._now
            if soon:
                self._now = now
                for _ in range(len(soon)):
                    if soon:  # a callback may have closed the loop
                        self._run_callback(*soon.popleft())
                now = self._now

            health.lag = lag = now - woken
            if lag > health.longest_lag:
                health.longest_lag = lag
            if longest_wait is not None:
                break

    def events(self, timeout: float) -> list[tuple[ProcessesEvents, int, UEvent]]:
        """Wait for so long at most, for events that the program hands to their handlers itself."""
        deadline = self.time() + timeout
        woken = False
        while True:
            wait = min(deadline - self.time(), LONGEST_WAIT)
            self._asleep = True
            try:
                ready = self._poll(wait if wait > 0 and not woken else 0)
            finally:
                self._asleep = False
            events = []
            for number, mask in ready:
                registration = self.registry.table.get(number)
                if registration is None:
                    self.rid_of_strangers([number])
                elif registration.handler is self.waker:
                    self.waker.process_event(number, UEVENT_OF[mask])
                    woken = True
                elif mask := mask & registration.reportable:
                    events.append((registration.handler, number, UEVENT_OF[mask]))
            # If there are none, only what is silent has spoken, or we were woken.
            if events or woken or self.time() >= deadline:
                return events

    def sleep_no_more(self) -> None:
        """In a forked child: whatever waited was the parent's thread."""
        self._asleep = False

    def wake(self) -> None:
        """End the wait, if there is one; from any thread or signal handler, takes no lock."""
        if self._asleep:
            self.waker.wake()

    def _run_callback(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            callback(*args)
        except Exception as error:
            self.failed(error, callback, "callback %r failed", callback)
        before, self._now = self._now, self.time()
        if self._now - before > self.health.remarkable:
            self.health.took(self._now - before, callback)

    def _poll_awake(self, wait: float) -> Events:
        """Wait, but stay awake for the time of a nap.

        Whoever talks with us at a fast pace has the next word here before we would be asleep, so to sleep
        and be woken would take most of the time: with one client who asks again as soon as it is answered,
        there are twice as many answers so, and each takes less processor time. If it was in vain, that was
        no nap, and it is not tried again until there were many naps: one in 65 waits at most is in vain.
        """
        events = self._poll(0)
        if events or wait <= 0:
            return events
        start = self.time()
        awake = 0.0
        while awake < min(NAP, wait):
            events = self._poll(0)
            if events:
                return events
            awake = self.time() - start
        return self._poll_briefly(wait - awake) if wait < SHORT_WAIT else self._poll(wait - awake)

    def _poll_briefly(self, wait: float) -> Events:
        """Wait until a timer is due, which may be already.

        epoll_wait(2) counts milliseconds, rounded up: a timer would be late by up to one.
        select(2) counts microseconds, and an epoll is a descriptor like any other. The two calls
        cost 2.2 microseconds for 0.8, so the last millisecond or two alone are waited for so.
        """
        if self._precise and wait > 0:
            if wait > 2 * MILLISECOND:
                due = self.time() + wait
                events = self._poll(wait - MILLISECOND)
                if events:
                    return events
                wait = due - self.time()
            if wait > 0:
                select.select(self._precise, (), (), wait)
            wait = 0
        return self._poll(max(0, wait))

    def _wait_by_clock(self, clock: Clock, poll: Callable[[float], Events], timeout: float) -> Events:
        """Wait as a virtual clock does, but give threads the real time that they take."""
        if self.elsewhere and timeout > 0:
            events = poll(PATIENCE)
            if events:
                return events
        return clock.wait(poll, timeout)

    def use_backend(self) -> None:
        """Have the turns wait with the backend there is now."""
        backend, clock = self.registry.backend, self._clock
        self._poll: Callable[[float], Events] = (
            backend.poll if clock is None else partial(self._wait_by_clock, clock, backend.poll)
        )
        self._precise: list[int] = []
        if self.registry.name == "epoll" and clock is None:
            number = cast(HasFileno, backend).fileno()
            if number < 1024:  # select(2) takes no others
                self._precise.append(number)

    # What goes wrong

    def failed(self, error: Exception, culprit: object, message: str, *args: object) -> None:
        """Tell of what a handler or callback has raised."""
        self.health.failures += 1
        if self.on_error is not None:
            try:
                self.on_error(error, culprit)
            except Exception:
                log.exception("the callback of on_error failed")
            else:
                return
        if self.health.may_log(error):
            log.error(message, *args, exc_info=error)

    def _handler_failed(self, number: int, registration: Registration, error: Exception) -> None:
        handler, registry = registration.handler, self.registry
        self.failed(error, handler, "handler %r failed on descriptor %d", handler, number)
        if registry.table.get(number) is not registration:
            return  # it has removed itself
        registration.failures += 1
        if registration.failures > 1 and registry.asks_for_more(number, registration):
            pause = pause_after(registration.failures - 2)
            until = self.timers.add(self.time() + pause, registry.let_in, (number, registration))
            registry.leave_out(number, registration, until)

    def _poll_failed(self, error: OSError) -> Events:
        """Log the first failure in a row, and wait a while, so that timers go on and nothing spins."""
        if not self._failed_polls:
            log.error("%s failed, and is tried again: %s", self.registry.name, error)
        pause = min(pause_after(self._failed_polls), self.timers.next_time() - self.time())
        self._failed_polls += 1
        if pause > 0 and not self.stopping:
            self.waker.wait(pause)
            self.waker.process_event(self.waker.fileno(), UEvent.poll_in)
        return []

    def _poll_works(self) -> None:
        log.warning("%s works again, after %d failures", self.registry.name, self._failed_polls)
        self._failed_polls = 0

    def _check_health(self, now: float, events: Events) -> None:
        compare = self.health.check(now, self.registry.turn, events)
        if compare is not None:
            self.soon.append((compare, ()))
        for number in self.health.closed_ones():
            closed = self.registry.forget(number)
            if closed is not None:
                self.health.was_closed(number, closed.handler)

    def _arm_those_after(self, number: int, events: Events) -> None:
        """The turn is left early, after the event of this descriptor."""
        numbers = [-1, *(told for told, _ in events)]
        self.registry.arm_again(events[numbers.index(number) :])

    def _met_stranger(self, number: int) -> None:
        """The backend has told of a descriptor that is not in our table.

        As a rule an earlier handler of the same turn has removed it. But epoll watches open files,
        not numbers: when a descriptor was closed before it was removed, and a duplicate of it lives
        on, in a forked child for instance, epoll tells of it for ever, and nobody can unregister it.
        """
        if self.stopping:
            return  # in a forked child everybody is a stranger, and a closed loop knows nobody
        turn = self.registry.turn
        if self._strangers.get(number) == turn - 1:
            self.soon.append((self._look_for_strangers, ()))
        if len(self._strangers) >= MOST_STRANGERS:
            self._strangers.clear()
        self._strangers[number] = turn

    def _look_for_strangers(self) -> None:
        ready = self.registry.backend.poll(0)
        self.registry.arm_again(ready)
        self.rid_of_strangers([number for number, _ in ready if number not in self.registry.table])

    def rid_of_strangers(self, strangers: list[int]) -> None:
        if strangers:
            log.warning(
                "descriptor %d was closed before it was removed, and a duplicate of it lives on",
                strangers[0],
            )
            self.registry.renew(dict(self.registry.table))
            self.use_backend()
