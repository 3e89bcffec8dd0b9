"""Which error wins when there are several, and the names of the arguments: on every loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda loop: loop.register(None, 1), TypeError),
        (lambda loop: loop.modify("x", 1), TypeError),
        (lambda loop: loop.unregister(1.5), TypeError),
        (lambda loop: loop.register(2**31, 1), OverflowError),
        (lambda loop: loop.unregister(2**31), OverflowError),
        (lambda loop: loop.register(0, None), TypeError),
        (lambda loop: loop.modify(0, 1.5), TypeError),
        (lambda loop: loop.poll(0, None), TypeError),
        (lambda loop: loop.poll(0, 2**31), OverflowError),
    ],
)
def test_a_closed_loop_looks_at_its_arguments_first(
    loop: EpollLike, call: Callable[[Any], object], error: type[Exception]
) -> None:
    loop.close()
    with pytest.raises(error) as caught:
        call(loop)
    assert caught.type is error


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.poll("x"),
        lambda loop: loop.poll([], 0),
        lambda loop: loop.poll(2**70),
        lambda loop: loop.poll(0, 0),
        lambda loop: loop.register(10**6, 1),
        lambda loop: loop.unregister(10**6),
    ],
)
def test_a_closed_loop_is_noticed_before_what_comes_later(
    loop: EpollLike, call: Callable[[Any], object]
) -> None:
    loop.close()
    with pytest.raises(ValueError, match="closed"):
        call(loop)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda loop: loop.register(-1, None), ValueError),
        (lambda loop: loop.register(2**31, None), OverflowError),
        (lambda loop: loop.poll("x", 0), TypeError),
        (lambda loop: loop.poll(2**70, 0), OverflowError),
        (lambda loop: loop.poll(float("nan"), None), TypeError),
        (lambda loop: loop.poll(2**70, None), TypeError),
        (lambda loop: loop.poll("x", 2**31), OverflowError),
    ],
)
def test_the_first_of_two_bad_arguments(
    loop: EpollLike, call: Callable[[Any], object], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        call(loop)
    assert caught.type is error


def test_arguments_by_name(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(fd=ours, eventmask=EPOLLIN)
    loop.modify(fd=ours, eventmask=EPOLLOUT)
    assert loop.poll(timeout=0, maxevents=1) == [(ours.fileno(), EPOLLOUT)]
    loop.unregister(fd=ours)
    assert loop.poll(timeout=0) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.register(),
        lambda loop: loop.register(0, 1, 2),
        lambda loop: loop.modify(0),
        lambda loop: loop.unregister(),
        lambda loop: loop.unregister(0, 1),
        lambda loop: loop.poll(0, 1, 2),
        lambda loop: loop.poll(seconds=0),
        lambda loop: loop.close(1),
    ],
)
def test_too_few_too_many_or_other_arguments(loop: EpollLike, call: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        call(loop)
