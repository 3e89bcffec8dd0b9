"""Descriptors that are closed without being removed first: bad manners, but no catastrophe."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop

MakePair = Callable[[], tuple[socket.socket, socket.socket]]
MakeReadable = Callable[[], socket.socket]


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


def assert_that_it_sleeps(loop: Uloop) -> None:
    for _ in range(3):  # it may take a few turns to find out
        loop.run_once(0.01)
    started = time.monotonic()
    for _ in range(3):
        loop.run_once(0.01)
    assert time.monotonic() - started >= 0.03 - 1e-6  # but for the rounding of floats


def test_closed_before_anything_happened(loop: Uloop, make_readable: MakeReadable) -> None:
    sock, recorder = make_readable(), Recorder()
    loop.add(sock, UEvent.poll_in, recorder)
    sock.close()
    assert_that_it_sleeps(loop)
    assert recorder.events == []


def test_the_others_are_served(loop: Uloop, make_readable: MakeReadable) -> None:
    dead, alive, recorder = make_readable(), make_readable(), Recorder()
    loop.add(dead, UEvent.poll_in, Recorder())
    loop.add(alive, UEvent.poll_in, recorder)
    dead.close()
    while not recorder.events:
        loop.run_once()
    assert recorder.events == [UEvent.poll_in]


def test_removed_too_late(loop: Uloop, make_readable: MakeReadable) -> None:
    sock = make_readable()
    number = sock.fileno()
    loop.add(number, UEvent.poll_in, Recorder())
    sock.close()
    loop.remove(number)
    assert_that_it_sleeps(loop)


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows gives a socket's number away as it likes, not on request"
)
@pytest.mark.parametrize("turn", [True, False], ids=["a turn between", "no turn between"])
def test_a_number_in_use_again_can_be_added_again(
    turn: bool, loop: Uloop, make_readable: MakeReadable
) -> None:
    sock, first, second = make_readable(), Recorder(), Recorder()
    loop.add(sock, UEvent.poll_in, first)
    os.dup2(make_readable().fileno(), sock.fileno())
    if turn:
        loop.run_once(0)
    loop.add(sock, UEvent.poll_in, second)
    loop.run_once(30)
    assert (first.events, second.events) == ([], [UEvent.poll_in])
    loop.remove(sock)
    loop.run_once(0)
    assert (first.events, second.events) == ([], [UEvent.poll_in])


def test_one_that_lives_on_elsewhere(loop: Uloop, make_readable: MakeReadable) -> None:
    """epoll watches what is behind the number, and would tell of it for ever."""
    sock, other, recorder = make_readable(), make_readable(), Recorder()
    number = sock.fileno()
    loop.add(number, UEvent.poll_in, Recorder())
    loop.add(other, UEvent.poll_none, recorder)
    with sock.dup():  # a forked child has one too
        sock.close()
        loop.remove(number)
        for _ in range(5):
            loop.run_once(0)
        assert_that_it_sleeps(loop)
        loop.modify(other, UEvent.poll_in)
        loop.run_once(30)
        assert recorder.events == [UEvent.poll_in]  # nobody else is forgotten


def test_one_that_lives_on_elsewhere_in_poll(loop: Uloop, make_readable: MakeReadable) -> None:
    sock = make_readable()
    number = sock.fileno()
    loop.add(number, UEvent.poll_in, Recorder())
    with sock.dup():
        sock.close()
        loop.remove(number)
        started = time.monotonic()
        assert loop.poll(0.05) == []
        assert time.monotonic() - started >= 0.05 - 1e-6  # but for the rounding of floats
        assert loop.poll(0) == []


def test_what_is_removed_in_every_batch_is_no_stranger(
    loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that are ready in the same batch, again and again, and the first removes the second."""
    one, two = make_readable(), make_readable()

    class Remover:
        def __init__(self, other: socket.socket) -> None:
            self.other = other

        def process_event(self, fileno: int, event: UEvent) -> None:
            loop.remove(self.other)

    for _ in range(10):
        loop.remove(one)
        loop.remove(two)
        loop.add(one, UEvent.poll_in, Remover(two))
        loop.add(two, UEvent.poll_in, Remover(one))
        loop.run_once(30)
    assert caplog.records == []
