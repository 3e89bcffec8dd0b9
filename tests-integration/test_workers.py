"""``serve --workers N``: several processes on one port, and what becomes of them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from uloop_reactor import Uloop, available_backends
from uloop_servers import workers as rules
from uloop_servers.config import Settings
from uloop_servers.counters import Ledger

SHARED = sys.platform == "linux" or sys.platform.startswith("freebsd")
needs_sharing = pytest.mark.skipif(not SHARED, reason="sockets cannot share a port here")
SIGKILL = getattr(signal, "SIGKILL", 9)
SIGSTOP = getattr(signal, "SIGSTOP", 0)
SIGCONT = getattr(signal, "SIGCONT", 0)

BEST = available_backends()[0]
BASE = ("tcp://127.0.0.1:0", "udp://127.0.0.1:0")
TWO = ("--workers", "2", "--rate-limit", "0", "--metrics", "127.0.0.1:0", *BASE)
TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
PATIENCE = 30  # seconds; a test that runs into it has failed
LOST = 5  # seconds after which a question that was sent as a datagram is given up

Start = Callable[..., Any]


@contextmanager
def workers_of(pid: int) -> Iterator[Callable[[], set[int]]]:
    """A way to ask for the children of a process that live; none of them stays behind after the test."""
    if shutil.which("ps") is None:
        pytest.skip("there is no ps here; on Debian it is in the package procps")
    known: set[int] = set()

    def workers() -> set[int]:
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in listed.stdout.splitlines()]
        found = {int(child) for child, parent, state in rows if int(parent) == pid and "Z" not in state}
        known.update(found)
        return found

    try:
        yield workers
    finally:
        orphaned = not alive({pid})
        for child in alive(known):
            try:
                os.kill(child, SIGKILL if orphaned else SIGCONT)
            except ProcessLookupError:
                pass  # it has ended meanwhile


def alive(pids: set[int]) -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return pids & {int(pid) for pid, state in rows if "Z" not in state}


def wait_until(condition: Callable[[], object]) -> None:
    """What no event tells of is looked at again and again."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this did not happen"
        time.sleep(0.01)


def wait_for_line(program: Any, pattern: str) -> str:
    """What of the next line with such an end matches; there may be warnings of a slow machine before."""
    while True:
        found = re.search(f"{pattern}$", program.next_line())
        if found:
            return found[0]


def metrics_url(program: Any) -> str:
    """What it says behind its endpoints."""
    return wait_for_line(program, r"http://\S+/metrics")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def counters(url: str) -> dict[str, float]:
    """The counters that are one for all workers."""
    rows = re.findall(r"^(uloop_\w+_total(?:\{[^}]*\})?) (\S+)$", get(url)[1], re.MULTILINE)
    return {name: float(value) for name, value in rows if "worker=" not in name}


def connect(server: Any, transport: str = "tcp") -> socket.socket:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", server.ports[transport]))
    return sock


class Client:
    """Asks as fast as it is answered, in a thread.

    Parameters:
        faithful: connects again when its connection has ended.

    Attributes:
        answers: how many there were.
        lost: how many questions had none.
        end: how it has ended, if it has.
    """

    def __init__(self, server: Any, transport: str, faithful: bool) -> None:
        self.answers = 0
        self.lost = 0
        self.end = ""
        self._server = server
        self._transport = transport
        self._faithful = faithful
        self._sock = connect(server, transport)
        if transport == "udp":
            self._sock.settimeout(LOST)
        self._over = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        while not self._over.is_set() and not self.end:
            try:
                self._sock.sendall(b"time?")
                answer = self._sock.recv(100)
            except TimeoutError:
                self.lost += 1
            except OSError as error:
                self.lost += 1
                self._ended(str(error))
            else:
                if TIME.fullmatch(answer):
                    self.answers += 1
                elif answer:
                    self.end = f"it was told {answer!r}"
                else:
                    self._ended("in order")

    def _ended(self, how: str) -> None:
        if self._faithful and self._transport == "tcp":
            self.lost += how == "in order"
            self._sock.close()
            self._sock = connect(self._server)
        else:
            self.end = how


@contextmanager
def load(server: Any, *, faithful: bool) -> Iterator[list[Client]]:
    """Clients that ask all the time; on so many sockets that every worker has some, as good as for sure."""
    clients = [Client(server, transport, faithful) for transport in ("tcp", "udp") for _ in range(8)]
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()


