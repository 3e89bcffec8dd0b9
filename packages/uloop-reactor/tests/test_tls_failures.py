"""TLS that fails: told as the reason, told to the peer by an alert, and never a traceback in the log."""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.stream import State
from uloop_reactor.tls import TlsStream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]

FILES = Path(__file__).parent / "tls_files"


def server_context(certificate: str = "localhost.pem") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FILES / certificate, FILES / "localhost.key")
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(FILES / "ca.pem"))


class Recorder(TlsStream):
    """Notes what it is told."""

    calls: list[str]
    reason: BaseException | None

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        self.calls.append("data")

    def on_eof(self) -> None:
        self.calls.append("eof")
        super().on_eof()

    def on_timeout(self, error: TimeoutError) -> None:
        self.calls.append("timeout")
        super().on_timeout(error)

    def on_close(self, reason: BaseException | None) -> None:
        self.calls.append("close")
        self.reason = reason


@pytest.fixture
def make_stream(loop: Uloop) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def make(sock: socket.socket, context: ssl.SSLContext, **options: Any) -> Recorder:
        stream = Recorder(loop, sock, context, **options)
        stream.calls, stream.reason = [], None
        made.append(stream)
        return stream

    yield make
    for stream in made:
        stream.abort()


@pytest.fixture(autouse=True)
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.get_records("call") if record.exc_info]


MakeStream = Callable[..., Recorder]


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


def over(*streams: Recorder) -> bool:
    return all("close" in stream.calls for stream in streams)


@pytest.mark.parametrize(
    ("certificate", "name", "untrusted", "ours", "theirs"),
    [
        ("localhost.pem", "elsewhere.example", False, "Hostname mismatch", "bad certificate"),
        ("expired.pem", "localhost", False, "has expired", "certificate expired"),
        ("localhost.pem", "localhost", True, "unable to get", "unknown ca"),
    ],
)
def test_a_certificate_that_is_not_accepted(
    loop: Uloop,
    make_pair: MakePair,
    make_stream: MakeStream,
    certificate: str,
    name: str,
    untrusted: bool,
    ours: str,
    theirs: str,
) -> None:
    left, right = make_pair()
    context = ssl.create_default_context() if untrusted else client_context()
    client = make_stream(left, context, server_hostname=name)
    server = make_stream(right, server_context(certificate), server_side=True)
    client.write(b"for nobody else's eyes")
    until(loop, lambda: over(client, server))
    assert client.calls == ["close"]
    assert isinstance(client.reason, ssl.SSLCertVerificationError)
    assert ours in str(client.reason)
    assert server.calls == ["close"]
    assert isinstance(server.reason, ssl.SSLError)
    assert theirs in str(server.reason).replace("_", " ").lower()


