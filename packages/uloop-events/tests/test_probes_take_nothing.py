"""What SelectLoop asks a descriptor leaves the error to the program that is to find it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable

import pytest
from uloop_events import EPOLLERR, EPOLLHUP, EPOLLIN, EpollLike

if sys.platform != "linux":
    pytest.skip("the probe that sends is Linux's alone", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]


def refused() -> socket.socket:
    """A TCP socket with an error that waits for whoever asks for it first."""
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(not_listening.getsockname())
    return client


def test_an_error_survives_many_polls(loop: EpollLike) -> None:
    with refused() as client:
        loop.register(client, EPOLLIN)
        for _ in range(10):
            assert loop.poll(5) == [(client.fileno(), EPOLLIN | EPOLLERR | EPOLLHUP)]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_stays_blocking(loop: EpollLike, kind: socket.SocketKind) -> None:
    if type(loop).__name__ == "KqueueLoop":
        pytest.skip("the model of kqueue itself makes socket objects, which set this")
    for ours, theirs in (socket.socketpair(type=kind), socket.socketpair(socket.AF_UNIX, kind)):
        with ours, theirs:
            socket.setdefaulttimeout(3)  # what every socket object made from now on sets its socket to
            try:
                loop.register(ours, EPOLLIN)
                theirs.send(b"x")
                assert loop.poll(5) == [(ours.fileno(), EPOLLIN)]
                theirs.shutdown(socket.SHUT_WR)
                loop.poll(5)
            finally:
                socket.setdefaulttimeout(None)
            assert os.get_blocking(ours.fileno())


def test_a_stranger_with_the_number_of_a_closed_socket_keeps_its_error(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    with refused() as stranger:
        os.dup2(stranger.fileno(), ours.fileno())  # closes ours
        loop.poll(0)
        assert stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
