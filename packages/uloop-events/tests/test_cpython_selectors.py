"""CPython's own tests of the selectors module, run on LoopSelector over every loop.

They come with the Python that runs them, so each version brings its own.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from uloop_events import EpollLike, SelectLoop
from uloop_events.selector import LoopSelector

# Typed Any, for the type checkers do not know it.
cpython: Any = pytest.importorskip(
    "test.test_selectors",
    reason="this Python was installed without its test package (Debian puts it into libpython3-testsuite)",
)

LoopType = Callable[..., EpollLike]


def names_of_tests(mixin: Any) -> Sequence[str]:
    return unittest.TestLoader().getTestCaseNames(mixin)


@pytest.mark.parametrize("name", names_of_tests(cpython.BaseSelectorTestCase))
def test_every_selector(loop_type: LoopType, name: str) -> None:
    run(cpython.BaseSelectorTestCase, name, loop_type)


@pytest.mark.parametrize("name", names_of_tests(cpython.ScalableSelectorMixIn))
def test_scalable_selectors(loop_type: LoopType, name: str) -> None:
    if loop_type is SelectLoop:
        pytest.skip("select holds few descriptors, and this test wants as many as the process may have")
    # It makes sockets with a helper of the base.
    run(type("Both", (cpython.ScalableSelectorMixIn, cpython.BaseSelectorTestCase), {}), name, loop_type)


def run(mixin: type, name: str, loop_type: LoopType) -> None:
    """Run one of CPython's tests, and have pytest see how it went."""

    class Selector(LoopSelector):
        """What the tests want: a class to be called without arguments."""

        def __init__(self) -> None:
            super().__init__(loop_type())

    result = unittest.TestResult()
    case = type(mixin.__name__, (mixin, unittest.TestCase), {"SELECTOR": Selector})(name)
    case.run(result)
    assert result.testsRun or result.skipped  # some versions do not count what they skip
    for _, reason in result.skipped:
        pytest.skip(reason or "it is for selectors that it knows by name")
    for _, traceback in result.errors + result.failures:
        pytest.fail(traceback, pytrace=False)
