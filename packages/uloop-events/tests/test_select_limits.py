"""select(2) on Unix holds descriptors below 1024; epoll and poll(2) hold any."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from uloop_events import EPOLLOUT, EpollLike, SelectLoop

if sys.platform == "win32":
    pytest.skip(
        "select on Windows limits how many sockets there are, not their numbers", allow_module_level=True
    )

import fcntl
import os

SocketPair = tuple[socket.socket, socket.socket]
FD_SETSIZE = 1024


@pytest.fixture
def at_number(
    room_for_descriptors: Callable[[int], None], socket_pair: Callable[[], SocketPair]
) -> Iterator[Callable[[int], int]]:
    """Opens a writable socket whose number is the one asked for, or the next that is free."""
    room_for_descriptors(FD_SETSIZE + 10)
    opened: list[int] = []

    def open_at(number: int) -> int:
        opened.append(fcntl.fcntl(socket_pair()[0], fcntl.F_DUPFD_CLOEXEC, number))
        return opened[-1]

    yield open_at
    for descriptor in opened:
        os.close(descriptor)


def test_the_first_number_too_large_is_refused_with_the_limit(at_number: Callable[[int], int]) -> None:
    number = at_number(FD_SETSIZE)
    with SelectLoop() as loop:
        with pytest.raises(ValueError, match=rf"\b{number}\b.*\b{FD_SETSIZE}\b"):
            loop.register(number, EPOLLOUT)
        with pytest.raises(FileNotFoundError):
            loop.unregister(number)
        assert loop.poll(0) == []


def test_a_number_is_refused_whatever_the_mask(at_number: Callable[[int], int]) -> None:
    number = at_number(FD_SETSIZE)
    with SelectLoop() as loop, pytest.raises(ValueError, match="does not fit"):
        loop.register(number, 0)  # the mask could be modified later, and that must not fail


def test_the_last_number_that_fits(loop: EpollLike, at_number: Callable[[int], int]) -> None:
    number = at_number(FD_SETSIZE - 1)
    if number != FD_SETSIZE - 1:
        pytest.skip(f"number {FD_SETSIZE - 1} is in use")
    loop.register(number, EPOLLOUT)
    assert loop.poll(0) == [(number, EPOLLOUT)]


def test_the_other_loops_take_larger_numbers(loop: EpollLike, at_number: Callable[[int], int]) -> None:
    if isinstance(loop, SelectLoop):
        pytest.skip("select takes numbers below 1024")
    number = at_number(FD_SETSIZE)
    loop.register(number, EPOLLOUT)
    assert loop.poll(0) == [(number, EPOLLOUT)]
