"""``uloop-servers ask`` against real servers, good and bad."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uloop_servers", "ask", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_answer_on_one_line(server: Any, transport: str) -> None:
    result = ask(server.endpoints[transport])
    assert result.returncode == 0, result.stderr
    [line] = result.stdout.splitlines()
    assert server.endpoints[transport] in line
    assert "round trip" in line
    assert "offset" in line


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_json_and_count(server: Any, transport: str) -> None:
    result = ask(server.endpoints[transport], "--count", "3", "--json")
    assert result.returncode == 0, result.stderr
    readings = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(readings) == 3
    for reading in readings:
        assert set(reading) == {"endpoint", "time", "round_trip", "offset"}
        assert reading["endpoint"] == server.endpoints[transport]
        assert len(reading["time"]) == 26
        assert reading["round_trip"] > 0
        # the same clock was read between the question and the answer
        assert abs(reading["offset"]) <= reading["round_trip"]


@pytest.mark.parametrize(("transport", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_nobody_there(transport: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))  # the address is taken, so nobody else can serve there
        if kind == socket.SOCK_DGRAM:
            sock.connect(("127.0.0.1", 9))  # and it takes from another one alone
        endpoint = f"{transport}://127.0.0.1:{sock.getsockname()[1]}"
        result = ask(endpoint)
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert endpoint in line


def test_a_server_that_does_not_tell_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(100)
                sock.sendall(b"no idea")

        thread = threading.Thread(target=answer)
        thread.start()
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        result = ask(endpoint)
        thread.join()
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert endpoint in line
    assert "no idea" in line


def test_a_reader_that_leaves(server: Any) -> None:
    """As in ``uloop-servers ask … | head -1``: no traceback."""
    command = [sys.executable, "-m", "uloop_servers", "ask", server.endpoints["udp"], "--count", "100000"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
