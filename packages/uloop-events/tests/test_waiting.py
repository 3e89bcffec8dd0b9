"""poll: what it returns, and how long it waits at least."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EPOLLRDHUP, EpollLike

SocketPair = tuple[socket.socket, socket.socket]
NeverEarlierThan = Callable[[float], AbstractContextManager[None]]


def test_everything_about_one_descriptor_is_in_one_pair_of_plain_integers(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], until_readable: Callable[[socket.socket], None]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLOUT)
    theirs.send(b"x")
    until_readable(ours)
    events = loop.poll(0)
    assert events == [(ours.fileno(), EPOLLIN | EPOLLOUT)]
    assert type(events) is list
    assert type(events[0]) is tuple
    assert [type(number) for number in events[0]] == [int, int]


def test_nothing_ready_is_an_empty_list(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    assert loop.poll(0) == []
    assert type(loop.poll(0)) is list


def test_a_level_is_reported_for_as_long_as_it_lasts(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    theirs.send(b"xy")
    for _ in range(3):
        assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
    ours.recv(1)
    assert loop.poll(0) == [(ours.fileno(), EPOLLIN)]
    ours.recv(1)
    assert loop.poll(0) == []


def test_only_what_is_ready_is_returned(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    pairs = [socket_pair() for _ in range(5)]
    for ours, _ in pairs:
        loop.register(ours, EPOLLIN)
    ours, theirs = pairs[3]
    theirs.send(b"x")
    assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]


@pytest.mark.parametrize(
    ("timeout", "at_least"), [(0.05, 0.05), (0.0101, 0.011), (1e-9, 0.001), (1e-10, 0.001)]
)
def test_the_timeout_is_in_seconds_and_rounded_up_to_milliseconds(
    loop: EpollLike,
    socket_pair: Callable[[], SocketPair],
    never_earlier_than: NeverEarlierThan,
    timeout: float,
    at_least: float,
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    with never_earlier_than(at_least):
        assert loop.poll(timeout) == []


def test_an_empty_loop_waits_as_well(loop: EpollLike, never_earlier_than: NeverEarlierThan) -> None:
    with never_earlier_than(0.05):
        assert loop.poll(0.05) == []


def test_a_loop_that_is_asked_for_nothing_waits_as_well(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], never_earlier_than: NeverEarlierThan
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, 0)
    with never_earlier_than(0.05):
        assert loop.poll(0.05) == []


def test_data_ends_the_wait_of_another_thread(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    events: list[tuple[int, int]] = []
    waiter = threading.Thread(target=lambda: events.extend(loop.poll()))
    waiter.start()
    theirs.send(b"x")
    waiter.join()
    assert events == [(ours.fileno(), EPOLLIN)]


@pytest.mark.parametrize("timeout", [None, -1, -0.5, -0.001, -0.0009999999999, 60])
def test_data_that_comes_later_ends_the_wait(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], timeout: float | None
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    sender = threading.Timer(0.05, theirs.send, [b"x"])
    sender.start()
    try:
        assert loop.poll(timeout) == [(ours.fileno(), EPOLLIN)]
    finally:
        sender.join()


@pytest.mark.parametrize("timeout", [None, 20])
def test_an_end_that_comes_during_the_wait_is_seen_behind_data_that_nobody_asked_for(
    loop: EpollLike,
    tcp_pair: Callable[[], SocketPair],
    until_readable: Callable[[socket.socket], None],
    timeout: float | None,
) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems do not tell of an end while data waits")
    ours, theirs = tcp_pair()
    theirs.send(b"x")
    until_readable(ours)
    loop.register(ours, EPOLLRDHUP)
    assert loop.poll(0) == []
    closer = threading.Timer(0.05, theirs.shutdown, [socket.SHUT_WR])
    closer.start()
    try:
        assert loop.poll(timeout) == [(ours.fileno(), EPOLLRDHUP)]
    finally:
        closer.join()
