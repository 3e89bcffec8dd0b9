"""What operators' tools are told over HTTP, and what a client of it can cost."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse

import pytest
from uloop_reactor import Uloop, available_backends
from uloop_reactor.testing import VirtualClock
from uloop_servers import __version__
from uloop_servers.counters import REFUSALS, Count, Ledger, Vital
from uloop_servers.endpoint import SCHEMES

pytest.importorskip("h11")
parser = pytest.importorskip("prometheus_client.parser")

from uloop_servers import admin  # noqa: E402 - it needs both

TIMEOUT = 30  # seconds; a test that runs into it has failed


class Patient:
    """A service whose health is what a test says."""

    def __init__(self) -> None:
        self.schemes = set(SCHEMES)
        self.restarts = 0
        self.troubles: list[str] = []
        self.reasons: list[str] = []

    def problems(self) -> list[str]:
        return self.troubles

    def unready(self) -> list[str]:
        return self.reasons


class Running:
    """An admin on a loop in a thread of its own."""

    def __init__(self, backend: str) -> None:
        self.ledger = Ledger(2)
        self.health = Patient()
        self.loop = Uloop(backend)
        sock = socket.create_server(("127.0.0.1", 0))
        self.address = sock.getsockname()
        self.admin = admin.Admin(self.loop, sock, self.ledger, self.health)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def close(self) -> None:
        self.loop.call_threadsafe(self.loop.shutdown)
        self._thread.join()
        self.loop.close()

    def connect(self) -> HTTPConnection:
        host, port = self.address
        return HTTPConnection(host, port, timeout=TIMEOUT)

    def ask(self, method: str, path: str) -> tuple[HTTPResponse, str]:
        with closing(self.connect()) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response, response.read().decode()

    def converse(self, *sent: bytes) -> str:
        """All that comes when this is sent."""
        with socket.create_connection(self.address, TIMEOUT) as sock:
            for data in sent:
                sock.sendall(data)
            with sock.makefile("rb") as stream:
                return stream.read().decode()

    def samples(self) -> dict[tuple[str, ...], float]:
        """The metrics: each name and its labels like ``"worker=1"``, with its value."""
        _, text = self.ask("GET", "/metrics")
        return {
            (sample.name, *(f"{label}={value}" for label, value in sample.labels.items())): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(params=available_backends())
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with closing(Running(request.param)) as running:
        yield running


# Metrics


def test_every_number_of_the_ledger_is_in_the_metrics(running: Running) -> None:
    """Each cell has a value that tells which one it is, and is found under its name and labels."""
    value = 0
    expected: dict[tuple[str, ...], float] = {}
    names = {
        Count.ANSWERED: ("answers_total",),
        Count.RECEIVED_BYTES: ("received_bytes_total",),
        Count.SENT_BYTES: ("sent_bytes_total",),
        Count.KERNEL_TIMESTAMPS: ("timestamps_total", "source=kernel"),
        Count.PROGRAM_TIMESTAMPS: ("timestamps_total", "source=program"),
        Count.CONNECTIONS: ("connections_total",),
        Count.OPEN_CONNECTIONS: ("connections",),
        Count.EVICTED: ("evicted_connections_total",),
        Count.TIMED_OUT: ("timed_out_connections_total",),
        **{count: ("refusals_total", f"reason={count.name.lower()}") for count in REFUSALS},
    }
    of_tcp = {Count.CONNECTIONS, Count.OPEN_CONNECTIONS, Count.EVICTED, Count.TIMED_OUT}
    of_ntp = {Count.KERNEL_TIMESTAMPS, Count.PROGRAM_TIMESTAMPS}
    for name, scheme in SCHEMES.items():
        for count in Count:
            for row in running.ledger.rows:
                value += 1
                row.of(name)[count] = value
            if not ((count in of_tcp and scheme.transport != "tcp") or (count in of_ntp and name != "ntp")):
                metric, *more = names[count]
                labels = [f"protocol={scheme.protocol}", f"transport={scheme.transport}", *more]
                expected[f"uloop_{metric}", *sorted(labels)] = 2 * value - 1
    found = {key: number for key, number in running.samples().items() if len(key) >= 3}
    assert found.pop(("uloop_build_info", f"backend={running.loop.backend}", f"version={__version__}")) == 1
    assert found == expected


def test_the_vitals_are_those_of_the_worst_worker(running: Running) -> None:
    now = time.monotonic_ns()
    vitals = {
        Vital.HEARTBEAT: (now, now),
        Vital.LAG: (2_500_000, 1_000_000),
        Vital.TURNS: (10, 20),
        Vital.LEAP: (0, 1),
        Vital.STRATUM: (3, 2),
        Vital.DISPERSION: (1_000_000, 4_000_000),
    }
    for which, values in vitals.items():
        for row, value in zip(running.ledger.rows, values, strict=True):
            row.vital[which] = value
    running.health.restarts = 5
    found = {key: number for key, number in running.samples().items() if len(key) < 3}
    assert found == {
        ("uloop_loop_lag_seconds",): 0.0025,
        ("uloop_loop_turns_total", "worker=0"): 10,
        ("uloop_loop_turns_total", "worker=1"): 20,
        ("uloop_workers",): 2,
        ("uloop_worker_restarts_total",): 5,
        ("uloop_clock_synchronised",): 1,
        ("uloop_clock_leap",): 1,
        ("uloop_clock_stratum",): 3,
        ("uloop_clock_root_dispersion_seconds",): 0.004,
    }


def test_the_clock_is_not_synchronised_when_one_worker_says_so(running: Running) -> None:
    for row, leap in zip(running.ledger.rows, (0, 3), strict=True):
        row.vital[Vital.HEARTBEAT] = time.monotonic_ns()
        row.vital[Vital.LEAP] = leap
    samples = running.samples()
    assert samples["uloop_clock_synchronised",] == 0
    assert samples["uloop_clock_leap",] == 3


def test_a_worker_without_heartbeat_is_none_and_says_nothing_of_the_clock(running: Running) -> None:
    assert ("uloop_clock_synchronised",) not in running.samples()
    assert running.samples()["uloop_workers",] == 0
    running.ledger.rows[1].vital[Vital.HEARTBEAT] = time.monotonic_ns()
    assert running.samples()["uloop_workers",] == 1
    assert running.samples()["uloop_clock_synchronised",] == 1
    running.ledger.rows[1].vital[Vital.HEARTBEAT] = 1  # shortly after this machine was started
    assert running.samples()["uloop_workers",] == 0


def test_only_what_is_served_is_told(running: Running) -> None:
    running.health.schemes = {"daytime+udp", "ntp", "tcp"}
    names = {"uloop_answers_total", "uloop_connections", "uloop_timestamps_total"}
    assert {key for key in running.samples() if key[0] in names} == {
        ("uloop_answers_total", "protocol=clock", "transport=tcp"),
        ("uloop_answers_total", "protocol=daytime", "transport=udp"),
        ("uloop_connections", "protocol=clock", "transport=tcp"),
        ("uloop_answers_total", "protocol=ntp", "transport=udp"),
        ("uloop_timestamps_total", "protocol=ntp", "source=kernel", "transport=udp"),
        ("uloop_timestamps_total", "protocol=ntp", "source=program", "transport=udp"),
    }


def test_the_documented_names_are_the_names(running: Running) -> None:
    for row in running.ledger.rows:
        row.vital[Vital.HEARTBEAT] = time.monotonic_ns()
    _, text = running.ask("GET", "/metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert admin.__doc__ is not None
    assert types == dict(re.findall(r"^    (uloop_\w+) +(counter|gauge) ", admin.__doc__, re.MULTILINE))
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in types.items())


# Health


@pytest.mark.parametrize(("path", "other"), [("/livez", "reasons"), ("/readyz", "troubles")])
def test_well(running: Running, path: str, other: str) -> None:
    setattr(running.health, other, ["this is not asked for here"])
    response, text = running.ask("GET", path)
    assert (response.status, text) == (200, "ok\n")


@pytest.mark.parametrize(("path", "which"), [("/livez", "troubles"), ("/readyz", "reasons")])
def test_not_well_is_503_with_the_reasons_in_one_line(running: Running, path: str, which: str) -> None:
    setattr(running.health, which, ["worker 1 is not ready", "the clock is not synchronised"])
    response, text = running.ask("GET", path)
    assert (response.status, text) == (503, "worker 1 is not ready; the clock is not synchronised\n")


# HTTP


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/else"])
def test_head_is_get_without_content(running: Running, path: str) -> None:
    got, text = running.ask("GET", path)
    head, nothing = running.ask("HEAD", path)
    assert nothing == ""
    assert head.status == got.status
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert got.headers["Content-Length"] == str(len(text.encode()))
    assert path == "/metrics" or head.headers["Content-Length"] == got.headers["Content-Length"]


def test_the_content_types(running: Running) -> None:
    assert running.ask("GET", "/metrics")[0].headers["Content-Type"].startswith("text/plain; version=")
    assert running.ask("GET", "/livez")[0].headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livez%00", "//metrics"])
def test_there_is_nothing_else(running: Running, path: str) -> None:
    assert running.ask("GET", path)[0].status == 404


def test_a_query_is_passed_over(running: Running) -> None:
    assert running.ask("GET", "/livez?verbose")[0].status == 200


def test_a_target_with_the_host_in_it(running: Running) -> None:
    """RFC 9112, 3.2.2: a server must accept it."""
    assert running.ask("GET", "http://localhost/livez")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "BREW"])
def test_other_methods(running: Running, method: str) -> None:
    response, _ = running.ask(method, "/metrics")
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


def test_several_requests_on_a_connection(running: Running) -> None:
    with closing(running.connect()) as connection:
        connection.connect()
        sock = connection.sock
        for path in ("/livez", "/metrics", "/else", "/readyz"):
            connection.request("GET", path, headers={"Upgrade": "h2c", "Connection": "Upgrade"})
            connection.getresponse().read()
            assert connection.sock is sock, "it was closed in between"


def test_http_1_0_has_the_end_as_its_end(running: Running) -> None:
    answer = running.converse(b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert answer.endswith("\r\n\r\nok\n")


def test_a_client_that_half_closes_is_answered(running: Running) -> None:
    with socket.create_connection(running.address, TIMEOUT) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read().endswith(b"ok\n")


def test_a_request_in_pieces(running: Running) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = running.converse(*(request[i : i + 1] for i in range(len(request))))
    assert answer.startswith("HTTP/1.1 200 ")


def test_who_does_not_wait_gets_one_answer_and_the_end(running: Running) -> None:
    answer = running.converse(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert answer.count("HTTP/1.1 ") == 1
    assert answer.startswith("HTTP/1.1 200 ")
    assert "Connection: close" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n", 400),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000, 431),
        # No content is read: who announces some is answered at once, for the last time.
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", 200),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 405),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", 405),
    ],
)
def test_odd_requests_get_one_answer_and_the_end(running: Running, request_: bytes, status: int) -> None:
    answer = running.converse(request_)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert answer.count("HTTP/1.1 ") == 1
    assert "Connection: close\r\n" in answer
    assert running.ask("GET", "/livez")[0].status == 200


def test_noise() -> None:
    """Whatever comes: one answer at most, then the end; nothing raises, or the loop would have logged it."""
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    words = strategies.sampled_from(
        [
            *(b"GET ", b"HEAD ", b"/livez ", b"HTTP/1.1\r\n", b"Host: x\r\n", b"Connection: close\r\n"),
            *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n", b"Upgrade: x\r\n"),
            b"\r\n",
        ]
    )
    pieces = strategies.lists(strategies.one_of(words, strategies.binary(max_size=20)), max_size=12)
    with closing(Running(available_backends()[0])) as running:
        errors: list[Exception] = []
        running.loop.on_error(lambda error, culprit: errors.append(error))

        def send(pieces: list[bytes]) -> None:
            with socket.create_connection(running.address, TIMEOUT) as sock, sock.makefile("rb") as stream:
                try:
                    sock.sendall(b"".join(pieces))
                    sock.shutdown(socket.SHUT_WR)
                    answer = stream.read()
                except ConnectionError:
                    return
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            assert not errors

        hypothesis.settings(max_examples=200, deadline=None)(hypothesis.given(pieces)(send))()
        assert running.ask("GET", "/livez")[0].status == 200


# What a client can cost


@pytest.fixture(params=available_backends())
def virtual(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Uloop, Callable[[], socket.socket], admin.Admin]]:
    """An admin on a virtual clock: the loop, a way to connect, and the admin."""
    with Uloop(request.param, clock=VirtualClock()) as loop:
        sock = socket.create_server(("127.0.0.1", 0), backlog=200)
        one = admin.Admin(loop, sock, Ledger(), Patient())
        clients: list[socket.socket] = []

        def connect() -> socket.socket:
            clients.append(socket.create_connection(one._listener.address, TIMEOUT))
            return clients[-1]

        yield loop, connect, one
        for client in clients:
            client.close()
        loop.shutdown(0)
        loop.run()


Virtual = tuple[Uloop, Callable[[], socket.socket], admin.Admin]


def test_a_request_takes_5_seconds_at_most(virtual: Virtual) -> None:
    """One byte a second does not extend it."""
    loop, connect, one = virtual
    client = connect()
    loop.call_every(1.0, client.send, b"G", first=0)
    began = loop.time()
    while not one._listener.connections:
        loop.run_once()
    while one._listener.connections and loop.time() < began + 60:
        loop.run_once()
    # 5 s, and until it is closed no more than the time that a peer has to end as well
    assert 5 <= loop.time() - began <= 10.1


def test_the_next_request_has_5_seconds_from_the_last_answer(virtual: Virtual) -> None:
    loop, connect, one = virtual
    client = connect()
    timer = loop.call_every(4.0, client.send, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    loop.call_later(17.0, timer.cancel)
    began = loop.time()
    while not one._listener.connections:
        loop.run_once()
    while one._listener.connections and loop.time() < began + 60:
        loop.run_once()
    assert client.recv(100_000).count(b"HTTP/1.1 200 OK") == 4
    assert 21 <= loop.time() - began <= 26.1  # the last answer was at 16


REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def await_turns(loop: Uloop, answers: Callable[[], bytes]) -> bytes:
    """What comes; not in so much as a second of the loop's."""
    until = loop.time() + 1
    while loop.time() < until:
        loop.run_once(0.01)
        try:
            return answers()
        except BlockingIOError:
            pass
    return b"nothing"


