"""Workers: several processes that serve the same endpoints, and the parent that keeps them running.

The parent serves nobody. Each worker has a number, and sockets of its own on the shared ports,
among which the kernel deals the clients out (SO_REUSEPORT). The rules:

1. The sockets are bound by the parent, once, before it gives up root, and it holds on to them. Worker
   3 serves the third set. If it dies, the connections that wait in its backlog and the datagrams
   in its buffers wait for whoever takes its place, who has the same set: lost is only what the
   dead process had taken in. If each worker bound its own, its death would reset that
   backlog, ports below 1024 could not be had again without root, and with port 0
   each would get another. One socket for all would wake all for each client, and does not
   spread the load: who is awake already takes the most.
2. Workers are forked, not started by exec: one that takes the place of another needs no file any
   more, neither the configuration, which may be unreadable without root or bad by now, nor the
   program, which may have been upgraded. And the counters, in anonymous memory, stay shared.
3. A dead worker is replaced at once. If it died before it was ready or within a second of its start,
   or could not even be started, the next one comes after 0.1 s, then after twice as long each time, up
   to 10 s. The fifth such failure in a row ends it all, if the service has never been ready or if the
   other places have had five as well: nothing gets better by trying for ever, and whoever has
   started us may know what to do. But while others serve, one place in trouble does not end them: what
   the kernel deals to it waits meanwhile, and ``unready`` says so. Each death is one line in the
   log; so are starts that fail, however many in a row.
4. A worker without a heartbeat for 30 s hangs: it is killed, and rule 3 holds.
5. To drain, the parent closes its copies of the sockets first, so that a worker's are the last
   ones: once that has emptied its backlog and closed them, the kernel accepts for nobody. Then it
   gives the order. Who is there a second after the grace has passed is killed.

Parent and worker are connected by a channel, a pair of sockets. The worker sends one byte when it is
ready; the parent sends new settings, or the order to end, pickled. (The worker is the one that strangers
talk to: what it sends is never unpickled.) The end of the channel is the end of the process that held
the other one: the parent learns of a death by it, and a worker without parent drains and ends, so that
none serves on as an orphan. A worker ignores SIGINT, SIGTERM and SIGHUP, which a terminal or systemd send to
parent and workers alike: the parent has them too, and decides what they mean.

There is no such thing on Windows, nor where a port cannot be shared: ``Endpoint.bind`` refuses.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from uloop_reactor import Stream, Timer, Uloop

from . import logs
from .counters import Counters, Ledger, Vital
from .endpoint import Bound
from .service import SLOWEST_HEARTBEAT, Service
from .timesource import LEAP_UNSYNCHRONISED

if TYPE_CHECKING:
    from .config import Settings

__all__ = ["Supervisor", "Work", "serve"]

log = logging.getLogger("uloop.servers")

Work = Callable[["Settings", int, Bound, Counters, socket.socket], int]

EARLY = 1.0  # seconds; who does not live longer was ill from the start
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0)  # seconds after each failure in a row; then the last
MOST_FAILURES = 5
HEARTBEAT_LOST = 30.0  # seconds until a worker is killed
CHECK_INTERVAL = 1.0  # seconds
REAP_INTERVAL = 0.01  # seconds
AFTER_GRACE = 1.0  # seconds
UNSHARED = "processes cannot share a port on Windows, so there are no workers"
SIGNALS_OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
IN_ORDER = "ended"

SERVING = b"!"  # what a worker says of itself, once
LENGTH = struct.Struct("!I")


# The worker's side


def serve(settings: Settings, number: int, bound: Bound, counters: Counters, channel: socket.socket) -> int:
    """What a worker does: serve until its parent says that it is enough, or is gone.

    Parameters:
        settings: as they are now.
        number: of this worker, from 0.
        bound: what to serve.
        counters: where to count.
        channel: to the parent.

    Returns:
        The exit code.
    """
    with Uloop(settings.backend) as loop:
        Orders(loop, channel, number, Service(loop, settings, bound, counters, shared=True))
        loop.run()
    return 0


@dataclass(frozen=True)
class End:
    """The order to drain and end.

    Parameters:
        shared: others hold the sockets, and will go on with them.
    """

    shared: bool


class Orders(Stream):
    """A worker's end of the channel."""

    def __init__(self, loop: Uloop, channel: socket.socket, number: int, service: Service) -> None:
        super().__init__(loop, channel)
        self._number = number
        self._service = service
        self._unread = bytearray()

    def on_connect(self) -> None:
        self.write(SERVING)

    def on_data(self, data: bytes, /) -> None:
        unread = self._unread
        unread += data
        while len(unread) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(unread)[0]
            if len(unread) < end:
                break
            order = pickle.loads(unread[LENGTH.size : end])
            del unread[:end]
            self._obey(order)

    def on_close(self, reason: BaseException | None, /) -> None:
        self._service.drain(self.loop.stop)  # the parent has gone

    def _obey(self, order: Settings | End) -> None:
        if isinstance(order, End):
            self._service.shared = order.shared
            self._service.drain(self.loop.stop)
        else:
            logs.configure(order.log_format, order.log_level, self._number)
            self._service.reconfigure(order)


