"""Out of descriptors, or of room in the backend: nobody spins, nobody is forgotten, the log is short."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from uloop_reactor import Timer, UEvent, Uloop
from uloop_reactor.listener import Connection, TcpListener
from uloop_reactor.stream import Stream

resource: Any = pytest.importorskip(
    "resource", reason="Windows has no limit of descriptors that can be lowered"
)


class Peer:
    def __init__(self, loop: Uloop, sock: socket.socket) -> None:
        self.loop, self.sock = loop, sock
        self.callback: Callable[[Any], object] | None = None
        loop.add(sock, UEvent.poll_in, self)

    def when_closed(self, callback: Callable[[Any], object], /) -> None:
        self.callback = callback

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        data = self.sock.recv(100)
        if data:
            self.sock.send(data)
        else:
            self.close()

    def close(self) -> None:
        self.loop.remove(self.sock)
        self.sock.close()
        if self.callback is not None:
            self.callback(self)


@pytest.fixture
def listener(loop: Uloop, undo: ExitStack) -> TcpListener:
    listener = TcpListener(loop, ("127.0.0.1", 0), Peer)

    def close() -> None:
        listener.close()
        for peer in list(listener.connections):
            assert isinstance(peer, Peer)
            peer.close()

    undo.callback(close)
    return listener


@pytest.fixture
def clients(listener: TcpListener, undo: ExitStack) -> list[socket.socket]:
    """They wait in the backlog, and the descriptors on our side of them are yet to be made."""
    return [undo.enter_context(socket.create_connection(listener.address, timeout=30)) for _ in range(10)]


@pytest.fixture
def leave(undo: ExitStack) -> Callable[[int], None]:
    """Leaves so many descriptors to this process, until the end of the test."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def is_free(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return True
        return False

    def leave(count: int) -> None:
        limit = 0
        while count or not is_free(limit):
            count -= is_free(limit)
            limit += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))

    return leave


