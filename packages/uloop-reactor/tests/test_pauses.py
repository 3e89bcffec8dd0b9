"""A handler that fails again and again is left out for a while, ever longer, and never given up."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from uloop_reactor import UEvent, Uloop

MakeReadable = Callable[[], socket.socket]

no_dup2 = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows gives a socket's number away as it likes, not on request"
)


@dataclass
class Failing:
    """Raises until it is mended, and leaves the data waiting."""

    mended: bool = False
    times: list[float] = field(default_factory=list)
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.times.append(time.monotonic())
        self.events.append(event)
        if not self.mended:
            raise OSError("a fault of this test")


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


@pytest.fixture
def failing() -> Failing:
    return Failing()


@pytest.fixture
def paused(loop: Uloop, make_readable: MakeReadable, failing: Failing) -> socket.socket:
    """A socket with data, whose handler has failed four times and pauses for 0.04 seconds.

    A pause is over in a turn of the loop, so however slow the machine is, it is not over yet
    when a test begins.
    """
    sock = make_readable()
    loop.add(sock, UEvent.poll_in, failing)
    while len(failing.times) < 4:
        loop.run_once()
    return sock


def run_for(loop: Uloop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def assert_that_it_sleeps(loop: Uloop) -> None:
    started = time.monotonic()
    for _ in range(3):
        loop.run_once(0.01)
    assert time.monotonic() - started >= 0.03 - 1e-6  # but for the rounding of floats


def test_it_does_not_spin_and_is_not_given_up(
    loop: Uloop, make_readable: MakeReadable, failing: Failing
) -> None:
    sock = make_readable()
    loop.add(sock, UEvent.poll_in, failing)
    run_for(loop, 0.2)
    assert 2 <= len(failing.times) <= 7
    failing.mended = True
    calls = len(failing.times)
    while len(failing.times) < calls + 3:
        loop.run_once()
    loop.remove(sock)
    loop.add(sock, UEvent.poll_in, Recorder())  # it was registered all the time


def test_each_pause_is_twice_as_long(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    while len(failing.times) < 5:
        loop.run_once()
    gaps = [later - earlier for earlier, later in pairwise(failing.times)]
    for gap, pause in zip(gaps, [0, 0.01, 0.02, 0.04], strict=True):
        assert gap >= pause


def test_one_success_ends_the_matter(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    failing.mended = True
    while len(failing.times) < 5:
        loop.run_once()
    failing.mended = False
    # The first failure is free again; with the old count there would be a pause of 0.08 s.
    loop.run_once(0)
    loop.run_once(0)
    assert len(failing.times) == 7


def test_the_others_are_served(
    loop: Uloop, failing: Failing, paused: socket.socket, make_readable: MakeReadable
) -> None:
    recorder = Recorder()
    loop.add(make_readable(), UEvent.poll_in, recorder)
    for _ in range(5):
        loop.run_once(30)
    assert recorder.events == [UEvent.poll_in] * 5


def test_removed_in_its_pause(
    loop: Uloop, failing: Failing, paused: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    loop.remove(paused)
    caplog.clear()
    run_for(loop, 0.06)
    assert len(failing.times) == 4
    assert caplog.records == []


def test_replaced_in_its_pause(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    loop.remove(paused)
    recorder = Recorder()
    loop.add(paused, UEvent.poll_in, recorder)
    loop.run_once(0)
    assert recorder.events == [UEvent.poll_in]  # the pause was not the descriptor's
    loop.modify(paused, UEvent.poll_none)
    run_for(loop, 0.06)
    assert_that_it_sleeps(loop)  # and its end is no business of the new handler
    assert recorder.events == [UEvent.poll_in]
    assert len(failing.times) == 4


def test_asked_for_something_else_in_its_pause(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    loop.modify(paused, UEvent.poll_out)
    failing.mended = True
    while len(failing.events) < 6:
        loop.run_once()
    assert failing.events[4:] == [UEvent.poll_out] * 2
    assert failing.times[4] - failing.times[3] >= 0.04  # the pause was not cut short


def test_silenced_in_its_pause(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    loop.modify(paused, UEvent.poll_none)
    run_for(loop, 0.06)
    assert len(failing.times) == 4
    loop.modify(paused, UEvent.poll_in)
    loop.run_once(30)
    assert len(failing.times) == 5


def test_a_silenced_descriptor_can_be_asked_again_in_the_pause(
    loop: Uloop, failing: Failing, paused: socket.socket
) -> None:
    failing.mended = True
    loop.modify(paused, UEvent.poll_none)
    loop.modify(paused, UEvent.poll_in)
    while len(failing.times) < 5:
        loop.run_once()
    assert failing.times[4] - failing.times[3] >= 0.04


def test_closed_in_its_pause(
    loop: Uloop,
    failing: Failing,
    paused: socket.socket,
    make_readable: MakeReadable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = paused.fileno()
    paused.close()
    caplog.clear()
    run_for(loop, 0.06)
    assert len(failing.times) == 4
    (record,) = caplog.records
    assert record.name == "uloop.reactor"
    assert record.levelname == "WARNING"
    assert f"removed descriptor {number}" in record.getMessage()
    assert "0 descriptors" in repr(loop)
    another = make_readable()  # it may have got the same number
    recorder = Recorder()
    loop.add(another, UEvent.poll_in, recorder)
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]


@no_dup2
def test_its_number_given_away_in_its_pause(
    loop: Uloop, failing: Failing, paused: socket.socket, make_readable: MakeReadable
) -> None:
    os.dup2(make_readable().fileno(), paused.fileno())
    failing.mended = True
    run_for(loop, 0.06)
    assert len(failing.times) == 4  # the data is not for it
    recorder = Recorder()
    loop.add(paused, UEvent.poll_in, recorder)
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]


@no_dup2
def test_its_number_given_away_and_added_in_its_pause(
    loop: Uloop, failing: Failing, paused: socket.socket, make_readable: MakeReadable
) -> None:
    recorder = Recorder()
    os.dup2(make_readable().fileno(), paused.fileno())
    loop.add(paused, UEvent.poll_none, recorder)
    run_for(loop, 0.06)
    assert_that_it_sleeps(loop)
    loop.modify(paused, UEvent.poll_in)
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]
    assert len(failing.times) == 4


def test_the_loop_closed_in_a_pause(loop: Uloop, failing: Failing, paused: socket.socket) -> None:
    loop.close()
    assert len(failing.times) == 4
