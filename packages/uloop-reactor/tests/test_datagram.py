"""Datagrams that arrive, and answers that leave: UDP over IPv4 and IPv6, and Unix sockets."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.mmsg import BATCH, UNIX

IPV4 = "127.0.0.1"
needs_unix = pytest.mark.skipif(
    sys.platform == "win32", reason="Python has no Unix datagram sockets on Windows"
)


class Recorder(DatagramSocket):
    """Keeps what it is told, and calls ``then(data)``."""

    def __init__(self, *args: Any, **options: Any):
        self.data: list[bytes] = []
        self.senders: list[Address] = []
        self.errors: list[tuple[int | None, Address | None]] = []
        self.then: Callable[[bytes], object] = lambda data: None
        super().__init__(*args, **options)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        self.senders.append(sender)
        self.then(data)

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append((error.errno, peer))


class Echo(Recorder):
    def on_datagram(self, data: bytes, sender: Address) -> None:
        super().on_datagram(data, sender)
        self.reply(data)


@pytest.fixture
def make_client() -> Iterator[Callable[..., socket.socket]]:
    """Makes UDP sockets connected to a server, which wait 30 seconds for an answer."""
    made: list[socket.socket] = []

    def make(server: DatagramSocket, host: str = IPV4) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made.append(sock := socket.socket(family, socket.SOCK_DGRAM))
        sock.connect((host, server.address[1]))
        sock.settimeout(30)
        return sock

    yield make
    for sock in made:
        sock.close()


MakeClient = Callable[..., socket.socket]


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", [IPV4, "::1"])
def test_echo(host: str, loop: Uloop, make_client: MakeClient) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = Echo.bind(loop, (host, 0))
    client = make_client(server, host)
    for data in (b"one", b"", b"x" * 9000):
        client.send(data)
        run_until(loop, lambda data=data: server.data[-1:] == [data])  # type: ignore[misc]
        assert client.recv(65535) == data
    assert server.senders == [client.getsockname()] * 3
    assert server.errors == []
    server.close()


def test_many_at_once(loop: Uloop, make_client: MakeClient) -> None:
    server = Echo.bind(loop, (IPV4, 0), receive_buffer=1 << 20)
    clients = [make_client(server) for _ in range(3)]
    sent = [b"%d" % number for number in range(150)]
    for number, data in enumerate(sent):
        clients[number % 3].send(data)
    loop.run_once(30)
    assert 0 < len(server.data) <= BATCH  # others have their turn
    run_until(loop, lambda: len(server.data) == len(sent))
    assert server.data == sent
    assert server.senders == [clients[number % 3].getsockname() for number in range(150)]
    assert [clients[number % 3].recv(100) for number in range(150)] == sent
    server.close()


def test_lone_ones_and_bursts_by_turns(loop: Uloop, make_client: MakeClient) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    client = make_client(server)
    sent = 0
    for burst in [1] * 20 + [30] + [1] * 10 + [2, 1, 64]:
        for _ in range(burst):
            client.send(b"%d" % sent)
            sent += 1
        run_until(loop, lambda: len(server.data) == sent)  # noqa: B023
        assert [client.recv(100) for _ in range(burst)] == server.data[-burst:]
    assert server.data == [b"%d" % number for number in range(sent)]
    assert set(server.senders) == {client.getsockname()}
    server.close()


def test_several_answers_to_each_of_many_lone_ones(loop: Uloop, make_client: MakeClient) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    server.then = lambda data: server.reply(b"first")
    client = make_client(server)
    for number in range(20):
        client.send(b"%d" % number)
        run_until(loop, lambda: len(server.data) == number + 1)  # noqa: B023
        assert [client.recv(100) for _ in range(2)] == [b"first", b"%d" % number]
    assert server.errors == []
    server.close()


def test_a_socket_that_cannot_merge_datagrams(loop: Uloop, make_client: MakeClient) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux alone sends several datagrams as one piece")
    server = Echo.bind(loop, (IPV4, 0))
    # SO_NO_CHECK, socket(7): without checksums the kernel refuses to cut a piece up.
    server._sock.setsockopt(socket.SOL_SOCKET, 11, 1)
    client = make_client(server)
    for total in (10, 20):
        for number in range(10):
            client.send(b"%d" % number)
        run_until(loop, lambda: len(server.data) == total)  # noqa: B023
        assert [client.recv(100) for _ in range(10)] == [b"%d" % number for number in range(10)]
    assert server.errors == []
    server.close()


def test_sent_at_once_outside_a_batch(loop: Uloop, make_client: MakeClient) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    client = make_client(server)
    for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), b""):
        server.send(data, client.getsockname())
        assert client.recv(100) == bytes(data)
    assert server.queued == 0
    server.close()


def test_sent_after_the_batch_by_on_datagram(loop: Uloop, make_client: MakeClient) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    client = make_client(server)
    waiting = []

    def answer(data: bytes) -> None:
        server.send(data, server.senders[-1])
        server.reply(b"and " + data)
        waiting.append(server.queued)

    server.then = answer
    client.send(b"one")
    run_until(loop, lambda: len(server.data) == 1)
    assert waiting[0] > 0
    assert server.queued == 0
    assert [client.recv(100) for _ in range(2)] == [b"one", b"and one"]
    server.close()


def test_a_socket_of_the_same_loop_may_be_sent_with(loop: Uloop, make_client: MakeClient) -> None:
    back, front = Recorder.bind(loop, (IPV4, 0)), Recorder.bind(loop, (IPV4, 0))
    client = make_client(back)
    front.then = lambda data: back.send(data.upper(), client.getsockname())
    for number in range(10):
        front.send(b"x%d" % number, front.address)
    run_until(loop, lambda: len(front.data) == 10)
    assert front.data == [b"x%d" % number for number in range(10)]
    assert [client.recv(100) for _ in range(10)] == [b"X%d" % number for number in range(10)]
    front.close()
    back.close()


def test_one_too_long_is_reported(loop: Uloop, make_client: MakeClient) -> None:
    server = Recorder.bind(loop, (IPV4, 0), max_size=10)
    client = make_client(server)
    sent = [b"0123456789", b"0123456789a", b"", b"x" * 5000, b"end"]
    for data in sent:
        client.send(data)
    run_until(loop, lambda: server.data[-1:] == [b"end"])
    assert server.data == [b"0123456789", b"", b"end"]
    assert [number for number, _ in server.errors] == [errno.EMSGSIZE] * 2
    if sys.platform != "win32":  # whose recvfrom fails, and tells no sender
        assert [peer for _, peer in server.errors] == [client.getsockname()] * 2
    server.close()


def test_connected(loop: Uloop) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((IPV4, 0))
        peer.settimeout(30)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        ours = Echo(loop, sock)
        ours.send(b"first")
        data, address = peer.recvfrom(100)
        assert (data, address) == (b"first", ours.address)
        for data in (b"one", b"", b"three"):
            peer.sendto(data, ours.address)
        run_until(loop, lambda: len(ours.data) == 3)
        assert [peer.recv(100) for _ in range(3)] == ours.data == [b"one", b"", b"three"]
        ours.close()


# What callbacks do


def test_one_that_raises_costs_one_datagram(loop: Uloop, make_client: MakeClient) -> None:
    failures: list[tuple[Exception, object]] = []
    loop.on_error(lambda error, culprit: failures.append((error, culprit)))

    def fail(data: bytes) -> None:
        server.reply(data)
        if data.startswith(b"bad"):
            raise ArithmeticError(data)

    server = Recorder.bind(loop, (IPV4, 0))
    server.then = fail
    client = make_client(server)
    sent = [b"one", b"bad 1", b"bad 2", b"four"]
    for data in sent:
        client.send(data)
    run_until(loop, lambda: len(server.data) == 4)
    assert server.data == sent
    assert [client.recv(100) for _ in range(4)] == sent
    assert [(str(error), culprit) for error, culprit in failures] == [
        (str(b"bad 1"), server),
        (str(b"bad 2"), server),
    ]
    for _ in range(5):  # and we are not paused
        client.send(b"bad 3")
        assert select.select([server], [], [], 30)[0]
        loop.run_once(0)
    assert server.data[4:] == [b"bad 3"] * 5
    server.close()


@pytest.mark.parametrize("number", [1, 5])
def test_an_interrupt_leaves_the_rest_for_later(number: int, loop: Uloop, make_client: MakeClient) -> None:
    def interrupt(data: bytes) -> None:
        server.reply(data)
        if data == b"0":
            raise KeyboardInterrupt

    server = Recorder.bind(loop, (IPV4, 0))
    server.then = interrupt
    client = make_client(server)
    sent = [b"%d" % each for each in range(number)]
    for data in sent:
        client.send(data)
    with pytest.raises(KeyboardInterrupt):
        run_until(loop, lambda: False)
    sent.append(b"one more")
    client.send(sent[-1])
    assert select.select([server], [], [], 30)[0]
    run_until(loop, lambda: len(server.data) == len(sent))
    assert server.data == sent
    assert [client.recv(100) for _ in sent] == sent
    server.close()


@pytest.mark.parametrize("what", ["close", "abort", "close the loop"])
def test_on_datagram_that_ends_it(what: str, loop: Uloop, make_client: MakeClient) -> None:
    def end(data: bytes) -> None:
        server.reply(data)
        if data == b"2":
            {"close": server.close, "abort": server.abort, "close the loop": loop.close}[what]()

    server = Recorder.bind(loop, (IPV4, 0))
    server.then = end
    client = make_client(server)
    for number in range(6):
        client.send(b"%d" % number)
    if sys.platform == "win32":
        assert select.select([server], [], [], 30)[0]
    try:
        run_until(loop, lambda: server.data[-1:] == [b"2"])
        loop.run_once(0)
    except RuntimeError:
        assert what == "close the loop"
    assert server.data == [b"0", b"1", b"2"]
    if what != "abort":
        assert [client.recv(100) for _ in range(3)] == server.data
    elif len(server.data) == 3 and server.queued == 0:
        assert server.fileno() == -1
    server.close()


def test_stop_does_not_lose_the_batch(loop: Uloop, make_client: MakeClient) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    server.then = lambda data: loop.stop()
    client = make_client(server)
    for number in range(6):
        client.send(b"%d" % number)
    while len(server.data) < 6:
        loop.run()
    assert [client.recv(100) for _ in range(6)] == server.data
    server.close()


def test_closed(loop: Uloop) -> None:
    before = repr(loop)  # which has the number of descriptors
    server = Recorder.bind(loop, (IPV4, 0))
    address = server.address
    assert repr(loop) != before
    with pytest.raises(RuntimeError, match="use send"):
        server.reply(b"x")
    server.close()
    server.close()
    server.abort()
    assert server.fileno() == -1
    assert repr(loop) == before
    with pytest.raises(RuntimeError, match="does not send any more"):
        server.send(b"x", address)
    Recorder.bind(loop, address).close()  # it is free again


# What is refused


def test_wrong_sockets(loop: Uloop) -> None:
    with socket.socket() as stream, pytest.raises(TypeError, match="SOCK_DGRAM"):
        Recorder(loop, stream)
    with pytest.raises(TypeError, match="SOCK_DGRAM"):
        Recorder(loop, (IPV4, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="max_size"):
            Recorder(loop, sock, max_size=0)
        with pytest.raises(ValueError, match="queue_limit"):
            Recorder(loop, sock, queue_limit=-1)
    with pytest.raises(OSError):  # noqa: PT011
        Recorder(loop, sock)


def test_addresses_that_cannot_be_bound(loop: Uloop) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    with pytest.raises(OSError, match=str(server.address[1])):
        Recorder.bind(loop, server.address)
    server.close()
    with pytest.raises(ValueError, match="max_size"):
        Recorder.bind(loop, (IPV4, 0), max_size=-1)
    loop.close()
    with pytest.raises(RuntimeError):
        Recorder.bind(loop, (IPV4, 0))


def test_wrong_arguments_of_send(loop: Uloop) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    with pytest.raises(ValueError, match=r"example\.org"):
        server.send(b"x", ("example.org", 9))
    with pytest.raises(ValueError, match="IPv4"):
        server.send(b"x", ("::1", 9))
    for port in (-1, 65536):
        with pytest.raises(ValueError, match="65535"):
            server.send(b"x", (IPV4, port))
    if UNIX is not None:
        unix = Recorder(loop, socket.socket(UNIX, socket.SOCK_DGRAM))
        with pytest.raises(ValueError, match="path"):
            unix.send(b"x", "x" * 200)
        unix.close()
    for data in (7, "text"):
        with pytest.raises(TypeError):
            server.send(data, (IPV4, 9))  # type: ignore[arg-type]
    assert server.errors == []
    server.close()


def test_the_interface_may_have_a_name(loop: Uloop) -> None:
    if sys.platform != "linux" or not has_ipv6():
        pytest.skip("the name of the loopback interface differs")
    server = Recorder.bind(loop, ("::1", 0))
    server.send(b"x", ("fe80::1%lo", 9))  # whom there is no way to from ::1
    assert [peer for _, peer in server.errors] == [("fe80::1", 9, 0, socket.if_nametoindex("lo"))]
    server.close()


# Unix sockets


@needs_unix
def test_unix_senders(loop: Uloop, tmp_path: Path) -> None:
    assert UNIX is not None
    server = Recorder.bind(loop, str(tmp_path / "server"))
    names = [str(tmp_path / "named"), os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), None]
    if sys.platform == "linux":
        names.append(b"\0abstract\0of uloop %d" % os.getpid())  # type: ignore[arg-type]
    clients = []
    for name in names:
        clients.append(client := socket.socket(UNIX, socket.SOCK_DGRAM))
        if name is not None:
            client.bind(name)
        client.settimeout(30)
        client.connect(server.address)
    for by_one in (True, False):
        server.data.clear()
        server.senders.clear()
        for client in clients:
            client.send(b"x")
            if by_one:
                run_until(loop, lambda: len(server.data) == len(server.senders) > 0)
        run_until(loop, lambda: len(server.data) == len(clients))
        assert [sender or None for sender in server.senders] == names
    for name in names:
        if name is not None:
            server.send(b"y", name)
    assert [client.recv(100) for client, name in zip(clients, names, strict=True) if name] == [b"y"] * (
        len(names) - 1
    )
    assert server.errors == []
    for client in clients:
        client.close()
    server.close()
    assert not os.path.exists(server.address)


@needs_unix
def test_unix_echo_to_many(loop: Uloop, tmp_path: Path) -> None:
    assert UNIX is not None
    server = Echo.bind(loop, str(tmp_path / "server"))
    clients = []
    for number in range(9):
        clients.append(client := socket.socket(UNIX, socket.SOCK_DGRAM))
        client.bind(str(tmp_path / ("c" * (number + 1))))  # addresses of several lengths
        client.settimeout(30)
        client.sendto(b"%d" % number, server.address)
    run_until(loop, lambda: len(server.data) == 9)
    for number, client in enumerate(clients):
        assert client.recvfrom(100) == (b"%d" % number, server.address)
        client.close()
    server.close()


@needs_unix
def test_a_pair_without_names(loop: Uloop) -> None:
    assert UNIX is not None
    sock, peer = socket.socketpair(UNIX, socket.SOCK_DGRAM)
    with peer:
        ours = Echo(loop, sock)
        for data in (b"one", b"", b"three"):
            peer.send(data)
        run_until(loop, lambda: len(ours.data) == 3)
        assert [peer.recv(100) for _ in range(3)] == [b"one", b"", b"three"]
        ours.close()


@needs_unix
def test_a_path_that_is_somebody_elses_stays(loop: Uloop, tmp_path: Path) -> None:
    path = tmp_path / "server"
    server = Recorder.bind(loop, str(path))
    path.unlink()
    path.write_text("mine")
    server.close()
    assert path.read_text() == "mine"


def test_the_backlog_is_delivered_before_the_end(loop: Uloop, make_client: MakeClient) -> None:
    server = Echo.bind(loop, (IPV4, 0), receive_buffer=1 << 20)
    client = make_client(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    count = 2 * BATCH + 5
    for number in range(count):
        client.send(b"%d" % number)
    run_until(loop, lambda: server.data != [])  # on Windows it takes a moment to arrive
    while len(server.data) < count and server.data[-1] != b"%d" % (count - 1):
        server.receive_backlog()
    server.close()
    assert [client.recv(100) for _ in range(count)] == [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("host", [IPV4, "0.0.0.0", "::1", "::"])
def test_who_comes_after_the_backlog_is_turned_away(loop: Uloop, make_client: MakeClient, host: str) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere what a connected socket may still send to others differs")
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = Echo.bind(loop, (host, 0), packet_info=True)
    client = make_client(server, "::1" if ":" in host else IPV4)
    client.send(b"in time")
    server.receive_backlog(turn_away=True)
    assert client.recv(100) == b"in time"  # sent when the socket was connected already
    client.send(b"too late")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)
    server.receive_backlog()
    assert server.data == [b"in time"]
    server.close()


def test_a_backlog_that_closes_the_socket(loop: Uloop, make_client: MakeClient) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    server.then = lambda data: server.close()
    client = make_client(server)
    client.send(b"1")
    client.send(b"2")
    while not server.data:
        server.receive_backlog()
    assert server.data == [b"1"]
