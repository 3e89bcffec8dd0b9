"""Every protocol on every backend, served by one process, and asked by ``uloop-servers ask`` and ntplib."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

SCHEMES = ("tcp", "udp", "daytime+tcp", "daytime+udp", "time+tcp", "time+udp", "ntp")
KEYS = {"endpoint", "time", "round_trip", "offset", "error"}
NTP_KEYS = {"stratum", "leap", "reference", "root_delay", "root_dispersion", "synchronised"}
ROUNDING = 1e-5  # seconds; and a clock may be slewed while it is looked at


@pytest.fixture
def all_of_them(start_server: Callable[..., Any], backend: str) -> Any:
    """A server with every scheme, that tells UTC, and holds its clock for right."""
    endpoints = [f"{scheme}://127.0.0.1:0" for scheme in SCHEMES]
    return start_server(backend, "--trust-local-clock", "--utc", *endpoints, environment={"TZ": "UTC"})


def ask(endpoint: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "uloop_servers", "ask", endpoint, "--json", "--count", str(count)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def readings(asking: subprocess.Popen[str]) -> list[Any]:
    output, errors = asking.communicate(timeout=60)
    assert asking.returncode == 0, errors
    assert errors == ""
    return [json.loads(line) for line in output.splitlines()]


def test_they_tell_the_time(all_of_them: Any) -> None:
    asking = {scheme: ask(all_of_them.endpoints[scheme], 3) for scheme in SCHEMES}
    for scheme, told in {scheme: readings(process) for scheme, process in asking.items()}.items():
        assert len(told) == 3
        for reading in told:
            assert set(reading) == (KEYS | NTP_KEYS if scheme == "ntp" else KEYS)
            if scheme in ("tcp", "udp"):
                continue  # their zone is that of the server, which here may be another than ours
            # both sides read the same clock, so what is left is what the reading itself holds for possible
            assert abs(reading["offset"]) <= reading["error"] + ROUNDING, reading


def test_ntp_says_how_good_it_is(all_of_them: Any) -> None:
    [reading] = readings(ask(all_of_them.endpoints["ntp"], 1))
    assert reading["stratum"] == 10
    assert reading["leap"] == 0
    assert reading["reference"] == "127.127.1.1"
    assert reading["synchronised"] is True
    assert reading["root_delay"] == 0
    assert 0.001 <= reading["root_dispersion"] < 0.01  # a millisecond, and 15 ppm of at most a minute


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_ntplib_takes_its_word(all_of_them: Any, version: int) -> None:
    ntplib = pytest.importorskip("ntplib", reason="there is no ntplib here; it is on PyPI")
    port = all_of_them.ports["ntp"]
    reply = ntplib.NTPClient().request("127.0.0.1", version=version, port=port, timeout=30)
    assert (reply.version, reply.mode, reply.leap, reply.stratum) == (version, 4, 0, 10)
    assert abs(reply.offset) <= reply.delay / 2 + ROUNDING
    assert 0.001 <= reply.root_dispersion < 0.01
