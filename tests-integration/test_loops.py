"""One datagram with a forged sender, between two servers that answer whatever comes.

Two naive servers talk to each other for ever then (CVE-2024-2169). Ours do not, on any protocol, not
with each other and not with xinetd's; and with a server of a kind that nobody has heard of, until
the rate limit ends it.

The servers are in a network of their own, where we may forge and see every packet. A loop has at
least one packet under way all the time. So there is none any more, when each of both servers has
answered a question of ours, which came after whatever was waiting there, and no packet was seen
that was not ours. That needs no waiting for silence.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import pytest

if sys.platform != "linux":
    pytest.skip("a network of one's own is a thing of Linux", allow_module_level=True)

Address = tuple[str, int]

PATIENCE = 30  # seconds; a test that runs into it has failed
FEW = 2  # packets: the forged one, and an answer to it
BURST = 60  # answers that a source may have at once, by default
ENDLESS = 2000  # packets, after which nobody doubts that it goes on
ONCE_MORE = 0.02  # seconds; when xinetd has answered, it throws away what it finds waiting then
MARKER_PORT = 20999
ALPHA, BETA, LIMITED, XINETD = (f"127.0.0.{number}" for number in range(1, 5))
STRANGERS = (f"127.0.1.{number}" for number in itertools.count(1))  # each has a share of its own
OTHER_PORTS = itertools.count(20501)

WAYS = (("unshare", "-rn"), ("unshare", "-n"), ("sudo", "-n", "unshare", "-n"))

#: Lives in the new network, makes sockets there and gives them to us, and starts programs there.
#: When we close the channel, or die, it ends the programs.
GATE = """
import json, os, socket, subprocess, sys
channel = socket.socket(socket.AF_UNIX)
channel.connect(sys.argv[1])
programs = []
for line in channel.makefile("rb"):
    request, *arguments = json.loads(line)
    if request == "run":
        subprocess.run(arguments, check=True)
        channel.send(b"!")
    elif request == "socket":
        with socket.socket(*arguments) as made:
            socket.send_fds(channel, [b"!"], [made.fileno()])
    else:
        output, end = os.pipe()
        programs.append(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=end, stderr=end))
        os.close(end)
        socket.send_fds(channel, [b"!"], [output])
        os.close(output)
for program in programs:
    program.terminate()
for program in programs:
    program.wait()
"""

#: the server that must not be written
NAIVE = """
import secrets, socket, sys
from datetime import datetime
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((sys.argv[1], int(sys.argv[2])))
    print("serving", flush=True)
    data = b""
    while data != b"that will do":
        data, client = sock.recvfrom(65536)
        sock.sendto(str(datetime.now()).encode(), client)
