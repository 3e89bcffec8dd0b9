"""call_soon: callbacks in the order they were put off, a snapshot of them in each turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from uloop_reactor import Uloop


def test_they_are_called_in_order_and_once(loop: Uloop) -> None:
    called: list[int] = []
    for number in range(100):
        (loop.call_soon if number % 2 else loop.call_threadsafe)(called.append, number)
    assert called == []
    loop.run_once()
    loop.run_once(0)
    assert called == list(range(100))


def test_arguments_are_passed(loop: Uloop) -> None:
    seen: list[tuple[object, ...]] = []
    loop.call_soon(lambda *args: seen.append(args))
    loop.call_soon(lambda *args: seen.append(args), 1, None, "three")
    loop.call_threadsafe(lambda *args: seen.append(args), 4)
    loop.run_once()
    assert seen == [(), (1, None, "three"), (4,)]


def test_what_they_put_off_waits_for_the_next_turn(loop: Uloop) -> None:
    called: list[str] = []

    def put_off(name: str) -> None:
        called.append(name)
        loop.call_soon(called.append, f"after {name}")

    loop.call_soon(put_off, "first")
    loop.call_soon(put_off, "second")
    loop.run_once()
    assert called == ["first", "second"]
    loop.run_once()
    assert called == ["first", "second", "after first", "after second"]


def test_what_timers_put_off_is_called_in_the_same_turn(loop: Uloop) -> None:
    called: list[int] = []
    loop.call_later(0, loop.call_soon, called.append, 1)
    loop.run_once()
    assert called == [1]


def test_a_turn_does_not_wait_when_there_is_something_to_do(loop: Uloop) -> None:
    called: list[int] = []
    loop.timeout = 1000
    loop.call_soon(called.append, 1)
    loop.run_once(1000)
    assert called == [1]


@pytest.mark.parametrize("callback", [None, 5, "callback"])
def test_a_callback_must_be_callable(callback: Callable[[], object], loop: Uloop) -> None:
    for call in (loop.call_soon, loop.call_threadsafe):
        with pytest.raises(TypeError, match="callable"):
            call(callback)
