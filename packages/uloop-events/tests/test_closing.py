"""close, closed and the with statement: on every loop."""

from __future__ import annotations

import copy
import gc
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
from uloop_events import EPOLLOUT, EpollLike

LoopType = Callable[..., EpollLike]
SocketPair = tuple[socket.socket, socket.socket]


def test_closed_tells_whether_close_was_called(loop: EpollLike) -> None:
    before = loop.closed
    loop.close()
    assert (before, loop.closed) == (False, True)


def test_closed_cannot_be_set(loop: EpollLike) -> None:
    with pytest.raises(AttributeError):
        setattr(loop, "closed", True)  # noqa: B010 - a type checker would not let it pass otherwise


def test_a_loop_can_be_closed_twice(loop: EpollLike) -> None:
    loop.close()
    loop.close()
    assert loop.closed


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, sock: loop.register(sock),
        lambda loop, sock: loop.modify(sock, EPOLLOUT),
        lambda loop, sock: loop.unregister(sock),
        lambda loop, sock: loop.poll(),
        lambda loop, sock: loop.poll(0),
        lambda loop, sock: loop.__enter__(),
    ],
)
def test_everything_else_is_an_error_afterwards(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], call: Callable[[Any, socket.socket], object]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    loop.close()
    with pytest.raises(ValueError, match=r"I/O operation on closed .* object"):
        call(loop, ours)


def test_with_gives_the_loop_itself_and_closes_it(loop_type: LoopType) -> None:
    loop = loop_type()
    with loop as entered:
        assert entered is loop
        is_closed_inside = loop.closed
    assert (is_closed_inside, loop.closed) == (False, True)


def test_with_closes_the_loop_after_an_error_and_lets_it_pass(loop_type: LoopType) -> None:
    loop = loop_type()
    with pytest.raises(LookupError), loop:
        raise LookupError
    assert loop.closed


def test_with_on_a_closed_loop_is_an_error(loop: EpollLike) -> None:
    loop.close()
    with pytest.raises(ValueError, match="closed"), loop:
        pass


def test_a_loop_may_be_closed_inside_with(loop_type: LoopType) -> None:
    with loop_type() as loop:
        loop.close()
    assert loop.closed


def test_exit_needs_no_arguments(loop: EpollLike) -> None:
    loop.__exit__()
    assert loop.closed


def test_closing_a_loop_leaves_its_descriptors_open(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours)
    loop.close()
    theirs.send(b"x")
    assert ours.recv(1) == b"x"


def test_a_loop_that_nobody_refers_to_goes_in_silence(
    loop_type: LoopType, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop = loop_type()
    loop.register(ours)
    loop.poll(0)
    del loop
    gc.collect()  # that nothing is left open, and no warning was given, is checked of every test


def test_a_loop_cannot_be_copied(loop: EpollLike) -> None:
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot"):
            copier(loop)


def test_a_loop_that_could_not_be_made_leaves_nothing_open(loop_type: LoopType) -> None:
    with pytest.raises(ValueError, match=r"sizehint|greater"):
        loop_type(0)
    gc.collect()
