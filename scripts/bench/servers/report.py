"""The results as Markdown."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from servers.contestants import CONTESTANTS
from servers.scenarios import SCENARIOS, Result

#: by scenario and server, one for each round
Results = Mapping[str, dict[str, list[Result]]]
#: whom the others are compared with
PEERS = ("uvloop", "C")
PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")


def heading(interpreter: str, found: Mapping[str, str]) -> str:
    """The machine, and the versions of everything."""
    peers = [f"{name} {version}" for name, version in found.items()]
    system = f"Linux {platform.release()}, {' '.join(platform.libc_ver())}"
    software = ", ".join([interpreter, *peers])
    machine = f"{processor()}, {platform.machine()}, {os.cpu_count()} cores"
    return f"{machine}; {system}; {software}; {time.strftime('%Y-%m-%d')}"


def reproduction(arguments: Sequence[str], python: str) -> str:
    """How to get such a table.

    Parameters:
        arguments: of this run.
        python: the servers' interpreter. Where it is on this machine is nobody else's concern.
    """
    shown_arguments = [Path(python).name if argument == python else argument for argument in arguments]
    command = shlex.join(["python3", "scripts/dev.py", "run", "bench:bench-servers", *shown_arguments])
    return f"To reproduce: `{command}`"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def summary(rounds: int, duration: float, sources: int) -> str:
    return (
        f"Medians of {rounds} interleaved rounds of {duration:g} s, server and load on a core each, clients "
        f"from {'one address' if sources == 1 else f'{sources} addresses'}. CPU is the server's processor "
        "time for an answer in µs, busy the part of the time that it was running, latencies are in µs, and "
        "x the ratio to a peer in the same round. Lost and wrong are of all rounds together."
    )


def tables(results: Results) -> str:
    parts = []
    for name, rounds in results.items():
        parts.append(f"### {SCENARIOS[name].title}\n\n{table(rounds)}")
        if SCENARIOS[name].idle and rounds:
            parts.append(idle_table(rounds))
    return "\n\n".join(parts)


def table(rounds: dict[str, list[Result]]) -> str:
    peers = [peer for peer in PEERS if peer in rounds]
    columns = ["", "answers/s", *(f"x {peer}" for peer in peers), "CPU", *(f"CPU x {peer}" for peer in peers)]
    rows = []
    for name in fastest_first(rounds):
        row = [shown(name), f"{middle(rounds[name], rate_of):,.0f}"]
        row += [ratio(rounds, name, peer, rate_of) for peer in peers]
        row.append(f"{middle(rounds[name], lambda result: result.cpu):.2f}")
        row += [ratio(rounds, name, peer, lambda result: result.cpu) for peer in peers]
        row.append(f"{middle(rounds[name], lambda result: result.busy):.0%}")
        row += [
            f"{median(result.latency[percentile] for result in rounds[name]):,.0f}"
            for percentile in PERCENTILES
        ]
        row += [str(sum(each.lost for each in rounds[name])), str(sum(each.wrong for each in rounds[name]))]
        rows.append(row)
    return markdown([*columns, "busy", *PERCENTILES, "lost", "wrong"], rows)


def idle_table(rounds: dict[str, list[Result]]) -> str:
    rows = [
        [
            shown(name),
            f"{median(result.idle for result in rounds[name]):,.0f}",
            f"{median(result.bytes_per_idle or 0 for result in rounds[name]):,.0f}",
            f"{median(result.rate / (result.rate_without or result.rate) for result in rounds[name]):.2f}",
        ]
        for name in fastest_first(rounds)
    ]
    return markdown(["", "idle connections", "bytes of memory for each", "answers/s x without them"], rows)


def fastest_first(rounds: dict[str, list[Result]]) -> list[str]:
    return sorted(rounds, key=lambda name: middle(rounds[name], rate_of), reverse=True)


def rate_of(result: Result) -> float:
    return result.rate


def middle(results: list[Result], value: Callable[[Result], float]) -> float:
    return median(map(value, results))


def ratio(rounds: dict[str, list[Result]], name: str, peer: str, value: Callable[[Result], float]) -> str:
    # Without strict: who failed in a round has fewer.
    pairs = zip(rounds[name], rounds[peer], strict=False)
    ratios = [value(ours) / value(theirs) for ours, theirs in pairs if value(theirs)]
    return f"{median(ratios):.2f}" if ratios else ""


def shown(name: str) -> str:
    return f"**{name}**" if CONTESTANTS[name].is_ours else name


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *("--:" for _ in columns[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
