"""Runs CPython's own tests of asyncio on LoopSelector, and fails when a test does worse by it.

    python scripts/asyncio_suite.py                 # on the platform's epoll, and on PollLoop
    python scripts/asyncio_suite.py SelectLoop      # on any loops of uloop_events, by name

The suite runs once as it is, and once for each loop with ``selectors.DefaultSelector`` replaced,
which is what asyncio takes when it is given no selector. Tests that choose a selector keep it.
Every run is a fresh process. A few tests depend on the time, or on those before them: so one that
does worse is repeated on its own, both ways, and counts if it does worse again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import selectors
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from pathlib import Path

import uloop_events
from uloop_events.selector import LoopSelector

SUITE = "test.test_asyncio"
STOCK = "stock"
LOOPS = ["epoll"] if sys.platform == "win32" else ["epoll", "PollLoop"]
TIMEOUT = 1800  # seconds; the suite takes one to two minutes
PASSED, SKIPPED, FAILED, ERROR, MISSING = "passed", "skipped", "failed", "errors", "missing"

CHECKS = 2  # before the tests and after them

Outcomes = dict[str, str]  # of every test, by its id


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs CPython's own tests of asyncio on LoopSelector.")
    parser.add_argument("loops", nargs="*", default=LOOPS, help=f"default: {' '.join(LOOPS)}")
    parser.add_argument("--tests", nargs="+", default=[SUITE], help=f"names; default: {SUITE}")
    parser.add_argument("--outcomes", help=argparse.SUPPRESS)  # the file of a run: this process is one
    options = parser.parse_args()
    for loop in options.loops:
        if loop != STOCK and not hasattr(uloop_events, loop):
            parser.error(f"uloop_events has no {loop!r}")
    if options.outcomes:
        run_tests(options.loops[0], options.tests, options.outcomes)
        return 0
    print(f"{', '.join(options.tests)} of Python {sys.version.split()[0]} on {sys.platform}", flush=True)
    stock, _ = in_fresh_process(STOCK, options.tests)
    worse = [f"{test} on {loop}" for loop in options.loops for test in compare(loop, options.tests, stock)]
    print("\n  ".join(["Worse than stock:", *worse]) if worse else "No test does worse than stock.")
    return 1 if worse else 0


def compare(loop: str, tests: list[str], stock: Outcomes) -> list[str]:
    """Run the tests on a loop, and say which do worse than stock also when they are alone."""
    ours, selectors_made = in_fresh_process(loop, tests)
    if not selectors_made:
        sys.exit("None of the tests made a selector, so this says nothing.")
    confirmed = []
    for test in worse_than(stock, ours):
        print(f"  {ours.get(test, MISSING)} on {loop}, {stock.get(test, MISSING)} in stock: {test}; alone:")
        alone = [name_of(test)]
        stock_alone, _ = in_fresh_process(STOCK, alone)
        ours_alone, _ = in_fresh_process(loop, alone, show_failures=True)
        if worse_than(stock_alone, ours_alone):
            confirmed.append(test)
    return confirmed


def worse_than(stock: Outcomes, ours: Outcomes) -> list[str]:
    """The tests that fail here and not there, or passed there and do not here."""
    worse = []
    for test in stock | ours:
        there, here = stock.get(test, MISSING), ours.get(test, MISSING)
        if there == PASSED != here or (here in (FAILED, ERROR) and there not in (FAILED, ERROR)):
            worse.append(test)
    return worse


def name_of(test: str) -> str:
    """What unittest finds a test by; of "setUpClass (package.module.Class)", the class."""
    in_brackets = re.search(r"\((.+)\)$", test)
    return in_brackets[1] if in_brackets else test


def in_fresh_process(way: str, tests: list[str], show_failures: bool = False) -> tuple[Outcomes, int]:
    """Run tests in a process and a folder of their own; tell also how many selectors of ours they made.

    If that process crashes or does not end, this one ends as well.
    """
    start = time.monotonic()
    print(f"  {way:10}", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work, file, log = Path(folder, "work"), Path(folder, "outcomes"), Path(folder, "log")
        work.mkdir()
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            way,
            "--outcomes",
            str(file),
            "--tests",
            *tests,
        ]
        with log.open("wb") as output:
            try:
                subprocess.run(command, cwd=work, stdout=output, stderr=output, timeout=TIMEOUT, check=True)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                sys.exit(f"{error}\n{log.read_text(errors='replace')[-5000:]}")
        outcomes, selectors_made = json.loads(file.read_text())
        counts = Counter(outcomes.values())
        print(
            f"{len(outcomes)} tests:",
            ", ".join(f"{counts[each]} {each}" for each in (PASSED, SKIPPED, FAILED, ERROR)),
            f"in {time.monotonic() - start:.0f} s",
            f"with {selectors_made} of our selectors" if way != STOCK else "",
            flush=True,
        )
        if show_failures and counts[FAILED] + counts[ERROR]:
            print(log.read_text(errors="replace"), flush=True)
    return outcomes, selectors_made


# In the fresh process


class Result(unittest.TextTestResult):
    """Remembers which tests were started; unittest itself remembers only what did not pass.

    The names alone: to keep the tests would keep all that they leave behind, which the next ones,
    that call the garbage collector, would pay for with minutes.
    """

    started: list[str]

    def startTestRun(self) -> None:  # noqa: N802
        super().startTestRun()
        self.started = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.started.append(test.id())


def run_tests(way: str, tests: list[str], file: str) -> None:
    """Run tests, and write down what became of each, and how many selectors of ours they made."""
    made = 0
    if way != STOCK:

        class DefaultSelector(LoopSelector):
            def __init__(self) -> None:
                nonlocal made
                super().__init__(getattr(uloop_events, way)())
                made += 1

        selectors.DefaultSelector = DefaultSelector  # type: ignore[misc, assignment]

    def check_asyncio_takes_it() -> None:
        before = made
        asyncio.SelectorEventLoop().close()
        if way != STOCK and made != before + 1:
            sys.exit("asyncio.SelectorEventLoop() does not take the selector that is to be tested")

    check_asyncio_takes_it()
    suite = unittest.defaultTestLoader.loadTestsFromNames(tests)
    runner = unittest.TextTestRunner(
        verbosity=2,
        warnings="default",
        resultclass=Result,  # type: ignore[arg-type]  # it is generic to the type checkers alone
    )
    result = runner.run(suite)
    check_asyncio_takes_it()
    assert isinstance(result, Result)
    outcomes = dict.fromkeys(result.started, PASSED)
    # A subtest counts as its test; of several outcomes the last is kept, which is the worst.
    for outcome, those in (
        (SKIPPED, [test for test, _ in result.skipped]),
        (FAILED, [test for test, _ in result.failures] + result.unexpectedSuccesses),
        (ERROR, [test for test, _ in result.errors]),
    ):
        for test in those:
            outcomes[getattr(test, "test_case", test).id()] = outcome
    Path(file).write_text(json.dumps((outcomes, made - CHECKS)))


if __name__ == "__main__":
    sys.exit(main())
