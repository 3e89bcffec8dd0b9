"""The loop against a model of it: whatever happens, each turn calls whom it must, and nobody else.

Hypothesis makes up what a program does, between turns and in the midst of them: sockets are opened,
written to, drained, ended and closed, so that their numbers come back; descriptors are added,
modified and removed; timers are set, moved and cancelled; time passes; handlers and callbacks raise.
The model follows step by step, and complains of the first call that it does not expect, or misses.

A turn is: a wait, events, the timers that are due, what was put off to it. The order of the events is
the backend's, so of these the model knows a set: who must be called, and who may be. It says what
``uloop.py`` and ``timers.py`` promise at their tops and nothing of how they do it.

Duplicates of a descriptor are left out: of those epoll tells what no other backend can.

Without being told otherwise this runs the same steps every time, so that a failure comes from a
change and not from luck. What luck finds is for this, which takes minutes:

    HYPOTHESIS_PROFILE=nightly pytest packages/uloop-reactor/tests/test_state_machine.py
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from uloop_reactor import Timer, UEvent, Uloop
from uloop_reactor.testing import VirtualClock

pytest.importorskip("hypothesis", reason="the steps are made up by Hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

# No database: what fails comes again by itself, or is printed with what brings it back.
COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
PROFILES = {
    # To make an example smaller can take minutes, which a check of every change does not have.
    "quick": settings(
        COMMON,
        derandomize=True,
        max_examples=150,
        stateful_step_count=30,
        phases=(Phase.explicit, Phase.generate),
    ),
    "nightly": settings(COMMON, max_examples=3000, stateful_step_count=50),
}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")

T = TypeVar("T")

IN, OUT, PRI = int(UEvent.poll_in), int(UEvent.poll_out), int(UEvent.poll_pri)
HUP = int(UEvent.poll_hup)
EDGE, ONESHOT = int(UEvent.poll_et), int(UEvent.poll_oneshot)

MOST_OPEN = 6
MOST_TIMERS = 12
MOST_TURNS = 4  # of one run
MOST_EARLY = 8  # waits in a row that end early, though nobody is called: more would be a spin
EPSILON = 1e-9  # seconds; what the rounding of floats may come to
NEVER = math.inf

#: multiples of a quarter second: many coincide, and sums of them are exact
SOME_SECONDS = st.integers(0, 12).map(lambda quarters: quarters / 4)


class FaultError(Exception):
    """What handlers and callbacks raise here."""


def check(right: bool, message: str) -> None:
    if not right:
        pytest.fail(message)  # not an Exception, so the loop lets it pass


class End:
    """Our end of a pair of sockets, and what has happened to it so far. It is never full."""

    def __init__(self) -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.number = self.sock.fileno()
        self.unread = 0  # bytes
        self.has_ended = False  # the peer sends no more
        self.is_hung_up = False  # the peer was closed

    def levels(self) -> int:
        """What holds for it, as epoll would tell."""
        return OUT | (IN if self.unread or self.has_ended else 0) | (HUP if self.is_hung_up else 0)

    def settle(self) -> None:
        """Wait until all that was sent has got here, which is at once but for TCP, on Windows."""
        if self.unread or self.has_ended:
            assert select.select([self.sock], [], [], 30)[0]
        while self.unread and len(self.sock.recv(4096, socket.MSG_PEEK)) < self.unread:
            pass

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


class Handler:
    """A handler, and what the model knows of its registration."""

    def __init__(self, machine: LoopMachine, end: End, mask: int) -> None:
        self.machine = machine
        self.end = end
        self.number = end.number
        self.always_fails = machine.pick([False, False, True])
        self.failures = 0  # in a row
        self.pause_until = -NEVER
        self.turn = machine.turns  # it was added in
        self.ask_for(mask)

    def ask_for(self, mask: int) -> None:
        self.mask = mask
        self.turn_of_modify = self.machine.turns
        # Only for those that are told once: whether they must be told of what holds, and may be.
        self.must_be_told = self.may_be_told = True

    def reportable(self) -> int:
        """Of what the program wants to hear now, and errors and hangups unasked."""
        return self.mask | HUP if self.mask else 0

    def process_event(self, number: int, event: UEvent) -> None:
        self.machine.told(self, number, event)


class Closable(Handler):
    """One that a shutdown closes."""

    was_asked = False

    def close(self) -> None:
        self.machine.asked_to_close(self)

    def abort(self) -> None:
        self.machine.aborted(self)


class Call:
    """A timer, and what the model knows of it."""

    def __init__(self, machine: LoopMachine, when: float) -> None:
        self.machine = machine
        self.timer: Timer
        self.made = machine.count()
        self.period = self.jitter = 0.0
        self.is_moved = False
        self.set_to(when)

    def set_to(self, when: float) -> None:
        self.when = self.grid = when
        self.is_late = when < self.machine.clock.time()  # the time was over when it was said

    def goes_before(self, other: Call) -> bool:
        """Whether it must, if both are due.

        One that was late from the start need not overtake those that were there before it, and
        of one that was moved the rank among equals is not promised.
        """
        if self.when == other.when:
            return self.made < other.made and not (self.is_moved or other.is_moved)
        return self.when < other.when and not (self.is_late or other.is_late)

    def __call__(self) -> None:
        self.machine.fired(self)


class Clock(VirtualClock):
    """Tells the machine of each wait."""

    def __init__(self, machine: LoopMachine) -> None:
        super().__init__(patience=0.02 if sys.platform == "win32" else 0)
        self.machine = machine

    def wait(self, poll: Callable[[float], list[tuple[int, int]]], timeout: float) -> list[tuple[int, int]]:
        self.machine.waits(timeout)
        events = super().wait(poll, timeout)
        self.machine.has_waited(events)
        return events


class LoopMachine(RuleBasedStateMachine):
    backend: str

    @property
    def cannot_tell_hangups(self) -> bool:
        """Not while something is unread, for one; see the fidelity table of uloop-events."""
        return self.backend == "select"

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.ends: list[End] = []
        self.open_loop()

    def open_loop(self) -> None:
        self.clock = Clock(self)
        self.turns = self.failures = self.failures_reported = self.told_of = self.collected = 0
        self.early = self.needless = 0  # waits in a row
        self.handlers: dict[int, Handler] = {}
        self.stale: dict[int, Handler] = {}  # closed behind the loop's back; it may have found out
        self.calls: list[Call] = []
        self.soon: list[object] = []
        self.phase = "idle"
        self.timers_looked_at = -NEVER
        self.is_stopping = self.is_closed = self.is_run = self.is_shut_down = False
        self.deadline = NEVER
        self.turns_left = 0
        self.loop = Uloop(self.backend, clock=self.clock)
        self.loop.timeout = 10  # on a virtual clock it would be longer
        self.loop.on_error(self.reported)

    def teardown(self) -> None:
        self.loop.close()
        for end in self.ends:
            end.close()

    def count(self) -> int:
        self.made += 1
        return self.made

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self.data.draw(strategy)

    def pick(self, things: Sequence[T]) -> T:
        return self.draw(st.sampled_from(things))

    # What a program does: between turns, or in the midst of one

    def deeds(self) -> list[Callable[[], None]]:
        """What can be done now; what matters most more than once."""
        deeds: list[Callable[[], None]] = [self.call_soon, self.pass_time]
        if not self.is_shut_down:
            deeds += [self.stop]
        if len(self.ends) < MOST_OPEN:
            deeds += [self.open] * 3
        if self.ends:
            deeds += [self.send, self.send, self.send, self.drain, self.end, self.close_end]
            deeds += [
                self.add,
                self.add,
                self.add,
                self.add,
                self.modify,
                self.modify,
                self.remove,
                self.replace,
            ]
        if len(self.calls) < MOST_TIMERS:
            deeds += [self.call_later, self.call_at, self.call_every]
        if self.calls:
            deeds += [self.cancel, self.reschedule, self.reschedule]
        return deeds

    def do_something(self) -> None:
        self.pick(self.deeds())()

    def some_end(self) -> End:
        return self.pick(self.ends)

    def some_mask(self) -> int:
        told = [0, 0, 0, ONESHOT] + [EDGE] * (self.backend == "epoll")
        return self.pick([0, IN, IN, OUT, IN | OUT, PRI]) | self.pick(told)

    def open(self) -> None:
        self.ends.append(End())

    def send(self) -> None:
        end = self.some_end()
        if not end.has_ended:
            end.peer.send(b"x")
            end.unread += 1
            end.settle()
            self.has_happened(end, IN)

    def end(self) -> None:
        """The peer sends no more, or is closed."""
        end = self.some_end()
        if end.is_hung_up:
            return
        if not end.has_ended:
            end.peer.shutdown(socket.SHUT_WR)
        elif sys.platform != "win32":  # which does not tell that both directions have ended
            end.peer.close()
            end.is_hung_up = True
        end.has_ended = True
        end.settle()
        self.has_happened(end, IN | HUP if end.is_hung_up else IN)

    def has_happened(self, end: End, what: int) -> None:
        """Edges: who asks for what has happened must be told, and others may be, as epoll(7) allows."""
        handler = self.handlers.get(end.number)
        if handler is not None and handler.mask & EDGE and not handler.mask & ONESHOT:
            handler.may_be_told = True
            handler.must_be_told |= bool(handler.reportable() & what)

    def drain(self) -> None:
        end = self.some_end()
        if end.unread:
            assert len(end.sock.recv(4096)) == end.unread
            end.unread = 0
            end.settle()

    def close_end(self) -> None:
        """Close a socket, as it ought to be done or without a word."""
        end = self.some_end()
        if self.draw(st.booleans()):
            self.removed(end.number)
            self.loop.remove(end.sock)
        elif end.number in self.handlers:
            self.stale[end.number] = self.handlers.pop(end.number)
        end.close()
        self.ends.remove(end)

    def add(self) -> None:
        self.add_end(self.some_end())

    def replace(self) -> None:
        """Another handler for a descriptor that has one."""
        end = self.some_end()
        self.removed(end.number)
        self.loop.remove(end.sock)
        self.add_end(end)

    def add_end(self, end: End) -> None:
        mask = self.some_mask()
        kind = self.pick([Handler, Closable])
        handler = kind(self, end, mask)
        if end.number in self.handlers:
            try:
                self.loop.add(end.sock, mask, handler)
            except FileExistsError:
                return
            pytest.fail(f"{end.number} was added twice")
        self.loop.add(end.sock, mask, handler)
        self.stale.pop(end.number, None)
        self.handlers[end.number] = handler

    def modify(self) -> None:
        end, mask = self.some_end(), self.some_mask()
        handler = self.handlers.get(end.number)
        if handler is not None:
            self.loop.modify(end.sock, mask)
            handler.ask_for(mask)
            self.excuse(handler)
            return
        try:
            self.loop.modify(end.sock, mask)  # is passed over
        except OSError:
            check(end.number in self.stale, f"{end.number} has no handler, and modify failed")

    def remove(self) -> None:
        end = self.some_end()
        self.removed(end.number)
        self.loop.remove(end.sock)

    def removed(self, number: int) -> None:
        self.handlers.pop(number, None)
        self.stale.pop(number, None)

    def call_soon(self) -> None:
        item = self.count()
        self.soon.append(item)
        self.loop.call_soon(self.was_put_off, item)

    def call_later(self) -> None:
        delay = self.draw(SOME_SECONDS)
        call = self.new_call(self.clock.time() + delay)
        call.timer = self.loop.call_later(delay, call)

    def call_at(self) -> None:
        call = self.new_call(self.clock.time() + self.draw(SOME_SECONDS) - 1)
        call.timer = self.loop.call_at(call.when, call)

    def call_every(self) -> None:
        period = self.draw(SOME_SECONDS) + 0.25
        jitter = period * self.pick([0, 0, 1 / 2, 1])
        first = self.draw(st.none() | SOME_SECONDS)
        call = self.new_call(self.clock.time() + (period if first is None else first))
        call.timer = self.loop.call_every(period, call, jitter=jitter, first=first)
        call.period, call.jitter = period, jitter
        check(0 <= call.timer.when - call.grid <= jitter, "the first time is not what was asked for")
        call.when = call.timer.when

    def new_call(self, when: float) -> Call:
        call = Call(self, when)
        self.calls.append(call)
        return call

    def cancel(self) -> None:
        call = self.pick(self.calls)
        self.calls.remove(call)
        call.timer.cancel()
        call.timer.cancel()
        check(not call.timer.active, "a cancelled timer is active")

    def reschedule(self) -> None:
        call = self.pick(self.calls)
        when = self.clock.time() + self.draw(SOME_SECONDS) - 1
        call.timer.reschedule(when)
        call.set_to(when)
        call.is_moved = True
        if self.phase == "timers":
            self.must_fire.discard(call)  # whether it counts as new is not promised
            if when > self.timers_looked_at:
                self.may_fire.discard(call)

    def pass_time(self) -> None:
        self.clock.advance(self.draw(SOME_SECONDS))

    def stop(self) -> None:
        self.is_stopping = True
        self.loop.stop()

    def close_loop(self) -> None:
        self.loop.close()
        self.is_closed = True

    # What the loop does

    def waits(self, timeout: float) -> None:
        """A turn is over, and the loop begins to wait."""
        if self.phase == "polled":
            return
        self.finish_turn()
        check(not (self.is_run and self.is_stopping), "run has not ended")
        now = self.clock.time()
        times = [call.when for call in self.calls] + [
            pause for pause in self.pauses() if pause > self.timers_looked_at
        ]
        longest = max(min([self.longest_wait, self.deadline - now, *(when - now for when in times)]), 0)
        if self.soon or self.is_stopping:
            longest = 0
        check(0 <= timeout <= longest + EPSILON, f"waits for {timeout}, not {longest} seconds")
        self.early = self.early + 1 if timeout < longest - EPSILON and not self.is_shut_down else 0
        check(self.early < MOST_EARLY, "it spins")
        self.turns_left -= 1
        if self.is_run and self.is_shut_down:
            check(self.turns_left > 0, "the shutdown does not end")
            self.clock.advance(0.125)  # so that the deadline comes, though somebody may always be ready
        elif self.is_run and self.turns_left == 0:
            self.stop()
        elif self.draw(st.integers(0, 9)) == 9:  # another thread leaves a note
            item = self.count()
            self.soon.append(item)
            self.loop.call_threadsafe(self.was_put_off, item)

    def has_waited(self, events: list[tuple[int, int]]) -> None:
        """Events were collected: who must be told of what, and who may be?"""
        self.must_hear: dict[Handler, int] = {}
        self.may_hear: dict[Handler, int] = {}
        for handler in self.handlers.values():
            levels = handler.end.levels() & handler.reportable()
            if not levels or handler.pause_until > self.timers_looked_at:
                continue
            told_once = handler.mask & (EDGE | ONESHOT)
            if told_once and not handler.may_be_told:
                continue
            self.may_hear[handler] = levels
            # A turn that was left among its timers may have ended a pause or not.
            is_sure = levels != HUP or not self.cannot_tell_hangups
            if is_sure and handler.pause_until == -NEVER and (handler.must_be_told or not told_once):
                self.must_hear[handler] = levels
                handler.must_be_told = handler.may_be_told = False
        if self.phase == "polled":
            return
        check(bool(events) or not self.must_hear, "nothing was collected")
        is_needless = events and not (self.may_hear or self.soon or self.is_stopping)
        self.needless = self.needless + 1 if is_needless else 0
        check(self.needless < MOST_EARLY, "it spins for those who have nothing to hear")
        self.collected += len(events)
        self.turns += 1
        self.phase = "events"

    def told(self, handler: Handler, number: int, event: UEvent) -> None:
        check(self.phase == "events", f"an event among the {self.phase}")
        check(not self.is_closed, "an event after close")
        if self.stale.get(number) is not handler:  # which nobody can know was closed in this turn
            check(self.handlers.get(number) is handler, f"{number} is not this handler's any more")
        check(handler.turn < self.turns, f"{number} was added in this turn")
        check(handler in self.may_hear, f"{number} has nothing to hear: {event!r}")
        expected = self.may_hear.pop(handler) & handler.reportable()
        self.check_event(number, int(event), expected)
        if self.must_hear.pop(handler, None) is None:
            handler.must_be_told = handler.may_be_told = False
        handler.pause_until = -NEVER
        self.told_of += 1
        try:
            self.act(handler)
        except FaultError:
            if self.handlers.get(number) is handler:
                handler.failures += 1
                asks_for_more = not handler.mask & ONESHOT or handler.turn_of_modify == self.turns
                if handler.failures > 1 and asks_for_more:
                    pause = min(0.01 * 2 ** (handler.failures - 2), 1.0)
                    handler.pause_until = self.clock.time() + pause
                    handler.must_be_told = handler.may_be_told = True
            raise
        handler.failures = 0

    def check_event(self, number: int, event: int, expected: int) -> None:
        unsure = HUP if self.cannot_tell_hangups else 0
        right = (event ^ expected) & ~unsure == 0
        check(right, f"{number} is told {UEvent(event)!r}, not {UEvent(expected)!r}")

    def excuse(self, handler: Handler) -> None:
        """It was modified: if it does not ask for what was collected it may have been passed over."""
        if self.phase == "events" and not self.must_hear.get(handler, 0) & handler.reportable():
            self.must_hear.pop(handler, None)

    def begin_timers(self) -> None:
        """All events were handed out; which timers are due?"""
        for handler in self.must_hear:
            missed = self.handlers.get(handler.number) is handler
            check(not missed, f"{handler.number} was not told of {UEvent(self.must_hear[handler])!r}")
        self.phase = "timers"
        self.timers_looked_at = self.clock.time()
        self.must_fire = {call for call in self.calls if call.when <= self.timers_looked_at}
        self.may_fire = set(self.must_fire)

    def fired(self, call: Call) -> None:
        if self.phase == "events":
            self.begin_timers()
        check(self.phase == "timers", f"a timer among the {self.phase}")
        check(not self.is_closed, "a timer after close")
        check(call in self.calls, "a timer that is over, or was cancelled")
        check(call.when <= self.clock.time(), "a timer is early")
        check(call in self.may_fire, "a timer that was made in this turn, or has had its turn")
        self.may_fire.discard(call)
        self.must_fire.discard(call)
        for other in self.must_fire:
            check(other not in self.calls or not other.goes_before(call), "a timer out of its order")
        if call.period:
            self.check_next_tick(call)
        else:
            self.calls.remove(call)
            check(not call.timer.active, "a timer that is over is active")
        self.act(call)

    def check_next_tick(self, call: Call) -> None:
        now, when = self.timers_looked_at, call.timer.when
        check(call.timer.active, "a periodic timer is over")
        check(now < when <= now + call.period + call.jitter + EPSILON, f"the tick after {now} is at {when}")
        off = (when - call.grid + EPSILON) % call.period
        check(off <= call.jitter + 2 * EPSILON, f"a tick at {when} is {off} off the grid of {call.grid}")
        call.when = when
        call.is_late = False
        call.is_moved = True  # among equals

    def begin_soon(self) -> None:
        """All timers that were due have fired; what is put off to this turn?"""
        if self.phase == "events":
            self.begin_timers()
        for call in self.must_fire:
            check(call not in self.calls, f"a timer for {call.when} has not fired")
        for handler in self.handlers.values():
            if handler.pause_until <= self.timers_looked_at:
                handler.pause_until = -NEVER
        self.phase = "soon"
        self.due_now = len(self.soon)

    def was_put_off(self, item: int) -> None:
        if self.phase in ("events", "timers"):
            self.begin_soon()
        check(self.phase == "soon", f"a callback among the {self.phase}")
        check(not self.is_closed, "a callback after close")
        check(self.due_now > 0, "a callback that was put off to the next turn")
        check(self.soon[0] == item, "callbacks out of their order")
        del self.soon[0]
        self.due_now -= 1
        self.act(self.was_put_off)

    def finish_turn(self) -> None:
        if self.phase == "idle":
            return
        if not self.is_closed:
            if self.phase != "soon":
                self.begin_soon()
            check(self.due_now == 0, "callbacks were forgotten")
            if self.is_shut_down:
                left = [handler for handler in self.to_be_asked if handler in self.closables()]
                check(all(handler.was_asked for handler in left), "not all were closed")
        self.phase = "idle"

    def leave_turn(self) -> None:
        """An exception has passed through the loop: nobody loses an event that is told once."""
        if self.phase == "events":
            for handler in self.must_hear:
                handler.must_be_told = handler.may_be_told = True
        self.phase = "idle"

    def act(self, who: object) -> None:
        """What handlers and callbacks do."""
        for _ in range(self.pick([0, 1, 1, 2])):
            self.do_something()
        end = self.draw(st.integers(0, 11 if not self.is_shut_down else 8))
        if end in (7, 8) or (isinstance(who, Handler) and who.always_fails):
            self.failures += 1
            self.culprit = who
            raise FaultError
        if end in (9, 10):
            raise KeyboardInterrupt
        if end == 11 and self.draw(st.booleans()):
            self.close_loop()

    def pauses(self) -> list[float]:
        """When they end; if a turn was left among its timers, one that was due may be over."""
        pauses = [handler.pause_until for handler in self.handlers.values()]
        return [pause for pause in pauses if pause > -NEVER]

    def reported(self, error: Exception, culprit: object) -> None:
        check(isinstance(error, FaultError), f"an error that is not of this test: {error!r}")
        check(culprit == self.culprit, f"{culprit!r} did not fail")
        self.failures_reported += 1

    # Shutdown

    def asked_to_close(self, handler: Closable) -> None:
        if self.clock.time() >= self.deadline and self.phase in ("events", "timers"):
            if self.phase == "events":  # at the deadline, which is a timer, who was not asked yet
                self.begin_timers()
        elif self.phase != "soon":
            self.begin_soon()
        check(self.is_shut_down, "closed without a shutdown")
        check(not handler.was_asked, "closed twice")
        handler.was_asked = True
        if self.handlers.get(handler.number) is handler and self.draw(st.booleans()):
            self.removed(handler.number)
            self.loop.remove(handler.number)
        if self.draw(st.booleans()):
            raise FaultError

    def aborted(self, handler: Closable) -> None:
        if self.phase != "timers":
            self.begin_timers()
        check(self.clock.time() >= self.deadline, "aborted before the deadline")
        self.removed(handler.number)

    def closables(self) -> list[Closable]:
        return [handler for handler in self.handlers.values() if isinstance(handler, Closable)]

    # The rules

    def go(self, run: Callable[[], None]) -> None:
        """Run the loop, and see how it ends."""
        try:
            run()
        except KeyboardInterrupt:
            self.leave_turn()
        else:
            self.finish_turn()
            stopped = self.is_stopping or self.is_closed or self.is_shut_down
            check(stopped or not self.is_run, "run has ended")
        self.is_stopping = self.is_run = False
        if self.is_closed:
            self.open_loop()
        self.check_stats()

    def check_stats(self) -> None:
        stats = self.loop.stats()
        check(stats.turns == self.turns, "turns")
        check(stats.failures == self.failures == self.failures_reported, "failures")
        check(self.told_of <= stats.events <= self.collected, "events")
        check(0 <= stats.descriptors - len(self.handlers) <= len(self.stale), "descriptors")
        if not self.is_shut_down:
            pauses = self.pauses()
            certain = len(self.calls) + sum(pause > self.timers_looked_at for pause in pauses)
            uncertain = sum(pause <= self.timers_looked_at for pause in pauses) + len(self.stale)
            check(0 <= stats.timers - certain <= uncertain, "timers")

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.data = data
        for _ in range(3):
            self.open()
            self.add()
            self.send()

    @rule(data=st.data())
    def do(self, data: st.DataObject) -> None:
        self.data = data
        for _ in range(self.draw(st.integers(1, 6))):
            self.do_something()

    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        """The ancestor's way: events are returned, and nobody is called."""
        self.data = data
        self.phase = "polled"
        told = self.loop.poll(0)
        self.phase = "idle"
        for handler, number, event in told:
            assert isinstance(handler, Handler)
            assert self.handlers.get(number) is handler
            self.check_event(number, int(event), self.may_hear.pop(handler))
            if self.must_hear.pop(handler, None) is None:
                handler.must_be_told = handler.may_be_told = False
        for handler, levels in self.must_hear.items():
            pytest.fail(f"{handler.number}, asked for {UEvent(handler.mask)!r}, misses {UEvent(levels)!r}")

    @rule(data=st.data(), timeout=st.none() | SOME_SECONDS)
    def run_once(self, data: st.DataObject, timeout: float | None) -> None:
        self.data = data
        self.longest_wait = self.loop.timeout if timeout is None else timeout
        turns = self.turns
        self.go(lambda: self.loop.run_once(timeout))
        assert self.turns in (turns + 1, 0), "one turn, if it has not closed the loop"

    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        self.data = data
        self.is_run = True
        self.longest_wait, self.turns_left = self.loop.timeout, MOST_TURNS
        self.go(self.loop.run)

    @rule(data=st.data(), grace=SOME_SECONDS)
    def shut_down(self, data: st.DataObject, grace: float) -> None:
        self.data = data
        if self.is_stopping or self.pick([True, True, True, True, False]):
            return  # or there would be little else
        self.is_run = self.is_shut_down = True
        self.deadline = self.clock.time() + grace
        self.to_be_asked = self.closables()
        self.loop.shutdown(grace)
        self.longest_wait, self.turns_left = self.loop.timeout, 400
        self.go(self.loop.run)
        # One may have come after the others had gone, and the loop was stopped.
        left = [handler for handler in self.closables() if handler.turn < self.turns]
        assert not left, "the shutdown has ended too early"
        self.loop.close()
        self.open_loop()


@pytest.mark.timeout(3600 if PROFILE == "nightly" else 120)
def test_state_machine(loop: Uloop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_hypothesis_home_dir(tmp_path)  # or it would leave a folder in the repository
    caplog.set_level(logging.CRITICAL, "uloop")  # or there would be a warning of each slow callback

    class Machine(LoopMachine):
        backend = loop.backend

    run_state_machine_as_test(Machine, settings=PROFILES[PROFILE])
