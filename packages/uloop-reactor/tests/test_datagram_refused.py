"""Calls that a sandbox, a device or a route refuses: less is done at once, nothing is lost, nobody spins."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop, mmsg
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.datagram_io import FAILURES, Batch

IPV4 = "127.0.0.1"
needs_mmsg = pytest.mark.skipif(not mmsg.SUPPORTED, reason="recvmmsg is called on 64-bit Linux alone")


class Echo(DatagramSocket):
    def __init__(self, *args: Any, **options: Any):
        self.data: list[bytes] = []
        self.errors: list[tuple[int | None, Address | None]] = []
        self.events = 0
        super().__init__(*args, **options)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        self.reply(data)

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append((error.errno, peer))

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        self.events += 1
        super().process_event(fileno, event)


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


def exchange(loop: Uloop, server: Echo, count: int) -> None:
    """So many datagrams at once, and all answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(server.address)
        client.settimeout(30)
        sent = [b"%03d" % number for number in range(count)]
        server.data.clear()
        for data in sent:
            client.send(data)
        run_until(loop, lambda: len(server.data) == count)
        assert server.data == sent
        run_until(loop, lambda: server.queued == 0)
        assert [client.recv(100) for _ in sent] == sent


class Refusing:
    """In place of recvmmsg or sendmmsg, as seccomp(2) has them fail; what the kernel does is not at hand."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def __call__(self, *_: object) -> int:
        self.calls += 1
        ctypes.set_errno(self.number)
        return -1


@needs_mmsg
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize("call", ["_recvmmsg", "_sendmmsg"])
def test_one_by_one_from_then_on(
    call: str, number: int, loop: Uloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(number)
    monkeypatch.setattr(mmsg, call, refusing)
    server = Echo.bind(loop, (IPV4, 0))
    calls: Any = server._calls
    while not calls.given_up:
        exchange(loop, server, 40)
    before = refusing.calls
    # It is not taken for given at once, but for ENOSYS; and EINVAL can be about merging as well.
    assert before == 1 if number == errno.ENOSYS else before >= FAILURES
    for _ in range(4):
        exchange(loop, server, 10)
    assert refusing.calls == before
    assert server.errors == []
    server.close()


@needs_mmsg
@pytest.mark.parametrize("call", ["_recvmmsg", "_sendmmsg"])
def test_a_refusal_that_passes_changes_nothing(
    call: str, loop: Uloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    for _ in range(2 * FAILURES):
        with monkeypatch.context() as patch:
            patch.setattr(mmsg, call, Refusing(errno.EPERM))
            exchange(loop, server, 2)
        exchange(loop, server, 2)
    assert not server._calls.given_up  # type: ignore[attr-defined]
    server.close()


class Sender(Echo):
    """Answers its connected peer, whom it does not name."""

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        self.send(data)


@needs_mmsg
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("connected", [False, True])
def test_nothing_for_a_unix_peer_is_lost(
    connected: bool, number: int, loop: Uloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(number)
    monkeypatch.setattr(mmsg, "_sendmmsg", refusing)
    sent = [b"%d" % number for number in range(5)]  # a Unix peer's queue holds ten
    assert mmsg.UNIX is not None
    with socket.socket(mmsg.UNIX, socket.SOCK_DGRAM) as client:
        client.bind(str(tmp_path / "client"))
        client.settimeout(30)
        if connected:
            server: Echo = Sender.connect(loop, str(tmp_path / "client"))
        else:
            server = Echo.bind(loop, str(tmp_path / "server"))
        for data in sent:
            client.sendto(data, server.address)
        run_until(loop, lambda: len(server.data) == len(sent) and server.queued == 0)
        assert [client.recv(100) for _ in sent] == sent
    assert refusing.calls
    assert server.errors == []
    server.close()


def test_receiving_that_always_fails_rests(loop: Uloop) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    calls = server._calls
    working = calls.receive
    failures = []

    def receive() -> Any:
        failures.append(loop.time())
        return Batch(), OSError(errno.ENOMEM, "no memory")

    calls.receive = receive  # type: ignore[method-assign]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(b"x", server.address)
        loop.call_later(0.5, loop.stop)
        loop.run()
        assert FAILURES < len(failures) < FAILURES + 8
        assert len(server.errors) == len(failures)
        assert server.events < FAILURES + 12
        server.send(b"while it rests", client.getsockname())
        assert client.recv(100) == b"while it rests"
        calls.receive = working  # type: ignore[method-assign]
        run_until(loop, lambda: server.data == [b"x"])
        assert client.recv(100) == b"x"
    assert server._failures == 0
    server.close()
    loop.run_once(0)


def test_closed_while_it_rests(loop: Uloop) -> None:
    server = Echo.bind(loop, (IPV4, 0))
    server._calls.receive = lambda: (Batch(), OSError(errno.ENOMEM, "no memory"))  # type: ignore[method-assign]
    server.send(b"x", server.address)
    run_until(loop, lambda: len(server.errors) == FAILURES)
    server.close()
    loop.call_later(0.02, loop.stop)
    loop.run()
    assert len(server.errors) == FAILURES


# Merging


class Answering(Echo):
    """Answers each datagram with a list of (data, address)."""

    answers: list[tuple[bytes, Address]]

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        for answer in self.answers:
            self.send(*answer)


@needs_mmsg
def test_a_datagram_that_cannot_be_sent_is_no_reason_not_to_merge(loop: Uloop) -> None:
    """Port 0, which anybody can have as the sender's."""
    server = Answering.bind(loop, (IPV4, 0))
    if not server._calls.merge:  # type: ignore[attr-defined]
        pytest.skip("this kernel has no UDP_SEGMENT")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((IPV4, 0))
        client.settimeout(30)
        nobody = (IPV4, 0)
        blamed: list[bool] = []
        server._calls.note_failed_merge = lambda: blamed.append(True)  # type: ignore[attr-defined]
        server.answers = [(b"x", nobody)] * 3 + [(b"y", client.getsockname())] * 3
        client.sendto(b"go", server.address)
        run_until(loop, lambda: server.data != [])
        assert [client.recv(100) for _ in range(3)] == [b"y"] * 3
        assert server.errors == [(errno.EINVAL, nobody)] * 3
        server.answers = [(b"z", client.getsockname())] * 5
        client.sendto(b"go", server.address)
        run_until(loop, lambda: len(server.data) == 2)
        assert [client.recv(100) for _ in range(5)] == [b"z"] * 5
        assert blamed == []
        assert server._calls.outgoing.runs == [5]  # type: ignore[attr-defined]
    server.close()