def wait_for_answers(clients: list[Client], more: int) -> None:
    """Until each has got so many more."""
    goals = [client.answers + more for client in clients]
    wait_until(lambda: all(client.answers >= goal for client, goal in zip(clients, goals, strict=True)))


# A worker that dies


@needs_sharing
def test_a_worker_is_killed_under_load(start_server: Start, backend: str) -> None:
    server = start_server(backend, *TWO)
    url = metrics_url(server)
    with workers_of(server.process.pid) as workers, load(server, faithful=True) as clients:
        before = workers()
        assert len(before) == 2
        wait_for_answers(clients, 20)
        counted = counters(url)
        victim = min(before)
        os.kill(victim, SIGKILL)
        wait_for_line(server, r"worker [01] was killed by signal 9; starting another")
        wait_for_answers(clients, 20)
        after = workers()
        assert len(after) == 2
        assert after & before == before - {victim}
        # Whoever had the victim lost the one question it held, if any, and is served by the next one.
        assert {client.lost for client in clients} <= {0, 1}
        assert sum(client.lost for client in clients) < len(clients)
        now = counters(url)
        assert all(now[name] >= value for name, value in counted.items())
        assert now["uloop_worker_restarts_total"] == 1
        assert get(url.replace("metrics", "livez"))[0] == 200
    # The connections of the dead are not open.
    wait_until(lambda: re.search(r"^uloop_connections\{.*\} 0\.0$", get(url)[1], re.MULTILINE))


@needs_sharing
def test_no_counter_ever_falls(start_server: Start) -> None:
    server = start_server(BEST, *TWO)
    url = metrics_url(server)
    with workers_of(server.process.pid) as workers, load(server, faithful=True) as clients:
        wait_for_answers(clients, 5)
        before = counters(url)
        for victim in workers():
            os.kill(victim, SIGKILL)
            while True:
                now = counters(url)
                assert all(now[name] >= value for name, value in before.items())
                if now["uloop_worker_restarts_total"] > before["uloop_worker_restarts_total"]:
                    break
                before = now
            before = now


@needs_sharing
def test_where_the_end_of_a_child_is_not_told(start_server: Start) -> None:
    """Whoever ignores SIGCHLD hands that on to the programs it starts."""
    ignore = getattr(signal, "SIGCHLD", 0)
    server = start_server(BEST, *TWO, preexec_fn=lambda: signal.signal(ignore, signal.SIG_IGN))
    with workers_of(server.process.pid) as workers:
        before = workers()
        os.kill(min(before), SIGKILL)
        wait_for_line(server, "worker [01] ended; starting another")
        wait_until(lambda: len(workers()) == 2)
        assert before - workers() == {min(before)}


@needs_sharing
def test_what_waits_for_a_dead_worker_is_served_by_the_next(start_server: Start) -> None:
    """Connections in its backlog, and datagrams in its buffer."""
    server = start_server(BEST, *TWO)
    with workers_of(server.process.pid) as workers, ExitStack() as stack:
        before = workers()
        for worker in before:
            os.kill(worker, SIGSTOP)
        clients = [
            stack.enter_context(connect(server, transport)) for transport in ("tcp", "udp") for _ in range(20)
        ]
        for client in clients:
            client.sendall(b"time?")
        for worker in before:
            os.kill(worker, SIGKILL)
        assert all(TIME.fullmatch(client.recv(100)) for client in clients)
        assert not workers() & before


@needs_sharing
@pytest.mark.parametrize(
    ("crash", "how"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", f"was killed by signal {int(signal.SIGSEGV)}"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", "ended with exit code 1"),
    ],
)
def test_workers_that_crash_again_and_again(
    start_program: Start, tmp_path: Path, crash: str, how: str
) -> None:
    """Something in their environment has every forked process crash, or lets it have no descriptor."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, resource, signal\nos.register_at_fork(after_in_child=lambda: {crash})\n"
    )
    program = start_program(
        *("-m", "uloop_servers", "serve", "--workers", "2", *BASE),
        environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert program.wait() == 1
    deaths = [line for line in program.lines if how in line]
    assert len([line for line in deaths if "; giving up" in line]) == 1
    for number in (0, 1):
        assert sum(f"worker {number} {how}; starting another" in line for line in deaths) <= 4
    assert sum(f"{how}; starting another" in line for line in deaths) >= 4


# While there is a file, no process can be started, or none that lives; each try is a line.
TROUBLE = """
import errno, os, socket, sys
from uloop_servers import cli, workers

