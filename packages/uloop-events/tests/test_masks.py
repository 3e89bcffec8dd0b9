"""What is reported for a socket in each situation: epoll's mask, and as near as select comes.

select sees no HUP, ERR and RDHUP: the end of a stream and an error show as IN and OUT.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from uloop_events import EPOLLERR as ERR
from uloop_events import EPOLLHUP as HUP
from uloop_events import EPOLLIN as IN
from uloop_events import EPOLLOUT as OUT
from uloop_events import EPOLLPRI as PRI
from uloop_events import EPOLLRDHUP as RDHUP
from uloop_events import EpollLike, PollLoop, SelectLoop, UEvent

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
Wait = Callable[[socket.socket], None]
Check = Callable[..., None]

LOOPBACK = ("127.0.0.1", 0)
LINUX_ALONE = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have their own idea of this state"
)


def test_idle(check_mask: Check, tcp_pair: MakePair) -> None:
    ours, _ = tcp_pair()
    check_mask(ours, epoll=OUT, select=OUT)


def test_data_waits(check_mask: Check, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"x")
    until_readable(ours)
    check_mask(ours, epoll=IN | OUT, select=IN | OUT)


def test_peer_sends_no_more(check_mask: Check, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    theirs.shutdown(socket.SHUT_WR)
    until_readable(ours)
    check_mask(ours, epoll=IN | OUT | RDHUP, select=IN | OUT)


def test_peer_has_closed(check_mask: Check, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    theirs.close()
    until_readable(ours)
    check_mask(ours, epoll=IN | OUT | RDHUP, select=IN | OUT)


def test_peer_has_closed_after_sending(check_mask: Check, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"x")
    theirs.close()
    until_readable(ours)
    check_mask(ours, epoll=IN | OUT, select=IN | OUT, asked=IN | OUT)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no AF_UNIX in Python")
def test_unix_peer_has_closed(check_mask: Check, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    theirs.close()
    check_mask(ours, epoll=IN | OUT | RDHUP | HUP, select=IN | OUT)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no AF_UNIX in Python")
def test_unix_peer_has_closed_and_nothing_was_asked(
    loop: EpollLike, check_mask: Check, socket_pair: MakePair
) -> None:
    if isinstance(loop, PollLoop) and sys.platform == "darwin":
        pytest.skip("poll on macOS watches nothing when it is asked for nothing")
    ours, theirs = socket_pair()
    theirs.close()
    check_mask(ours, epoll=HUP, select=0, asked=0)


def test_we_send_no_more(check_mask: Check, tcp_pair: MakePair) -> None:
    ours, _ = tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    check_mask(ours, epoll=OUT, select=OUT)


@LINUX_ALONE
def test_both_directions_are_shut(check_mask: Check, tcp_pair: MakePair) -> None:
    ours, _ = tcp_pair()
    ours.shutdown(socket.SHUT_RDWR)
    check_mask(ours, epoll=IN | OUT | RDHUP | HUP, select=IN | OUT)


@LINUX_ALONE
def test_not_connected_yet(check_mask: Check, stack: ExitStack) -> None:
    check_mask(stack.enter_context(socket.socket()), epoll=OUT | HUP, select=IN | OUT)


def test_reset_by_peer(check_mask: Check, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # no goodbye: a RST
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    theirs.close()
    until_readable(ours)
    if sys.platform == "win32":  # Winsock does not say whether a socket that was reset is writable
        check_mask(ours, epoll=0, select=IN, asked=IN)
    else:
        check_mask(ours, epoll=IN | OUT | RDHUP | ERR | HUP, select=IN | OUT)


def test_nobody_wants_to_connect(check_mask: Check) -> None:
    with socket.create_server(LOOPBACK) as listener:
        check_mask(listener, epoll=0, select=0)


def test_somebody_has_connected(check_mask: Check, until_readable: Wait) -> None:
    with socket.create_server(LOOPBACK) as listener, socket.create_connection(listener.getsockname()):
        until_readable(listener)
        check_mask(listener, epoll=IN, select=IN)


def test_a_connection_was_made(loop: EpollLike) -> None:
    with socket.create_server(LOOPBACK) as listener, socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        loop.register(client, IN | OUT)
        assert loop.poll(10) == [(client.fileno(), OUT)]


@pytest.mark.parametrize("asked", [UEvent.poll_in, UEvent.poll_out, UEvent.poll_in | UEvent.poll_out])
def test_a_connection_was_refused(loop: EpollLike, asked: UEvent) -> None:
    with socket.socket() as not_listening, socket.socket() as client:
        not_listening.bind(LOOPBACK)
        client.setblocking(False)
        if client.connect_ex(not_listening.getsockname()) == errno.ECONNREFUSED:
            pytest.skip("this system has refused it at once: nothing is left to be reported")
        loop.register(client, asked)
        events = loop.poll(5)  # Windows tries three times, which takes two seconds
        assert [number for number, _ in events] == [client.fileno()]
        [(_, mask)] = events
        assert type(mask) is int
        if isinstance(loop, SelectLoop) and sys.platform != "win32":
            assert UEvent(mask) == asked
        elif sys.platform in ("linux", "win32"):  # Windows says exceptional, of a connect that failed
            assert UEvent(mask) == asked | ERR | HUP
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0, "poll must not take the error away"


@LINUX_ALONE
def test_a_datagram_was_refused(check_mask: Check, stack: ExitStack, until_readable: Wait) -> None:
    client = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    with socket.socket(type=socket.SOCK_DGRAM) as nobody:
        nobody.bind(LOOPBACK)
        client.connect(nobody.getsockname())
    client.send(b"x")
    until_readable(client)
    check_mask(client, epoll=OUT | ERR, select=IN | OUT)


@pytest.mark.parametrize("asked", [PRI, PRI | OUT, IN | PRI | OUT])
def test_urgent_data(loop: EpollLike, tcp_pair: MakePair, asked: int) -> None:
    if isinstance(loop, PollLoop) and sys.platform == "darwin":
        pytest.skip("poll on macOS does not tell of urgent data")
    ours, theirs = tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    loop.register(ours, PRI)
    assert loop.poll(10) == [(ours.fileno(), PRI)]
    loop.modify(ours, asked)
    assert loop.poll(0) == [(ours.fileno(), asked & ~IN)]


def test_urgent_data_is_no_event_for_who_did_not_ask(loop: EpollLike, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    assert select.select([], [], [ours], 10)[2], "nothing arrived"
    loop.register(ours, IN | OUT)
    for _ in range(3):
        assert loop.poll(0) == [(ours.fileno(), OUT)]


def test_modify_changes_what_is_reported(loop: EpollLike, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"x")
    until_readable(ours)
    loop.register(ours, IN)
    for asked in (OUT, IN | OUT, PRI, IN, 0, OUT | PRI):
        loop.modify(ours, asked)
        expected = asked & (IN | OUT)
        assert loop.poll(0) == ([(ours.fileno(), expected)] if expected else [])
