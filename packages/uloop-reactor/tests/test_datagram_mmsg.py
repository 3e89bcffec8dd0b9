"""recvmmsg and sendmmsg by ctypes agree with what Python's socket module makes of the same datagrams."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import mmsg
from uloop_reactor.mmsg import BATCH, ReceiveArrays, SendArrays

if sys.platform != "linux" or not mmsg.SUPPORTED:
    pytest.skip("there is no recvmmsg here whose layout was checked", allow_module_level=True)
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

AF_UNIX = socket.AF_UNIX
SIZE = 65536
hosts = st.integers(1, 2**24 - 2).map(lambda n: socket.inet_ntoa(struct.pack("!I", 127 << 24 | n)))
families = st.sampled_from(["IPv4", "IPv6", "Unix"])
#: of the abstract namespace, where every byte counts; nobody else's has this start
names = st.binary(min_size=1, max_size=70).map(lambda name: b"\0uloop%d" % os.getpid() + name)
sizes = st.sampled_from([0, 1, 2, 48, 1472, 9000, 65507])


@contextmanager
def sockets(*addresses: Any) -> Iterator[list[socket.socket]]:
    """Datagram sockets bound to addresses; to a free port where there are ports."""
    made = []
    try:
        for address in addresses:
            family = (
                AF_UNIX
                if isinstance(address, bytes)
                else socket.AF_INET6
                if ":" in address
                else socket.AF_INET
            )
            made.append(sock := socket.socket(family, socket.SOCK_DGRAM))
            sock.bind(address if family == AF_UNIX else (address, 0))
            sock.settimeout(30)
        yield made
    finally:
        for sock in made:
            sock.close()


def test_sizes_of_the_structures() -> None:
    assert ctypes.sizeof(mmsg.IoVec) == 16
    assert ctypes.sizeof(mmsg.MsgHdr) == 56
    assert ctypes.sizeof(mmsg.MMsgHdr) == 64


def receive(arrays: ReceiveArrays, sock: socket.socket) -> list[tuple[bytes, Any, bytes, bytes]]:
    """Of each datagram: data, address, the address as the kernel has it, control data."""
    columns = arrays.receive(sock.fileno())
    return [(data, mmsg.decode(name), name, control) for data, name, control in zip(*columns, strict=True)]


def send(
    arrays: SendArrays,
    sock: socket.socket,
    messages: Sequence[tuple[bytes, bytes, tuple[mmsg.Ancillary, ...]]],
    merge: bool = False,
) -> int:
    data, names, ancillaries = zip(*messages, strict=True)
    controls = list(map(mmsg.pack_control, ancillaries)) if any(ancillaries) else None
    return arrays.send(sock.fileno(), data, names, controls, merge)


@given(st.lists(st.tuples(hosts, sizes), min_size=1, max_size=10), st.data())
@settings(deadline=None, max_examples=60)
def test_received_from_ipv4(sent: list[tuple[str, int]], data: st.DataObject) -> None:
    arrays = ReceiveArrays(SIZE, control=False)
    with sockets("127.0.0.1", *[host for host, _ in sent]) as (receiver, *senders):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        expected = []
        for sender, (_, size) in zip(senders, sent, strict=True):
            payload = data.draw(st.binary(min_size=1, max_size=1)) * size
            for _ in range(2):
                sender.sendto(payload, receiver.getsockname())
            expected.append(receiver.recvfrom(SIZE))  # one the one way, and one the other
            got = receive(arrays, receiver)
            assert [each[:2] for each in got] == expected[-1:]
            assert mmsg.encode(socket.AF_INET, got[0][1]) == got[0][2]
        for sender, (payload, _) in zip(senders, expected, strict=True):
            sender.sendto(payload, receiver.getsockname())
        batch = [each[:2] for each in receive(arrays, receiver)]
        assert batch == expected[: len(batch)]  # the receive buffer may not hold them all
        assert batch


@given(names, names, st.lists(st.binary(max_size=100), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_unix_names(one: bytes, other: bytes, payloads: list[bytes]) -> None:
    if one == other:
        other += b"x"
    arrays, outgoing = ReceiveArrays(SIZE, control=False), SendArrays()
    with sockets(one, other) as (receiver, sender):
        message = [(payload, mmsg.encode(AF_UNIX, one), ()) for payload in payloads]
        assert send(outgoing, sender, message) == len(payloads)
        assert [receiver.recvfrom(SIZE) for _ in payloads] == [(payload, other) for payload in payloads]
        for payload in payloads:
            sender.sendto(payload, one)
        got = receive(arrays, receiver)
        assert [each[:2] for each in got] == [(payload, other) for payload in payloads]
        assert {each[2] for each in got} == {mmsg.encode(AF_UNIX, other)}


@pytest.mark.parametrize("name", ["a", "b" * 60, "\udcff\udc80"])
def test_unix_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        socket.socket(AF_UNIX, socket.SOCK_DGRAM) as sock,
        socket.socket(AF_UNIX, socket.SOCK_DGRAM) as nameless,
    ):
        sock.bind(name)
        sock.settimeout(30)
        assert send(SendArrays(), sock, [(b"x", mmsg.encode(AF_UNIX, name), ())]) == 1
        nameless.sendto(b"y", name)
        got = receive(ReceiveArrays(SIZE, control=False), sock)
        assert [each[:2] for each in got] == [(b"x", name), (b"y", None)]
        nameless.sendto(b"y", name)
        assert sock.recvfrom(10) == (b"y", None)


@given(st.lists(st.tuples(hosts, sizes), min_size=1, max_size=BATCH), st.booleans())
@settings(deadline=None, max_examples=40)
def test_sent_over_ipv4(sent: list[tuple[str, int]], merge: bool) -> None:
    """To several addresses in one call, each gets its own."""
    targets = sorted({host for host, _ in sent})[:8]
    outgoing = SendArrays()
    with sockets("127.0.0.1", *targets) as (sender, *receivers):
        by_host = dict(zip(targets, receivers, strict=True))
        messages, expected = [], []
        for number, (host, size) in enumerate(sent):
            receiver = by_host.get(host, receivers[0])
            data = (b"%d" % number) + b"x" * min(size, 2000)
            expected.append((receiver, data))
            messages.append((data, mmsg.encode(socket.AF_INET, receiver.getsockname()), ()))
        assert send(outgoing, sender, messages, merge) == len(messages)
        for receiver, data in expected:
            assert receiver.recvfrom(SIZE) == (data, sender.getsockname())


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 26, 48, mmsg.LARGEST_ALIKE, mmsg.LARGEST_ALIKE + 1]),
            st.integers(1, BATCH),
            st.sampled_from([0, 7]),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=60)
def test_alike_ones(batches: list[tuple[int, int, int, bool]]) -> None:
    """Batches of one size, one after the other with the same arrays, to two peers in turn."""
    outgoing = SendArrays()
    with sockets("127.0.0.1", "127.0.0.1", "127.0.0.1") as (sender, *receivers):
        names = []
        for receiver in receivers:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
            names.append(mmsg.encode(socket.AF_INET, receiver.getsockname()))
        for size, count, ttl, merge in batches:
            control = ((0, socket.IP_TTL, struct.pack("=i", ttl)),) if ttl else ()
            messages = [(bytes([i]) * size, names[i % 2], control) for i in range(count)]
            sent = 0
            while sent < count:  # the kernel may have no room for all
                sent += (now := send(outgoing, sender, messages[sent:], merge))
                assert now
            for i, (data, _, _) in enumerate(messages):
                got, ((_, _, got_ttl),), _, address = receivers[i % 2].recvmsg(SIZE, 256)
                assert (got, address) == (data, sender.getsockname())
                assert struct.unpack("=i", got_ttl)[0] == (ttl or 64)


def test_alike_ones_to_the_connected_peer() -> None:
    outgoing = SendArrays()
    with sockets("127.0.0.1", "127.0.0.1") as (receiver, sender):
        sender.connect(receiver.getsockname())
        for count in (1, BATCH):
            for size in (0, 5):
                messages: list[Any] = [(b"x" * size, b"", ())] * count
                assert send(outgoing, sender, messages) == count
                got = [receiver.recvfrom(10) for _ in messages]
                assert got == [(b"x" * size, sender.getsockname())] * count


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 48, 9000]), st.integers(1, 20), st.integers(0, 1), st.sampled_from([0, 9])
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60)
def test_merged_ones_arrive_as_they_were(runs: list[tuple[int, int, int, int]]) -> None:
    """Runs of one size, to one of two peers, with and without control data."""
    outgoing = SendArrays()
    with sockets("127.0.0.1", "127.0.0.1", "127.0.0.1") as (sender, *receivers):
        if not mmsg.can_merge(sender):
            pytest.skip("this kernel has no UDP_SEGMENT")
        messages, expected = [], []
        for size, count, index, ttl in runs:
            receiver = receivers[index]
            receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
            name = mmsg.encode(socket.AF_INET, receiver.getsockname())
            control = ((0, socket.IP_TTL, struct.pack("=i", ttl)),) if ttl else ()
            for number in range(count):
                data = bytes([number]) * size
                messages.append((data, name, control))
                expected.append((receiver, data, ttl or 64))
        while messages:
            # as many at a time as a receive buffer holds, at 9000 bytes
            sent = send(outgoing, sender, messages[:12], merge=True)
            assert sum(outgoing.runs) == len(messages[:12]) == sent
            for receiver, data, ttl in expected[:sent]:
                got, ((_, _, got_ttl),), _, address = receiver.recvmsg(SIZE, 256)
                assert (got, address) == (data, sender.getsockname())
                assert struct.unpack("=i", got_ttl)[0] == ttl
            del messages[:sent], expected[:sent]


def test_how_they_are_merged() -> None:
    outgoing = SendArrays()
    with sockets("127.0.0.1", "127.0.0.1") as (one, other):
        if not mmsg.can_merge(one):
            pytest.skip("this kernel has no UDP_SEGMENT")
        to_one, to_other = (mmsg.encode(socket.AF_INET, sock.getsockname()) for sock in (one, other))
        messages = [(b"x" * size, to_one, ()) for size in (5, 5, 5, 4, 0, 0, 40000, 40000)]
        messages += [(b"x" * 5, name, ()) for name in (to_one, to_other, to_other)]
        assert send(outgoing, one, messages, merge=True) == len(messages)
        assert outgoing.runs == [3, 1, 1, 1, 1, 1, 1, 2]
        assert [len(other.recv(10)) for _ in range(2)] == [5, 5]
        one.setsockopt(mmsg.SOL_UDP, mmsg.UDP_SEGMENT, 100)
        assert not mmsg.can_merge(one)  # its program does
    with socket.socket(AF_UNIX, socket.SOCK_DGRAM) as unix:
        assert not mmsg.can_merge(unix)


def test_ipv6() -> None:
    try:
        with sockets("::1", "::1") as (one, other):
            arrays, outgoing = ReceiveArrays(SIZE, control=False), SendArrays()
            name = mmsg.encode(socket.AF_INET6, one.getsockname())
            assert send(outgoing, other, [(b"x", name, ()), (b"", name, ())]) == 2
            assert one.recvfrom(10) == (b"x", other.getsockname())
            assert [each[:2] for each in receive(arrays, one)] == [(b"", other.getsockname())]
    except OSError:
        pytest.skip("this machine has no IPv6")


@given(
    st.ip_addresses(v=6).map(str),
    st.integers(0, 65535),
    st.integers(0, 2**20 - 1),
    st.integers(0, 2**32 - 1),
)
def test_ipv6_addresses(host: str, port: int, flow: int, scope: int) -> None:
    """RFC 3493, section 3.3: all but the scope in network byte order."""
    name = mmsg.encode(socket.AF_INET6, (host, port, flow, scope))
    assert name == struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, flow) + socket.inet_pton(
        socket.AF_INET6, host
    ) + struct.pack("=I", scope)
    canonical = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
    assert mmsg.decode(name) == (canonical, port, flow, scope)


@given(st.sets(st.sampled_from(["time", "info", "ttl", "tos"])), st.integers(1, 255), st.integers(0, 255))
@settings(deadline=None)
def test_control_data_received(wanted: set[str], ttl: int, tos: int) -> None:
    """One datagram, looked at by recvmsg first."""
    arrays = ReceiveArrays(SIZE, control=True)
    options = {"time": (1, 35), "info": (0, 8), "ttl": (0, 12), "tos": (0, 13)}  # socket(7), ip(7)
    with sockets("127.0.0.1", "127.0.0.1") as (receiver, sender):
        for each in wanted:
            receiver.setsockopt(*options[each], 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        for _ in range(3):
            sender.sendto(b"x", receiver.getsockname())
        _, expected, _, _ = receiver.recvmsg(10, 256, socket.MSG_PEEK)
        got = receive(arrays, receiver)
        assert len(got) == 3
        first = mmsg.parse_control(got[0][3])
        assert len(first) == len(expected) == len(wanted)
        # The time may be that of reading, until the kernel takes that of arrival.
        assert [each for each in first if each[1] != 35] == [each for each in expected if each[1] != 35]


@given(st.lists(st.sampled_from([None, 1, 7, 255]), min_size=1, max_size=12))
@settings(deadline=None)
def test_control_data_sent(ttls: list[int | None]) -> None:
    """Of a batch, some with and some without; and nothing is left for the next batch."""
    outgoing = SendArrays()
    with sockets("127.0.0.1", "127.0.0.1") as (receiver, sender):
        receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        name = mmsg.encode(socket.AF_INET, receiver.getsockname())
        for batch in (ttls, [None] * len(ttls)):
            controls = [() if ttl is None else ((0, socket.IP_TTL, struct.pack("=i", ttl)),) for ttl in batch]
            messages = [(b"x", name, control) for control in controls]
            assert send(outgoing, sender, messages) == len(batch)
            got = [receiver.recvmsg(10, 256)[1] for _ in batch]
            default = sender.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
            assert [struct.unpack("=i", data)[0] for ((_, _, data),) in got] == [
                ttl or default for ttl in batch
            ]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.binary(max_size=40)), max_size=4
    ).map(tuple)
)
def test_control_data_there_and_back(ancillary: tuple[mmsg.Ancillary, ...]) -> None:
    packed = mmsg.pack_control(ancillary)
    assert len(packed) == sum(socket.CMSG_SPACE(len(data)) for _, _, data in ancillary)
    assert mmsg.parse_control(packed) == list(ancillary)


@given(st.binary(max_size=100))
@example(bytes(40))
def test_control_data_that_is_cut_off(control: bytes) -> None:
    mmsg.parse_control(control)  # it ends, and does not raise


def test_errors_are_those_of_the_call() -> None:
    arrays, outgoing = ReceiveArrays(SIZE, control=False), SendArrays()
    with sockets("127.0.0.1") as (sock,):
        with pytest.raises(BlockingIOError):
            arrays.receive(sock.fileno())
        name = mmsg.encode(socket.AF_INET, sock.getsockname())
        messages = [(b"fits", name, ()), (b"x" * 65508, name, ()), (b"fits", name, ())]
        assert send(outgoing, sock, messages) == 1
        with pytest.raises(OSError, match="Message too long"):
            send(outgoing, sock, messages[1:])
        assert sock.recv(10) == b"fits"
    with pytest.raises(OSError, match="Bad file descriptor"):
        arrays.receive(-1)


def test_what_arrives_keeps_nothing_of_what_was_there_before() -> None:
    arrays = ReceiveArrays(100, control=False)
    with sockets("127.0.0.1") as (sock,):
        for batch in ([b"x" * 100] * BATCH, [b"", b"y"], [b"z" * 200]):
            for data in batch:
                sock.sendto(data, sock.getsockname())
            got = receive(arrays, sock)
            assert [each[0] for each in got] == [data[:100] for data in batch]
            assert {each[1] for each in got} == {sock.getsockname()}
