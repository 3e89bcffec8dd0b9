"""Servers in a program of one's own: on its loop, beside whatever else runs there."""

from __future__ import annotations

import errno
import re
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network

import pytest
from uloop_reactor import Uloop, available_backends
from uloop_reactor.testing import VirtualClock
from uloop_servers import Endpoint, Service, Settings, open_server
from uloop_servers.counters import Count, Ledger

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
BACKENDS = [name for name in available_backends() if name != "kqueue" or sys.platform != "linux"]


@pytest.fixture(params=BACKENDS)
def loop(request: pytest.FixtureRequest) -> Iterator[Uloop]:
    with Uloop(request.param) as loop:
        yield loop


def run_until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(30)


def receive(loop: Uloop, sock: socket.socket) -> bytes:
    """What comes next, while the loop goes on; ``b""`` at the end of a stream."""
    received: list[bytes] = []

    class Receiver:
        def process_event(self, fileno: int, event: object) -> None:
            received.append(sock.recv(1000))

    loop.add(sock, 1, Receiver())
    try:
        run_until(loop, lambda: received)
    finally:
        loop.remove(sock)
    return received[0]


def ask(loop: Uloop, endpoint: Endpoint, question: bytes = b"") -> bytes:
    with socket.socket(socket.AF_INET, endpoint.kind) as sock:
        sock.settimeout(30)
        sock.connect((endpoint.host, endpoint.port))
        if question or endpoint.transport == "udp":
            sock.send(question)
        return receive(loop, sock)


def test_one_endpoint(loop: Uloop) -> None:
    server = open_server(loop, "udp://127.0.0.1:0")
    assert server.endpoint.port
    assert TIME.fullmatch(ask(loop, server.endpoint))
    server.close()
    server.close()
    assert loop.stats().descriptors == 0


def test_every_protocol(loop: Uloop) -> None:
    schemes = ["tcp", "udp", "daytime+tcp", "daytime+udp", "time+tcp", "time+udp", "ntp"]
    settings = Settings(trust_local_clock=True, daytime_format="iso")
    server = open_server(loop, *(f"{scheme}://127.0.0.1:0" for scheme in schemes), settings=settings)
    answers = {
        endpoint.scheme: ask(
            loop,
            endpoint,
            {"ntp": b"\x23" + bytes(47), "tcp": b"time?"}.get(endpoint.scheme, b""),
        )
        for endpoint in server.endpoints
    }
    assert TIME.fullmatch(answers["tcp"])
    assert TIME.fullmatch(answers["udp"])
    assert b"T" in answers["daytime+tcp"]
    assert b"T" in answers["daytime+udp"]
    told = [struct.unpack("!I", answers[f"time+{transport}"])[0] for transport in ("tcp", "udp")]
    assert 0 <= told[1] - told[0] <= 1
    assert (len(answers["ntp"]), answers["ntp"][0], answers["ntp"][1]) == (48, 0x24, 10)
    server.close()