"""
#: it answers whatever comes, too, with what nobody can know for an answer
UNHEARD_OF = NAIVE.replace("str(datetime.now())", "secrets.token_urlsafe(20)")

SCHEMES = ("udp", "daytime+udp", "time+udp", "ntp")
ALPHA_PORTS, BETA_PORTS, SAME_PORTS = (
    {scheme: first + number for number, scheme in enumerate(SCHEMES)} for first in (20101, 20201, 20301)
)
NTP_QUESTION = b"\x23" + bytes(47)  # version 4, mode 3
QUESTIONS = {"udp": b"", "daytime+udp": b"", "time+udp": b"", "ntp": NTP_QUESTION}
FORGED = {
    "an empty one": b"",
    "text": b"time?",
    "an answer of the base protocol": b"2020-06-15 15:34:33.899256",
    "an answer of Daytime": b"15 JUN 2020 15:34:33 UTC\r\n",
    "an answer of Time": b"\xe2\x91\x2f\x49",
    "a question of NTP": NTP_QUESTION,
    "an answer of NTP": b"\x24" + bytes(47),
    "48 zeros": bytes(48),
}


class Network:
    """A network with a loopback interface only, in which we are root."""

    def __init__(self) -> None:
        self._outputs: list[TextIO] = []
        self._cleanup = ExitStack()
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as meeting:
            meeting.settimeout(PATIENCE)
            meeting.bind(f"{folder}/gate")
            meeting.listen()
            command = [*self._way(), sys.executable, "-c", GATE, f"{folder}/gate"]
            self._gate = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            self._channel, _ = meeting.accept()
        self._channel.settimeout(PATIENCE)
        self.run("ip", "link", "set", "lo", "up")

    @staticmethod
    def _way() -> tuple[str, ...]:
        need("ip", "iproute2")
        for way in WAYS:
            if shutil.which(way[0]) and not subprocess.run([*way, "true"], capture_output=True).returncode:
                return way
        pytest.skip("a network of one's own is not to be had here, by unshare -rn or by sudo unshare -n")

    def run(self, *command: str) -> None:
        """Run a program there, to its end."""
        self._send("run", *command)
        assert self._channel.recv(1) == b"!", command

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket there, which is closed in the end."""
        self._send("socket", family, kind, protocol)
        sock = self._cleanup.enter_context(socket.socket(fileno=self._receive_descriptor()))
        sock.settimeout(PATIENCE)
        return sock

    def start(self, *command: str) -> TextIO:
        """Start a program there that runs until the end; what it prints."""
        self._send("start", *command)
        output = self._cleanup.enter_context(os.fdopen(self._receive_descriptor()))
        self._outputs.append(output)
        return output

    def start_python(self, source: str, *arguments: Any) -> None:
        """Start a program that says when it serves."""
        output = self.start(sys.executable, "-c", source, *map(str, arguments))
        assert output.readline() == "serving\n", output.read()

    def serve(self, *arguments: str) -> TextIO:
        """Start our server there; what it prints from when it is ready."""
        output = self.start(sys.executable, "-m", "uloop_servers", "serve", *arguments)
        missing = sum("://" in argument for argument in arguments)
        lines = []
        while missing:
            lines.append(output.readline())
            assert lines[-1], f"the server has ended; it said {lines}"
            missing -= ": serving " in lines[-1]
        return output

    def close(self) -> None:
        self._channel.close()
        self._gate.wait(PATIENCE)
        with self._cleanup:
            for output in self._outputs:
                assert "Traceback" not in output.read()

    def _send(self, *request: str | int) -> None:
        self._channel.sendall(json.dumps(request).encode() + b"\n")

    def _receive_descriptor(self) -> int:
        _, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        return descriptors[0]


class Wire:
    """The loopback interface: what passes there, and what we put on it."""

    def __init__(self, network: Network) -> None:
        self._packets = network.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008)  # ETH_P_IP, as sent
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._packets.bind(("lo", 0x0800))
        self._packets.setblocking(False)
        self._raw = network.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        markers = []
        for number in range(1, 9):  # each of them has a share of its own
            marker = network.socket(socket.AF_INET, socket.SOCK_DGRAM)
            marker.bind((f"127.10.0.{number}", MARKER_PORT))
            markers.append(marker)
        self._markers = itertools.cycle(markers)

    def forge(self, source: Address, target: Address, data: bytes) -> None:
        """Send a datagram to the target, as if the source had."""
        udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
        hosts = socket.inet_aton(source[0]), socket.inet_aton(target[0])
        # the kernel fills in the length, the identification and the checksum: raw(7)
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, *hosts)
        self._raw.sendto(header + udp, (target[0], 0))

    def ask(self, target: Address, question: bytes = b"") -> None:
        """Ask a server, and wait for its answer."""
        marker = next(self._markers)
        while select.select([marker], [], [], 0)[0]:
            marker.recv(1000)  # of a question that was asked twice
        for _ in range(round(PATIENCE / ONCE_MORE)):
            marker.sendto(question, target)
            if select.select([marker], [], [], ONCE_MORE)[0]:
                assert marker.recvfrom(1000)[1] == target
                return
        pytest.fail(f"{target} does not answer")

    def passed(self) -> int:
        """How many datagrams have passed since the last time, besides our questions and their answers."""
        count = 0
        while True:
            try:
                packet = self._packets.recv(65536)
            except BlockingIOError:
                return count
            header_length = (packet[0] & 15) * 4
            ports = struct.unpack_from("!HH", packet, header_length)
            count += packet[9] == socket.IPPROTO_UDP and MARKER_PORT not in ports

    def attack(self, source: Address, target: Address, data: bytes, *markers: Callable[[], object]) -> int:
        """Forge a datagram, and count what passes until nothing does, or until there is no end to it.

        Parameters:
            markers: ask each of the servers that may take part a question.
        """
        self.passed()  # of the last attack
        self.forge(source, target, data)
        total = 0
        while total < ENDLESS:
            for mark in markers:
                mark()
            new = self.passed()
            total += new
            if new == 0:
                break
        return total


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here; on Debian it is in the package {package}")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture(scope="module")
def wire(network: Network) -> Wire:
    return Wire(network)


