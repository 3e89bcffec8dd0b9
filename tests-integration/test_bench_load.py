"""The load of the benchmarks: what it takes for an answer, and what it tells."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the load waits with epoll", allow_module_level=True)
if shutil.which("cc") is None:
    pytest.skip("the load is written in C, and there is no compiler here", allow_module_level=True)

SOURCE = Path(__file__).resolve().parent.parent / "scripts" / "bench" / "servers" / "load.c"
RIGHT = b"2020-06-15 15:34:33.899256"
WRONG = [
    b"2020-06-15T15:34:33.899256",
    b"2020-06-15 15:34:33.89925x",
    RIGHT[:-1],
    RIGHT + b"0",
    b"",
]
SHORT = ("0", "0.3")  # seconds: warm-up, duration; longer than the patience for a datagram
PATIENCE = 30  # seconds

Answer = Callable[[bytes], bytes | None]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("load") / "load"
    subprocess.run(["cc", "-Wall", "-Werror", "-O2", "-o", program, SOURCE], check=True)
    return program


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """The port of a server that runs meanwhile."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def udp(answer: Answer) -> socketserver.UDPServer:
    class Handler(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.answer = answer(self.rfile.read())

        def finish(self) -> None:
            if self.answer is not None:
                self.socket.sendto(self.answer, self.client_address)

    return socketserver.UDPServer(("127.0.0.1", 0), Handler)


def tcp(answer: bytes) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                while self.request.recv(100):
                    self.request.sendall(answer)
            except ConnectionResetError:
                pass  # so the load ends

    return socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)


def tell(load: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([load, *arguments], check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def ntp_answer(question: bytes) -> bytes:
    """What is looked at: the mode, and the stamp that comes back."""
    return bytes((0o44,)) + bytes(23) + question[40:48] + bytes(16)


@pytest.mark.parametrize("wait", ["spin", "sleep"])
def test_right_answers_over_udp(load: Path, wait: str) -> None:
    with serving(udp(lambda question: RIGHT)) as port:
        told = tell(load, "udp", str(port), "3", "2", wait, *SHORT)
    assert told["answers"] > 0
    assert told["wrong"] == told["lost"] == 0
    assert 0 < told["latency"]["p50"] <= told["latency"]["max"] * 1.02  # by the steps of the histogram


@pytest.mark.parametrize("wait", ["spin", "sleep"])
def test_right_answers_over_tcp(load: Path, wait: str) -> None:
    with serving(tcp(RIGHT)) as port:
        told = tell(load, "tcp", str(port), "3", "2", wait, *SHORT)
    assert told["answers"] > 0
    assert told["wrong"] == 0


def test_right_answers_of_ntp(load: Path) -> None:
    with serving(udp(ntp_answer)) as port:
        told = tell(load, "ntp", str(port), "3", "1", "sleep", *SHORT)
    assert told["answers"] > 0
    assert told["wrong"] == told["lost"] == 0


@pytest.mark.parametrize("answer", WRONG)
def test_wrong_answers_over_udp(load: Path, answer: bytes) -> None:
    with serving(udp(lambda question: answer)) as port:
        told = tell(load, "udp", str(port), "3", "1", "sleep", *SHORT)
    assert told["wrong"] > 0
    assert told["answers"] == 0


def test_wrong_answers_over_tcp(load: Path) -> None:
    with serving(tcp(WRONG[0])) as port:
        told = tell(load, "tcp", str(port), "3", "1", "sleep", *SHORT)
    assert told["wrong"] > 0
    assert told["answers"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda question: ntp_answer(bytes(48)),
        lambda question: question[:1] + ntp_answer(question)[1:],
        lambda question: ntp_answer(question)[:-1],
    ],
    ids=["another question's", "a question's mode", "short"],
)
def test_wrong_answers_of_ntp(load: Path, answer: Answer) -> None:
    with serving(udp(answer)) as port:
        told = tell(load, "ntp", str(port), "3", "1", "sleep", *SHORT)
    assert told["wrong"] > 0
    assert told["answers"] == 0


def test_silence_is_a_loss(load: Path) -> None:
    with serving(udp(lambda question: None)) as port:
        told = tell(load, "udp", str(port), "3", "1", "sleep", *SHORT)
    assert told["lost"] == 3
    assert told["answers"] == told["wrong"] == 0


@pytest.mark.parametrize(("answer", "right"), [(RIGHT, 20), (WRONG[0], 0)])
def test_held_connections_ask_again(load: Path, answer: bytes, right: int) -> None:
    with (
        serving(tcp(answer)) as port,
        subprocess.Popen(
            [load, "idle", str(port), "20", "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):  # when they have connected, and after each of two lines
            told = json.loads(process.stdout.readline())
            assert (told["answers"], told["wrong"]) == (right, 20 - right)
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
