"""Clients for the two old protocols, Daytime and Time: rdate, and programs that show what a server sends.

rdate is told to print (-p), and so sets no clock.
"""

from __future__ import annotations

import calendar
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from uloop_reactor import available_backends

if sys.platform == "win32":
    pytest.skip("these clients are programs for Unix", allow_module_level=True)

PATIENCE = 60  # seconds; a test that runs into it has failed
CLOSE = 2  # seconds that a client's time may be from ours, before it asked and after
LINE = re.compile(r"\d\d [A-Z]{3} \d{4} \d\d:\d\d:\d\d UTC\r?\n")
ENVIRONMENT = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}

#: the program's Debian package, and what to type; what it sends to TCP is of no interest to the server
OVER_TCP = {
    "nc": ("netcat-openbsd", "nc {host} {port}"),
    "ncat": ("ncat", "ncat --recv-only {host} {port}"),
    "socat": ("socat", "socat -u TCP:{bracketed}:{port} -"),
    "curl": ("curl", "curl -s telnet://{bracketed}:{port}"),
    "bash": ("bash", "exec bash -c 'cat </dev/tcp/{host}/{port}'"),
}
#: likewise; these pass on the line that we type
OVER_UDP = {
    "nc": ("netcat-openbsd", "exec nc -u {host} {port}"),
    "ncat": ("ncat", "exec ncat -u {host} {port}"),
    "socat": ("socat", "exec socat - UDP:{bracketed}:{port}"),
    "bash": ("bash", "exec bash -c 'exec 3<>/dev/udp/{host}/{port}; head -n 1 >&3; head -n 1 <&3'"),
}


def program(name: str, package: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here; on Debian it is in the package {package}")


@pytest.fixture
def serve(start_server: Callable[..., Any], host: str) -> Callable[[str], int]:
    """Serves a scheme on the host; the port."""

    def start(scheme: str) -> int:
        bracketed = f"[{host}]" if ":" in host else host
        server = start_server(available_backends()[0], "--utc", f"{scheme}://{bracketed}:0")
        return int(server.ports[scheme])

    return start


def typed(command: str, host: str, port: int) -> str:
    return command.format(host=host, bracketed=f"[{host}]" if ":" in host else host, port=port)


def is_now(line: str, asked: float) -> bool:
    assert LINE.fullmatch(line), line
    told = calendar.timegm(time.strptime(line.strip(), "%d %b %Y %H:%M:%S %Z"))
    return asked - CLOSE <= told <= time.time() + CLOSE


@pytest.mark.parametrize("client", OVER_TCP)
def test_daytime_over_tcp(serve: Callable[[str], int], host: str, client: str) -> None:
    """The server ends the connection, and so ends the client."""
    package, command = OVER_TCP[client]
    program(client, package)
    port = serve("daytime+tcp")
    asked = time.time()
    result = subprocess.run(
        typed(command, host, port),
        shell=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result
    assert is_now(result.stdout, asked)


@pytest.mark.parametrize("client", OVER_UDP)
def test_daytime_over_udp(serve: Callable[[str], int], host: str, client: str) -> None:
    """Nothing tells these clients that the answer has ended, so we end them once it has come."""
    package, command = OVER_UDP[client]
    program(client, package)
    port = serve("daytime+udp")
    asked = time.time()
    with subprocess.Popen(
        typed(command, host, port),
        shell=True,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("what time is it?\n")
        process.stdin.flush()
        line = process.stdout.readline()
        process.terminate()
    assert is_now(line, asked)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rdate(serve: Callable[[str], int], host: str, transport: str) -> None:
    """RFC 868. Over UDP rdate asks with an empty datagram, as the RFC wants it."""
    program("rdate", "rdate")
    port = serve(f"time+{transport}")
    asked = time.time()
    result = subprocess.run(
        [
            *("rdate", "-6" if ":" in host else "-4", "-p", "-o", str(port)),
            *(["-u"] if transport == "udp" else []),
            host,
        ],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result
    told = calendar.timegm(time.strptime(result.stdout.strip(), "%a %b %d %H:%M:%S UTC %Y"))
    assert asked - CLOSE <= told <= time.time() + CLOSE