@pytest.fixture(scope="module")
def ours(network: Network) -> None:
    """Two servers of ours. They have no rate limit, so if it ends, then for another reason."""
    for host, ports in ((ALPHA, ALPHA_PORTS), (BETA, BETA_PORTS)):
        endpoints = [f"{scheme}://{host}:{p[scheme]}" for p in (ports, SAME_PORTS) for scheme in SCHEMES]
        network.serve("--rate-limit", "0", "--trust-local-clock", *endpoints)


# Between two of ours


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("ports", ["different ports", "same ports", "of one server"])
@pytest.mark.parametrize("second", SCHEMES)
@pytest.mark.parametrize("first", SCHEMES)
def test_between_two_of_ours(wire: Wire, first: str, second: str, ports: str) -> None:
    if ports == "different ports":
        alpha, beta = (ALPHA, ALPHA_PORTS[first]), (BETA, BETA_PORTS[second])
    elif ports == "same ports":
        alpha, beta = (ALPHA, SAME_PORTS[first]), (BETA, SAME_PORTS[second])
    else:
        alpha, beta = (ALPHA, SAME_PORTS[first]), (ALPHA, ALPHA_PORTS[second])
    markers = (lambda: wire.ask(alpha, QUESTIONS[first]), lambda: wire.ask(beta, QUESTIONS[second]))
    counts = {name: wire.attack(beta, alpha, data, *markers) for name, data in FORGED.items()}
    assert max(counts.values()) <= FEW, counts
    if ports == "different ports":
        # It was answered, as it could be a client's; so what has ended it is that beta knows an answer.
        assert counts["a question of NTP" if first == "ntp" else "an empty one"] == FEW


# With xinetd


