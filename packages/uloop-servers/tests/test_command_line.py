"""Arguments, exit codes, and what is said when something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import uloop_servers


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uloop_servers", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_version() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"uloop-servers {uloop_servers.__version__}"


@pytest.mark.parametrize("command", [(), ("serve",), ("check-config",), ("ask",)])
def test_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: uloop-servers")
    assert not result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "COMMAND"),
        (("dance",), "dance"),
        (("serve", "ftp://127.0.0.1:1"), "'ftp://127.0.0.1:1' has the unknown scheme 'ftp'"),
        (("serve", "--back=poll"), "--back"),
        (("serve", "--rate-limit", "fast"), "argument --rate-limit: 'fast' is not a number of answers"),
        (("serve", "--allow", "10.0.0.1/8"), "argument --allow: '10.0.0.1/8' is an address within a network"),
        (
            ("serve", "--follow", "x", "--trust-local-clock"),
            "uloop-servers serve: --follow: it excludes trust-local-clock: ",
        ),
        (("serve", "--follow", "x", "--stratum", "1"), "--stratum: it excludes follow: the stratum is "),
        (("check-config",), "FILE"),
        (("ask",), "ENDPOINT"),
        (("ask", "127.0.0.1"), "'127.0.0.1' is not an endpoint like"),
        (("ask", "tcp://127.0.0.1:1", "--count", "0"), "'0' is not a number from 1 to 999999999"),
        (("ask", "tcp://127.0.0.1:1", "--count", "many"), "'many' is not a number from 1 to 999999999"),
        (("ask", "tcp://127.0.0.1:1", "--count", "²"), "is not a number from 1 to 999999999"),
        (("ask", "tcp://127.0.0.1:1", "--count", "9" * 5000), "is not a number from 1 to 999999999"),
    ],
)
def test_arguments_that_make_no_sense(arguments: tuple[str, ...], reason: str) -> None:
    result = run(*arguments, PYTHONIOENCODING="utf-8")
    assert result.returncode == 2
    assert not result.stdout
    [line] = result.stderr.splitlines()
    assert reason in line
    assert "Traceback" not in result.stderr


def test_an_unknown_backend_lists_those_there_are() -> None:
    result = run("serve", "--backend", "carrier-pigeon")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert "'carrier-pigeon'" in last
    assert "select" in last


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("ULOOP_BACKEND", "carrier-pigeon", "'carrier-pigeon' is not a backend of this platform; known are "),
        (
            "ULOOP_RATE_LIMIT",
            "fast",
            "'fast' is not a number of answers a second, like 10, or 0 for no limit",
        ),
        ("ULOOP_ENDPOINTS", "tcp://x ftp://x", "'ftp://x' has the unknown scheme 'ftp'"),
        ("ULOOP_RATELIMIT", "1", "unknown variable; did you mean ULOOP_RATE_LIMIT?"),
    ],
)
def test_a_bad_environment(variable: str, text: str, reason: str) -> None:
    result = run("serve", **{variable: text})
    assert result.returncode == 78
    [line] = result.stderr.splitlines()
    assert line.startswith(f"uloop-servers: error: {variable}: {reason}")


@pytest.mark.parametrize("command", [("serve", "--config"), ("check-config",)])
def test_a_bad_file(command: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("utc = true\nworkers = 0\n")
    result = run(*command, str(file))
    assert result.returncode == 78
    assert not result.stdout
    [line] = result.stderr.splitlines()
    assert line == f"uloop-servers: error: {file}:2: workers: '0' is not a number of workers from 1 to 1024"


def test_a_good_file_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "uloop.toml"
    file.write_text("workers = 7\n")
    result = run("check-config", str(file))
    assert result.returncode == 0
    assert not result.stderr
    assert "workers = 7" in result.stdout.splitlines()


@pytest.mark.parametrize(("scheme", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_an_address_that_is_taken(scheme: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        endpoint = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}"
        result = run("serve", f"{scheme}://127.0.0.1:0", endpoint)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert f"cannot serve {endpoint}: " in line


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
@pytest.mark.parametrize("command", ["serve", "ask"])
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_what_is_no_name_at_all(command: str, scheme: str, host: str) -> None:
    result = run(command, f"{scheme}://{host}:1")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert f"{scheme}://{host}:1 " in line or f"{scheme}://{host}:1:" in line


def test_a_name_that_is_unknown() -> None:
    result = run("serve", "tcp://no-such-host.invalid:1")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "cannot serve tcp://no-such-host.invalid:1: " in line
