"""How a server ends."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

SIGNALS = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signals to send to another process but Ctrl-Break"
)

# The signal reaches a thread that does not run the loop, as Ctrl-C does on Windows: nothing
# interrupts the loop's wait, it must be woken.
SIGNALLED_BY_A_THREAD = """
import signal, sys, threading
from uloop_servers.cli import main

def raise_at_the_end_of_input():
    sys.stdin.read()
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=raise_at_the_end_of_input).start()
sys.exit(main(["serve", "tcp://127.0.0.1:0"]))
"""


def test_a_signal_wakes_the_loop(start_program: Callable[..., Any], backend: str) -> None:
    program = start_program("-c", SIGNALLED_BY_A_THREAD, environment={"ULOOP_BACKEND": backend})
    assert "serving" in program.next_line()
    program.close_input()
    assert program.wait() == 0
    assert len(program.lines) == 1, program.lines


@SIGNALS
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0(server: Any, signum: signal.Signals) -> None:
    with socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30) as sock:
        sock.sendall(b"time?")
        assert sock.recv(100)
        server.process.send_signal(signum)
        assert server.wait() == 0
        assert sock.recv(100) == b""  # a connection that stood open is closed in order
    assert len(server.lines) == 2, server.lines


@SIGNALS
def test_the_same_signal_several_times(server: Any) -> None:
    """A terminal's Ctrl-C reaches the whole group, and whoever started us may pass it on."""
    for _ in range(5):
        server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


@SIGNALS
def test_sigint_counts_where_it_was_ignored(start_server: Callable[..., Any], backend: str) -> None:
    """A shell without job control starts ``command &`` with SIGINT ignored."""
    server = start_server(backend, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


@SIGNALS
def test_standard_error_closed(backend: str) -> None:
    """Nobody listens to what it says; it serves all the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = f"{shlex.quote(sys.executable)} -m uloop_servers serve --backend {backend}"
    command = f"exec {serve} tcp://127.0.0.1:{port} 2>&-"
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL) as process:
        ask = [sys.executable, "-m", "uloop_servers", "ask", f"tcp://127.0.0.1:{port}"]
        while subprocess.run(ask, capture_output=True).returncode:
            assert process.poll() is None, "it has ended"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
