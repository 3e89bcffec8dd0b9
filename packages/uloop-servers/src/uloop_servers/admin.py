"""Admin: what operators' tools ask over HTTP, on the loop of a service or of a supervisor of workers.

    GET /livez    200 "ok", or 503 and what is wrong: somebody should start the service again
    GET /readyz   200 "ok", or 503 and the reason: clients should not be sent here now
    GET /metrics  the numbers, in the text format of Prometheus

The metrics. Those of a protocol have the labels ``protocol`` (clock, daytime, time or ntp) and
``transport`` (tcp or udp), and are there for what is served. All are summed over the workers.

    name                                  type     what, and its labels beyond those
    uloop_answers_total                   counter  answers that were sent
    uloop_refusals_total                  counter  datagrams and connections that were refused; reason
    uloop_received_bytes_total            counter  bytes of requests
    uloop_sent_bytes_total                counter  bytes of answers
    uloop_timestamps_total                counter  answers by who told when the question came
                                                   (NTP); source: kernel or program
    uloop_connections                     gauge    connections that are open now (TCP)
    uloop_connections_total               counter  connections that were accepted (TCP)
    uloop_evicted_connections_total       counter  connections that made room for others (TCP)
    uloop_timed_out_connections_total     counter  connections that were silent, or did not read (TCP)
    uloop_loop_lag_seconds                gauge    how long a turn of the loop took of late; the worst worker
    uloop_loop_turns_total                counter  turns of the loop; worker, since it is 0 again for
                                                   one that takes the place of another
    uloop_workers                         gauge    workers that give signs of life
    uloop_worker_restarts_total           counter  workers that took the place of one that died
    uloop_clock_synchronised              gauge    1 if all workers trust the clock, else 0
    uloop_clock_leap                      gauge    NTP's leap indicator; the largest of the workers'
    uloop_clock_stratum                   gauge    NTP's stratum; the largest of the workers'
    uloop_clock_root_dispersion_seconds   gauge    how wrong the clock may be; the largest of the workers'
    uloop_build_info                      gauge    1; version, backend

Those of the clock are there once a worker has looked at it. The reasons of refusals are the names of
``REFUSALS``, in lower case.

What a client can cost is bounded: 64 connections, 8 KiB of a request's head, no body is ever read.
When they are 64, the one that was silent longest makes room for who comes, so that nobody keeps the tools
out by connecting; one that is taking its answer stays, and while all do, who comes waits.
A client has 5 s for a request, counted from the connection or from the last answer, which one byte now
and then does not extend, and 5 s to take the answer. One that sends requests without
waiting for answers gets one answer, and then the end: no tool of this trade does so, and it would
be the way to have a thousand answers made at once.

The HTTP is h11's, the format prometheus-client's. Both are imported here alone, because they
take 100 ms: import this module when it is used.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit
from weakref import WeakSet

import h11
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from uloop_reactor import Listener, Stream, Uloop
from uloop_reactor.stream import CLOSED

from .__about__ import __version__
from .counters import REFUSALS, Count, Ledger, Vital
from .endpoint import SCHEMES
from .service import SLOWEST_HEARTBEAT
from .timesource import LEAP_UNSYNCHRONISED

__all__ = ["Admin", "Health"]

MOST_CONNECTIONS = 64
MOST_HEADER = 8 * 1024  # bytes
PATIENCE = 5.0  # seconds
METHODS = (b"GET", b"HEAD")
TEXT = "text/plain; charset=utf-8"
TURNS = itertools.count()


class Health(Protocol):
    """What an admin asks of what it tells about: a service, or the supervisor of its workers."""

    @property
    def schemes(self) -> Collection[str]:
        """Those that are served, like ``"daytime+udp"``."""
        ...

    @property
    def restarts(self) -> int:
        """How many workers took the place of one that died."""
        ...

    def problems(self) -> list[str]:
        """Why this should be started again, one line for each reason; empty if all is well."""
        ...

    def unready(self) -> list[str]:
        """Why no client should be sent here now, one line for each reason; empty if one may come."""
        ...


class Admin:
    """Answers operators' tools.

    Parameters:
        loop: the loop to answer on.
        sock: a stream socket that listens. It belongs to the admin from now on.
        ledger: the counters of all workers.
        health: what to tell of beside them.
    """

    def __init__(self, loop: Uloop, sock: socket.socket, ledger: Ledger, health: Health) -> None:
        self._sock = sock
        self._health = health
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(Metrics(ledger, health, loop.backend))
        self._listener = Listener(loop, sock, self._connect, admit=self._has_room)
        _admins.add(self)

    def close(self) -> None:
        """Stop listening, and end the connections in order. A second call does nothing."""
        self._listener.close()
        for connection in list(self._listener.connections):
            connection.close()

    def _let_go(self) -> None:
        """In a forked child: close its copies of our sockets, which the parent does not notice."""
        self._sock.close()
        for connection in self._listener.connections:
            connection.let_go()

    def _connect(self, loop: Uloop, sock: socket.socket) -> Connection:
        open_now = self._open()
        if len(open_now) >= MOST_CONNECTIONS:
            silent = [connection for connection in open_now if not connection.unsent]
            min(silent, key=lambda connection: connection.turn).abort()
        return Connection(loop, sock, self._answer)

    def _has_room(self) -> bool:
        open_now = self._open()
        return len(open_now) < MOST_CONNECTIONS or not all(connection.unsent for connection in open_now)

    def _open(self) -> list[Connection]:
        """Those that are; the listener counts one that was aborted until the turn of the loop ends."""
        return [one for one in self._listener.connections if one.state is not CLOSED]

    def _answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """What stands at a path: the status, the content type, the content."""
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._metrics)
        if path == "/livez":
            return _verdict(self._health.problems())
        if path == "/readyz":
            return _verdict(self._health.unready())
        return _text(HTTPStatus.NOT_FOUND, f"there is nothing at {path!a}; try /metrics, /livez or /readyz")


# A worker must not hold the sockets of its parent's admin: the port would still be taken, and clients
# be left without an answer, when the parent has ended and a worker finishes what it is at.

_admins: WeakSet[Admin] = WeakSet()


def _let_go_of_all() -> None:
    for admin in list(_admins):
        admin._let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_of_all)


def _text(status: HTTPStatus, line: str) -> tuple[HTTPStatus, str, bytes]:
    return status, TEXT, f"{line}\n".encode()


def _verdict(reasons: list[str]) -> tuple[HTTPStatus, str, bytes]:
    if reasons:
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, "; ".join(reasons))
    return _text(HTTPStatus.OK, "ok")


class Connection(Stream):
    """One client, one request at a time.

    Parameters:
        answer: gives the status, the content type and the content for a path.
    """

    def __init__(
        self, loop: Uloop, sock: socket.socket, answer: Callable[[str], tuple[HTTPStatus, str, bytes]]
    ) -> None:
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADER)
        #: lower than that of those who came, or were answered, later
        self.turn = next(TURNS)
        super().__init__(loop, sock, write_timeout=PATIENCE)
        # Not the idle timeout of streams: a byte every 4 s would keep that from ever passing.
        self._until = loop.call_later(PATIENCE, self.close)

    def on_data(self, data: bytes, /) -> None:
        method = b"GET"
        try:
            self._http.receive_data(data)
            request = self._http.next_event()
            if request is h11.NEED_DATA:
                return
            assert isinstance(request, h11.Request)  # before it, and after an answer, nothing else comes
            method = request.method
            complete = isinstance(self._http.next_event(), h11.EndOfMessage)
            alone = complete and not self._http.trailing_data[0]
            self._respond(request, then_end=not alone)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            self._send(method, *_text(status, f"{status.phrase}: {error}"), then_end=True)

    def on_close(self, reason: BaseException | None, /) -> None:
        self._until.cancel()

    def let_go(self) -> None:
        """In a forked child: close its copy of the socket."""
        self._sock.close()

    def _respond(self, request: h11.Request, *, then_end: bool) -> None:
        if request.method not in METHODS:
            answer = _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are for here")
        else:
            try:
                answer = self._answer(urlsplit(request.target.decode("ascii")).path)
            except ValueError:  # like http://[
                answer = _text(HTTPStatus.BAD_REQUEST, "this target is no URL")
        self._send(request.method, *answer, then_end=then_end)

    def _send(
        self, method: bytes, status: HTTPStatus, content_type: str, content: bytes, *, then_end: bool
    ) -> None:
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
        ]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        if then_end:
            headers.append(("Connection", "close"))
        http = self._http
        response = h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers)
        head = http.send(response) or b""
        body = b"" if method == b"HEAD" else http.send(h11.Data(data=content)) or b""
        self.write(head + body + (http.send(h11.EndOfMessage()) or b""))
        self.turn = next(TURNS)
        if http.our_state is h11.MUST_CLOSE or then_end:
            self.close()
        else:
            http.start_next_cycle()
            self._until.reschedule(self.loop.time() + PATIENCE)


class Metrics(Collector):
    """The ledger in Prometheus' terms: made anew whenever somebody asks.

    Parameters:
        ledger: the counters of all workers.
        health: tells what is served.
        backend: that of the loop.
    """

    def __init__(self, ledger: Ledger, health: Health, backend: str) -> None:
        self._ledger = ledger
        self._health = health
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        """All metrics, in the order of the table above."""
        schemes = [scheme for scheme in SCHEMES if scheme in self._health.schemes]
        tcp = [scheme for scheme in schemes if SCHEMES[scheme].transport == "tcp"]
        yield self._counter("answers", "Answers that were sent.", schemes, Count.ANSWERED)
        yield self._by(
            "refusals", "Datagrams and connections that were refused.", schemes, "reason", REFUSALS
        )
        yield self._counter("received_bytes", "Bytes of requests.", schemes, Count.RECEIVED_BYTES)
        yield self._counter("sent_bytes", "Bytes of answers.", schemes, Count.SENT_BYTES)
        yield self._by(
            "timestamps",
            "Answers, by who told when the question came.",
            [scheme for scheme in schemes if SCHEMES[scheme].protocol == "ntp"],
            "source",
            (Count.KERNEL_TIMESTAMPS, Count.PROGRAM_TIMESTAMPS),
        )
        open_now = GaugeMetricFamily("uloop_connections", "Connections that are open now.", labels=LABELS)
        for scheme in tcp:
            open_now.add_metric(_labels(scheme), self._ledger.total(scheme, Count.OPEN_CONNECTIONS))
        yield open_now
        yield self._counter("connections", "Connections that were accepted.", tcp, Count.CONNECTIONS)
        yield self._counter("evicted_connections", "Connections that made room.", tcp, Count.EVICTED)
        yield self._counter(
            "timed_out_connections", "Connections that were silent or did not read.", tcp, Count.TIMED_OUT
        )
        yield from self._vitals()
        yield CounterMetricFamily(
            "uloop_worker_restarts", "Workers that took the place of one that died.", self._health.restarts
        )
        yield from self._clock()
        about = GaugeMetricFamily("uloop_build_info", "What this is.", labels=("version", "backend"))
        about.add_metric((__version__, self._backend), 1)
        yield about

    def _vitals(self) -> Iterator[Metric]:
        rows = self._ledger.rows
        lag = max(row.vital[Vital.LAG] for row in rows) / 1e9
        yield _gauge("loop_lag_seconds", "How long a turn took of late, in the worst worker.", lag)
        turns = CounterMetricFamily("uloop_loop_turns", "Turns of the loop.", labels=("worker",))
        for number, row in enumerate(rows):
            turns.add_metric((str(number),), row.vital[Vital.TURNS])
        yield turns
        last = time.monotonic_ns() - int(SLOWEST_HEARTBEAT * 1e9)
        alive = sum(row.vital[Vital.HEARTBEAT] > last for row in rows)
        yield _gauge("workers", "Workers that give signs of life.", alive)

    def _clock(self) -> Iterator[Metric]:
        """How good the time is, to the most pessimistic of the workers that have said anything of it."""
        rows = [row.vital for row in self._ledger.rows if row.vital[Vital.HEARTBEAT]]
        if not rows:
            return
        leap, stratum, dispersion = (
            max(vital[which] for vital in rows) for which in (Vital.LEAP, Vital.STRATUM, Vital.DISPERSION)
        )
        yield _gauge(
            "clock_synchronised", "Whether all workers trust the clock.", leap != LEAP_UNSYNCHRONISED
        )
        yield _gauge("clock_leap", "NTP's leap indicator.", leap)
        yield _gauge("clock_stratum", "NTP's stratum.", stratum)
        yield _gauge("clock_root_dispersion_seconds", "How wrong the clock may be.", dispersion / 1e9)

    def _counter(self, name: str, text: str, schemes: list[str], count: Count) -> CounterMetricFamily:
        family = CounterMetricFamily(f"uloop_{name}", text, labels=LABELS)
        for scheme in schemes:
            family.add_metric(_labels(scheme), self._ledger.total(scheme, count))
        return family

    def _by(
        self, name: str, text: str, schemes: list[str], label: str, counts: Collection[Count]
    ) -> CounterMetricFamily:
        """A counter for each of several counts, told apart by a label more."""
        family = CounterMetricFamily(f"uloop_{name}", text, labels=(*LABELS, label))
        for scheme in schemes:
            for count in counts:
                value = count.name.lower().removesuffix("_timestamps")
                family.add_metric((*_labels(scheme), value), self._ledger.total(scheme, count))
        return family


LABELS = ("protocol", "transport")


def _labels(scheme: str) -> tuple[str, str]:
    return SCHEMES[scheme].protocol, SCHEMES[scheme].transport


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"uloop_{name}", text, value)
