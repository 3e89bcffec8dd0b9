"""What register and modify take as an event mask: the same calls on every loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from uloop_events import EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT, EpollLike, UEvent

SocketPair = tuple[socket.socket, socket.socket]


class Index:
    """An integer to ``operator.index``, and to nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


@pytest.mark.parametrize("mask", [None, 1.0, "1", [1], Decimal(1)], ids=repr)
def test_a_mask_that_is_no_integer_is_a_type_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], mask: Any
) -> None:
    ours, _ = socket_pair()
    with pytest.raises(TypeError):
        loop.register(ours, mask)
    loop.register(ours, 0)  # the call that failed has left nothing behind
    with pytest.raises(TypeError):
        loop.modify(ours, mask)


SAME_AS_IN_ALONE = [
    pytest.param(UEvent.poll_in, id="UEvent"),
    pytest.param(True, id="True"),
    pytest.param(Index(1), id="only __index__"),
    pytest.param(2**32 + 1, id="2**32 + 1"),
    pytest.param(Index(2**70 + 1), id="2**70 + 1 by __index__"),
    pytest.param(-(2**32) + 1, id="-2**32 + 1"),
    pytest.param(1 | 1 << 20, id="unknown bit"),
    pytest.param(UEvent.poll_in | UEvent.poll_nval, id="NVAL, which epoll does not know"),
    pytest.param(EPOLLIN | EPOLLERR | EPOLLHUP, id="ERR and HUP, which are always reported"),
]


@pytest.mark.parametrize("mask", SAME_AS_IN_ALONE)
def test_32_bits_count_and_unknown_ones_are_ignored(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], mask: Any
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, mask)
    assert loop.poll(0) == []  # it is writable, but nobody asked
    theirs.send(b"x")
    assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
    loop.modify(ours, EPOLLOUT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    loop.modify(ours, mask)
    assert loop.poll(0) == [(ours.fileno(), EPOLLIN)]


@pytest.mark.parametrize("mask", [0, 2**32, 2**40, 1 << 20], ids=hex)
def test_a_mask_may_ask_for_nothing(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], mask: int
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, mask)
    theirs.send(b"x")
    assert loop.poll(0) == []
    with pytest.raises(FileExistsError):
        loop.register(ours, mask)


def test_register_asks_for_in_pri_and_out_when_not_told(
    loop: EpollLike, tcp_pair: Callable[[], SocketPair], until_readable: Callable[[socket.socket], None]
) -> None:
    ours, theirs = tcp_pair()
    loop.register(ours)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    theirs.send(b"x")
    until_readable(ours)
    assert loop.poll(0) == [(ours.fileno(), EPOLLIN | EPOLLOUT)]


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (UEvent.poll_et, "poll_et"),
        (EPOLLIN | EPOLLET, "poll_et"),
        (UEvent.poll_exclusive, "poll_exclusive"),
        (EPOLLIN | EPOLLEXCLUSIVE, "poll_exclusive"),
        (-1, "poll_et"),
    ],
)
def test_what_epoll_alone_can_do_is_refused_by_name(
    user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair], mask: int, name: str
) -> None:
    call = type(user_space_loop).__name__.removesuffix("Loop").lower()
    ours, _ = socket_pair()
    with pytest.raises(ValueError, match=f"{name} .* {call}"):
        user_space_loop.register(ours, mask)
    with pytest.raises(FileNotFoundError):
        user_space_loop.unregister(ours)
    assert user_space_loop.poll(0) == []

    user_space_loop.register(ours, EPOLLOUT)
    with pytest.raises(ValueError, match=f"{name} .* {call}"):
        user_space_loop.modify(ours, mask)
    assert user_space_loop.poll(0) == [(ours.fileno(), EPOLLOUT)], "the old mask must have stayed"


def test_what_was_refused_may_be_closed(
    user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    refused, other = socket_pair()
    with pytest.raises(ValueError, match="poll_et"):
        user_space_loop.register(refused, EPOLLIN | EPOLLET)
    user_space_loop.register(other, EPOLLIN | EPOLLOUT)
    refused.close()
    assert [number for number, _ in user_space_loop.poll(5)] == [other.fileno()]