kind, file, *arguments = sys.argv[1:]
workers.PAUSES = (0.01,)

def refuse(call, error):
    def refusing(*args):
        if os.path.exists(file):
            os.write(2, b"tried\\n")
            raise OSError(error, os.strerror(error))
        return call(*args)
    return refusing

def crash():
    if os.path.exists(file):
        os.write(2, b"tried\\n")
        os._exit(3)

if kind == "no process":
    os.fork = refuse(os.fork, errno.EAGAIN)
elif kind == "no descriptor":
    socket.socketpair = refuse(socket.socketpair, errno.EMFILE)
elif kind == "no watch":
    workers.Channel = refuse(workers.Channel, errno.ENOSPC)  # of epoll_ctl(2)
else:
    os.register_at_fork(after_in_child=crash)
sys.exit(cli.main(["serve", *arguments]))
"""
KINDS = ["no process", "no descriptor", "no watch", "crash"]


def wait_for_tries(program: Any, count: int) -> None:
    while count:
        count -= program.next_line() == "tried"


def is_served(client: socket.socket) -> bool:
    try:
        client.sendall(b"time?")
        return TIME.fullmatch(client.recv(100)) is not None
    except ConnectionError:
        return False


@needs_sharing
@pytest.mark.parametrize("kind", KINDS)
def test_one_place_in_trouble_does_not_end_the_others(
    start_program: Start, tmp_path: Path, backend: str, kind: str
) -> None:
    file = tmp_path / "trouble"
    program = start_program("-c", TROUBLE, kind, str(file), "--backend", backend, *TWO)
    port = int(wait_for_line(program, r"serving tcp://127\.0\.0\.1:\d+").rpartition(":")[2])
    url = metrics_url(program)
    with workers_of(program.process.pid) as workers, ExitStack() as stack:
        survivor, victim = workers()
        # So many that the survivor has some, as good as for sure.
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(30)]
        assert all(is_served(client) for client in clients)
        file.touch()
        os.kill(victim, SIGKILL)
        wait_for_tries(program, 3 * rules.MOST_FAILURES)
        assert survivor in workers()
        assert any(is_served(client) for client in clients)
        assert get(url.replace("metrics", "livez")) == (200, "ok\n")
        status, text = get(url.replace("metrics", "readyz"))
        assert status == 503
        assert re.fullmatch(r"worker [01] is not ready\n", text)
        file.unlink()
        wait_until(lambda: get(url.replace("metrics", "readyz"))[0] == 200)
        assert len(workers()) == 2
        assert survivor in workers()
        restarts = counters(url)["uloop_worker_restarts_total"]
        assert program.terminate() == 0
    deaths = [line for line in program.lines if "; starting another" in line]
    assert restarts == len(deaths)
    failed = [line for line in program.lines if "could not be started" in line]
    if kind == "crash":
        assert len(deaths) >= 3 * rules.MOST_FAILURES
        assert not failed
    else:
        assert len(deaths) == 1
        assert len(failed) == 1, "one line for all tries"
        assert "; trying again" in failed[0]


@needs_sharing
@pytest.mark.parametrize("kind", KINDS)
def test_trouble_in_all_places_ends_it(start_program: Start, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "trouble"
    program = start_program("-c", TROUBLE, kind, str(file), *TWO)
    metrics_url(program)
    with workers_of(program.process.pid) as workers:
        before = workers()
        file.touch()
        for worker in before:
            os.kill(worker, SIGKILL)
        assert program.wait() == 1
    assert sum("; giving up" in line for line in program.lines) == 1
    assert program.lines.count("tried") >= 2 * (rules.MOST_FAILURES - 1)  # it has begun with a death


@needs_sharing
def test_a_start_that_succeeds_in_part_has_failed(start_program: Start) -> None:
    """Or whoever waits for it to be ready would wait for ever."""
    program = start_program(
        "-c",
        "import errno, os, sys\n"
        "from uloop_servers import cli, workers\n"
        "workers.PAUSES = (0.01,)\n"
        "fork = os.fork\n"
        "def second_time():\n"
        "    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "def first_time():\n"
        "    os.fork = second_time\n"
        "    return fork()\n"
        "os.fork = first_time\n"
        f"sys.exit(cli.main(['serve', *{TWO!r}]))",
    )
    with workers_of(program.process.pid) as workers:
        assert program.wait() == 1
        assert not workers()
    reason = f"worker 1 could not be started ({os.strerror(errno.EAGAIN)})"
    first, last = [line for line in program.lines if reason in line]
    assert first.endswith("; trying again")
    assert last.endswith("; giving up")


@needs_sharing
def test_the_pauses_between_tries_grow_and_end() -> None:
    place = rules.Place(0, [], Ledger().rows[0])
    pauses = []
    for failures in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5000):
        place.failures = failures
        pauses.append(place.pause())
    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]


@needs_sharing
def test_an_empty_place_is_no_reason_to_kill_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no sign of life for up to 10 s, as long as an ill worker may take for one."""
    monkeypatch.setattr(rules, "SLOWEST_HEARTBEAT", -1.0)
    with Uloop() as loop:
        parent = rules.Supervisor(
            loop, Settings(workers=2), [[], []], Ledger(2), ready=lambda: None, failed=lambda: None
        )
        assert parent.problems() == []
        assert parent.unready() == ["worker 0 is not ready", "worker 1 is not ready"]
        parent.close()


