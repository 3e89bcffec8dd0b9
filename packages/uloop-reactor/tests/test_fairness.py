"""Nobody starves: a turn runs what is there when it begins, and then it is I/O's turn again."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from uloop_reactor import UEvent, Uloop

Again = Callable[[Uloop, Callable[[], object]], object]

CHAINS: dict[str, Again] = {
    "call_soon": lambda loop, callback: loop.call_soon(callback),
    "call_threadsafe": lambda loop, callback: loop.call_threadsafe(callback),
    "call_later": lambda loop, callback: loop.call_later(0, callback),
    "call_at, long ago": lambda loop, callback: loop.call_at(0, callback),
}


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@dataclass
class Chain:
    """A callback that asks to be called again, 1000 times; something happens on the way."""

    loop: Uloop
    again: Again
    event: Callable[[], object]
    length: int = 0

    def step(self) -> None:
        self.length += 1
        if self.length == 10:
            self.event()
        if self.length < 1000:
            self.again(self.loop, self.step)
        else:
            self.loop.stop()


@pytest.mark.parametrize("again", CHAINS.values(), ids=CHAINS)
def test_callbacks_do_not_starve_descriptors(
    again: Again, loop: Uloop, make_pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    ours, theirs = make_pair()
    served: list[int] = []

    def send() -> None:
        theirs.send(b"x")
        assert select.select([ours], [], [], 30)[0]

    def receive(fileno: int, event: UEvent) -> None:
        ours.recv(100)
        served.append(chain.length)

    loop.add(ours, UEvent.poll_in, Handler(receive))
    chain = Chain(loop, again, send)
    again(loop, chain.step)
    loop.run()
    assert chain.length == 1000
    assert served == [10]  # in the very next turn


@pytest.mark.parametrize("again", CHAINS.values(), ids=CHAINS)
def test_callbacks_do_not_starve_each_other(again: Again, loop: Uloop) -> None:
    served: list[int] = []
    chain = Chain(loop, again, lambda: None)
    again(loop, chain.step)
    for call in CHAINS.values():
        call(loop, lambda: served.append(chain.length))
    loop.run()
    assert chain.length == 1000
    assert max(served) <= 1  # in the first turn
    assert len(served) == len(CHAINS)


@pytest.mark.parametrize("again", CHAINS.values(), ids=CHAINS)
def test_descriptors_do_not_starve_callbacks(
    again: Again, loop: Uloop, make_pair: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    calls: Counter[int] = Counter()
    handler = Handler(lambda fileno, event: calls.update([fileno]))
    for _ in range(5):  # there is always room to write
        ours, _ = make_pair()
        loop.add(ours, UEvent.poll_out, handler)
    chain = Chain(loop, again, lambda: None)
    again(loop, chain.step)
    loop.run()
    assert list(calls.values()) == [1000] * 5  # everybody once in every turn
