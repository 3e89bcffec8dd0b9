"""A server of everything, ended by a signal in the midst of its work: nothing is left open."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from uloop_reactor import Uloop

CERTIFICATES = Path(__file__).parent / "tls_files"

SERVER = """
import signal, ssl, sys, tempfile
from pathlib import Path
try:
    import kqueue_model
except ImportError:
    pass
else:
    kqueue_model.install()
from uloop_reactor import DatagramSocket, Stream, TcpConnector, TcpListener, TlsStream, Uloop

class Echo(Stream):
    def on_data(self, data):
        self.write(data * 100)

class Secret(TlsStream):
    def on_data(self, data):
        self.write(data)

class Datagrams(DatagramSocket):
    def on_datagram(self, data, sender):
        self.reply(data)

certificates = Path(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificates / "localhost.pem", certificates / "localhost.key")
with Uloop(sys.argv[1]) as loop:
    plain = TcpListener(loop, ("127.0.0.1", 0), Echo)
    accept = lambda loop, sock: Secret(loop, sock, context, server_side=True)
    secret = TcpListener(loop, ("127.0.0.1", 0), accept)
    datagrams = Datagrams.bind(loop, ("127.0.0.1", 0))
    TcpConnector(loop, *plain.address, Echo, sys.exit)
    loop.on_signal(signal.SIGTERM, loop.shutdown, float(sys.argv[3]))
    print(plain.address[1], secret.address[1], datagrams.address[1], flush=True)
    loop.run()
    assert loop.stats().descriptors == 0, loop
print("over", flush=True)
"""

Start = Callable[[float], tuple[subprocess.Popen[str], list[int]]]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signal that ends a process gently"
)


@pytest.fixture
def start(loop: Uloop) -> Iterator[Start]:
    with ExitStack() as undo:

        def start(grace: float) -> tuple[subprocess.Popen[str], list[int]]:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-X",
                    "dev",
                    "-W",
                    "error",
                    "-c",
                    SERVER,
                    loop.backend,
                    CERTIFICATES,
                    str(grace),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            undo.callback(process.communicate)
            undo.callback(process.kill)
            assert process.stdout is not None
            return process, [int(port) for port in re.findall(r"\d+", process.stdout.readline())]

        yield start


def test_what_was_begun_is_finished(start: Start) -> None:
    process, (plain, secret, datagrams) = start(30)
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    with ExitStack() as undo:
        slow = undo.enter_context(socket.create_connection(("127.0.0.1", plain), 30))
        slow.sendall(b"x" * 50_000)  # 5 MB of answer, more than the kernel holds
        assert slow.recv(1)
        tls = undo.enter_context(
            context.wrap_socket(
                socket.create_connection(("127.0.0.1", secret), 30), server_hostname="localhost"
            )
        )
        tls.sendall(b"hello")
        assert tls.recv(5) == b"hello"
        udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.settimeout(30)
        udp.sendto(b"hello", ("127.0.0.1", datagrams))
        assert udp.recv(5) == b"hello"

        process.send_signal(signal.SIGTERM)
        assert tls.recv(1) == b""  # a close_notify
        tls.unwrap().close()
        size = 1
        while chunk := slow.recv(65536):
            size += len(chunk)
        assert size == 5_000_000
        slow.close()
        output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("over\n", "", 0)


def test_who_does_not_finish_is_aborted(start: Start) -> None:
    process, (plain, secret, _) = start(0.2)
    with (
        socket.create_connection(("127.0.0.1", plain), 30) as never_reads,
        socket.create_connection(("127.0.0.1", secret), 30),  # and one that never says hello
    ):
        never_reads.sendall(b"x" * 50_000)
        assert never_reads.recv(1)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert (output, process.returncode) == ("over\n", 0)
    assert re.fullmatch(r"(shutdown: aborting \d handlers that were not done in time\n)?", errors)
