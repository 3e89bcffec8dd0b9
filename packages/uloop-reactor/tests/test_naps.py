"""At a fast pace a loop stays awake for a moment before it sleeps, and misses nothing by that."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable

import pytest
from uloop_reactor import UEvent, Uloop, available_backends
from uloop_reactor.testing import VirtualClock
from uloop_reactor.turns import MANY_NAPS, NAP

Record = list[float]


def record_waits(loop: Uloop) -> Record:
    """The timeouts that the backend is called with from now on."""
    waits: Record = []
    poll = loop._turns._poll

    def recorded(timeout: float) -> list[tuple[int, int]]:
        waits.append(timeout)
        return poll(timeout)

    loop._turns._poll = recorded
    return waits


def after_turns(loop: Uloop, count: int, then: Callable[[], object]) -> None:
    """Have the loop make so many turns that wait for nothing."""
    if count:
        loop.call_soon(after_turns, loop, count - 1, then)
    else:
        then()


def at_a_fast_pace(loop: Uloop, then: Callable[[], object]) -> None:
    """Call ``then`` when the loop has had many short waits; all count as short, however slow this machine."""
    loop._turns._longest_nap = math.inf
    after_turns(loop, MANY_NAPS + 1, then)


def rest_in(loop: Uloop, seconds: float) -> Record:
    """The timeouts of a wait for a timer, at a fast pace."""
    waits = record_waits(loop)

    def begin() -> None:
        waits.clear()
        loop.call_later(seconds, loop.stop)

    at_a_fast_pace(loop, begin)
    loop.run()
    return waits


def test_it_looks_again_before_it_sleeps(loop: Uloop) -> None:
    waits = rest_in(loop, 0.1)
    looks = next(index for index, wait in enumerate(waits) if wait)
    assert looks >= 2
    assert 0 < waits[looks] <= 0.1


def test_it_does_not_stay_awake_for_long(loop: Uloop) -> None:
    """Of 0.1 s at most 20 us: to ask a kernel 1,000 times takes longer, and it is asked less often."""
    assert sum(wait == 0 for wait in rest_in(loop, 0.1)) < 1000


def test_a_timer_that_is_due_sooner(loop: Uloop) -> None:
    before = loop.time()
    rest_in(loop, NAP / 4)
    assert loop.time() >= before + NAP / 4


@pytest.mark.parametrize("pace", ["slow", "unknown"])
def test_at_another_pace_it_sleeps_at_once(loop: Uloop, pace: str) -> None:
    if pace == "unknown":  # to a clock that ticks too seldom
        loop._turns._longest_nap = 0.0
    waits = record_waits(loop)

    def begin() -> None:
        waits.clear()
        loop.call_later(0.1, loop.stop)

    after_turns(loop, MANY_NAPS - 1 if pace == "slow" else 2 * MANY_NAPS, begin)
    loop.run()
    assert waits[0] > 0


def test_what_comes_meanwhile(
    loop: Uloop, make_pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    """Two that talk at once: each word is heard, and in order."""
    heard: list[int] = []
    pair = make_pair()

    class Talker:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def process_event(self, fileno: int, event: UEvent, /) -> None:
            heard.append(self.sock.recv(1)[0])
            if heard[-1] == 255:
                loop.stop()
            else:
                self.sock.send(bytes((heard[-1] + 1,)))

    for sock in pair:
        loop.add(sock, UEvent.poll_in, Talker(sock))
    at_a_fast_pace(loop, lambda: pair[0].send(b"\0"))
    loop.run()
    assert heard == list(range(256))


def test_another_thread_wakes_it(loop: Uloop) -> None:
    """While it is awake, or asleep after that."""
    called = 0

    def call_back() -> None:
        nonlocal called
        called += 1
        if called == 100:
            loop.stop()
        else:
            turn.set()

    turn = threading.Event()

    def call_from_elsewhere() -> None:
        for _ in range(100):
            assert turn.wait(30)
            turn.clear()
            loop.call_threadsafe(call_back)

    thread = threading.Thread(target=call_from_elsewhere)
    thread.start()
    at_a_fast_pace(loop, turn.set)
    loop.run()
    thread.join()
    assert called == 100


@pytest.mark.parametrize("backend", available_backends())
def test_virtual_time_does_not_pass_meanwhile(backend: str) -> None:
    """A virtual clock has no hurry: it is never asked to look twice."""
    clock = VirtualClock()
    with Uloop(backend, clock=clock) as loop:
        assert loop._turns._longest_nap == 0
        before = loop.time()
        after_turns(loop, 2 * MANY_NAPS, lambda: loop.call_later(1, loop.stop))
        loop.run()
        assert loop.time() == before + 1


@pytest.mark.skipif("epoll" not in available_backends(), reason="only epoll is surely faster than a nap")
def test_a_fast_pace_is_noticed() -> None:
    """By the real clock, on a machine that may have other things to do now and then."""
    with Uloop("epoll") as loop:
        loop.call_later(30, pytest.fail, "the loop has slept for 30 seconds")
        waits = record_waits(loop)

        def look() -> None:
            if waits[0] == 0:
                loop.stop()
            else:
                begin()

        def rest() -> None:
            waits.clear()
            loop.call_later(0.06, look)

        def begin() -> None:
            after_turns(loop, 4 * MANY_NAPS, rest)

        begin()
        loop.run()
