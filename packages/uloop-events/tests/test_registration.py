"""register, modify and unregister: what is known, what is not, and what is not open."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike

SocketPair = tuple[socket.socket, socket.socket]


def test_registering_twice_is_file_exists_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    with pytest.raises(FileExistsError) as caught:
        loop.register(ours.fileno(), EPOLLIN)
    assert caught.value.errno == errno.EEXIST
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)], "the first mask must have stayed"


def test_modifying_what_is_not_registered_is_file_not_found_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    with pytest.raises(FileNotFoundError) as caught:
        loop.modify(ours, EPOLLOUT)
    assert caught.value.errno == errno.ENOENT
    assert loop.poll(0) == []


def test_unregistering_what_is_not_registered_is_file_not_found_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    with pytest.raises(FileNotFoundError) as caught:
        loop.unregister(ours)
    assert caught.value.errno == errno.ENOENT


def test_unregistering_twice_is_file_not_found_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    loop.unregister(ours)
    with pytest.raises(FileNotFoundError):
        loop.unregister(ours)
    with pytest.raises(FileNotFoundError):
        loop.modify(ours, EPOLLOUT)


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, number: loop.register(number, EPOLLIN),
        lambda loop, number: loop.modify(number, EPOLLIN),
        lambda loop, number: loop.unregister(number),
    ],
    ids=["register", "modify", "unregister"],
)
def test_a_number_that_is_not_open_is_ebadf(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], call: Callable[[EpollLike, int], object]
) -> None:
    ours, _ = socket_pair()
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError, match=r".") as caught:
        call(loop, number)
    assert caught.value.errno == errno.EBADF


def test_an_unregistered_descriptor_is_not_reported(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN | EPOLLOUT)
    loop.unregister(ours)
    theirs.close()
    assert loop.poll(0) == []


def test_a_descriptor_can_be_registered_again(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    theirs.send(b"x")
    for _ in range(3):
        loop.register(ours, EPOLLOUT)
        assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
        loop.modify(ours, EPOLLIN)
        assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
        loop.unregister(ours)
        assert loop.poll(0) == []


def test_a_duplicate_of_a_descriptor_is_registered_for_itself(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    with ours.dup() as duplicate:
        loop.register(ours, EPOLLOUT)
        loop.register(duplicate, EPOLLOUT)
        assert sorted(loop.poll(0)) == sorted([(ours.fileno(), EPOLLOUT), (duplicate.fileno(), EPOLLOUT)])
        loop.unregister(duplicate)
        assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]


def test_one_descriptor_may_be_in_several_loops(
    loop: EpollLike, user_space_loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLOUT)
    user_space_loop.register(ours, EPOLLIN)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    assert user_space_loop.poll(0) == []
