"""Floods: datagrams from very many forged senders, and connections that do nothing but be there.

What they can cost is bounded, and honest clients are answered while it lasts. Linux, since it tells
how much memory and how many descriptors a process has, and has all of 127.0.0.0/8 to send from.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("only Linux has a loopback interface with 16 million addresses", allow_module_level=True)

import resource

PATIENCE = 30  # seconds; a test that runs into it has failed
TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
MEGABYTE = 1 << 20
NTP_QUESTION = b"\x23" + bytes(47)  # version 4, mode 3
BURST = 60  # answers that a source may have at once, by default
CAP = 1000  # connections
AT_THE_DOOR = 1  # connection that is just being accepted or closed, and has a descriptor all the same
STRANGERS = 5000


def memory(server: Any) -> int:
    """Bytes of the server's that are in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


def descriptors(server: Any) -> int:
    """How many descriptors the server has open. It stands still meanwhile, or the count would be wrong."""
    pid = server.process.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    finally:
        os.kill(pid, signal.SIGCONT)


# Datagrams


def from_host(number: int) -> list[tuple[int, int, bytes]]:
    """Control data for ``sendmsg`` that chooses the source address: struct in_pktinfo of ip(7)."""
    return [(socket.IPPROTO_IP, 8, struct.pack("!4xI4x", number))]


@pytest.mark.parametrize(
    ("scheme", "question", "answer_length"),
    [("udp", b"time?", 26), ("ntp", NTP_QUESTION, 48)],
    ids=["udp", "ntp"],
)
def test_200_000_datagrams_from_as_many_sources(
    start_server: Callable[..., Any], scheme: str, question: bytes, answer_length: int
) -> None:
    """More sources than the guard remembers, and every fiftieth datagram is an honest client's."""
    server = start_server("epoll", f"{scheme}://127.0.0.1:0", "--trust-local-clock")
    target = ("127.0.0.1", server.ports[scheme])
    before = memory(server)
    later = 0
    with ExitStack() as cleanup:
        forger = cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        forger.bind(("0.0.0.0", 0))
        honest = []
        for number in range(1, 4000 // BURST + 2):
            client = cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.bind((f"127.200.0.{number}", 0))
            client.settimeout(PATIENCE)
            honest.append(client)
        for round_ in range(4000):
            for number in range(50):
                control = from_host(0x7F010000 + round_ * 50 + number)
                forger.sendmsg([question], control, 0, target)
            # It waits in the same queue, behind all of these: so none of them is lost, either.
            client = honest[round_ % len(honest)]
            client.sendto(question, target)
            assert len(client.recv(100)) == answer_length
            if round_ == 2000:
                later = memory(server)
    # The shares of 65,536 sources and the verdicts on 16,384 addresses take 10 MB, and the tables grow
    # by doubling. After 100,000 sources they have been full and are not going to grow any more.
    assert later - before < 24 * MEGABYTE
    assert memory(server) - later < 4 * MEGABYTE


def test_a_flood_from_one_source(start_server: Callable[..., Any]) -> None:
    """It gets its share and no more, and the others get theirs."""
    server = start_server("epoll", "udp://127.0.0.1:0")
    target = ("127.0.0.1", server.ports["udp"])
    with ExitStack() as cleanup:
        greedy, *others = (
            cleanup.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(11)
        )
        for number, client in enumerate((greedy, *others), start=1):
            client.bind((f"127.200.0.{number}", 0))
            client.settimeout(PATIENCE)
        for round_ in range(400):
            for _ in range(50):
                greedy.sendto(b"time?", target)
            client = others[round_ % len(others)]
            client.sendto(b"time?", target)
            assert TIME.fullmatch(client.recv(100))
        answers = 0
        while select.select([greedy], [], [], 0)[0]:
            assert TIME.fullmatch(greedy.recv(100))
            answers += 1
        assert BURST <= answers < BURST + 20  # one more for each second that this takes


# Connections


@pytest.fixture
def room_for_descriptors() -> Iterator[None]:
    wanted = STRANGERS + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may have {hard} descriptors, and the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def strangers(server: Any, receive_buffer: int | None = None) -> Iterator[list[socket.socket]]:
    """Connections from five addresses, under way or made: the kernel goes on without us."""
    with ExitStack() as cleanup:
        crowd = []
        for number in range(STRANGERS):
            sock = cleanup.enter_context(socket.socket())
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            sock.bind((f"127.0.1.{number % 5 + 1}", 0))
            sock.connect_ex(("127.0.0.1", server.ports["tcp"]))
            crowd.append(sock)
        yield crowd


def assert_that_an_honest_client_is_answered(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=PATIENCE) as sock:
        sock.sendall(b"time?")
        assert TIME.fullmatch(sock.recv(100))


@pytest.mark.usefixtures("room_for_descriptors")
def test_5000_connections_that_say_nothing(start_server: Callable[..., Any]) -> None:
    server = start_server("epoll", "tcp://127.0.0.1:0", "--max-connections", str(CAP))
    descriptors_before = descriptors(server)
    assert_that_an_honest_client_is_answered(server)
    memory_before = memory(server)
    with strangers(server):
        for _ in range(3):
            assert_that_an_honest_client_is_answered(server)
            assert CAP / 2 < descriptors(server) - descriptors_before <= CAP + AT_THE_DOOR
            assert memory(server) - memory_before < CAP * 8192
    assert_that_an_honest_client_is_answered(server)


@pytest.mark.usefixtures("room_for_descriptors")
def test_5000_connections_that_ask_and_never_read(start_server: Callable[..., Any]) -> None:
    server = start_server("epoll", "tcp://127.0.0.1:0", "--max-connections", str(CAP))
    descriptors_before = descriptors(server)
    assert_that_an_honest_client_is_answered(server)
    memory_before = memory(server)
    with strangers(server, receive_buffer=1024) as crowd, select.epoll() as poller:
        by_descriptor = {sock.fileno(): sock for sock in crowd}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.EPOLLOUT | select.EPOLLET)
        asked: set[int] = set()
        while len(asked) < 2 * CAP:  # so at least every other one has been let in, and made room again
            ready = poller.poll(PATIENCE)
            assert ready
            for descriptor, _ in ready:
                try:
                    by_descriptor[descriptor].send(b"time?" * 1000)
                    asked.add(descriptor)
                except OSError:
                    poller.unregister(descriptor)  # it had to make room, and has been reset
        for _ in range(3):
            assert_that_an_honest_client_is_answered(server)
            assert CAP / 2 < descriptors(server) - descriptors_before <= CAP + AT_THE_DOOR
            assert memory(server) - memory_before < CAP * 8192
    assert_that_an_honest_client_is_answered(server)
