"""Datagrams that are treated as a batch: ``on_batch`` and ``reply_each``."""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.datagram import Address, Batch, DatagramSocket
from uloop_reactor.mmsg import BATCH, UNIX

IPV4 = "127.0.0.1"


class Server(DatagramSocket):
    """Calls ``then(batch)``, and keeps what it was told."""

    def __init__(self, *args: Any, **options: Any):
        self.batches: list[list[tuple[bytes, Address]]] = []
        self.errors: list[tuple[int | None, Address | None]] = []
        self.then: Callable[[Batch], object] = self.echo
        super().__init__(*args, **options)

    @property
    def data(self) -> list[bytes]:
        return [data for batch in self.batches for data, _ in batch]

    def on_batch(self, batch: Batch) -> None:
        addresses = map(self.address_of, batch.senders)
        self.batches.append(list(zip(batch.data, addresses, strict=True)))
        self.then(batch)

    def echo(self, batch: Batch) -> None:
        self.reply_each(batch, batch.data)

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append((error.errno, peer))


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


def udp(*, to: DatagramSocket | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30)
    sock.bind((IPV4, 0))
    if to is not None:
        sock.connect(to.address)
    return sock


def repeated(batch: Batch, times: int) -> Batch:
    return Batch(tuple(batch.data) * times, tuple(batch.senders) * times, tuple(batch.controls) * times)


@pytest.mark.parametrize("burst", [1, 2, BATCH, BATCH + 1])
def test_each_is_answered(burst: int, loop: Uloop) -> None:
    """Two clients in turn, with datagrams of one size and of different ones."""
    server = Server.bind(loop, (IPV4, 0), receive_buffer=1 << 20)
    with udp(to=server) as one, udp(to=server) as other:
        clients = (one, other)
        for size in (lambda i: 2, lambda i: i):
            for turn in range(12):  # also those that are read one by one, since they come alone
                server.batches.clear()
                sent = [bytes([turn]) * size(i) for i in range(burst)]
                for i, data in enumerate(sent):
                    clients[i % 2].send(data)
                run_until(loop, lambda: len(server.data) == len(sent))  # noqa: B023
                assert [clients[i % 2].recv(100) for i in range(burst)] == sent
                told = [told for batch in server.batches for told in batch]
                assert told == [(data, clients[i % 2].getsockname()) for i, data in enumerate(sent)]
                assert all(len(batch) <= BATCH for batch in server.batches)
    assert server.errors == []
    server.close()


def test_some_are_answered(loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0))
    failures: list[Exception] = []
    loop.on_error(lambda error, culprit: failures.append(error))

    def answer_odd_ones(batch: Batch) -> None:
        left = batch.without([place for place, data in enumerate(batch.data) if data[0] % 2 == 0])
        assert len(left) == sum(data[0] % 2 for data in batch.data)
        assert left.read_at == batch.read_at
        server.reply_each(left, left.data)

    server.then = answer_odd_ones
    with udp(to=server) as client:
        for number in range(20):
            client.send(bytes([number]))
        run_until(loop, lambda: len(server.data) == 20)
        assert [client.recv(10) for _ in range(10)] == [bytes([number]) for number in range(1, 20, 2)]
        server.then = lambda batch: server.reply_each(batch.without(range(len(batch))), ())
        client.send(b"\1")
        run_until(loop, lambda: len(server.data) == 21)
        server.then = server.echo
        client.send(b"last")
        run_until(loop, lambda: len(server.data) == 22)
        assert client.recv(10) == b"last"  # nothing was before it
    assert failures == []
    server.close()


def test_replies_behind_others_and_later(loop: Uloop) -> None:
    """What was sent before comes before, and a batch may be answered when its time is over."""
    server = Server.bind(loop, (IPV4, 0))
    kept: list[Batch] = []
    with udp(to=server) as client:
        client.send(b"ask")

        def answer(batch: Batch) -> None:
            server.send(b"first", client.getsockname())
            server.reply_each(batch, [b"second"])
            server.send(b"third", client.getsockname())
            kept.append(batch)

        server.then = answer
        run_until(loop, lambda: server.data == [b"ask"])
        assert [client.recv(10) for _ in range(3)] == [b"first", b"second", b"third"]
        server.reply_each(kept[0], [b"later"])
        assert client.recv(10) == b"later"
    server.close()
    with pytest.raises(RuntimeError, match="does not send any more"):
        server.reply_each(kept[0], [b"too late"])


@pytest.mark.parametrize("replies", [[], [b"x"] * 3])
def test_too_few_replies_and_too_many(replies: Sequence[bytes], loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0))
    failures: list[Exception] = []
    loop.on_error(lambda error, culprit: failures.append(error))
    kept: list[Batch] = []

    def answer(batch: Batch) -> None:
        kept.append(batch)
        server.reply_each(batch, replies)

    server.then = answer
    with udp(to=server) as client:
        client.send(b"x")
        run_until(loop, lambda: server.data == [b"x"])
    assert [type(error) for error in failures] == [ValueError]
    with pytest.raises(ValueError, match=f"there are {len(replies)} replies to 1 datagrams"):
        server.reply_each(kept[0], replies)
    assert server.queued == 0
    server.close()


