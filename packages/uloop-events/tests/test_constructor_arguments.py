"""What the constructors take: the same calls on every loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from uloop_events import EPOLL_CLOEXEC, EpollLike

LoopType = Callable[..., EpollLike]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sizehint": 0}, ValueError),
        ({"sizehint": -2}, ValueError),
        ({"sizehint": 1.5}, TypeError),
        ({"sizehint": None}, TypeError),
        ({"sizehint": "1"}, TypeError),
        ({"sizehint": 2**31}, OverflowError),
        ({"flags": 5}, OSError),
        ({"flags": -1}, OSError),
        ({"flags": EPOLL_CLOEXEC | 1}, OSError),
        ({"flags": 1.5}, TypeError),
        ({"flags": None}, TypeError),
        ({"flags": 2**31}, OverflowError),
        ({"sizehint": 0, "flags": 5}, ValueError),
        ({"size": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments(loop_type: LoopType, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        loop_type(**arguments)
    assert caught.type is error


@pytest.mark.parametrize(
    "arguments",
    [(), (-1,), (1,), (2**31 - 1,), (True,), (-1, 0), (-1, EPOLL_CLOEXEC), (10, EPOLL_CLOEXEC)],
    ids=str,
)
def test_good_arguments(loop_type: LoopType, arguments: tuple[int, ...]) -> None:
    with loop_type(*arguments) as loop:
        assert loop.poll(0) == []


def test_arguments_by_name(loop_type: LoopType) -> None:
    with loop_type(sizehint=1, flags=EPOLL_CLOEXEC) as loop:
        assert loop.poll(0) == []


def test_a_third_argument_is_a_type_error(loop_type: LoopType) -> None:
    with pytest.raises(TypeError):
        loop_type(-1, 0, 0)
