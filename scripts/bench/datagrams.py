"""What a datagram costs: an echo server of ours, of uvloop, of asyncio and of plain recvfrom and sendto.

    python scripts/bench/datagrams.py [--seconds 1] [--rounds 7]

Each server is a process of its own, and answers a client in this one on the loopback interface,
who sends a burst and then a datagram for every answer: from one socket, and from many, so that no
two answers go to one address. (With many, it is the slower of the two: look at the CPU.) A round
is a go at each server in turn, since the speed of a machine changes from one second to the next;
what is printed are medians of the rounds, and the medians of each round's ratio to uvloop, or to
the plain loop without it. CPU is what the server process used, in microseconds for one datagram
that came and its answer. Where strace(1) is installed, the servers' system calls are counted, in a
run by themselves.

uvloop is taken if it can be imported.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

PAYLOAD = b"x" * 48  # an NTP packet
#: datagrams outstanding, of so many peers
WORKLOADS = ((1, 1), (32, 1), (64, 1), (64, 64))
ADDRESS = "127.0.0.1"

for package in ("events", "reactor"):  # of this tree, unless they are installed
    if importlib.util.find_spec(f"uloop_{package}") is None:
        sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / f"uloop-{package}" / "src"))


def tell(port: int) -> None:
    print(port, flush=True)


# The servers


def serve_ours() -> None:
    from uloop_reactor import Uloop
    from uloop_reactor.datagram import DatagramSocket

    class Echo(DatagramSocket):
        def on_datagram(self, data: bytes, sender: object) -> None:
            self.reply(data)

    with Uloop() as loop:
        tell(Echo.bind(loop, (ADDRESS, 0)).address[1])
        loop.run()


def serve_asyncio(new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(ADDRESS, 0))
        tell(transport.get_extra_info("sockname")[1])
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())


def serve_uvloop() -> None:
    serve_asyncio(importlib.import_module("uvloop").new_event_loop)


def serve_plain() -> None:
    """The least that Python's own calls can do: wait, then answer until there is nothing more."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((ADDRESS, 0))
    sock.setblocking(False)
    tell(sock.getsockname()[1])
    while True:
        select.select([sock], [], [])
        try:
            while True:
                data, sender = sock.recvfrom(65535)
                sock.sendto(data, sender)
        except BlockingIOError:
            pass


SERVERS: dict[str, Callable[[], None]] = {
    "ours": serve_ours,
    "uvloop": serve_uvloop,
    "asyncio": serve_asyncio,
    "plain": serve_plain,
}


# The client


class Server:
    def __init__(self, name: str, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "ignore", __file__, "--serve", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu(self) -> float:
        """Seconds of CPU used so far; 0 where there is no /proc."""
        try:
            # nanoseconds on the CPU, of the main thread: proc(5) counts whole process in ticks of 10 ms
            return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9
        except OSError:
            return 0.0

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Client:
    """Keeps so many datagrams outstanding, with few system calls where there is recvmmsg(2)."""

    def __init__(self, port: int, outstanding: int, peers: int) -> None:
        from uloop_reactor import mmsg

        self.socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(peers)]
        for sock in self.socks:
            sock.connect((ADDRESS, port))
            sock.settimeout(5)
        self.sock = self.socks[0]
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if peers > 1:
            self.send, self.answers = self.send_each, self.answers_of_each
        elif mmsg.SUPPORTED and outstanding > 1:
            self.incoming, self.outgoing = mmsg.ReceiveArrays(2048, control=False), mmsg.SendArrays()
            self.send, self.answers = self.send_batch, self.answers_in_batches
        else:
            self.send, self.answers = self.send_one_by_one, self.answers_one_by_one
        self.send(outstanding)

    def send_one_by_one(self, count: int) -> None:
        for _ in range(count):
            self.sock.send(PAYLOAD)

    def answers_one_by_one(self) -> int:
        self.sock.recv(2048)
        return 1

    def send_each(self, count: int) -> None:
        for sock in self.socks:
            sock.send(PAYLOAD)

    def answers_of_each(self) -> int:
        for sock in self.socks:
            sock.recv(2048)
        return len(self.socks)

    def send_batch(self, count: int) -> None:
        self.outgoing.send(self.sock.fileno(), [PAYLOAD] * count, [b""] * count)

    def answers_in_batches(self) -> int:
        if not select.select([self.sock], [], [], 5)[0]:
            raise TimeoutError("datagrams were lost")
        return len(self.incoming.receive(self.sock.fileno())[0])

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


