"""Programs that others wrote for ``select.epoll`` run on our loops, with no epoll on the platform.

Not a line of them is changed: ``select`` means ``uloop_events`` before they are imported, which is
what ``import uloop_events as select`` does to a program. All that was written for these tests is how
each is started, on a free port, and how it is told to end.
"""

from __future__ import annotations

import base64
import ftplib
import http.client
import io
import random
import re
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uloop_events

T = TypeVar("T")

LOOPS = ["PollLoop", "SelectLoop", "AfdLoop"]
if sys.platform != "linux":
    LOOPS.append("KqueueLoop")  # of which Linux has a model alone, that is not in the processes started here
PATIENCE = 30  # seconds; a test that runs into it has failed
SIZE = 1_000_003  # more than a socket's buffers hold, so that the program must wait for room
CLIENTS = 4  # at the same time
BINARY, CLOSE = 2, 8  # WebSocket opcodes

PORTED = """
import select
import sys
import threading

for name in [name for name in dir(select) if name.lower().startswith("epoll")]:
    delattr(select, name)  # nobody shall find the platform's own

import uloop_events

uloop_events.epoll = uloop_events.{loop}
sys.modules["select"] = uloop_events

def ready(poller, port):
    assert type(poller) is uloop_events.{loop}, poller
    print("ready at", port, "on", type(poller).__name__, file=sys.stderr)

# The end of standard input is where this thread ends, and the program with it.
ends = threading.Thread(target=sys.stdin.read)
ends.start()
"""

FTP_SERVER = """
import logging
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

logging.basicConfig(level=logging.WARNING)
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user("user", "secret", sys.argv[1], perm="elradfmwMT")
server = FTPServer(("127.0.0.1", 0), FTPHandler)

def end_in_time():
    if not ends.is_alive():
        server.close_all()

server.ioloop.call_every(0.05, end_in_time)
ready(server.ioloop._poller, server.address[1])
server.serve_forever(handle_exit=False)
"""

WEB_SERVER = """
from circuits.core.pollers import EPoll
from circuits.web import Controller, Server

class Root(Controller):
    def index(self):
        return "hello"

    def upper(self):
        return self.request.body.read().upper()

poller = EPoll()
app = Server(("127.0.0.1", 0)) + Root() + poller

def end():
    ends.join()
    app.stop()

threading.Thread(target=end).start()
ready(poller._poller, app.port)
app.run()
"""

WEBSOCKET_SERVER = """
from wsgiref.simple_server import make_server
from ws4py.server.wsgirefserver import WebSocketWSGIRequestHandler, WSGIServer
from ws4py.server.wsgiutils import WebSocketWSGIApplication
from ws4py.websocket import EchoWebSocket

class QuietHandler(WebSocketWSGIRequestHandler):
    def log_message(self, *arguments):
        pass

server = make_server(
    "127.0.0.1",
    0,
    server_class=WSGIServer,
    handler_class=QuietHandler,
    app=WebSocketWSGIApplication(handler_cls=EchoWebSocket),
)
server.initialize_websockets_manager()

def end():
    ends.join()
    server.shutdown()

threading.Thread(target=end).start()
ready(server.manager.poller.poller, server.server_port)
server.serve_forever()
server.manager.running = False
server.manager.join()  # or it might poll what server_close closes
server.server_close()
"""

# asyncio comes with Python. Its selectors module was imported before ours, for socket imports it.
ASYNCIO_RELAY = """
import importlib
import selectors

importlib.reload(selectors)

import asyncio

async def pass_on(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()

async def echo(reader, writer):
    await pass_on(reader, writer)
    writer.close()

async def relay(reader, writer):
    port = int(await reader.readline())
    try:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        writer.write(b"refused")
    else:
        await asyncio.gather(pass_on(reader, onward_writer), pass_on(onward_reader, writer))
        onward_writer.close()
    writer.close()

class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        self.transport.sendto(data, sender)

async def main():
    echo_server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay_server = await asyncio.start_server(relay, "127.0.0.1", 0)
    datagrams, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
    ports = [each.sockets[0].getsockname()[1] for each in (echo_server, relay_server)]
    ready(selector._selector, " ".join(map(str, [*ports, datagrams.get_extra_info("sockname")[1]])))
    await asyncio.to_thread(ends.join)
    datagrams.close()
    echo_server.close()
    relay_server.close()

selector = selectors.EpollSelector()
loop = asyncio.SelectorEventLoop(selector)
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""

TRIO_RELAY = """
import functools
import trio

