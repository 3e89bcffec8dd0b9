"""What the tests share: a loop on every backend, sockets that are closed again, a check for leaks.

On Linux a model stands in for kqueue, where the tests of uloop-events, which have it, are at hand.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

if sys.platform == "linux":
    try:
        import kqueue_model
    except ImportError:
        pass  # these tests are run without those of uloop-events
    else:
        kqueue_model.install()  # before uloop_reactor looks what there is

from uloop_reactor import Uloop
from uloop_reactor.testing import uloop, virtual_clock, virtual_uloop

__all__ = ["uloop", "virtual_clock", "virtual_uloop"]  # fixtures for all tests here

#: where a platform lists the descriptors of a process; Windows does not
DESCRIPTORS = {"linux": "/proc/self/fd", "darwin": "/dev/fd"}.get(sys.platform)


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    if DESCRIPTORS is None:
        yield
        return
    before = len(os.listdir(DESCRIPTORS))
    yield
    assert len(os.listdir(DESCRIPTORS)) == before


@pytest.fixture
def loop(uloop: Uloop) -> Uloop:
    """A loop on each backend in turn, which fails the test rather than run for ever."""
    return uloop


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Takes what is to be closed or undone after the test."""
    with ExitStack() as undo:
        yield undo


@pytest.fixture
def make_pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes pairs of connected sockets that do not block."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for sock in pair:
            sock.setblocking(False)
        made.extend(pair)
        return pair

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def make_readable(
    make_pair: Callable[[], tuple[socket.socket, socket.socket]],
) -> Callable[[], socket.socket]:
    """Makes sockets with one byte to read, which has arrived for sure."""

    def make() -> socket.socket:
        ours, theirs = make_pair()
        theirs.send(b"x")
        # On Windows a pair is a TCP connection, and what was sent arrives a little later.
        assert select.select([ours], [], [], 30)[0]
        return ours

    return make