@needs_sharing
def test_a_worker_that_hangs_is_replaced(start_program: Start) -> None:
    program = start_program(
        "-c",
        "import sys\n"
        "from uloop_servers import cli, workers\n"
        "workers.SLOWEST_HEARTBEAT, workers.HEARTBEAT_LOST = 2.0, 4.0\n"
        f"sys.exit(cli.main(['serve', *{TWO!r}]))",
    )
    url = metrics_url(program)
    live = url.replace("metrics", "livez")
    with workers_of(program.process.pid) as workers:
        before = workers()
        assert get(live) == (200, "ok\n")
        os.kill(min(before), SIGSTOP)
        wait_until(lambda: get(live)[0] != 200)
        status, text = get(live)
        assert status == 503
        assert re.fullmatch(r"worker [01] has given no sign of life for \d s\n", text)
        wait_for_line(program, "worker [01] gave no sign of life for 4 s and was killed; starting another")
        wait_until(lambda: get(live)[0] == 200)
        assert before - workers() == {min(before)}
        assert len(workers()) == 2
        assert program.terminate() == 0


# The port


@needs_sharing
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_second_service_does_not_get_the_port(
    start_server: Start, start_program: Start, transport: str, host: str
) -> None:
    server = start_server(BEST, *TWO)
    taken = f"{transport}://{host}:{server.ports[transport]}"
    second = start_program("-m", "uloop_servers", "serve", "--workers", "2", taken)
    assert second.wait() == 1
    (line,) = second.lines
    assert f"cannot serve {taken}: {os.strerror(errno.EADDRINUSE)}" in line


@needs_sharing
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_endpoint_is_listed_twice(start_program: Start, transport: str) -> None:
    with socket.socket(type=socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint = f"{transport}://127.0.0.1:{sock.getsockname()[1]}"
    program = start_program("-m", "uloop_servers", "serve", "--workers", "2", endpoint, endpoint)
    assert program.wait() == 1
    (line,) = program.lines
    assert f"cannot serve {endpoint}: {os.strerror(errno.EADDRINUSE)}" in line


@needs_sharing
def test_the_same_port_right_after_the_end(start_server: Start) -> None:
    """The connections that the service was the first to end are in TIME_WAIT still."""
    server = start_server(BEST, *TWO)
    with connect(server) as client:
        client.sendall(b"time?")
        assert TIME.fullmatch(client.recv(100))
        server.process.terminate()
        assert client.recv(100) == b""
    assert server.wait() == 0
    again = [f"{transport}://127.0.0.1:{port}" for transport, port in server.ports.items()]
    assert start_server(BEST, "--workers", "2", *again).ports == server.ports


# The parent


@needs_sharing
def test_no_worker_outlives_its_parent(start_program: Start) -> None:
    program = start_program("-m", "uloop_servers", "serve", "--workers", "2", *BASE)
    port = int(program.next_line().rpartition(":")[2])
    program.next_line()
    with workers_of(program.process.pid) as workers, ExitStack() as stack:
        orphans = workers()
        assert len(orphans) == 2
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(8)]
        for client in clients:
            client.sendall(b"time?")
            assert client.recv(100)
        program.process.kill()
        for client in clients:
            assert client.recv(100) == b"", "it was not ended in order"
        wait_until(lambda: not alive(orphans))
        program.wait()


