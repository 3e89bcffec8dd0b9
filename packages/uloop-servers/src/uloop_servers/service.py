"""Service: the servers of one process, on one loop, and how they end.

The end is gentle: who waits to be let in is let in, what has arrived is answered, and each client
has a second to take its leave.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from uloop_reactor import Timer, Uloop

from .config import Settings
from .counters import REFUSALS, Count, Counters, Ledger, Vital
from .endpoint import Endpoint
from .follow import Daemon
from .guard import Guard
from .protocols import PROTOCOLS, daytime
from .tcp import Crowd, TcpServer
from .timesource import KernelReference, LocalReference, Reference, TimeSource
from .udp import UdpServer

if sys.platform != "win32":
    import resource

__all__ = ["SLOWEST_HEARTBEAT", "Service", "descriptors", "most_connections", "open_server", "own_reference"]

log = logging.getLogger("uloop.servers")

HEARTBEAT = 0.5  # seconds
SUMMARY = 60.0  # seconds between two lines about what was refused
SELECT, SELECT_ON_WINDOWS = 1024, 512  # descriptors that fit into select(2): FD_SETSIZE
SPARE_DESCRIPTORS = 32  # for everything that is not a connection
FEWEST_SPARE = 16  # of these: our own, without the endpoints
SPARE_FOR_METRICS = 64  # as many as there may be of its connections
LOOK = 0.05  # seconds between two looks at who is left, in the end
#: seconds that a client has in the end to finish what it is at; and who was heard before the end may have
#: been heard a heartbeat later than is known
LEAVE = 1.0
SLOWEST_HEARTBEAT = 10.0  # seconds after which a loop does not turn any more


class Service:
    """Serves endpoints on a loop, beside whatever else runs on it.

    Parameters:
        loop: the loop to serve on.
        settings: how; its endpoints and workers do not count here.
        bound: each endpoint with its socket, which is bound, and listens if it is a stream's.
        counters: where to count.
        shared: others hold the sockets too, and go on with them when this service ends: systemd, or
            the parent of a worker.

    Raises:
        ValueError: the loop's backend has no room for another descriptor.
        OSError: a socket cannot be served on. All of them are closed then.

    Attributes:
        endpoints: what is served, with the real ports.
        source: what time it is.
    """

    def __init__(
        self,
        loop: Uloop,
        settings: Settings,
        bound: Sequence[tuple[Endpoint, socket.socket]],
        counters: Counters,
        *,
        shared: bool = False,
    ) -> None:
        self.loop = loop
        self.shared = shared
        self.endpoints = [endpoint for endpoint, _ in bound]
        self._settings = settings
        self._counters = counters
        self._draining = False
        self._began = 0.0  # draining
        self._done: list[Callable[[], object]] = []
        self._closed = False
        self._tcp: list[TcpServer] = []
        self._udp: list[UdpServer] = []
        self._daemon: Daemon | None = None
        self._timers: list[Timer] = []
        own_ports = {endpoint.port for endpoint in self.endpoints if endpoint.transport == "udp"}
        self._guard = Guard(settings.policy, own_ports=own_ports)
        self._crowd = Crowd(loop, self._limit(), settings.idle_timeout)
        with ExitStack() as undo:
            for _, sock in bound:
                undo.callback(sock.close)
            undo.callback(self.close)
            self.source = TimeSource(self._reference(), utc=settings.utc)
            for endpoint, sock in bound:
                self._serve(endpoint, sock)
            undo.pop_all()
        counters.update = self._crowd.count
        self._told = self._count(*REFUSALS, Count.EVICTED)  # what the log has told of
        self._timers = [
            loop.call_every(HEARTBEAT, self._beat, first=0),
            loop.call_every(SUMMARY, self._sum_up),
        ]

    @property
    def endpoint(self) -> Endpoint:
        """The first of the endpoints."""
        return self.endpoints[0]

    def reconfigure(self, settings: Settings) -> None:
        """Have other limits and lists from now on; what else has changed needs a new process.

        Who is denied now is cut off. Who has been silent for longer than the new idle timeout is closed
        before that has passed once. The write timeout is that of connections that come from now on.
        """
        self._settings = settings
        self._guard.reconfigure(settings.policy)
        self._crowd.limit = self._limit()
        self._crowd.idle_timeout = settings.idle_timeout
        for server in self._tcp:
            server.write_timeout = settings.write_timeout
        for connection in list(self._crowd.connections):
            if connection.is_denied:
                connection.abort()

    def drain(self, done: Callable[[], object]) -> None:
        """Take no more clients, answer what has arrived, and end.

        Parameters:
            done: called as ``done()`` when nothing is left; after ``settings.grace`` seconds at the
                latest.
        """
        self._done.append(done)
        if self._closed:
            self.loop.call_soon(self._end)
        if self._draining or self._closed:
            return
        self._draining = True
        for datagrams in self._udp:
            datagrams.finish(turn_away=not self.shared)
        self._crowd.tick()
        self._began = self._crowd.now
        self._let_in_who_waits()
        # A turn first for those who were let in just now, and for what the others have sent.
        self.loop.call_later(LOOK if self._tcp or self._crowd.connections else 0, self._look_who_is_left)

    def _let_in_who_waits(self) -> None:
        self._tcp = [server for server in self._tcp if not server.finish()]  # for the others there is no room

    def _look_who_is_left(self) -> None:
        now = self.loop.time()
        elapsed = now - self._began
        self._crowd.tick()
        for connection in list(self._crowd.connections):
            if elapsed >= self._settings.grace or (elapsed >= 1.5 * LEAVE and not connection.unsent):
                connection.abort()
            elif elapsed >= LEAVE or now - connection.last_heard >= LEAVE + HEARTBEAT:
                connection.close()
        self._let_in_who_waits()
        if elapsed >= LEAVE:
            for server in self._tcp:
                server.stop_listening()
            self._tcp.clear()
        if self._tcp or self._crowd.connections:
            self.loop.call_later(LOOK, self._look_who_is_left)
        else:
            self._end()

    def _end(self) -> None:
        self.close()
        done, self._done = self._done, []
        for callback in done:
            callback()

    def close(self) -> None:
        """End at once. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for listening in self._tcp:
            listening.close()
        for connection in list(self._crowd.connections):
            connection.abort()
        for datagrams in self._udp:
            datagrams.abort()
        if self._daemon is not None:
            self._daemon.close()
        for timer in self._timers:
            timer.cancel()
        if self._timers:  # none if the constructor has failed
            self._crowd.count()
            self._sum_up()

    # How it is doing

    @property
    def schemes(self) -> set[str]:
        """What is served."""
        return {endpoint.scheme for endpoint in self.endpoints}

    @property
    def restarts(self) -> int:
        """How often it was started again: this process is the only one."""
        return 0

    def problems(self) -> list[str]:
        """Why it should be killed and started again; empty when all is well."""
        beat = self._counters.vital[Vital.HEARTBEAT]
        age = (time.monotonic_ns() - beat) / 1e9
        return [f"the loop has not turned for {age:.0f} seconds"] if age > SLOWEST_HEARTBEAT else []

    def unready(self) -> list[str]:
        """Why no client should be sent here; empty when all is well."""
        if self._draining or self._closed:
            return ["it is ending"]
        if "ntp" in self.schemes and not self.source.quality(self.source.now()).synchronised:
            return ["the clock is not synchronised"]
        return []

    def _beat(self) -> None:
        self._crowd.tick()
        vital, stats = self._counters.vital, self.loop.stats()
        quality = self.source.quality(self.source.now())
        vital[Vital.LAG] = int(stats.lag * 1e9)
        vital[Vital.TURNS] = stats.turns
        vital[Vital.LEAP] = quality.leap
        vital[Vital.STRATUM] = quality.stratum
        vital[Vital.DISPERSION] = int(quality.root_dispersion * 1e9)
        vital[Vital.HEARTBEAT] = time.monotonic_ns()

    def _sum_up(self) -> None:
        """A line or three, whatever strangers do."""
        before, self._told = self._told, self._count(*REFUSALS, Count.EVICTED)
        new = {count: number - before[count] for count, number in self._told.items()}
        evicted = new.pop(Count.EVICTED)
        reasons = [f"{count.name.lower()} {number}" for count, number in new.items() if number]
        if reasons:
            log.info("refused %d since the last such line: %s", sum(new.values()), ", ".join(reasons))
        if evicted:
            log.warning("full: %d connections had to make room for others", evicted)
        waited, self._crowd.waited = self._crowd.waited, 0
        if waited:
            log.warning("full, and nobody was silent: clients had to wait; see --max-connections-per-source")

    def _count(self, *counts: Count) -> dict[Count, int]:
        tallies = [self._counters.of(scheme) for scheme in self.schemes]
        return {count: sum(tally[count] for tally in tallies) for count in counts}

    # What it is made of

    def _limit(self) -> int:
        """How many connections there may be: as many as asked for, if there are descriptors for them.

        Below that, a client who can have none would be accepted by nobody and seen by nobody.
        """
        most = most_connections(self._settings, self.loop.backend, len(self.endpoints))
        wanted = self._settings.max_connections
        return most if wanted is None else min(wanted, most)

    def _reference(self) -> Reference:
        if self._settings.follow is not None:
            self._daemon = Daemon(self.loop, *self._settings.follow)
            return self._daemon
        return own_reference(self._settings)

    def _serve(self, endpoint: Endpoint, sock: socket.socket) -> None:
        protocol = PROTOCOLS[endpoint.protocol]
        answer = protocol.answer
        if protocol.name == "daytime":
            if self._settings.daytime_format not in daytime.FORMATS:
                known = ", ".join(daytime.FORMATS)
                raise ValueError(
                    f"{self._settings.daytime_format!r} is no format of Daytime; known are {known}"
                )
            answer = partial(daytime.answer, format=self._settings.daytime_format)
        tally = self._counters.of(endpoint.scheme)
        if endpoint.transport == "udp":
            datagrams = UdpServer(
                self.loop, sock, protocol, answer, source=self.source, guard=self._guard, tally=tally
            )
            self._udp.append(datagrams)
            return
        listening = TcpServer(
            self.loop,
            sock,
            protocol,
            answer,
            source=self.source,
            guard=self._guard,
            crowd=self._crowd,
            tally=tally,
            write_timeout=self._settings.write_timeout,
        )
        self._tcp.append(listening)


