"""A program in the style of the first Uloop runs unchanged but for the name that it imports."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?")

PROGRAM = """
import logging
import socket
import sys
from datetime import datetime

from uloop_reactor import UEvent, Uloop


class UdpTimeServer(object):
    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(('127.0.0.1', 0))
        self.sock.setblocking(False)
        self.clients = []

    def fileno(self):
        return self.sock.fileno()

    def add_to_event_loop(self, loop):
        self.loop = loop
        loop.add(self.sock.fileno(), UEvent.poll_in, self)

    def process_event(self, fileno, event):
        if event & UEvent.poll_in:
            self.clients.append(self.sock.recvfrom(1024)[1])
            self.loop.modify(fileno, UEvent.poll_out)
        if event & UEvent.poll_out:
            self.sock.sendto(str(datetime.now()).encode('utf8'), self.clients.pop())
            self.loop.modify(fileno, UEvent.poll_in)


class TcpClient(object):
    def __init__(self, sock):
        self.sock = sock

    def fileno(self):
        return self.sock.fileno()

    def add_to_event_loop(self, loop):
        self.loop = loop
        loop.add(self.sock, UEvent.poll_in, self)

    def process_event(self, fileno, event):
        if event & UEvent.poll_in:
            if self.sock.recv(1024):
                self.loop.modify(self, UEvent.poll_out)
            else:
                self.loop.remove(self)
                self.sock.close()
        elif event & UEvent.poll_out:
            self.sock.send(str(datetime.now()).encode('utf8'))
            self.loop.modify(self, UEvent.poll_in)


class TcpTimeServer(object):
    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.bind(('127.0.0.1', 0))
        self.sock.listen(10)
        self.sock.setblocking(False)

    def fileno(self):
        return self.sock.fileno()

    def add_to_event_loop(self, loop):
        self.loop = loop
        loop.add(self.sock, UEvent.poll_in, self)

    def process_event(self, fileno, event):
        if event & UEvent.poll_in:
            client, address = self.sock.accept()
            client.setblocking(False)
            TcpClient(client).add_to_event_loop(self.loop)


ticks = []


def periodic():
    ticks.append(1)
    if len(ticks) == 3:
        sys.stderr.write('tick\\n')


loop = Uloop()
loop.timeout = 0.1
loop.add_periodic(periodic)
servers = [UdpTimeServer(), TcpTimeServer()]
for server in servers:
    server.add_to_event_loop(loop)
sys.stderr.write('%d %d\\n' % tuple(server.sock.getsockname()[1] for server in servers))
loop.run()
"""


def test_it_serves_udp_and_tcp(start_program: Callable[..., Any], backend: str) -> None:
    program = start_program("-c", PROGRAM, environment={"ULOOP_BACKEND": backend})
    udp, tcp = map(int, program.next_line().split())

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", udp))
        for _ in range(3):
            sock.send(b"time?")
            assert TIME.fullmatch(sock.recv(100))

    for _ in range(2):  # the second client comes after the first has closed
        with socket.create_connection(("127.0.0.1", tcp), timeout=30) as sock:
            for _ in range(3):
                sock.sendall(b"time?")
                assert TIME.fullmatch(sock.recv(100))

    assert program.next_line() == "tick"
    assert len(program.lines) == 2, program.lines  # nothing went wrong meanwhile
