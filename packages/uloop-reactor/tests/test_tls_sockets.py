"""TLS streams and what happens to the socket below them: resets behind data, negotiations in between."""

from __future__ import annotations

import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.stream import State
from uloop_reactor.tls import TlsStream

FILES = Path(__file__).parent / "tls_files"
OPENSSL = shutil.which("openssl")

no_resets = pytest.mark.skipif(
    sys.platform == "win32", reason="wine turns a reset into an end, Windows itself does not"
)


class Recorder(TlsStream):
    """Notes what it is told."""

    calls: list[str]
    data = b""
    reason: BaseException | None = None

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        self.data += data
        self.calls.append("data")

    def on_eof(self) -> None:
        self.calls.append("eof")
        super().on_eof()

    def on_close(self, reason: BaseException | None) -> None:
        self.calls.append("close")
        self.reason = reason


class Pauses(Recorder):
    def on_connect(self) -> None:
        super().on_connect()
        self.pause_reading()


class Answers(Pauses):
    def on_eof(self) -> None:
        self.write(b"answer")
        super().on_eof()


class Uploads(Recorder):
    """And does not read while much waits."""

    def on_connect(self) -> None:
        super().on_connect()
        self.write(bytes(8 * 1024 * 1024))


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


class Client:
    """One that does as told, on a bare TCP socket (a Unix one has no resets)."""

    def __init__(self, loop: Uloop, kind: type[Recorder]) -> None:
        self.loop = loop
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sock = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(FILES / "localhost.pem", FILES / "localhost.key")
        self.server = kind(loop, accepted, context, server_side=True)
        self.server.calls = []
        trusting = ssl.create_default_context(cafile=str(FILES / "ca.pem"))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = trusting.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock.setblocking(False)

    def shake_hands(self) -> None:
        """To where our last message is ready: it leaves together with what is written next."""
        while True:
            try:
                self.ssl.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.sock.send(self.outgoing.read())
            while not select.select([self.sock], [], [], 0)[0]:
                self.loop.run_once(0.01)
            self.incoming.write(self.sock.recv(65536))

    def request(self, *, end: bool) -> None:
        """Until the server has decrypted it, and has paused."""
        self.ssl.write(b"request")
        if end:
            with pytest.raises(ssl.SSLWantReadError):
                self.ssl.unwrap()
        self.sock.send(self.outgoing.read())
        until(self.loop, lambda: self.server.calls)
        assert self.server.data == b""
        assert select.select([self.sock], [], [], 30)[0]  # session tickets, which are never read

    def leave(self, *, reset: bool) -> None:
        """Without having read the tickets: the kernel sends a reset in any case."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        assert select.select([self.server], [], [], 30)[0]


@pytest.fixture
def make_client(loop: Uloop) -> Iterator[Callable[[type[Recorder]], Client]]:
    made: list[Client] = []

    def make(kind: type[Recorder]) -> Client:
        made.append(Client(loop, kind))
        return made[-1]

    yield make
    for client in made:
        client.sock.close()
        client.server.abort()


MakeClient = Callable[[type[Recorder]], Client]


@no_resets
def test_what_is_decrypted_comes_before_a_reset(loop: Uloop, make_client: MakeClient) -> None:
    client = make_client(Pauses)
    client.shake_hands()
    client.request(end=False)
    client.leave(reset=True)
    loop.call_soon(client.server.resume_reading)
    until(loop, lambda: "close" in client.server.calls)
    assert client.server.calls == ["connect", "data", "close"]
    assert client.server.data == b"request"
    assert isinstance(client.server.reason, OSError)


@no_resets
def test_the_answer_to_an_upload_that_is_refused(loop: Uloop, make_client: MakeClient) -> None:
    client = make_client(Uploads)
    client.shake_hands()
    client.request(end=False)
    client.ssl.write(b", and last words")
    client.sock.send(client.outgoing.read())
    client.leave(reset=True)
    until(loop, lambda: "close" in client.server.calls)
    if sys.platform == "linux":  # others drop it with the reset
        assert client.server.data == b"request, and last words"
    assert client.server.data.startswith(b"request")
    assert "eof" not in client.server.calls
    assert isinstance(client.server.reason, OSError)


@no_resets
@pytest.mark.parametrize("reset", [False, True])
def test_a_peer_that_ends_and_waits_for_nothing(loop: Uloop, make_client: MakeClient, reset: bool) -> None:
    client = make_client(Pauses)
    client.shake_hands()
    client.request(end=True)
    client.leave(reset=reset)
    loop.call_soon(client.server.resume_reading)
    until(loop, lambda: "close" in client.server.calls)
    assert client.server.calls == ["connect", "data", "eof", "close"]
    assert client.server.reason is None


@no_resets
def test_an_answer_that_nobody_waits_for_is_a_failure(loop: Uloop, make_client: MakeClient) -> None:
    client = make_client(Answers)
    client.shake_hands()
    client.request(end=True)
    client.leave(reset=False)
    loop.call_soon(client.server.resume_reading)
    until(loop, lambda: "close" in client.server.calls)
    assert isinstance(client.server.reason, (BrokenPipeError, ConnectionError))


# A negotiation in the middle, which TLS 1.2 has, and only OpenSSL's own tool can ask for


def can_renegotiate() -> bool:
    if OPENSSL is None or sys.platform == "win32":
        return False
    version = subprocess.run([OPENSSL, "version"], capture_output=True, text=True, check=False).stdout
    return version.startswith("OpenSSL 3")


class Talks(Recorder):
    """Writes behind everything that has come from the socket: in the middle of the negotiation, too."""

    negotiating = False
    waited = 0
    word = b"tick\n"

    def _received(self, data: bytes) -> None:
        super()._received(data)
        if self.negotiating:
            for _ in range(3):
                self.write(self.word)
                self.waited = max(self.waited, len(self._plain))


@pytest.fixture
def talks_to_openssl(loop: Uloop) -> Iterator[Callable[..., tuple[Talks, subprocess.Popen[str]]]]:
    made: list[tuple[Talks, subprocess.Popen[str]]] = []

    def make(**options: Any) -> tuple[Talks, subprocess.Popen[str]]:
        assert OPENSSL is not None
        files = ["-cert", str(FILES / "localhost.pem"), "-key", str(FILES / "localhost.key")]
        options_of_openssl = ["-tls1_2", "-legacy_renegotiation"]
        server = subprocess.Popen(
            [OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", *files, *options_of_openssl],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert server.stdout is not None
        lines = []
        while not (found := re.match(r"ACCEPT .*:(\d+)", line := server.stdout.readline())):
            lines.append(line)
            assert line, lines
        sock = socket.create_connection(("127.0.0.1", int(found[1])))
        context = ssl.create_default_context(cafile=str(FILES / "ca.pem"))
        stream = Talks(loop, sock, context, server_hostname="localhost", **options)
        stream.calls = []
        made.append((stream, server))
        until(loop, lambda: stream.calls)
        return stream, server

    yield make
    for stream, server in made:
        stream.abort()
        server.kill()
        server.communicate()


@pytest.mark.skipif(not can_renegotiate(), reason="needs the openssl command, of version 3")
class TestRenegotiation:
    def test_what_waits_for_it_is_sent_behind_it(
        self, loop: Uloop, talks_to_openssl: Callable[..., tuple[Talks, subprocess.Popen[str]]]
    ) -> None:
        stream, server = talks_to_openssl()
        assert server.stdin is not None
        stream.negotiating = True
        server.stdin.write("r\n")
        server.stdin.flush()
        until(loop, lambda: stream.waited and not stream.unsent)
        stream.negotiating = False
        stream.write(b"last\n")
        stream.close()
        until(loop, lambda: "close" in stream.calls)
        output, _ = server.communicate()
        assert output.count("tick\n") >= 3
        assert "last\n" in output

    def test_what_waits_for_it_is_limited(
        self, loop: Uloop, talks_to_openssl: Callable[..., tuple[Talks, subprocess.Popen[str]]]
    ) -> None:
        stream, server = talks_to_openssl(high_water=1000, write_limit=10_000)
        assert server.stdin is not None
        stream.word = b"x" * 9_999
        stream.negotiating = True
        server.stdin.write("r\n")
        server.stdin.flush()
        until(loop, lambda: "close" in stream.calls)
        assert stream.state is State.CLOSED
        assert isinstance(stream.reason, BufferError)
