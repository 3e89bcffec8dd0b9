"""poll(): events for programs that call their handlers themselves."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from uloop_reactor import UEvent, Uloop

ROUNDING = 1e-6  # seconds; what the difference of two floats may be off

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@dataclass(eq=False)
class Uncalled:
    """A handler that the loop must not call, since the program does."""

    def process_event(self, fileno: int, event: UEvent) -> None:
        raise AssertionError(f"called with {fileno}, {event!r}")


def test_events_come_with_their_handlers(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sockets = [make_readable(), make_readable()]
    handlers = [Uncalled(), Uncalled()]
    for sock, handler in zip(sockets, handlers, strict=True):
        loop.add(sock, UEvent.poll_in, handler)
    events = loop.poll(30)
    assert {fileno: handler for handler, fileno, _ in events} == {
        sock.fileno(): handler for sock, handler in zip(sockets, handlers, strict=True)
    }
    assert [event for _, _, event in events] == [UEvent.poll_in, UEvent.poll_in]
    assert all(type(event) is UEvent for _, _, event in events)


def test_nothing_is_an_empty_list_and_never_early(loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    loop.add(ours, UEvent.poll_in, Uncalled())
    for timeout in (0, 0.0001, 0.05):
        started = time.monotonic()
        assert loop.poll(timeout) == []
        assert time.monotonic() - started >= timeout - ROUNDING


def test_what_is_silent_does_not_end_the_wait(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    loop.add(ours, UEvent.poll_none, Uncalled())
    theirs.close()
    assert select.select([ours], [], [], 30)[0]
    started = time.monotonic()
    assert loop.poll(0.1) == []
    assert time.monotonic() - started >= 0.1 - ROUNDING


def test_none_waits_until_something_happens(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    handler = Uncalled()
    loop.add(ours, UEvent.poll_in, handler)
    sender = threading.Timer(0.05, theirs.send, [b"x"])
    sender.start()
    assert loop.poll(None) == [(handler, ours.fileno(), UEvent.poll_in)]
    sender.join()


@pytest.mark.parametrize("timeout", [None, 1000])
def test_another_thread_ends_the_wait(timeout: float | None, loop: Uloop) -> None:
    over = threading.Event()

    def wake() -> None:
        while not over.wait(0.02):  # the first time it may not sleep yet
            loop.call_threadsafe(int)

    waker = threading.Thread(target=wake)
    waker.start()
    assert loop.poll(timeout) == []
    over.set()
    waker.join()
    loop.poll(0)
    started = time.monotonic()
    assert loop.poll(0.05) == []  # it does not stay awake
    assert time.monotonic() - started >= 0.05 - ROUNDING


def test_timers_and_callbacks_wait_for_a_turn(loop: Uloop) -> None:
    called: list[str] = []
    loop.call_soon(called.append, "soon")
    loop.call_later(0, called.append, "timer")
    assert loop.poll(0.01) == []
    assert called == []
    loop.run_once(0)
    assert sorted(called) == ["soon", "timer"]


def test_a_descriptor_that_was_removed_is_not_reported(
    loop: Uloop, make_readable: Callable[[], socket.socket]
) -> None:
    kept, removed = make_readable(), make_readable()
    handler = Uncalled()
    loop.add(kept, UEvent.poll_in, handler)
    loop.add(removed, UEvent.poll_in, Uncalled())
    loop.remove(removed)
    assert loop.poll(30) == [(handler, kept.fileno(), UEvent.poll_in)]