@needs_sharing
def test_a_worker_has_no_socket_but_its_own(start_server: Start) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux lists the sockets of a process in /proc")
    server = start_server(BEST, *TWO)
    metrics = int(metrics_url(server).removesuffix("/metrics").rpartition(":")[2])
    ports = {*server.ports.values(), metrics}
    with (
        workers_of(server.process.pid) as workers,
        socket.create_connection(("127.0.0.1", metrics)) as scraper,
    ):
        scraper.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert scraper.recv(1000)  # so it is connected, and stays so for some seconds
        first = min(workers())
        os.kill(first, SIGKILL)  # so that one of them was forked by a parent in full swing
        wait_for_line(server, "starting another")
        wait_until(lambda: len(workers()) == 2)
        bound = {pid: bound_sockets(pid, ports) for pid in [server.process.pid, *workers()]}
    of_parent = bound.pop(server.process.pid)
    one, other = bound.values()
    assert len(one) == len(other) == 2
    assert not one & other
    assert one | other < of_parent
    assert len(of_parent) == 6


def bound_sockets(pid: int, ports: set[int]) -> set[str]:
    """The inodes of those sockets of a process that have one of these ports."""
    inodes = set()
    for table in ("tcp", "udp"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, _, _, _, _, _, _, inode, *_ = line.split()
            if int(local.rpartition(":")[2], 16) in ports:
                inodes.add(f"socket:[{inode}]")
    return inodes & {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}


# SIGTERM


@needs_sharing
def test_nothing_that_has_arrived_is_lost_at_the_end(start_server: Start, backend: str) -> None:
    """While the workers are stopped, all that comes waits in the kernel; then SIGTERM is there as well."""
    server = start_server(backend, *TWO)
    with workers_of(server.process.pid) as workers, ExitStack() as stack:
        old = [stack.enter_context(connect(server)) for _ in range(40)]
        for client in old:
            client.sendall(b"time?")
            assert TIME.fullmatch(client.recv(100))
        stopped = workers()
        for worker in stopped:
            os.kill(worker, SIGSTOP)
        new = [stack.enter_context(connect(server)) for _ in range(100)]
        asking = [stack.enter_context(connect(server, "udp")) for _ in range(50)]
        for client in old + new + asking:
            client.sendall(b"time?")
        server.process.terminate()
        url = metrics_url(server).replace("metrics", "readyz")
        wait_until(lambda: get(url) == (503, "it is ending\n"))
        for worker in stopped:
            os.kill(worker, SIGCONT)
        assert all(TIME.fullmatch(client.recv(100)) for client in old + new + asking)
        assert all(client.recv(100) == b"" for client in old + new)
    assert server.wait() == 0


@needs_sharing
def test_sigterm_under_load(start_server: Start, backend: str) -> None:
    server = start_server(backend, *TWO)
    with workers_of(server.process.pid) as workers, load(server, faithful=False) as clients:
        wait_for_answers(clients, 20)
        server.process.terminate()
        assert server.wait() == 0
        assert not workers()
    assert [(client.end, client.lost) for client in clients[:8]] == [("in order", 0)] * 8
    # No datagram is refused before it is sent. But each is answered, or its client told that nobody is
    # there any more: none was taken and then thrown away.
    assert all(client.lost <= 1 and "refused" in client.end for client in clients[8:])
    assert not [line for line in server.lines if "error" in line], server.lines


def ask_until_nothing_is_read(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(b"time?")
    except TimeoutError:
        pass


@needs_sharing
def test_nobody_is_let_in_while_it_ends(start_server: Start) -> None:
    """Or clients would wait in a backlog that nobody empties."""
    server = start_server(BEST, *TWO)
    with workers_of(server.process.pid) as workers, socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or it takes long to fill
        greedy.settimeout(0.5)
        greedy.connect(("127.0.0.1", server.ports["tcp"]))
        ask_until_nothing_is_read(greedy)
        server.process.terminate()

        def is_refused() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", server.ports["tcp"])) != 0

        wait_until(is_refused)
        assert workers(), "it had ended altogether"
        assert all(is_refused() for _ in range(20))
    assert server.wait() == 0


@needs_sharing
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_them(start_server: Start, signum: signal.Signals) -> None:
    """As a terminal sends it to its process group, and a service manager to all processes of a service."""
    server = start_server(BEST, *TWO, start_new_session=True)
    url = metrics_url(server)
    wait_until(lambda: get(url.replace("metrics", "readyz"))[0] == 200)
    os.kill(-server.process.pid, signum)  # its group
    assert server.wait() == 0
    assert not [line for line in server.lines if "error" in line], server.lines


@needs_sharing
def test_a_worker_that_does_not_end_is_killed(start_program: Start) -> None:
    program = start_program("-m", "uloop_servers", "serve", "--grace", "0.2", *TWO)
    metrics_url(program)
    with workers_of(program.process.pid) as workers:
        os.kill(min(workers()), SIGSTOP)
        program.process.terminate()
        wait_for_line(program, "worker [01] was killed by signal 9 while it should finish")
        assert program.wait() == 1
        assert not workers()


@needs_sharing
def test_a_second_signal_kills_them(start_program: Start) -> None:
    program = start_program("-m", "uloop_servers", "serve", "--grace", "1000", *TWO)
    metrics_url(program)
    with workers_of(program.process.pid) as workers:
        for worker in workers():
            os.kill(worker, SIGSTOP)
        while program.process.poll() is None:  # those that come within a second do not count
            program.process.terminate()
            time.sleep(0.1)
        assert program.wait() == 1
        assert not workers()


# SIGHUP


def rate_refused(url: str) -> float:
    return counters(url)['uloop_refusals_total{protocol="clock",reason="rate",transport="udp"}']


def answered(url: str) -> float:
    return counters(url)['uloop_answers_total{protocol="clock",transport="udp"}']


def ask_20_times(server: Any, url: str) -> int:
    """On so many sockets; how many of these were answered."""
    before = answered(url), rate_refused(url)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server, "udp")).sendall(b"time?")
        while True:
            got, refused = answered(url) - before[0], rate_refused(url) - before[1]
            if got + refused == 20:
                return int(got)


