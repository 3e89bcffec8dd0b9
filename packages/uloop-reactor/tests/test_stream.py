"""Streams: what is written arrives, whoever writes it, however it is cut, and the callbacks in order."""

from __future__ import annotations

import array
import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.stream import SEND_SIZE, State, Stream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]

AF_UNIX: Any = getattr(socket, "AF_UNIX", None)  # Windows' Python has none


class Recorder(Stream):
    """Notes what it is told."""

    def __init__(self, loop: Uloop, sock: socket.socket, **options: Any) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.reason: BaseException | None = None
        super().__init__(loop, sock, **options)

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.data += data
        if self.calls[-1:] != ["data"]:
            self.calls.append("data")

    def on_eof(self) -> None:
        self.calls.append("eof")
        super().on_eof()

    def on_close(self, reason: BaseException | None) -> None:
        self.calls.append("close")
        self.reason = reason


class Echo(Recorder):
    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self.write(data)


class SlotsOnly(Stream):
    __slots__ = ("heard",)

    def on_data(self, data: bytes) -> None:
        self.heard = data


@pytest.fixture
def make_streams(loop: Uloop, make_pair: MakePair) -> Iterator[Callable[..., tuple[Recorder, Recorder]]]:
    """Makes pairs of streams that are connected with each other."""
    made: list[Recorder] = []

    def make(one: type[Recorder] = Recorder, other: type[Recorder] = Recorder) -> tuple[Recorder, Recorder]:
        left, right = make_pair()
        made.extend([one(loop, left), other(loop, right)])
        return made[-2], made[-1]

    yield make
    for stream in made:
        stream.abort()


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


def receive(loop: Uloop, sock: socket.socket, size: int) -> bytes:
    """So many bytes from a socket that does not block, less only at the end."""
    received = b""
    while len(received) < size:
        try:
            data = sock.recv(size - len(received))
        except BlockingIOError:
            loop.run_once(0.01)
            continue
        if not data:
            break
        received += data
    return received


