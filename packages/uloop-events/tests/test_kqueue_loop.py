"""KqueueLoop: what kqueue makes difficult, besides what the tests of every loop ask for.

On Linux it runs on the model of kqueue, which can also play systems that are not there.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from uloop_events import EPOLLERR as ERR
from uloop_events import EPOLLHUP as HUP
from uloop_events import EPOLLIN as IN
from uloop_events import EPOLLONESHOT as ONESHOT
from uloop_events import EPOLLOUT as OUT
from uloop_events import EPOLLPRI as PRI
from uloop_events import EPOLLRDHUP as RDHUP
from uloop_events import KqueueLoop, PollLoop, SelectLoop, UEvent

if sys.platform == "win32" or not hasattr(select, "kqueue"):
    pytest.skip(f"{sys.platform} has no kqueue, and no model of it", allow_module_level=True)

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
MakePipe = Callable[[], tuple[FileIO, FileIO]]
Terminal = tuple[FileIO, FileIO]
Wait = Callable[[socket.socket], None]

EV_ADD = 1
SECONDS = 30.0  # that something may take; it takes far less
ON_THE_MODEL = pytest.mark.skipif(sys.platform != "linux", reason="the model plays this, on Linux")


@pytest.fixture
def model() -> Iterator[Any]:
    """The model of kqueue, whose options are as they were when the test is over."""
    if sys.platform != "linux":
        pytest.skip("the model of kqueue is for Linux")
    import kqueue_model

    before = dict(vars(kqueue_model.options))
    yield kqueue_model
    kqueue_model.install()
    vars(kqueue_model.options).update(before)


@pytest.fixture
def loop() -> Iterator[KqueueLoop]:
    with KqueueLoop() as opened:
        yield opened


@pytest.fixture(params=[SelectLoop, PollLoop], ids=lambda loop_type: loop_type.__name__)
def odd_loop(
    request: pytest.FixtureRequest, model: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KqueueLoop]:
    """A loop on a kqueue that takes no terminals, with each of the loops that may serve them."""
    model.options.odd = True
    monkeypatch.setattr(KqueueLoop, "_outer_type", lambda self: request.param)
    with KqueueLoop() as opened:
        yield opened


@pytest.fixture
def terminal(stack: ExitStack) -> Terminal:
    """Both sides of a terminal: who controls it, and itself."""
    controller, number = os.openpty()
    return stack.enter_context(FileIO(controller, "r+")), stack.enter_context(FileIO(number, "r+"))


def masks(loop: KqueueLoop, seconds: float = 0) -> dict[int, UEvent]:
    return {number: UEvent(mask) for number, mask in loop.poll(seconds)}


def check_idle(loop: KqueueLoop) -> None:
    """A wait with nothing to report takes no processor time."""
    loop.poll(0)
    start = time.thread_time()
    assert loop.poll(0.05) == []
    assert time.thread_time() - start < 0.025, "seconds of processor time"


# Two filters, one mask


def test_one_descriptor_is_one_event(loop: KqueueLoop, socket_pair: MakePair) -> None:
    pairs = [socket_pair() for _ in range(3)]
    for ours, theirs in pairs:
        theirs.send(b"x")
        loop.register(ours, IN | OUT)
    assert loop.poll(SECONDS) == [(ours.fileno(), IN | OUT) for ours, _ in pairs]


def test_maxevents_counts_descriptors(loop: KqueueLoop, socket_pair: MakePair) -> None:
    pairs = [socket_pair() for _ in range(3)]
    for ours, theirs in pairs:
        theirs.send(b"x")
        loop.register(ours, IN | OUT)
    numbers = {ours.fileno() for ours, _ in pairs}
    assert set(loop.poll(0, 2) + loop.poll(0, 1)) == {(number, IN | OUT) for number in numbers}


@pytest.mark.parametrize("asked", [0, IN, OUT, RDHUP, PRI, IN | OUT, OUT | RDHUP, ERR | HUP])
def test_hup_is_told_whatever_is_asked(loop: KqueueLoop, socket_pair: MakePair, asked: int) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, asked)
    loop.poll(0)
    theirs.close()
    for _ in range(3):
        assert masks(loop, SECONDS) == {ours.fileno(): UEvent(asked & (IN | OUT | RDHUP) | HUP)}


@pytest.mark.parametrize("asked", [0, IN, OUT, RDHUP, PRI])
def test_hup_comes_when_the_second_direction_ends(
    loop: KqueueLoop, tcp_pair: MakePair, until_readable: Wait, asked: int
) -> None:
    ours, theirs = tcp_pair()
    loop.register(ours, asked)
    theirs.shutdown(socket.SHUT_WR)
    until_readable(ours)
    for _ in range(2):
        expected = asked & (IN | OUT | RDHUP)
        assert masks(loop) == ({ours.fileno(): UEvent(expected)} if expected else {})
    ours.shutdown(socket.SHUT_WR)
    for _ in range(2):
        assert masks(loop, SECONDS) == {ours.fileno(): UEvent(asked & (IN | OUT | RDHUP) | HUP)}


def test_our_own_end_is_no_hup(loop: KqueueLoop, tcp_pair: MakePair) -> None:
    ours, _theirs = tcp_pair()
    ours.shutdown(socket.SHUT_WR)
    loop.register(ours, 0)
    check_idle(loop)
    loop.modify(ours, IN | OUT | RDHUP)
    assert masks(loop) == {ours.fileno(): UEvent.poll_out}


def test_what_is_not_asked_for_is_silent(loop: KqueueLoop, tcp_pair: MakePair, until_readable: Wait) -> None:
    ours, theirs = tcp_pair()
    loop.register(ours, 0)
    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    until_readable(ours)
    check_idle(loop)
    loop.modify(ours, IN)
    assert masks(loop) == {ours.fileno(): UEvent.poll_in}


def test_what_was_silent_can_be_asked_for_and_not_again(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    theirs.send(b"x")
    loop.register(ours, 0)
    for _ in range(3):
        assert loop.poll(0) == []
        loop.modify(ours, IN | OUT)
        assert loop.poll(0) == [(ours.fileno(), IN | OUT)]
        loop.modify(ours, RDHUP)
        assert loop.poll(0) == []
        loop.modify(ours, OUT)
        assert loop.poll(0) == [(ours.fileno(), OUT)]
        loop.modify(ours, 0)


def test_an_error_leaves_with_who_asks_for_it(
    loop: KqueueLoop, tcp_pair: MakePair, until_readable: Wait
) -> None:
    ours, theirs = tcp_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    until_readable(ours)
    loop.register(ours, 0)
    for _ in range(2):
        assert masks(loop) == {ours.fileno(): UEvent.poll_err | UEvent.poll_hup}
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert masks(loop) == {ours.fileno(): UEvent.poll_hup}


def test_a_oneshot_that_asks_for_nothing_tells_hup_once(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, ONESHOT)
    theirs.close()
    assert masks(loop, SECONDS) == {ours.fileno(): UEvent.poll_hup}
    check_idle(loop)
    loop.modify(ours, ONESHOT)
    assert masks(loop) == {ours.fileno(): UEvent.poll_hup}


# Pipes


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EBADF, 0])
def test_a_writer_that_is_registered_when_the_reader_has_closed(
    model: Any, loop: KqueueLoop, pipe_pair: MakePipe, error: int
) -> None:
    model.options.broken_pipe = error
    reader, writer = pipe_pair()
    reader.close()
    loop.register(writer, OUT)
    for seconds in (0, SECONDS, None):
        assert loop.poll(seconds) == [(writer.fileno(), OUT | ERR)]
    loop.modify(writer, OUT | ONESHOT)
    assert loop.poll(SECONDS) == [(writer.fileno(), OUT | ERR)]
    check_idle(loop)
    loop.modify(writer, 0)
    assert loop.poll(SECONDS) == [(writer.fileno(), ERR)]
    loop.unregister(writer)
    check_idle(loop)


def test_a_writer_without_a_reader_ends_a_wait(model: Any, loop: KqueueLoop, pipe_pair: MakePipe) -> None:
    model.options.broken_pipe = errno.EPIPE
    reader, writer = pipe_pair()
    reader.close()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.poll, SECONDS)
        loop.register(writer, OUT)
        assert waiting.result() == [(writer.fileno(), OUT | ERR)]


def test_a_closed_writer_without_a_reader_is_dropped(
    model: Any, loop: KqueueLoop, pipe_pair: MakePipe
) -> None:
    model.options.broken_pipe = errno.EPIPE
    reader, writer = pipe_pair()
    reader.close()
    loop.register(writer, OUT)
    writer.close()
    check_idle(loop)


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EBADF, 0])
@pytest.mark.parametrize("asked", [0, OUT])
def test_a_writer_whose_reader_closes_is_told_for_good(
    model: Any, loop: KqueueLoop, pipe_pair: MakePipe, error: int, asked: int
) -> None:
    model.options.broken_pipe = error
    reader, writer = pipe_pair()
    loop.register(writer, asked)
    loop.poll(0)
    reader.close()
    for _ in range(4):
        assert loop.poll(SECONDS) == [(writer.fileno(), asked | ERR)]


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EBADF, 0])
@pytest.mark.parametrize("asked", [0, OUT])
def test_a_named_pipe_gets_another_reader(
    model: Any, loop: KqueueLoop, tmp_path: Path, stack: ExitStack, error: int, asked: int
) -> None:
    model.options.broken_pipe = error
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "r")
    writer = stack.enter_context(FileIO(os.open(path, os.O_WRONLY), "w"))
    loop.register(writer, asked)
    reader.close()
    for _ in range(2):
        assert loop.poll(SECONDS) == [(writer.fileno(), asked | ERR)]
    stack.enter_context(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "r"))
    loop.poll(0)  # which may be told of how it was
    assert loop.poll(0) == ([(writer.fileno(), OUT)] if asked else [])


def test_the_wrong_direction_of_a_pipe(loop: KqueueLoop, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    loop.register(reader, OUT)
    loop.register(writer, IN)
    check_idle(loop)
    number = reader.fileno()
    reader.close()
    assert masks(loop, SECONDS) == {writer.fileno(): UEvent.poll_err}
    loop.unregister(writer)
    assert number not in masks(loop)


def test_both_ends_of_a_named_pipe(loop: KqueueLoop, tmp_path: Path, stack: ExitStack) -> None:
    os.mkfifo(tmp_path / "fifo")
    both = stack.enter_context(FileIO(os.open(tmp_path / "fifo", os.O_RDWR), "r+"))
    loop.register(both, IN | OUT)
    assert masks(loop) == {both.fileno(): UEvent.poll_out}
    both.write(b"x")
    assert masks(loop) == {both.fileno(): UEvent.poll_in | UEvent.poll_out}
    loop.modify(both, 0)
    check_idle(loop)


# Urgent data


@pytest.fixture(params=[True, False], ids=["filter", "poll"])
def urgent_loop(request: pytest.FixtureRequest, model: Any) -> Iterator[KqueueLoop]:
    """A loop on a kqueue that has a filter for urgent data, and on one that has none."""
    model.install(urgent=request.param)
    with KqueueLoop() as opened:
        yield opened


@pytest.mark.parametrize("asked", [PRI, IN | PRI, PRI | OUT, IN | PRI | OUT | RDHUP])
def test_urgent_data_is_a_level(urgent_loop: KqueueLoop, tcp_pair: MakePair, asked: int) -> None:
    ours, theirs = tcp_pair()
    urgent_loop.register(ours, asked)
    urgent_loop.poll(0)
    theirs.send(b"!", socket.MSG_OOB)
    assert select.select([], [], [ours], SECONDS)[2]
    for _ in range(3):
        assert masks(urgent_loop, SECONDS) == {ours.fileno(): UEvent(asked & (PRI | OUT))}
    ours.recv(1, socket.MSG_OOB)
    assert masks(urgent_loop) == ({ours.fileno(): UEvent.poll_out} if asked & OUT else {})
    theirs.send(b"x")
    assert select.select([ours], [], [], SECONDS)[0]
    assert not masks(urgent_loop).get(ours.fileno(), 0) & PRI


def test_ordinary_data_is_not_urgent(urgent_loop: KqueueLoop, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    urgent_loop.register(ours, PRI)
    theirs.send(b"x")
    assert select.select([ours], [], [], SECONDS)[0]
    check_idle(urgent_loop)


def test_urgent_data_ends_a_wait(urgent_loop: KqueueLoop, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(urgent_loop.poll, SECONDS)
        urgent_loop.register(ours, PRI)
        theirs.send(b"!", socket.MSG_OOB)
        assert waiting.result() == [(ours.fileno(), PRI)]


def test_urgent_data_that_nobody_asks_for_any_more(urgent_loop: KqueueLoop, tcp_pair: MakePair) -> None:
    ours, theirs = tcp_pair()
    theirs.send(b"!", socket.MSG_OOB)
    assert select.select([], [], [ours], SECONDS)[2]
    urgent_loop.register(ours, PRI)
    assert masks(urgent_loop) == {ours.fileno(): UEvent.poll_pri}
    urgent_loop.modify(ours, IN)
    check_idle(urgent_loop)
    urgent_loop.modify(ours, PRI | ONESHOT)
    assert masks(urgent_loop) == {ours.fileno(): UEvent.poll_pri}
    check_idle(urgent_loop)


# What kqueue does not take


def test_an_odd_descriptor_is_served(odd_loop: KqueueLoop, terminal: Terminal) -> None:
    controller, slave = terminal
    odd_loop.register(slave, IN)
    check_idle(odd_loop)
    controller.write(b"a line\n")
    for _ in range(2):
        assert odd_loop.poll(SECONDS) == [(slave.fileno(), IN)]
    odd_loop.modify(slave, IN | OUT)
    assert odd_loop.poll(SECONDS) == [(slave.fileno(), IN | OUT)]
    slave.read(100)
    odd_loop.modify(slave, IN)
    check_idle(odd_loop)
    odd_loop.unregister(slave)
    with pytest.raises(FileNotFoundError):
        odd_loop.modify(slave, IN)


def test_odd_descriptors_beside_others(
    odd_loop: KqueueLoop, terminal: Terminal, socket_pair: MakePair
) -> None:
    controller, slave = terminal
    ours, theirs = socket_pair()
    odd_loop.register(ours, IN)
    odd_loop.register(slave, IN)
    check_idle(odd_loop)
    theirs.send(b"x")
    assert odd_loop.poll(SECONDS) == [(ours.fileno(), IN)]
    controller.write(b"a line\n")
    assert select.select([slave], [], [], SECONDS)[0]
    assert sorted(odd_loop.poll(SECONDS)) == sorted([(ours.fileno(), IN), (slave.fileno(), IN)])
    ours.recv(1)
    assert odd_loop.poll(SECONDS) == [(slave.fileno(), IN)]
    slave.read(100)
    check_idle(odd_loop)


def test_a_oneshot_of_an_odd_descriptor(odd_loop: KqueueLoop, terminal: Terminal) -> None:
    _controller, slave = terminal
    odd_loop.register(slave, OUT | ONESHOT)
    assert odd_loop.poll(SECONDS) == [(slave.fileno(), OUT)]
    check_idle(odd_loop)
    odd_loop.modify(slave, OUT | ONESHOT)
    assert odd_loop.poll(SECONDS) == [(slave.fileno(), OUT)]


def test_an_odd_descriptor_that_is_closed(
    odd_loop: KqueueLoop, terminal: Terminal, socket_pair: MakePair
) -> None:
    _controller, slave = terminal
    ours, _ = socket_pair()
    number = slave.fileno()
    odd_loop.register(slave, OUT)
    slave.close()
    check_idle(odd_loop)
    os.dup2(ours.fileno(), number)
    try:
        odd_loop.register(number, OUT)
        assert odd_loop.poll(SECONDS) == [(number, OUT)]
    finally:
        os.close(number)
    check_idle(odd_loop)


def test_a_socket_whose_number_an_odd_descriptor_gets(
    odd_loop: KqueueLoop, terminal: Terminal, socket_pair: MakePair
) -> None:
    _controller, slave = terminal
    ours, _ = socket_pair()
    number = ours.fileno()
    odd_loop.register(ours, OUT)
    os.dup2(slave.fileno(), number)
    assert odd_loop.poll(0) == []
    odd_loop.register(number, OUT)
    assert odd_loop.poll(SECONDS) == [(number, OUT)]


@pytest.mark.parametrize("first", ["odd", "ordinary"])
def test_a_change_ends_the_wait_of_another_thread(
    odd_loop: KqueueLoop, terminal: Terminal, socket_pair: MakePair, first: str
) -> None:
    _controller, slave = terminal
    ours, _ = socket_pair()
    present, late = (slave, ours) if first == "odd" else (ours, slave)
    odd_loop.register(present, IN)
    for _ in range(20):
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(odd_loop.poll, SECONDS) for _ in range(3)]
            odd_loop.register(late, OUT)
            for each in waiting:
                assert each.result() == [(late.fileno(), OUT)]
        odd_loop.modify(late, IN)
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(odd_loop.poll, SECONDS) for _ in range(3)]
            odd_loop.modify(late, OUT)
            for each in waiting:
                assert each.result() == [(late.fileno(), OUT)]
        odd_loop.unregister(late)
    check_idle(odd_loop)


def test_a_signal_handler_may_register_what_is_odd(odd_loop: KqueueLoop, terminal: Terminal) -> None:
    _controller, slave = terminal
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: odd_loop.register(slave, OUT))
    sender = threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGUSR1])
    sender.start()
    try:
        assert odd_loop.poll(SECONDS) == [(slave.fileno(), OUT)]
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("with_odd", [False, True])
def test_a_signal_handler_may_close_the_loop(
    odd_loop: KqueueLoop, terminal: Terminal, with_odd: bool
) -> None:
    if with_odd:
        odd_loop.register(terminal[1], IN)
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: odd_loop.close())
    sender = threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGUSR1])
    sender.start()
    try:
        with pytest.raises(OSError, match="closed") as caught:
            odd_loop.poll(SECONDS)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)
    assert caught.value.errno == errno.EBADF


def test_a_poll_goes_on_when_another_thread_closes_the_loop(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, IN)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(loop.poll, SECONDS) for _ in range(3)]
        while len(loop._polls) < 3:
            time.sleep(0)
        loop.close()
        theirs.send(b"x")
        for each in waiting:
            assert each.result() == [(ours.fileno(), IN)]


class Refusing:
    """A kqueue that takes no more additions of one filter."""

    def __init__(self, kqueue: Any, refused: str, error: int) -> None:
        self.kqueue = kqueue
        self.refused = getattr(select, refused)
        self.error = error

    def control(self, changes: list[Any] | None, *arguments: Any) -> list[Any]:
        for each in changes or []:
            if each.filter == self.refused and each.flags & EV_ADD:
                raise OSError(self.error, os.strerror(self.error))
            self.kqueue.control([each], 0)
        found: list[Any] = self.kqueue.control(None, *arguments)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kqueue, name)


def test_a_change_that_fails_changes_nothing(
    loop: KqueueLoop, socket_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket_pair()
    late, _ = socket_pair()
    loop.register(ours, IN)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_kqueue", Refusing(loop._kqueue, "KQ_FILTER_WRITE", errno.ENOMEM))
        calls: list[Callable[[], None]] = [
            lambda: loop.modify(ours, OUT),
            lambda: loop.register(late, IN | OUT),
        ]
        for call in calls:
            with pytest.raises(OSError, match=r".") as caught:
                call()
            assert caught.value.errno == errno.ENOMEM
    check_idle(loop)
    theirs.send(b"x")
    assert loop.poll(SECONDS) == [(ours.fileno(), IN)]
    with pytest.raises(FileNotFoundError):
        loop.unregister(late)


@ON_THE_MODEL
def test_a_device_of_which_kqueue_takes_one_filter(
    loop: KqueueLoop, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, slave = terminal
    loop.register(slave, IN)
    controller.write(b"a line\n")
    assert loop.poll(SECONDS) == [(slave.fileno(), IN)]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_kqueue", Refusing(loop._kqueue, "KQ_FILTER_WRITE", errno.EINVAL))
        loop.modify(slave, OUT)
    assert loop.poll(SECONDS) == [(slave.fileno(), OUT)]
    loop.modify(slave, 0)
    check_idle(loop)


@ON_THE_MODEL
def test_a_socket_without_urgent_data(
    loop: KqueueLoop, socket_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = socket_pair()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_kqueue", Refusing(loop._kqueue, "KQ_FILTER_EXCEPT", errno.EINVAL))
        loop.register(ours, IN | PRI | OUT)
    assert loop.poll(SECONDS) == [(ours.fileno(), OUT)]


# The loop's own descriptors


def test_fileno_is_readable_when_something_is_ready(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, IN)
    loop.poll(0)
    assert select.select([loop], [], [], 0)[0] == []
    theirs.send(b"x")
    assert select.select([loop], [], [], SECONDS)[0] == [loop]
    loop.close()
    with pytest.raises(ValueError, match="closed"):
        loop.fileno()


def test_a_loop_watches_another(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    with KqueueLoop() as inner:
        inner.register(ours, IN)
        loop.register(inner, IN)
        assert loop.poll(0) == []
        theirs.send(b"x")
        assert loop.poll(SECONDS) == [(inner.fileno(), IN)]
        assert inner.poll(0) == [(ours.fileno(), IN)]


def test_a_loop_does_not_watch_itself(loop: KqueueLoop) -> None:
    with pytest.raises(OSError, match="itself") as caught:
        loop.register(loop, IN)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads, which are not ours
def test_a_child_must_make_its_own(loop: KqueueLoop, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    other, _ = socket_pair()
    loop.register(ours, OUT)

    def says_so(call: Callable[[], object]) -> bool:
        try:
            call()
        except OSError as error:
            return error.errno == errno.EBADF and "fork" in str(error)
        return False

    child = os.fork()
    if not child:
        status = 1
        try:
            calls = [
                lambda: loop.poll(0),
                lambda: loop.poll(),
                lambda: loop.register(other, OUT),
                loop.fileno,
            ]
            if all(says_so(call) for call in calls):
                loop.close()
                with KqueueLoop() as own:
                    own.register(ours, OUT)
                    status = 0 if own.poll(0) == [(ours.fileno(), OUT)] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.poll(0) == [(ours.fileno(), OUT)]


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe", fail)
    with pytest.raises(OSError, match="too many"):
        KqueueLoop()


# Where there is none


def test_a_platform_without_kqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "kqueue")
    with pytest.raises(NotImplementedError, match=f"{sys.platform} has no kqueue"):
        KqueueLoop()


@ON_THE_MODEL
def test_it_can_be_imported_without_kqueue() -> None:
    code = "import select, uloop_events; uloop_events.KqueueLoop; print(hasattr(select, 'kqueue'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@ON_THE_MODEL
def test_a_program_runs_on_the_model() -> None:
    code = (
        "import kqueue_model; kqueue_model.install()\n"
        "import os, uloop_events\n"
        "reader, writer = os.pipe()\n"
        "with uloop_events.KqueueLoop() as loop:\n"
        "    loop.register(reader); os.write(writer, b'x'); print(loop.poll() == [(reader, 1)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "True"


def test_a_register_that_fails_leaves_nothing_behind(
    model: Any, socket_pair: Callable[[], SocketPair]
) -> None:
    """Without a filter for urgent data another loop is made, for which no descriptor is left here."""
    import resource  # which Windows has not

    model.install(urgent=False)
    ours, theirs = socket_pair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with KqueueLoop() as loop:
        with open(os.devnull) as highest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), limits[1]))
            try:
                with pytest.raises(OSError, match="Too many"):
                    loop.register(ours, IN | PRI)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        theirs.send(b"x")
        start = time.thread_time()
        assert loop.poll(0.1) == []
        assert time.thread_time() - start < 0.05, "seconds of processor time"
        with pytest.raises(FileNotFoundError):
            loop.unregister(ours)


@pytest.fixture
def sockets_without_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every descriptor look the same, as the TCP sockets of macOS do."""
    monkeypatch.setattr("uloop_events.interest.identify", lambda number: (0, 0))
    monkeypatch.setattr("uloop_events.interest.identity_of", lambda number: (0, 0))


@pytest.mark.usefixtures("sockets_without_inode")
@pytest.mark.parametrize("asked", [IN, OUT, 0, OUT | ONESHOT])
def test_the_kernel_tells_that_a_number_was_closed_and_used_again(
    socket_pair: Callable[[], SocketPair], asked: int
) -> None:
    """Servers close a connection without a word to the loop, and the next one has its number."""
    with KqueueLoop() as loop:
        ours, _ = socket_pair()
        number = ours.fileno()
        loop.register(number, asked)
        assert loop.poll(0) == ([(number, OUT)] if asked & OUT else [])
        with pytest.raises(FileExistsError):
            loop.register(number, asked)
        for _ in range(2):
            ours.close()
            ours, theirs = socket_pair()
            theirs.send(b"x")
            assert ours.fileno() == number
            with pytest.raises(FileNotFoundError):
                loop.modify(number, IN)
            loop.register(number, IN)
            assert loop.poll(5) == [(number, IN)]
        loop.unregister(number)
