"""Every loop says in every situation of the catalogue what its recording says; and the table is true."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from catalogue import CATALOGUE
from differences import UNPROVEN_FAMILIES
from fidelity import COLUMNS, EPOLL, IMITATIONS, SYSTEM, TABLE, Column, difference_of, is_wine, play, table
from uloop_events import AfdLoop, EpollLike, KqueueLoop, PollLoop, SelectLoop


def is_possible(loop_type: Callable[[], EpollLike]) -> bool:
    try:
        loop_type().close()
    except NotImplementedError:
        return False
    return True


HERE = [column for column in COLUMNS if column.runs_here() and (SYSTEM != "windows" or is_wine())]
NOT_RECORDED_HERE = [
    loop_type
    for loop_type in (AfdLoop, KqueueLoop, PollLoop, SelectLoop)
    if loop_type.__name__ not in {column.loop for column in HERE} and is_possible(loop_type)
]
ORACLE = EPOLL.load()


@pytest.mark.parametrize("situation", CATALOGUE)
@pytest.mark.parametrize("column", HERE, ids=lambda column: f"{column.loop}-{column.system}")
def test_a_loop_says_what_was_recorded(column: Column, situation: str, tmp_path: Path) -> None:
    assert play(situation, column.loop_type(), tmp_path) == column.load()[situation]


@pytest.mark.parametrize(("loop_type", "situation"), [*product(NOT_RECORDED_HERE, CATALOGUE)])
def test_a_loop_is_silent_when_epoll_is(
    loop_type: Callable[[], EpollLike], situation: str, tmp_path: Path
) -> None:
    """What can be said of a system that has not been recorded: there is an event, or there is none."""
    if loop_type.__name__ == "KqueueLoop" and situation.startswith(UNPROVEN_FAMILIES):
        pytest.skip("what a kqueue does in this situation is not known yet")
    said, epoll = play(situation, loop_type, tmp_path), ORACLE[situation]
    if said is None or epoll is None:
        pytest.skip("this system has nothing of the kind")
    if len(epoll) == 1:
        assert (said[0] == "nothing") == (epoll[0] == "nothing"), said


def test_every_recording_is_of_the_whole_catalogue() -> None:
    for column in COLUMNS:
        assert list(column.load()) == list(CATALOGUE), column.path.name


def test_every_difference_has_a_reason_and_every_reason_a_difference() -> None:
    for column in IMITATIONS:
        for situation, said in column.load().items():
            differs = said is not None and said != ORACLE[situation]
            has_reason = difference_of(column, situation) is not None
            assert differs == has_reason, f"{column.path.name}, {situation}: {said}"


def test_poll_is_exact_on_linux_but_for_what_it_refuses() -> None:
    [poll] = [column for column in IMITATIONS if column.loop == "PollLoop"]
    differing = {situation for situation, said in poll.load().items() if said != ORACLE[situation]}
    assert differing == {
        "rules: closed while a duplicate lives",
        "rules: asked for changes, not states (poll_et)",
        "rules: asked to wake one of several (poll_exclusive)",
    }


def test_the_table_is_made_of_the_recordings() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "run fidelity.py write"
