"""fork: the child is told that the loop is its parent's, and may make it its own by reinit()."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from uloop_reactor import DatagramSocket, Stream, UEvent, Uloop, UnixListener

if sys.platform == "win32":
    pytest.skip("Windows has no fork", allow_module_level=True)

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture(autouse=True)
def kqueue_is_not_inherited(loop: Uloop) -> None:
    if loop.backend == "kqueue" and sys.platform == "linux":
        pytest.skip("a kqueue is not inherited by fork, and its model is")


@dataclass
class Echo:
    """Answers with what it was sent, and the process that did."""

    sock: socket.socket
    answers: list[bytes] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.answers.append(self.sock.recv(100))


def in_child(function: Callable[[], object]) -> None:
    """Call a function in a forked child, and fail if it fails there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
        child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_the_child_is_refused(loop: Uloop, make_pair: MakePair) -> None:
    echo = Echo(make_pair()[0])
    calls: list[Callable[[], object]] = [
        loop.run,
        loop.run_once,
        loop.poll,
        lambda: loop.call_soon(int),
        lambda: loop.call_threadsafe(int),
        lambda: loop.call_later(0, int),
        lambda: loop.call_every(1, int),
        lambda: loop.add(0, UEvent.poll_in, echo),
        lambda: loop.run_in_thread(int),
        lambda: loop.on_signal(signal.SIGTERM, int),
        lambda: loop.shutdown(),
    ]

    def child() -> None:
        for call in calls:
            with pytest.raises(RuntimeError, match=r"reinit\(\)"):
                call()
        loop.stop()
        loop.close()
        loop.close()

    in_child(child)
    loop.call_soon(loop.stop)
    loop.run()


def test_the_parent_keeps_all_when_the_child_lets_go(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    echo = Echo(ours)
    loop.add(ours, UEvent.poll_in, echo)

    def child() -> None:
        loop.modify(ours, UEvent.poll_none)
        loop.remove(ours)
        loop.close()
        ours.close()

    in_child(child)
    theirs.send(b"one")
    loop.run_once(30)
    assert echo.answers == [b"one"]


def test_a_child_made_by_a_callback_lets_go_of_all(loop: Uloop) -> None:
    """A worker, say, that closes its parent's loop and runs one of its own."""

    def child() -> None:
        number = loop._turns.waker.fileno()
        loop.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)

    loop.call_soon(in_child, child)
    loop.call_soon(loop.stop)
    loop.run()


