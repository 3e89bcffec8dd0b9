"""The servers of others, each as its users would write a good one, for the base protocol:

    python peers.py NAME tcp|udp

A client sends anything and gets the local time, 26 bytes. A server says its address on standard
error once it can be asked. The file is run by the interpreter that is measured, which may have no
more than one of the frameworks: each is imported by its own server alone.

It is the loops that are compared, so each server has what makes it fast, of what its framework documents:

* All keep the part of the time down to the second, as the one in C does. (Our own server keeps it down to the
  millisecond, which saves 0.07 us more.) To write all of it each time, as most people would, takes 0.4 us
  more, of the 6 that uvloop's takes for an answer. So there is uvloop-datetime, which does.
* All TCP connections have TCP_NODELAY. asyncio, uvloop and trio set it themselves.
* asyncio has a BufferedProtocol, which reads into a buffer of its own and takes a third of the time that
  a Protocol takes. uvloop has a Protocol, which is faster there by an eighth.
* gevent's server on UDP is a greenlet with a loop over a cooperative socket. A DatagramServer, which
  starts a greenlet for each datagram, takes three times as long.
* Tornado reads into a buffer of its own, which is 5 % faster than ``read_bytes``.
* trio's servers use its sockets. Its streams, which are above them, take a third more.
"""

from __future__ import annotations

import asyncio
import importlib
import select
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from time import time_ns
from typing import Any

if sys.platform != "linux":
    sys.exit("this benchmark is one for Linux, and its loop by hand for epoll")

HOST = "127.0.0.1"
BACKLOG = 1024
LARGEST = 4096  # bytes read at once, as in the examples of Python's documentation

second = -1
layout = b""  # of the answers in this second


def answer() -> bytes:
    global second, layout
    now, microseconds = divmod(time_ns() // 1000, 1_000_000)
    if now != second:
        second = now
        layout = datetime.fromtimestamp(now).isoformat(" ").encode() + b".%06d"
    return layout % microseconds


def answer_by_datetime() -> bytes:
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


class BufferedConversation(asyncio.BufferedProtocol):
    buffer = bytearray(LARGEST)  # one for all, since nobody looks at what was said

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
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


async def protocol_tcp(protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, HOST, 0, backlog=BACKLOG)
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
    asyncio.run(protocol_tcp(BufferedConversation))


def asyncio_udp() -> None:
    asyncio.run(protocol_udp())


def asyncio_streams_tcp() -> None:
    asyncio.run(streams_tcp())


def uvloop_tcp() -> None:
    importlib.import_module("uvloop").run(protocol_tcp(Conversation))


def uvloop_udp() -> None:
    importlib.import_module("uvloop").run(protocol_udp())


# gevent


def gevent_tcp() -> None:
    server_module: Any = importlib.import_module("gevent.server")

    def serve(client: Any, address: object) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    cooperative: Any = importlib.import_module("gevent.socket")
    sock = cooperative.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    tell(sock.getsockname()[1])
    while True:
        _, sender = sock.recvfrom(LARGEST)
        sock.sendto(answer(), sender)


# Twisted


def twisted_tcp() -> None:
    protocol: Any = importlib.import_module("twisted.internet.protocol")
    reactor: Any = importlib.import_module("twisted.internet.reactor")

    class Time(protocol.Protocol):  # type: ignore[misc]
        def connectionMade(self) -> None:  # noqa: N802
            self.transport.setTcpNoDelay(True)

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
            stream.set_nodelay(True)
            buffer = bytearray(LARGEST)
            try:
                while True:
                    await stream.read_into(buffer, partial=True)
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
        sock = stream.socket
        try:
            while await sock.recv(LARGEST):
                await sock.send(answer())
        except ConnectionError:
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
    ("uvloop-datetime", "tcp"): uvloop_tcp,
    ("uvloop-datetime", "udp"): uvloop_udp,
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
    if name.endswith("-datetime"):
        answer = answer_by_datetime
    SERVERS[name, transport]()
