"""on_error: a program that is told itself of what handlers and callbacks raise."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import pytest
from uloop_reactor import UEvent, Uloop


class Raiser:
    def process_event(self, fileno: int, event: UEvent) -> None:
        raise ValueError("from a handler")


def fail(word: str) -> None:
    raise ValueError(f"from a {word}")


def test_it_is_told_instead_of_the_log(
    loop: Uloop, make_readable: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, object]] = []
    loop.on_error(lambda error, culprit: told.append((str(error), culprit)))
    raiser = Raiser()
    sock = make_readable()
    loop.add(sock, UEvent.poll_in, raiser)
    loop.call_soon(fail, "callback")
    loop.call_later(-1, fail, "timer")
    loop.run_once(30)
    loop.run_once(0)
    loop.remove(sock)
    assert sorted(told, key=str)[:3] == [
        ("from a callback", fail),
        ("from a handler", raiser),
        *([("from a handler", raiser)] if len(told) == 4 else [("from a timer", fail)]),
    ]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert loop.stats().failures == len(told)


def test_one_that_fails_itself_is_logged_with_what_it_was_told(
    loop: Uloop, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_too(error: Exception, culprit: object) -> None:
        raise KeyError("from on_error")

    loop.on_error(fail_too)
    loop.call_soon(fail, "callback")
    loop.run_once(0)
    text = caplog.text
    assert "from on_error" in text
    assert "from a callback" in text


def test_none_returns_to_the_log(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Exception] = []
    loop.on_error(lambda error, culprit: told.append(error))
    loop.on_error(None)
    loop.call_soon(fail, "callback")
    loop.run_once(0)
    assert told == []
    assert "from a callback" in caplog.text


def test_interrupts_are_no_errors(loop: Uloop) -> None:
    told: list[Exception] = []
    loop.on_error(lambda error, culprit: told.append(error))

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(0)
    assert told == []