def test_the_child_goes_on_after_reinit(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    echo = Echo(ours)
    loop.add(ours, UEvent.poll_in, echo)
    called: list[str] = []
    loop.call_soon(called.append, "soon")
    loop.call_later(0.01, called.append, "timer")
    loop.on_signal(signal.SIGTERM, called.append, "signal")

    def child() -> None:
        loop.reinit()
        theirs.send(b"in the child")
        while len(called) < 2:
            loop.run_once()
        assert echo.answers == [b"in the child"]
        assert sorted(called) == ["soon", "timer"]
        signal.raise_signal(signal.SIGTERM)
        loop.run_once(0)
        assert called[2:] == ["signal"]
        loop.run_in_thread(loop.stop)
        loop.run()
        loop.close()

    in_child(child)
    assert echo.answers == []
    theirs.send(b"in the parent")
    while len(called) < 2:
        loop.run_once()
    assert echo.answers == [b"in the parent"]
    assert sorted(called) == ["soon", "timer"]
    loop.on_signal(signal.SIGTERM, None)


@pytest.mark.parametrize("where", ["handler", "soon", "timer"])
def test_a_child_born_in_a_turn_does_nothing_more_of_it(where: str, loop: Uloop, make_pair: MakePair) -> None:
    """All that is ready forks when it is called first; nothing else is called in the child."""
    children: list[int] = []
    calls: list[str] = []
    in_the_child = [False]

    def fork_once() -> None:
        calls.append("called")
        if not children:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                children.append(os.fork())
            if not children[0]:
                in_the_child[0] = True
                calls.clear()

    class Handler:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def process_event(self, fileno: int, event: UEvent) -> None:
            self.sock.recv(1)
            fork_once()

    for _ in range(3):
        if where == "handler":
            ours, theirs = make_pair()
            theirs.send(b"x")
            loop.add(ours, UEvent.poll_in, Handler(ours))
        elif where == "soon":
            loop.call_soon(fork_once)
        else:
            loop.call_later(-1, fork_once)
    status = 1
    try:
        loop.run_once()
        if where == "handler" and not in_the_child[0]:
            while len(calls) < 3:
                loop.run_once()
    except RuntimeError as error:
        status = 0 if "reinit" in str(error) and not calls else 2
    finally:
        if in_the_child[0]:
            os._exit(status)
    assert len(calls) == 3
    assert os.waitpid(children[0], 0)[1] == 0


def test_a_signal_to_the_child_does_not_wake_the_parent(loop: Uloop) -> None:
    """In a child that is born while the loop runs, signals are not the loop's any more."""
    children: list[int] = []

    def fork() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            children.append(os.fork())
        if not children[0]:
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.raise_signal(signal.SIGUSR1)
            os._exit(0)
        os.waitpid(children[0], 0)

    loop.timeout = 1000
    loop.call_soon(fork)
    loop.run_once()
    turns = loop.stats().turns
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert loop.stats().turns - turns <= 3


def test_reinit_without_a_fork_does_nothing(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    echo = Echo(ours)
    loop.add(ours, UEvent.poll_in, echo)
    loop.reinit()
    theirs.send(b"x")
    loop.run_once()
    assert echo.answers == [b"x"]


def test_children_of_children(loop: Uloop) -> None:
    def grandchild() -> None:
        with pytest.raises(RuntimeError, match="reinit"):
            loop.run()
        loop.reinit()
        loop.call_soon(loop.stop)
        loop.run()

    def child() -> None:
        in_child(grandchild)  # of a loop that is put aside already
        loop.reinit()
        in_child(grandchild)
        loop.call_soon(loop.stop)
        loop.run()

    in_child(child)


def test_a_fork_in_another_thread_while_the_loop_runs(loop: Uloop) -> None:
    def child() -> None:
        loop.reinit()
        loop.call_soon(loop.stop)
        loop.run()

    def finish(future: Future[None]) -> None:
        loop.stop()
        future.result()

    loop.run_in_thread(in_child, child, done=finish)
    loop.run()
    assert loop.stats().failures == 0


def test_a_timer_that_is_cancelled_before_reinit(loop: Uloop) -> None:
    before = loop.stats().timers
    timers = [loop.call_later(1000 + number, int) for number in range(300)]
    kept = loop.call_later(0.01, loop.stop)

    def child() -> None:
        for timer in timers:
            timer.cancel()
        assert "0 descriptors" in repr(loop)
        loop.reinit()
        assert loop.stats().timers == before + 1
        assert kept.active
        loop.run()

    in_child(child)
    assert loop.stats().timers == before + 301


def test_what_the_child_removes_does_not_come_back(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    loop.add(ours, UEvent.poll_in, Echo(ours))

    def child() -> None:
        number = ours.fileno()
        loop.remove(ours)
        os.dup2(theirs.fileno(), number)  # the number is another's now
        loop.reinit()
        assert loop.stats().descriptors == 0
        loop.add(number, UEvent.poll_in, Echo(theirs))

    in_child(child)


@pytest.mark.parametrize("kind", ["listener", "datagrams"])
def test_a_child_that_closes_its_copy_leaves_the_parents_file(
    kind: str, loop: Uloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a short path
    server: UnixListener | DatagramSocket
    if kind == "listener":
        server = UnixListener(loop, "server", Stream)
    else:
        server = DatagramSocket.bind(loop, "server")
    in_child(server.close)
    assert os.path.exists("server")
    server.close()
    assert not os.path.exists("server")
