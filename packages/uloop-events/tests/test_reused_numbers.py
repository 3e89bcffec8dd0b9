"""A number that was closed and opened again is another file, and the loop knows.

What is registered is the file. Its number may be in use again before anybody notices that the
file is gone, and the new file must not be taken for the old one.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike
from uloop_events.interest import UserSpaceLoop

if sys.platform == "win32":
    pytest.skip("Windows does not tell which socket a number stands for", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
Replace = Callable[[socket.socket, socket.socket], socket.socket]


@pytest.fixture
def replace(stack: ExitStack) -> Replace:
    """Closes one socket and gives its number to another."""

    def move(old: socket.socket, new: socket.socket) -> socket.socket:
        number = old.detach()
        os.dup2(new.fileno(), number, inheritable=False)  # closes what the number stood for
        new.close()
        return stack.enter_context(socket.socket(fileno=number))

    return move


def test_an_event_of_the_new_file_is_not_reported(
    loop: EpollLike, socket_pair: MakePair, replace: Replace
) -> None:
    old, _ = socket_pair()
    new, peer = socket_pair()
    loop.register(old, EPOLLIN | EPOLLOUT)
    replace(old, new)
    peer.send(b"x")
    for _ in range(3):
        assert loop.poll(0) == []


def test_others_are_served_by_the_same_poll(loop: EpollLike, socket_pair: MakePair, replace: Replace) -> None:
    old, new, other = (socket_pair()[0] for _ in range(3))
    loop.register(old, EPOLLOUT)
    loop.register(other, EPOLLOUT)
    replace(old, new)
    assert loop.poll(0, 1) == [(other.fileno(), EPOLLOUT)]


@pytest.mark.parametrize("poll_first", [False, True])
def test_the_new_file_can_be_registered(
    loop: EpollLike, socket_pair: MakePair, replace: Replace, poll_first: bool
) -> None:
    old, new = socket_pair()[0], socket_pair()[0]
    loop.register(old, EPOLLIN)
    current = replace(old, new)
    if poll_first:
        assert loop.poll(0) == []
    loop.register(current, EPOLLOUT)
    assert loop.poll(0) == [(current.fileno(), EPOLLOUT)]
    with pytest.raises(FileExistsError):
        loop.register(current, EPOLLOUT)
    loop.unregister(current)
    assert loop.poll(0) == []


@pytest.mark.parametrize("poll_first", [False, True])
def test_the_new_file_is_not_registered_already(
    loop: EpollLike, socket_pair: MakePair, replace: Replace, poll_first: bool
) -> None:
    old, new = socket_pair()[0], socket_pair()[0]
    loop.register(old, EPOLLOUT)
    current = replace(old, new)
    if poll_first:
        assert loop.poll(0) == []
    with pytest.raises(FileNotFoundError):
        loop.modify(current, EPOLLOUT)
    with pytest.raises(FileNotFoundError):
        loop.unregister(current)
    assert loop.poll(0) == []


def test_a_oneshot_that_has_fired_is_gone_too(
    loop: EpollLike, socket_pair: MakePair, replace: Replace
) -> None:
    old, new = socket_pair()[0], socket_pair()[0]
    loop.register(old, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(old.fileno(), EPOLLOUT)]
    current = replace(old, new)
    loop.register(current, EPOLLOUT)
    for _ in range(3):
        assert loop.poll(0) == [(current.fileno(), EPOLLOUT)]


def test_a_regular_file_may_get_the_number(loop: EpollLike, socket_pair: MakePair, tmp_path: Path) -> None:
    old, _ = socket_pair()
    number = old.fileno()
    loop.register(old, EPOLLIN)
    old.detach()
    with open(tmp_path / "file", "wb") as file:
        os.dup2(file.fileno(), number, inheritable=False)
    try:
        assert loop.poll(0) == []  # poll(2) and select(2) call a file always ready
        with pytest.raises(PermissionError):
            loop.register(number, EPOLLIN)
    finally:
        os.close(number)


def test_tcp_sockets(loop: EpollLike, tcp_pair: MakePair, replace: Replace) -> None:
    old, new = tcp_pair()[0], tcp_pair()[0]
    if os.fstat(old.fileno()).st_ino == os.fstat(new.fileno()).st_ino:
        pytest.skip(f"fstat on {sys.platform} gives every TCP socket the same inode")
    loop.register(old, EPOLLOUT)
    current = replace(old, new)
    assert loop.poll(0) == []
    loop.register(current, EPOLLOUT)
    assert loop.poll(0) == [(current.fileno(), EPOLLOUT)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has eventfd, timerfd and their kin")
def test_files_that_share_one_inode(loop: EpollLike) -> None:
    if sys.platform != "linux":
        return  # for the type checker
    if isinstance(loop, UserSpaceLoop):
        pytest.skip("Linux gives all eventfds one inode, so fstat cannot tell one from another")
    number = os.eventfd(0)
    try:
        loop.register(number, EPOLLIN)
        os.close(number)
        assert os.eventfd(1) == number
        assert loop.poll(0) == []
        loop.register(number, EPOLLIN)
        assert loop.poll(0) == [(number, EPOLLIN)]
    finally:
        os.close(number)