@needs_sharing
def test_new_limits_are_in_force_in_all_workers(start_server: Start, tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("rate-limit = 0\n")
    server = start_server(BEST, "--workers", "2", "--metrics", "127.0.0.1:0", "--config", str(file), *BASE)
    url = metrics_url(server)
    with workers_of(server.process.pid) as workers:
        before = workers()
        assert ask_20_times(server, url) == 20
        file.write_text("rate-limit = 0.001\nrate-burst = 1\n")
        server.process.send_signal(signal.Signals["SIGHUP"])
        wait_for_line(server, "was read again")
        # Each worker has them in its next turn, and then one answer to give.
        wait_until(lambda: ask_20_times(server, url) == 0)
        # Those who take a dead one's place have them, too.
        victim = min(before)
        os.kill(victim, SIGKILL)
        wait_for_line(server, "starting another")
        wait_until(lambda: len(workers() - {victim}) == 2)
        assert ask_20_times(server, url) <= 1


@needs_sharing
def test_a_broken_file_changes_nothing(start_server: Start, tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("rate-limit = 0\n")
    server = start_server(BEST, "--workers", "2", "--metrics", "127.0.0.1:0", "--config", str(file), *BASE)
    url = metrics_url(server)
    with workers_of(server.process.pid) as workers:
        before = workers()
        file.write_text("rate-limit = 'fast'\n")
        server.process.send_signal(signal.Signals["SIGHUP"])
        assert f"{file}:1: rate-limit:" in server.next_line()
        assert ask_20_times(server, url) == 20
        assert workers() == before
        lines = len(server.lines)
        server.process.terminate()
        assert server.wait() == 0
        assert len(server.lines) == lines, server.lines


# Elsewhere


@pytest.mark.skipif(SHARED, reason="sockets can share a port here")
def test_where_sockets_cannot_share_a_port(start_program: Start) -> None:
    program = start_program("-m", "uloop_servers", "serve", "--workers", "2", "tcp://127.0.0.1:0")
    assert program.wait() == 1
    (line,) = program.lines
    assert f"several workers cannot share a port on {sys.platform}; use one" in line
