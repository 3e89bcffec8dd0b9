"""stats() and what the loop warns of: slow callbacks, handlers that spin, closed descriptors."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.testing import VirtualClock

MakePair = Callable[[], tuple[socket.socket, socket.socket]]
MakeReadable = Callable[[], socket.socket]


class Lazy:
    """Leaves things as they are."""

    def process_event(self, fileno: int, event: UEvent) -> None:
        pass


@dataclass
class Reader:
    sock: socket.socket
    got: list[bytes] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.got.append(self.sock.recv(100))


def run_for(loop: Uloop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_new_loop(loop: Uloop) -> None:
    stats = loop.stats()
    assert stats.backend == loop.backend
    assert (stats.descriptors, stats.turns, stats.events, stats.failures) == (0, 0, 0, 0)
    assert (stats.lag, stats.longest_lag, stats.slowest, stats.slowest_name) == (0, 0, 0, "")
    assert (stats.slow, stats.spinning, stats.closed) == (0, 0, 0)


def test_turns_events_descriptors_timers(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    reader = Reader(ours)
    before = loop.stats()
    loop.add(ours, UEvent.poll_in, reader)
    timer = loop.call_later(1000, int)
    loop.call_later(1000, int).cancel()
    for _ in range(3):
        theirs.send(b"x")
        answers = len(reader.got)
        while len(reader.got) == answers:
            loop.run_once(30)
    stats = loop.stats()
    assert stats.descriptors == 1
    assert stats.timers == before.timers + 1
    assert stats.events == 3
    assert stats.turns >= 3
    timer.cancel()
    loop.remove(ours)
    assert (loop.stats().descriptors, loop.stats().timers) == (0, before.timers)


def test_failures_are_counted(loop: Uloop) -> None:
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(-1, lambda: 1 / 0)
    for _ in range(2):
        loop.run_once(0)
    assert loop.stats().failures == 2


@pytest.mark.parametrize("kind", ["handler", "soon", "timer"])
def test_the_slowest_one_is_named_and_makes_the_lag(
    kind: str, loop: Uloop, make_readable: MakeReadable
) -> None:
    class Sleeper:
        def __repr__(self) -> str:
            return "the sleeper"

        def __call__(self) -> None:
            time.sleep(0.02)

        def process_event(self, fileno: int, event: UEvent) -> None:
            self()

    if kind == "handler":
        loop.add(make_readable(), UEvent.poll_in | UEvent.poll_oneshot, Sleeper())
    elif kind == "soon":
        loop.call_soon(Sleeper())
    else:
        loop.call_later(-1, Sleeper())
    loop.run_once(30)
    stats = loop.stats()
    assert stats.slowest_name == "the sleeper"
    assert stats.slowest >= 0.02 - 1e-3  # the clocks of some platforms tick in milliseconds
    assert stats.longest_lag >= stats.lag >= 0.02 - 1e-3


def test_a_slow_callback_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    with Uloop(clock=clock) as loop:

        def take(seconds: float) -> None:
            clock.advance(seconds)

        assert loop.slow_callback == 0.1
        loop.call_soon(take, 0.09)
        loop.run_once(0)
        assert warnings_of(caplog) == []
        for number in range(3):
            loop.call_soon(take, 0.2)
            loop.run_once(0)
            (warning,) = warnings_of(caplog)
            assert "take" in warning
            assert "0.200 s" in warning
            assert loop.stats().slow == number + 1
            caplog.clear()
        assert loop.stats().slowest == pytest.approx(0.2)
        loop.slow_callback = 0.3
        loop.call_soon(take, 0.25)
        loop.run_once(0)
        assert warnings_of(caplog) == []
        loop.slow_callback = 0.05
        loop.call_soon(take, 0.06)
        loop.run_once(0)
        assert len(warnings_of(caplog)) == 1
        with pytest.raises(ValueError, match="slow_callback"):
            loop.slow_callback = 0


# Whether a loop spins is looked at once a second, and only when it makes 1000 turns in that time.
# So in these tests time passes by hand: a second every 1100 turns.


@pytest.fixture
def fast_loop(virtual_uloop: Uloop, virtual_clock: VirtualClock) -> Uloop:
    return virtual_uloop


def spin(loop: Uloop, clock: VirtualClock, seconds: int, between: Callable[[], object] = int) -> None:
    for _ in range(seconds):
        for _ in range(1100):
            between()
            loop.run_once(0)
        clock.advance(1.0)


def test_a_handler_that_never_reads(
    fast_loop: Uloop,
    virtual_clock: VirtualClock,
    make_readable: MakeReadable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sock = make_readable()
    fast_loop.add(sock, UEvent.poll_in, Lazy())
    spin(fast_loop, virtual_clock, 10)
    (warning,) = warnings_of(caplog)
    assert "Lazy" in warning
    assert "poll_in" in warning
    assert str(sock.fileno()) in warning
    assert fast_loop.stats().spinning == 1


def test_a_handler_that_ignores_the_end(
    fast_loop: Uloop, virtual_clock: VirtualClock, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = make_pair()
    reader = Reader(ours)
    fast_loop.add(ours, UEvent.poll_in, reader)
    theirs.close()
    spin(fast_loop, virtual_clock, 6)
    (warning,) = warnings_of(caplog)
    assert "Reader" in warning


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether something was written")
def test_a_handler_that_could_write_and_has_nothing_to_write(
    fast_loop: Uloop, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
    with ours:
        fast_loop.add(ours, UEvent.poll_out, Lazy())
        spin(fast_loop, virtual_clock, 6)
        (warning,) = warnings_of(caplog)
        assert "poll_out" in warning
        fast_loop.remove(ours)


def test_a_name_that_cannot_be_said(loop: Uloop) -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise RuntimeError("from __repr__")

        def __call__(self) -> None:
            time.sleep(0.002)

    loop.call_soon(Nameless())
    loop.run_once(0)
    assert "Nameless" in loop.stats().slowest_name


@pytest.mark.parametrize("kind", ["stream", "TCP", "datagrams", "empty datagrams"])
def test_a_handler_under_load_is_not_suspected(
    kind: str, fast_loop: Uloop, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The same amount is there whenever it is looked at, but it is always another one."""
    if kind == "stream":
        ours, theirs = socket.socketpair()
    elif kind == "TCP":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    else:
        ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (ours, theirs):
            sock.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
    with ours, theirs:
        ours.setblocking(False)
        reader = Reader(ours)
        fast_loop.add(ours, UEvent.poll_in, reader)
        message = b"" if kind == "empty datagrams" else b"x"
        spin(fast_loop, virtual_clock, 6, lambda: theirs.send(message))
        assert len(reader.got) > 1000
        assert warnings_of(caplog) == []
        assert fast_loop.stats().spinning == 0
        fast_loop.remove(ours)


