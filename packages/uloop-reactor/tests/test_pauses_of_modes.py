"""Pauses of descriptors that were registered in one of the special modes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from uloop_reactor import UEvent, Uloop

MakeReadable = Callable[[], socket.socket]


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@dataclass
class Failing:
    calls: int = 0

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.calls += 1
        raise OSError("a fault of this test")


def test_poll_et(loop: Uloop, make_readable: MakeReadable) -> None:
    if loop.backend != "epoll":
        pytest.skip(f"{loop.backend} has no poll_et: epoll alone has it")
    sock, failing = make_readable(), Failing()
    loop.add(sock, UEvent.poll_in | UEvent.poll_et, failing)
    loop.run_once(30)
    loop.run_once(0)
    assert failing.calls == 1  # an edge is told once, whether it is dealt with or not
    loop.modify(sock, UEvent.poll_in | UEvent.poll_et)  # makes an edge of what is there
    loop.run_once(30)
    assert failing.calls == 2
    while failing.calls < 3:  # and so does the end of the pause
        loop.run_once()


def test_poll_exclusive(loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture) -> None:
    if loop.backend != "epoll":
        pytest.skip(f"{loop.backend} has no poll_exclusive: epoll alone has it")
    failing = Failing()
    loop.add(make_readable(), UEvent.poll_in | UEvent.poll_exclusive, failing)
    loop.run_once(30)
    loop.run_once(30)
    assert failing.calls == 2
    assert "removed" not in caplog.text  # it has not been closed
    while failing.calls < 6:
        loop.run_once()
    started = time.monotonic()
    for _ in range(4):  # the pause is 0.16 s by now
        loop.run_once(0.02)
    assert time.monotonic() - started >= 0.08 - 1e-6  # but for the rounding of floats


def test_poll_oneshot(loop: Uloop, make_readable: MakeReadable) -> None:
    mode = UEvent.poll_in | UEvent.poll_oneshot
    sock, failing = make_readable(), Failing()
    loop.add(sock, mode, failing)
    for calls in (1, 2, 3):
        loop.call_later(0.04, loop.stop)  # more than the pause
        loop.run()
        assert failing.calls == calls  # silent until the next modify, which is the program's to make
        loop.modify(sock, mode)


def test_poll_oneshot_that_arms_itself_does_not_spin(loop: Uloop, make_readable: MakeReadable) -> None:
    calls: list[int] = []
    mode = UEvent.poll_in | UEvent.poll_oneshot

    def arm_and_fail(fileno: int, event: UEvent) -> None:
        calls.append(1)
        loop.modify(fileno, mode)
        raise OSError("a fault of this test")

    loop.add(make_readable(), mode, Handler(arm_and_fail))
    loop.call_later(0.1, loop.stop)
    loop.run()
    assert 2 <= len(calls) <= 6