def open_server(loop: Uloop, *endpoints: str | Endpoint, settings: Settings | None = None) -> Service:
    """Serve the time on a loop of your own, beside whatever else runs on it.

    Parameters:
        loop: the loop to serve on.
        endpoints: where, as in ``tcp://127.0.0.1:3333`` or ``ntp://[::1]:0``; at least one.
        settings: how; the defaults are those of ``uloop-servers serve``.

    Returns:
        The service, bound and serving. Its ``endpoints`` have the real ports, ``endpoint`` is the first
        of them; ``drain(done)`` ends it gently and ``close()`` at once.

    Raises:
        ValueError: this is no endpoint, or the loop's backend has no room for another one.
        OSError: an endpoint cannot be had.
    """
    if not endpoints:
        raise ValueError("open_server needs at least one endpoint, like 'udp://127.0.0.1:3333'")
    wanted = [Endpoint.parse(one) if isinstance(one, str) else one for one in endpoints]
    with ExitStack() as undo:
        bound = []
        for endpoint in wanted:
            sock, real = endpoint.bind()
            undo.callback(sock.close)
            bound.append((real, sock))
        service = Service(loop, settings or Settings(), bound, Ledger().rows[0])
        undo.pop_all()
    return service


def own_reference(settings: Settings) -> Reference:
    """Who says how good the clock is, if no daemon is followed."""
    stratum = {} if settings.stratum is None else {"stratum": settings.stratum}
    return LocalReference(**stratum) if settings.trust_local_clock else KernelReference(**stratum)


def most_connections(settings: Settings, backend: str, endpoints: int) -> int:
    """How many the descriptors allow at once, at least one.

    Parameters:
        endpoints: how many there are.
    """
    spare = FEWEST_SPARE + endpoints
    if settings.max_connections is None:
        spare = max(spare, SPARE_DESCRIPTORS)
    if settings.metrics is not None:
        spare += SPARE_FOR_METRICS
    return max(descriptors(backend) - spare, 1)


def descriptors(backend: str) -> int:
    """How many this process may have, or the backend can watch."""
    if sys.platform != "win32":
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most == resource.RLIM_INFINITY:
            most = sys.maxsize
        return min(most, SELECT) if backend == "select" else most
    return SELECT_ON_WINDOWS if backend == "select" else sys.maxsize
