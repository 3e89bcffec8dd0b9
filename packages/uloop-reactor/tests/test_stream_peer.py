"""The address of a stream's peer: kept, or asked for."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from uloop_reactor import Stream, TcpListener, Uloop


class Forgetful(Stream):
    keeps_peer = False


@pytest.mark.parametrize("kind", [Stream, Forgetful])
def test_the_peer_of_an_open_and_of_a_closed_stream(
    loop: Uloop, kind: Callable[[Uloop, socket.socket], Stream]
) -> None:
    made: list[Stream] = []

    def make(loop: Uloop, sock: socket.socket) -> Stream:
        made.append(kind(loop, sock))
        return made[0]

    listener = TcpListener(loop, ("127.0.0.1", 0), make)
    closed: list[Stream] = []
    with socket.create_connection(listener.address) as client:
        address = client.getsockname()
        while not made:
            loop.run_once()
        made[0].when_closed(closed.append)
        assert made[0].peer == address
    while not closed:
        loop.run_once()
    assert made[0].peer == (address if kind is Stream else None)
    assert ("None" in repr(made[0])) is (kind is Forgetful)
    listener.close()
