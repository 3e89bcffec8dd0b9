"""NTP clients that people have: chronyd, rdate, toybox sntp, and ntplib.

None of them sets a clock: rdate is told to print (-p), chronyd to leave the clock alone (-Q, -x).
"""

from __future__ import annotations

import calendar
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import available_backends

if sys.platform == "win32":
    pytest.skip("these clients are programs for Unix", allow_module_level=True)

HOSTS = {"127.0.0.1": "ntp://127.0.0.1:0", "::1": "ntp://[::1]:0"}
PATIENCE = 60  # seconds; a test that runs into it has failed
CLOSE = 2.0  # seconds that a client's time may be from ours, before it asked and after


def program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} here; on Debian it is in the package {package}")
    return path


@pytest.fixture
def port(start_server: Callable[..., Any], host: str) -> int:
    """Where NTP is served on the host."""
    server = start_server(available_backends()[0], "--trust-local-clock", HOSTS[host])
    return int(server.ports["ntp"])


def run(*command: str) -> str:
    """What a client prints, on a machine that speaks English and lives at UTC."""
    result = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_rdate_over_ntp(host: str, port: int) -> None:
    family = "-6" if ":" in host else "-4"
    output = run(program("rdate", "rdate"), family, "-npv", "-o", str(port), host)
    adjustment = re.search(r"adjust local clock by (\S+) seconds", output)
    assert adjustment, output
    assert abs(float(adjustment[1])) < CLOSE


def test_toybox_sntp(host: str, port: int) -> None:
    toybox = program("toybox", "toybox")
    if "sntp" not in run(toybox).split():
        pytest.skip("this toybox was built without sntp; Debian's has it")
    output = run(toybox, "sntp", "-p", str(port), host)
    offset = re.search(r"offset (\S+) secs", output)
    assert offset, output
    assert abs(float(offset[1])) < CLOSE


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_ntplib(host: str, port: int, version: int) -> None:
    ntplib = pytest.importorskip("ntplib", reason="there is no ntplib here; it is on PyPI")
    reply = ntplib.NTPClient().request(host, version=version, port=port, timeout=PATIENCE)
    assert reply.version == version
    assert reply.mode == 4
    assert reply.leap == 0
    assert reply.stratum == 10
    assert ntplib.ref_id_to_text(reply.ref_id, reply.stratum) == "127.127.1.1"
    # Both sides read the same clock, so nothing but the way can set them apart; 10 µs for ntplib's floats.
    assert abs(reply.offset) <= reply.delay / 2 + 1e-5


class Chrony:
    """chronyd, as nobody where we are root, in a directory of its own."""

    def __init__(self) -> None:
        self.chronyd = program("chronyd", "chrony")
        self.chronyc = program("chronyc", "chrony")
        # not in pytest's directory, into which nobody may look; and short, for a Unix socket's name
        self.directory = Path(tempfile.mkdtemp(prefix="chrony"))
        self.command_socket = self.directory / "socket"
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.directory, "nobody", "nogroup")
        self.directory.chmod(0o770)  # chronyd refuses one that others may read

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a chronyd that leaves the clock alone; what it says is on ``stdout``."""
        return subprocess.Popen(
            [
                *(self.chronyd, "-U", "-u", "nobody", *arguments),
                *("cmdport 0", f"bindcmdaddress {self.command_socket}"),
                f"pidfile {self.directory}/pid",
            ],
            cwd=self.directory,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self.user,
        )

    def ask(self, *command: str) -> str:
        """What chronyc says."""
        result: subprocess.CompletedProcess[str] = subprocess.run(
            [self.chronyc, "-h", str(self.command_socket), "-n", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            **self.user,
        )
        assert result.returncode == 0, result
        return result.stdout


@pytest.fixture
def chrony() -> Iterator[Chrony]:
    chrony = Chrony()
    yield chrony
    shutil.rmtree(chrony.directory)


def test_chronyd_asks_once(chrony: Chrony, host: str, port: int) -> None:
    source = f"server {host} port {port} iburst maxsamples 1"
    with chrony.start("-Q", "-t", "30", source) as chronyd:
        output, _ = chronyd.communicate(timeout=PATIENCE)
    assert chronyd.returncode == 0, output
    offset = re.search(r"System clock wrong by (\S+) seconds \(ignored\)", output)
    assert offset, output
    assert abs(float(offset[1])) < CLOSE


def test_chronyd_finds_nothing_wrong(chrony: Chrony, host: str, port: int) -> None:
    """``chronyc ntpdata`` names ten tests that each answer is put to; all are passed."""
    started = time.time()
    with chrony.start("-x", "-d", f"server {host} port {port} iburst minpoll 0 maxpoll 0") as chronyd:
        try:
            assert chronyd.stdout is not None
            lines = iter(chronyd.stdout)
            assert any("Selected source" in line for line in lines)  # waits for it
            report = dict(re.findall(r"^(.+?) *: (.*)$", chrony.ask("ntpdata"), re.MULTILINE))
        finally:
            chronyd.terminate()
    assert report["NTP tests"] == "111 111 1111"
    assert report["Mode"] == "Server"
    assert report["Leap status"] == "Normal"
    assert report["Stratum"] == "10"
    assert report["Reference ID"].startswith("7F7F0101")
    assert report["Total valid RX"] == report["Total RX"] != "0"
    delay = float(report["Peer delay"].removesuffix(" seconds"))
    assert abs(float(report["Offset"].removesuffix(" seconds"))) <= delay + CLOSE
    # chronyc tells UTC
    reference_time = calendar.timegm(time.strptime(report["Reference time"], "%a %b %d %H:%M:%S %Y"))
    assert started - 128 <= reference_time <= time.time() + CLOSE