# The parent's side


class Supervisor:
    """Starts the workers, replaces them, and ends them. For operators it is one service.

    Parameters:
        loop: the parent's. The workers are started in its next turn.
        settings: for the workers; and ``grace``, in seconds, for ``drain``.
        bound: the sockets of each worker; what they share can be in all sets.
        ledger: the counters, with a row for each worker.
        ready: called once, as ``ready()``, when all workers serve.
        shared: somebody else holds the sockets too, systemd as a rule, and will go on with them.
        failed: called as ``failed()`` when all workers have ended because one could not be kept
            running, or did not end in order.
        work: what a worker does: it is called in the new process as ``work(settings, number, bound,
            counters, channel)``, and returns the exit code.

    Attributes:
        schemes: what is served.
        restarts: how many workers took the place of one that died.
    """

    def __init__(
        self,
        loop: Uloop,
        settings: Settings,
        bound: list[Bound],
        ledger: Ledger,
        *,
        ready: Callable[[], object],
        failed: Callable[[], object],
        shared: bool = False,
        work: Work = serve,
    ) -> None:
        self.schemes = {endpoint.scheme for endpoint, _ in bound[0]}
        self.restarts = 0
        self._loop = loop
        self._settings = settings
        self._ready: Callable[[], object] | None = ready
        self._failed = failed
        self._shared = shared
        self._work = work
        self._places = [
            Place(number, sockets, row)
            for number, (sockets, row) in enumerate(zip(bound, ledger.rows, strict=True))
        ]
        self._done: list[Callable[[], object]] = []
        self._draining = False
        self._closed = False
        self._timers: list[Timer] = [loop.call_every(CHECK_INTERVAL, self._check_heartbeats)]
        for place in self._places:
            loop.call_soon(self._start_unless_draining, place)

    def reconfigure(self, settings: Settings) -> None:
        """Hand new settings to all workers, and to those that will take their places."""
        self._settings = settings
        for place in self._places:
            if place.channel is not None:
                place.channel.send(settings)

    def drain(self, done: Callable[[], object]) -> None:
        """Have all workers finish what they have begun; then call ``done()``."""
        self._done.append(done)
        self._loop.call_soon(self._look_whether_all_are_gone)
        if self._draining:
            return
        self._draining = True
        self._timers.append(self._loop.call_later(self._settings.grace + AFTER_GRACE, self._kill_all))
        for place in self._places:
            for _, sock in place.bound:
                sock.close()
        for place in self._places:
            if place.channel is not None:
                place.channel.send(End(self._shared))

    def close(self) -> None:
        """End at once: kill all workers that are left. A second call does nothing."""
        if self._closed:
            return
        self._closed = self._draining = True
        self._kill_all()
        for place in self._places:
            if place.channel is not None:
                place.channel.abort()
            if place.pid:
                _reap(place)
        self._cancel_timers()

    # Health

    def problems(self) -> list[str]:
        """Why all should be killed and started again; empty when all is well."""
        return [
            f"worker {place.number} has given no sign of life for {place.silence():.0f} s"
            for place in self._places
            if place.pid and place.silence() > SLOWEST_HEARTBEAT
        ]

    def unready(self) -> list[str]:
        """Why no client should be sent here; empty when all is well."""
        if self._draining:
            return ["it is ending"]
        reasons = [f"worker {place.number} is not ready" for place in self._places if not place.ready]
        if "ntp" in self.schemes and any(place.says_unsynchronised() for place in self._places):
            reasons.append("the clock is not synchronised")
        return reasons

    # The life of a worker

    def _start_unless_draining(self, place: Place) -> None:
        if not self._draining:
            self._start(place)

    def _start(self, place: Place) -> None:
        if sys.platform == "win32":
            raise NotImplementedError(UNSHARED)
        place.since = time.monotonic_ns()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._has_not_started(place, error)
            return
        # Until the worker ignores them, they would be handled as the parent handles them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_OF_THE_PARENT)
        try:
            place.pid = os.fork()
            if place.pid == 0:
                ours.close()
                self._be(place, theirs)
        except OSError as error:
            ours.close()
            self._has_not_started(place, error)
        else:
            try:
                place.channel = Channel(self._loop, ours, place, self)
            except (OSError, ValueError) as error:  # the backend cannot watch one more
                ours.close()
                _kill(place)
                _reap(place)
                self._has_not_started(place, error)
            else:
                place.stuck = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def _be(self, place: Place, channel: socket.socket) -> NoReturn:
        """In the child: let go of all that is the parent's or another worker's, and work."""
        exit_code = 1
        try:
            _leave_signals_to_the_parent()
            logs.configure(self._settings.log_format, self._settings.log_level, place.number)
            mine = {sock for _, sock in place.bound}
            for other in self._places:
                for _, sock in other.bound:
                    if sock not in mine:
                        sock.close()
                if other.channel is not None:
                    other.channel.let_go()
            self._loop.close()
            exit_code = self._work(self._settings, place.number, place.bound, place.counters, channel)
        except BaseException:
            log.exception("this worker has failed")
        finally:
            logging.shutdown()
            os._exit(exit_code)  # what the parent would do at its end is not ours

    def is_ready(self, place: Place) -> None:
        """Its worker has said so."""
        place.ready = True
        if self._ready is not None and not self._draining and all(one.ready for one in self._places):
            ready, self._ready = self._ready, None
            ready()

    def reap(self, place: Place) -> None:
        """The worker's end of the channel is closed, so it has ended, or is about to."""
        if sys.platform == "win32":
            raise NotImplementedError(UNSHARED)
        if self._closed:
            return
        try:
            pid, status = os.waitpid(place.pid, os.WNOHANG)
        except ChildProcessError:
            how = IN_ORDER  # as far as we know, where whoever started us had SIGCHLD ignored
        else:
            if not pid:
                self._loop.call_later(REAP_INTERVAL, self.reap, place)
                return
            how = _how_it_ended(os.waitstatus_to_exitcode(status))
        if place.hangs:
            how = f"gave no sign of life for {HEARTBEAT_LOST:.0f} s and was killed"
        self._ended(place, how)

    def _ended(self, place: Place, how: str) -> None:
        early = not place.is_well()
        place.vacate()
        if self._draining:
            if how != IN_ORDER:
                log.error("worker %d %s while it should finish", place.number, how)
                self._fail()
            self._look_whether_all_are_gone()
            return
        place.failures = place.failures + 1 if early else 0
        if self._has_given_up(place, how):
            return
        pause = place.pause()
        if how == IN_ORDER:
            # It thought that we are gone; as far as we know that cannot be.
            pause = max(pause, PAUSES[0])
        self._loop.call_later(pause, self._replace, place, how)

    def _replace(self, place: Place, how: str) -> None:
        if not self._draining:
            log.error("worker %d %s; starting another", place.number, how)
            self.restarts += 1
            self._start(place)

    def _has_not_started(self, place: Place, error: OSError | ValueError) -> None:
        """There are too many processes or descriptors, or there is too little memory."""
        place.failures += 1
        how = f"could not be started ({getattr(error, 'strerror', None) or error})"
        if self._has_given_up(place, how):
            return
        if not place.stuck:
            place.stuck = True
            log.error("worker %d %s; trying again", place.number, how)
        self._loop.call_later(place.pause(), self._start_unless_draining, place)

    def _has_given_up(self, place: Place, how: str) -> bool:
        """Rule 3, after a failure of this place."""
        judged = [place] if self._ready is not None else self._places
        if any(one.failures < MOST_FAILURES or one.is_well() for one in judged):
            return False
        log.error("worker %d %s, like those before it; giving up", place.number, how)
        self._fail()
        return True

    def _check_heartbeats(self) -> None:
        for place in self._places:
            silent = place.pid != 0 and place.silence() > HEARTBEAT_LOST
            if silent and place.suspect and not place.hangs:
                place.hangs = True
                _kill(place)
            # At first it is a suspicion: if all of us were stopped, a worker needs a moment as well.
            place.suspect = silent

    # The end

    def _fail(self) -> None:
        if self._failed not in self._done:
            self.drain(self._failed)

    def _kill_all(self) -> None:
        for place in self._places:
            if place.pid:
                _kill(place)

    def _look_whether_all_are_gone(self) -> None:
        if not any(place.pid for place in self._places):
            self._cancel_timers()
            done, self._done = self._done, []
            for callback in done:
                callback()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()


