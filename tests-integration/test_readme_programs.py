"""The programs in the README of uloop-reactor run as they are printed there, on every backend."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "packages" / "uloop-reactor"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
CERTIFICATES = PACKAGE / "tests" / "tls_files"
PROGRAMS = dict(re.findall(r"<!-- program: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))

Start = Callable[..., Any]


@pytest.fixture
def start(start_program: Start, backend: str) -> Start:
    """Starts a program of the README; what it prints comes on standard error, which the fixture reads."""

    def start(name: str, *arguments: object, **environment: str) -> Any:
        program = "import sys; sys.stdout = sys.stderr\n" + PROGRAMS[name]
        environment["ULOOP_BACKEND"] = backend
        return start_program("-c", program, *map(str, arguments), environment=environment)

    return start


def port_of(program: Any) -> int:
    return int(re.findall(r"\d+", program.next_line())[-1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30)


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk, f"closed after {data!r}"
        data += chunk
    return data


@contextmanager
def reset_by_peer() -> Iterator[None]:
    """What happens to who is thrown out: a reset, or, where Windows is only played, an end."""
    if sys.platform == "win32":
        try:
            yield
        except (ConnectionError, AssertionError):
            return
    else:
        with pytest.raises(ConnectionError):
            yield


@contextmanager
def serving(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server of one connection at a time, on a thread; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.settimeout(30)
                    serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            # A blocked accept is not ended by a close, but by a client.
            listener.settimeout(0)
            try:
                socket.create_connection(listener.getsockname()[:2], 30).close()
            except OSError:
                pass
            listener.close()
            thread.join()


def test_the_readme_has_them_all() -> None:
    assert sorted(PROGRAMS) == ["batch", "chat", "echo", "proxy", "tls", "udp"]


def test_echo(start: Start) -> None:
    port = port_of(start("echo"))
    with connect(port) as one, connect(port) as other:
        for sock, text in ((one, b"one"), (other, b"other"), (one, b"one again")):
            sock.sendall(text)
            assert receive(sock, len(text)) == text
        one.sendall(b"x" * 1_000_000)
        one.shutdown(socket.SHUT_WR)
        assert receive(one, 1_000_000) == b"x" * 1_000_000
        assert one.recv(1) == b""


def test_chat(start: Start) -> None:
    program = start("chat")
    port = port_of(program)
    with connect(port) as ann, connect(port) as ben, connect(port) as endless:
        # Ann is heard by those who are in the room already; she says it until Ben is.
        ben.settimeout(0.1)
        while True:
            ann.sendall(b"hello\n")
            try:
                assert ben.recv(100).startswith(b"hello\n")
                break
            except TimeoutError:
                continue
        ben.settimeout(30)
        ben.sendall(b"it is ")
        ben.sendall(b"me\nand ")
        assert receive(ann, 9) == b"it is me\n"
        ben.sendall(b"me again\n")
        assert receive(ann, 13) == b"and me again\n"
        endless.sendall(b"x" * 2000)
        with reset_by_peer():
            receive(endless, 10_000_000)
        if sys.platform != "win32":
            program.process.send_signal(signal.SIGINT)
            while ann.recv(1000):
                pass
            ann.close()
            ben.close()
            assert program.wait() == 0
    assert program.lines[1:] == []


def test_proxy(start: Start) -> None:
    def reverse(sock: socket.socket) -> None:
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
        sock.sendall(data[::-1])

    text = bytes(range(256)) * 20_000  # 5 MB: more than the kernel holds for a side that does not read
    with serving(reverse) as upstream:
        port = port_of(start("proxy", "127.0.0.1", upstream))
        for _ in range(2):
            with connect(port) as client:
                client.sendall(text)
                client.shutdown(socket.SHUT_WR)
                assert receive(client, len(text)) == text[::-1]
                assert client.recv(1) == b""


def test_proxy_to_nowhere(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = closed.getsockname()[1]
    program = start("proxy", "127.0.0.1", nowhere)
    port = port_of(program)
    for _ in range(2):
        # It may come before we know that we are connected.
        with reset_by_peer(), connect(port) as client:
            receive(client, 1)
    assert program.lines[1:] == []


def test_udp(start: Start) -> None:
    port = port_of(start("udp"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", port))
        for _ in range(3):
            sock.send(b"no question")
            sock.send(b"?")
            assert sock.recv(100) == f"127.0.0.1 port {sock.getsockname()[1]}".encode()


def test_batch(start: Start) -> None:
    port = port_of(start("batch"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", port))
        for question in (b"no question", b"?", b"?", b"no question", b"?"):
            sock.send(question)
        for _ in range(3):
            assert re.fullmatch(rb"\d+\.\d+", sock.recv(100))


def test_tls(start: Start) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "localhost.pem", CERTIFICATES / "localhost.key")

    def serve(sock: socket.socket) -> None:
        try:
            with context.wrap_socket(sock, server_side=True) as tls:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += tls.recv(1000)
                assert request.startswith(b"GET / HTTP/1.0\r\nHost: localhost\r\n")
                tls.sendall(b"HTTP/1.0 200 OK\r\n\r\nwelcome\n")
                tls.unwrap()
        except OSError:
            pass  # a client that does not trust us

    with serving(serve) as port:
        trusting = start("tls", "localhost", port, SSL_CERT_FILE=str(CERTIFICATES / "ca.pem"))
        assert trusting.wait() == 0
        assert [line for line in trusting.lines if line] == ["HTTP/1.0 200 OK", "welcome"]
        doubting = start("tls", "localhost", port)
        assert doubting.wait() == 1
        assert len(doubting.lines) == 1
        assert "localhost: " in doubting.lines[0]
        assert "CERTIFICATE_VERIFY_FAILED" in doubting.lines[0]
    lost = start("tls", "localhost", port)
    assert lost.wait() == 1
    assert len(lost.lines) == 1
    assert "127.0.0.1" in lost.lines[0]
