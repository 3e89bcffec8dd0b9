"""What the loop logs, and that it leaves the configuration of logging to the program."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import pytest
from uloop_reactor import UEvent, Uloop


class Handler:
    def process_event(self, fileno: int, event: UEvent) -> None:
        """Leave it as it is."""


def test_no_logging_is_configured() -> None:
    logger = logging.getLogger("uloop")
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    assert logger.level == logging.NOTSET
    assert logging.getLogger("uloop.reactor").handlers == []
    assert logging.getLogger("uloop.reactor").level == logging.NOTSET


def test_the_backend_is_named(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "uloop.reactor"), Uloop(loop.backend):
        pass
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert loop.backend in record.getMessage()


def test_what_happens_to_a_descriptor_can_be_followed(
    loop: Uloop, make_readable: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    sock, handler = make_readable(), Handler()
    with caplog.at_level(logging.DEBUG, "uloop.reactor"):
        loop.add(sock, UEvent.poll_in, handler)
        loop.run_once(30)
        loop.remove(sock)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    added, event, removed = [record.getMessage() for record in caplog.records]
    assert all(f"descriptor {sock.fileno()}" in message for message in (added, event, removed))
    assert "added" in added
    assert repr(handler) in added
    assert "poll_in" in event
    assert "removed" in removed


def test_an_uneventful_life_is_not_worth_a_line(
    loop: Uloop, make_readable: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    sock = make_readable()
    with caplog.at_level(logging.INFO, "uloop.reactor"):
        loop.add(sock, UEvent.poll_in, Handler())
        loop.run_once(30)
        loop.modify(sock, UEvent.poll_none)
        loop.remove(sock)
        loop.call_soon(loop.stop)
        loop.run()
        loop.close()
    assert caplog.records == []