def test_no_version_in_common(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    ours, theirs = client_context(), server_context()
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    theirs.minimum_version = ssl.TLSVersion.TLSv1_3
    client = make_stream(left, ours, server_hostname="localhost")
    server = make_stream(right, theirs, server_side=True)
    until(loop, lambda: over(client, server))
    assert "UNSUPPORTED_PROTOCOL" in str(server.reason)
    assert "ALERT_PROTOCOL_VERSION" in str(client.reason)


def test_a_client_without_a_certificate(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    theirs = server_context()
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.load_verify_locations(FILES / "ca.pem")
    client = make_stream(left, client_context(), server_hostname="localhost")
    server = make_stream(right, theirs, server_side=True)
    until(loop, lambda: over(client, server))
    assert server.calls == ["close"]
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(server.reason)
    # With TLS 1.3 a client is done before the server has judged it.
    assert client.calls == ["connect", "close"]
    assert "CERTIFICATE_REQUIRED" in str(client.reason)


def test_a_client_that_speaks_http(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    server = make_stream(right, server_context(), server_side=True)
    left.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(loop, lambda: over(server))
    assert server.calls == ["close"]
    assert isinstance(server.reason, ssl.SSLError)
    assert "HTTP_REQUEST" in str(server.reason)


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_a_client_that_speaks_nonsense(
    loop: Uloop, make_pair: MakePair, make_stream: MakeStream, byte_by_byte: bool
) -> None:
    left, right = make_pair()
    server = make_stream(right, server_context(), server_side=True)
    nonsense = b"\x16\x03\x01\x00\x05" + b"\xff" * 300
    for piece in [nonsense[place : place + 1] for place in range(305)] if byte_by_byte else [nonsense]:
        try:
            left.send(piece)
        except OSError:
            break
        loop.run_once(0.001)
    while True:  # there is an alert, and not a reset before it
        try:
            alert = left.recv(100)
            break
        except BlockingIOError:
            loop.run_once(0.01)
    assert alert[0] == 21  # RFC 8446, 5.1: the content type
    left.close()
    until(loop, lambda: over(server))
    assert server.calls == ["close"]
    assert isinstance(server.reason, ssl.SSLError)


def test_one_that_says_nothing(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    _left, right = make_pair()
    began = loop.time()
    server = make_stream(right, server_context(), server_side=True, handshake_timeout=0.05, idle_timeout=20)
    until(loop, lambda: over(server))
    assert loop.time() - began >= 0.05
    assert server.calls == ["close"]  # on_timeout is for streams that were open
    assert isinstance(server.reason, TimeoutError)
    assert str(server.reason) == "the TLS handshake was not done in 0.05 s (handshake_timeout)"


def test_the_handshake_timeout_ends_with_the_handshake(
    loop: Uloop, make_pair: MakePair, make_stream: MakeStream
) -> None:
    left, right = make_pair()
    client = make_stream(left, client_context(), server_hostname="localhost", handshake_timeout=0.5)
    server = make_stream(right, server_context(), server_side=True, handshake_timeout=0.5, idle_timeout=0.7)
    until(loop, lambda: over(server))
    assert server.calls == ["connect", "timeout", "close"]
    assert client.calls[0] == "connect"


def test_one_that_ends_in_the_handshake(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    server = make_stream(right, server_context(), server_side=True)
    left.shutdown(socket.SHUT_WR)
    until(loop, lambda: over(server))
    assert server.calls == ["close"]
    assert isinstance(server.reason, ssl.SSLEOFError)
    assert "in the handshake" in str(server.reason)


def test_a_connection_that_is_cut(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    client = make_stream(left, client_context(), server_hostname="localhost")
    server = make_stream(right, server_context(), server_side=True)
    until(loop, lambda: client.calls and server.calls)
    client.write(b"half of what I had to")
    until(loop, lambda: "data" in server.calls)
    left.shutdown(socket.SHUT_WR)  # without a close_notify, as anybody on the way could
    until(loop, lambda: over(server))
    assert server.calls == ["connect", "data", "close"]  # no eof: this is no end
    assert isinstance(server.reason, ssl.SSLEOFError)
    assert "something may be missing" in str(server.reason)


def test_after_our_close_the_peer_may_just_end(
    loop: Uloop, make_pair: MakePair, make_stream: MakeStream
) -> None:
    left, right = make_pair()
    client = make_stream(left, client_context(), server_hostname="localhost")
    server = make_stream(right, server_context(), server_side=True)
    until(loop, lambda: client.calls and server.calls)
    server.pause_reading()
    client.close()
    until(loop, lambda: client.state is State.LINGERING)
    right.shutdown(socket.SHUT_WR)
    until(loop, lambda: over(client))
    assert client.reason is None


def test_records_that_were_tampered_with(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    left, right = make_pair()
    client = make_stream(left, client_context(), server_hostname="localhost")
    server = make_stream(right, server_context(), server_side=True)
    until(loop, lambda: client.calls and server.calls)
    client.write(b"before")
    left.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    until(loop, lambda: over(client, server))
    assert server.calls == ["connect", "data", "close"]
    assert isinstance(server.reason, ssl.SSLError)
    assert client.calls == ["connect", "close"]
    assert "ALERT_BAD_RECORD_MAC" in str(client.reason)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "server_hostname"),
        ({"server_hostname": ".nonsense"}, "label empty"),
        ({"server_hostname": "localhost", "handshake_timeout": 0}, "handshake_timeout must be .* not 0"),
        ({"server_hostname": "localhost", "idle_timeout": -1}, "idle_timeout"),
    ],
)
def test_arguments_that_make_no_sense(
    loop: Uloop, make_pair: MakePair, options: dict[str, object], message: str
) -> None:
    sock, _ = make_pair()
    with pytest.raises(ValueError, match=message):
        TlsStream(loop, sock, client_context(), **options)  # type: ignore[arg-type]
    assert sock.fileno() != -1  # it is still the caller's
    assert "0 descriptors" in repr(loop)


@pytest.mark.parametrize("fault", ["nonsense", "end", "tampering"])
def test_what_has_failed_is_freed_at_once(
    loop: Uloop, make_pair: MakePair, make_stream: MakeStream, fault: str
) -> None:
    """Though it keeps the reason: a flood of nonsense is no work for the garbage collector."""

    def fail() -> weakref.ref[Recorder]:
        left, right = make_pair()
        server = Recorder(loop, right, server_context(), server_side=True)
        server.calls, server.reason = [], None
        if fault == "nonsense":
            left.send(b"GET / HTTP/1.1\r\n\r\n")
        elif fault == "end":
            left.shutdown(socket.SHUT_WR)
        else:
            client = make_stream(left, client_context(), server_hostname="localhost")
            until(loop, lambda: client.calls and server.calls)
            left.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        until(loop, lambda: over(server))
        assert isinstance(server.reason, ssl.SSLError)
        return weakref.ref(server)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_our_answers_count_as_writes(loop: Uloop, make_pair: MakePair, make_stream: MakeStream) -> None:
    """A peer that asks for new keys again and again, and takes none of the answers."""
    left, right = make_pair()
    right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client = make_stream(left, client_context(), server_hostname="localhost")
    server = make_stream(right, server_context(), server_side=True, write_limit=100_000)
    server.on_pause = lambda: None  # type: ignore[method-assign]
    until(loop, lambda: client.calls and server.calls)
    client.pause_reading()
    server.write(bytes(8 * 1024 * 1024))
    assert server.unsent > 100_000
    client.write(b"question")
    until(loop, lambda: "data" in server.calls)  # without an answer it is as ever
    server._outgoing.write(b"an answer")
    client.write(b"question")
    until(loop, lambda: over(server))
    assert isinstance(server.reason, BufferError)
    assert "write_limit=100000" in str(server.reason)
