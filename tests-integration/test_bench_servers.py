"""The benchmark of the servers, run for a moment: it measures, checks and tells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark reads its figures from /proc", allow_module_level=True)
if len(os.sched_getaffinity(0)) < 2 or shutil.which("cc") is None:
    pytest.skip("the benchmark needs two cores and a C compiler", allow_module_level=True)

BENCHMARK = Path(__file__).resolve().parent.parent / "scripts" / "bench" / "servers"
A_MOMENT = ("--rounds", "1", "--duration", "0.1", "--server", "uloop", "--server", "C")


def told(*arguments: str) -> str:
    """What the benchmark prints; that nothing went wrong is part of it."""
    command = [sys.executable, str(BENCHMARK), *A_MOMENT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_servers_side_by_side(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    scenarios = ("--scenario", "tcp-1", "--scenario", "udp", "--scenario", "ntp")
    printed = told(*scenarios, "--svg", str(plot))
    assert printed.count("| **uloop** |") == 3
    assert printed.count("| C |") == 3
    assert "To reproduce: `python3 scripts/dev.py run bench:bench-servers --rounds 1" in printed
    assert plot.read_text().startswith("<svg")


def test_held_connections() -> None:
    printed = told("--scenario", "held", "--connections", "61")
    assert "| connections held at once | 61 |" in printed
    assert "| answers wrong or missing | 0 |" in printed


def test_workers() -> None:
    printed = told("--scenario", "workers")
    assert "| TCP, 100 clients | 2 |" in printed
    assert "| UDP, 50 clients | 2 |" in printed


def test_start() -> None:
    printed = told("--scenario", "start")
    assert "| `uloop-servers --version` |" in printed
    assert "| **uloop** |" in printed


def test_the_interpreters_place_is_nobody_elses_concern() -> None:
    printed = told("--scenario", "tcp-1", "--python", sys.executable)
    assert f"--python {Path(sys.executable).name}" in printed
    assert sys.executable not in printed


def test_a_server_that_does_not_come_up_is_a_failure() -> None:
    command = [sys.executable, str(BENCHMARK), *A_MOMENT, "--scenario", "tcp-1"]
    # Our server reads its options from the environment, too.
    environment = {**os.environ, "ULOOP_WORKERS": "none"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "round 1, tcp-1, uloop: it did not come up" in done.stderr
    assert "| C |" in done.stdout
