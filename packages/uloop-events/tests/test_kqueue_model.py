"""The model of kqueue that tests run on: what was measured of NetBSD's kqueue, row by row."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from io import FileIO
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the model of kqueue is for Linux", allow_module_level=True)

import select

import kqueue_model
from kqueue_model import (
    EV_ADD,
    EV_CLEAR,
    EV_DELETE,
    EV_DISABLE,
    EV_ENABLE,
    EV_EOF,
    EV_ERROR,
    EV_ONESHOT,
    EV_RECEIPT,
    EXCEPT,
    NOTE_OOB,
    READ,
    WRITE,
    Kevent,
    Kqueue,
)

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
MakePipe = Callable[[], tuple[FileIO, FileIO]]
Wait = Callable[[socket.socket], None]

LOOPBACK = ("127.0.0.1", 0)
SECONDS = 10.0  # that something may take; it takes far less


@pytest.fixture
def kqueue() -> Iterator[Kqueue]:
    opened = Kqueue()
    yield opened
    opened.close()


@pytest.fixture
def options() -> Iterator[kqueue_model.Options]:
    """The options of the model, which are as they were when the test is over."""
    before = dict(vars(kqueue_model.options))
    yield kqueue_model.options
    vars(kqueue_model.options).update(before)


def told(kqueue: Kqueue, *watched: socket.socket | FileIO, seconds: float = 0) -> dict[int, tuple[int, ...]]:
    """What READ and WRITE say of the first one that says something: (EV_EOF or 0, fflags, data)."""
    for each in watched:
        for what in (READ, WRITE):
            kqueue.control([Kevent(each, what, EV_ADD)], 0)
    return {
        event.filter: (event.flags & EV_EOF, event.fflags, event.data)
        for event in kqueue.control(None, 10, seconds)
    }


def add(kqueue: Kqueue, number: int, what: int = READ, flags: int = 0) -> list[Kevent]:
    return kqueue.control([Kevent(number, what, EV_ADD | flags)], 0)


def now(kqueue: Kqueue) -> list[tuple[int, int]]:
    return [(event.ident, event.filter) for event in kqueue.control(None, 10, 0)]


# What is reported


def test_an_idle_connection(kqueue: Kqueue, tcp_pair: MakePair) -> None:
    found = told(kqueue, tcp_pair()[0])
    assert set(found) == {WRITE}
    flags, fflags, data = found[WRITE]
    assert (flags, fflags) == (0, 0)
    assert data > 1024, "the free space"


def test_a_socket_that_was_never_connected(kqueue: Kqueue, stack: ExitStack) -> None:
    assert told(kqueue, stack.enter_context(socket.socket())) == {}


def test_a_listening_socket(kqueue: Kqueue, stack: ExitStack, until_readable: Wait) -> None:
    listener = stack.enter_context(socket.create_server(LOOPBACK))
    assert told(kqueue, listener) == {}
    for _ in range(3):
        stack.enter_context(socket.create_connection(listener.getsockname()))
    assert told(kqueue, listener) == {READ: (0, 0, 3)}


def test_the_peer_sends_no_more_and_its_data_is_unread(
    kqueue: Kqueue, tcp_pair: MakePair, until_readable: Wait
) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"data")
    theirs.shutdown(socket.SHUT_WR)
    assert ours.recv(10, socket.MSG_PEEK) == b"data"
    found = told(kqueue, ours)
    while not found[READ][0]:  # the end comes after the data
        found = told(kqueue, ours)
    assert found[READ] == (EV_EOF, 0, 4)
    assert found[WRITE][:2] == (0, 0)


def test_we_send_no_more(kqueue: Kqueue, tcp_pair: MakePair) -> None:
    ours, _theirs = tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    assert {what: flags for what, (flags, *_) in told(kqueue, ours).items()} == {WRITE: EV_EOF}


def test_a_reset_leaves_the_error_to_the_program(
    kqueue: Kqueue, tcp_pair: MakePair, until_readable: Wait
) -> None:
    ours, theirs = tcp_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    until_readable(ours)
    reset = {READ: (EV_EOF, errno.ECONNRESET, 0), WRITE: (EV_EOF, errno.ECONNRESET, 0)}
    assert told(kqueue, ours) == reset
    assert told(kqueue, ours) == reset
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert told(kqueue, ours) == {READ: (EV_EOF, 0, 0), WRITE: (EV_EOF, 0, 0)}


def test_a_refused_connection_leaves_the_error_to_the_program(kqueue: Kqueue, stack: ExitStack) -> None:
    nobody = stack.enter_context(socket.socket())
    nobody.bind(LOOPBACK)
    client = stack.enter_context(socket.socket())
    client.setblocking(False)
    client.connect_ex(nobody.getsockname())
    refused = (EV_EOF, errno.ECONNREFUSED, 0)
    assert told(kqueue, client, seconds=SECONDS) == {READ: refused, WRITE: refused}
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_pipe_whose_reader_closes(kqueue: Kqueue, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    add(kqueue, writer.fileno(), WRITE)
    reader.close()
    [event] = kqueue.control(None, 10, SECONDS)
    assert (event.filter, event.flags & EV_EOF, event.fflags) == (WRITE, EV_EOF, 0)


def test_a_pipe_whose_writer_closes(kqueue: Kqueue, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    writer.write(b"data")
    add(kqueue, reader.fileno())
    [event] = kqueue.control(None, 10, 0)
    assert (event.flags & EV_EOF, event.data) == (0, 4)
    writer.close()
    [event] = kqueue.control(None, 10, 0)
    assert (event.flags & EV_EOF, event.data) == (EV_EOF, 4)


@pytest.mark.parametrize("error", [errno.EBADF, errno.EPIPE, 0])
def test_a_writer_that_is_added_after_the_reader_has_closed(
    kqueue: Kqueue, pipe_pair: MakePipe, options: kqueue_model.Options, error: int
) -> None:
    options.broken_pipe = error
    reader, writer = pipe_pair()
    reader.close()
    if error:
        with pytest.raises(OSError, match=r".") as caught:
            add(kqueue, writer.fileno(), WRITE)
        assert caught.value.errno == error
    else:
        add(kqueue, writer.fileno(), WRITE)
        assert now(kqueue) == [(writer.fileno(), WRITE)]


def test_urgent_data(kqueue: Kqueue, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    kqueue.control([Kevent(ours, EXCEPT, EV_ADD, NOTE_OOB)], 0)
    [event] = kqueue.control(None, 1, SECONDS)
    assert (event.filter, event.fflags) == (EXCEPT, NOTE_OOB)
    ours.recv(1, socket.MSG_OOB)
    assert now(kqueue) == []


# Changes


@pytest.mark.parametrize("flags", [EV_DELETE, EV_ENABLE, EV_DISABLE, EV_ADD | EV_DELETE])
def test_a_change_of_what_is_not_there(kqueue: Kqueue, socket_pair: MakePair, flags: int) -> None:
    ours, _ = socket_pair()
    with pytest.raises(FileNotFoundError):
        kqueue.control([Kevent(ours, READ, flags)], 0)


@pytest.mark.parametrize("flags", [EV_ADD, EV_DELETE])
def test_a_number_that_is_not_open(kqueue: Kqueue, socket_pair: MakePair, flags: int) -> None:
    ours, _ = socket_pair()
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError, match=r".") as caught:
        kqueue.control([Kevent(number, READ, flags)], 0)
    assert caught.value.errno == errno.EBADF


def test_errors_are_events_if_there_is_room(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    add(kqueue, theirs.fileno(), WRITE)
    changes = [Kevent(ours, READ, EV_DELETE), Kevent(ours, WRITE, EV_ADD)]
    [event] = kqueue.control(changes, 2, 60)  # at once
    assert (event.ident, event.filter, event.data) == (ours.fileno(), READ, errno.ENOENT)
    assert event.flags & EV_ERROR
    assert now(kqueue) == [(theirs.fileno(), WRITE), (ours.fileno(), WRITE)], "the other change was made"


def test_an_error_without_room_ends_the_changes(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    with pytest.raises(FileNotFoundError):
        kqueue.control([Kevent(ours, READ, EV_DELETE), Kevent(ours, WRITE, EV_ADD)], 0)
    assert now(kqueue) == []


def test_a_receipt_is_an_event_for_success(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    [event] = kqueue.control([Kevent(ours, WRITE, EV_ADD | EV_RECEIPT)], 1)
    assert (event.flags & EV_ERROR, event.data) == (EV_ERROR, 0)
    assert now(kqueue) == [(ours.fileno(), WRITE)]


def test_oneshot(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    add(kqueue, ours.fileno(), WRITE, EV_ONESHOT)
    assert now(kqueue) == [(ours.fileno(), WRITE)]
    assert now(kqueue) == []
    with pytest.raises(FileNotFoundError):
        kqueue.control([Kevent(ours, WRITE, EV_DELETE)], 0)


def test_a_level_that_is_added_again(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    add(kqueue, ours.fileno(), WRITE)
    kqueue.control([Kevent(ours, WRITE, EV_ADD | EV_CLEAR, udata=7)], 0)
    for _ in range(2):
        [event] = kqueue.control(None, 10, 0)
        assert event.udata == 7


def test_clear(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    number = ours.fileno()
    add(kqueue, number, READ, EV_CLEAR)
    assert now(kqueue) == []
    for _ in range(3):
        theirs.send(b"x")
        assert now(kqueue) == [(number, READ)]
        assert now(kqueue) == []
    add(kqueue, number, READ, EV_CLEAR)
    assert now(kqueue) == [(number, READ)], "added again with data waiting"
    assert now(kqueue) == []


def test_one_direction_does_not_stir_the_other(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    add(kqueue, ours.fileno(), WRITE, EV_CLEAR)
    assert now(kqueue) == [(ours.fileno(), WRITE)]
    theirs.send(b"x")
    assert now(kqueue) == []


def test_disabled(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    add(kqueue, ours.fileno(), WRITE, EV_DISABLE)
    assert now(kqueue) == []
    kqueue.control([Kevent(ours, WRITE, EV_ENABLE)], 0)
    assert now(kqueue) == [(ours.fileno(), WRITE)]
    kqueue.control([Kevent(ours, WRITE, EV_DISABLE)], 0)
    assert now(kqueue) == []


@pytest.mark.parametrize("other", ["terminal", "file"])
def test_what_is_refused(
    kqueue: Kqueue, stack: ExitStack, options: kqueue_model.Options, other: str, tmp_path: os.PathLike[str]
) -> None:
    if other == "terminal":
        controller, number = os.openpty()
        stack.callback(os.close, controller)
        add(kqueue, number)
        options.odd = True
        kqueue.control([Kevent(number, READ, EV_DELETE)], 0)
    else:
        number = os.open(os.path.join(tmp_path, "file"), os.O_RDWR | os.O_CREAT)
    stack.callback(os.close, number)
    with pytest.raises(OSError, match=r".") as caught:
        add(kqueue, number)
    assert caught.value.errno == errno.EINVAL


# Descriptors that are closed


def test_a_closed_descriptor_is_forgotten(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    number = os.dup(ours.fileno())
    add(kqueue, number, WRITE)
    assert now(kqueue) == [(number, WRITE)]
    os.close(number)
    assert now(kqueue) == []


def test_a_number_that_is_used_again(kqueue: Kqueue, socket_pair: MakePair, stack: ExitStack) -> None:
    ours, _ = socket_pair()
    number = socket_pair()[0].detach()
    stack.callback(os.close, number)
    add(kqueue, number, WRITE)
    os.dup2(ours.fileno(), number)
    with pytest.raises(FileNotFoundError):
        kqueue.control([Kevent(number, WRITE, EV_DELETE)], 0)
    assert now(kqueue) == []
    add(kqueue, number, WRITE)
    assert now(kqueue) == [(number, WRITE)]


# Waiting


def test_without_room_for_events_there_is_no_wait(kqueue: Kqueue) -> None:
    assert kqueue.control(None, 0, 60) == []
    assert kqueue.control(None, 0) == []


def test_a_timeout(
    kqueue: Kqueue, never_earlier_than: Callable[[float], AbstractContextManager[None]]
) -> None:
    with never_earlier_than(0.05):
        assert kqueue.control(None, 1, 0.05) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, -1), ValueError),
        ((None, 1, -1), ValueError),
        ((None, 1, "1"), TypeError),
        (([1], 1, 0), TypeError),
        ((1, 1, 0), TypeError),
    ],
)
def test_bad_arguments(kqueue: Kqueue, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        kqueue.control(*arguments)


def test_a_change_by_another_thread_ends_the_wait(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(kqueue.control, None, 10, SECONDS)
        add(kqueue, ours.fileno(), WRITE)
        assert [event.ident for event in waiting.result()] == [ours.fileno()]


def test_a_level_is_told_to_every_thread(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    add(kqueue, ours.fileno())
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(kqueue.control, None, 10, SECONDS) for _ in range(4)]
        theirs.send(b"x")
        for each in waiting:
            assert [event.ident for event in each.result()] == [ours.fileno()]


def test_a_signal_handler_runs_during_the_wait(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    add(kqueue, ours.fileno())
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: theirs.send(b"x") and None)
    sender = threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGUSR1])
    sender.start()
    try:
        assert [event.ident for event in kqueue.control(None, 10, SECONDS)] == [ours.fileno()]
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


def test_the_turn_goes_round(kqueue: Kqueue, socket_pair: MakePair) -> None:
    numbers = [socket_pair()[0].fileno() for _ in range(3)]
    for number in numbers:
        add(kqueue, number, WRITE)
    turns = [numbers.index(event.ident) for _ in range(3) for event in kqueue.control(None, 2, 0)]
    assert turns == [0, 1, 2, 0, 1, 2]


def test_its_descriptor_is_readable_while_there_is_something(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    add(kqueue, ours.fileno())
    assert not select.select([kqueue], [], [], 0)[0]
    theirs.send(b"x")
    for _ in range(3):
        assert select.select([kqueue], [], [], SECONDS)[0]
        assert now(kqueue) == [(ours.fileno(), READ)]
    ours.recv(1)
    assert now(kqueue) == []
    assert not select.select([kqueue], [], [], 0)[0]


# The objects


def test_a_closed_kqueue(kqueue: Kqueue) -> None:
    kqueue.close()
    kqueue.close()
    assert kqueue.closed
    with pytest.raises(ValueError, match="closed"):
        kqueue.control(None, 1, 0)
    with pytest.raises(ValueError, match="closed"):
        kqueue.fileno()


def test_fromfd(kqueue: Kqueue, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    add(kqueue, ours.fileno(), WRITE)
    second = Kqueue.fromfd(kqueue.fileno())
    assert second.fileno() == kqueue.fileno()
    assert now(second) == [(ours.fileno(), WRITE)]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads, which are not ours
def test_a_kqueue_is_closed_in_a_child(kqueue: Kqueue) -> None:
    child = os.fork()
    if not child:
        os._exit(0 if kqueue.closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not kqueue.closed


def test_kevent(socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    event = Kevent(ours)
    assert (event.ident, event.filter, event.flags) == (ours.fileno(), READ, EV_ADD)
    assert event == Kevent(ours.fileno(), READ, EV_ADD, 0, 0, 0)
    assert event < Kevent(ours, WRITE)
    assert repr(event).startswith(f"<select.kevent ident={ours.fileno()} filter=0 flags=0x1")
    with pytest.raises(TypeError):
        Kevent("1")


def test_install() -> None:
    names: object = select
    assert getattr(names, "kqueue") is Kqueue  # noqa: B009 - a type checker knows no such name
    assert kqueue_model.install()
