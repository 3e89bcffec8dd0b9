"""Clients that are silent: --idle-timeout is never early, little late, and holds for who is connected, too.

In the end, who spoke lately has a second to go on.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from uloop_reactor import Uloop
from uloop_reactor.testing import VirtualClock
from uloop_servers import open_server
from uloop_servers.config import Settings
from uloop_servers.service import Service

LATE = 1.02, 1.0  # times the timeout, and seconds
SETTINGS = Settings(idle_timeout=20)


@pytest.fixture
def loop() -> Iterator[Uloop]:
    with Uloop(clock=VirtualClock()) as loop:
        yield loop


@pytest.fixture
def service(loop: Uloop) -> Iterator[Service]:
    service = open_server(loop, "tcp://127.0.0.1:0", settings=SETTINGS)
    yield service
    service.close()


@pytest.fixture
def client(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.endpoint.port)) as client:
        client.setblocking(False)
        yield client


def receive(loop: Uloop, client: socket.socket) -> bytes:
    while True:
        loop.run_once()
        try:
            return client.recv(100)
        except BlockingIOError:
            pass


def rest(loop: Uloop, seconds: float) -> None:
    done: list[bool] = []
    loop.call_later(seconds, done.append, True)
    while not done:
        loop.run_once()


def ask(loop: Uloop, client: socket.socket) -> float:
    """Returns when it was answered."""
    client.send(b"time?")
    assert len(receive(loop, client)) == 26
    return loop.time()


@pytest.mark.parametrize("pauses", [(), (0.1,), (0.3,), (0.7, 19.9), (1.9, 3.1), (15, 19.4)])
def test_it_is_counted_from_the_last_question(
    loop: Uloop, client: socket.socket, pauses: tuple[float, ...]
) -> None:
    heard = ask(loop, client)
    for pause in pauses:
        rest(loop, pause)
        heard = ask(loop, client)
    assert receive(loop, client) == b""
    assert 20 <= loop.time() - heard <= 20 * LATE[0] + LATE[1]


def test_a_new_timeout_holds_for_who_is_connected(
    loop: Uloop, service: Service, client: socket.socket
) -> None:
    heard = ask(loop, client)
    service.reconfigure(replace(SETTINGS, idle_timeout=5))
    assert receive(loop, client) == b""
    assert 5 <= loop.time() - heard <= 5 * LATE[0] + LATE[1]


def test_a_longer_timeout_does(loop: Uloop, service: Service, client: socket.socket) -> None:
    heard = ask(loop, client)
    service.reconfigure(replace(SETTINGS, idle_timeout=40))
    assert receive(loop, client) == b""
    assert 40 <= loop.time() - heard <= 40 * LATE[0] + LATE[1]


@pytest.mark.parametrize("before", [3600, 86_400])
def test_a_long_timeout_is_made_short(loop: Uloop, before: int) -> None:
    """What was noted at the pace of the long one does not delay the short one."""
    service = open_server(loop, "tcp://127.0.0.1:0", settings=Settings(idle_timeout=before))
    with socket.create_connection(("127.0.0.1", service.endpoint.port)) as client:
        client.setblocking(False)
        ask(loop, client)
        loop.call_later(before / 1000, loop.stop)
        loop.run()
        changed = loop.time()
        service.reconfigure(Settings(idle_timeout=20))
        assert receive(loop, client) == b""
        assert loop.time() - changed <= 20 * LATE[0] + LATE[1]
    service.close()


@pytest.mark.parametrize("pause", [0.01, 0.2, 0.45, 0.49])
@pytest.mark.parametrize("silence", [0.1, 0.6, 0.95, 3.0])
def test_how_long_a_client_may_stay_in_the_end(
    loop: Uloop, service: Service, client: socket.socket, pause: float, silence: float
) -> None:
    """At whatever time between two beats of the service it was heard."""
    rest(loop, 1 + pause)
    heard = ask(loop, client)
    rest(loop, silence)
    ended: list[float] = []
    begin = loop.time()
    service.drain(lambda: ended.append(loop.time()))
    assert receive(loop, client) == b""
    if silence < 1:
        assert 1 <= loop.time() - heard <= 2.1
    else:
        assert loop.time() - begin <= 0.1
    client.close()
    while not ended:
        loop.run_once()