async def pass_on(source, sink):
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()

async def echo(stream):
    await pass_on(stream, stream)

async def relay(stream):
    line = b""
    while not line.endswith(b"\\n"):
        line += await stream.receive_some(1)
    try:
        onward = await trio.open_tcp_stream("127.0.0.1", int(line))
    except OSError:
        await stream.send_all(b"refused")
        return
    async with onward, trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, stream, onward)
        nursery.start_soon(pass_on, onward, stream)

async def echo_datagrams(sock):
    while True:
        data, sender = await sock.recvfrom(65535)
        await sock.sendto(data, sender)

async def main():
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as datagrams:
        await datagrams.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            sockets = [datagrams]
            for handler in (echo, relay):
                serve = functools.partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
                [listener] = await nursery.start(serve)
                sockets.insert(-1, listener.socket)
            nursery.start_soon(echo_datagrams, datagrams)
            ports = " ".join(str(sock.getsockname()[1]) for sock in sockets)
            ready(trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll, ports)
            await trio.to_thread.run_sync(ends.join)
            nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.fixture(params=LOOPS)
def start(request: pytest.FixtureRequest, start_program: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a program on each loop in turn that this platform has; tells the program, and its ports."""
    name = request.param
    loop = getattr(uloop_events, name, None)
    if loop is None:
        pytest.skip(f"there is no {name} here")
    try:
        loop().close()
    except NotImplementedError as error:
        pytest.skip(str(error))

    def start_it(driver: str, *arguments: str) -> tuple[Any, list[int]]:
        program = start_program("-c", PORTED.format(loop=name) + driver, *arguments)
        ready = re.fullmatch(rf"ready at (\d+(?: \d+)*) on {name}", program.next_line())
        assert ready, program.lines
        return program, [int(port) for port in ready[1].split()]

    return start_it


def end(program: Any, lines: int = 1) -> None:
    """It ends when it is told to, and has said no more than it says when all is well."""
    program.close_input()
    assert program.wait() == 0, program.lines
    assert len(program.lines) == lines, program.lines


def at_the_same_time(client: Callable[[int], T]) -> list[T]:
    """What each client got that has its own thread."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(client, range(CLIENTS)))


def read_to_the_end(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def content(client: int) -> bytes:
    """Each client has its own, so that none can pass for another's."""
    return random.Random(client).randbytes(SIZE)


def ftp_session(port: int, number: int, *, passive: bool) -> bytes:
    """Store a file, see it listed, and fetch it again."""
    name, fetched = f"{number}.bin", io.BytesIO()
    with ftplib.FTP() as ftp:
        ftp.connect("127.0.0.1", port, PATIENCE)
        ftp.login("user", "secret")
        ftp.set_pasv(passive)
        ftp.storbinary(f"STOR {name}", io.BytesIO(content(number)))
        assert ftp.size(name) == SIZE
        assert name in ftp.nlst()
        ftp.retrbinary(f"RETR {name}", fetched.write)
    return fetched.getvalue()


def test_ftp_server(start: Callable[..., Any], tmp_path: Path) -> None:
    """pyftpdlib stores, lists and sends files, for several clients at once."""
    pytest.importorskip("pyftpdlib")
    program, [port] = start(FTP_SERVER, str(tmp_path))
    fetched = at_the_same_time(lambda number: ftp_session(port, number, passive=True))
    assert fetched == [content(number) for number in range(CLIENTS)]
    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert stored == {f"{number}.bin": content(number) for number in range(CLIENTS)}
    end(program)


def test_ftp_server_that_connects(start: Callable[..., Any], tmp_path: Path) -> None:
    """In FTP's active mode it is the server that connects, and its loop that waits for it.

    For one client at a time: with several, pyftpdlib loses some of them on the real epoll, too.
    """
    pytest.importorskip("pyftpdlib")
    program, [port] = start(FTP_SERVER, str(tmp_path))
    for number in range(CLIENTS):
        assert ftp_session(port, number, passive=False) == content(number)
    with socket.socket() as nobody, ftplib.FTP() as ftp:
        nobody.bind(("127.0.0.1", 0))
        ftp.connect("127.0.0.1", port, PATIENCE)
        ftp.login("user", "secret")
        with pytest.raises(ftplib.error_temp, match="Can't connect"):
            ftp.sendport(*nobody.getsockname())
        ftp.quit()
    end(program)


def test_web_server(start: Callable[..., Any]) -> None:
    """circuits answers requests, small and large, over connections that stay open."""
    pytest.importorskip("circuits")
    program, [port] = start(WEB_SERVER)

    def client(number: int) -> list[bytes]:
        sent = base64.b64encode(content(number)).lower()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        answers = []
        for _ in range(3):
            connection.request("GET", "/")
            answers.append(connection.getresponse().read())
        connection.request("POST", "/upper", sent)
        answers.append(connection.getresponse().read())
        connection.close()
        return answers

    for number, answers in enumerate(at_the_same_time(client)):
        assert answers == [b"hello"] * 3 + [base64.b64encode(content(number)).upper()]
    end(program, lines=2)  # it announces itself, too


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk, f"the end after {len(data)} of {size} bytes"
        data += chunk
    return bytes(data)


def frame(opcode: int, payload: bytes) -> bytes:
    """What a WebSocket client sends: one frame, masked (RFC 6455, 5.2)."""
    mask = b"\x0f\xf0\x55\xaa"
    stream = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    size = len(payload)
    head = struct.pack("!BB", 0x80 | opcode, 0x80 | min(size, 126))
    if size >= 126:
        head += struct.pack("!H", size)
    return head + mask + masked.to_bytes(size, "big")


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """What a WebSocket server sends: one frame, not masked."""
    first, size = read_exactly(sock, 2)
    if size == 126:
        [size] = struct.unpack("!H", read_exactly(sock, 2))
    return first & 0x0F, read_exactly(sock, size)


def test_websocket_server(start: Callable[..., Any]) -> None:
    """ws4py: one thread accepts and registers, while another is inside the loop's poll."""
    pytest.importorskip("ws4py")
    program, [port] = start(WEBSOCKET_SERVER)

    def client(number: int) -> list[tuple[int, bytes]]:
        key = base64.b64encode(bytes(16)).decode()
        request = (
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(request.encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += read_exactly(sock, 1)
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            frames = []
            for message in messages(number):
                sock.sendall(frame(BINARY, message))
                frames.append(read_frame(sock))
            sock.sendall(frame(CLOSE, struct.pack("!H", 1000)))
            frames.append(read_frame(sock))
        return frames

    def messages(number: int) -> list[bytes]:
        whole = content(number)
        return [whole[position : position + 50_000] for position in range(0, len(whole), 50_000)]

    for number, frames in enumerate(at_the_same_time(client)):
        assert frames[:-1] == [(BINARY, message) for message in messages(number)]
        assert frames[-1][0] == CLOSE
    end(program)


def check_relay(program: Any, ports: list[int]) -> None:
    """Streams and datagrams, in and out; and the end comes from a thread that wakes the loop."""
    echo, relay, datagrams = ports

    def client(number: int) -> bytes:
        """What comes back through the relay from the echo server behind it."""
        with socket.create_connection(("127.0.0.1", relay), PATIENCE) as sock, ThreadPoolExecutor(1) as pool:
            received = pool.submit(read_to_the_end, sock)  # or each would wait for the other to read
            sock.sendall(b"%d\n" % echo + content(number))
            sock.shutdown(socket.SHUT_WR)
            return received.result()

    assert at_the_same_time(client) == [content(number) for number in range(CLIENTS)]

    with socket.socket() as nobody, socket.create_connection(("127.0.0.1", relay), PATIENCE) as sock:
        nobody.bind(("127.0.0.1", 0))
        sock.sendall(b"%d\n" % nobody.getsockname()[1])
        assert read_to_the_end(sock) == b"refused"

    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", datagrams))
        for _ in range(3):
            sock.send(b"hello")
            assert sock.recv(100) == b"hello"
    end(program)


def test_asyncio(start: Callable[..., Any]) -> None:
    """Python's asyncio, by its selector for epoll."""
    check_relay(*start(ASYNCIO_RELAY))


@pytest.mark.skipif(sys.platform != "linux", reason="trio looks for epoll on Linux alone")
def test_trio(start: Callable[..., Any]) -> None:
    """trio, which registers everything as a oneshot."""
    pytest.importorskip("trio")
    check_relay(*start(TRIO_RELAY))
