"""What the servers of all contestants share, and no framework has a part in.

A server is started as ``python with_FRAMEWORK.py VARIANT SCENARIO [ARGUMENT…]``. When it is
ready it says ``ready PORT`` on standard output and waits for a line on standard input, so that
what it logs and spends from then on can be told apart. What it logs goes to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

#: callbacks that schedule themselves again and again
CALLBACKS = 10_000
#: where stop and close are called from
PLACES = ("handler", "callback", "timer", "signal", "thread", "twice", "before")


class BugError(Exception):
    """What a handler that always raises raises."""


def serve(scenarios: Mapping[str, Callable[..., None]]) -> None:
    """Run the scenario that the command line names."""
    logging.basicConfig()
    scenarios[sys.argv[2]](*sys.argv[3:])


def say(*words: object) -> None:
    print(*words, flush=True)


def ready(port: int = 0) -> None:
    say("ready", port)
    sys.stdin.readline()


def readable_socket() -> tuple[socket.socket, socket.socket]:
    """A socket with a byte to read, and its peer, which must be kept or there is an end to read, too."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(b"x")
    return ours, theirs


def answer(data: bytes) -> bytes | None:
    """What the server that forks answers: who it is. The child goes back to the loop without a word."""
    if data == b"fork":
        return b"done" if os.fork() else None
    return b"%d" % os.getpid()


def tick(work: float) -> None:
    """Tell when this was called, on both clocks, and take some time."""
    say(time.monotonic(), time.time())
    end = time.monotonic() + work
    while time.monotonic() < end:
        pass


def raise_signal_soon() -> None:
    """Send SIGUSR1 to this process once its loop sleeps."""
    in_thread_soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))


def in_thread_soon(call: Callable[[], object]) -> None:
    threading.Timer(0.2, call).start()


class Reuse:
    """Two sockets, readable in one batch. Whoever is called first closes the other one behind the
    loop's back, and a new file gets its number.
    """

    def __init__(self) -> None:
        pairs = [readable_socket(), readable_socket()]
        self.peers = [theirs for _, theirs in pairs]
        self.numbers = [ours.detach() for ours, _ in pairs]
        self.reused = -1
        self.stale = 0  # calls for what the old file had
        self.heard = 0  # calls for what the new file has
        self.refused = ""

    def old_owner_called(self, number: int) -> bool:
        """Read; replace the other file if that has not happened.

        Returns:
            Whether there is a new file, for a new owner to watch.
        """
        if number == self.reused:
            self.stale += 1
            return False
        try:
            os.read(number, 1)
        except BlockingIOError:
            return False
        if self.reused >= 0:
            return False
        self.reused = self.numbers[self.numbers[0] == number]
        new, peer = socket.socketpair()
        new.setblocking(False)
        os.dup2(new.fileno(), self.reused)
        new.close()
        self.peers.append(peer)
        return True

    def new_owner_called(self) -> None:
        try:
            os.read(self.reused, 1)
            self.heard += 1
        except BlockingIOError:
            self.stale += 1

    def send_to_new_owner(self) -> None:
        self.peers[-1].send(b"x")

    def tell(self) -> None:
        say(json.dumps({"stale": self.stale, "heard": self.heard, "refused": self.refused}))
