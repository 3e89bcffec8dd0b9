"""Uloop: what a program asks of a loop. What the loop does then is in ``turns``.

A change reaches the kernel at once, so that an error reaches the one who caused it.

One thread runs a loop. From others, and from signal handlers, only ``call_threadsafe`` and
``stop`` may be called: they leave a note, and wake the loop if it sleeps.
"""

from __future__ import annotations

import logging
import math
import operator
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple

from uloop_events import UEVENT_OF, Descriptor, UEvent

from . import forks
from .handler import ProcessesEvents
from .health import Stats
from .offload import AddressInfo, Offload
from .shutdown import Shutdown
from .signals import Signals
from .timers import Clock, Timer
from .turns import LONGEST_WAIT, Turns

__all__ = ["Uloop"]

log = logging.getLogger("uloop.reactor")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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
        self._turns = Turns(backend, clock)
        #: now, in seconds, on the clock of the timers: ``time.monotonic()``
        self.time: Callable[[], float] = self._turns.time
        self._periodic: list[tuple[Callable[[], object], Timer]] = []
        self._timeout = 10.0
        self._running = 0  # the thread that runs it
        self._closed = False
        self._signals = Signals(self._signalled)
        self._offload: Offload | None = None
        self._shutdown: Shutdown | None = None
        self._aside: forks.Aside | None = None
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
        before = self._turns.registry.add(number, mask, eventhandler)
        if before is not None:
            self._turns.health.was_closed(number, before.handler)
        if self._shutdown is not None:
            self._shutdown.changed()
        log.debug("added descriptor %d for %r: %r", number, UEVENT_OF[mask], eventhandler)

    def modify(self, fileno: Descriptor, mode: int) -> None:
        """Watch a descriptor for something else; one without a handler is passed over.

        Raises:
            OSError: it is not open any more.
            ValueError: the mode is not possible with the backend.
        """
        self._turns.registry.modify(_number_if_open(fileno), operator.index(mode))

    def remove(self, fileno: Descriptor) -> None:
        """Forget a descriptor and its handler; one without a handler is passed over.

        Remove it before it is closed: a closed socket does not tell its number any more.
        """
        number = _number_if_open(fileno)
        if self._aside is not None:
            self._aside.forget(number)
        elif self._turns.registry.remove(number):
            log.debug("removed descriptor %d", number)
            if self._shutdown is not None and not self._closed:
                self._shutdown.changed()

    # Timers and callbacks

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``callback(*args)`` in the next turn, or later in this one."""
        self._check_usable()
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        self._turns.soon.append((callback, args))

    def call_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As ``call_soon``, from any thread or signal handler; wakes the loop if it sleeps."""
        self.call_soon(callback, *args)
        self._turns.wake()

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """Call ``callback(*args)`` once, in ``delay`` seconds; as ``call_soon`` does if that is 0 or less."""
        self._check_usable()
        try:
            when = self.time() + delay
        except TypeError:
            raise TypeError(f"delay must be a number of seconds, not {delay!r}") from None
        return self._turns.timers.add(when, callback, args)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
        """Call ``callback(*args)`` once, at a time of the clock ``loop.time()``."""
        self._check_usable()
        return self._turns.timers.add(when, callback, args)

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
        return self._turns.timers.add_periodic(start, period, jitter, callback, args)

    @property
    def timeout(self) -> float:
        """The period of ``add_periodic``, and the longest wait of one turn, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, not {seconds}")
        self._timeout = seconds
        self._turns.longest_wait = min(seconds, LONGEST_WAIT)
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
        self._turns.on_error = callback

    def report_error(self, error: Exception, culprit: object) -> None:
        """Tell of an exception as the loop does itself: to ``on_error``'s callback, or to the log.

        For handlers that call several callbacks, and will not have one of them fail the others.
        """
        self._turns.failed(error, culprit, "%r failed", culprit)

    def run_in_thread(
        self,
        function: Callable[[*Ts], T],
        *args: *Ts,
        done: Callable[[Future[T]], object] | None = None,
    ) -> Future[T]:
        """Call a function on a thread, then ``done(future)`` in the loop's: see :meth:`Offload.run`."""
        return self._awaited(self._threads().run(function, *args, done=done))

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
        return self._awaited(self._threads().resolve(host, port, done, family=family, type=type))

    def _awaited(self, future: Future[T]) -> Future[T]:
        """A virtual clock has patience with what is under way elsewhere."""
        self._turns.elsewhere.add(future)
        future.add_done_callback(self._turns.elsewhere.discard)
        return future

    def _threads(self) -> Offload:
        self._check_usable()
        if self._offload is None:
            self._offload = Offload(self.call_threadsafe)
        return self._offload

    # Health

    @property
    def backend(self) -> str:
        """The name of the backend: ``epoll``, ``kqueue``, ``poll``, ``afd`` or ``select``."""
        return self._turns.registry.name

    @property
    def slow_callback(self) -> float:
        """Handlers and callbacks that take longer than so many seconds are warned of; 0.1 at first."""
        return self._turns.health.allowed

    @slow_callback.setter
    def slow_callback(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"slow_callback must be a positive number of seconds, not {seconds}")
        self._turns.health.allow(seconds)

    def stats(self) -> Stats:
        """How the loop is doing."""
        health = self._turns.health
        return Stats(
            backend=self.backend,
            descriptors=max(len(self._turns.registry.table) - 1, 0),  # the waker is ours
            timers=len(self._turns.timers),
            turns=self._turns.registry.turn,
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

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def poll(self, timeout: float | None = 10) -> list[tuple[ProcessesEvents, int, UEvent]]:
        """Wait for events and return them, for programs that call their handlers themselves.

        Parameters:
            timeout: seconds to wait at most; ``None`` for ever.

        Returns:
            A list of ``(handler, fileno, event)``; empty when the time ran out, or when
            another thread woke the loop while it waited.
        """
        self._check_usable()
        return self._turns.events(math.inf if timeout is None or timeout < 0 else timeout)

    def run(self) -> None:
        """Run turn after turn until ``stop``. May be called again after that.

        Raises:
            RuntimeError: the loop runs already; or the process has forked in it, and this is the
                child.
        """
        with self._while_running(), self._turns.waker.woken_by_signals():
            self._turns.run(None)

    def run_once(self, timeout: float | None = None) -> None:
        """Run one turn.

        Parameters:
            timeout: seconds to wait at most for something to do; when ``None``, the
                attribute ``timeout``.

        Raises:
            RuntimeError: as ``run``.
        """
        if timeout is None:
            timeout = self._turns.longest_wait
        elif math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds, not nan")
        with self._while_running():
            self._turns.run(min(max(timeout, 0.0), LONGEST_WAIT))

    def stop(self) -> None:
        """End ``run`` after the turn it is in, and at once if it sleeps.

        From a handler, a callback, a signal handler or any other thread; takes no lock. When
        the loop does not run, the next ``run`` returns at once.
        """
        self._turns.stopping = True
        self._turns.wake()

    def shutdown(self, grace: float = 10.0) -> None:
        """Finish what was begun, then stop: close every handler that can be closed, and wait for them.

        Listeners stop accepting, streams send what they hold. May be called again, to bring the
        deadline forward: ``shutdown(0)`` is at once. From another thread it is
        ``call_threadsafe(loop.shutdown)``.

        Parameters:
            grace: seconds until those that are left are aborted.
        """
        self._check_usable()
        if self._shutdown is None:
            self._shutdown = Shutdown(self, self._handlers, self._shutdown_is_over)
        self._shutdown.begin(grace)

    def close(self) -> None:
        """Let go of everything; a second call does nothing.

        What was added stays open, and its handlers are not told: to end in order, call
        :meth:`shutdown` first. When called by a handler or a callback, ``run`` ends after it.
        """
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._turns.timers.clear()
        self._periodic.clear()
        self._turns.soon.clear()
        if self._offload is not None:
            self._offload.close()
        self._turns.registry.close()
        # While it runs: when run is done with it, for signals may yet arrive. But not those of a parent.
        if not self._running or self._aside is not None:
            self._turns.waker.close()
        self._signals.restore()

    def reinit(self) -> None:
        """In a forked child: go on with what the parent had, in a backend of its own.

        Handlers, timers and callbacks are those of the moment of the fork; calls on threads
        are the parent's alone. In a process that was not forked it does nothing.

        Raises:
            OSError: there is no descriptor left.
        """
        if self._aside is not None and not self._closed:
            self._aside.give_back(self._turns)
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

    # The state of the loop

    def _handlers(self) -> list[tuple[int, object]]:
        """The program's handlers, by descriptor."""
        return [
            (number, registration.handler)
            for number, registration in self._turns.registry.table.items()
            if registration.handler is not self._turns.waker
        ]

    def _shutdown_is_over(self) -> None:
        self._shutdown = None

    def _signalled(self, callback: Callable[..., object], *args: object) -> None:
        if not self._closed:
            self.call_threadsafe(callback, *args)

    def _put_aside(self) -> None:
        """In a forked child: do nothing more with what is the parent's; see ``forks``."""
        if self._aside is None:
            if self._running != threading.get_ident():
                self._running = 0  # it ran in a thread that has not come along
            self._aside = forks.Aside(self._turns)
            self._offload = None  # its threads have not come along
            self._turns.elsewhere.clear()
            self._signals.put_aside()

    @contextmanager
    def _while_running(self) -> Iterator[None]:
        self._check_usable()
        if self._running:
            raise RuntimeError("this loop runs already")
        self._running = threading.get_ident()
        try:
            yield
        finally:
            self._running = 0
            self._turns.stopping = False  # this stop has been obeyed
            if self._closed:
                self._turns.waker.close()
        if self._aside is not None and not self._closed:
            raise RuntimeError(forks.FORKED)

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this loop is closed")
        if self._aside is not None:
            raise RuntimeError(forks.FORKED)


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
