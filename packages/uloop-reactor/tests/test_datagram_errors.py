"""An error is one datagram's business: it is told, with the peer, and the socket goes on."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.mmsg import UNIX

IPV4 = "127.0.0.1"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has an error queue")
not_windows = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows tells of ICMP errors in recvfrom alone, later, and some Windows not at all",
)


class Recorder(DatagramSocket):
    def __init__(self, *args: Any, **options: Any):
        self.data: list[bytes] = []
        self.errors: list[tuple[int | None, Address | None]] = []
        self.then: Callable[[], object] = lambda: None
        super().__init__(*args, **options)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        self.then()

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append((error.errno, peer))


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


def assert_that_it_sleeps(loop: Uloop) -> None:
    loop.run_once(0.01)
    started = time.monotonic()
    for _ in range(3):
        loop.run_once(0.01)
    assert time.monotonic() - started >= 0.03 - 1e-6  # but for the rounding of floats


def closed_ports(count: int, host: str = IPV4) -> list[Any]:
    """Addresses that nobody is bound to."""
    made = []
    try:
        for _ in range(count):
            made.append(
                sock := socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            )
            sock.bind((host, 0))
        return [sock.getsockname() for sock in made]
    finally:
        for sock in made:
            sock.close()


def connected(loop: Uloop, address: Address, **options: Any) -> Recorder:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(address)
    return Recorder(loop, sock, **options)


@not_windows
@pytest.mark.parametrize("peer_errors", [False, True])
def test_a_connected_peer_that_is_not_there(peer_errors: bool, loop: Uloop) -> None:
    (address,) = closed_ports(1)
    ours = connected(loop, address, peer_errors=peer_errors)
    ours.send(b"x")
    run_until(loop, lambda: ours.errors != [])
    assert ours.errors == [(errno.ECONNREFUSED, address)]
    assert_that_it_sleeps(loop)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:  # and now it is
        peer.bind(address)
        peer.settimeout(30)
        ours.send(b"y")
        data, ours_there = peer.recvfrom(100)
        peer.sendto(data, ours_there)
        run_until(loop, lambda: ours.data == [b"y"])
    assert len(ours.errors) == 1
    ours.close()


@not_windows
@pytest.mark.parametrize("peer_errors", [False, True])
def test_the_error_of_one_does_not_cost_the_next(peer_errors: bool, loop: Uloop) -> None:
    """A send that fails may tell of an earlier one, and the datagram in hand is yet to be sent."""
    (address,) = closed_ports(1)
    ours = connected(loop, address, peer_errors=peer_errors)
    ours.send(b"refused")  # the ICMP message is there by now: it is the loopback interface
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(address)
        peer.settimeout(30)
        ours.send(b"taken")
        assert peer.recv(100) == b"taken"
    assert ours.errors == [(errno.ECONNREFUSED, address)]
    assert_that_it_sleeps(loop)
    ours.close()


@linux_only
@pytest.mark.parametrize("host", [IPV4, "::1"])
def test_unconnected_peers_are_named(host: str, loop: Uloop) -> None:
    try:
        gone = closed_ports(3, host)
    except OSError:
        pytest.skip("this machine has no IPv6")
    ours = Recorder.bind(loop, (host, 0), peer_errors=True)
    for address in gone:
        ours.send(b"x", address)
    run_until(loop, lambda: len(ours.errors) == 3)
    assert sorted(ours.errors) == sorted((errno.ECONNREFUSED, address) for address in gone)
    assert_that_it_sleeps(loop)
    ours.close()


@linux_only
def test_in_a_batch_the_others_get_theirs(loop: Uloop) -> None:
    ours = Recorder.bind(loop, (IPV4, 0), peer_errors=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((IPV4, 0))
        peer.settimeout(30)
        gone = closed_ports(3)

        def answer() -> None:
            for number, address in enumerate(gone):
                ours.send(b"lost", address)
                ours.send(b"%d" % number, peer.getsockname())

        ours.then = answer
        peer.sendto(b"go", ours.address)
        peer.sendto(b"go", ours.address)
        run_until(loop, lambda: len(ours.data) == 2)
        assert [peer.recv(100) for _ in range(6)] == [b"0", b"1", b"2"] * 2
        run_until(loop, lambda: len(ours.errors) == 6)
    assert {number for number, _ in ours.errors} == {errno.ECONNREFUSED}
    assert sorted((peer for _, peer in ours.errors), key=str) == sorted(gone * 2, key=str)
    ours.close()


@linux_only
def test_strangers_who_go_away_are_no_news_to_a_server(loop: Uloop) -> None:
    ours = Recorder.bind(loop, (IPV4, 0))
    for address in closed_ports(3):
        ours.send(b"x", address)
    assert_that_it_sleeps(loop)
    assert ours.errors == []
    ours.close()


@pytest.mark.parametrize("peer_errors", [False, True])  # with it, Linux tells twice
def test_one_that_is_too_long_to_send(peer_errors: bool, loop: Uloop) -> None:
    """In the middle of a batch, and at once."""
    ours = Recorder.bind(loop, (IPV4, 0), peer_errors=peer_errors)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((IPV4, 0))
        peer.settimeout(30)
        sent = [b"one", b"x" * 65536, b"", b"four", b"x" * 65508, b"six"]

        def answer() -> None:
            for data in sent:
                ours.send(data, peer.getsockname())

        ours.then = answer
        peer.sendto(b"go", ours.address)
        run_until(loop, lambda: ours.data != [])
        assert [peer.recv(100) for _ in range(4)] == [b"one", b"", b"four", b"six"]
        answer()
        assert [peer.recv(100) for _ in range(4)] == [b"one", b"", b"four", b"six"]
        assert_that_it_sleeps(loop)
        assert ours.errors == [(errno.EMSGSIZE, peer.getsockname())] * 4
    ours.close()


def test_broadcast_is_the_programs(loop: Uloop) -> None:
    ours = Recorder.bind(loop, (IPV4, 0))
    ours.send(b"x", ("<broadcast>", 9))
    assert [peer for _, peer in ours.errors] == [("255.255.255.255", 9)]
    assert ours.errors[0][0] == errno.EACCES
    ours.close()


def test_on_error_that_raises(loop: Uloop) -> None:
    failures: list[object] = []
    loop.on_error(lambda error, culprit: failures.append((str(error), culprit)))

    class Failing(Recorder):
        def on_error(self, error: OSError, peer: Address | None) -> None:
            super().on_error(error, peer)
            raise ArithmeticError("in on_error")

    ours = Failing.bind(loop, (IPV4, 0))
    for _ in range(2):
        ours.send(b"x" * 65536, ours.address)
    ours.send(b"y", ours.address)
    run_until(loop, lambda: ours.data == [b"y"])
    assert failures == [("in on_error", ours)] * 2
    ours.close()


def test_not_connected(loop: Uloop) -> None:
    ours = Recorder.bind(loop, (IPV4, 0))
    ours.send(b"x")
    assert len(ours.errors) == 1
    assert ours.errors[0][0] in (errno.EDESTADDRREQ, errno.ENOTCONN, errno.EINVAL)
    ours.close()


@not_windows
def test_unix_peers_that_are_gone(loop: Uloop, tmp_path: Path) -> None:
    assert UNIX is not None
    ours = Recorder.bind(loop, str(tmp_path / "ours"))
    dead = str(tmp_path / "dead")
    with socket.socket(UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(dead)
    missing = str(tmp_path / "missing")
    ours.send(b"x", dead)
    ours.send(b"x", missing)
    assert ours.errors == [(errno.ECONNREFUSED, dead), (errno.ENOENT, missing)]
    ours.send(b"y", ours.address)
    run_until(loop, lambda: ours.data == [b"y"])
    assert_that_it_sleeps(loop)
    ours.close()


@not_windows
def test_a_pair_whose_other_end_is_closed(loop: Uloop) -> None:
    assert UNIX is not None
    sock, peer = socket.socketpair(UNIX, socket.SOCK_DGRAM)
    ours = Recorder(loop, sock)
    peer.send(b"last")
    peer.close()
    run_until(loop, lambda: ours.data == [b"last"])
    ours.send(b"x")
    run_until(loop, lambda: ours.errors != [])
    assert ours.errors[0][0] in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN)
    assert_that_it_sleeps(loop)
    ours.close()


@not_windows
def test_one_that_was_shut_down_does_not_spin(loop: Uloop) -> None:
    if loop.backend == "select":
        pytest.skip("select(2) does not tell that from datagrams")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((IPV4, 0))
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        ours = Recorder(loop, sock)
        sock.shutdown(socket.SHUT_RDWR)
        for _ in range(3):
            loop.run_once(0.01)
        assert_that_it_sleeps(loop)
        ours.close()


@linux_only
def test_an_error_that_asks_for_no_report_is_taken_too(loop: Uloop) -> None:
    """IP_RECVERR was set by whoever made the socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((IPV4, 0))
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)
    ours = Recorder(loop, sock)
    (gone,) = closed_ports(1)
    ours.send(b"x", gone)
    run_until(loop, lambda: ours.errors != [])
    assert ours.errors == [(errno.ECONNREFUSED, gone)]
    assert_that_it_sleeps(loop)
    ours.close()


def test_the_default_is_a_line_at_debug(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    ours = DatagramSocket.bind(loop, (IPV4, 0))
    with caplog.at_level("DEBUG", logger="uloop.reactor"):
        ours.send(b"x" * 65536, (IPV4, 9))
    (record,) = [record for record in caplog.records if "9" in record.message]
    assert record.levelname == "DEBUG"
    assert os.strerror(errno.EMSGSIZE) in record.message or sys.platform == "win32"
    ours.close()
