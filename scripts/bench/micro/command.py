"""Micro-benchmarks, measured by pyperf: many processes, each with a part of the values.

    python scripts/dev.py run bench:bench-micro
    python scripts/dev.py run bench:bench-micro --fast --group timers

Each line is told when it has been measured, and in the end all of them as a table, with the ratios to
what they are compared with.

The options are pyperf's: ``--fast`` and ``--rigorous`` say how long, ``-o FILE.json`` keeps all values for
``pyperf compare_to``, ``--affinity`` binds to a core. ``--group`` measures only a part, and can be repeated.

A time tells what something costs by itself, when everything it needs is in the caches. In a server it
costs more: for that, see the benchmark of the servers.
"""

from __future__ import annotations

import gc
import importlib
import sys
import timeit
from collections.abc import Mapping, Sequence
from typing import Any

from micro import dispatch, formatting, guard, masks, timers
from micro.statement import Statement

GROUPS: dict[str, list[Statement]] = {
    "dispatch": dispatch.STATEMENTS,
    "timers": timers.STATEMENTS,
    "masks": masks.STATEMENTS,
    "guard": guard.STATEMENTS,
    "formatting": formatting.STATEMENTS,
}


def main() -> None:
    pyperf: Any = importlib.import_module("pyperf")  # which is in the environment for benchmarks alone
    runner = pyperf.Runner(add_cmdline_args=pass_on)
    runner.argparser.add_argument(
        "--group", action="append", choices=GROUPS, help="measure only this; repeatable"
    )
    options = runner.parse_args(["--quiet", *sys.argv[1:]])  # else there is advice between the lines
    statements = [statement for group in options.group or GROUPS for statement in GROUPS[group]]
    measured = {}
    for statement in statements:
        # In a worker this runs the one that is the worker's.
        # (Not by its timeit(), which keeps the result to itself.)
        measured[statement.name] = runner.bench_time_func(
            statement.name, timer_of(statement).timeit, inner_loops=statement.times
        )
    if not options.worker:
        means = {name: result.mean() * 1e9 for name, result in measured.items() if result is not None}
        print(f"\n{table(statements, means)}")


def timer_of(statement: Statement) -> timeit.Timer:
    # With the garbage collector, which a Timer stops and a server does not.
    return timeit.Timer(statement.code, "gc.enable()", globals={**statement.names, "gc": gc})


def table(statements: Sequence[Statement], means: Mapping[str, float]) -> str:
    """What was measured, as Markdown.

    Parameters:
        means: nanoseconds by the name of a statement.
    """
    rows = []
    for statement in statements:
        mean = means[statement.name]
        row = [statement.name, f"{mean:,.0f}", "", ""]
        if statement.beside is not None:
            row[2:] = [f"{mean / means[f'{statement.group}: {statement.beside}']:.2f}", statement.beside]
        rows.append(row)
    lines = [["", "ns", "x", "of"], ["---", "--:", "--:", "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pass_on(command: list[str], options: Any) -> None:
    """Tell a worker what it needs to know: which groups there are, since it is told of its statement
    by its number."""
    for group in options.group or ():
        command += ["--group", group]
