"""Very many TCP connections held at once, by six workers of our server.

As many load processes open them at the same time, from several addresses, since one has too few ports.
Each connection is answered when it is made. When all are there, all of them ask at once, and each must be
answered again: so the longest time to an answer is about that until all have theirs.

Nobody is bound to a core, and the load takes its part of the cores. The memory is that of all the server's
processes, a page that they share counting once; what the kernel needs for the sockets is not in it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from servers.contestants import CONTESTANTS
from servers.holding import Holder
from servers.measure import SPARE, Bench, most_descriptors
from servers.report import markdown

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

WORKERS = LOADS = 6
# Linux has 28,232 ports for the connections of an address. It looks at the even or the odd ones first, and
# one by one: with 20,000 to an address, most of these are taken, and all took five times as long to connect.
PER_ADDRESS = 10_000
UNEVEN = 1.1  # how much more than its share a worker may get, since the kernel deals out by a hash


@dataclass(frozen=True)
class Held:
    """What came out once.

    Parameters:
        connections: how many were held.
        connecting: seconds until all had been made and answered.
        slowest_to_connect: seconds that the slowest of them took for that.
        again: seconds until all had been answered again, having asked at once.
        median_again: seconds until half of them had.
        memory: bytes of the server's processes that came with the connections.
        fewest, most: connections of a worker.
        wrong: answers that are none, or are missing.
    """

    connections: int
    connecting: float
    slowest_to_connect: float
    again: float
    median_again: float
    memory: int
    fewest: int
    most: int
    wrong: int


def section(bench: Bench, wanted: int, rounds: int, failures: list[str]) -> str:
    """Measure in rounds; the results as Markdown, and what went wrong added to ``failures``.

    Parameters:
        wanted: how many connections; if the limit of descriptors does not let us have them, we have fewer.
    """
    connections = min(wanted, int((most_descriptors() - SPARE) / UNEVEN) * WORKERS)
    results = []
    for turn in range(1, rounds + 1):
        try:
            result = measure(bench, connections)
        except RuntimeError as error:
            failures.append(f"round {turn}, held: {error}")
            continue
        if result.wrong:
            failures.append(f"round {turn}, held: {result.wrong} answers were wrong or missing")
        print(f"round {turn}: held      {result}", file=sys.stderr, flush=True)
        results.append(result)
    return f"### {WORKERS} workers hold {connections:,} TCP connections\n\n{table(results)}"


def measure(bench: Bench, connections: int) -> Held:
    """Start a server, have it hold so many connections, and end it.

    Raises:
        RuntimeError: it did not come up, or the load failed; the message says why.
    """
    sources = max(bench.sources, math.ceil(connections / PER_ADDRESS))
    shares = [connections // LOADS + (number < connections % LOADS) for number in range(LOADS)]
    with (
        bench.start(CONTESTANTS["uloop"], "tcp", ("--workers", str(WORKERS))) as server,
        ExitStack() as loads,
    ):
        memory, descriptors = server.memory_shared_out(), server.descriptors()
        begin = time.monotonic()
        holders = [
            loads.enter_context(Holder(bench.load, server.port, share, sources, None)) for share in shares
        ]
        first = [holder.told() for holder in holders]
        connected = time.monotonic()
        for holder in holders:
            holder.ask_all()
        second = [holder.told() for holder in holders]
        answered = time.monotonic()
        # The first process is the parent, who serves nobody.
        held = [now - before for now, before in zip(server.descriptors(), descriptors, strict=True)][1:]
        return Held(
            connections=sum(held),
            connecting=connected - begin,
            slowest_to_connect=slowest(first, "max"),
            again=answered - connected,
            median_again=slowest(second, "p50"),
            memory=server.memory_shared_out() - memory,
            fewest=min(held),
            most=max(held),
            wrong=2 * connections - sum(told["answers"] for told in first + second),
        )


def slowest(told: Sequence[dict[str, Any]], percentile: str) -> float:
    return max(float(each["latency"][percentile]) for each in told) / 1e6


def table(results: list[Held]) -> str:
    def middle(value: Callable[[Held], float]) -> float:
        return median(map(value, results))

    if not results:
        return "None was measured."
    return markdown(
        ["", ""],
        [
            ["connections held at once", f"{middle(lambda held: held.connections):,.0f}"],
            ["time to make all of them, each answered once", f"{middle(lambda held: held.connecting):.1f} s"],
            ["slowest of these", f"{middle(lambda held: held.slowest_to_connect) * 1000:,.0f} ms"],
            ["time to answer all again, which ask at once", f"{middle(lambda held: held.again):.2f} s"],
            ["half of them answered again within", f"{middle(lambda held: held.median_again):.2f} s"],
            [
                "memory of all the server's processes that came with them",
                f"{middle(lambda held: held.memory) / 1e6:.1f} MB",
            ],
            [
                "bytes of it for each connection",
                f"{middle(lambda held: held.memory / held.connections):,.0f}",
            ],
            [
                "connections of a worker",
                f"{middle(lambda held: held.fewest):,.0f} to {middle(lambda held: held.most):,.0f}",
            ],
            ["answers wrong or missing", str(sum(result.wrong for result in results))],
        ],
    )
