"""The end of a service: who spoke lately has a second to go on, and who was silent goes at once."""

from __future__ import annotations

import socket

import pytest
from uloop_reactor import Uloop
from uloop_reactor.testing import VirtualClock
from uloop_servers import open_server


def rest(loop: Uloop, seconds: float) -> None:
    done: list[bool] = []
    loop.call_later(seconds, done.append, True)
    while not done:
        loop.run_once()


def receive(loop: Uloop, client: socket.socket) -> bytes:
    while True:
        loop.run_once()
        try:
            return client.recv(100)
        except BlockingIOError:
            pass


@pytest.mark.parametrize("pause", [0.01, 0.2, 0.45, 0.49])
@pytest.mark.parametrize("silence", [0.1, 0.6, 0.95, 3.0])
def test_how_long_a_client_may_stay(pause: float, silence: float) -> None:
    """At whatever time between two beats of the service it was heard."""
    with Uloop(clock=VirtualClock()) as loop:
        service = open_server(loop, "tcp://127.0.0.1:0")
        with socket.create_connection(("127.0.0.1", service.endpoint.port)) as client:
            client.setblocking(False)
            rest(loop, 1 + pause)
            client.send(b"time?")
            assert len(receive(loop, client)) == 26
            heard = loop.time()
            rest(loop, silence)
            ended: list[float] = []
            begin = loop.time()
            service.drain(lambda: ended.append(loop.time()))
            assert receive(loop, client) == b""
            if silence < 1:
                assert 1 <= loop.time() - heard <= 2.1
            else:
                assert loop.time() - begin <= 0.1
        while not ended:
            loop.run_once()
        service.close()
