"""The micro-benchmarks: each does what it says, without being measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("they compare with a loop over epoll", allow_module_level=True)

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench"
RUN_EACH_TWICE = """
from micro.command import GROUPS, table, timer_of
statements = [statement for group in GROUPS.values() for statement in group]
for statement in statements:
    timer_of(statement).timeit(2)
print(table(statements, {statement.name: 1000.0 for statement in statements}))
"""


def test_every_statement_runs_and_has_its_line() -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCH)}
    command = [sys.executable, "-W", "error", "-c", RUN_EACH_TWICE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[2:]
    assert len(lines) == len(set(lines)) > 20
    assert "| masks: UEvent & UEvent | 1,000 | 1.00 | IntFlag & IntFlag |" in lines
