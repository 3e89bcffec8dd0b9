"""What poll takes as a timeout and as maxevents: the same calls on every loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]


class Index:
    """An integer to ``operator.index``, and to nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"Index({self.number})"


BAD_TIMEOUTS: list[tuple[object, type[Exception]]] = [
    ("1", TypeError),
    (b"1", TypeError),
    ([1], TypeError),
    (1j, TypeError),
    (Decimal("0.5"), TypeError),
    (Decimal(1), TypeError),
    (Fraction(1, 2), TypeError),
    (float("nan"), ValueError),
    (float("inf"), OverflowError),
    (float("-inf"), OverflowError),
    (1e300, OverflowError),
    (2**70, OverflowError),
    (-(2**70), OverflowError),
    (Index(2**70), OverflowError),
    (2147484, OverflowError),
    (-2147484, OverflowError),
    (2147483.6471, OverflowError),
]
BAD_MAXEVENTS: list[tuple[object, type[Exception]]] = [
    (0, ValueError),
    (False, ValueError),
    (-2, ValueError),
    (-(2**31), ValueError),
    (None, TypeError),
    (1.0, TypeError),
    ("1", TypeError),
    (2**31, OverflowError),
    (-(2**31) - 1, OverflowError),
]


@pytest.fixture
def ready(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> list[tuple[int, int]]:
    """What poll must return, as a writable socket is registered."""
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    return [(ours.fileno(), EPOLLOUT)]


@pytest.mark.parametrize(("timeout", "error"), BAD_TIMEOUTS, ids=repr)
def test_bad_timeouts(
    loop: EpollLike, ready: list[tuple[int, int]], timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        loop.poll(timeout)
    assert caught.type is error
    assert loop.poll(0) == ready


@pytest.mark.parametrize(
    "timeout",
    [None, -1, -0.5, -0.001, -0.0009, -0.0, 0, 0.0, 1e-9, 5, 0.5, True, Index(1), Index(-1), 2147483.647],
    ids=repr,
)
def test_no_timeout_keeps_back_what_is_ready(
    loop: EpollLike, ready: list[tuple[int, int]], timeout: Any
) -> None:
    assert loop.poll(timeout) == ready


@pytest.mark.timeout(20)  # a loop that takes one of these for "for ever" would hang
@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, False, Index(0), -0.0009, -1e-9], ids=repr)
def test_timeouts_that_do_not_wait(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], timeout: Any
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    assert loop.poll(timeout) == []


@pytest.mark.parametrize(("maxevents", "error"), BAD_MAXEVENTS, ids=repr)
def test_bad_maxevents(
    loop: EpollLike, ready: list[tuple[int, int]], maxevents: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        loop.poll(0, maxevents)
    assert caught.type is error
    assert loop.poll(0) == ready


@pytest.mark.parametrize("maxevents", [-1, 1, 2, 100_000, True, Index(1), Index(-1)], ids=repr)
def test_good_maxevents(loop: EpollLike, ready: list[tuple[int, int]], maxevents: Any) -> None:
    assert loop.poll(0, maxevents) == ready
