"""Uloop: one turn of the loop after another.

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
5. A change reaches the kernel at once, so that an error reaches the one who caused it.

One thread runs a loop. From others, and from signal handlers, only ``call_threadsafe`` and
``stop`` may be called: they leave a note, and wake the loop if it sleeps.
"""

from __future__ import annotations

import logging
import math
import operator
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, cast

from uloop_events import UEVENT_OF, Descriptor, HasFileno, UEvent

from . import forks
from .handler import ProcessesEvents
from .health import Health, Stats
from .offload import AddressInfo, Offload
from .registry import Registration, Registry
from .shutdown import Shutdown
from .signals import Signals
from .timers import Clock, Timer, TimerQueue
from .waker import Waker

__all__ = ["Uloop"]

log = logging.getLogger("uloop.reactor")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONGEST_WAIT = 24 * 3600.0  # seconds; the platforms' calls have limits of their own
FIRST_PAUSE = 0.01  # seconds
LONGEST_PAUSE = 1.0  # seconds
SHORT_WAIT = 0.05  # seconds; of a longer one a millisecond is no matter


class Uloop:
    """An event loop over epoll, kqueue, poll, AFD or select.

    Parameters:
        backend: one of ``available_backends()``; when ``None``, what the environment
            variable ``ULOOP_BACKEND`` says, or else the best one of the platform.
        clock: where the time comes from, and how it passes: for tests, a
            ``uloop_reactor.testing.VirtualClock``.

    Attributes:
        slow_callback: callbacks and handlers that take longer, in seconds, are warned of.

    Raises:
        ValueError: this platform has no such backend.
        OSError: there is no descriptor left.

    >>> loop = Uloop()
    >>> _ = loop.call_later(0.01, loop.stop)
    >>> loop.run()
    >>> loop.close()
    """

    def __init__(self, backend: str | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock
        self.time: Callable[[], float] = time.monotonic if clock is None else clock.time
        self._registry = Registry(backend)
        self._timers = TimerQueue()
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._periodic: list[tuple[Callable[[], object], Timer]] = []
        self._timeout = self._longest_wait = 10.0
        self._now = self.time()  # when we last looked
        self._health = Health(self._registry.table, self._now)
        self._running = False
        self._stopping = False
        self._asleep = False
        self._closed = False
        self._failed_polls = 0
        self._turn_of_stranger = 0
        self._on_error: Callable[[Exception, object], object] | None = None
        self._signals = Signals(self._signalled)
        self._offload: Offload | None = None
        self._shutdown: Shutdown | None = None
        self._aside: _Aside | None = None
        with ExitStack() as undo:
            undo.callback(self._registry.close)
            self._waker = Waker()
            undo.callback(self._waker.close)
            self._registry.add(self._waker.fileno(), int(UEvent.poll_in), self._waker)
            undo.pop_all()
        self._use_backend()
        forks.note(self)
        log.info("backend: %s", self.backend)

    # Descriptors

    def add(self, fileno: Descriptor, mode: int, eventhandler: ProcessesEvents) -> None:
        """Have a handler called when something happens on a descriptor.

        Parameters:
            fileno: the number of an open descriptor, or an object with ``fileno()``.
            mode: the :class:`UEvent` bits to watch for. ``poll_none`` is silence: not even
                errors are reported, until ``modify`` asks for something.
            eventhandler: an object with ``process_event(fileno, event)``.

        Raises:
            FileExistsError: the descriptor has a handler already.
            PermissionError: it is a file or a directory, which cannot be watched.
            OSError: it is not open.
            ValueError: it does not fit the backend, or the mode is not possible with it.
            TypeError: an argument is of the wrong type.
        """
        self._check_usable()
        number, mask = _number(fileno), operator.index(mode)
        if not callable(getattr(eventhandler, "process_event", None)):
            raise TypeError(
                f"a handler needs a method process_event(fileno, event); {eventhandler!r} has none"
            )
        before = self._registry.add(number, mask, eventhandler)
        if before is not None:
            self._health.was_closed(number, before.handler)
        log.debug("added descriptor %d for %r: %r", number, UEVENT_OF[mask], eventhandler)

    def modify(self, fileno: Descriptor, mode: int) -> None:
        """Watch a descriptor for something else; one without a handler is passed over.

        Raises:
            OSError: it is not open any more.
            ValueError: the mode is not possible with the backend.
        """
        self._registry.modify(_number_if_open(fileno), operator.index(mode))

    def remove(self, fileno: Descriptor) -> None:
        """Forget a descriptor and its handler; one without a handler is passed over.

        Remove it before it is closed: a closed socket does not tell its number any more.
        """
        number = _number_if_open(fileno)
        if self._registry.remove(number):
            log.debug("removed descriptor %d", number)
            if self._shutdown is not None and not self._closed:
                self._shutdown.changed()

    # Timers and callbacks

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``callback(*args)`` in the next turn, or later in this one."""
        self._check_usable()
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        self._soon.append((callback, args))

    def call_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As ``call_soon``, from any thread or signal handler; wakes the loop if it sleeps."""
        self.call_soon(callback, *args)
        if self._asleep:
            self._waker.wake()

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """Call ``callback(*args)`` once, in ``delay`` seconds; as ``call_soon`` does if that is 0 or less."""
        self._check_usable()
        return self._timers.add(self.time() + delay, callback, args)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """Call ``callback(*args)`` once, at a time of the clock ``loop.time()``."""
        self._check_usable()
        return self._timers.add(when, callback, args)

    def call_every(
        self,
        period: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        jitter: float = 0.0,
        first: float | None = None,
    ) -> Timer:
        """Call ``callback(*args)`` every ``period`` seconds.

        It does not drift, and ticks that were missed are skipped.

        Parameters:
            jitter: each call comes up to so many seconds later, by chance, so that those who
                were started together do not call together for ever. It does not add up.
            first: seconds until the first call; one period if ``None``.

        Raises:
            ValueError: a time is not finite, the period is not positive, or the jitter is not
                from 0 to the period.
        """
        self._check_usable()
        start = self.time() + (period if first is None else first)
        return self._timers.add_periodic(start, period, jitter, callback, args)

    @property
    def timeout(self) -> float:
        """The period of ``add_periodic``, and the longest wait of one turn, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, not {seconds}")
        self._timeout = seconds
        self._longest_wait = min(seconds, LONGEST_WAIT)
        for index, (callback, timer) in enumerate(self._periodic):
            timer.cancel()
            self._periodic[index] = callback, self.call_every(seconds, callback)

    def add_periodic(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` every ``timeout`` seconds while the loop runs."""
        self._periodic.append((callback, self.call_every(self._timeout, callback)))

    def remove_periodic(self, callback: Callable[[], object]) -> None:
        """Undo one ``add_periodic``.

        Raises:
            ValueError: it was not added.
        """
        for index, (known, timer) in enumerate(self._periodic):
            if known == callback:
                timer.cancel()
                del self._periodic[index]
                return
        raise ValueError(f"{callback!r} is not a periodic callback of this loop")

    # Signals, threads, errors

    def on_signal(self, signum: int, callback: Callable[[*Ts], object] | None, *args: *Ts) -> None:
        """Call ``callback(*args)`` in a turn of the loop when a signal has come.

        Parameters:
            signum: as in ``signal.SIGTERM``.
            callback: ``None`` restores what was there before, and so does ``close``.

        Raises:
            RuntimeError: this is not the main thread, where Python's signal handlers run.
            ValueError, OSError: the platform has no such signal, or it cannot be caught.
        """
        self._check_usable()
        self._signals.on(signum, callback, args)

    def on_error(self, callback: Callable[[Exception, object], object] | None) -> None:
        """Be told of what handlers and callbacks raise; without, or with ``None``, it is logged.

        Parameters:
            callback: called with the exception, and the handler or callback that raised it.
        """
        self._on_error = callback

    def run_in_thread(
        self,
        function: Callable[[*Ts], T],
        *args: *Ts,
        done: Callable[[Future[T]], object] | None = None,
    ) -> Future[T]:
        """Call a function on a thread, then ``done(future)`` in the loop's: see :meth:`Offload.run`."""
        return self._threads().run(function, *args, done=done)

    def resolve(
        self,
        host: str | None,
        port: int | str | None,
        done: Callable[[Future[list[AddressInfo]]], object],
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - the names of getaddrinfo
    ) -> Future[list[AddressInfo]]:
        """Resolve a name on a thread, then call ``done(future)``: see :meth:`Offload.resolve`."""
        return self._threads().resolve(host, port, done, family=family, type=type)

    def _threads(self) -> Offload:
        self._check_usable()
        if self._offload is None:
            self._offload = Offload(self.call_threadsafe)
        return self._offload

    # Health

    @property
    def backend(self) -> str:
        """The name of the backend: ``epoll``, ``kqueue``, ``poll``, ``afd`` or ``select``."""
        return self._registry.name

    @property
    def slow_callback(self) -> float:
        """Handlers and callbacks that take longer than so many seconds are warned of; 0.1 at first."""
        return self._health.allowed

    @slow_callback.setter
    def slow_callback(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"slow_callback must be a positive number of seconds, not {seconds}")
        self._health.allow(seconds)

    def stats(self) -> Stats:
        """How the loop is doing."""
        health = self._health
        return Stats(
            backend=self.backend,
            descriptors=max(len(self._registry.table) - 1, 0),  # the waker is ours
            timers=len(self._timers),
            turns=self._registry.turn,
            events=health.events,
            failures=health.failures,
            lag=health.lag,
            longest_lag=health.longest_lag,
            slowest=health.slowest,
            slowest_name=health.slowest_name,
            slow=health.slow,
            spinning=health.spinning,
            closed=health.closed,
        )

    # Running

    def poll(self, timeout: float | None = 10) -> list[tuple[ProcessesEvents, int, UEvent]]:
        """Wait for events and return them, for programs that call their handlers themselves.

        Parameters:
            timeout: seconds to wait at most; ``None`` for ever.

        Returns:
            A list of ``(handler, fileno, event)``; empty when the time ran out, or when
            another thread woke the loop while it waited.
        """
        self._check_usable()
        deadline = math.inf if timeout is None or timeout < 0 else self.time() + timeout
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
                registration = self._registry.table.get(number)
                if registration is None:
                    self._rid_of_strangers([number])
                elif registration.handler is self._waker:
                    self._waker.process_event(number, UEVENT_OF[mask])
                    woken = True
                elif mask := mask & registration.reportable:
                    events.append((registration.handler, number, UEVENT_OF[mask]))
            # If there are none, only what is silent has spoken, or we were woken.
            if events or woken or self.time() >= deadline:
                return events

    def run(self) -> None:
        """Run turn after turn until ``stop``. May be called again after that.

        Raises:
            RuntimeError: the loop runs already; or the process has forked in it, and this is the
                child.
        """
        with self._while_running(), self._waker.woken_by_signals():
            self._run_turns(None)

    def run_once(self, timeout: float | None = None) -> None:
        """Run one turn.

        Parameters:
            timeout: seconds to wait at most for something to do; when ``None``, the
                attribute ``timeout``.

        Raises:
            RuntimeError: as ``run``.
        """
        with self._while_running():
            self._run_turns(self._longest_wait if timeout is None else min(max(timeout, 0), LONGEST_WAIT))

    def stop(self) -> None:
        """End ``run`` after the turn it is in, and at once if it sleeps.

        From a handler, a callback, a signal handler or any other thread; takes no lock. When
        the loop does not run, the next ``run`` returns at once.
        """
        self._stopping = True
        if self._asleep:
            self._waker.wake()

    def shutdown(self, grace: float = 10.0) -> None:
        """Finish what was begun, then stop: close every handler that can be closed, and wait for them.

        Listeners stop accepting, streams send what they hold. May be called again, with another
        deadline; from another thread by ``call_threadsafe(loop.shutdown)``.

        Parameters:
            grace: seconds until those that are left are aborted.
        """
        self._check_usable()
        if self._shutdown is None:
            self._shutdown = Shutdown(self, self._handlers, self._shutdown_is_over)
        self._shutdown.begin(grace)

    def close(self) -> None:
        """Let go of everything; the descriptors that were added stay open. A second call does nothing.

        When called by a handler or a callback, ``run`` ends after it.
        """
        if self._closed:
            return
        self._closed = True
        self.stop()
        if self._aside is None:
            self._signals.restore()
        self._timers.clear()
        self._periodic.clear()
        self._soon.clear()
        if self._offload is not None:
            self._offload.close()
        self._registry.close()
        if not self._running:  # else when run is done with it, for signals may yet arrive
            self._waker.close()

    def reinit(self) -> None:
        """In a forked child: go on with what the parent had, in a backend of its own.

        Handlers, timers and callbacks are those of the moment of the fork; calls on threads
        are the parent's alone. In a process that was not forked it does nothing.

        Raises:
            OSError: there is no descriptor left.
        """
        aside = self._aside
        if aside is None or self._closed:
            return
        waker = self._waker.fileno()
        self._waker.renew()
        table = {number: entry for number, entry in aside.table.items() if number != waker}
        self._registry.renew(table)
        self._registry.add(self._waker.fileno(), int(UEvent.poll_in), self._waker)
        self._use_backend()
        self._timers.put_back(aside.timers)
        self._soon.extend(aside.soon)
        self._stopping = aside.stopping
        self._signals.renew()
        self._aside = None

    def __enter__(self) -> Self:
        self._check_usable()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._running else "idle"
        return f"<Uloop on {self.backend}, {state}, {self.stats().descriptors} descriptors>"

    # Turns

    def _run_turns(self, longest_wait: float | None) -> None:
        """Run one turn that waits for so long at most; or if that is ``None``, turns until ``stop``.

        All of it is one function, and reads what does not change once, because calls cost more
        here than what they do: in pieces a turn with one event costs 0.14 microseconds more, of 4.
        """
        registry, timers, soon, health = self._registry, self._timers, self._soon, self._health
        table, heap, time = registry.table, timers.heap, self.time
        debug = log.isEnabledFor(logging.DEBUG)
        now = time()
        while not self._stopping or longest_wait is not None:
            # Wait, but not beyond the next timer, nor if there is something to do.
            poll = self._poll
            wait = self._longest_wait if longest_wait is None else longest_wait
            if heap:
                wait = min(wait, timers.next_time() - now)
                if wait < SHORT_WAIT:
                    poll = self._poll_briefly
            # Whoever wakes us leaves a note first and looks at _asleep then; we do it the other
            # way round. So either we see the note, or they see that we sleep.
            self._asleep = True
            try:
                events = poll(0 if soon or self._stopping else wait)
            except OSError as error:
                events = self._poll_failed(error)
            else:
                if self._failed_polls:
                    self._poll_works()
            finally:
                self._asleep = False

            registry.turn = turn = registry.turn + 1
            woken = now = time()
            if now >= health.next_check:
                self._check_health(now, events)
                debug = log.isEnabledFor(logging.DEBUG)

            # Hand each event to its handler.
            health.events += len(events)
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
                    if not mask or registration.turn == turn:
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

    def _run_callback(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._failed(error, callback, "callback %r failed", callback)
        before, self._now = self._now, self.time()
        if self._now - before > self._health.remarkable:
            self._health.took(self._now - before, callback)

    def _poll_briefly(self, wait: float) -> list[tuple[int, int]]:
        """Wait until a timer is due, which may be already.

        epoll_wait(2) counts milliseconds, rounded up: a timer would be late by up to one.
        select(2) counts microseconds, and an epoll is a descriptor like any other. The two calls
        cost 2.2 microseconds for 0.8, so short waits alone are made so.
        """
        if wait > 0 and self._precise:
            select.select(self._precise, (), (), wait)
            wait = 0
        return self._poll(wait if wait > 0 else 0)

    def _use_backend(self) -> None:
        """Have the turns wait with the backend there is now."""
        backend, clock = self._registry.backend, self._clock
        self._poll: Callable[[float], list[tuple[int, int]]] = (
            backend.poll if clock is None else partial(clock.wait, backend.poll)
        )
        self._precise: list[int] = []
        if self.backend == "epoll" and clock is None:
            number = cast(HasFileno, backend).fileno()
            if number < 1024:  # select(2) takes no others
                self._precise.append(number)

    # What goes wrong

    def _failed(self, error: Exception, culprit: object, message: str, *args: object) -> None:
        self._health.failures += 1
        if self._on_error is not None:
            try:
                self._on_error(error, culprit)
            except Exception:
                log.exception("the callback of on_error failed")
            else:
                return
        log.error(message, *args, exc_info=error)

    def _handler_failed(self, number: int, registration: Registration, error: Exception) -> None:
        handler, registry = registration.handler, self._registry
        self._failed(error, handler, "handler %r failed on descriptor %d", handler, number)
        if registry.table.get(number) is not registration:
            return  # it has removed itself
        registration.failures += 1
        if registration.failures > 1 and registry.asks_for_more(registration):
            pause = _pause(registration.failures - 2)
            until = self.call_later(pause, registry.let_in, number, registration)
            registry.leave_out(number, registration, until)

    def _poll_failed(self, error: OSError) -> list[tuple[int, int]]:
        """Log the first failure in a row, and wait a while, so that timers go on and nothing spins."""
        if not self._failed_polls:
            log.error("%s failed, and is tried again: %s", self.backend, error)
        pause = min(_pause(self._failed_polls), self._timers.next_time() - self.time())
        self._failed_polls += 1
        if pause > 0 and not self._stopping:
            self._waker.wait(pause)
            self._waker.process_event(self._waker.fileno(), UEvent.poll_in)
        return []

    def _poll_works(self) -> None:
        log.warning("%s works again, after %d failures", self.backend, self._failed_polls)
        self._failed_polls = 0

    def _check_health(self, now: float, events: list[tuple[int, int]]) -> None:
        compare = self._health.check(now, self._registry.turn, events)
        if compare is not None:
            self._soon.append((compare, ()))
        for number in self._health.closed_ones():
            closed = self._registry.forget(number)
            if closed is not None:
                self._health.was_closed(number, closed.handler)

    def _arm_those_after(self, number: int, events: list[tuple[int, int]]) -> None:
        """The turn is left early, after the event of this descriptor."""
        position = [told for told, _ in events].index(number)
        self._registry.arm_again(events[position + 1 :])

    def _met_stranger(self, number: int) -> None:
        """The backend has told of a descriptor that is not in our table.

        As a rule an earlier handler of the same turn has removed it. But epoll watches open files,
        not numbers: when a descriptor was closed before it was removed, and a duplicate of it lives
        on, in a forked child for instance, epoll tells of it for ever, and nobody can unregister it.
        """
        turn = self._registry.turn
        if self._turn_of_stranger == turn - 1:
            self._soon.append((self._look_for_strangers, ()))
        self._turn_of_stranger = turn

    def _look_for_strangers(self) -> None:
        ready = self._registry.backend.poll(0)
        self._registry.arm_again(ready)
        self._rid_of_strangers([number for number, _ in ready if number not in self._registry.table])

    def _rid_of_strangers(self, strangers: list[int]) -> None:
        if strangers:
            log.warning(
                "descriptor %d was closed before it was removed, and a duplicate of it lives on", strangers[0]
            )
            self._registry.renew(dict(self._registry.table))
            self._use_backend()

    # The state of the loop

    def _handlers(self) -> list[tuple[int, object]]:
        """The program's handlers, by descriptor."""
        return [
            (number, registration.handler)
            for number, registration in self._registry.table.items()
            if registration.handler is not self._waker
        ]

    def _shutdown_is_over(self) -> None:
        self._shutdown = None

    def _signalled(self, callback: Callable[..., object], *args: object) -> None:
        if not self._closed:
            self.call_threadsafe(callback, *args)

    def _put_aside(self) -> None:
        """In a forked child: do nothing more with what is the parent's; see ``forks``."""
        table, timers = self._registry.table, self._timers
        self._aside = _Aside(dict(table), timers.put_aside(), list(self._soon), self._stopping)
        table.clear()
        self._soon.clear()
        self._stopping = True
        self._asleep = False
        self._offload = None  # its threads have not come along
        self._waker.let_go()
        self._signals.restore()

    @contextmanager
    def _while_running(self) -> Iterator[None]:
        self._check_usable()
        if self._running:
            raise RuntimeError("this loop runs already")
        self._running = True
        self._now = self.time()
        try:
            yield
        finally:
            self._running = False
            self._stopping = False  # this stop has been obeyed
            if self._closed:
                self._waker.close()
        if self._aside is not None and not self._closed:
            raise RuntimeError(forks.FORKED)

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this loop is closed")
        if self._aside is not None:
            raise RuntimeError(forks.FORKED)


class _Aside:
    """What a loop held when its process forked."""

    def __init__(
        self,
        table: dict[int, Registration],
        timers: list[tuple[float, int, Timer]],
        soon: list[tuple[Callable[..., object], tuple[Any, ...]]],
        stopping: bool,
    ) -> None:
        self.table = table
        self.timers = timers
        self.soon = soon
        self.stopping = stopping


def _number(fileno: Descriptor) -> int:
    if isinstance(fileno, int):
        return fileno
    if not hasattr(fileno, "fileno"):
        raise TypeError(f"a descriptor is a number or has a method fileno(); {fileno!r} is neither")
    return fileno.fileno()


def _number_if_open(fileno: Descriptor) -> int:
    """The number of a descriptor; -1 for what is closed, as sockets say and file objects do not."""
    try:
        return _number(fileno)
    except ValueError:
        return -1


def _pause(failures: int) -> float:
    """Seconds to leave something out that has failed so often: doubled each time, up to a limit."""
    return min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE)
