"""A wait in which nothing is reported must cost next to no processor time.

What a loop hides from its caller (a closed descriptor, a oneshot that has fired) may still be
ready to the system call underneath, which then returns again and again.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from uloop_events import EPOLLERR, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
WAIT = 0.05  # seconds; a loop that spins uses them all, one that waits well below a thousandth


@pytest.fixture
def waits_idly(loop: EpollLike, stack: ExitStack) -> Iterator[None]:
    """When the test is over, but nothing closed yet, the loop must wait in vain and not spin.

    ``stack`` is asked for so that it outlives this fixture.
    """
    yield
    loop.poll(0)  # in which closed descriptors may be found
    start = time.thread_time()
    assert loop.poll(WAIT) == []
    assert time.thread_time() - start < WAIT / 2, "seconds of processor time"


pytestmark = pytest.mark.usefixtures("waits_idly")


def test_nothing_is_registered(loop: EpollLike) -> None:
    assert loop.poll(0) == []


def test_nothing_is_ready(loop: EpollLike, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)


def test_nothing_is_asked_for(loop: EpollLike, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLERR)
    theirs.send(b"x")


def test_a_oneshot_has_fired(loop: EpollLike, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    theirs.close()


def test_a_descriptor_was_unregistered(loop: EpollLike, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    loop.unregister(ours)


@pytest.mark.parametrize("mask", [EPOLLIN, EPOLLOUT, 0])
def test_a_descriptor_was_closed(loop: EpollLike, socket_pair: MakePair, mask: int) -> None:
    ours, _ = socket_pair()
    other, _ = socket_pair()
    loop.register(ours, mask)
    loop.register(other, EPOLLIN)
    ours.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell which socket a number stands for")
def test_a_number_was_reused(loop: EpollLike, socket_pair: MakePair, stack: ExitStack) -> None:
    ours, other = socket_pair()
    loop.register(ours, EPOLLOUT)
    number = ours.detach()
    stack.callback(os.close, number)
    os.dup2(other.fileno(), number, inheritable=False)


def test_urgent_data_was_not_asked_for(loop: EpollLike, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    loop.register(ours, EPOLLIN)
    theirs.send(b"!", socket.MSG_OOB)
