"""Where a datagram socket is, and its file; sockets of clients."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.datagram import Address, DatagramSocket
from uloop_reactor.mmsg import UNIX

IPV4 = "127.0.0.1"
needs_unix = pytest.mark.skipif(
    sys.platform == "win32", reason="Python has no Unix datagram sockets on Windows"
)


class Recorder(DatagramSocket):
    def __init__(self, *args: Any, **options: Any):
        self.data: list[bytes] = []
        self.senders: list[Address] = []
        self.errors: list[int | None] = []
        super().__init__(*args, **options)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.data.append(data)
        self.senders.append(sender)

    def on_error(self, error: OSError, peer: Address | None) -> None:
        self.errors.append(error.errno)


class Echo(Recorder):
    def on_datagram(self, data: bytes, sender: Address) -> None:
        super().on_datagram(data, sender)
        self.reply(data.upper())


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


def test_the_address_of_one_that_is_not_bound_yet(loop: Uloop) -> None:
    peer = Recorder.bind(loop, (IPV4, 0))
    ours = Recorder(loop, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), packet_info=True)
    assert ours.address in (None, ("0.0.0.0", 0))
    repr(ours)
    ours.send(b"x", peer.address)  # which binds it
    run_until(loop, lambda: peer.data == [b"x"])
    host, port = ours.address
    assert (host, port) == ("0.0.0.0", peer.senders[0][1])
    ours.close()
    assert ours.address == (host, port)
    peer.close()


def test_the_loop_is_public(loop: Uloop) -> None:
    server = DatagramSocket.bind(loop, (IPV4, 0))
    assert server.loop is loop
    server.close()


# Clients


@pytest.mark.parametrize("host", [IPV4, "::1"])
def test_connect(host: str, loop: Uloop) -> None:
    try:
        server = Echo.bind(loop, (host, 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    client = Recorder.connect(loop, server.address[:2], queue_limit=5000)
    stranger = Recorder.bind(loop, (host, 0))
    stranger.send(b"not from the server", client.address)
    client.send(b"question")
    run_until(loop, lambda: client.data != [])
    assert client.data == [b"QUESTION"]
    assert server.senders == [client.address]
    assert client.errors == []
    for each in (server, client, stranger):
        each.close()


def test_connect_from(loop: Uloop) -> None:
    server, other = Echo.bind(loop, (IPV4, 0)), Recorder.bind(loop, (IPV4, 0))
    address = other.address
    with pytest.raises(OSError, match=str(address[1])):
        Recorder.connect(loop, server.address, local_address=address)
    other.close()
    client = Recorder.connect(loop, server.address, local_address=address)
    assert client.address == address
    client.send(b"x")
    run_until(loop, lambda: client.data == [b"X"])
    client.close()
    server.close()


def test_whom_one_cannot_connect_to(loop: Uloop) -> None:
    before = repr(loop)
    with pytest.raises(ValueError, match=r"example\.org"):
        Recorder.connect(loop, ("example.org", 9))
    with pytest.raises(ValueError, match="65535"):
        Recorder.connect(loop, (IPV4, 70000))
    with pytest.raises(ValueError, match="IPv4"):
        Recorder.connect(loop, (IPV4, 9), local_address=("::1", 9))
    with pytest.raises(ValueError, match="max_size"):
        Recorder.connect(loop, (IPV4, 9), max_size=0)
    with pytest.raises(TypeError, match="max_sise"):
        Recorder.connect(loop, (IPV4, 9), max_sise=7)  # type: ignore[call-arg]
    assert repr(loop) == before


@needs_unix
def test_connect_to_a_path(loop: Uloop, tmp_path: Path) -> None:
    path = tmp_path / "server"
    with pytest.raises(FileNotFoundError, match="server"):
        Recorder.connect(loop, path, local_address=str(tmp_path / "client"))
    assert list(tmp_path.iterdir()) == []  # and no file of ours stays
    server = Echo.bind(loop, path)
    names: list[Any] = [tmp_path / "client"]
    if sys.platform == "linux":
        names.append(None)  # and the kernel chooses one
    for name in names:
        client = Recorder.connect(loop, path, local_address=name)
        client.send(b"question")
        run_until(loop, lambda: client.data == [b"QUESTION"])  # noqa: B023
        assert server.senders[-1] == client.address
        client.close()
    server.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "win32", reason="the others have Unix sockets")
def test_no_unix_sockets_on_windows(loop: Uloop) -> None:
    for make in (Recorder.bind, Recorder.connect):
        with pytest.raises(ValueError, match="Unix"):
            make(loop, "path")


# The file of a Unix socket


@needs_unix
def test_the_file_is_found_again_after_chdir(
    loop: Uloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Recorder.bind(loop, "server")
    assert server.address == "server"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    server.close()
    assert not (tmp_path / "server").exists()


@needs_unix
def test_a_dead_ones_file_is_replaced(loop: Uloop, tmp_path: Path) -> None:
    assert UNIX is not None
    path = str(tmp_path / "server")
    with socket.socket(UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(path)
    server = Echo.bind(loop, path)
    client = Recorder.connect(loop, path, local_address=str(tmp_path / "client"))
    client.send(b"x")
    run_until(loop, lambda: client.data == [b"X"])
    client.close()
    server.close()
    assert list(tmp_path.iterdir()) == []


@needs_unix
@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_STREAM", "file"])
def test_a_living_ones_file_is_not(kind: str, loop: Uloop, tmp_path: Path) -> None:
    assert UNIX is not None
    path = tmp_path / "server"
    with socket.socket(UNIX, getattr(socket, kind, socket.SOCK_DGRAM)) as living:
        if kind == "file":
            path.write_text("mine")
        else:
            living.bind(str(path))
        if kind == "SOCK_STREAM":
            living.listen()
        with pytest.raises(OSError, match=r"cannot bind .*server") as caught:
            Recorder.bind(loop, str(path))
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_a_child_that_closes_its_copy_leaves_the_file(loop: Uloop, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no fork")
    server = Recorder.bind(loop, str(tmp_path / "server"))
    child = os.fork()
    if child == 0:
        try:
            server.abort()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "server").exists()
    server.close()
    assert not (tmp_path / "server").exists()


@needs_unix
def test_no_file_of_a_constructor_that_fails(loop: Uloop, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_size"):
        Recorder.bind(loop, str(tmp_path / "server"), max_size=0)
    assert list(tmp_path.iterdir()) == []
