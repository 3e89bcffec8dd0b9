"""What becomes of the loop when KeyboardInterrupt or SystemExit passes through it, or close."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import pytest
from uloop_reactor import UEvent, Uloop

MakeReadable = Callable[[], socket.socket]


class Leaves:
    """Leaves the loop by an exception, once; counts its calls."""

    left = False
    calls = 0

    def process_event(self, fileno: int, event: UEvent) -> None:
        Leaves.calls += 1
        if not Leaves.left:
            Leaves.left = True
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    Leaves.left = False
    Leaves.calls = 0


@pytest.mark.parametrize("extra", [UEvent.poll_none, UEvent.poll_oneshot, UEvent.poll_et])
def test_nobody_loses_an_event(loop: Uloop, make_readable: MakeReadable, extra: UEvent) -> None:
    if extra == UEvent.poll_et and loop.backend != "epoll":
        pytest.skip(f"{loop.backend} has no poll_et: epoll alone has it")
    seen: set[int] = set()

    class Handler(Leaves):
        def process_event(self, fileno: int, event: UEvent) -> None:
            seen.add(fileno)
            loop.modify(fileno, UEvent.poll_none)
            super().process_event(fileno, event)

    sockets = [make_readable() for _ in range(3)]
    for sock in sockets:
        loop.add(sock, UEvent.poll_in | extra, Handler())
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(30)
    while len(seen) < 3:  # a test that hangs here has lost one
        loop.run_once(30)
    assert seen == {sock.fileno() for sock in sockets}
    assert Leaves.calls == 3


def test_a_signal_after_close_in_a_handler(loop: Uloop, capfd: pytest.CaptureFixture[str]) -> None:
    """Python writes to the waker until run is over, so it must still be there."""
    previous = signal.signal(signal.SIGINT, lambda *_: None)

    def close_and_signal() -> None:
        loop.close()
        signal.raise_signal(signal.SIGINT)

    try:
        loop.call_soon(close_and_signal)
        loop.run()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capfd.readouterr().err == ""


def test_a_wakeup_descriptor_that_its_owner_has_closed_meanwhile(loop: Uloop) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    before = signal.set_wakeup_fd(one.fileno())
    try:
        loop.call_soon(one.close)
        loop.call_soon(loop.stop)
        loop.run()
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        other.close()
        signal.set_wakeup_fd(before)
