"""TLS streams: the same as plain ones, between two of ours and against ssl's own sockets."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.stream import CONNECTED, State, Stream
from uloop_reactor.tls import TlsStream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]

FILES = Path(__file__).parent / "tls_files"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
MUCH = os.urandom(1_000_003) * 8


def server_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FILES / "localhost.pem", FILES / "localhost.key")
    context.minimum_version = context.maximum_version = version
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(FILES / "ca.pem"))


class Recorder(TlsStream):
    """Notes what it is told."""

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        **options: Any,
    ) -> None:
        self.calls: list[str] = []
        self.chunks: list[bytes] = []
        self.total = 0
        self.reason: BaseException | None = None
        super().__init__(
            loop, sock, context, server_side=server_side, server_hostname=server_hostname, **options
        )

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        assert data
        self.chunks.append(data)
        self.total += len(data)
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


class HalfOpen(Recorder):
    def on_eof(self) -> None:
        self.calls.append("eof")


@pytest.fixture
def make_streams(loop: Uloop, make_pair: MakePair) -> Iterator[Callable[..., tuple[Recorder, Recorder]]]:
    """Makes a client and a server that are connected with each other, and shake hands when the loop runs."""
    made: list[Recorder] = []

    def make(
        client: type[Recorder] = Recorder,
        server: type[Recorder] = Echo,
        *,
        context: ssl.SSLContext | None = None,
        pair: tuple[socket.socket, socket.socket] | None = None,
        **options: Any,
    ) -> tuple[Recorder, Recorder]:
        left, right = pair or make_pair()
        made.append(client(loop, left, client_context(), server_hostname="localhost", **options))
        made.append(server(loop, right, context or server_context(), server_side=True, **options))
        return made[-2], made[-1]

    yield make
    for stream in made:
        stream.abort()


MakeStreams = Callable[..., tuple[Recorder, Recorder]]


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


def over(*streams: Recorder) -> bool:
    return all("close" in stream.calls for stream in streams)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_an_echo(loop: Uloop, make_streams: MakeStreams, version: ssl.TLSVersion) -> None:
    client, server = make_streams(context=server_context(version))
    assert client.state is State.CONNECTING
    client.write(b"before ")  # waits for the handshake
    assert client.unsent == 7
    until(loop, lambda: client.data == b"before ")
    assert client.unsent == 0
    client.write(bytearray(b"after"))
    until(loop, lambda: client.data == b"before after")
    client.close()
    until(loop, lambda: over(client, server))
    assert client.calls == ["connect", "data", "close"]
    assert server.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)


def test_what_was_agreed_on_can_be_asked(loop: Uloop, make_streams: MakeStreams, make_pair: MakePair) -> None:
    left, right = make_pair()
    ours, theirs = client_context(), server_context()
    ours.set_alpn_protocols(["h2", "http/1.1"])
    theirs.set_alpn_protocols(["http/1.1"])
    client = Recorder(loop, left, ours, server_hostname="localhost")
    server = Recorder(loop, right, theirs, server_side=True)
    until(loop, lambda: client.calls and server.calls)
    assert client.ssl_object.selected_alpn_protocol() == "http/1.1"
    certificate = client.ssl_object.getpeercert()
    assert certificate is not None
    assert ("DNS", "localhost") in certificate["subjectAltName"]
    assert server.ssl_object.version() == "TLSv1.3"
    client.close()
    until(loop, lambda: over(client, server))


def test_much_in_both_directions(loop: Uloop, make_streams: MakeStreams) -> None:
    class Sender(Recorder):
        def on_pause(self) -> None:  # both send much before they read
            pass

    client, server = make_streams(Sender, Sender)
    client.write(MUCH)
    for start in range(0, len(MUCH), 50_021):
        server.write(memoryview(MUCH)[start : start + 50_021])
    until(loop, lambda: client.total == server.total == len(MUCH))
    assert client.data == MUCH
    assert server.data == MUCH


class Dribble:
    """Stands between two streams and passes on byte by byte."""

    def __init__(self, loop: Uloop, make_pair: MakePair) -> None:
        left, self.left = make_pair()
        self.right, right = make_pair()
        self.outside = left, right
        self.passed = 0
        loop.call_every(0.000_01, self.pass_on)

    def pass_on(self) -> None:
        for source, target in ((self.left, self.right), (self.right, self.left)):
            for _ in range(50):  # per turn of the loop, and the other side may read in the middle
                try:
                    byte = source.recv(1)
                except OSError:
                    break
                try:
                    target.send(byte) if byte else target.shutdown(socket.SHUT_WR)
                except OSError:
                    break
                self.passed += 1
                if self.passed % 3 or not byte:
                    break


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_byte_by_byte(
    loop: Uloop, make_streams: MakeStreams, make_pair: MakePair, version: ssl.TLSVersion
) -> None:
    client, server = make_streams(pair=Dribble(loop, make_pair).outside, context=server_context(version))
    client.write(b"question")
    until(loop, lambda: client.data == b"question")
    server.write(b"x" * 500)
    server.close()
    until(loop, lambda: over(client, server))
    assert client.data == b"question" + b"x" * 500
    assert client.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)


def test_half_close_byte_by_byte(loop: Uloop, make_streams: MakeStreams, make_pair: MakePair) -> None:
    dribble = Dribble(loop, make_pair)
    client, server = make_streams(HalfOpen, HalfOpen, pair=dribble.outside)
    client.write(b"x")
    server.write(b"x")  # behind the session tickets
    until(loop, lambda: client.data == server.data == b"x")
    passed = dribble.passed
    server.write(b" answer" * 30)
    until(loop, lambda: dribble.passed > passed + 50)
    assert client.data == b"x"  # it is in the middle of a record
    client.write(b"question")
    client.write_eof()
    until(loop, lambda: "eof" in server.calls)
    assert server.data == b"xquestion"
    server.write(b"the end")
    server.close()
    until(loop, lambda: over(client, server))
    assert client.data == b"x" + b" answer" * 30 + b"the end"
    assert client.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)


# Half close


def test_we_end_and_the_peer_goes_on(loop: Uloop, make_streams: MakeStreams) -> None:
    client, server = make_streams(Recorder, HalfOpen)
    until(loop, lambda: client.calls and server.calls)
    client.write(b"question")
    client.write_eof()
    until(loop, lambda: "eof" in server.calls)
    assert client.state is State.WE_ENDED
    assert server.state is State.THEY_ENDED
    server.write(b"answer")
    until(loop, lambda: client.data == b"answer")
    server.write_eof()
    until(loop, lambda: over(client, server))
    assert client.calls == ["connect", "data", "eof", "close"]
    assert server.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)
    with pytest.raises(RuntimeError, match="write_eof"):
        client.write(b"more")


def test_there_is_no_half_close_before_tls_1_3(loop: Uloop, make_streams: MakeStreams) -> None:
    client, server = make_streams(context=server_context(ssl.TLSVersion.TLSv1_2))
    with pytest.raises(NotImplementedError, match="not negotiated before on_connect"):
        client.write_eof()
    until(loop, lambda: client.calls and server.calls)
    with pytest.raises(NotImplementedError, match=r"needs TLSv1\.3; the version is TLSv1\.2"):
        client.write_eof()
    client.write(b"still open")
    until(loop, lambda: client.data == b"still open")


# Ends


def test_closing_at_once_still_sends_what_was_written(loop: Uloop, make_streams: MakeStreams) -> None:
    client, server = make_streams(Recorder, Recorder)
    client.write(MUCH)
    client.close()
    until(loop, lambda: over(client, server))
    assert server.data == MUCH
    assert client.calls == ["close"]
    assert server.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)


def test_closing_with_nothing_to_send_gives_the_handshake_up(loop: Uloop, make_streams: MakeStreams) -> None:
    client, server = make_streams()
    until(loop, lambda: client._flags & CONNECTED)
    client.close()
    assert client.fileno() == -1
    until(loop, lambda: over(client, server))
    assert (client.calls, client.reason) == (["close"], None)
    assert server.calls == ["close"]
    assert isinstance(server.reason, (ssl.SSLEOFError, ConnectionError))


def test_a_handshake_that_cannot_even_be_sent_is_given_up(loop: Uloop, make_pair: MakePair) -> None:
    sock, _peer = make_pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # or Windows takes anything
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass
    client = Recorder(loop, sock, client_context(), server_hostname="localhost")
    until(loop, lambda: client.unsent)
    client.close()
    assert client.fileno() == -1
    until(loop, lambda: over(client))
    assert (client.calls, client.reason) == (["close"], None)


def test_closing_while_the_peer_gives_the_handshake_up(loop: Uloop, make_streams: MakeStreams) -> None:
    client, server = make_streams()
    server.write(MUCH)
    server.close()  # in order, as soon as the handshake is done: but it never is
    client.close()
    until(loop, lambda: over(client, server))
    assert server.calls == ["close"]
    assert isinstance(server.reason, (ssl.SSLEOFError, ConnectionError))
    assert server.unsent == 0


def test_a_closed_stream_has_no_timer(loop: Uloop, make_streams: MakeStreams) -> None:
    client, _ = make_streams()
    client.close()
    client.pause_reading()
    client.resume_reading()
    assert client._timer is None


def test_the_end_waits_for_the_pause_to_end(loop: Uloop, make_streams: MakeStreams) -> None:
    class Pauses(Recorder):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            self.pause_reading()

    client, server = make_streams(Pauses, Recorder)
    until(loop, lambda: client.calls and server.calls)
    server.write(b"x" * 100)
    server.close()
    until(loop, lambda: client.data)
    for _ in range(10):
        loop.run_once(0.005)
    assert client.calls == ["connect", "data"]
    client.resume_reading()
    until(loop, lambda: over(client, server))
    assert client.calls == ["connect", "data", "eof", "close"]
    assert client.reason is None


@pytest.mark.parametrize("closing", [False, True])
def test_pausing_in_on_connect_keeps_what_came_with_the_handshake(
    loop: Uloop, make_streams: MakeStreams, closing: bool
) -> None:
    class Pauses(Recorder):
        def on_connect(self) -> None:
            super().on_connect()
            self.pause_reading()

    client, server = make_streams(Recorder, Pauses)
    client.write(b"question")  # leaves together with the last message of the handshake
    if closing:
        client.close()
    until(loop, lambda: server.calls)
    for _ in range(10):
        loop.run_once(0.005)
    assert server.calls == ["connect"]
    server.resume_reading()
    if closing:
        until(loop, lambda: over(client, server))
        assert server.calls == ["connect", "data", "eof", "close"]
    until(loop, lambda: server.data == b"question")


def test_what_a_callback_raises_loses_nothing(
    loop: Uloop, make_streams: MakeStreams, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Recorder):
        def on_connect(self) -> None:
            super().on_connect()
            raise LookupError("a fault of this test")

        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            raise LookupError("a fault of this test")

    client, server = make_streams(Recorder, Fails)
    client.write(b"question")
    client.close()
    until(loop, lambda: over(client, server))
    assert server.data == b"question"
    assert server.calls == ["connect", "data", "eof", "close"]
    assert (client.reason, server.reason) == (None, None)
    assert "a fault of this test" in caplog.text


@pytest.mark.parametrize("callback", ["on_connect", "on_data", "on_eof", "on_close", "on_pause", "on_drain"])
@pytest.mark.parametrize("action", ["close", "abort", "write_eof", "pause_reading", "stop"])
def test_a_callback_may_do_anything(
    loop: Uloop, make_streams: MakeStreams, callback: str, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = make_streams()
    before = getattr(client, callback)

    def act(*args: object) -> None:
        setattr(client, callback, before)
        before(*args)
        getattr(loop if action == "stop" else client, action)()

    setattr(client, callback, act)
    until(loop, lambda: client.calls)
    if client.state is State.OPEN:
        client.write(MUCH)
    for _ in range(20):
        loop.run_once(0.01)
    server.close()
    client.close()
    until(loop, lambda: over(client, server))
    loop.run_once(0)
    for stream in (client, server):
        assert stream.calls.count("close") == 1
        assert stream.calls[-1] == "close"
    assert not [record for record in caplog.records if record.exc_info]


# Limits


def test_backpressure_counts_what_waits(loop: Uloop, make_streams: MakeStreams) -> None:
    paused: list[int] = []
    client, server = make_streams(Recorder, Recorder, write_limit=len(MUCH))
    client.on_pause = lambda: paused.append(client.unsent)  # type: ignore[method-assign]
    client.write(b"x" * 70_000)
    assert client.unsent == 70_000  # not even encrypted
    assert paused == []  # nor is on_pause called before on_connect
    until(loop, lambda: server.total == 70_000)
    server.pause_reading()
    client.write(MUCH)
    assert len(paused) == 1
    assert client.unsent > 64 * 1024
    while client.state is State.OPEN:
        client.write(MUCH)
    until(loop, lambda: over(client))
    assert isinstance(client.reason, BufferError)


# Against another implementation of the same protocol: blocking sockets, on a thread.


def with_blocking_peer(
    loop: Uloop, make_pair: MakePair, talk: Callable[[ssl.SSLSocket], object], *, server_side: bool
) -> tuple[socket.socket, threading.Thread]:
    ours, theirs = make_pair()
    theirs.setblocking(True)
    theirs.settimeout(30)
    context = server_context() if server_side else client_context()

    def run() -> None:
        with context.wrap_socket(
            theirs, server_side=server_side, server_hostname=None if server_side else "localhost"
        ) as sock:
            talk(sock)

    thread = threading.Thread(target=run)
    thread.start()
    return ours, thread


@pytest.mark.parametrize("we_serve", [True, False])
def test_against_blocking_sockets(loop: Uloop, make_pair: MakePair, we_serve: bool) -> None:
    answers: list[bytes] = []

    def talk(sock: ssl.SSLSocket) -> None:
        sock.sendall(b"y" * 100_000)
        while sum(map(len, answers)) < 100_000:
            answers.append(sock.recv(100_000))
        sock.unwrap()

    sock, thread = with_blocking_peer(loop, make_pair, talk, server_side=not we_serve)
    if we_serve:
        stream: Recorder = Echo(loop, sock, server_context(), server_side=True)
    else:
        stream = Echo(loop, sock, client_context(), server_hostname="localhost")
    until(loop, lambda: over(stream))
    thread.join()
    assert b"".join(answers) == b"y" * 100_000
    assert stream.calls == ["connect", "data", "eof", "close"]
    assert stream.reason is None


def test_the_end_in_the_same_read_as_data(loop: Uloop, make_pair: MakePair) -> None:
    """And the connection stays up: what lies undelivered is not shown by the socket."""
    paused = threading.Event()

    def talk(sock: ssl.SSLSocket) -> None:
        paused.wait(30)
        sock.sendall(b"last words")
        sock.unwrap()  # waits for the other side's

    class Pauses(Recorder):
        def on_connect(self) -> None:
            super().on_connect()
            self.pause_reading()
            paused.set()

    sock, thread = with_blocking_peer(loop, make_pair, talk, server_side=False)
    stream = Pauses(loop, sock, server_context(), server_side=True)
    until(loop, lambda: stream.calls)
    while True:  # until there are two records
        try:
            waiting = len(sock.recv(1000, socket.MSG_PEEK))
        except BlockingIOError:
            waiting = 0
        if waiting >= len(b"last words") + 22 + 24:
            break
        loop.run_once(0.01)
    stream.resume_reading()
    until(loop, lambda: over(stream))
    thread.join()
    assert stream.data == b"last words"
    assert stream.calls == ["connect", "data", "eof", "close"]
    assert stream.reason is None


def test_it_is_a_stream(loop: Uloop, make_streams: MakeStreams) -> None:
    client, _server = make_streams()
    assert isinstance(client, Stream)
    heard: list[bytes] = []
    client.on_data = heard.append  # type: ignore[method-assign, assignment]
    client.write(b"hello")
    until(loop, lambda: heard)
    assert heard == [b"hello"]
    closed: list[Stream] = []
    client.when_closed(closed.append)
    client.close()
    until(loop, lambda: closed)
    assert closed == [client]
    assert client.calls == ["connect", "close"]
