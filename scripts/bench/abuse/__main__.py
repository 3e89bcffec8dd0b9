"""The abuse table: what a server of each framework does under the same abuse.

    python scripts/dev.py run bench-abuse
    python scripts/bench/abuse --only descriptors --contestant uloop-epoll

Each server is a process of its own, written the way the framework's documentation does it, and
attacked by the same clients. A cell says what happened, the processor time that the server took
meanwhile, and what it logged. Ours must meet the criterion of each row on every backend, or the
exit code is 1. What is not installed says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict

from rows import ROWS, Outcome, Row, flood_until_killed
from server import Contestant

#: rows about connections; of the others there is no variant for asyncio's streams
OF_CONNECTIONS = {"descriptors", "crowd", "never-reads", "slow", "resets", "flood"}
NEEDS = {"uvloop": "uvloop", "Twisted": "twisted"}


def contestants(kqueue_model: bool) -> list[Contestant]:
    backends = ["epoll", "poll", "select", *(["kqueue"] if kqueue_model else [])]
    return [
        *(Contestant(f"uloop-{backend}", "with_uloop.py", backend) for backend in backends),
        Contestant("asyncio", "with_asyncio.py", "protocols"),
        Contestant("asyncio-streams", "with_asyncio.py", "streams"),
        Contestant("uvloop", "with_asyncio.py", "uvloop"),
        Contestant("Twisted", "with_twisted.py", "-"),
    ]


def cell_of(row: Row, contestant: Contestant) -> Outcome:
    module = NEEDS.get(contestant.name)
    if module is not None and importlib.util.find_spec(module) is None:
        return Outcome("not installed")
    if contestant.variant == "streams" and row.name not in OF_CONNECTIONS:
        return Outcome("as asyncio")
    try:
        return row.attack(contestant)
    except Exception as error:  # the server is gone, or refuses everybody: that is an outcome
        return Outcome(f"{type(error).__name__}: {error}", good=False)


def text_of(cell: Outcome) -> str:
    words = [cell.happened.replace("|", "/").replace("\n", " ")[:200]]
    if cell.cpu is not None:
        words.append(f"{cell.cpu:.2f} s")
    if cell.lines:
        words.append(f"{cell.lines:,} line{'s' * (cell.lines > 1)}, {cell.bytes:,} bytes")
    text = "; ".join(words)
    return text if cell.good is not False else f"**{text}**"


def table(columns: list[str], cells: dict[str, dict[str, Outcome]]) -> str:
    lines = ["| |" + "|".join(f" {name} " for name in columns) + "|"]
    lines.append("|---|" + "---|" * len(columns))
    for name, row in cells.items():
        lines.append(f"| {name} |" + "|".join(f" {text_of(row[column])} " for column in columns) + "|")
    lines.append("")
    lines.append("Seconds are processor time; what is bold misses the row's criterion.")
    lines.append("")
    lines.extend(f"- **{name}**: {ROWS[name].what}. Good: {ROWS[name].criterion}." for name in cells)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a server of each framework does under abuse.")
    parser.add_argument("--only", action="append", metavar="ROW", help=f"of {', '.join(ROWS)}; repeatable")
    parser.add_argument("--contestant", action="append", metavar="NAME", help="one column; repeatable")
    parser.add_argument("--kqueue-model", action="store_true", help="also on the tests' model of kqueue")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--flood", type=int, metavar="PORT", help=argparse.SUPPRESS)  # this process floods
    options = parser.parse_args()
    if options.flood is not None:
        flood_until_killed(options.flood)
        return 0
    everybody = {contestant.name: contestant for contestant in contestants(options.kqueue_model)}
    columns = options.contestant or list(everybody)
    rows = options.only or list(ROWS)
    for name in columns:
        if name not in everybody:
            parser.error(f"there is no contestant {name!r}; there are {', '.join(everybody)}")
    for name in rows:
        if name not in ROWS:
            parser.error(f"there is no row {name!r}; there are {', '.join(ROWS)}")

    cells: dict[str, dict[str, Outcome]] = {}
    for name in rows:
        cells[name] = {}
        for column in columns:
            cell = cells[name][column] = cell_of(ROWS[name], everybody[column])
            print(f"{name:12} {column:16} {text_of(cell)}", file=sys.stderr, flush=True)
    if options.json:
        print(
            json.dumps(
                {name: {column: asdict(cell) for column, cell in row.items()} for name, row in cells.items()},
                indent=1,
            )
        )
    else:
        print(f"Python {sys.version.split()[0]} on {sys.platform}\n\n{table(columns, cells)}")
    ours = (
        (name, column, row[column])
        for name, row in cells.items()
        for column in row
        if everybody[column].is_ours
    )
    bad = [(name, column) for name, column, cell in ours if cell.good is False]
    for name, column in bad:
        print(f"{column} fails {name}: {ROWS[name].criterion}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
