"""Time servers under the same load: ours, and those that others write with what there is.

    python scripts/dev.py run bench-servers
    python scripts/bench/servers --scenario udp --server uloop --server uvloop --rounds 3 --svg udp.svg
    python scripts/bench/servers --scenario workers --scenario held --scenario start

Each server in turn answers a load on another core, in rounds, since the speed of a machine changes
from one minute to the next. What is told are the medians of the rounds, and the medians of each
round's ratio to uvloop and to the server in C with one system call for each message. Ours has all
that protects it by default; its limit for one source counts, but is so high that nobody is refused.
The others have no protection, no statistics and no limits: they answer, and nothing else.

The processor time is the server's own, its children's included. A server that is not busy all the time
waits for the load, which is a single thread, too, or for a core that other programs use: then compare
the processor time, not the answers.

Three more scenarios take long, or ask something else, and are measured by name or with ``--scenario all``:
``workers.py``, ``held.py`` and ``start.py`` say what each is. What they tell is not in the plot.

asyncio's streams and datagrams are read into blocks of 256 KiB. By the history of the process these are taken
from the heap, or mapped anew for each read, which costs three times as much: a server that has just been
started maps them. ``peers.py`` says what else each of the others does, and why.

The exit code is 1 when an answer was wrong or a measurement failed.
"""

from __future__ import annotations

import argparse
import sys

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

import os
import shutil
import signal
import tempfile
from pathlib import Path

from servers import held, start, workers
from servers.contestants import CONTESTANTS, Contestant, versions
from servers.measure import Bench, compile_program, most_descriptors
from servers.plot import plot
from servers.report import Results, heading, reproduction, summary, tables
from servers.scenarios import SCENARIOS, Result

#: beside those of ``SCENARIOS``
MORE = ("workers", "held", "start")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers are ended, too
    options = parse()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("this benchmark needs two cores: one for the server, one for the load")
    if shutil.which("cc") is None:
        sys.exit("this benchmark needs a C compiler, cc: the load and a server are written in C")
    most_descriptors()
    interpreter, found = versions(options.python)
    names = options.server or [name for name, each in CONTESTANTS.items() if each.by_default]
    chosen = [CONTESTANTS[name] for name in names]
    missing = [each for each in chosen if each.distribution is not None and not found[each.distribution]]
    chosen = [each for each in chosen if each not in missing]
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(
            options.python,
            compile_program("load", Path(directory)),
            compile_program("reference", Path(directory)),
            server_core=cores[0],
            load_core=cores[1],
            duration=options.duration,
            sources=options.sources,
        )
        wanted = options.scenario or list(SCENARIOS)
        if "all" in wanted:
            wanted = [*SCENARIOS, *MORE]
        results = run(bench, [name for name in SCENARIOS if name in wanted], chosen, options.rounds, failures)
        sections = []
        if results:
            sections += [summary(options.rounds, options.duration, options.sources), tables(results)]
        if "workers" in wanted:
            sections.append(workers.section(bench, options.rounds, failures))
        if "held" in wanted:
            sections.append(held.section(bench, options.connections, options.rounds, failures))
        if "start" in wanted:
            sections.append(start.section(bench, chosen, options.rounds, failures))

    versions_told = {name: version for name, version in found.items() if version}
    parts = [heading(interpreter, versions_told), reproduction(sys.argv[1:], options.python)]
    if missing:
        parts.append(f"Not installed, and left out: {', '.join(each.name for each in missing)}.")
    print("\n\n".join([*parts, *sections]))
    if options.svg is not None:
        options.svg.write_text(plot(results), encoding="utf-8")
    wrong = sum(
        each.wrong for scenario in results.values() for rounds in scenario.values() for each in rounds
    )
    if wrong:
        failures.append(f"{wrong} answers were wrong")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time servers under the same load, ours beside others'.")
    for option, choices in (("--scenario", [*SCENARIOS, *MORE, "all"]), ("--server", list(CONTESTANTS))):
        names = ", ".join(choices)
        parser.add_argument(
            option, action="append", choices=choices, metavar="NAME", help=f"of {names}; repeatable"
        )
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument(
        "--duration", type=float, default=2.0, metavar="S", help="of a measurement; default 2"
    )
    parser.add_argument("--sources", type=int, default=1, metavar="N", help="addresses of clients; default 1")
    parser.add_argument(
        "--connections", type=int, default=100_000, metavar="N", help="to be held; default 100000"
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="the servers' interpreter; default: this one"
    )
    parser.add_argument("--svg", type=Path, metavar="PATH", help="write a plot here")
    return parser.parse_args()


def run(
    bench: Bench, scenarios: list[str], contestants: list[Contestant], rounds: int, failures: list[str]
) -> Results:
    results: Results = {name: {} for name in scenarios}
    for number in range(1, rounds + 1):
        for name in scenarios:
            for contestant in contestants:
                if not SCENARIOS[name].suits(contestant):
                    continue
                try:
                    result = bench.measure(contestant, SCENARIOS[name])
                except RuntimeError as error:
                    failures.append(f"round {number}, {name}, {contestant.name}: {error}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                results[name].setdefault(contestant.name, []).append(result)
                print(f"round {number}: {name:9} {contestant.name:15} {line_of(result)}", file=sys.stderr)
    return results


def line_of(result: Result) -> str:
    return (
        f"{result.rate:9,.0f}/s {result.cpu:7.2f} us {result.busy:5.0%} busy"
        f"  p99 {result.latency['p99']:,.0f} us  lost {result.lost}  wrong {result.wrong}"
    )
