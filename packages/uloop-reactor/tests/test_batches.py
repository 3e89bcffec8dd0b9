"""One batch of events: what a handler does to a descriptor counts at once for the others.

Both descriptors of these tests are ready when the turn begins, and each handler does the
same to the other one. So whichever is called first, the second must hear nothing of it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop

Deed = Callable[[Uloop, socket.socket], object]

no_dup2 = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows gives a socket's number away as it likes, not on request"
)


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


@dataclass
class Rivals:
    """Two descriptors that are ready; the first to be called does something to the other."""

    loop: Uloop
    sockets: list[socket.socket]
    deed: Deed
    calls: list[tuple[int, UEvent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = [sock.fileno() for sock in self.sockets]
        for number in self.numbers:
            self.loop.add(number, UEvent.poll_in, self)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.calls.append((fileno, event))
        if len(self.calls) == 1:
            self.deed(self.loop, self.sockets[1 - self.numbers.index(fileno)])


@pytest.fixture
def sockets(make_readable: Callable[[], socket.socket]) -> list[socket.socket]:
    return [make_readable(), make_readable()]


def remove_and_close(loop: Uloop, sock: socket.socket) -> None:
    loop.remove(sock)
    sock.close()


def remove_and_add(loop: Uloop, sock: socket.socket) -> None:
    loop.remove(sock)
    loop.add(sock, UEvent.poll_none, Recorder())


DEEDS: dict[str, Deed] = {
    "remove": lambda loop, sock: loop.remove(sock),
    "remove and close": remove_and_close,
    "remove and add": remove_and_add,
    "silence": lambda loop, sock: loop.modify(sock, UEvent.poll_none),
    "ask for something else": lambda loop, sock: loop.modify(sock, UEvent.poll_pri),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_only_the_first_hears_of_it(deed: Deed, loop: Uloop, sockets: list[socket.socket]) -> None:
    rivals = Rivals(loop, sockets, deed)
    loop.run_once(30)
    assert len(rivals.calls) == 1
    loop.run_once(30)  # the first one's data is still there
    assert rivals.calls == [rivals.calls[0]] * 2


def test_a_modified_one_is_told_only_what_it_asks_for_now(loop: Uloop, sockets: list[socket.socket]) -> None:
    rivals = Rivals(loop, sockets, lambda loop, sock: loop.modify(sock, UEvent.poll_out))
    loop.run_once(30)
    first, _ = rivals.calls[0]
    second = sum(rivals.numbers) - first
    assert rivals.calls == [(first, UEvent.poll_in)]
    loop.run_once(30)
    assert set(rivals.calls[1:]) == {(first, UEvent.poll_in), (second, UEvent.poll_out)}


def test_what_still_holds_is_still_told(loop: Uloop, sockets: list[socket.socket]) -> None:
    both = UEvent.poll_in | UEvent.poll_out
    rivals = Rivals(loop, sockets, lambda loop, sock: loop.modify(sock, both))
    loop.run_once(30)
    assert [event for _, event in rivals.calls] == [UEvent.poll_in, UEvent.poll_in]


@no_dup2
@pytest.mark.parametrize("removed", [True, False], ids=["removed before", "not removed"])
@pytest.mark.parametrize("ready", [True, False], ids=["ready", "quiet"])
def test_a_number_that_was_given_away_starts_anew(
    removed: bool,
    ready: bool,
    loop: Uloop,
    sockets: list[socket.socket],
    make_pair: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    newcomer, peer = make_pair()
    if ready:
        peer.send(b"x")
    recorder = Recorder()

    def give_its_number_away(loop: Uloop, sock: socket.socket) -> None:
        if removed:
            loop.remove(sock)
        os.dup2(newcomer.fileno(), sock.fileno())
        loop.add(sock.fileno(), UEvent.poll_in, recorder)

    rivals = Rivals(loop, sockets, give_its_number_away)
    loop.run_once(30)
    assert len(rivals.calls) == 1
    assert recorder.events == []  # that event was for the one before
    loop.run_once(30)
    assert recorder.events == ([UEvent.poll_in] if ready else [])
    assert rivals.calls == [rivals.calls[0]] * 2


def test_a_handler_may_remove_itself(loop: Uloop, sockets: list[socket.socket]) -> None:
    calls: list[int] = []

    def remove_itself(fileno: int, event: UEvent) -> None:
        calls.append(fileno)
        loop.remove(fileno)

    for sock in sockets:
        loop.add(sock, UEvent.poll_in, Handler(remove_itself))
    for _ in range(3):
        loop.run_once(0)
    assert sorted(calls) == sorted(sock.fileno() for sock in sockets)


def test_a_handler_may_put_another_in_its_place(loop: Uloop, sockets: list[socket.socket]) -> None:
    sock, successor = sockets[0], Recorder()

    def step_back(fileno: int, event: UEvent) -> None:
        loop.remove(fileno)
        loop.add(fileno, UEvent.poll_in, successor)

    loop.add(sock, UEvent.poll_in, Handler(step_back))
    loop.run_once(30)
    assert successor.events == []
    loop.run_once(30)
    assert successor.events == [UEvent.poll_in]


def test_what_a_handler_adds_is_served_from_the_next_turn_on(
    loop: Uloop, sockets: list[socket.socket]
) -> None:
    first, second = sockets
    recorder = Recorder()

    def add_another(fileno: int, event: UEvent) -> None:
        first.recv(100)
        loop.add(second, UEvent.poll_in, recorder)

    loop.add(first, UEvent.poll_in, Handler(add_another))
    loop.run_once(30)
    assert recorder.events == []
    loop.run_once(30)
    assert recorder.events == [UEvent.poll_in]