def test_nothing_is_called_from_within_the_constructor(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    peer.send(b"early")
    stream = Recorder(loop, sock)
    assert (stream.calls, stream.state) == ([], State.CONNECTING)
    until(loop, lambda: stream.data == b"early")
    assert stream.calls == ["connect", "data"]
    assert stream.state is State.OPEN
    stream.abort()


def test_an_echo(loop: Uloop, make_streams: Callable[..., tuple[Recorder, Recorder]]) -> None:
    client, server = make_streams(Recorder, Echo)
    for word in (b"one ", b"two ", b"three"):
        client.write(word)
    until(loop, lambda: client.data == b"one two three")
    client.close()
    until(loop, lambda: "close" in server.calls and "close" in client.calls)
    assert client.calls == ["connect", "data", "close"]
    assert server.calls == ["connect", "data", "eof", "close"]
    assert client.reason is None
    assert server.reason is None


def test_what_is_written_before_the_stream_is_open_waits(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = Recorder(loop, sock)
    stream.write(b"one ")
    stream.write(b"two")
    assert stream.unsent == 7
    stream.on_connect = lambda: stream.write(b" three")  # type: ignore[method-assign]
    assert receive(loop, peer, 13) == b"one two three"
    assert stream.unsent == 0
    stream.abort()


def test_what_is_written_may_be_changed_afterwards(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = Recorder(loop, sock)
    until(loop, lambda: stream.calls)
    data = bytearray(b"x" * 8_000_000)
    stream.write(data)
    assert stream.unsent
    data[:] = b"y" * len(data)
    stream.write(memoryview(data)[:10])
    data[:10] = b"z" * 10
    data.clear()  # nobody holds on to it
    assert receive(loop, peer, 8_000_010) == b"x" * 8_000_000 + b"y" * 10
    stream.abort()


def test_items_are_not_bytes(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = Recorder(loop, sock)
    until(loop, lambda: stream.calls)
    numbers = array.array("q", range(1_000_000))
    stream.write(memoryview(numbers))
    assert stream.unsent
    assert receive(loop, peer, 8_000_000) == numbers.tobytes()
    for nothing in (memoryview(b""), bytearray(), b""):
        stream.write(nothing)
    assert stream.unsent == 0
    stream.abort()


@pytest.mark.parametrize("nonsense", ["text", 7, None, [1, 2], ""])
def test_what_has_no_bytes_is_refused_at_once(loop: Uloop, make_pair: MakePair, nonsense: object) -> None:
    stream = Recorder(loop, make_pair()[0])
    for _ in range(2):  # before it is open, and after
        with pytest.raises(TypeError, match="bytes-like"):
            stream.write(nonsense)  # type: ignore[arg-type]
        until(loop, lambda: stream.calls)
    stream.abort()
    with pytest.raises(TypeError, match="bytes-like"):
        stream.write(nonsense)  # type: ignore[arg-type]


def test_writing_to_what_is_over_is_no_mistake(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = Recorder(loop, sock)
    until(loop, lambda: stream.calls)
    stream.write(b"last")
    stream.close()
    stream.write(b"dropped")
    assert receive(loop, peer, 100) == b"last"
    stream.abort()
    stream.write(b"dropped")
    assert stream.unsent == 0


@pytest.mark.parametrize("then", ["", "close", "abort"])
def test_writing_behind_the_end_is_a_mistake(loop: Uloop, make_pair: MakePair, then: str) -> None:
    stream = Recorder(loop, make_pair()[0])
    stream.write_eof()
    stream.write_eof()
    if then:
        getattr(stream, then)()
    with pytest.raises(RuntimeError, match="write_eof"):
        stream.write(b"more")
    stream.abort()


def test_callbacks_can_be_assigned_to_an_instance(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    heard: list[bytes] = []
    stream = Stream(loop, sock)
    stream.on_data = heard.append  # type: ignore[method-assign]
    peer.send(b"hello")
    until(loop, lambda: heard)
    assert heard == [b"hello"]
    stream.abort()


def test_subclasses_may_have_slots(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = SlotsOnly(loop, sock)
    peer.send(b"hello")
    until(loop, lambda: hasattr(stream, "heard"))
    assert vars(stream) == {}
    stream.abort()


def test_listeners_hear_after_on_close(loop: Uloop, make_pair: MakePair) -> None:
    stream = Recorder(loop, make_pair()[0])

    def fail(stream: Stream) -> None:
        stream.calls.append("failed")  # type: ignore[attr-defined]
        raise ValueError("a fault of this test")

    stream.when_closed(fail)
    stream.when_closed(lambda stream: stream.calls.append("second"))
    until(loop, lambda: stream.calls)
    stream.abort()
    assert stream.calls == ["connect"]
    stream.when_closed(lambda stream: stream.calls.append("late"))
    until(loop, lambda: "late" in stream.calls)
    assert stream.calls == ["connect", "close", "failed", "second", "late"]


def test_what_it_knows_of_itself(loop: Uloop, make_pair: MakePair) -> None:
    sock, _ = make_pair()
    number = sock.fileno()
    stream = Recorder(loop, sock)
    assert (stream.loop, stream.fileno(), stream.peer) == (loop, number, sock.getpeername())
    assert repr(stream) == f"<Recorder with {stream.peer!r}, connecting, 0 bytes unsent>"
    stream.abort()
    assert (stream.fileno(), stream.state) == (-1, State.CLOSED)


def connecting(address: Any, family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.setblocking(False)
    sock.connect_ex(address)
    return sock


def test_a_connect_in_progress(loop: Uloop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = Recorder(loop, connecting(listener.getsockname()))
        stream.write(b"hello")
        accepted, _ = listener.accept()
        with accepted:
            accepted.setblocking(False)
            assert receive(loop, accepted, 5) == b"hello"
            assert stream.calls == ["connect"]
            assert stream.peer == listener.getsockname()
            accepted.send(b"hi")
            until(loop, lambda: stream.data == b"hi")
            assert stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            stream.close()
            assert receive(loop, accepted, 1) == b""
            stream.abort()


def test_a_connect_that_is_refused(loop: Uloop) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        stream = Recorder(loop, connecting(unused.getsockname()))
        stream.write(b"hello")
        until(loop, lambda: stream.calls)
        assert stream.calls == ["close"]
        assert isinstance(stream.reason, ConnectionRefusedError)
        assert "Unknown" not in str(stream.reason)


def test_closing_a_connect_in_progress_gives_it_up(loop: Uloop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = Recorder(loop, connecting(listener.getsockname()))
        stream.close()
        assert stream.fileno() == -1
        until(loop, lambda: stream.calls)
        assert (stream.calls, stream.reason) == (["close"], None)


def test_closing_at_once_still_sends_what_was_written(loop: Uloop, make_pair: MakePair) -> None:
    sock, peer = make_pair()
    stream = Recorder(loop, sock)
    stream.write(b"too many, try later")
    stream.close()
    assert receive(loop, peer, 100) == b"too many, try later"
    peer.close()
    until(loop, lambda: stream.calls)
    assert (stream.calls, stream.reason) == (["close"], None)


@pytest.mark.skipif(AF_UNIX is None, reason="this Python has no Unix sockets")
def test_unix_streams(loop: Uloop) -> None:
    path = f"\0uloop-test-{os.getpid()}" if sys.platform == "linux" else f"/tmp/uloop-test-{os.getpid()}"
    with socket.socket(AF_UNIX) as listener:
        listener.bind(path)
        try:
            listener.listen()
            client = Recorder(loop, connecting(path, AF_UNIX))
            server = Echo(loop, listener.accept()[0])
            client.write(b"hello")
            until(loop, lambda: client.data == b"hello")
            client.close()
            until(loop, lambda: "close" in client.calls and "close" in server.calls)
            assert (client.reason, server.reason) == (None, None)
        finally:
            if sys.platform != "linux":
                os.unlink(path)


def test_ten_megabytes_in_both_directions(
    loop: Uloop, make_streams: Callable[..., tuple[Recorder, Recorder]]
) -> None:
    class Sender(Recorder):
        def __init__(self, loop: Uloop, sock: socket.socket) -> None:
            self.chunks: list[bytes] = []
            self.total = 0
            super().__init__(loop, sock)

        def on_data(self, data: bytes) -> None:
            self.chunks.append(data)
            self.total += len(data)

        def on_pause(self) -> None:  # both send much before they read
            pass

    left, right = make_streams(Sender, Sender)
    assert isinstance(left, Sender)
    assert isinstance(right, Sender)
    one, other = (os.urandom(1_000_003) * 10 for _ in range(2))
    left.write(one)
    for start in range(0, len(other), 7919):
        right.write(other[start : start + 7919])
    until(loop, lambda: left.total == len(other) and right.total == len(one))
    assert b"".join(left.chunks) == other
    assert b"".join(right.chunks) == one


def test_a_thousand_streams_come_and_go(
    loop: Uloop, make_streams: Callable[..., tuple[Recorder, Recorder]]
) -> None:
    for number in range(100 if sys.platform == "win32" else 1000):  # a pair costs 10 ms and more there
        client, server = make_streams(Recorder, Echo)
        client.write(b"x")
        until(loop, lambda client=client: client.data)  # type: ignore[misc]
        (client if number % 2 else server).close()
        until(loop, lambda client=client, server=server: client.calls[-1] == server.calls[-1] == "close")  # type: ignore[misc]
        assert (client.reason, server.reason) == (None, None)
    assert "0 descriptors" in repr(loop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high_water": 10, "low_water": 11}, "low_water <= high_water"),
        ({"low_water": -1}, "0 <= low_water"),
        ({"high_water": 100, "write_limit": 99}, "high_water <= write_limit"),
        ({"idle_timeout": 0}, "idle_timeout must be a positive number of seconds, not 0"),
        ({"write_timeout": -1.5}, "write_timeout .* not -1.5"),
        ({"linger_timeout": float("inf")}, "linger_timeout .* not inf"),
    ],
)
def test_arguments_that_make_no_sense(
    loop: Uloop, make_pair: MakePair, options: dict[str, float], message: str
) -> None:
    sock, _ = make_pair()
    with pytest.raises(ValueError, match=message):
        Recorder(loop, sock, **options)
    assert sock.fileno() != -1  # it is still the caller's
    assert "0 descriptors" in repr(loop)


def test_sockets_that_are_no_streams(loop: Uloop, make_pair: MakePair) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="SOCK_STREAM"),
    ):
        Recorder(loop, sock)
    closed, _ = make_pair()
    closed.close()
    with pytest.raises((OSError, ValueError)):
        Recorder(loop, closed)
    assert "0 descriptors" in repr(loop)


def test_tls_sockets_are_not_for_a_stream(loop: Uloop, make_pair: MakePair) -> None:
    sock, _ = make_pair()
    with ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(
        sock, server_side=True, do_handshake_on_connect=False
    ) as wrapped:
        with pytest.raises(ValueError, match=r"give the plain socket to a TlsStream, not <ssl\.SSLSocket"):
            Recorder(loop, wrapped)
        assert wrapped.fileno() != -1
    assert "0 descriptors" in repr(loop)


class LikeMacOs(socket.socket):
    """There, the options of a socket cannot be set any more when the peer has reset."""

    def setsockopt(self, *_: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def test_options_that_cannot_be_set_are_no_failure(loop: Uloop) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as peer,
    ):
        accepted, _ = listener.accept()
        stream = Recorder(loop, LikeMacOs(fileno=accepted.detach()))
        peer.send(b"hello")
        until(loop, lambda: stream.data == b"hello")
        stream.abort()


def test_no_send_is_given_more_than_a_system_can_take(loop: Uloop, make_pair: MakePair) -> None:
    sizes: list[int] = []

    class Counting(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            sizes.append(len(data))
            return super().send(data, flags)

    sock, peer = make_pair()
    stream = Recorder(loop, Counting(fileno=sock.detach()))
    stream.write(b"x" * 3_000_000)
    assert receive(loop, peer, 3_000_000) == b"x" * 3_000_000
    stream.write(b"y" * 3_000_000)
    assert receive(loop, peer, 3_000_000) == b"y" * 3_000_000
    assert max(sizes) == SEND_SIZE
    stream.abort()


def test_a_failed_constructor_calls_nobody(
    loop: Uloop, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    sock, _ = make_pair()
    number = sock.fileno()
    loop.add(sock, UEvent.poll_none, Recorder(loop, make_pair()[0]))
    made: list[Recorder] = []

    class Second(Recorder):
        def __init__(self, loop: Uloop, sock: socket.socket) -> None:
            made.append(self)
            super().__init__(loop, sock, idle_timeout=20)

    with pytest.raises(FileExistsError):
        Second(loop, sock)
    loop.remove(number)
    loop.run_once(0)
    loop.run_once(0)
    assert (made[0].calls, made[0].state, made[0]._timer) == ([], State.CLOSED, None)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_loop_that_is_closed_takes_no_streams(loop: Uloop, make_pair: MakePair) -> None:
    sock, _ = make_pair()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        Recorder(loop, sock)
    assert sock.fileno() != -1
