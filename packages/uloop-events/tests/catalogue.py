"""The catalogue of situations in which epoll and what imitates it must say the same.

Each situation is a function that sets a stage and asks the loop. What is asked for is IN, PRI,
OUT and RDHUP, unless a situation says otherwise. ``recordings/`` has what each loop said.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from stage import EVERYTHING, NotHereError, Number, Play, Stage, names_of
from uloop_events import EPOLLERR as ERR
from uloop_events import EPOLLET as ET
from uloop_events import EPOLLEXCLUSIVE as EXCLUSIVE
from uloop_events import EPOLLHUP as HUP
from uloop_events import EPOLLIN as IN
from uloop_events import EPOLLONESHOT as ONESHOT
from uloop_events import EPOLLOUT as OUT
from uloop_events import EPOLLPRI as PRI
from uloop_events import EPOLLRDHUP as RDHUP
from uloop_events import HasFileno

Set = TypeVar("Set", bound=Callable[[Stage], HasFileno])

#: by name: "TCP: idle"
CATALOGUE: dict[str, Play] = {}

NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # which Windows has not, nor named pipes

RDNORM = 0x40  # old names for IN and OUT that epoll still takes
WRNORM = 0x100


def situation(name: str) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        assert name not in CATALOGUE, f"two situations are called {name!r}"
        CATALOGUE[name] = play
        return play

    return add


def look_once(stage: Stage, make: Callable[[Stage], HasFileno], mask: int) -> None:
    stage.look_at(make(stage), mask)


def look(name: str, *asked: int) -> Callable[[Set], Set]:
    """A situation, or one for each mask asked for, that is: set this stage, and look at it once.

    Parameters:
        name: of the situation; the masks are added to it.
        asked: the masks; EVERYTHING when none is given.
    """

    def add(make: Set) -> Set:
        for mask in asked or (EVERYTHING,):
            full_name = name if mask == EVERYTHING else f"{name}, asked for {names_of(mask) or 'nothing'}"
            situation(full_name)(partial(look_once, mask=mask, make=make))
        return make

    return add


# A TCP connection


@look("TCP: idle")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.tcp_pair()
    return ours


@look("TCP: data waits", EVERYTHING, IN, OUT)
def with_data(stage: Stage) -> socket.socket:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"x")
    stage.until(ours, "r")
    return ours


@situation("TCP: data waits, then is read")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours)
    ours.recv(1)
    stage.poll()


@look("TCP: no room to send")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.tcp_pair()
    stage.fill(ours)
    return ours


@look("TCP: no room to send, data waits")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    stage.fill(ours)
    theirs.send(b"x")
    stage.until(ours, "r")
    return ours


@look("TCP: peer sends no more", EVERYTHING, IN, OUT, RDHUP, 0)
def half_closed(stage: Stage) -> socket.socket:
    ours, theirs = stage.tcp_pair()
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    return ours


@look("TCP: peer sends no more, data unread")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    settle(stage, ours)
    return ours


@look("TCP: peer has closed")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.close()
    stage.until(ours, "r")
    return ours


@look("TCP: peer has closed, data unread")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"x")
    theirs.close()
    settle(stage, ours)
    return ours


@look("TCP: peer has closed, no room to send")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    stage.fill(ours)
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    return ours


@look("TCP: we send no more")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    return ours


@look("TCP: we read no more")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.tcp_pair()
    ours.shutdown(socket.SHUT_RD)
    return ours


@look("TCP: we send and read no more")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.tcp_pair()
    ours.shutdown(socket.SHUT_RDWR)
    return ours


@look("TCP: neither side sends any more, peer first")
def over(stage: Stage) -> socket.socket:
    ours, theirs = stage.tcp_pair()
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    ours.shutdown(socket.SHUT_WR)
    stage.until(theirs, "r")
    return ours


@look("TCP: neither side sends any more, we first")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    stage.until(theirs, "r")
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    return ours


@look("TCP: neither side sends any more", IN, 0)
def _(stage: Stage) -> HasFileno:
    return over(stage)


@situation("TCP: peer sends no more, then we send no more, while watched")
def _(stage: Stage) -> None:
    ours, theirs = stage.tcp_pair()
    stage.look_at(ours)
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    stage.poll()
    ours.shutdown(socket.SHUT_WR)
    stage.poll()


@look("TCP: reset by peer", EVERYTHING, IN, OUT, 0)
def reset(stage: Stage) -> socket.socket:
    ours, theirs = stage.tcp_pair()
    stage.reset(theirs)
    stage.until(ours, "r")
    return ours


@situation("TCP: reset by peer, seen by two polls, then by recv")
def _(stage: Stage) -> None:
    ours = reset(stage)
    stage.look_at(ours)
    stage.poll()
    try:
        ours.recv(1)
        stage.said.append("recv: no error")
    except ConnectionResetError:
        stage.said.append("recv: ECONNRESET")
    stage.poll()


@situation("TCP: we have connected, reset by peer")
def _(stage: Stage) -> None:
    theirs, ours = stage.tcp_pair()
    stage.register(ours)
    stage.reset(theirs)
    stage.until(ours, "r")
    stage.poll()


@look("TCP: we have connected, reset by peer before it is watched")
def _(stage: Stage) -> HasFileno:
    theirs, ours = stage.tcp_pair()
    stage.reset(theirs)
    stage.until(ours, "r")
    return ours


@situation("TCP: watched, then we connect, reset by peer")
def _(stage: Stage) -> None:
    listener = stage.tcp_listener()
    client = stage.keep(socket.socket())
    stage.register(client)
    client.connect(listener.getsockname())
    stage.reset(stage.keep(listener.accept()[0]))
    stage.until(client, "r")
    stage.poll()


@look("TCP: we send no more, then reset by peer")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    stage.until(theirs, "r")
    stage.reset(theirs)
    stage.until(ours, "r")
    return ours


@look("TCP: we read no more, data unread")
def _(stage: Stage) -> HasFileno:
    ours = with_data(stage)
    ours.shutdown(socket.SHUT_RD)
    return ours


@look("TCP: urgent data, then ordinary data")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    theirs.send(b"x")
    stage.until(ours, "r")
    return ours


@situation("TCP: we have connected, neither side sends any more")
def _(stage: Stage) -> None:
    theirs, ours = stage.tcp_pair()
    ours.send(b"x")
    stage.register(ours)
    ours.shutdown(socket.SHUT_WR)
    stage.until(theirs, "r")
    theirs.shutdown(socket.SHUT_WR)
    stage.until(ours, "r")
    stage.poll()


@look("TCP: peer has closed and we have sent")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.close()
    stage.until(ours, "r")
    ours.send(b"x")
    settle(stage, ours)
    return ours


@look("TCP: urgent data", EVERYTHING, IN | OUT, PRI)
def with_urgent_data(stage: Stage) -> socket.socket:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    stage.until(ours, "x")
    return ours


@situation("TCP: urgent data, then it is read")
def _(stage: Stage) -> None:
    ours = with_urgent_data(stage)
    stage.look_at(ours)
    ours.recv(1, socket.MSG_OOB)
    stage.poll()


@look("TCP: urgent data inline")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    theirs.send(b"!", socket.MSG_OOB)
    stage.until(ours, "r")
    return ours


@look("TCP: urgent and ordinary data")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.tcp_pair()
    theirs.send(b"x")
    theirs.send(b"!", socket.MSG_OOB)
    stage.until(ours, "x")
    stage.until(ours, "r")
    return ours


# A TCP socket that is not connected


@look("TCP, not connected: fresh", EVERYTHING, 0)
def _(stage: Stage) -> HasFileno:
    return stage.keep(socket.socket())


@look("TCP, not connected: bound")
def _(stage: Stage) -> HasFileno:
    sock = stage.keep(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return sock


@look("TCP, not connected: connecting")
def connecting(stage: Stage) -> socket.socket:
    """A socket that waits for an answer which never comes: the listener has no place for more."""
    listener = stage.tcp_listener(backlog=0)
    clients = []
    for _ in range(10):
        client = stage.tcp_client(listener.getsockname())
        clients.append(client)
        if not select.select([], [client], [], 0.2)[1]:
            return client
    raise NotHereError("a listener takes more connections than its backlog here")


@situation("TCP, not connected: connecting, closed by us")
def _(stage: Stage) -> None:
    client = connecting(stage)
    stage.register(client)
    client.close()
    stage.poll()


@situation("TCP, not connected: connected while watched")
def _(stage: Stage) -> None:
    listener = stage.tcp_listener()
    client = stage.keep(socket.socket())
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    stage.register(client)
    stage.poll(timeout=10)


@look("TCP, not connected: refused", EVERYTHING, IN, OUT, 0)
def refused(stage: Stage) -> socket.socket:
    client = stage.tcp_client(stage.closed_port())
    readable, writable, exceptional = select.select([client], [client], [client], 10)
    assert readable or writable or exceptional, "the connection was not refused"
    return client


@situation("TCP, not connected: refused while watched")
def _(stage: Stage) -> None:
    client = stage.tcp_client(stage.closed_port())
    stage.register(client)
    stage.poll(timeout=10)


@situation("TCP, not connected: refused, seen by two polls, then by SO_ERROR")
def _(stage: Stage) -> None:
    client = refused(stage)
    stage.look_at(client)
    stage.poll()
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    stage.said.append("SO_ERROR: an error" if code else "SO_ERROR: none")
    stage.poll()


# A listening TCP socket


@look("listening: nobody has come")
def _(stage: Stage) -> HasFileno:
    return stage.tcp_listener()


@look("listening: somebody has connected", EVERYTHING, OUT)
def wanted(stage: Stage) -> socket.socket:
    listener = stage.tcp_listener()
    stage.keep(socket.create_connection(listener.getsockname()))
    stage.until(listener, "r")
    return listener


@situation("listening: somebody has connected, then is accepted")
def _(stage: Stage) -> None:
    listener = wanted(stage)
    stage.look_at(listener)
    stage.keep(listener.accept()[0])
    stage.poll()


@look("listening: two have connected, one is accepted")
def _(stage: Stage) -> HasFileno:
    listener = wanted(stage)
    stage.keep(socket.create_connection(listener.getsockname()))
    stage.keep(listener.accept()[0])
    stage.until(listener, "r")
    return listener


@look("listening: somebody has connected and closed")
def _(stage: Stage) -> HasFileno:
    listener = stage.tcp_listener()
    socket.create_connection(listener.getsockname()).close()
    stage.until(listener, "r")
    return listener


@look("listening: shut down")
def _(stage: Stage) -> HasFileno:
    listener = stage.tcp_listener()
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        raise NotHereError("a listening socket cannot be shut down here") from None
    return listener


# UDP


@look("UDP: idle")
def _(stage: Stage) -> HasFileno:
    return stage.udp()


@look("UDP: a datagram waits", EVERYTHING, OUT)
def _(stage: Stage) -> HasFileno:
    return with_datagram(stage, b"x")


@look("UDP: an empty datagram waits")
def _(stage: Stage) -> HasFileno:
    return with_datagram(stage, b"")


@look("UDP: two datagrams wait, one is read")
def _(stage: Stage) -> HasFileno:
    receiver = with_datagram(stage, b"x")
    stage.udp().sendto(b"y", receiver.getsockname())
    receiver.recv(1)
    stage.until(receiver, "r")
    return receiver


@look("UDP: refused", EVERYTHING, IN, 0)
def _(stage: Stage) -> HasFileno:
    return stage.udp_refused()


@situation("UDP: refused, seen by two polls, then by SO_ERROR")
def _(stage: Stage) -> None:
    client = stage.udp_refused()
    stage.look_at(client)
    stage.poll()
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    stage.said.append("SO_ERROR: an error" if code else "SO_ERROR: none")
    stage.poll()


@look("UDP: we read no more")
def _(stage: Stage) -> HasFileno:
    sock = stage.udp()
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_RD)
    return sock


@look("UDP: we send and read no more")
def _(stage: Stage) -> HasFileno:
    sock = stage.udp()
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_RDWR)
    return sock


# Unix sockets


@look("Unix stream: idle")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair()
    return ours


@look("Unix stream: data waits")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    theirs.send(b"x")
    return ours


@look("Unix stream: no room to send")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair()
    stage.fill(ours)
    return ours


@look("Unix stream: peer sends no more")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    theirs.shutdown(socket.SHUT_WR)
    return ours


@look("Unix stream: peer sends no more, data unread")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    return ours


@look("Unix stream: peer has closed", EVERYTHING, IN, OUT, 0)
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    theirs.close()
    return ours


@look("Unix stream: peer has closed, data unread")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    theirs.send(b"x")
    theirs.close()
    return ours


@look("Unix stream: peer has closed without reading our data")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair()
    ours.send(b"x")
    theirs.close()
    return ours


@situation("Unix stream: peer has closed without reading our data, seen by a poll, then by recv")
def _(stage: Stage) -> None:
    ours, theirs = stage.unix_pair()
    ours.send(b"x")
    theirs.close()
    stage.look_at(ours)
    try:
        ours.recv(1)
        stage.said.append("recv: no error")
    except ConnectionResetError:
        stage.said.append("recv: ECONNRESET")
    stage.poll()


@look("Unix stream: we send no more")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair()
    ours.shutdown(socket.SHUT_WR)
    return ours


@look("Unix stream: we send and read no more")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair()
    ours.shutdown(socket.SHUT_RDWR)
    return ours


@look("Unix stream: not connected")
def _(stage: Stage) -> HasFileno:
    return stage.unix_socket()


@look("Unix stream: listening, nobody has come")
def _(stage: Stage) -> HasFileno:
    listener = stage.unix_socket()
    listener.bind(str(stage.folder / "listener"))
    listener.listen()
    return listener


@look("Unix stream: listening, somebody has connected")
def _(stage: Stage) -> HasFileno:
    listener = stage.unix_socket()
    listener.bind(str(stage.folder / "listener"))
    listener.listen()
    stage.unix_socket().connect(listener.getsockname())
    return listener


@look("Unix datagram: idle")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair(socket.SOCK_DGRAM)
    return ours


@look("Unix datagram: a datagram waits")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair(socket.SOCK_DGRAM)
    theirs.send(b"x")
    return ours


@look("Unix datagram: no room to send")
def _(stage: Stage) -> HasFileno:
    ours, _ = stage.unix_pair(socket.SOCK_DGRAM)
    ours.setblocking(False)
    try:
        while True:
            ours.send(b"x")
    except OSError:
        pass
    return ours


@look("Unix datagram: peer has closed")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair(socket.SOCK_DGRAM)
    theirs.close()
    return ours


@look("Unix seqpacket: peer has closed")
def _(stage: Stage) -> HasFileno:
    ours, theirs = stage.unix_pair(socket.SOCK_SEQPACKET)
    theirs.close()
    return ours


# Pipes


@look("pipe, reader: empty")
def _(stage: Stage) -> HasFileno:
    reader, _ = stage.pipe()
    return reader


@look("pipe, reader: data waits", EVERYTHING, 0)
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    writer.write(b"x")
    return reader


@look("pipe, reader: writer has closed, data unread")
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    writer.write(b"x")
    writer.close()
    return reader


@look("pipe, reader: writer has closed, all is read")
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    writer.close()
    return reader


@look("pipe, reader: writer has closed", 0)
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    writer.close()
    return reader


@look("pipe, writer: room to write")
def _(stage: Stage) -> HasFileno:
    _, writer = stage.pipe()
    return writer


@look("pipe, writer: full")
def _(stage: Stage) -> HasFileno:
    _, writer = stage.pipe()
    stage.fill_pipe(writer)
    return writer


@look("pipe, writer: reader has closed", EVERYTHING, IN, 0)
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    reader.close()
    return writer


@look("pipe, writer: full, reader has closed")
def _(stage: Stage) -> HasFileno:
    reader, writer = stage.pipe()
    stage.fill_pipe(writer)
    reader.close()
    return writer


@look("named pipe, reader: nobody has opened it for writing")
def _(stage: Stage) -> HasFileno:
    path = stage.fifo()
    return stage.file(os.open(path, os.O_RDONLY | NONBLOCK))


@look("named pipe, reader: a writer has come and gone")
def _(stage: Stage) -> HasFileno:
    path = stage.fifo()
    reader = stage.file(os.open(path, os.O_RDONLY | NONBLOCK))
    os.close(os.open(path, os.O_WRONLY | NONBLOCK))
    return reader


@situation("named pipe, reader: a writer has gone, another has come")
def _(stage: Stage) -> None:
    path = stage.fifo()
    reader = stage.file(os.open(path, os.O_RDONLY | NONBLOCK))
    os.close(os.open(path, os.O_WRONLY | NONBLOCK))
    stage.look_at(reader)
    stage.file(os.open(path, os.O_WRONLY | NONBLOCK), "w")
    stage.poll()


# Pseudo-terminals


@look("terminal: idle")
def _(stage: Stage) -> HasFileno:
    _, terminal = stage.terminal()
    return terminal


@look("terminal: data waits")
def _(stage: Stage) -> HasFileno:
    controller, terminal = stage.terminal()
    controller.write(b"x")
    stage.until(terminal, "r")
    return terminal


@look("terminal: the controlling side has closed", EVERYTHING, OUT)
def _(stage: Stage) -> HasFileno:
    controller, terminal = stage.terminal()
    controller.close()
    return terminal


@look("controlling side of a terminal: idle")
def _(stage: Stage) -> HasFileno:
    controller, _terminal = stage.terminal()
    return controller


@look("controlling side of a terminal: data waits")
def _(stage: Stage) -> HasFileno:
    controller, terminal = stage.terminal()
    terminal.write(b"x")
    stage.until(controller, "r")
    return controller


@look("controlling side of a terminal: the terminal has closed")
def _(stage: Stage) -> HasFileno:
    controller, terminal = stage.terminal()
    terminal.close()
    stage.until(controller, "r")
    return controller


@situation("controlling side of a terminal: packet mode, a status byte waits")
def _(stage: Stage) -> None:
    if sys.platform != "linux":
        raise NotHereError("packet mode is tried on Linux alone")
    import fcntl
    import termios

    controller, terminal = stage.terminal()
    fcntl.ioctl(controller, termios.TIOCPKT, (1).to_bytes(4, sys.byteorder))
    termios.tcflush(terminal, termios.TCIFLUSH)
    stage.look_at(controller)


# Files and devices


@look("file: a regular file")
def _(stage: Stage) -> HasFileno:
    path = stage.folder / "file"
    path.write_bytes(b"x")
    return stage.file(os.open(path, os.O_RDONLY))


@situation("file: a directory")
def _(stage: Stage) -> None:
    try:
        number = os.open(stage.folder, os.O_RDONLY)
    except PermissionError:
        raise NotHereError("a directory cannot be opened here") from None
    stage.register(Number(number))
    os.close(number)


@look("file: /dev/null")
def _(stage: Stage) -> HasFileno:
    return stage.device("/dev/null")


@look("file: /dev/zero")
def _(stage: Stage) -> HasFileno:
    return stage.device("/dev/zero")


@look("file: /dev/urandom")
def _(stage: Stage) -> HasFileno:
    return stage.device("/dev/urandom")


@look("file: /proc/mounts")
def _(stage: Stage) -> HasFileno:
    return stage.device("/proc/mounts")


@situation("eventfd: zero, then not")
def _(stage: Stage) -> None:
    if sys.platform != "linux":
        raise NotHereError("there is no eventfd here")
    counter = stage.file(os.eventfd(0), "r+")
    stage.look_at(counter)
    os.eventfd_write(counter.fileno(), 1)
    stage.poll()


@situation("another epoll: idle, then ready")
def _(stage: Stage) -> None:
    if sys.platform != "linux":
        raise NotHereError("there is no epoll here")
    ours, theirs = stage.unix_pair()
    inner = select.epoll()
    stage.stack.callback(inner.close)
    inner.register(ours, IN)
    stage.look_at(inner)
    theirs.send(b"x")
    stage.poll()


# What is registered, and for what


@situation("rules: registered twice")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    stage.look_at(ours)
    stage.register(ours, IN)
    stage.poll()


@situation("rules: not registered")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    stage.modify(ours, IN)
    stage.unregister(ours)


@situation("rules: not open")
def _(stage: Stage) -> None:
    gone = not_open(stage)
    stage.register(gone)
    stage.modify(gone, IN)
    stage.unregister(gone)


@situation("rules: unregistered")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours)
    stage.unregister(ours)
    stage.poll()
    stage.register(ours)
    stage.poll()


@situation("rules: modified")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours, IN)
    for asked in (OUT, IN | OUT, 0, IN):
        stage.modify(ours, asked)
        stage.poll()


@situation("rules: closed while registered")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    gone = Number(ours.fileno())
    stage.register(ours)
    ours.close()
    stage.poll()
    stage.modify(gone, IN)
    stage.unregister(gone)


@situation("rules: closed while registered, others go on")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    other = with_data(stage)
    stage.register(ours)
    stage.register(other)
    ours.close()
    stage.poll()


@situation("rules: closed, its number used again, not registered again")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    number = ours.fileno()
    stage.register(ours)
    ours.close()
    again = stage.take_number_of(number)
    stage.poll()
    stage.unregister(again)


@situation("rules: closed, its number used and registered again")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    number = ours.fileno()
    stage.register(ours)
    ours.close()
    again = stage.take_number_of(number)
    stage.register(again, OUT)
    stage.poll()
    stage.unregister(again)
    stage.poll()


@situation("rules: closed while a duplicate lives")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.keep(ours.dup())
    gone = Number(ours.fileno())
    stage.register(ours)
    ours.close()
    stage.poll()
    stage.unregister(gone)


@situation("rules: two duplicates")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.register(ours, IN)
    stage.register(stage.keep(ours.dup()), OUT)
    stage.poll()


@situation("rules: asked for nothing, idle")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    stage.look_at(ours, 0)


@situation("rules: asked for nothing, data waits")
def _(stage: Stage) -> None:
    stage.look_at(with_data(stage), 0)


@situation("rules: asked for ERR and HUP, idle")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    stage.look_at(ours, ERR | HUP)


@situation("rules: asked for a bit that means nothing")
def _(stage: Stage) -> None:
    stage.look_at(with_data(stage), IN | 0x20 | 1 << 20)


@situation("rules: asked for RDNORM and WRNORM")
def _(stage: Stage) -> None:
    stage.look_at(with_data(stage), RDNORM | WRNORM)


@situation("rules: asked for changes, not states (poll_et)")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours, IN | ET)
    stage.poll()


@situation("rules: asked to wake one of several (poll_exclusive)")
def _(stage: Stage) -> None:
    stage.look_at(with_data(stage), IN | EXCLUSIVE)


@situation("oneshot: reported once")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours, IN | ONESHOT)
    stage.poll()


@situation("oneshot: reported once, then the peer closes")
def _(stage: Stage) -> None:
    ours, theirs = stage.tcp_pair()
    stage.look_at(ours, EVERYTHING | ONESHOT)
    stage.reset(theirs)
    stage.until(ours, "r")
    stage.poll()


@situation("oneshot: one direction fires, both are silent")
def _(stage: Stage) -> None:
    ours, theirs = stage.tcp_pair()
    stage.look_at(ours, IN | OUT | ONESHOT)
    theirs.send(b"x")
    stage.until(ours, "r")
    stage.poll()


@situation("oneshot: modified, it fires again")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours, IN | ONESHOT)
    stage.modify(ours, IN | ONESHOT)
    stage.poll()
    stage.poll()


@situation("oneshot: modified before it fires")
def _(stage: Stage) -> None:
    ours, theirs = stage.tcp_pair()
    stage.look_at(ours, IN | ONESHOT)
    stage.modify(ours, IN)
    theirs.send(b"x")
    stage.until(ours, "r")
    stage.poll()
    stage.poll()


@situation("oneshot: fired, it is still registered")
def _(stage: Stage) -> None:
    ours = with_data(stage)
    stage.look_at(ours, IN | ONESHOT)
    stage.register(ours, IN)
    stage.unregister(ours)
    stage.register(ours, IN)
    stage.poll()


@situation("oneshot: asked for nothing, reset by peer")
def _(stage: Stage) -> None:
    ours = reset(stage)
    stage.look_at(ours, ONESHOT)
    stage.poll()


@situation("turns: three are ready, one at a time")
def _(stage: Stage) -> None:
    for _ in range(3):
        ours, _theirs = stage.tcp_pair()
        stage.register(ours, OUT)
    for _ in range(6):
        stage.poll(maxevents=1)


@situation("turns: five are ready, two at a time")
def _(stage: Stage) -> None:
    for _ in range(5):
        ours, _theirs = stage.tcp_pair()
        stage.register(ours, OUT)
    for _ in range(5):
        stage.poll(maxevents=2)


@situation("rules: closed loop")
def _(stage: Stage) -> None:
    ours, _ = stage.tcp_pair()
    stage.register(ours)
    stage.loop.close()
    stage.poll()
    stage.register(ours)
    stage.modify(ours, IN)
    stage.unregister(ours)


# What several situations begin with


def with_datagram(stage: Stage, data: bytes) -> socket.socket:
    receiver = stage.udp()
    stage.udp().sendto(data, receiver.getsockname())
    stage.until(receiver, "r")
    return receiver


def not_open(stage: Stage) -> Number:
    """The number of a socket that was open a moment ago."""
    sock = socket.socket()
    number = Number(sock.fileno())
    sock.close()
    return number


def settle(stage: Stage, ours: socket.socket) -> None:
    """Wait until the end of what the peer sent has come, too, where the system can tell."""
    if sys.platform == "linux":
        poll = select.poll()
        poll.register(ours, select.POLLRDHUP)
        assert poll.poll(10_000), "it has not come"
    else:
        stage.until(ours, "r")
