"""A server as a service of systemd: its sockets, its readiness, its watchdog and its journal."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has neither Unix sockets nor descriptors to inherit", allow_module_level=True)

# Does what systemd does before it executes a service: sockets from descriptor 3 on, and variables.
# They are given as name=type, and each is bound to a free port.
ACTIVATION = """
import fcntl, os, socket, sys

sockets = []
for text in sys.argv[1].split():
    name, _, kind = text.partition("=")
    sock = socket.socket(socket.AF_INET, getattr(socket, kind))
    sock.bind(("127.0.0.1", 0))
    if kind == "SOCK_STREAM":
        sock.listen()
    sockets.append((name, fcntl.fcntl(sock, fcntl.F_DUPFD, 20)))
for index, (_, number) in enumerate(sockets):
    os.dup2(number, 3 + index)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in sockets)
status = os.fstat(2)
if "JOURNAL" in os.environ:
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
os.execv(sys.executable, [sys.executable, "-m", "uloop_servers", "serve", *sys.argv[2:]])
"""

Start = Callable[..., Any]


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's socket, of which the servers that are started now know."""
    # Not in tmp_path: an address has room for about 100 bytes.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{directory}/notify")
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        yield sock


def told(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def served(program: Any, count: int) -> dict[str, int]:
    """The ports that a program says it serves, by scheme."""
    ports = {}
    for _ in range(count):
        _, _, endpoint = program.next_line().partition("serving ")
        scheme, _, address = endpoint.partition("://")
        ports[scheme] = int(address.rpartition(":")[2])
    return ports


def ask_datagram(port: int, question: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.sendto(question, ("127.0.0.1", port))
        return sock.recv(1000)


def ask_stream(port: int, question: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(question)
        return sock.recv(1000)


def test_readiness_reload_and_end(manager: socket.socket, start_server: Start, backend: str) -> None:
    server = start_server(backend)
    assert told(manager) == "READY=1"
    server.process.send_signal(signal.SIGHUP)
    reloading, begun = told(manager).split("\n")
    assert reloading == "RELOADING=1"
    assert begun.startswith("MONOTONIC_USEC=")
    assert told(manager) == "READY=1"
    server.process.send_signal(signal.SIGTERM)
    assert told(manager) == "STOPPING=1"
    assert server.wait() == 0


def test_several_workers_are_one_service(manager: socket.socket, start_server: Start) -> None:
    if not sys.platform.startswith(("linux", "freebsd")):
        pytest.skip(f"{sys.platform} cannot share a port")
    server = start_server("poll", "--workers", "2", "udp://127.0.0.1:0")
    assert told(manager) == "READY=1"
    server.process.send_signal(signal.SIGTERM)
    assert told(manager) == "STOPPING=1"
    assert server.wait() == 0


def test_the_watchdog_is_kept_quiet(
    manager: socket.socket, start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    start_server("poll")
    assert told(manager) == "READY=1"
    for _ in range(3):
        assert told(manager) == "WATCHDOG=1"


def test_sockets_that_systemd_has_opened(start_program: Start) -> None:
    """The units' names say what is spoken, and the defaults, which nobody asked for, are not bound."""
    sockets = "ntp=SOCK_DGRAM daytime=SOCK_DGRAM daytime=SOCK_STREAM unknown=SOCK_STREAM"
    program = start_program("-c", ACTIVATION, sockets, "--utc")
    ports = served(program, 4)
    assert list(ports) == ["ntp", "daytime+udp", "daytime+tcp", "tcp"]
    assert len(ask_datagram(ports["ntp"], b"\x23" + bytes(47))) == 48
    assert ask_datagram(ports["daytime+udp"], b"?").endswith(b" UTC\r\n")
    assert ask_stream(ports["daytime+tcp"], b"").endswith(b" UTC\r\n")
    assert len(ask_stream(ports["tcp"], b"time?")) == 26
    assert program.terminate() == 0
    assert len(program.lines) == 4 + sum("warning" in line for line in program.lines), program.lines


def test_what_was_asked_for_is_bound_beside_them(start_program: Start) -> None:
    program = start_program("-c", ACTIVATION, "unknown=SOCK_STREAM", "udp://127.0.0.1:0")
    ports = served(program, 2)
    assert list(ports) == ["tcp", "udp"]
    assert len(ask_datagram(ports["udp"], b"time?")) == 26
    assert program.terminate() == 0


def test_a_name_that_does_not_fit(start_program: Start) -> None:
    program = start_program("-c", ACTIVATION, "ntp=SOCK_STREAM")
    assert program.wait() == 1
    [line] = program.lines
    assert "the inherited socket 'ntp' is a stream socket; ntp needs a datagram socket" in line


def test_the_journal(start_program: Start) -> None:
    program = start_program("-c", ACTIVATION, "tcp=SOCK_STREAM", environment={"JOURNAL": "yes"})
    assert program.next_line().startswith("<6>serving tcp://127.0.0.1:")
    assert program.terminate() == 0