def test_an_exception_costs_the_batch_alone(loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0))
    failures: list[tuple[Exception, object]] = []
    loop.on_error(lambda error, culprit: failures.append((error, culprit)))

    def fail(batch: Batch) -> None:
        server.reply_each(batch, batch.data)
        raise LookupError("on purpose")

    server.then = fail
    with udp(to=server) as client:
        for _ in range(4):
            before = len(server.batches)
            client.send(b"x")
            run_until(loop, lambda: len(server.batches) > before)  # noqa: B023
            assert client.recv(10) == b"x"
    assert [(type(error), culprit) for error, culprit in failures] == [(LookupError, server)] * 4
    server.close()


def test_closed_in_the_middle(loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0))
    failures: list[Exception] = []
    loop.on_error(lambda error, culprit: failures.append(error))

    def answer_and_close(batch: Batch) -> None:
        server.reply_each(batch, batch.data)
        server.close()
        server.reply_each(batch, batch.data)

    server.then = answer_and_close
    with udp(to=server) as client:
        client.send(b"x")
        run_until(loop, lambda: failures != [])
        assert client.recv(10) == b"x"
    assert [type(error) for error in failures] == [RuntimeError]


def test_one_reply_that_cannot_be_sent_touches_no_other(loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0), receive_buffer=1 << 20)
    server.then = lambda batch: server.reply_each(
        batch, [bytes(70_000) if data == b"big" else data for data in batch.data]
    )
    with udp(to=server) as client:
        questions = [b"a", b"big", b"b", b"big", b"big", b"c"] * 5
        for question in questions:
            client.send(question)
        run_until(loop, lambda: len(server.data) == len(questions) and not server.queued)
        assert [client.recv(10) for _ in range(15)] == [b"a", b"b", b"c"] * 5
        too_long = getattr(errno, "WSAEMSGSIZE", errno.EMSGSIZE)  # Windows has its own
        assert server.errors == [(too_long, client.getsockname())] * 15
        assert server.queued == 0
    server.close()


@pytest.mark.parametrize("limit", [0, 300, 1 << 20])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_failure_is_charged_to_its_own_datagram(limit: int, bad: int, loop: Uloop) -> None:
    """Also when the queue has little room, so that it has to be sent in between."""
    server = Server.bind(loop, (IPV4, 0), queue_limit=limit)
    with udp(to=server) as client:
        server.then = lambda batch: server.reply_each(
            repeated(batch, 6),
            [b"x" * 70_000 if number == bad else b"answer %d" % number for number in range(6)],
        )
        client.send(b"x")
        run_until(loop, lambda: server.errors != [] and not server.queued)
        expected = [b"answer %d" % number for number in range(6) if number != bad]
        assert [client.recv(100) for _ in expected] == expected
        assert [peer for _, peer in server.errors] == [client.getsockname()]
    server.close()


