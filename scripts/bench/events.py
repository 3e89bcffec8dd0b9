"""What uloop-events costs, as ratios to the bare call, all in one run:

    python scripts/dev.py run bench-events

A ``poll`` of a loop against a poll of what it is built on, with idle descriptors and one that is
ready; ``&`` of two UEvents; and the import. Medians of interleaved rounds, since the speed of a
machine changes from one second to the next.
"""

from __future__ import annotations

import select
import socket
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable

from uloop_events import EPOLLIN, PollLoop, SelectLoop, UEvent

ROUNDS = 15
IMPORTS = 30


def microseconds(call: Callable[[], object], seconds: float = 0.01) -> float:
    """What a call costs, when it is made for some hundredths of a second."""
    calls = 0
    start = now = time.perf_counter()
    while now - start < seconds:
        for _ in range(20):
            call()
        calls += 20
        now = time.perf_counter()
    return (now - start) / calls * 1e6


def compare(what: str, bare: Callable[[], object], ours: Callable[[], object]) -> None:
    rounds = [(microseconds(bare), microseconds(ours)) for _ in range(ROUNDS)]
    costs = [statistics.median(column) for column in zip(*rounds, strict=True)]
    ratio = statistics.median(ours / bare for bare, ours in rounds)
    print(f"{what:44} bare {costs[0]:7.2f} us   ours {costs[1]:7.2f} us   ratio {ratio:.2f}")


def polls(idle: int) -> None:
    if sys.platform == "win32":
        return  # there is no poll(2) to compare with
    with PollLoop() as poll_loop, SelectLoop() as select_loop:
        pairs = [socket.socketpair() for _ in range(idle + 1)]
        pairs[0][1].send(b"x")
        numbers = [ours.fileno() for ours, _ in pairs]
        poll = select.poll()
        for number in numbers:
            poll.register(number, select.POLLIN)
            poll_loop.register(number, EPOLLIN)
        compare(f"PollLoop, {idle} idle, one ready", lambda: poll.poll(1000), lambda: poll_loop.poll(1))
        if max(numbers) < 1024:
            for number in numbers:
                select_loop.register(number, EPOLLIN)
            compare(
                f"SelectLoop, {idle} idle, one ready",
                lambda: select.select(numbers, [], [], 1),
                lambda: select_loop.poll(1),
            )
    for pair in pairs:
        for each in pair:
            each.close()


def ands() -> None:
    names = {"in_": UEvent.poll_in, "both": UEvent.poll_in | UEvent.poll_out}
    for expression in ("both & in_", "5 & in_"):
        seconds = min(timeit.repeat(expression, globals=names, number=100_000, repeat=9))
        print(f"{expression:44} {seconds / 100_000 * 1e9:.0f} ns")


def imports() -> None:
    programs = ["import select, enum", "import uloop_events", "import uloop_events; uloop_events.PollLoop"]
    costs: dict[str, list[float]] = {program: [] for program in programs}
    for _ in range(IMPORTS):
        for program in programs:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            costs[program].append((time.perf_counter() - start) * 1e3)
    for program in programs:
        print(f"{program:44} {statistics.median(costs[program]):.1f} ms, with the interpreter's start")


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]} on {sys.platform}")
    for count in (1, 100, 1000):
        polls(count)
    ands()
    imports()