class Place:
    """The place of one worker, and who has it now.

    Attributes:
        since: when that one was started, or the last one ended; as ``time.monotonic_ns`` has it.
    """

    def __init__(self, number: int, bound: Bound, counters: Counters) -> None:
        self.number = number
        self.bound = bound
        self.counters = counters
        self.since = 0
        self.failures = 0  # early deaths and failed starts, in a row
        self.stuck = False  # the last start has failed, and the log has been told
        self.vacate()

    def vacate(self) -> None:
        """Whoever had it is gone."""
        self.pid = 0
        self.channel: Channel | None = None
        self.ready = False
        self.suspect = False  # no heartbeat
        self.hangs = False  # so we have killed it
        self.since = time.monotonic_ns()
        self.counters.begin_anew()

    def is_well(self) -> bool:
        """Whether its worker serves, and has lived for long enough to be trusted."""
        return self.ready and time.monotonic_ns() - self.since >= EARLY * 1e9

    def pause(self) -> float:
        """Seconds until its next worker is to be started."""
        return PAUSES[min(self.failures, len(PAUSES)) - 1] if self.failures else 0.0

    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return (time.monotonic_ns() - max(self.since, self.counters.vital[Vital.HEARTBEAT])) / 1e9

    def says_unsynchronised(self) -> bool:
        vital = self.counters.vital
        return bool(vital[Vital.HEARTBEAT]) and vital[Vital.LEAP] == LEAP_UNSYNCHRONISED


