"""shutdown: handlers are closed and waited for, and aborted at the deadline."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import Stream, UEvent, Uloop
from uloop_reactor.testing import VirtualClock

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@dataclass
class Closable:
    """Notes what is asked of it, and leaves the loop so many seconds after ``close``."""

    loop: Uloop
    sock: socket.socket
    takes: float | None = 0.0
    calls: list[str] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.sock.recv(100)

    def close(self) -> None:
        self.calls.append("close")
        if self.takes == 0:
            self.loop.remove(self.sock)
        elif self.takes is not None:
            self.loop.call_later(self.takes, self.loop.remove, self.sock)

    def abort(self) -> None:
        self.calls.append("abort")


class Bare:
    def process_event(self, fileno: int, event: UEvent) -> None:
        pass


@pytest.fixture
def add(virtual_uloop: Uloop, make_pair: MakePair) -> Callable[[float | None], Closable]:
    def add(takes: float | None) -> Closable:
        handler = Closable(virtual_uloop, make_pair()[0], takes)
        virtual_uloop.add(handler.sock, UEvent.poll_in, handler)
        return handler

    return add


Add = Callable[[float | None], Closable]


def test_it_stops_when_all_are_done(virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add) -> None:
    handlers = [add(0), add(2), add(5)]
    virtual_uloop.call_soon(virtual_uloop.shutdown, 10)
    virtual_uloop.run()
    assert [handler.calls for handler in handlers] == [["close"]] * 3
    assert 5 <= virtual_clock.time() < 6
    assert virtual_uloop.stats().descriptors == 0


def test_what_is_left_at_the_deadline_is_aborted(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    quick, slow, never = add(1), add(20), add(None)
    virtual_uloop.call_soon(virtual_uloop.shutdown, 10)
    virtual_uloop.run()
    assert quick.calls == ["close"]
    assert slow.calls == never.calls == ["close", "abort"]
    assert virtual_clock.time() == pytest.approx(10)
    assert virtual_uloop.stats().descriptors == 0
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "2" in warning.getMessage()


def test_a_second_call_changes_the_deadline(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add
) -> None:
    never = add(None)
    virtual_uloop.call_soon(virtual_uloop.shutdown, 1000)
    virtual_uloop.call_later(1, virtual_uloop.shutdown, 2)
    virtual_uloop.run()
    assert virtual_clock.time() == pytest.approx(3)
    assert never.calls == ["close", "abort"]


def test_who_comes_meanwhile_is_closed_too(virtual_uloop: Uloop, add: Add) -> None:
    late: list[Closable] = []
    add(3)
    virtual_uloop.call_later(1, lambda: late.append(add(4)))
    virtual_uloop.call_soon(virtual_uloop.shutdown, 100)
    virtual_uloop.run()
    assert late[0].calls == ["close"]
    assert virtual_uloop.stats().descriptors == 0


def test_a_handler_without_close_is_left_alone(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, make_pair: MakePair
) -> None:
    sock, _ = make_pair()
    virtual_uloop.add(sock, UEvent.poll_in, Bare())
    virtual_uloop.call_soon(virtual_uloop.shutdown)
    virtual_uloop.run()
    assert virtual_clock.time() < 1
    assert virtual_uloop.stats().descriptors == 1


def test_one_that_fails_to_close_does_not_keep_the_others(
    virtual_uloop: Uloop, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = add(0), add(0)

    def fail() -> None:
        raise ValueError("from close")

    bad.close = fail  # type: ignore[method-assign]
    virtual_uloop.call_soon(virtual_uloop.shutdown, 1)
    virtual_uloop.run()
    assert good.calls == ["close"]
    assert bad.calls == ["abort"]
    assert "from close" in caplog.text


def test_nothing_to_wait_for(virtual_uloop: Uloop, virtual_clock: VirtualClock) -> None:
    virtual_uloop.shutdown()
    virtual_uloop.run()
    assert virtual_clock.time() < 1


def test_the_loop_can_be_used_again(virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add) -> None:
    for _ in range(3):
        handler = add(1)
        virtual_uloop.shutdown(10)
        virtual_uloop.run()
        assert handler.calls == ["close"]
    started = virtual_clock.time()
    virtual_uloop.call_later(50, virtual_uloop.stop)
    virtual_uloop.run()  # no deadline of a shutdown that is over ends it
    assert virtual_clock.time() == started + 50


def test_a_loop_that_is_closed_meanwhile(virtual_uloop: Uloop, add: Add) -> None:
    handler = add(None)
    virtual_uloop.shutdown(10)
    virtual_uloop.call_later(1, virtual_uloop.close)
    virtual_uloop.run()
    assert handler.calls == ["close"]
    with pytest.raises(RuntimeError, match="closed"):
        virtual_uloop.shutdown()


def test_one_that_leaves_at_the_deadline_stops_no_later_run(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add
) -> None:
    add(10)  # leaves just when it is aborted
    add(None)
    virtual_uloop.shutdown(10)
    virtual_uloop.run()
    started = virtual_clock.time()
    virtual_uloop.call_later(50, virtual_uloop.stop)
    virtual_uloop.run()
    assert virtual_clock.time() == started + 50


@pytest.mark.parametrize("grace", [0, 1])
def test_a_stream_that_closes_at_once_is_told_of_it(
    grace: float, virtual_uloop: Uloop, make_pair: MakePair
) -> None:
    told: list[str] = []

    class Half(Stream):
        def on_eof(self) -> None:
            told.append("eof")  # and goes on

        def on_close(self, reason: BaseException | None, /) -> None:
            told.append("close")

    ours, theirs = make_pair()
    Half(virtual_uloop, ours)
    theirs.shutdown(socket.SHUT_WR)
    while not told:
        virtual_uloop.run_once()
    virtual_uloop.shutdown(grace)
    virtual_uloop.run()
    assert told == ["eof", "close"]


def test_a_later_deadline_does_not_count(virtual_uloop: Uloop, virtual_clock: VirtualClock, add: Add) -> None:
    add(None)
    virtual_uloop.shutdown(10)
    for _ in range(5):
        virtual_uloop.call_later(5, virtual_uloop.shutdown, 10)
    virtual_uloop.run()
    assert virtual_clock.time() == 10
