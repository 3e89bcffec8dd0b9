"""Every loop has the shape of EpollLike: for the type checker, and when the program runs."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

import uloop_events
from uloop_events import EpollLike, PollLoop, SelectLoop

LoopType = Callable[..., EpollLike]


def the_loops_as_a_type_checker_sees_them() -> list[EpollLike]:
    """What is wrong with the shape of a loop is an error of the type checker here."""
    select_loop: EpollLike = SelectLoop()
    platforms_best: EpollLike = uloop_events.epoll()
    loops = [select_loop, platforms_best]
    if sys.platform != "win32":
        poll_loop: EpollLike = PollLoop()
        loops.append(poll_loop)
    if sys.platform == "linux":
        epoll: EpollLike = select.epoll()
        loops.append(epoll)
    return loops


def test_the_loops_can_be_made_and_used_as_such() -> None:
    for loop in the_loops_as_a_type_checker_sees_them():
        with loop as entered:
            assert entered.poll(0) == []


def test_each_loop_has_everything_that_the_contract_names(loop: EpollLike) -> None:
    names = {name for name in vars(EpollLike) if not name.startswith("_")}
    assert names == {"closed", "register", "modify", "unregister", "poll", "close"}
    assert names <= set(dir(loop))
