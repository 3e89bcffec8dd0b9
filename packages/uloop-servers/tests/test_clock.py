"""The base protocol, without sockets."""

from __future__ import annotations

from datetime import datetime

import pytest
from uloop_servers.protocols.clock import ANSWER_LENGTH, answer, is_answer, read_answer

MOMENTS = [
    datetime(2020, 6, 15, 15, 34, 33, 899256),
    datetime(2020, 6, 15, 15, 34, 33),  # str() leaves the fraction out here
    datetime(1, 1, 1),
    datetime(9999, 12, 31, 23, 59, 59, 999999),
]


def test_an_answer() -> None:
    assert answer(MOMENTS[0]) == b"2020-06-15 15:34:33.899256"


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_answer_has_26_bytes_and_can_be_read(moment: datetime) -> None:
    assert len(answer(moment)) == ANSWER_LENGTH == 26
    assert read_answer(answer(moment)) == moment


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_answer_is_recognised(moment: datetime) -> None:
    assert is_answer(answer(moment))
    assert is_answer(answer(moment) + b"\r\n")
    assert is_answer(str(moment).encode())


@pytest.mark.parametrize(
    "question", [b"", b"time?", b"2020-06-15", b"x" * 26, b"2020-06-15 15:34:33.899256?"]
)
def test_a_question_is_no_answer(question: bytes) -> None:
    assert not is_answer(question)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"2020-06-15 15:34:33",
        b"2020-06-15 15:34:33.899256\n",
        b"2020-13-15 15:34:33.899256",
        b"no time at all, 26 bytes..",
        b"\xff" * 26,
    ],
)
def test_what_is_not_an_answer_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not a time like 2020-06-15 15:34:33\.899256") as refusal:
        read_answer(data)
    assert repr(data) in str(refusal.value)