def test_an_idle_loop_is_not_examined(loop: Uloop, make_readable: MakeReadable) -> None:
    clock = VirtualClock()
    with Uloop(loop.backend, clock=clock) as slow:
        slow.add(make_readable(), UEvent.poll_in, Lazy())
        for _ in range(100):
            slow.run_once(0)
            clock.advance(0.5)
        assert slow.stats().spinning == 0


def test_a_descriptor_that_was_closed_is_found(
    virtual_uloop: Uloop,
    virtual_clock: VirtualClock,
    make_pair: MakePair,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forgotten, kept = make_pair()
    number = forgotten.fileno()
    virtual_uloop.add(forgotten, UEvent.poll_in, Lazy())
    virtual_uloop.add(kept, UEvent.poll_none, Lazy())
    forgotten.close()
    for _ in range(5):
        virtual_clock.advance(1.0)
        virtual_uloop.run_once(0)
    (warning,) = warnings_of(caplog)
    assert str(number) in warning
    assert "Lazy" in warning
    assert "closed" in warning
    stats = virtual_uloop.stats()
    assert (stats.closed, stats.descriptors) == (1, 1)


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows gives a socket's number away as it likes, not on request"
)
def test_a_descriptor_that_was_closed_and_is_added_again(
    loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    sock, other = make_readable(), make_readable()
    loop.add(sock, UEvent.poll_in, Lazy())
    os.dup2(other.fileno(), sock.fileno())
    loop.add(sock, UEvent.poll_in, Lazy())
    assert loop.stats().closed == 1
    assert len(warnings_of(caplog)) == 1


def test_many_descriptors_are_looked_at_in_turn(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, make_pair: MakePair
) -> None:
    socks = [sock for _ in range(120) for sock in make_pair()]
    for sock in socks:
        virtual_uloop.add(sock, UEvent.poll_in, Lazy())
    for sock in socks[::2]:
        sock.close()
    for _ in range(8):
        virtual_clock.advance(1.0)
        virtual_uloop.run_once(0)
    assert virtual_uloop.stats().closed == 120
    assert virtual_uloop.stats().descriptors == 120


def test_a_bug_that_strangers_trigger_does_not_fill_the_log(
    virtual_uloop: Uloop, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(divisor: int) -> None:
        1 / divisor

    for _ in range(100):
        virtual_uloop.call_soon(fail, 0)
    virtual_uloop.call_soon(fail, "x")  # type: ignore[arg-type]
    virtual_uloop.run_once(0)
    assert [record.exc_info is not None for record in caplog.records] == [True] * 11
    assert virtual_uloop.stats().failures == 101
    caplog.clear()
    virtual_clock.advance(2)
    virtual_uloop.run_once(0)
    (warning,) = warnings_of(caplog)
    assert "ZeroDivisionError was raised 90 times more" in warning
    assert "test_health.py, line" in warning
    caplog.clear()
    virtual_uloop.call_soon(fail, 0)
    virtual_uloop.run_once(0)
    (record,) = caplog.records
    assert record.exc_info
