"""maxevents: when more is ready than may be returned, everybody has a turn."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike, SelectLoop

SocketPair = tuple[socket.socket, socket.socket]
MOST = 1023  # what -1 stands for


@pytest.fixture
def ready(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], until_readable: Callable[[socket.socket], None]
) -> list[int]:
    """The numbers of five descriptors with data, in the order in which they were registered."""
    numbers = []
    for ours, theirs in [socket_pair() for _ in range(5)]:
        theirs.send(b"x")
        until_readable(ours)  # epoll goes by the order of arrival
        loop.register(ours, EPOLLIN)
        numbers.append(ours.fileno())
    return numbers


def test_the_turn_goes_round(loop: EpollLike, ready: list[int]) -> None:
    if isinstance(loop, SelectLoop):
        pytest.skip("select knows no order of registration")
    turns = ["".join(str(ready.index(number)) for number, _ in loop.poll(0, 2)) for _ in range(10)]
    assert turns == ["01", "23", "40", "12", "34"] * 2


@pytest.mark.parametrize(("maxevents", "polls"), [(1, 5), (2, 3), (3, 2), (4, 2)])
def test_everybody_is_reported_within_one_round(
    loop: EpollLike, ready: list[int], maxevents: int, polls: int
) -> None:
    for _ in range(5):
        events = [loop.poll(0, maxevents) for _ in range(polls)]
        assert [len(each) for each in events] == [maxevents] * polls
        assert {number for each in events for number, _ in each} == set(ready)


@pytest.mark.parametrize("maxevents", [1, 2, 3, 4])
def test_everybody_is_reported_equally_often(loop: EpollLike, ready: list[int], maxevents: int) -> None:
    reports = Counter(number for _ in ready for number, _ in loop.poll(0, maxevents))
    assert reports == dict.fromkeys(ready, maxevents)


def test_nobody_is_reported_twice_in_one_poll(loop: EpollLike, ready: list[int]) -> None:
    for maxevents in (-1, 5, 6, 100):
        assert sorted(loop.poll(0, maxevents)) == sorted((number, EPOLLIN) for number in ready)


def test_those_left_out_come_first_when_the_next_poll_has_room(loop: EpollLike, ready: list[int]) -> None:
    first = {number for number, _ in loop.poll(0, 3)}
    second = [number for number, _ in loop.poll(0, 4)]
    assert set(second[:2]) == set(ready) - first


def test_a_newcomer_is_reported_within_one_round(
    loop: EpollLike, ready: list[int], socket_pair: Callable[[], SocketPair]
) -> None:
    for _ in range(7):
        loop.poll(0, 2)
    newcomer, _ = socket_pair()
    loop.register(newcomer, EPOLLOUT)
    assert newcomer.fileno() in {number for _ in range(3) for number, _ in loop.poll(0, 2)}


@pytest.mark.skipif(sys.platform == "win32", reason="select on Windows holds 512 sockets")
def test_at_most_1023_at_once(
    loop: EpollLike,
    socket_pair: Callable[[], SocketPair],
    room_for_descriptors: Callable[[int], None],
) -> None:
    if isinstance(loop, SelectLoop):
        pytest.skip("select holds no descriptor above 1023")
    room_for_descriptors(1200)
    ours, _ = socket_pair()
    duplicates = [os.dup(ours.fileno()) for _ in range(MOST + 7)]
    try:
        for each in duplicates:
            loop.register(each, EPOLLOUT)
        first = {number for number, _ in loop.poll(0)}
        second = [number for number, _ in loop.poll(0, -1)]
        assert (len(first), len(second)) == (MOST, MOST)
        assert set(second[:7]) == set(duplicates) - first, "those left out come first"
        assert len(loop.poll(0, 2000)) == len(duplicates)
    finally:
        for each in duplicates:
            os.close(each)
