"""A backend whose call fails: logged once, tried again and again, and timers go on meanwhile.

The failures are real: epoll finds that its number stands for a socket (EINVAL), poll that it
watches more descriptors than the process may have (EINVAL).
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from uloop_events import HasFileno
from uloop_reactor import UEvent, Uloop, available_backends

if sys.platform == "linux":
    import resource

Break = Callable[[Uloop], AbstractContextManager[None]]


WAYS: dict[str, Break] = {}

if sys.platform == "linux":

    @contextmanager
    def failing_epoll(loop: Uloop) -> Iterator[None]:
        number = cast(HasFileno, loop._turns.registry.backend).fileno()
        kept = os.dup(number)
        one, other = socket.socketpair()
        try:
            os.dup2(one.fileno(), number)
            yield
        finally:
            os.dup2(kept, number)
            os.close(kept)
            one.close()
            other.close()

    @contextmanager
    def failing_poll(loop: Uloop) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    WAYS = {"epoll": failing_epoll, "poll": failing_poll}

pytestmark = pytest.mark.skipif(not WAYS, reason="only Linux has a way to make a backend fail and work again")


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


@pytest.fixture(params=sorted(WAYS))
def fragile(request: pytest.FixtureRequest) -> Iterator[Uloop]:
    assert request.param in available_backends()
    with Uloop(request.param) as loop:
        loop.call_later(30, pytest.fail, "the loop still ran after 30 seconds")
        yield loop


@pytest.fixture
def failing(fragile: Uloop) -> AbstractContextManager[None]:
    return WAYS[fragile.backend](fragile)


def test_periodic_callbacks_go_on(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 5:
            fragile.stop()

    fragile.timeout = 0.01
    fragile.add_periodic(call)
    with failing:
        fragile.run()
    assert len(calls) == 5


def test_it_does_not_spin(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    turns: list[int] = []

    def count() -> None:
        turns.append(1)
        fragile.call_soon(count)

    fragile.call_soon(count)
    fragile.call_later(0.3, fragile.stop)
    with failing:
        fragile.run()
    assert 2 <= len(turns) <= 8  # the pauses are 10, 20, 40, 80, 160 ms, ...


def test_a_pause_ends_with_the_next_timer(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    turns: set[int] = set()
    with failing:
        for _ in range(4):
            fragile.run_once()
        for number in range(20):  # all within 0.1 s, while the next pause would be 0.16 s
            fragile.call_later(0.005 * number, lambda: turns.add(fragile.stats().turns))
        fragile.call_later(0.1, fragile.stop)
        fragile.run()
    assert len(turns) > 5


def test_it_is_logged_once_and_when_it_is_over(
    fragile: Uloop, failing: AbstractContextManager[None], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # another failure, another time
        caplog.clear()
        with failing:
            for _ in range(3):
                fragile.run_once(0.01)
        fragile.run_once(0.01)
        fragile.run_once(0.01)
        failure, recovery = caplog.records
        assert (failure.name, failure.levelname) == ("uloop.reactor", "ERROR")
        assert fragile.backend in failure.getMessage()
        assert "Invalid argument" in failure.getMessage()
        assert (recovery.name, recovery.levelname) == ("uloop.reactor", "WARNING")
        assert "works again, after 3 failures" in recovery.getMessage()
        failing = WAYS[fragile.backend](fragile)


def test_handlers_are_called_once_it_is_over(
    fragile: Uloop, failing: AbstractContextManager[None], make_readable: Callable[[], socket.socket]
) -> None:
    recorder = Recorder()
    fragile.add(make_readable(), UEvent.poll_in, recorder)
    with failing:
        for _ in range(3):
            fragile.run_once(0.01)
        assert recorder.events == []
    fragile.run_once(30)
    assert recorder.events == [UEvent.poll_in]


def test_callbacks_go_on(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    calls: list[int] = []
    with failing:
        fragile.call_soon(calls.append, 1)
        fragile.call_later(0, calls.append, 2)
        fragile.run_once()
    assert sorted(calls) == [1, 2]


def test_poll_says_so(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    with failing, pytest.raises(OSError, match="Invalid argument"):
        fragile.poll(0.01)
    assert fragile.poll(0.01) == []


def test_the_loop_can_be_closed(fragile: Uloop, failing: AbstractContextManager[None]) -> None:
    with failing:
        fragile.run_once(0.01)
    fragile.close()


@pytest.mark.skipif(sys.platform != "linux", reason="what breaks a poll(2) breaks a socket's wait as well")
def test_stop_ends_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uloop_reactor.backoff.LONGEST_PAUSE", 1000)
    with Uloop("epoll") as loop:
        loop._turns._failed_polls = 20  # so the next pause is as long as a pause can be
        stopper = threading.Timer(0.05, loop.stop)
        with WAYS["epoll"](loop):
            stopper.start()
            loop.run()
        stopper.join()