@pytest.fixture(scope="module")
def xinetd(network: Network, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Daytime and Time on the ports that they have, and on others that tell nothing."""
    need("xinetd", "xinetd")
    folder: Path = tmp_path_factory.mktemp("xinetd")
    services = [
        f"service {name}\n{{\n"
        "type = INTERNAL UNLISTED\n"
        f"id = {name}-{port}\n"
        "socket_type = dgram\nprotocol = udp\nwait = yes\nuser = root\n"
        f"bind = {XINETD}\nport = {port}\n"
        "cps = 1000000 1\ndisable = no\n}\n"
        for name, ports in XINETD_PORTS.items()
        for port in ports
    ]
    (folder / "xinetd.conf").write_text("\n".join(services))
    command = ["-dontfork", "-f", "xinetd.conf", "-pidfile", "xinetd.pid", "-filelog", "xinetd.log"]
    network.start("sh", "-c", 'cd "$0" && exec xinetd "$@"', str(folder), *command)
    for ports in XINETD_PORTS.values():
        for port in ports:
            wait_until_it_answers(network, (XINETD, port))
    wire.passed()


XINETD_PORTS = {"daytime": (13, 20013), "time": (37, 20037)}


def wait_until_it_answers(network: Network, target: Address) -> None:
    """For a server that does not say when it is ready: until it is, the kernel refuses."""
    with network.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", MARKER_PORT))
        sock.connect(target)
        timer = threading.Timer(PATIENCE, sock.shutdown, [socket.SHUT_RDWR])
        timer.start()
        while True:
            try:
                sock.send(b"")
                assert sock.recv(1000), "it has not become ready"
                break
            except ConnectionRefusedError:
                pass
        timer.cancel()
        timer.join()


@pytest.mark.usefixtures("ours", "xinetd")
@pytest.mark.parametrize("port", [13, 20013, 37, 20037])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_between_one_of_ours_and_xinetd(wire: Wire, scheme: str, port: int) -> None:
    alpha, peer = (ALPHA, ALPHA_PORTS[scheme]), (XINETD, port)
    markers = (lambda: wire.ask(alpha, QUESTIONS[scheme]), lambda: wire.ask(peer))

    def most(source: Address, target: Address) -> int:
        # several times, since xinetd may miss one: see ONCE_MORE; so there may be fewer, never more
        return max(wire.attack(source, target, data, *markers) for data in FORGED.values() for _ in range(5))

    # xinetd answers everything. Ours answers what it can take for a question, and none of these answers.
    assert 1 <= most(alpha, peer) <= FEW
    if port < 1024 and scheme != "ntp":
        assert most(peer, alpha) == 1, "no client has such a port"
    else:
        assert 1 <= most(peer, alpha) <= FEW + 1


# With others


@pytest.mark.parametrize("scheme", ["udp", "daytime+udp", "time+udp"])
@pytest.mark.parametrize("begins", ["ours", "the other"])
def test_with_a_server_that_nobody_has_heard_of(
    network: Network, wire: Wire, limited: dict[str, int], scheme: str, begins: str
) -> None:
    """What ends it is the rate limit, as early as at the default burst."""
    server = (LIMITED, limited[scheme])
    stranger = (next(STRANGERS), 20900)
    network.start_python(UNHEARD_OF, *stranger)
    source, target = (stranger, server) if begins == "ours" else (server, stranger)
    count = wire.attack(source, target, b"", lambda: wire.ask(server), lambda: wire.ask(stranger))
    wire.ask(stranger, b"that will do")
    assert 2 * BURST < count < 2 * BURST + 10  # some more if it takes seconds


@pytest.fixture(scope="module")
def limited(network: Network) -> dict[str, int]:
    """A server of ours with all defaults; its ports."""
    ports = dict(zip(SCHEMES, range(20401, 20405), strict=True))
    network.serve(*(f"{scheme}://{LIMITED}:{port}" for scheme, port in ports.items()))
    return ports


def test_two_naive_servers_go_on_for_ever(network: Network, wire: Wire) -> None:
    """So the tests above could fail."""
    alpha, beta = (ALPHA, 20901), (BETA, 20902)
    network.start_python(NAIVE, *alpha)
    network.start_python(NAIVE, *beta)
    count = wire.attack(beta, alpha, b"", lambda: wire.ask(alpha), lambda: wire.ask(beta))
    wire.ask(alpha, b"that will do")
    wire.ask(beta, b"that will do")
    assert count >= ENDLESS


# To many at once


@pytest.mark.parametrize("target", ["192.0.2.255", "255.255.255.255", "224.0.0.1"])
def test_what_is_sent_to_many_is_not_answered(network: Network, target: str) -> None:
    """The answers of all of them would go to one, whom anybody can name."""
    network.run("ip", "link", "set", "lo", "multicast", "on")
    network.run("ip", "address", "replace", "192.0.2.1/24", "broadcast", "192.0.2.255", "dev", "lo")
    for everybody in ("255.255.255.255", "224.0.0.0/4"):
        network.run("ip", "route", "replace", everybody, "dev", "lo", "src", "192.0.2.1")
    port = next(OTHER_PORTS)
    network.serve(f"udp://0.0.0.0:{port}")
    with (
        network.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        network.socket(socket.AF_INET, socket.SOCK_DGRAM) as another,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.bind(("192.0.2.1", 0))
        another.bind(("0.0.0.0", 0))
        client.sendto(b"time?", (target, another.getsockname()[1]))
        assert another.recv(100), "so such datagrams do arrive"
        client.sendto(b"time?", (target, port))
        client.sendto(b"time?", ("192.0.2.1", port))
        assert client.recvfrom(100)[1] == ("192.0.2.1", port)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)  # the one that came first has had no answer