@pytest.mark.parametrize("behind_another", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_replies_of_any_bytes(behind_another: bool, size: int, loop: Uloop) -> None:
    """What cannot be sent as it is harms nothing else."""
    server = Server.bind(loop, (IPV4, 0))
    failures: list[Exception] = []
    loop.on_error(lambda error, culprit: failures.append(error))
    with udp(to=server) as client:

        def answer(batch: Batch) -> None:
            if behind_another:
                server.send(b"first", client.getsockname())
            replies: list[Any] = [bytearray(b"xx"), b"y" * size]
            server.reply_each(repeated(batch, 2), replies)

        server.then = answer
        client.send(b"x")
        run_until(loop, lambda: server.data != [])
        if behind_another:
            assert client.recv(10) == b"first"
        if not failures:
            assert [client.recv(10) for _ in range(2)] == [b"xx", b"y" * size]
        assert server.queued == 0
        server.send(b"last", client.getsockname())
        assert client.recv(10) == b"last"
    assert all(isinstance(error, TypeError) for error in failures)
    server.close()


def test_an_error_of_before_is_told_and_the_replies_leave(loop: Uloop) -> None:
    """A connected socket is told with the next call that what it sent before was refused."""
    if sys.platform == "win32":
        pytest.skip("Windows tells of it when the socket is read from")
    with udp() as first:
        server = Server.connect(loop, first.getsockname(), local_address=(IPV4, 0))
        address, port = server.address, first.getsockname()
    clients: list[socket.socket] = []

    def answer(batch: Batch) -> None:
        clients.pop().close()
        server._sock.send(b"refused")
        clients.append(bound(port, address))
        server.reply_each(batch, batch.data)

    def bound(here: Address, there: Address) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(here)
        sock.connect(there)
        sock.settimeout(30)
        return sock

    server.then = answer
    clients.append(bound(port, address))
    for number in range(3):
        clients[0].send(b"%d" % number)
    run_until(loop, lambda: len(server.data) == 3)
    assert clients[0].recv(10) == server.data[-len(server.batches[-1])]
    assert server.errors == [(errno.ECONNREFUSED, port)] * len(server.batches)
    clients[0].close()
    server.close()


def test_unix_peers(loop: Uloop, tmp_path: Path) -> None:
    """Their addresses are names, and what they do not read waits for them."""
    if UNIX is None:
        pytest.skip("Python has no Unix datagram sockets on Windows")
    server = Server.bind(loop, str(tmp_path / "server"))
    with (
        socket.socket(UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(UNIX, socket.SOCK_DGRAM) as nameless,
    ):
        one.bind(str(tmp_path / "client"))
        one.settimeout(30)
        for sock in (one, nameless):
            sock.connect(server.address)
        answers = [b"%d" % number for number in range(100)]
        for number, answer in enumerate(answers):  # more of them than the queue of a client holds
            one.send(answer)
            run_until(loop, lambda: len(server.data) > number)  # noqa: B023
        got: list[bytes] = []
        while len(got) < len(answers):
            if server.queued:
                loop.run_once(0.01)
            got.append(one.recv(100))
        assert got == answers
        assert server.errors == []
        nameless.send(b"nobody can answer")
        run_until(loop, lambda: server.errors != [])
        assert server.batches[-1] == [(b"nobody can answer", None)]
    server.close()


@pytest.mark.parametrize("burst", [1, 5])
def test_from_the_address_that_was_asked(burst: int, loop: Uloop) -> None:
    if sys.platform != "linux":
        pytest.skip("the other addresses of the loopback interface have to be set up")
    server = Server.bind(loop, ("0.0.0.0", 0), packet_info=True, timestamps=True)
    with udp() as one, udp() as other:
        one.connect((IPV4, server.address[1]))
        other.connect(("127.0.0.2", server.address[1]))  # it hears nobody else
        for _ in range(12):
            server.batches.clear()
            for _ in range(burst):
                one.send(b"1")
                other.send(b"2")
            run_until(loop, lambda: len(server.data) == 2 * burst)
            assert [client.recv(10) for client in (one, other) for _ in range(burst)] == (
                [b"1"] * burst + [b"2"] * burst
            )
    server.close()


def test_what_was_sent_to_many(loop: Uloop) -> None:
    if sys.platform != "linux":
        pytest.skip("which interface is taken for multicast differs")
    group = "239.255.77.80"
    server = Server.bind(loop, ("0.0.0.0", 0), packet_info=True)
    member = socket.inet_aton(group) + socket.inet_aton(IPV4)
    server._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    shared: list[bytes] = []
    server.then = lambda batch: shared.extend(batch.data[place] for place in server.broadcasts_in(batch))
    with udp() as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(IPV4))
        for host, data in ((IPV4, b"a"), (group, b"b"), (IPV4, b"c"), (group, b"d")):
            client.sendto(data, (host, server.address[1]))
        run_until(loop, lambda: len(server.data) == 4)
    assert shared == [b"b", b"d"]
    server.close()
    group_server = Server.bind(loop, (group, 0), packet_info=True)
    assert group_server.broadcasts_in(Batch((b"x", b"y"), (None, None), ((), ()))) == [0, 1]
    group_server.close()


@pytest.mark.parametrize("timestamps", [False, True])
def test_when_they_arrived(timestamps: bool, loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0), timestamps=timestamps)
    told: list[int | None] = []
    read: list[int] = []

    def note(batch: Batch) -> None:
        told.extend(server.arrivals_of(batch))
        read.append(batch.read_at)

    server.then = note
    by_kernel = timestamps and (sys.platform in ("linux", "darwin") or sys.platform.startswith("freebsd"))
    started = time.time_ns() // 1000 * 1000  # macOS' and the BSDs' kernels count microseconds
    with udp(to=server) as client:
        for burst in (1, 1, 3, 7):
            before = len(told)
            for _ in range(burst):
                client.send(b"x")
            run_until(loop, lambda: len(told) == before + burst)  # noqa: B023
    assert all(started <= each <= time.time_ns() for each in read)
    if by_kernel:
        assert told == sorted(told, key=lambda stamp: stamp or 0)
        assert all(stamp is not None and started <= stamp <= time.time_ns() for stamp in told)
    else:
        assert told == [None] * 12
    server.close()


def test_what_is_too_long_is_not_in_the_batch(loop: Uloop) -> None:
    server = Server.bind(loop, (IPV4, 0), max_size=10)
    with udp(to=server) as client:
        for data in (b"x" * 11, b"a", b"x" * 500, b"y" * 10):
            client.send(data)
        run_until(loop, lambda: len(server.data) + len(server.errors) == 4)
        assert server.data == [b"a", b"y" * 10]
        # Windows says of what does not fit, 500 bytes here, that it came, and not from whom.
        somebody = None if sys.platform == "win32" else client.getsockname()
        assert [peer for _, peer in server.errors] == [client.getsockname(), somebody]
        assert [client.recv(100) for _ in range(2)] == server.data
    server.close()