def ask(server: Server, outstanding: int, peers: int, seconds: float) -> tuple[float, float]:
    """Datagrams a second, and microseconds of the server's CPU for each."""
    with closing(Client(server.port, outstanding, peers)) as client:
        answered = 0
        cpu, start = server.cpu(), time.perf_counter()
        now = start
        while now - start < seconds:
            count = client.answers()
            answered += count
            client.send(count)
            now = time.perf_counter()
        return answered / (now - start), (server.cpu() - cpu) / answered * 1e6


def measure(names: list[str], outstanding: int, peers: int, rounds: int, seconds: float) -> None:
    with ExitStack() as stack:
        servers = {name: Server(name) for name in names}
        for server in servers.values():
            stack.callback(server.close)
            ask(server, outstanding, peers, 0.1)
        results = [
            {name: ask(server, outstanding, peers, seconds) for name, server in servers.items()}
            for _ in range(rounds)
        ]
    base = "uvloop" if "uvloop" in names else "plain"
    what = f"{outstanding} outstanding of {peers}"
    print(f"\n{what:26} datagrams/s  ratio to {base:8} CPU us  ratio to {base}")
    for name in names:
        rate, cpu = (statistics.median(result[name][i] for result in results) for i in (0, 1))
        ratio = statistics.median(result[name][0] / result[base][0] for result in results)
        cpu_ratio = statistics.median(result[name][1] / (result[base][1] or 1) for result in results)
        print(f"  {name:24} {rate:12.0f}  {ratio:17.2f} {cpu:7.2f}  {cpu_ratio:.2f}")


def count_calls(names: list[str], outstanding: int, peers: int) -> None:
    """System calls for one datagram and its answer, of servers that are traced."""
    print(f"\n{outstanding} outstanding of {peers}, system calls for a datagram and its answer")
    for name in names:
        idle, asked = traced(name, outstanding, peers, 0), 20_000
        calls = traced(name, outstanding, peers, asked)
        often = {call: (number - idle.get(call, 0)) / asked for call, number in calls.items()}
        listed = [f"{call} {number:.2f}" for call, number in often.items() if number >= 0.005]
        print(f"  {name:24} {sum(often.values()):.2f}: {', '.join(sorted(listed))}")


def traced(name: str, outstanding: int, peers: int, asked: int) -> dict[str, int]:
    """The number of each system call that a server makes to start and to answer so many datagrams."""
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary")
        server = Server(name, "strace", "-f", "-c", "-U", "name,calls", "-o", str(summary))
        try:
            if asked:
                with closing(Client(server.port, outstanding, peers)) as client:
                    while asked > 0:
                        count = client.answers()
                        asked -= count
                        client.send(count)
            os.kill(child_of(server.process.pid), signal.SIGTERM)
            server.process.wait(30)
        finally:
            server.close()
        lines = (line.split() for line in summary.read_text().splitlines())
        return {
            line[0]: int(line[1])
            for line in lines
            if len(line) == 2 and line[1].isdigit() and line[0] != "total"
        }


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each server in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        SERVERS[options.serve]()
        return
    print(f"Python {sys.version.split()[0]} on {sys.platform}, {len(PAYLOAD)} bytes, {options.rounds} rounds")
    names = list(SERVERS)
    if importlib.util.find_spec("uvloop") is None:
        names.remove("uvloop")
        print("uvloop cannot be imported, and is left out")
    for outstanding, peers in WORKLOADS:
        measure(names, outstanding, peers, options.rounds, options.seconds)
    if shutil.which("strace"):
        for outstanding, peers in WORKLOADS:
            count_calls(names, outstanding, peers)
    else:
        print("strace is not installed, so no system calls are counted")


if __name__ == "__main__":
    main()
