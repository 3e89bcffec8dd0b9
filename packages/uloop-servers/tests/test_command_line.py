"""Arguments, exit codes, and what is said when something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

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


@pytest.mark.parametrize("command", [(), ("serve",), ("ask",)])
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
    assert reason in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_unknown_backend_lists_those_there_are() -> None:
    result = run("serve", "--backend", "carrier-pigeon")
    assert result.returncode == 2
    assert "'carrier-pigeon'" in result.stderr
    assert "select" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_backend_in_the_environment() -> None:
    result = run("serve", ULOOP_BACKEND="carrier-pigeon")
    assert result.returncode == 2
    assert "ULOOP_BACKEND" in result.stderr
    assert len(result.stderr.splitlines()) == 1


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
