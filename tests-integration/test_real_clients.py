"""Clients that people have: nc, socat, curl, and what bash can do by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")

if sys.platform == "win32":
    pytest.skip("on Windows bash is a door to another system, if it is there at all", allow_module_level=True)

#: the client's Debian package, and what to type
CLIENTS = {
    "nc, TCP": ("netcat-openbsd", "printf time? | nc -N 127.0.0.1 {tcp}"),
    "nc, UDP": ("netcat-openbsd", "printf time? | nc -u -w 1 127.0.0.1 {udp}"),
    "socat, TCP": ("socat", "printf time? | socat -t 5 - TCP:127.0.0.1:{tcp}"),
    "socat, UDP": ("socat", "printf time? | socat -t 1 - UDP:127.0.0.1:{udp}"),
    # curl does not tell the server that its input has ended; it leaves when its time is up
    "curl": ("curl", "printf time? | curl -s --max-time 1 telnet://127.0.0.1:{tcp}"),
    "bash, TCP": ("bash", "exec 3<>/dev/tcp/127.0.0.1/{tcp}; printf time? >&3; head -c 26 <&3"),
    "bash, UDP": ("bash", "exec 3<>/dev/udp/127.0.0.1/{udp}; printf time? >&3; head -c 26 <&3"),
}


NC_CAN_SHUT_DOWN = (
    shutil.which("nc") is not None
    and "Shutdown" in subprocess.run(["nc", "-h"], capture_output=True, text=True).stderr
)


@pytest.mark.parametrize("client", CLIENTS)
def test_it_gets_the_time(server: Any, client: str) -> None:
    package, command = CLIENTS[client]
    program = client.partition(",")[0]
    if shutil.which("bash") is None or shutil.which(program) is None:
        pytest.skip(f"there is no {program} here; on Debian it is in the package {package}")
    if "nc -N" in command and not NC_CAN_SHUT_DOWN:
        pytest.skip("this nc has another -N; that of OpenBSD sends the end of its input")
    result = subprocess.run(
        ["bash", "-c", command.format(**server.ports)], capture_output=True, text=True, timeout=60
    )
    assert TIME.fullmatch(result.stdout), result
