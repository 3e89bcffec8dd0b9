"""poll_oneshot: one report, then silence until the next modify."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]


@pytest.fixture
def fired(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> SocketPair:
    """A socket with data that was reported, once, and its peer."""
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLONESHOT)
    assert loop.poll(0) == []  # nothing to report does not count
    theirs.send(b"x")
    assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
    return ours, theirs


def test_it_is_reported_once(loop: EpollLike, fired: SocketPair) -> None:
    for _ in range(3):
        assert loop.poll(0) == []


def test_it_does_not_shorten_a_wait(
    loop: EpollLike, fired: SocketPair, never_earlier_than: Callable[[float], AbstractContextManager[None]]
) -> None:
    with never_earlier_than(0.05):
        assert loop.poll(0.05) == []


def test_both_directions_fall_silent(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    theirs.send(b"x")
    assert loop.poll(0) == []


def test_not_even_a_closed_peer_is_reported(
    loop: EpollLike, fired: SocketPair, until_readable: Callable[[socket.socket], None]
) -> None:
    ours, theirs = fired
    ours.recv(1)
    theirs.close()
    until_readable(ours)
    assert loop.poll(0) == []


def test_it_is_registered_still(loop: EpollLike, fired: SocketPair) -> None:
    ours, _ = fired
    with pytest.raises(FileExistsError):
        loop.register(ours, EPOLLIN)
    assert loop.poll(0) == []
    loop.unregister(ours)
    with pytest.raises(FileNotFoundError):
        loop.unregister(ours)


def test_modify_arms_it_again(loop: EpollLike, fired: SocketPair) -> None:
    ours, _ = fired
    for _ in range(3):
        loop.modify(ours, EPOLLIN | EPOLLONESHOT)
        assert loop.poll(0) == [(ours.fileno(), EPOLLIN)]
        assert loop.poll(0) == []


def test_modify_may_make_it_permanent(loop: EpollLike, fired: SocketPair) -> None:
    ours, _ = fired
    loop.modify(ours, EPOLLIN)
    for _ in range(3):
        assert loop.poll(0) == [(ours.fileno(), EPOLLIN)]


def test_modify_before_it_has_fired(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLONESHOT)
    loop.modify(ours, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    assert loop.poll(0) == []


def test_unregister_and_register_arm_it_again(loop: EpollLike, fired: SocketPair) -> None:
    ours, _ = fired
    loop.unregister(ours)
    loop.register(ours, EPOLLIN | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLIN)]
    assert loop.poll(0) == []


def test_what_maxevents_left_out_has_not_fired(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    watched = [socket_pair()[0] for _ in range(3)]
    for each in watched:
        loop.register(each, EPOLLOUT | EPOLLONESHOT)
    reported = [loop.poll(0, 1) for _ in range(4)]
    assert [len(events) for events in reported] == [1, 1, 1, 0]
    assert {number for events in reported for number, _ in events} == {each.fileno() for each in watched}


def test_the_bit_itself_is_not_reported(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