class Channel(Stream):
    """The parent's end of the channel to the worker that has a place."""

    def __init__(self, loop: Uloop, sock: socket.socket, place: Place, supervisor: Supervisor) -> None:
        super().__init__(loop, sock, write_timeout=None)  # rule 4 is for those who do not read
        self._place = place
        self._supervisor = supervisor

    def send(self, order: Settings | End) -> None:
        """Have the worker serve with these settings from now on, or end."""
        data = pickle.dumps(order)
        self.write(LENGTH.pack(len(data)) + data)

    def let_go(self) -> None:
        """In a forked child: close its copy, of which the parent takes no notice."""
        self._sock.close()

    def on_data(self, data: bytes, /) -> None:
        self._supervisor.is_ready(self._place)

    def on_close(self, reason: BaseException | None, /) -> None:
        self._supervisor.reap(self._place)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}" if code else IN_ORDER


def _kill(place: Place) -> None:
    if sys.platform == "win32":
        raise NotImplementedError(UNSHARED)
    try:
        os.kill(place.pid, signal.SIGKILL)  # until it is reaped the number is nobody else's
    except ProcessLookupError:
        pass  # it has ended, and where SIGCHLD is ignored, the kernel has reaped it


def _reap(place: Place) -> None:
    """Wait for the end of a worker that was killed."""
    if sys.platform == "win32":
        raise NotImplementedError(UNSHARED)
    try:
        os.waitpid(place.pid, 0)
    except ChildProcessError:
        pass  # see Supervisor.reap
    place.vacate()


def _leave_signals_to_the_parent() -> None:
    """In the child, where signals are still blocked and the handlers are copies of the parent's."""
    if sys.platform == "win32":
        raise NotImplementedError(UNSHARED)
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    for signum in SIGNALS_OF_THE_PARENT:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_THE_PARENT)
