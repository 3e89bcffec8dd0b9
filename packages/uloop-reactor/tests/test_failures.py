"""Handlers and callbacks that raise: logged, and of no consequence to anybody else."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from uloop_reactor import UEvent, Uloop

MakeReadable = Callable[[], socket.socket]

# The loop has no use for what these mean; it must just let them pass.
PASSING = [KeyboardInterrupt, SystemExit]


@dataclass
class Handler:
    process_event: Callable[[int, UEvent], object]


@dataclass
class Reader:
    sock: socket.socket
    heard: bytes = b""

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.heard += self.sock.recv(100)


@dataclass
class Raiser:
    error: BaseException = field(default_factory=lambda: OSError("a fault of this test"))
    calls: int = 0

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.calls += 1
        raise self.error

    def callback(self, *args: object) -> None:
        self.calls += 1
        raise self.error


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_it_is_logged_with_its_traceback(
    loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    sock, raiser = make_readable(), Raiser()
    loop.add(sock, UEvent.poll_in, raiser)
    loop.run_once(30)
    (record,) = failures(caplog)
    assert record.name == "uloop.reactor"
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[1] is raiser.error
    assert "raise self.error" in caplog.text
    assert repr(raiser) in record.getMessage()
    assert str(sock.fileno()) in record.getMessage()


def test_the_others_of_the_batch_are_served(loop: Uloop, make_readable: MakeReadable) -> None:
    readers, raisers = [], []
    for _ in range(3):  # in turns, so that whatever the order, a raiser comes before a reader
        raiser, sock = Raiser(), make_readable()
        loop.add(make_readable(), UEvent.poll_in, raiser)
        raisers.append(raiser)
        reader = Reader(sock)
        loop.add(sock, UEvent.poll_in, reader)
        readers.append(reader)
    loop.run_once(30)
    assert [raiser.calls for raiser in raisers] == [1, 1, 1]
    assert [reader.heard for reader in readers] == [b"x", b"x", b"x"]


def test_it_is_called_again(loop: Uloop, make_readable: MakeReadable) -> None:
    sock = make_readable()
    reader = Reader(sock)
    errors = iter([ValueError("a fault of this test")])

    def fail_once(fileno: int, event: UEvent) -> None:
        for error in errors:
            raise error
        reader.process_event(fileno, event)
        loop.stop()

    loop.add(sock, UEvent.poll_in, Handler(fail_once))
    loop.run()
    assert reader.heard == b"x"


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "the second time"])
def test_one_that_removes_itself_and_raises_is_gone(
    before: int, loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    sock, raiser = make_readable(), Raiser()

    def remove_and_raise(fileno: int, event: UEvent) -> None:
        if raiser.calls == before:
            loop.remove(fileno)
        raiser.callback()

    loop.add(sock, UEvent.poll_in, Handler(remove_and_raise))
    for _ in range(3):
        loop.run_once(0)
    assert raiser.calls == before + 1
    assert len(failures(caplog)) == before + 1
    reader = Reader(sock)
    loop.add(sock, UEvent.poll_in, reader)
    loop.run_once(30)
    assert reader.heard == b"x"


def test_one_that_closes_its_descriptor_and_raises_is_no_burden(
    loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    sock, raiser = make_readable(), Raiser()

    def close_and_raise(fileno: int, event: UEvent) -> None:
        sock.close()
        raiser.callback()

    loop.add(sock, UEvent.poll_in, Handler(close_and_raise))
    for _ in range(3):
        loop.run_once(0.01)
    assert raiser.calls == 1
    assert len(failures(caplog)) == 1
    another = make_readable()  # it may have got the same number
    reader = Reader(another)
    loop.add(another, UEvent.poll_in, reader)
    loop.run_once(30)
    assert reader.heard == b"x"


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "the second time"])
def test_one_that_puts_another_in_its_place_and_raises_does_not_harm_it(
    before: int, loop: Uloop, make_readable: MakeReadable
) -> None:
    sock, raiser = make_readable(), Raiser()
    reader = Reader(sock)

    def step_back_and_raise(fileno: int, event: UEvent) -> None:
        if raiser.calls == before:
            loop.remove(fileno)
            loop.add(fileno, UEvent.poll_in, reader)
        raiser.callback()

    loop.add(sock, UEvent.poll_in, Handler(step_back_and_raise))
    for _ in range(before + 2):
        loop.run_once(0)
    assert reader.heard == b"x"


@pytest.mark.parametrize("kind", PASSING)
def test_an_interrupt_in_a_handler_passes(
    kind: type[BaseException], loop: Uloop, make_readable: MakeReadable, caplog: pytest.LogCaptureFixture
) -> None:
    sock, raiser = make_readable(), Raiser(kind())
    loop.add(sock, UEvent.poll_in, raiser)
    for calls in (1, 2, 3):  # it is not paused either: it did not fail
        with pytest.raises(kind):
            loop.run()
        assert raiser.calls == calls
    assert failures(caplog) == []
    loop.remove(sock)
    loop.call_soon(loop.stop)
    loop.run()


@pytest.mark.parametrize("kind", PASSING)
def test_an_interrupt_in_a_callback_passes(kind: type[BaseException], loop: Uloop) -> None:
    raiser, counted = Raiser(kind()), Raiser()
    loop.call_soon(raiser.callback)
    loop.call_soon(counted.callback)
    with pytest.raises(kind):
        loop.run()
    loop.call_later(0, raiser.callback)
    with pytest.raises(kind):
        loop.run_once()
    timer = loop.call_every(0.001, raiser.callback)
    for _ in range(2):
        with pytest.raises(kind):
            loop.run()
    assert timer.active
    timer.cancel()
    assert raiser.calls == 4
    loop.call_soon(loop.stop)
    loop.run()
    assert counted.calls == 1  # it was behind the first one, and has not been lost


def test_callbacks_that_raise_are_logged(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    raiser = Raiser()
    loop.call_soon(raiser.callback, "an argument")
    loop.call_threadsafe(raiser.callback)
    loop.call_later(0, raiser.callback)
    loop.run_once(30)
    assert raiser.calls == 3
    assert [record.name for record in failures(caplog)] == ["uloop.reactor"] * 3
    for record in failures(caplog):
        assert record.exc_info
        assert record.exc_info[1] is raiser.error
        assert repr(raiser.callback) in record.getMessage()


def test_callbacks_behind_one_that_raises_are_called(loop: Uloop) -> None:
    raiser = Raiser()
    called: list[int] = []
    for register in (loop.call_soon, lambda callback, *args: loop.call_later(0, callback, *args)):
        register(raiser.callback)
        register(called.append, 1)
    loop.run_once(30)
    assert called == [1, 1]


def test_a_timer_that_raises_keeps_its_place(loop: Uloop) -> None:
    raiser = Raiser()
    timer = loop.call_every(0.001, raiser.callback)
    while raiser.calls < 3:
        loop.run_once()
    assert timer.active
