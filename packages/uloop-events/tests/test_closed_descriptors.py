"""Descriptors that are closed while they are registered: the loop lets them go in silence."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("mask", [EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLOUT | EPOLLONESHOT, 0])
def test_a_closed_descriptor_is_never_reported(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], mask: int
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, mask)
    theirs.send(b"x")
    ours.close()
    for _ in range(3):
        assert loop.poll(0) == []


def test_a_descriptor_that_was_reported_before_is_no_different(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    ours.close()
    for _ in range(3):
        assert loop.poll(0) == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_others_are_served_by_the_same_poll(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], position: int
) -> None:
    watched = [socket_pair()[0] for _ in range(3)]
    for each in watched:
        loop.register(each, EPOLLOUT)
    watched.pop(position).close()
    for _ in range(3):
        assert sorted(loop.poll(0)) == sorted((each.fileno(), EPOLLOUT) for each in watched)


def test_several_may_be_closed_at_once(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    *closed, last = [socket_pair()[0] for _ in range(5)]
    for each in (*closed, last):
        loop.register(each, EPOLLOUT)
    for each in closed:
        each.close()
    assert loop.poll(5) == [(last.fileno(), EPOLLOUT)]


def test_closed_descriptors_do_not_shorten_the_wait(
    loop: EpollLike,
    socket_pair: Callable[[], SocketPair],
    never_earlier_than: Callable[[float], AbstractContextManager[None]],
) -> None:
    ours, theirs = socket_pair()
    other, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    loop.register(other, EPOLLIN)
    theirs.send(b"x")
    ours.close()
    with never_earlier_than(0.05):
        assert loop.poll(0.05) == []


def test_a_closed_descriptor_takes_no_place_among_maxevents(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    closed, other = socket_pair()[0], socket_pair()[0]
    loop.register(closed, EPOLLOUT)
    loop.register(other, EPOLLOUT)
    closed.close()
    assert loop.poll(5, 1) == [(other.fileno(), EPOLLOUT)]


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, number: loop.register(number, EPOLLIN),
        lambda loop, number: loop.modify(number, EPOLLIN),
        lambda loop, number: loop.unregister(number),
    ],
    ids=["register", "modify", "unregister"],
)
@pytest.mark.parametrize("poll_first", [False, True])
def test_its_number_is_ebadf(
    loop: EpollLike,
    socket_pair: Callable[[], SocketPair],
    call: Callable[[EpollLike, int], object],
    poll_first: bool,
) -> None:
    ours, _ = socket_pair()
    number = ours.fileno()
    loop.register(ours, EPOLLIN)
    ours.close()
    if poll_first:
        assert loop.poll(0) == []
    with pytest.raises(OSError, match=r".") as caught:
        call(loop, number)
    assert caught.value.errno == errno.EBADF


def test_the_closed_object_itself_is_value_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    ours.close()
    with pytest.raises(ValueError, match="negative"):
        loop.unregister(ours)


def test_a_closed_descriptor_does_not_keep_a_loop_from_closing(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    ours.close()
    loop.close()
    assert loop.closed