def test_options(loop: Uloop) -> None:
    settings = Settings(rate_burst=3, deny=(ip_network("127.0.0.2"),))
    server = open_server(loop, "udp://127.0.0.1:0", settings=settings)
    address = (server.endpoint.host, server.endpoint.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for _ in range(10):
            sock.sendto(b"", address)
        for _ in range(3):
            assert TIME.fullmatch(receive(loop, sock))
        server.drain(loop.stop)  # reads the rest
        loop.run()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_new_limits(loop: Uloop) -> None:
    server = open_server(loop, "tcp://127.0.0.1:0")
    assert TIME.fullmatch(ask(loop, server.endpoint, b"time?"))
    server.reconfigure(Settings(deny=(ip_network("127.0.0.0/8"),)))
    try:
        assert ask(loop, server.endpoint, b"time?") == b""
    except ConnectionError:
        pass  # its question comes too late to be told in order
    server.close()


def test_the_end_of_the_loop(loop: Uloop) -> None:
    """``shutdown`` closes what is on the loop; the service's own timers do not hold it up."""
    server = open_server(loop, "tcp://127.0.0.1:0", "udp://127.0.0.1:0")
    loop.call_soon(loop.shutdown)
    loop.run()
    server.close()


def test_a_taken_port_leaves_nothing_open(loop: Uloop) -> None:
    server = open_server(loop, "tcp://127.0.0.1:0")
    before = loop.stats().descriptors
    for _ in range(3):
        with pytest.raises(OSError) as failure:  # noqa: PT011
            open_server(loop, "udp://127.0.0.1:0", server.endpoint)
        assert failure.value.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", None))
    assert loop.stats().descriptors == before
    server.close()


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ([], "at least one endpoint"),
        (["ftp://127.0.0.1"], "unknown scheme 'ftp'"),
        (["127.0.0.1:3333"], "is not an endpoint like"),
    ],
)
def test_what_is_no_endpoint(loop: Uloop, endpoints: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_server(loop, *endpoints)


def test_draining_answers_what_is_on_its_way(loop: Uloop) -> None:
    server = open_server(loop, "tcp://127.0.0.1:0")
    with socket.create_connection((server.endpoint.host, server.endpoint.port), 30) as sock:
        sock.sendall(b"time?")  # nobody has accepted yet
        ended: list[Service] = []
        server.drain(lambda: ended.append(server))
        server.drain(lambda: ended.append(server))  # once is enough, but both are told
        assert TIME.fullmatch(receive(loop, sock))
        assert receive(loop, sock) == b""
        sock.close()
        run_until(loop, lambda: ended)
    assert ended == [server, server]
    server.drain(loop.stop)  # it has ended, and says so
    loop.run()
    assert loop.stats().descriptors == 0


def test_a_format_that_there_is_not(loop: Uloop) -> None:
    with pytest.raises(ValueError, match="'roman' is no format of Daytime; known are xinetd, "):
        open_server(loop, "daytime+udp://127.0.0.1:0", settings=Settings(daytime_format="roman"))


def test_who_is_denied_from_now_on_is_cut_off(loop: Uloop) -> None:
    server = open_server(loop, "tcp://127.0.0.1:0")
    with socket.create_connection((server.endpoint.host, server.endpoint.port), 30) as sock:
        sock.sendall(b"time?")
        assert receive(loop, sock)
        server.reconfigure(Settings(deny=(ip_network("127.0.0.0/8"),)))
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass  # as it is meant; wine makes an end of it
    server.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_draining_gives_clients_a_second(backend: str) -> None:
    """Who was answered just now may have a question on its way; who has been silent has none."""
    clock = VirtualClock()
    with Uloop(backend, clock=clock) as loop, ExitStack() as stack:
        server = open_server(loop, "tcp://127.0.0.1:0")
        address = (server.endpoint.host, server.endpoint.port)
        silent, busy = (stack.enter_context(socket.create_connection(address, 30)) for _ in range(2))
        for client in (silent, busy):
            client.sendall(b"time?")
            assert receive(loop, client)
        loop.call_later(5, loop.stop)
        loop.run()
        busy.sendall(b"time?")
        assert receive(loop, busy)
        began = loop.time()
        server.drain(loop.stop)
        assert receive(loop, silent) == b""
        assert loop.time() - began < 0.5
        busy.sendall(b"time?")
        assert TIME.fullmatch(receive(loop, busy))
        assert receive(loop, busy) == b""
        loop.run()
        assert 1 <= loop.time() - began < 3


@pytest.mark.parametrize("scheme", ["udp", "daytime+udp", "time+udp", "ntp"])
def test_nothing_but_broadcasts(scheme: str) -> None:
    """They are dropped in silence, also when nothing else is in a batch."""
    if sys.platform != "linux":
        pytest.skip("other systems do not let 127.255.255.255 be a broadcast address")
    question = b"\x23" + bytes(47) if scheme == "ntp" else b""
    with Uloop() as loop, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        failures: list[Exception] = []
        loop.on_error(lambda error, culprit: failures.append(error))
        counters = Ledger().rows[0]
        endpoint = Endpoint.parse(f"{scheme}://0.0.0.0:0")
        sock, real = endpoint.bind()
        service = Service(loop, Settings(), [(real, sock)], counters)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setblocking(False)
        for _ in range(3):
            client.sendto(question, ("127.255.255.255", real.port))
        while counters.of(scheme)[Count.DESTINATION] < 3:
            loop.run_once(30)
        client.sendto(question, ("127.0.0.1", real.port))
        while not select.select([client], [], [], 0)[0]:
            loop.run_once(30)
        assert client.recvfrom(100)[1] == ("127.0.0.1", real.port)
        assert failures == []
        assert counters.of(scheme)[Count.ANSWERED] == 1
        service.close()
