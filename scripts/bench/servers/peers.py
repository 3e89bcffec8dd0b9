"""The servers of others, each as its users would write a good one, for the base protocol:

    python peers.py NAME tcp|udp

A client sends anything and gets the local time, 26 bytes. A server says its address on standard
error once it can be asked. The file is run by the interpreter that is measured, which may have no
more than one of the frameworks: each is imported by its own server alone.
"""

from __future__ import annotations

import asyncio
import importlib
import select
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

if sys.platform != "linux":
    sys.exit("this benchmark is one for Linux, and its loop by hand for epoll")

HOST = "127.0.0.1"
BACKLOG = 1024
LARGEST = 65536  # bytes read at once


def answer() -> bytes:
    # Not str(), which leaves the fraction out when it is 0: once in a million answers.
    return datetime.now().isoformat(" ", "microseconds").encode()


def tell(port: int) -> None:
    print(f"serving {HOST}:{port}", file=sys.stderr, flush=True)


# A loop over epoll, written by hand


def by_hand_tcp() -> None:
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}

    def accept() -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clients[client.fileno()] = client
        epoll.register(client, select.EPOLLIN)

    def serve(client: socket.socket) -> None:
        try:
            if client.recv(LARGEST):
                client.send(answer())
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # it was reset
        del clients[client.fileno()]
        client.close()

    tell(listener.getsockname()[1])
    while True:
        for fileno, _ in epoll.poll():
            if fileno in clients:
                serve(clients[fileno])
            else:
                accept()


def by_hand_udp() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((HOST, 0))
    sock.setblocking(False)
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN)
    tell(sock.getsockname()[1])
    while True:
        epoll.poll()
        try:
            while True:
                _, sender = sock.recvfrom(LARGEST)
                sock.sendto(answer(), sender)
        except BlockingIOError:
            pass


# asyncio and uvloop


class Conversation(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio's by inheritance
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(answer())


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(answer(), addr)


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(LARGEST):
            writer.write(answer())
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def protocol_tcp() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Conversation, HOST, 0, backlog=BACKLOG)
    tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def protocol_udp() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))
    tell(transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


async def streams_tcp() -> None:
    server = await asyncio.start_server(converse, HOST, 0, backlog=BACKLOG)
    tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def asyncio_tcp() -> None:
    asyncio.run(protocol_tcp())


def asyncio_udp() -> None:
    asyncio.run(protocol_udp())


def asyncio_streams_tcp() -> None:
    asyncio.run(streams_tcp())


def uvloop_tcp() -> None:
    importlib.import_module("uvloop").run(protocol_tcp())


def uvloop_udp() -> None:
    importlib.import_module("uvloop").run(protocol_udp())


# gevent


def gevent_tcp() -> None:
    server_module: Any = importlib.import_module("gevent.server")

    def serve(client: Any, address: object) -> None:
        try:
            while client.recv(LARGEST):
                client.sendall(answer())
        except ConnectionError:
            pass

    server = server_module.StreamServer((HOST, 0), serve, backlog=BACKLOG)
    server.start()
    tell(server.server_port)
    server.serve_forever()


def gevent_udp() -> None:
    server_module: Any = importlib.import_module("gevent.server")

    class Server(server_module.DatagramServer):  # type: ignore[misc]
        def handle(self, data: bytes, address: object) -> None:
            self.socket.sendto(answer(), address)

    server = Server((HOST, 0))
    server.start()
    tell(server.server_port)
    server.serve_forever()


# Twisted


def twisted_tcp() -> None:
    protocol: Any = importlib.import_module("twisted.internet.protocol")
    reactor: Any = importlib.import_module("twisted.internet.reactor")

    class Time(protocol.Protocol):  # type: ignore[misc]
        def dataReceived(self, data: bytes) -> None:  # noqa: N802
            self.transport.write(answer())

    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Time), backlog=BACKLOG, interface=HOST)
    tell(port.getHost().port)
    reactor.run()


def twisted_udp() -> None:
    protocol: Any = importlib.import_module("twisted.internet.protocol")
    reactor: Any = importlib.import_module("twisted.internet.reactor")

    class Time(protocol.DatagramProtocol):  # type: ignore[misc]
        def datagramReceived(self, datagram: bytes, addr: object) -> None:  # noqa: N802
            self.transport.write(answer(), addr)

    tell(reactor.listenUDP(0, Time(), interface=HOST).getHost().port)
    reactor.run()


# Tornado, which has no UDP


def tornado_tcp() -> None:
    closed: Any = importlib.import_module("tornado.iostream").StreamClosedError
    tcpserver: Any = importlib.import_module("tornado.tcpserver")

    class Server(tcpserver.TCPServer):  # type: ignore[misc]
        async def handle_stream(self, stream: Any, address: object) -> None:
            try:
                while True:
                    await stream.read_bytes(LARGEST, partial=True)
                    await stream.write(answer())
            except closed:
                pass

    async def serve() -> None:
        listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        listener.setblocking(False)
        server = Server()
        server.add_socket(listener)
        tell(listener.getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(serve())


# trio


def trio_tcp() -> None:
    trio: Any = importlib.import_module("trio")

    async def converse(stream: Any) -> None:
        try:
            async for _ in stream:
                await stream.send_all(answer())
        except trio.BrokenResourceError:
            pass

    async def serve() -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
        tell(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(converse, listeners)

    trio.run(serve)


def trio_udp() -> None:
    trio: Any = importlib.import_module("trio")

    async def serve() -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.bind((HOST, 0))
            tell(sock.getsockname()[1])
            while True:
                _, sender = await sock.recvfrom(LARGEST)
                await sock.sendto(answer(), sender)

    trio.run(serve)


SERVERS: dict[tuple[str, str], Callable[[], None]] = {
    ("by-hand", "tcp"): by_hand_tcp,
    ("by-hand", "udp"): by_hand_udp,
    ("asyncio", "tcp"): asyncio_tcp,
    ("asyncio", "udp"): asyncio_udp,
    ("asyncio-streams", "tcp"): asyncio_streams_tcp,
    ("uvloop", "tcp"): uvloop_tcp,
    ("uvloop", "udp"): uvloop_udp,
    ("gevent", "tcp"): gevent_tcp,
    ("gevent", "udp"): gevent_udp,
    ("Twisted", "tcp"): twisted_tcp,
    ("Twisted", "udp"): twisted_udp,
    ("Tornado", "tcp"): tornado_tcp,
    ("trio", "tcp"): trio_tcp,
    ("trio", "udp"): trio_udp,
}

if __name__ == "__main__":
    name, transport = sys.argv[1:]
    SERVERS[name, transport]()
