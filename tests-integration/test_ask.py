"""``uloop-servers ask`` against real servers, good and bad."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} from \S+, round trip \d+\.\d{3} ms, "
    r"offset [+-]\d+\.\d{3} ms ± \d+\.\d{3} ms"
)


def ask(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uloop_servers", "ask", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_answer_on_one_line(server: Any, transport: str) -> None:
    result = ask(server.endpoints[transport])
    assert result.returncode == 0, result.stderr
    [line] = result.stdout.splitlines()
    assert LINE.fullmatch(line), line
    assert f" from {server.endpoints[transport]}, " in line


def test_an_output_without_a_plus_minus_sign(server: Any) -> None:
    result = ask(server.endpoints["udp"], environment={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    assert LINE.fullmatch(result.stdout.rstrip("\n").replace(" +/- ", " ± ")), result.stdout
    assert result.stdout.isascii()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_json_and_count(server: Any, transport: str) -> None:
    result = ask(server.endpoints[transport], "--count", "3", "--json")
    assert result.returncode == 0, result.stderr
    readings = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(readings) == 3
    for reading in readings:
        assert set(reading) == {"endpoint", "time", "round_trip", "offset", "error"}
        assert reading["endpoint"] == server.endpoints[transport]
        assert len(reading["time"]) == 26
        assert reading["round_trip"] > 0
        # the same clock was read between the question and the answer; it may be slewed meanwhile
        assert abs(reading["offset"]) <= reading["error"] + 1e-5
        assert reading["error"] <= reading["round_trip"] / 2 + 0.02  # Windows' clocks are coarse


@pytest.mark.parametrize(
    "scheme", ["tcp", "udp", "daytime+tcp", "daytime+udp", "time+tcp", "time+udp", "ntp"]
)
def test_nobody_there(scheme: str) -> None:
    kind = socket.SOCK_STREAM if scheme.endswith("tcp") else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))  # the address is taken, so nobody else can serve there
        if kind == socket.SOCK_DGRAM:
            sock.connect(("127.0.0.1", 9))  # and it takes from another one alone
        endpoint = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
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


def test_one_connection_for_all_questions() -> None:
    """The base protocol over TCP keeps it open."""
    answers = [b"2026-01-01 00:00:00.000000", b"2026-01-01 00:00:00.000001", b"2026-01-01 00:00:00.000002"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                for answer in answers:
                    client.recv(100)
                    client.sendall(answer)
                assert client.recv(100) == b""  # it leaves, and does not have to be sent away

        thread = threading.Thread(target=serve)
        thread.start()
        result = ask(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "--count", "3", "--json")
        thread.join()
    assert result.returncode == 0, result.stderr
    told = [json.loads(line)["time"] for line in result.stdout.splitlines()]
    assert told == [answer.decode() for answer in answers]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
def test_ctrl_c() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        command = [
            sys.executable,
            "-m",
            "uloop_servers",
            "ask",
            f"tcp://127.0.0.1:{listener.getsockname()[1]}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            client, _ = listener.accept()
            with client:
                assert client.recv(100)  # so it waits for an answer
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)  # a shell says 130 of both
    assert (output, errors) == ("", "")
