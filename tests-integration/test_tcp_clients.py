"""What TCP clients do, rightly and wrongly, and what becomes of the server."""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=30)


def ask(sock: socket.socket, request: bytes = b"time?") -> bytes:
    sock.sendall(request)
    return sock.recv(100)


def read_to_the_end(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def processor_time(server: Any) -> float:
    """Seconds of processor time that a process has used, from /proc/PID/stat."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def open_descriptors(server: Any) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_an_answer_is_the_time_of_now(server: Any) -> None:
    with connect(server) as sock:
        before = datetime.now()
        answer = ask(sock)
        after = datetime.now()
    assert len(answer) == 26
    assert before <= datetime.strptime(answer.decode("ascii"), "%Y-%m-%d %H:%M:%S.%f") <= after


def test_a_connection_stays_open(server: Any) -> None:
    with connect(server) as sock:
        answers = [ask(sock, request) for request in (b"1", b"2" * 1000, b"\0")]
    assert all(TIME.fullmatch(answer) for answer in answers)
    assert answers == sorted(answers)


def test_a_client_that_half_closes_is_answered_and_then_closed(server: Any) -> None:
    with connect(server) as sock:
        sock.sendall(b"time?")
        sock.shutdown(socket.SHUT_WR)
        assert TIME.fullmatch(read_to_the_end(sock))


def test_a_client_that_half_closes_without_a_word_is_closed(server: Any) -> None:
    with connect(server) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_to_the_end(sock) == b""


@pytest.mark.skipif(
    sys.platform != "linux", reason="what a process uses is read from /proc, which is Linux's"
)
@pytest.mark.parametrize("farewell", ["close", "reset", "reset with an answer on its way"])
def test_a_client_that_leaves_is_let_go_of_at_once(server: Any, farewell: str) -> None:
    with connect(server) as witness:
        ask(witness)
        descriptors = open_descriptors(server)
        for _ in range(20):
            sock = connect(server)
            ask(sock)
            if "reset" in farewell:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if "answer" in farewell:
                sock.sendall(b"time?")
            sock.close()
        # Loopback delivers in order, so a client that comes later is answered later: by then
        # the server has seen the others go.
        with connect(server) as last:
            for _ in range(5):
                ask(last)
        used = processor_time(server)
        for _ in range(100):
            ask(witness)
        assert open_descriptors(server) <= descriptors + 1
        # 100 answers cost about 0.01 s. A loop that spins would have used all the time there was.
        assert processor_time(server) - used < 0.5


def test_a_client_that_does_not_read_holds_up_nobody(server: Any) -> None:
    with connect(server) as greedy, connect(server) as honest:
        greedy.setblocking(False)
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                sent += greedy.send(b"x" * 65536)
                assert TIME.fullmatch(ask(honest))
        except BlockingIOError:
            pass  # both buffers are full, and the server has stopped reading
        assert TIME.fullmatch(ask(honest))
        # Once it reads, it is served on, to its end.
        greedy.settimeout(30)
        greedy.shutdown(socket.SHUT_WR)
        answers = read_to_the_end(greedy)
        assert answers
        assert len(answers) % 26 == 0
        assert TIME.match(answers)


def test_ipv6(start_server: Callable[..., Any], backend: str) -> None:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server = start_server(backend, "tcp://[::1]:0", "udp://[::1]:0")
    assert server.endpoints["tcp"] == f"tcp://[::1]:{server.ports['tcp']}"
    with socket.create_connection(("::1", server.ports["tcp"]), timeout=30) as sock:
        assert TIME.fullmatch(ask(sock))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("::1", server.ports["udp"]))
        assert TIME.fullmatch(ask(sock))
