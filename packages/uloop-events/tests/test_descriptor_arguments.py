"""What register, modify and unregister take as a descriptor: the same calls on every loop."""

from __future__ import annotations

import socket
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from uloop_events import EPOLLIN, EpollLike

SocketPair = tuple[socket.socket, socket.socket]
METHODS: list[tuple[str, tuple[int, ...]]] = [("register", (1,)), ("modify", (1,)), ("unregister", ())]


class Index:
    """An integer to ``operator.index``, and to nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Fileno:
    """Something with ``fileno()``, which may answer anything."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def fileno(self) -> Any:
        return self.answer


class BrokenFileno:
    def fileno(self) -> int:
        raise LookupError("no number here")


class FilenoThatIsNoMethod:
    fileno = 3


class Number(int):
    """An int that is not exactly an int."""


def closed_socket() -> socket.socket:
    with socket.socket() as was_open:
        return was_open


def closed_file() -> Any:
    with tempfile.TemporaryFile() as was_open:
        return was_open


BAD_DESCRIPTORS = [
    pytest.param(lambda: None, TypeError, id="None"),
    pytest.param(lambda: "3", TypeError, id="str"),
    pytest.param(lambda: 3.0, TypeError, id="float"),
    pytest.param(lambda: [3], TypeError, id="list"),
    pytest.param(lambda: Index(3), TypeError, id="only __index__"),
    pytest.param(lambda: FilenoThatIsNoMethod(), TypeError, id="fileno that is no method"),
    pytest.param(lambda: Fileno(None), TypeError, id="fileno() is None"),
    pytest.param(lambda: Fileno("3"), TypeError, id="fileno() is a str"),
    pytest.param(lambda: Fileno(3.0), TypeError, id="fileno() is a float"),
    pytest.param(lambda: Fileno(Index(3)), TypeError, id="fileno() is only __index__"),
    pytest.param(BrokenFileno, LookupError, id="fileno() raises"),
    pytest.param(lambda: -1, ValueError, id="-1"),
    pytest.param(lambda: -(2**31), ValueError, id="-2**31"),
    pytest.param(lambda: Fileno(-1), ValueError, id="fileno() is -1"),
    pytest.param(closed_socket, ValueError, id="closed socket"),
    pytest.param(closed_file, ValueError, id="closed file"),
    pytest.param(lambda: 2**31, OverflowError, id="2**31"),
    pytest.param(lambda: 2**70, OverflowError, id="2**70"),
    pytest.param(lambda: -(2**31) - 1, OverflowError, id="-2**31 - 1"),
    pytest.param(lambda: -(2**70), OverflowError, id="-2**70"),
    pytest.param(lambda: Fileno(2**31), OverflowError, id="fileno() is 2**31"),
]


@pytest.mark.parametrize(("method", "mask"), METHODS)
@pytest.mark.parametrize(("make_descriptor", "error"), BAD_DESCRIPTORS)
def test_bad_descriptors(
    loop: EpollLike,
    method: str,
    mask: tuple[int, ...],
    make_descriptor: Callable[[], Any],
    error: type[Exception],
) -> None:
    with pytest.raises(error) as caught:
        getattr(loop, method)(make_descriptor(), *mask)
    assert caught.type is error


@pytest.mark.parametrize(
    "dress_up",
    [
        pytest.param(lambda sock: sock, id="socket"),
        pytest.param(lambda sock: sock.fileno(), id="int"),
        pytest.param(lambda sock: Number(sock.fileno()), id="subclass of int"),
        pytest.param(lambda sock: Fileno(sock.fileno()), id="fileno()"),
        pytest.param(lambda sock: Fileno(Number(sock.fileno())), id="fileno() is a subclass of int"),
    ],
)
def test_good_descriptors_are_reported_as_plain_numbers(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], dress_up: Callable[[socket.socket], Any]
) -> None:
    ours, theirs = socket_pair()
    loop.register(dress_up(ours), 0)
    loop.modify(dress_up(ours), EPOLLIN)
    theirs.send(b"x")
    events = loop.poll(5)
    assert events == [(ours.fileno(), EPOLLIN)]
    assert type(events[0][0]) is int
    loop.unregister(dress_up(ours))
    assert loop.poll(0) == []


@pytest.mark.parametrize(("method", "mask"), METHODS)
@pytest.mark.parametrize("flag", [False, True])
def test_a_bool_is_the_number_it_stands_for(
    loop: EpollLike, method: str, mask: tuple[int, ...], flag: bool
) -> None:
    call = getattr(loop, method)

    def outcome(number: int) -> type[Exception] | None:
        try:
            call(number, *mask)
        except OSError as error:  # standard input and output may be anything here, or closed
            return type(error)
        if method == "register":
            loop.unregister(int(number))
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # epoll's, from Python 3.13 on
        with_bool = outcome(flag)
    assert with_bool is outcome(int(flag))
