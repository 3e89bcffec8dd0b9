"""From the first line to the last: context manager, close(), what may be called after it."""

from __future__ import annotations

import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop

if sys.platform != "win32":
    import resource

MakeReadable = Callable[[], socket.socket]


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@dataclass
class Recorder:
    events: list[UEvent] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append(event)


def test_the_context_manager_gives_the_loop_and_closes_it(loop: Uloop) -> None:
    with loop as entered:
        assert entered is loop
        assert "closed" not in repr(loop)
    assert "closed" in repr(loop)
    with pytest.raises(RuntimeError, match="closed"), loop:
        pass


def test_the_context_manager_closes_after_an_error(loop: Uloop) -> None:
    with pytest.raises(KeyError), loop:
        raise KeyError
    assert "closed" in repr(loop)


def test_closing_twice_is_no_error(loop: Uloop) -> None:
    loop.close()
    loop.close()


USES: dict[str, Callable[[Uloop], object]] = {
    "add": lambda loop: loop.add(0, UEvent.poll_in, Recorder()),
    "run": lambda loop: loop.run(),
    "run_once": lambda loop: loop.run_once(0),
    "poll": lambda loop: loop.poll(0),
    "call_soon": lambda loop: loop.call_soon(int),
    "call_threadsafe": lambda loop: loop.call_threadsafe(int),
    "call_later": lambda loop: loop.call_later(0, int),
    "call_at": lambda loop: loop.call_at(0, int),
    "call_every": lambda loop: loop.call_every(1, int),
    "add_periodic": lambda loop: loop.add_periodic(int),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_loop_says_so(use: Callable[[Uloop], object], loop: Uloop) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        use(loop)


def test_what_ends_something_may_be_called_after_close(loop: Uloop, make_readable: MakeReadable) -> None:
    sock = make_readable()
    loop.add(sock, UEvent.poll_in, Recorder())
    timer = loop.call_later(5, int)
    loop.close()
    assert not timer.active
    timer.cancel()
    loop.modify(sock, UEvent.poll_out)
    loop.remove(sock)
    loop.stop()
    loop.timeout = 5
    assert loop.backend in repr(loop)


def test_what_was_added_stays_open(loop: Uloop, make_readable: MakeReadable) -> None:
    sock = make_readable()
    loop.add(sock, UEvent.poll_in, Recorder())
    loop.close()
    assert sock.recv(100) == b"x"


def test_close_forgets_everything(loop: Uloop) -> None:
    called: list[int] = []
    loop.call_soon(called.append, 1)
    loop.call_later(0, called.append, 2)
    loop.add_periodic(int)
    loop.close()
    assert called == []
    with pytest.raises(ValueError, match="not a periodic callback"):
        loop.remove_periodic(int)


@pytest.mark.parametrize("then", [int, lambda: 1 / 0], ids=["quietly", "and raises"])
@pytest.mark.parametrize("where", ["handler", "timer", "every", "soon", "periodic"])
def test_close_in_the_midst_of_a_turn_ends_run(
    where: str, then: Callable[[], object], loop: Uloop, make_readable: MakeReadable
) -> None:
    called: list[str] = []

    def close(*args: object) -> None:
        called.append(where)
        if len(called) == 1:
            loop.call_soon(close)
            loop.call_later(0, close)
        loop.close()
        then()

    loop.timeout = 0.001
    for _ in range(2):  # the second one of each must not be called any more
        if where == "handler":
            loop.add(make_readable(), UEvent.poll_in, Handler(close))
        elif where == "timer":
            loop.call_later(0, close)
        elif where == "every":
            loop.call_every(0.001, close)
        elif where == "soon":
            loop.call_soon(close)
        else:
            loop.add_periodic(close)
    loop.run()
    assert called == [where]
    assert "closed" in repr(loop)


def test_repr(loop: Uloop, make_readable: MakeReadable) -> None:
    seen: list[str] = []
    assert repr(loop) == f"<Uloop on {loop.backend}, idle, 0 descriptors>"
    sockets = [make_readable(), make_readable()]
    for sock in sockets:
        loop.add(sock, UEvent.poll_none, Recorder())
    loop.call_soon(lambda: seen.append(repr(loop)))
    loop.run_once()
    assert seen == [f"<Uloop on {loop.backend}, running, 2 descriptors>"]
    loop.remove(sockets[0])
    assert repr(loop) == f"<Uloop on {loop.backend}, idle, 1 descriptors>"
    loop.close()
    assert repr(loop) == f"<Uloop on {loop.backend}, closed, 0 descriptors>"


def test_a_closed_loop_leaves_nothing_to_warn_of(loop: Uloop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        another = Uloop(loop.backend)
        another.call_later(5, int)
        another.run_once(0)
        another.close()
        del another
        gc.collect()
    assert caught == []


# Windows' select counts sockets; their numbers may be as large as they like.
if sys.platform != "win32":

    @contextmanager
    def low_numbers_taken(sock: socket.socket) -> Iterator[None]:
        """Have every descriptor made from now on be one too large for select."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
        taken = [os.dup(sock.fileno())]
        try:
            while taken[-1] < 1023:
                taken.append(os.dup(sock.fileno()))
            yield
        finally:
            for number in taken:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_a_loop_that_cannot_be_made_leaves_nothing_to_warn_of(make_readable: MakeReadable) -> None:
        with warnings.catch_warnings(record=True) as caught, low_numbers_taken(make_readable()):
            warnings.simplefilter("always")
            with pytest.raises(OSError, match="descriptors below 1024"):
                Uloop("select")
            gc.collect()
        assert caught == []
