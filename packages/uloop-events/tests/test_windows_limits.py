"""What Windows cannot do: no poll(2), and no more than 512 sockets in a select."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, PollLoop, SelectLoop

LIMIT = 512

pytestmark = pytest.mark.skipif(
    sys.platform != "win32", reason="only select on Windows limits how many sockets there are"
)


def udp_sockets(stack: ExitStack, count: int) -> list[socket.socket]:
    """Sockets that are writable from the start, and need no peer."""
    sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    return sockets


def test_poll_loop_says_that_there_is_no_poll() -> None:
    with pytest.raises(NotImplementedError, match="win32"):
        PollLoop()


def test_one_socket_too_many_is_refused_with_the_limit(stack: ExitStack) -> None:
    *fitting, last = udp_sockets(stack, LIMIT + 1)
    with SelectLoop() as loop:
        for each in fitting:
            loop.register(each, EPOLLOUT)
        with pytest.raises(ValueError, match=rf"\b{last.fileno()}\b.*\b{LIMIT}\b.*AfdLoop"):
            loop.register(last, EPOLLOUT)
        with pytest.raises(FileNotFoundError):
            loop.unregister(last)
        assert sorted(loop.poll(5)) == sorted((each.fileno(), EPOLLOUT) for each in fitting)

        for each in fitting:
            loop.modify(each, EPOLLIN)  # no mask makes an old one too many
        loop.unregister(fitting[0])
        loop.register(last, EPOLLOUT)
        assert loop.poll(5) == [(last.fileno(), EPOLLOUT)]


def test_sockets_that_were_closed_do_not_count(stack: ExitStack) -> None:
    *closed, last = udp_sockets(stack, LIMIT + 1)
    with SelectLoop() as loop:
        for each in closed:
            loop.register(each, EPOLLIN)
        for each in closed:
            each.close()
        loop.register(last, EPOLLOUT)
        assert loop.poll(5) == [(last.fileno(), EPOLLOUT)]
