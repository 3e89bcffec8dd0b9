"""SIGHUP to a service that is ending already: it goes on ending, and says nothing else."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has neither SIGHUP nor Unix sockets", allow_module_level=True)

SHARED = sys.platform == "linux" or sys.platform.startswith("freebsd")


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's socket, of which the servers that are started now know."""
    # Not in tmp_path: an address has room for about 100 bytes.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{directory}/notify")
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/notify")
        yield sock


def ask_until_nothing_is_read(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(b"time?" * 1000)
    except TimeoutError:
        pass


@pytest.mark.parametrize(
    "workers",
    ["1", pytest.param("2", marks=pytest.mark.skipif(not SHARED, reason="sockets cannot share a port here"))],
)
def test_a_reload_does_not_take_back_the_end(
    manager: socket.socket, start_server: Callable[..., Any], backend: str, workers: str
) -> None:
    server = start_server(backend, "--workers", workers, "--grace", "1000", "tcp://127.0.0.1:0")
    assert manager.recv(4096) == b"READY=1"
    with socket.socket() as greedy:
        # As long as it does not read its answers the service has something to finish.
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(0.5)
        greedy.connect(("127.0.0.1", server.ports["tcp"]))
        ask_until_nothing_is_read(greedy)
        server.process.send_signal(signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1"
        os.kill(server.process.pid, signal.SIGHUP)
        line = server.next_line()
        assert line.endswith("warning: the configuration is not read again: the service is ending"), line
    assert server.wait() == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
