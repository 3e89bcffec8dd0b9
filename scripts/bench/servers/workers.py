"""What a second worker brings: our server with one and with two, on the same cores.

Here nobody is bound to a core, and the load sleeps when it has nothing to do, since what it took would be
lost to the workers. Still it takes its part, and on two cores two workers cannot answer twice as much as
one: so it is told what would be possible, with the processor time that server and load really took for
an answer, if no core ever waited and no worker had less to do than another.

On the loopback interface whoever sends does the kernel's work of receiving, too, so for an answer the load
takes nearly as long as the server: on two cores, one worker and the load are already busy on both. And an
answer over UDP costs each of two workers more, since there are half as many datagrams to be read at once.

The kernel deals TCP connections and UDP sources out by a hash of both addresses, so one worker
has more of them than the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from servers.contestants import CONTESTANTS
from servers.measure import Bench
from servers.report import markdown
from servers.scenarios import SCENARIOS, Result

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

LOADS = ("tcp-100", "udp")
WORKERS = (1, 2)
EXPLANATION = (
    "Server and load share {cores} cores, and the load sleeps when it has nothing to do. CPU is the "
    "processor time for an answer in µs. Possible is how many answers a second there would be with that if "
    "neither a core nor a worker ever waited."
)


def section(bench: Bench, rounds: int, failures: list[str]) -> str:
    """Measure in rounds; the results as Markdown, and what went wrong added to ``failures``."""
    unbound = replace(bench, server_core=None, load_core=None, sleeping=True)
    cores = len(os.sched_getaffinity(0))
    results: dict[tuple[str, int], list[Result]] = {
        (load, number): [] for load in LOADS for number in WORKERS
    }
    for turn in range(1, rounds + 1):
        for load, number in results:
            try:
                result = unbound.measure(CONTESTANTS["uloop"], SCENARIOS[load], ("--workers", str(number)))
            except RuntimeError as error:
                failures.append(f"round {turn}, workers, {load}, {number}: {error}")
                continue
            if result.wrong:
                failures.append(f"round {turn}, workers, {load}, {number}: {result.wrong} answers were wrong")
            results[load, number].append(result)
            print(
                f"round {turn}: {load:9} {number} workers {result.rate:9,.0f}/s", file=sys.stderr, flush=True
            )
    rows = [
        row(load, number, mine, results[load, WORKERS[0]], cores)
        for (load, number), mine in results.items()
        if mine
    ]
    columns = ["", "workers", "answers/s", f"x {WORKERS[0]} worker", "CPU", "CPU of the load", "cores busy"]
    columns += ["possible", "of that", "p99", "lost"]
    return f"### Workers\n\n{EXPLANATION.format(cores=cores)}\n\n{markdown(columns, rows)}"


def row(load: str, workers: int, results: list[Result], alone: list[Result], cores: int) -> list[str]:
    def middle(value: Callable[[Result], float]) -> float:
        return median(map(value, results))

    def most(result: Result) -> float:
        # A worker, the load, which has one thread, and all cores together: whichever is the narrowest.
        microseconds = max(result.cpu / workers, result.load_cpu, (result.cpu + result.load_cpu) / cores)
        return 1e6 / microseconds

    # Without strict: who failed in a round has fewer.
    factors = [result.rate / one.rate for result, one in zip(results, alone, strict=False)]
    return [
        SCENARIOS[load].title,
        str(workers),
        f"{middle(lambda result: result.rate):,.0f}",
        f"{median(factors):.2f}" if factors else "",
        f"{middle(lambda result: result.cpu):.2f}",
        f"{middle(lambda result: result.load_cpu):.2f}",
        f"{middle(lambda result: result.rate * (result.cpu + result.load_cpu) / 1e6):.2f}",
        f"{middle(most):,.0f}",
        f"{middle(lambda result: result.rate / most(result)):.0%}",
        f"{middle(lambda result: result.latency['p99']):,.0f}",
        str(sum(result.lost for result in results)),
    ]
