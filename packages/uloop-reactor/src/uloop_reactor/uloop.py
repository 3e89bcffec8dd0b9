"""Uloop: handlers by descriptor, timers, and one turn of the loop after another.

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
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from uloop_events import UEVENT_OF, Descriptor, UEvent

from .factory import create_backend
from .handler import ProcessesEvents
from .timers import Timer, TimerQueue
from .waker import Waker

__all__ = ["Uloop"]

log = logging.getLogger("uloop.reactor")

UNASKED = int(UEvent.poll_err | UEvent.poll_hup)  # reported whatever the mask
#: registered, but silent: an error is reported once at most, and then filtered out. A mask of
#: 0 would do for silence, if it did not report errors in every turn.
MUTED = ONESHOT = int(UEvent.poll_oneshot)
EDGE = int(UEvent.poll_et)
EXCLUSIVE = int(UEvent.poll_exclusive)
LONGEST_WAIT = 24 * 3600.0  # seconds; the platforms' calls have limits of their own
FIRST_PAUSE = 0.01  # seconds
LONGEST_PAUSE = 1.0  # seconds


class Registration:
    """What the loop knows of one descriptor."""

    __slots__ = ("failures", "handler", "mask", "modified", "pause", "reportable", "turn")

    def __init__(self, handler: ProcessesEvents, mask: int, turn: int) -> None:
        self.handler = handler
        self.ask_for(mask)
        self.turn = turn  # the turn it was made in, whose events are none of its business
        self.modified = turn  # the turn in which the program last said what it wants
        self.failures = 0  # in a row
        self.pause: Timer | None = None  # what ends the pause it is in

    def ask_for(self, mask: int) -> None:
        """What the program wants to be told of; nothing at all, not even errors, if that is 0."""
        self.mask = mask
        self.reportable = mask | UNASKED if mask else 0


class Uloop:
    """An event loop over epoll, kqueue, poll, AFD or select.

    Parameters:
        backend: one of ``available_backends()``; when ``None``, what the environment
            variable ``ULOOP_BACKEND`` says, or else the best one of the platform.

    Raises:
        ValueError: this platform has no such backend.
        OSError: there is no descriptor left.

    >>> loop = Uloop()
    >>> _ = loop.call_later(0.01, loop.stop)
    >>> loop.run()
    >>> loop.close()
    """

    def __init__(self, backend: str | None = None) -> None:
        self._backend, self._loop = create_backend(backend)
        self._registrations: dict[int, Registration] = {}
        self._timers = TimerQueue()
        self._soon: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._periodic: list[tuple[Callable[[], object], Timer]] = []
        self._timeout = 10.0
        self._turn = 0
        self._running = False
        self._stopping = False
        self._asleep = False
        self._closed = False
        self._failed_polls = 0
        with ExitStack() as undo:
            undo.callback(self._loop.close)
            self._waker = Waker()
            undo.callback(self._waker.close)
            self._waker_fileno = self._waker.fileno()
            self.add(self._waker_fileno, UEvent.poll_in, self._waker)
            undo.pop_all()
        log.info("backend: %s", self._backend)

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
        self._check_open()
        number, mask = _number(fileno), operator.index(mode)
        if not callable(getattr(eventhandler, "process_event", None)):
            raise TypeError(
                f"a handler needs a method process_event(fileno, event); {eventhandler!r} has none"
            )
        self._loop.register(number, mask or MUTED)
        # The backend has accepted it, so if the number is known, it was closed in between.
        self._forget(number)
        self._registrations[number] = Registration(eventhandler, mask, self._turn)
        log.debug("added descriptor %d for %r: %r", number, UEVENT_OF[mask], eventhandler)

    def modify(self, fileno: Descriptor, mode: int) -> None:
        """Watch a descriptor for something else; one without a handler is passed over.

        Raises:
            OSError: it is not open any more.
            ValueError: the mode is not possible with the backend.
        """
        number, mask = _number_if_open(fileno), operator.index(mode)
        registration = self._registrations.get(number)
        if registration is None:
            return
        self._loop.modify(number, mask or MUTED)
        registration.ask_for(mask)
        registration.modified = self._turn
        if registration.pause is not None:
            self._mute(number, registration)  # it was possible, and waits for the end of the pause

    def remove(self, fileno: Descriptor) -> None:
        """Forget a descriptor and its handler; one without a handler is passed over.

        Remove it before it is closed: a closed socket does not tell its number any more.
        """
        number = _number_if_open(fileno)
        if self._forget(number):
            try:
                self._loop.unregister(number)
            except OSError:
                pass  # closed already: the backend has dropped it, or is about to
            log.debug("removed descriptor %d", number)

    # Timers and callbacks

    def time(self) -> float:
        """Now, in seconds, on the clock of this loop's timers: ``time.monotonic()``."""
        return time.monotonic()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback(*args)`` in the next turn, or later in this one."""
        self._check_open()
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        self._soon.append((callback, args))

    def call_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """As ``call_soon``, from any thread or signal handler; wakes the loop if it sleeps."""
        self.call_soon(callback, *args)
        if self._asleep:
            self._waker.wake()

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call ``callback(*args)`` once, in ``delay`` seconds; as ``call_soon`` does if that is 0 or less."""
        return self.call_at(time.monotonic() + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call ``callback(*args)`` once, at a time of the clock ``time.monotonic()``."""
        self._check_open()
        return self._timers.add(when, callback, args)

    def call_every(self, period: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call ``callback(*args)`` every ``period`` seconds, first in one period from now.

        It does not drift, and ticks that were missed are skipped.

        Raises:
            ValueError: the period is not positive and finite.
        """
        self._check_open()
        return self._timers.add(time.monotonic() + period, callback, args, period)

    @property
    def timeout(self) -> float:
        """The period of ``add_periodic``, and the longest wait of one turn, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, not {seconds}")
        self._timeout = seconds
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

    # Running

    @property
    def backend(self) -> str:
        """The name of the backend: ``epoll``, ``kqueue``, ``poll``, ``afd`` or ``select``."""
        return self._backend

    def poll(self, timeout: float | None = 10) -> list[tuple[ProcessesEvents, int, UEvent]]:
        """Wait for events and return them, for programs that call their handlers themselves.

        Parameters:
            timeout: seconds to wait at most; ``None`` for ever.

        Returns:
            A list of ``(handler, fileno, event)``; empty when the time ran out, or when
            another thread woke the loop while it waited.
        """
        self._check_open()
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        while True:
            self._asleep = True
            try:
                ready = self._loop.poll(timeout)
            finally:
                self._asleep = False
            events = []
            for number, mask in ready:
                registration = self._registrations.get(number)
                if registration is None:
                    continue
                if number == self._waker_fileno:
                    self._waker.process_event(number, UEVENT_OF[mask])
                    deadline = 0.0
                elif mask := mask & registration.reportable:
                    events.append((registration.handler, number, UEVENT_OF[mask]))
            if events or not ready:
                return events
            # Only what is silent has spoken, or we were woken.
            if deadline is not None:
                timeout = max(0.0, deadline - time.monotonic())
                if not timeout:
                    return events

    def run(self) -> None:
        """Run turn after turn until ``stop``. May be called again after that.

        Raises:
            RuntimeError: the loop runs already.
        """
        self._check_open()
        with self._while_running(), self._waker.woken_by_signals():
            while not self._stopping:
                self._run_turn(self._timeout)

    def run_once(self, timeout: float | None = None) -> None:
        """Run one turn.

        Parameters:
            timeout: seconds to wait at most for something to do; when ``None``, the
                attribute ``timeout``.

        Raises:
            RuntimeError: the loop runs already.
        """
        self._check_open()
        with self._while_running():
            self._run_turn(self._timeout if timeout is None else timeout)

    def stop(self) -> None:
        """End ``run`` after the turn it is in, and at once if it sleeps.

        From a handler, a callback, a signal handler or any other thread; takes no lock. When
        the loop does not run, the next ``run`` returns at once.
        """
        self._stopping = True
        if self._asleep:
            self._waker.wake()

    def close(self) -> None:
        """Let go of everything; the descriptors that were added stay open. A second call does nothing.

        When called by a handler or a callback, ``run`` ends after it.
        """
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._timers.clear()
        self._periodic.clear()
        self._soon.clear()
        self._registrations.clear()
        self._loop.close()
        if not self._running:  # else when run is done with it, for signals may yet arrive
            self._waker.close()

    def __enter__(self) -> Self:
        self._check_open()
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
        return f"<Uloop on {self._backend}, {state}, {max(len(self._registrations) - 1, 0)} descriptors>"

    # One turn

    def _run_turn(self, longest_wait: float) -> None:
        events = iter(self._collect(longest_wait))
        self._turn += 1
        try:
            self._dispatch(events)
        except BaseException:
            self._arm_again(events)
            raise
        self._timers.run_due(self._run_callback)
        soon = self._soon
        for _ in range(len(soon)):
            if soon:  # a callback may have closed the loop
                self._run_callback(*soon.popleft())

    def _dispatch(self, events: Iterator[tuple[int, int]]) -> None:
        turn = self._turn
        debug = log.isEnabledFor(logging.DEBUG)
        registrations = self._registrations
        for number, mask in events:
            # All three were right when the event was collected; an earlier handler of this
            # turn may have removed the descriptor, given its number away, or modified it.
            registration = registrations.get(number)
            if registration is None or registration.turn == turn:
                continue
            mask &= registration.reportable
            if not mask:
                continue
            if debug:
                log.debug("descriptor %d: %r", number, UEVENT_OF[mask])
            try:
                registration.handler.process_event(number, UEVENT_OF[mask])
            except Exception:
                self._handler_failed(number, registration)
            else:
                if registration.failures:
                    registration.failures = 0

    def _arm_again(self, missed: Iterator[tuple[int, int]]) -> None:
        """Have those told again that are told once, and were not, because we are left early."""
        for number, _ in missed:
            registration = self._registrations.get(number)
            if registration is not None and registration.reportable & (ONESHOT | EDGE):
                self._watch(number, registration, registration.mask)

    def _collect(self, longest_wait: float) -> list[tuple[int, int]]:
        """Wait for events, but not beyond the next timer, nor if there is something to do."""
        # Whoever wakes us leaves a note first and looks at _asleep then; we do it the other
        # way round. So either we see the note, or they see that we sleep.
        self._asleep = True
        try:
            if self._soon or self._stopping:
                wait = 0.0
            else:
                wait = min(longest_wait, LONGEST_WAIT, self._timers.next_time() - time.monotonic())
            events = self._loop.poll(wait if wait > 0 else 0)
        except OSError as error:
            self._poll_failed(error)
            events = []
        else:
            if self._failed_polls:
                log.warning("%s works again, after %d failures", self._backend, self._failed_polls)
                self._failed_polls = 0
        finally:
            self._asleep = False
        return events

    def _poll_failed(self, error: OSError) -> None:
        """Log the first failure in a row, and wait a while, so that timers go on and nothing spins."""
        if not self._failed_polls:
            log.error("%s failed, and is tried again: %s", self._backend, error)
        pause = min(_pause(self._failed_polls), self._timers.next_time() - time.monotonic())
        self._failed_polls += 1
        if pause > 0 and not self._stopping:
            self._waker.wait(pause)
            self._waker.process_event(self._waker_fileno, UEvent.poll_in)

    def _run_callback(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            callback(*args)
        except Exception:
            log.exception("callback %r failed", callback)

    def _handler_failed(self, number: int, registration: Registration) -> None:
        log.exception("handler %r failed on descriptor %d", registration.handler, number)
        if self._registrations.get(number) is not registration:
            return  # it has removed itself
        registration.failures += 1
        # A oneshot is silent by itself, unless the handler asked for more before it failed.
        silent = registration.mask & ONESHOT and registration.modified != self._turn
        if registration.failures > 1 and not silent:
            pause = _pause(registration.failures - 2)
            registration.pause = self.call_later(pause, self._end_pause, number, registration)
            self._mute(number, registration)

    def _end_pause(self, number: int, registration: Registration) -> None:
        registration.pause = None
        registration.ask_for(registration.mask)
        self._watch(number, registration, registration.mask or MUTED)

    def _mute(self, number: int, registration: Registration) -> None:
        registration.reportable = 0
        self._watch(number, registration, MUTED)

    def _watch(self, number: int, registration: Registration, mask: int) -> None:
        """Have the backend watch for something else than the program asked for, or for that again."""
        try:
            if registration.mask & EXCLUSIVE:  # epoll_ctl(2) does not modify these
                self._loop.unregister(number)
                self._loop.register(number, mask)
            else:
                self._loop.modify(number, mask)
        except OSError:
            log.warning(
                "removed descriptor %d: it was closed; its handler was %r", number, registration.handler
            )
            self._forget(number)

    # The table

    def _forget(self, number: int) -> bool:
        registration = self._registrations.pop(number, None)
        if registration is not None and registration.pause is not None:
            registration.pause.cancel()
        return registration is not None

    @contextmanager
    def _while_running(self) -> Iterator[None]:
        if self._running:
            raise RuntimeError("this loop runs already")
        self._running = True
        try:
            yield
        finally:
            self._running = False
            self._stopping = False  # this stop has been obeyed
            if self._closed:
                self._waker.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this loop is closed")


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
