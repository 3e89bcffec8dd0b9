"""An event on its way from epoll to its handler, in our loop and in a bare one.

The handlers do nothing but count the turns, so what is left is the loop; and epoll_wait, which is
the more of it the fewer descriptors are ready at once.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable

from uloop_reactor import EventHandler, UEvent, Uloop

from micro.statement import Statement

if sys.platform != "linux":
    sys.exit("the loops are compared over epoll: run it on Linux")

EVENTS = 6400  # in one run of a loop, so that to start and stop it does not count
READY = (1, 64)  # descriptors at once


class Idler(EventHandler):
    """Does nothing, so its descriptor stays ready."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._far.send(b"x")

    def fileno(self) -> int:
        return self._near.fileno()

    def process_event(self, fileno: int, event: int) -> None:
        pass


class TurnCounter(Idler):
    """Calls ``stop`` after so many turns as make up all the events."""

    def __init__(self, ready: int, stop: Callable[[], object]) -> None:
        super().__init__()
        self._turns = self._left = EVENTS // ready
        self._stop = stop

    def process_event(self, fileno: int, event: int) -> None:
        self._left -= 1
        if not self._left:
            self._left = self._turns
            self._stop()


class BareLoop:
    """The least that a loop over epoll with handlers can do."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Idler] = {}
        self._stopping = False

    def add(self, handler: Idler) -> None:
        self._epoll.register(handler.fileno(), select.EPOLLIN)
        self._handlers[handler.fileno()] = handler

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        poll, handlers = self._epoll.poll, self._handlers
        self._stopping = False
        while not self._stopping:
            for fileno, event in poll():
                handlers[fileno].process_event(fileno, event)


def our_loop(ready: int) -> Uloop:
    loop = Uloop("epoll")
    for handler in (TurnCounter(ready, loop.stop), *(Idler() for _ in range(ready - 1))):
        loop.add(handler, UEvent.poll_in, handler)
    return loop


def bare_loop(ready: int) -> BareLoop:
    loop = BareLoop()
    for handler in (TurnCounter(ready, loop.stop), *(Idler() for _ in range(ready - 1))):
        loop.add(handler)
    return loop


STATEMENTS: list[Statement] = [
    statement
    for ready in READY
    for statement in (
        Statement(
            "dispatch",
            f"an event, {ready} ready, bare loop",
            "loop.run()",
            {"loop": bare_loop(ready)},
            EVENTS,
        ),
        Statement(
            "dispatch",
            f"an event, {ready} ready",
            "loop.run()",
            {"loop": our_loop(ready)},
            EVENTS,
            f"an event, {ready} ready, bare loop",
        ),
    )
]