@needs_mmsg
def test_merging_is_tried_again(loop: Uloop) -> None:
    """Without checksums the kernel refuses to cut a piece up: SO_NO_CHECK, socket(7)."""
    server = Answering.bind(loop, (IPV4, 0))
    calls: Any = server._calls
    if not calls.merge:
        pytest.skip("this kernel has no UDP_SEGMENT")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((IPV4, 0))
        client.settimeout(30)
        server.answers = [(b"x", client.getsockname())] * 4
        for is_refused, seen in ((1, {(1, 1, 1, 1), (1, 1, 1), (4,)}), (0, {(1, 1, 1, 1), (4,)})):
            server._sock.setsockopt(socket.SOL_SOCKET, 11, is_refused)
            runs = set()
            for _ in range(40):
                client.sendto(b"go", server.address)
                before = len(server.data)
                run_until(loop, lambda: len(server.data) > before)  # noqa: B023
                assert [client.recv(100) for _ in range(4)] == [b"x"] * 4
                runs.add(tuple(calls.outgoing.runs))
            assert runs <= seen
        assert runs == seen  # it has begun again
        assert calls.merge_failures == 0
    assert server.errors == []
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells in /proc what memory is in use")
@needs_mmsg
def test_what_was_not_written_to_takes_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    arrays = [mmsg.ReceiveArrays(65536, control=False) for _ in range(4)]
    assert resident() - before < 4 << 20  # of 16 MiB
    del arrays


@needs_mmsg
def test_a_child_does_not_write_into_the_buffers_of_its_parent() -> None:
    if sys.platform == "win32":
        pytest.skip("no fork")
    arrays = mmsg.ReceiveArrays(100, control=False)
    child = os.fork()
    if child == 0:
        arrays._data[:5] = b"child"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert arrays._data[:5] == bytes(5)
