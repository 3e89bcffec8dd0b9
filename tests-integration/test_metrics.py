"""``--metrics``: what the server says of itself is what its clients have seen."""

from __future__ import annotations

import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import available_backends

PATIENCE = 30  # seconds; a test that runs into it has failed
SHARED = sys.platform == "linux" or sys.platform.startswith("freebsd")
BEST = available_backends()[0]

Start = Callable[..., Any]

NTP_QUESTION = b"\x23" + bytes(39) + b"whatever"
#: of each scheme: what is asked, and how often on each connection or socket
QUESTIONS = {
    "tcp": (b"time?", 3),
    "udp": (b"time?", 3),
    "daytime+tcp": (b"", 1),
    "daytime+udp": (b"anything", 3),
    "time+tcp": (b"", 1),
    "time+udp": (b"", 3),
    "ntp": (NTP_QUESTION, 3),
}
#: what is refused, and why
REFUSED = {
    "udp": (b"2020-06-15 15:34:33.899256", "form"),
    "daytime+udp": (b"15 JUN 2020 15:34:33 UTC\r\n", "form"),
    "time+udp": (b"\xe2\x91\x54\x00", "form"),
    "ntp": (b"\x24" + NTP_QUESTION[1:], "mode"),
}
LABELS = {
    "tcp": 'protocol="clock",transport="tcp"',
    "udp": 'protocol="clock",transport="udp"',
    "daytime+tcp": 'protocol="daytime",transport="tcp"',
    "daytime+udp": 'protocol="daytime",transport="udp"',
    "time+tcp": 'protocol="time",transport="tcp"',
    "time+udp": 'protocol="time",transport="udp"',
    "ntp": 'protocol="ntp",transport="udp"',
}


class Metrics:
    """Those of a server, over HTTP."""

    def __init__(self, server: Any) -> None:
        found = None
        while not found:
            found = re.search(r"(http://\S+)/metrics", server.next_line())
        self._base = found[1]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self._base + path, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def read(self) -> dict[str, float]:
        """All that are not 0, by name and labels."""
        rows = re.findall(r"^(uloop_\S+) (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return {name: float(value) for name, value in rows if float(value)}

    def wait_for(self, names: str, expected: dict[str, float]) -> None:
        """Until those whose names match are these; a count comes after the answer that it counts."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = {name: value for name, value in self.read().items() if re.match(names, name)}
            if found == expected:
                return
            assert time.monotonic() < deadline, (found, expected)


def open_client(server: Any, scheme: str) -> socket.socket:
    kind = socket.SOCK_STREAM if "tcp" in scheme else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", server.ports[scheme]))
    return sock


@pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.skipif(not SHARED, reason="no port can be shared"))]
)
def test_the_server_has_counted_what_its_clients_have(
    start_server: Start, backend: str, workers: str
) -> None:
    server = start_server(
        *(backend, "--workers", workers, "--metrics", "127.0.0.1:0", "--trust-local-clock"),
        *("--rate-limit", "0", *(f"{scheme}://127.0.0.1:0" for scheme in QUESTIONS)),
    )
    metrics = Metrics(server)
    expected: Counter[str] = Counter()
    with ExitStack() as stack:
        for scheme, (question, times) in QUESTIONS.items():
            labels = LABELS[scheme]
            for _ in range(10):
                client = stack.enter_context(open_client(server, scheme))
                if "tcp" in scheme:
                    expected[f"uloop_connections_total{{{labels}}}"] += 1
                for _ in range(times):
                    if times > 1:
                        client.send(question)
                    answer = client.recv(1000)
                    assert answer
                    expected[f"uloop_answers_total{{{labels}}}"] += 1
                    expected[f"uloop_sent_bytes_total{{{labels}}}"] += len(answer)
                    expected[f"uloop_received_bytes_total{{{labels}}}"] += len(question)
            if scheme in REFUSED:
                wrong, reason = REFUSED[scheme]
                protocol, transport = labels.split(",")
                for _ in range(5):
                    client = stack.enter_context(open_client(server, scheme))
                    client.send(wrong)
                    expected[f'uloop_refusals_total{{{protocol},reason="{reason}",{transport}}}'] += 1
                    expected[f"uloop_received_bytes_total{{{labels}}}"] += len(wrong)
        pattern = "uloop_(answers|sent_bytes|received_bytes|connections|refusals)_total"
        metrics.wait_for(pattern, {name: value for name, value in expected.items() if value})
        # Of the connections those of the base protocol are still open.
        metrics.wait_for(r"uloop_connections\{", {f"uloop_connections{{{LABELS['tcp']}}}": 10})
        stamps = {name: value for name, value in metrics.read().items() if "uloop_timestamps" in name}
        assert sum(stamps.values()) == 30
        if sys.platform == "linux":
            assert list(stamps) == ['uloop_timestamps_total{protocol="ntp",source="kernel",transport="udp"}']
    metrics.wait_for(r"uloop_connections\{", {})


@pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.skipif(not SHARED, reason="no port can be shared"))]
)
def test_it_is_alive_and_ready(start_server: Start, workers: str) -> None:
    server = start_server(
        *(BEST, "--workers", workers, "--metrics", "127.0.0.1:0", "--trust-local-clock"),
        *("tcp://127.0.0.1:0", "ntp://127.0.0.1:0"),
    )
    metrics = Metrics(server)
    assert metrics.get("/livez") == (200, "ok\n")
    assert metrics.get("/readyz") == (200, "ok\n")
    metrics.wait_for("uloop_workers", {"uloop_workers": float(workers)})
    metrics.wait_for("uloop_clock_(sync|stratum)", {"uloop_clock_synchronised": 1, "uloop_clock_stratum": 10})
    about = [name for name in metrics.read() if name.startswith("uloop_build_info")]
    assert len(about) == 1
    assert f'backend="{BEST}"' in about[0]


@pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.skipif(not SHARED, reason="no port can be shared"))]
)
def test_with_a_clock_that_is_not_trusted_it_is_alive_and_not_ready(
    start_server: Start, workers: str
) -> None:
    """It follows a server that never answers. The text protocols alone do not need to know."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        follow = f"127.0.0.1:{silent.getsockname()[1]}"
        for endpoint, answer in {
            "ntp": (503, "the clock is not synchronised\n"),
            "daytime+udp": (200, "ok\n"),
        }.items():
            server = start_server(
                *(BEST, "--workers", workers, "--metrics", "127.0.0.1:0", "--follow", follow),
                f"{endpoint}://127.0.0.1:0",
            )
            metrics = Metrics(server)
            metrics.wait_for("uloop_workers", {"uloop_workers": float(workers)})
            assert metrics.get("/readyz") == answer
            assert metrics.get("/livez") == (200, "ok\n")
            assert "uloop_clock_leap" in metrics.read()
            assert metrics.read()["uloop_clock_leap"] == 3