@pytest.fixture
def pauses(loop: Uloop, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the listener asks its loop to wait for."""
    pauses: list[float] = []
    call_later = loop.call_later

    def note(delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        pauses.append(delay)
        return call_later(delay, callback, *args)

    monkeypatch.setattr(loop, "call_later", note)
    return pauses


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "uloop"):
        caplog.clear()  # the backend's name
        yield caplog


def run_until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once()


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in log.records]


def test_the_pauses_double(
    loop: Uloop,
    listener: TcpListener,
    clients: list[socket.socket],
    leave: Callable[[int], None],
    pauses: list[float],
    log: pytest.LogCaptureFixture,
) -> None:
    leave(0)
    run_until(loop, lambda: len([pause for pause in pauses if pause != 1.0]) >= 4)
    pauses_to_accept = [pause for pause in pauses if pause != 1.0]  # after each, a second's probation
    assert pauses_to_accept == [0.01, 0.02, 0.04, 0.08]
    assert levels(log) == ["WARNING"]
    assert "accepts nobody for now: [Errno 24]" in log.text
    assert not listener.connections


def test_no_pause_is_longer_than_a_second(
    loop: Uloop,
    listener: TcpListener,
    clients: list[socket.socket],
    leave: Callable[[int], None],
    pauses: list[float],
) -> None:
    leave(0)
    run_until(loop, lambda: listener._shortage is not None)
    assert listener._shortage is not None
    listener._shortage.failures = 2000
    run_until(loop, lambda: listener._shortage is not None and listener._shortage.failures > 2000)
    assert set(pauses) <= {0.01, 1.0}


def test_all_are_served_when_descriptors_are_free(
    loop: Uloop,
    listener: TcpListener,
    clients: list[socket.socket],
    leave: Callable[[int], None],
    log: pytest.LogCaptureFixture,
) -> None:
    leave(3)
    run_until(loop, lambda: listener._shortage is not None)
    assert len(listener.connections) == 3
    leave(50)
    run_until(loop, lambda: len(listener.connections) == 10)
    assert levels(log) == ["WARNING"]  # it is not over until it has been good for a while
    run_until(loop, lambda: len(log.records) == 2)
    assert levels(log) == ["WARNING", "INFO"]
    assert "accepts again, after " in log.records[1].getMessage()
    assert listener._shortage is None


def test_one_of_ours_that_closes_lets_the_next_in_at_once(
    loop: Uloop,
    listener: TcpListener,
    clients: list[socket.socket],
    leave: Callable[[int], None],
    log: pytest.LogCaptureFixture,
) -> None:
    leave(1)
    run_until(loop, lambda: listener._shortage is not None)
    for _ in range(9):
        shortage = listener._shortage
        assert shortage is not None
        shortage.failures = 2000  # so the next pause is as long as it gets
        (peer,) = listener.connections
        assert isinstance(peer, Peer)
        pause = shortage.timer
        peer.close()
        run_until(loop, lambda: listener.connections)
        assert pause is not None
        assert not pause.active
        assert loop.time() < pause.when  # it has not waited for the end of the pause
    run_until(loop, lambda: listener._shortage is not None and listener._shortage.resting)
    assert levels(log) == ["WARNING"]  # however often somebody came and went


def test_a_factory_that_runs_out_is_a_shortage_too(
    loop: Uloop, listener: TcpListener, clients: list[socket.socket], log: pytest.LogCaptureFixture
) -> None:
    def open_too_much(loop: Uloop, sock: socket.socket) -> Connection:
        Peer(loop, sock)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listener._factory = open_too_much
    run_until(loop, lambda: listener._shortage is not None and listener._shortage.failures == 3)
    listener._factory = Peer
    run_until(loop, lambda: len(listener.connections) == 7)  # the three are closed
    assert [client.recv(1) for client in clients[:3]] == [b""] * 3
    run_until(loop, lambda: len(log.records) == 2)
    assert levels(log) == ["WARNING", "INFO"]
    assert "after 3 failures" in log.records[1].getMessage()


def test_close_in_a_shortage(
    loop: Uloop, listener: TcpListener, clients: list[socket.socket], leave: Callable[[int], None]
) -> None:
    leave(1)
    run_until(loop, lambda: listener._shortage is not None)
    assert listener._shortage is not None
    timer = listener._shortage.timer
    listener.close()
    assert timer is not None
    assert not timer.active


def test_a_connection_closes_after_the_loop_in_a_shortage(
    loop: Uloop, listener: TcpListener, clients: list[socket.socket], leave: Callable[[int], None]
) -> None:
    leave(1)
    run_until(loop, lambda: listener._shortage is not None)
    loop.close()
    (peer,) = listener.connections
    assert isinstance(peer, Peer)
    peer.close()
    assert not listener.connections


@pytest.mark.parametrize("factory", ["the test's", "a stream"])
def test_a_full_backend_costs_one_client_a_try(
    factory: str,
    loop: Uloop,
    listener: TcpListener,
    undo: ExitStack,
    log: pytest.LogCaptureFixture,
) -> None:
    if loop.backend != "select":
        pytest.skip("select alone has no room for descriptors of 1024 and more")
    if factory == "a stream":
        listener._factory = Stream

        def close_streams() -> None:
            for stream in listener.connections:
                assert isinstance(stream, Stream)
                stream.abort()
            listener._connections.clear()  # the loop will not tell it any more

        undo.callback(close_streams)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1100, hard))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    clients = [undo.enter_context(socket.create_connection(listener.address, timeout=30)) for _ in range(10)]
    fillers = ExitStack()
    undo.enter_context(fillers)
    while True:
        number = os.open(os.devnull, os.O_RDONLY)
        fillers.callback(os.close, number)
        if number >= 1022:
            break
    run_until(loop, lambda: listener._shortage is not None and listener._shortage.failures == 3)
    assert len(listener.connections) == 1  # number 1023
    assert levels(log) == ["WARNING"]
    assert "1024" in log.text
    fillers.close()
    run_until(loop, lambda: len(listener.connections) == 7)
    served = select.select(clients, [], [], 0)[0]
    assert sorted(map(clients.index, served)) == [1, 2, 3]  # they were closed
    assert [client.recv(1) for client in served] == [b""] * 3
    run_until(loop, lambda: len(log.records) == 2)
    assert levels(log) == ["WARNING", "INFO"]


SERVER = """
import logging, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    import kqueue_model
except ImportError:
    pass
else:
    kqueue_model.install()
from uloop_reactor import Uloop
from uloop_reactor.listener import TcpListener
from uloop_reactor.stream import Stream

class Tell(logging.Handler):
    def emit(self, record):
        print(record.levelname, record.getMessage(), flush=True)

class Echo(Stream):
    def on_data(self, data):
        self.write(data)

class Counted(TcpListener):
    wakes = 0
    def process_event(self, fileno, event):
        Counted.wakes += 1
        super().process_event(fileno, event)
        if self._shortage is not None and self._shortage.failures in (1, 7):
            print("figures", Counted.wakes, time.monotonic(), time.process_time(), flush=True)

logging.getLogger("uloop").addHandler(Tell(logging.INFO))
with Uloop(sys.argv[1]) as loop:
    logging.getLogger("uloop").setLevel(logging.INFO)
    listener = Counted(loop, ("127.0.0.1", 0), Echo)
    print("port", listener.address[1], flush=True)
    loop.run()
"""


def test_a_hundred_clients_of_a_server_with_64_descriptors(loop: Uloop, undo: ExitStack) -> None:
    server = undo.enter_context(
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVER, loop.backend],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    )
    undo.callback(server.kill)
    assert server.stdout is not None
    said = iter(server.stdout.readline, "")

    lines: list[str] = []

    def wait_for(word: str) -> list[str]:
        for line in said:
            lines.append(line)
            if line.startswith(word):
                return line.split()
        raise AssertionError(f"the server ended before it said {word!r}: {lines}")

    address = ("127.0.0.1", int(wait_for("port")[1]))
    clients = [undo.enter_context(socket.create_connection(address, timeout=30)) for _ in range(100)]
    for client in clients:
        client.send(b"x")
    wait_for("WARNING")
    begin = [float(figure) for figure in wait_for("figures")[1:]]
    end = [float(figure) for figure in wait_for("figures")[1:]]
    wakes, seconds, processor_time = (after - before for before, after in zip(begin, end, strict=True))
    assert wakes == 6  # one a pause
    assert processor_time < seconds / 4
    served = [client for client in clients if select.select([client], [], [], 0)[0]]
    assert 30 < len(served) < 64
    for client in served:
        client.close()
    for client in set(clients) - set(served):
        assert client.recv(1) == b"x"
    wait_for("INFO")
    levels = [line.split()[0] for line in lines]
    assert (levels.count("WARNING"), levels.count("INFO"), levels.count("ERROR")) == (1, 1, 0)
