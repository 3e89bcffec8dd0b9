"""poll_none: not a word, not even of a peer that has gone, until modify asks for something."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


def assert_that_it_sleeps(loop: Uloop) -> None:
    loop.run_once(0.01)  # a hangup may end one wait, by which the backend learns to keep quiet
    started = time.monotonic()
    for _ in range(3):
        loop.run_once(0.01)
    assert time.monotonic() - started >= 0.03 - 1e-6  # but for the rounding of floats


def hang_up(ours: socket.socket, theirs: socket.socket) -> None:
    theirs.close()
    assert select.select([ours], [], [], 30)[0]


def test_added_silent(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sock, recorder = make_readable(), Recorder()
    loop.add(sock, UEvent.poll_none, recorder)
    assert_that_it_sleeps(loop)
    assert recorder.events == []
    loop.modify(sock, UEvent.poll_in)
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]


def test_silenced_and_asked_again(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sock, recorder = make_readable(), Recorder()
    loop.add(sock, UEvent.poll_in, recorder)
    loop.run_once(30)
    for mode in (UEvent.poll_in, UEvent.poll_out):
        recorder.events.clear()
        loop.modify(sock, UEvent.poll_none)
        assert_that_it_sleeps(loop)
        assert recorder.events == []
        loop.modify(sock, mode)
        loop.run_once(30)
        assert recorder.events == [mode]


@pytest.mark.parametrize("order", ["before", "after"])
def test_silent_about_a_peer_that_has_gone(order: str, loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    recorder = Recorder()
    if order == "before":
        hang_up(ours, theirs)
    loop.add(ours, UEvent.poll_none, recorder)
    if order == "after":
        hang_up(ours, theirs)
    assert_that_it_sleeps(loop)
    assert recorder.events == []
    loop.modify(ours, UEvent.poll_in)
    loop.run_once(30)
    (event,) = recorder.events
    assert event & UEvent.poll_in


def test_silenced_after_the_hangup_was_told(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    recorder = Recorder()
    loop.add(ours, UEvent.poll_in, recorder)
    hang_up(ours, theirs)
    loop.run_once(30)
    assert len(recorder.events) == 1
    loop.modify(ours, UEvent.poll_none)
    assert_that_it_sleeps(loop)
    assert len(recorder.events) == 1


def test_a_hangup_is_told_to_who_asks_for_anything(loop: Uloop, make_pair: MakePair) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows does not tell that both directions have ended")
    ours, theirs = make_pair()
    recorder = Recorder()
    loop.add(ours, UEvent.poll_pri, recorder)
    hang_up(ours, theirs)
    loop.run_once(30)
    (event,) = recorder.events
    assert event & UEvent.poll_hup


def test_the_silent_do_not_keep_others_waiting(
    loop: Uloop, make_readable: Callable[[], socket.socket], make_pair: MakePair
) -> None:
    silent, silent_peer = make_pair()
    loop.add(silent, UEvent.poll_none, Recorder())
    hang_up(silent, silent_peer)
    assert_that_it_sleeps(loop)
    recorder = Recorder()
    loop.add(make_readable(), UEvent.poll_in, recorder)
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]
