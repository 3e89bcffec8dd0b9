"""Signals that arrive while poll waits: their handlers run, and the wait goes on."""

from __future__ import annotations

import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, EpollLike

if sys.platform == "win32":
    pytest.skip("Windows interrupts no system call with a signal", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]
PERIOD = 0.01  # seconds from one signal to the next


@contextmanager
def signals(handler: Callable[[], object]) -> Iterator[None]:
    """Interrupts the main thread with one signal after the other, for as long as the block lasts.

    SIGALRM would be simpler, but a test runner may need it for its own timeouts.
    """
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(PERIOD):
            signal.pthread_kill(main_thread, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, lambda number, frame: handler())
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        yield
    finally:
        over.set()
        interrupter.join()
        signal.signal(signal.SIGUSR1, previous)


class Once:
    """Calls a function when it is called for the first time after ``armed`` was set."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.armed = False

    def __call__(self) -> None:
        if self.armed:
            self.armed = False
            self.function()


def test_a_handler_does_not_end_the_wait(
    loop: EpollLike,
    socket_pair: Callable[[], SocketPair],
    never_earlier_than: Callable[[float], AbstractContextManager[None]],
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    calls: list[None] = []
    with signals(lambda: calls.append(None)), never_earlier_than(20 * PERIOD):
        assert loop.poll(20 * PERIOD) == []
    assert calls


def test_what_a_handler_raises_comes_out_of_poll(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    def give_up() -> None:
        raise LookupError("from the handler")

    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    handler = Once(give_up)
    with signals(handler):
        handler.armed = True
        with pytest.raises(LookupError, match="from the handler"):
            loop.poll(60)
    theirs.send(b"x")
    assert loop.poll(5) == [(ours.fileno(), EPOLLIN)], "the loop must be as good as before"


def test_a_handler_may_send_what_ends_the_wait(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    handler = Once(lambda: theirs.send(b"x"))
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLIN)]


def test_a_handler_may_unregister_and_close(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    gone, _ = socket_pair()
    ours, theirs = socket_pair()

    def drop_one_and_wake_the_other() -> None:
        loop.unregister(gone)
        gone.close()
        theirs.send(b"x")

    loop.register(gone, EPOLLIN)
    loop.register(ours, EPOLLIN)
    handler = Once(drop_one_and_wake_the_other)
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLIN)]


def test_a_handler_may_unregister_what_is_then_ready(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    unwanted, unwanted_peer = socket_pair()
    ours, theirs = socket_pair()

    def wake_both_and_drop_one() -> None:
        unwanted_peer.send(b"x")
        theirs.send(b"x")
        loop.unregister(unwanted)

    loop.register(unwanted, EPOLLIN)
    loop.register(ours, EPOLLIN)
    handler = Once(wake_both_and_drop_one)
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLIN)]


def test_a_handler_may_poll_the_same_loop(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    seen_by_handler: list[list[tuple[int, int]]] = []

    def send_and_poll() -> None:
        theirs.send(b"x")
        seen_by_handler.append(loop.poll(5))

    loop.register(ours, EPOLLIN)
    handler = Once(send_and_poll)
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLIN)]
    assert seen_by_handler == [[(ours.fileno(), EPOLLIN)]]


def test_a_handler_that_polls_sees_no_oneshot_that_has_fired(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    fired, _ = socket_pair()
    ours, theirs = socket_pair()
    seen_by_handler: list[list[tuple[int, int]]] = []

    def poll_and_send() -> None:
        seen_by_handler.append(loop.poll(0))
        theirs.send(b"x")

    loop.register(fired, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(fired.fileno(), EPOLLOUT)]
    loop.register(ours, EPOLLIN)
    handler = Once(poll_and_send)
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLIN)]
    assert seen_by_handler == [[]]


def test_a_change_made_by_a_handler_is_seen_by_the_next_poll(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    late, _ = socket_pair()
    handler = Once(lambda: loop.register(late, EPOLLOUT))
    loop.register(ours, EPOLLIN)
    with signals(handler):
        handler.armed = True
        loop.poll(5 * PERIOD)  # epoll sees it at once, the others need not
    if not handler.armed:
        assert loop.poll(0) == [(late.fileno(), EPOLLOUT)]


def test_a_handler_may_close_the_loop(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    handler = Once(loop.close)
    with signals(handler):
        handler.armed = True
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at below
            loop.poll(60)
    assert raised.value.errno == errno.EBADF
    assert loop.closed


def test_a_handler_may_register_what_ends_the_wait(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    handler = Once(lambda: loop.register(ours, EPOLLOUT))
    with signals(handler):
        handler.armed = True
        assert loop.poll(60) == [(ours.fileno(), EPOLLOUT)]


def test_ctrl_c_ends_the_wait(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    loop.register(ours, EPOLLIN)
    handler = Once(lambda: signal.default_int_handler(signal.SIGINT, None))
    with signals(handler):
        handler.armed = True
        with pytest.raises(KeyboardInterrupt):
            loop.poll()
