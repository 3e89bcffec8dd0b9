"""Clients that know no other ports than 13, 37 and 123: ntpdig, ntpdate, busybox rdate, and Perl's modules.

They and the server run in a network of their own, in which these ports are free for everybody,
and which leads nowhere. In a user namespace, which we ask for first, nobody may set a clock
either; and no client is told to.
"""

from __future__ import annotations

import calendar
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("a network of one's own is a thing of Linux", allow_module_level=True)

PATIENCE = 60  # seconds; a test that runs into it has failed
CLOSE = 2  # seconds that a client's time may be from ours, before it asked and after
ENVIRONMENT = ("env", "LC_ALL=C", "TZ=UTC")  # in so many words, since sudo passes nothing on
HOSTS = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
SCHEMES = ("daytime+tcp", "daytime+udp", "time+tcp", "time+udp", "ntp")

#: how to make such a network, and how to run a program in that of the process PID
WAYS = (
    (("unshare", "-rn"), ("nsenter", "-U", "-n", "--preserve-credentials", "-t", "PID")),
    (("unshare", "-n"), ("nsenter", "-n", "-t", "PID")),
    (("sudo", "-n", "unshare", "-n"), ("sudo", "-n", "nsenter", "-n", "-t", "PID")),
)


class Network:
    """A network with nothing but a loopback interface, and our server on the well-known ports."""

    def __init__(self, has_ipv6: bool) -> None:
        make, enter = self._way()
        serve = [sys.executable, "-m", "uloop_servers", "serve", "--trust-local-clock", "--utc"]
        endpoints = [
            f"{scheme}://{HOSTS[host]}" for scheme in SCHEMES for host in HOSTS if has_ipv6 or ":" not in host
        ]
        self.server = subprocess.Popen(
            # sudo and unshare may leave another process between us and the server: it says who it is
            [*make, "sh", "-c", 'ip link set lo up && echo $$ && exec "$@"', "sh", *serve, *endpoints],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.server.stdout is not None
        pid = self.server.stdout.readline().strip()
        self.enter = [pid if word == "PID" else word for word in enter]
        self.end = [*self.enter, "kill", pid]
        missing, said = len(endpoints), ""
        while missing:
            line = self.server.stdout.readline()  # there may be warnings as well
            assert line, f"the server has ended; it said {said}"
            said += line
            missing -= ": serving " in line

    def run(self, *command: str) -> str:
        """What a client prints that runs in this network."""
        result = subprocess.run(
            [*self.enter, *ENVIRONMENT, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert result.returncode == 0, result
        return result.stdout

    def close(self) -> None:
        subprocess.run(self.end, check=True)
        rest, _ = self.server.communicate(timeout=PATIENCE)
        assert self.server.returncode == 0, rest
        assert "Traceback" not in rest

    @staticmethod
    def _way() -> tuple[tuple[str, ...], tuple[str, ...]]:
        need("ip", "iproute2")
        for make, enter in WAYS:
            if shutil.which(make[0]) and not subprocess.run([*make, "true"], capture_output=True).returncode:
                return make, enter
        pytest.skip("a network of one's own is not to be had here, by unshare -rn or by sudo")


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here; on Debian it is in the package {package}")


@pytest.fixture(scope="module")
def network(has_ipv6: bool) -> Iterator[Network]:
    network = Network(has_ipv6)
    yield network
    network.close()


def test_ntpdig(network: Network, host: str) -> None:
    need("ntpdig", "ntpsec-ntpdig")
    report = json.loads(network.run("ntpdig", "-j", host))
    assert abs(report["offset"]) < CLOSE
    assert report["stratum"] == 10
    assert report["leap"] == "no-leap"
    assert report["adjusted"] is False


def test_ntpdate(network: Network, host: str) -> None:
    need("ntpdate", "ntpsec-ntpdate")
    output = network.run("ntpdate", "-q", host)
    report = re.search(r"\(\+0000\) (\S+) \+/- \S+ \S+ s10 no-leap", output)
    assert report, output
    assert abs(float(report[1])) < CLOSE


def test_busybox_rdate(network: Network, host: str) -> None:
    """RFC 868 over TCP."""
    need("busybox", "busybox")
    asked = time.time()
    output = network.run("busybox", "rdate", "-p", host)
    told = calendar.timegm(time.strptime(output.strip(), "%a %b %d %H:%M:%S %Y"))
    assert asked - CLOSE <= told <= time.time() + CLOSE


def need_perl_module(name: str, package: str) -> None:
    need("perl", package)
    if subprocess.run(["perl", f"-M{name}", "-e1"], capture_output=True).returncode:
        pytest.skip(f"this Perl has no {name}; on Debian it is in the package {package}")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_perl_asks_for_the_time(network: Network, transport: str) -> None:
    """RFC 868; IPv4 alone, for this module knows no other."""
    need_perl_module("Net::Time", "perl")
    asked = time.time()
    told = network.run(
        "perl", "-MNet::Time=inet_time", "-e", f"print inet_time('127.0.0.1', '{transport}', 30)"
    )
    assert asked - CLOSE <= float(told) <= time.time() + CLOSE


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_perl_asks_for_the_daytime(network: Network, transport: str) -> None:
    """RFC 867; IPv4 alone likewise."""
    need_perl_module("Net::Time", "perl")
    asked = time.time()
    line = network.run(
        "perl", "-MNet::Time=inet_daytime", "-e", f"print inet_daytime('127.0.0.1', '{transport}', 30)"
    )
    told = calendar.timegm(time.strptime(line.strip(), "%d %b %Y %H:%M:%S UTC"))
    assert asked - CLOSE <= told <= time.time() + CLOSE


def test_perl_asks_over_ntp(network: Network) -> None:
    need_perl_module("Net::NTP", "libnet-ntp-perl")
    output = network.run(
        "perl", "-MNet::NTP", "-e", "%r = get_ntp_response('127.0.0.1'); print map {qq($_=$r{$_}\\n)} keys %r"
    )
    reply = dict(line.split("=", 1) for line in output.splitlines())
    assert reply["Mode"] == "4"
    assert reply["Stratum"] == "10"
    assert reply["Leap Indicator"] == "0"
    assert reply["Reference Clock Identifier"] == "127.127.1.1"
    assert abs(float(reply["Offset"])) < CLOSE
