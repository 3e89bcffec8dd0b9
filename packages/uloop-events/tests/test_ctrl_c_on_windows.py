"""Ctrl-C ends a poll on Windows, which interrupts no system call with a signal."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable

import pytest
from uloop_events import EPOLLIN, EpollLike

if sys.platform != "win32":
    pytest.skip("elsewhere a signal interrupts the call: test_signals.py", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "watching"])
def test_ctrl_c_ends_the_wait(
    loop: EpollLike, socket_pair: Callable[[], SocketPair], timeout: float | None, is_empty: bool
) -> None:
    """Windows runs the handler of Ctrl-C in a thread of its own, and so does this test."""
    ours, theirs = socket_pair()
    if not is_empty:
        loop.register(ours, EPOLLIN)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    console = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])  # usually when the wait has begun
    try:
        console.start()
        with pytest.raises(KeyboardInterrupt):
            loop.poll(timeout)
    finally:
        console.join()
        signal.signal(signal.SIGINT, previous)
    if is_empty:
        loop.register(ours, EPOLLIN)
    theirs.send(b"x")
    assert loop.poll(5) == [(ours.fileno(), EPOLLIN)], "the loop must be as good as before"
