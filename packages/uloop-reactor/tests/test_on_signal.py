"""on_signal: callbacks of the loop for signals, in its turns; what was there before comes back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest
from uloop_reactor import Uloop


@pytest.fixture(autouse=True)
def disposition_is_restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("where", ["thread", "handler"])
def test_a_signal_calls_the_callback_once(where: str, loop: Uloop) -> None:
    called: list[str] = []

    def note(word: str) -> None:
        called.append(word)
        loop.stop()

    loop.on_signal(signal.SIGTERM, note, "term")
    for _ in range(3):
        thread = threading.Thread(target=signal.raise_signal, args=[signal.SIGTERM])
        loop.call_soon(thread.start if where == "thread" else lambda: signal.raise_signal(signal.SIGTERM))
        loop.run()
        if where == "thread":
            thread.join()
    assert called == ["term"] * 3
    loop.on_signal(signal.SIGTERM, None)


def test_the_callback_waits_for_its_turn(loop: Uloop) -> None:
    called: list[str] = []

    def raise_and_go_on() -> None:
        signal.raise_signal(signal.SIGTERM)
        called.append("the callback that was running")

    loop.on_signal(signal.SIGTERM, called.append, "the signal's")
    loop.call_soon(raise_and_go_on)
    while len(called) < 2:
        loop.run_once(0)
    assert called == ["the callback that was running", "the signal's"]
    loop.on_signal(signal.SIGTERM, None)


def test_none_restores_what_was_there(loop: Uloop) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        loop.on_signal(signal.SIGTERM, int)
        loop.on_signal(signal.SIGTERM, str)
        loop.on_signal(signal.SIGTERM, None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        loop.on_signal(signal.SIGTERM, None)  # nothing to restore
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_close_restores_what_was_there() -> None:
    with Uloop() as loop:
        loop.on_signal(signal.SIGTERM, int)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_close_leaves_alone_what_somebody_set_after_us() -> None:
    with Uloop() as loop:
        loop.on_signal(signal.SIGTERM, int)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_another_thread_is_refused(loop: Uloop) -> None:
    refusals: list[BaseException] = []

    def ask() -> None:
        try:
            loop.on_signal(signal.SIGTERM, int)
        except RuntimeError as error:
            refusals.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "SIGTERM" in str(refusals[0])
    assert "main thread" in str(refusals[0])


def test_bad_arguments(loop: Uloop) -> None:
    with pytest.raises((ValueError, OSError)):
        loop.on_signal(12345, int)
    with pytest.raises(TypeError, match="callable"):
        loop.on_signal(signal.SIGTERM, "not callable")  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [0, 1])
def test_loops_let_go_of_one_signal_in_any_order(first: int) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        loops = [Uloop(), Uloop(), Uloop()]
        for loop in loops:
            loop.on_signal(signal.SIGTERM, int)
        for index in (first, 2 - 2 * first, 1 + first):
            loops[index].close()
        assert all(loop.closed for loop in loops)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_loop_that_is_left_is_told(loop: Uloop) -> None:
    called: list[int] = []
    with Uloop() as other:
        other.on_signal(signal.SIGTERM, called.append, 1)
        loop.on_signal(signal.SIGTERM, called.append, 2)
    signal.raise_signal(signal.SIGTERM)
    loop.run_once(0)
    loop.on_signal(signal.SIGTERM, None)
    assert called == [2]


def test_none_leaves_alone_what_somebody_set_after_us(loop: Uloop) -> None:
    loop.on_signal(signal.SIGTERM, int)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop.on_signal(signal.SIGTERM, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert before is not signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_loop_that_another_thread_closes() -> None:
    """There nothing can be put back; that is made up for when the signal comes."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        loop = Uloop()
        loop.on_signal(signal.SIGTERM, pytest.fail, "a closed loop was told")
        thread = threading.Thread(target=loop.close)
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_who_hands_on_to_us_stays_when_we_are_gone() -> None:
    came: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append("first"))
    try:
        with Uloop() as loop:
            loop.on_signal(signal.SIGTERM, came.append, "ours")
            ours = signal.getsignal(signal.SIGTERM)
            assert callable(ours)

            def hand_on(number: int, frame: FrameType | None) -> None:
                came.append("last")
                ours(number, frame)

            signal.signal(signal.SIGTERM, hand_on)
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert came == ["last", "first"] * 2
        assert signal.getsignal(signal.SIGTERM) is hand_on
    finally:
        signal.signal(signal.SIGTERM, before)
