"""From the start of a process to the first answer that a client has from it, beside an empty program.

An interpreter that does nothing, ``python -c pass``, takes its time to start too, and more on a slow
machine: so what is told is how much longer a server takes. The starts are interleaved, and the files of
bytecode are there: each is started once before, which does not count.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from servers.contestants import CONTESTANTS, Contestant
from servers.measure import Bench
from servers.report import markdown, shown
from servers.scenarios import ANSWER_LENGTH
from servers.server import on_core

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

STARTS_IN_A_ROUND = 4
EMPTY = "python -c pass"
VERSION = "uloop-servers --version"
PATIENCE = 30.0  # seconds


def section(bench: Bench, contestants: list[Contestant], rounds: int, failures: list[str]) -> str:
    """Measure in rounds; the results as Markdown, and what went wrong added to ``failures``."""
    programs: dict[str, Callable[[], float]] = {
        EMPTY: partial(run, bench, "-c", "pass"),
        VERSION: partial(run, bench, "-m", "uloop_servers", "--version"),
    }
    for contestant in contestants:
        if "tcp" in contestant.protocols:
            programs[contestant.name] = partial(first_answer, bench, contestant)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds * STARTS_IN_A_ROUND + 1):
        for name, program in programs.items():
            try:
                seconds = program()
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                failures.append(f"start {turn}, {name}: {error}")
                continue
            if turn:
                times[name].append(seconds)
    middle = {name: median(each) * 1000 for name, each in times.items() if each}
    empty = middle.get(EMPTY, 0.0)
    rows = [
        [
            shown(name) if name in CONTESTANTS else f"`{name}`",
            f"{each:.1f}",
            "" if name == EMPTY else f"{each - empty:+.1f}",
        ]
        for name, each in sorted(middle.items(), key=lambda item: item[1])
    ]
    told = f"Milliseconds from the start of a process to its first answer, over TCP; of `{EMPTY}` and "
    told += f"`{VERSION}`, to their end. Medians of {rounds * STARTS_IN_A_ROUND} interleaved starts."
    return f"### Start\n\n{told}\n\n{markdown(['', 'ms', 'more than an empty program'], rows)}"


def run(bench: Bench, *arguments: str) -> float:
    """How long a Python program runs, in seconds."""
    begin = time.perf_counter()
    with on_core(bench.server_core):
        subprocess.run(
            [bench.python, *arguments],
            env=CONTESTANTS["uloop"].environment(),
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=True,
        )
    return time.perf_counter() - begin


def first_answer(bench: Bench, contestant: Contestant) -> float:
    """How long a server takes until a client has an answer from it, in seconds.

    Raises:
        RuntimeError: it did not come up, or the answer is none.
    """
    begin = time.perf_counter()
    with (
        bench.start(contestant, "tcp") as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client,
    ):
        client.send(b"t")
        answer = client.recv(ANSWER_LENGTH, socket.MSG_WAITALL)
        seconds = time.perf_counter() - begin
        if len(answer) != ANSWER_LENGTH:
            raise RuntimeError(f"it answered {answer!r}")
        return seconds
