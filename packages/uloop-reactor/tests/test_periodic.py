"""add_periodic: callbacks every ``timeout`` seconds, whether the loop is idle or busy."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable

import pytest
from uloop_reactor import UEvent, Uloop


class Counter:
    def __init__(self, loop: Uloop, last: int = 1_000_000) -> None:
        self.loop = loop
        self.last = last
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            self.loop.stop()

    def call_and_fail(self) -> None:
        self.call()
        raise OSError("a fault of this test")

    def process_event(self, fileno: int, event: UEvent) -> None:
        """Leave the descriptor as ready as it was."""


def run_for(loop: Uloop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def test_every_timeout_seconds(loop: Uloop) -> None:
    loop.timeout = 0.01
    counter = Counter(loop, last=3)
    started = time.monotonic()
    loop.add_periodic(counter.call)
    loop.run()
    assert counter.calls == 3
    assert time.monotonic() - started >= 0.03 - 1e-6  # but for the rounding of floats


def test_when_the_loop_is_busy(
    loop: Uloop, make_pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    ours, _ = make_pair()
    loop.timeout = 0.01
    counter = Counter(loop, last=3)
    loop.add(ours, UEvent.poll_out, counter)
    loop.add_periodic(counter.call)
    loop.run()
    assert counter.calls == 3


def test_several(loop: Uloop) -> None:
    loop.timeout = 0.005
    counters = [Counter(loop), Counter(loop, last=3)]
    for counter in counters:
        loop.add_periodic(counter.call)
    loop.run()
    assert [counter.calls for counter in counters] == [3, 3]


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_timeout_may_be_set_before_and_after(when: str, loop: Uloop) -> None:
    counter = Counter(loop, last=1)
    loop.timeout = 0.01 if when == "before" else 1000
    loop.add_periodic(counter.call)
    loop.timeout = 0.01
    assert loop.timeout == 0.01
    loop.run()
    assert counter.calls == 1


def test_a_longer_timeout_counts_from_now(loop: Uloop) -> None:
    counter = Counter(loop)
    loop.timeout = 0.01
    loop.add_periodic(counter.call)
    loop.timeout = 1000
    run_for(loop, 0.05)
    assert counter.calls == 0


def test_a_callback_may_change_the_timeout(loop: Uloop) -> None:
    counter = Counter(loop, last=3)

    def call() -> None:
        counter.call()
        loop.timeout = 0.001 * counter.calls

    loop.timeout = 0.01
    loop.add_periodic(call)
    loop.run()
    assert counter.calls == 3
    assert loop.timeout == 0.003


def test_removed(loop: Uloop) -> None:
    counter = Counter(loop)
    loop.timeout = 0.001
    loop.add_periodic(counter.call)
    loop.remove_periodic(counter.call)  # another object, but the same method of the same counter
    run_for(loop, 0.02)
    assert counter.calls == 0


def test_added_twice_removed_once(loop: Uloop) -> None:
    counter = Counter(loop, last=2)
    loop.timeout = 0.005
    loop.add_periodic(counter.call)
    loop.add_periodic(counter.call)
    loop.run()
    assert counter.calls == 2
    loop.remove_periodic(counter.call)
    counter.last = 5
    loop.run()
    assert counter.calls == 5
    loop.remove_periodic(counter.call)
    with pytest.raises(ValueError, match="not a periodic callback"):
        loop.remove_periodic(counter.call)


def test_another_object_with_the_same_method_stays(loop: Uloop) -> None:
    counters = [Counter(loop), Counter(loop)]
    loop.timeout = 0.001
    for counter in counters:
        loop.add_periodic(counter.call)
    loop.remove_periodic(counters[1].call)
    run_for(loop, 0.02)
    assert counters[0].calls > 0
    assert counters[1].calls == 0


def test_one_may_remove_itself_and_another(loop: Uloop) -> None:
    other = Counter(loop)
    calls: list[int] = []

    def remove_both() -> None:
        calls.append(1)
        loop.remove_periodic(remove_both)
        loop.remove_periodic(other.call)

    loop.timeout = 0.001
    loop.add_periodic(remove_both)
    loop.add_periodic(other.call)
    run_for(loop, 0.02)
    # They are due in the same turn, or else the other one comes a little later.
    assert (calls, other.calls) == ([1], 0)


def test_one_that_raises_keeps_its_place(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    loop.timeout = 0.005
    failing, other = Counter(loop), Counter(loop, last=3)
    loop.add_periodic(failing.call_and_fail)
    loop.add_periodic(other.call)
    loop.run()
    assert (failing.calls, other.calls) == (3, 3)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    loop.remove_periodic(failing.call_and_fail)


def test_what_is_not_known_cannot_be_removed(loop: Uloop) -> None:
    with pytest.raises(ValueError, match="not a periodic callback"):
        loop.remove_periodic(int)


def test_what_cannot_be_called_is_refused(loop: Uloop) -> None:
    with pytest.raises(TypeError, match="callable"):
        loop.add_periodic(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a periodic callback"):
        loop.remove_periodic(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf])
def test_a_bad_timeout_is_refused_and_changes_nothing(timeout: float, loop: Uloop) -> None:
    counter = Counter(loop, last=2)
    loop.timeout = 0.01
    loop.add_periodic(counter.call)
    with pytest.raises(ValueError, match="timeout must be a positive number"):
        loop.timeout = timeout
    assert loop.timeout == 0.01
    loop.run()
    assert counter.calls == 2


def test_without_the_loop_nothing_is_called(loop: Uloop) -> None:
    counter = Counter(loop, last=1)
    loop.timeout = 0.001
    loop.add_periodic(counter.call)
    time.sleep(0.01)
    assert counter.calls == 0
    loop.run()
    assert counter.calls == 1  # what was missed meanwhile has been skipped