def is_over(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_64_silent_connections_do_not_keep_anybody_out(virtual: Virtual) -> None:
    """The oldest make room, at once."""
    loop, connect, one = virtual
    clients = []
    for _ in range(63):
        clients.append(connect())
        loop.run_once(1)
    last = connect()  # and one that is answered, which makes it younger than those before it
    clients.insert(0, last)
    last.sendall(REQUEST)
    last.setblocking(False)
    assert await_turns(loop, lambda: last.recv(1000)).startswith(b"HTTP/1.1 200 OK")
    assert len(one._open()) == 64
    for _ in range(3):
        tool = connect()
        tool.sendall(REQUEST)
        tool.setblocking(False)
        assert await_turns(loop, lambda: tool.recv(1000)).startswith(b"HTTP/1.1 200 OK")  # noqa: B023
        assert len(one._open()) == 64
    assert [is_over(client) for client in clients] == [False] + [True] * 3 + [False] * 60


def test_a_crowd_at_the_door_is_64_inside(virtual: Virtual) -> None:
    loop, connect, one = virtual
    clients = [connect() for _ in range(70)]
    await_turns(loop, lambda: b"all" if sum(map(is_over, clients)) >= 6 else clients[-1].recv(1))
    assert len(one._open()) == 64
    assert [is_over(client) for client in clients] == [True] * 6 + [False] * 64


def test_one_that_takes_its_answer_stays(virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all do, who comes waits."""
    monkeypatch.setattr(admin, "MOST_CONNECTIONS", 2)
    loop, connect, one = virtual
    long = HTTPStatus.OK, "text/plain", b"x" * 10_000_000
    with monkeypatch.context() as patch:
        patch.setattr(one, "_answer", lambda path: long)
        for _ in range(2):
            connect().sendall(REQUEST)
            loop.run_once(1)
    while len(one._open()) < 2 or not all(connection.unsent for connection in one._open()):
        loop.run_once(0.01)
    busy = one._open()
    waiting = connect()
    waiting.sendall(REQUEST)
    waiting.setblocking(False)
    assert await_turns(loop, lambda: waiting.recv(1000)) == b"nothing"
    assert set(one._open()) == set(busy)
    busy[0].abort()
    assert await_turns(loop, lambda: waiting.recv(1000)).startswith(b"HTTP/1.1 200 OK")


def test_close_ends_the_connections_in_order(virtual: Virtual) -> None:
    loop, connect, one = virtual
    client = connect()
    while not one._listener.connections:
        loop.run_once()
    one.close()
    one.close()
    while one._listener.connections:
        loop.run_once()
    assert client.recv(100) == b""
    with socket.socket() as sock:
        assert sock.connect_ex(one._listener.address) != 0
