"""UEvent: Linux's numbers, and everything that an IntFlag does."""

from __future__ import annotations

import copy
import operator
import pickle
import select
import sys
from enum import IntFlag
from typing import Any

import pytest
import uloop_events
from uloop_events import UEVENT_OF, UEvent

IN, PRI, OUT = UEvent.poll_in, UEvent.poll_pri, UEvent.poll_out
UNKNOWN = 0x40

NUMBERS = {  # <sys/epoll.h>, and <poll.h> for POLLNVAL
    "poll_none": 0,
    "poll_in": 0x001,
    "poll_pri": 0x002,
    "poll_out": 0x004,
    "poll_err": 0x008,
    "poll_hup": 0x010,
    "poll_nval": 0x020,
    "poll_rdhup": 0x2000,
    "poll_exclusive": 1 << 28,
    "poll_oneshot": 1 << 30,
    "poll_et": 1 << 31,
}
EPOLL_NAMES = [name for name in uloop_events.__all__ if name.startswith("EPOLL")]


def test_every_member_has_its_number_on_every_platform() -> None:
    assert {name: member.value for name, member in UEvent.__members__.items()} == NUMBERS


@pytest.mark.parametrize("name", EPOLL_NAMES)
def test_the_constants_are_plain_integers(name: str) -> None:
    assert type(getattr(uloop_events, name)) is int


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has epoll's constants")
@pytest.mark.parametrize("name", EPOLL_NAMES)
def test_the_constants_are_those_of_the_select_module(name: str) -> None:
    assert getattr(uloop_events, name) == getattr(select, name)


def test_every_constant_has_a_member_of_the_same_number() -> None:
    old_names = {"EPOLLRDNORM", "EPOLLRDBAND", "EPOLLWRNORM", "EPOLLWRBAND", "EPOLLMSG"}
    for name in EPOLL_NAMES:
        if name != "EPOLL_CLOEXEC" and name not in old_names:  # a flag of the constructor, no event
            member = UEvent["poll_" + name.removeprefix("EPOLL").lower()]
            assert getattr(uloop_events, name) == member


def test_epoll_is_the_best_loop_of_the_platform() -> None:
    best = {"linux": "epoll", "win32": "AfdLoop"}.get(sys.platform, "KqueueLoop")
    assert uloop_events.epoll.__name__ == best
    assert sys.platform != "linux" or uloop_events.epoll is select.epoll


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (UEvent.poll_none, "<UEvent.poll_none: 0>"),
        (IN, "<UEvent.poll_in: 1>"),
        (IN | OUT, "<UEvent.poll_in|poll_out: 5>"),
        (UEvent(IN | UNKNOWN), "<UEvent.poll_in|64: 65>"),
    ],
)
def test_repr_names_the_bits(event: UEvent, text: str) -> None:
    assert repr(event) == text


def test_it_equals_its_number() -> None:
    assert IN | OUT == 5
    assert {5: "found"}[IN | OUT] == "found"
    assert str(IN | OUT) == "5"
    assert not UEvent.poll_none


def test_iteration_gives_one_member_per_bit() -> None:
    assert list(IN | OUT | UEvent.poll_et) == [IN, OUT, UEvent.poll_et]
    assert list(UEvent.poll_none) == []
    assert list(UEvent) == [UEvent[name] for name in NUMBERS if name != "poll_none"]


def test_in_asks_for_bits() -> None:
    assert IN in (IN | OUT)
    assert PRI not in (IN | OUT)
    assert (IN | OUT) not in IN


def test_or_and_xor_give_members() -> None:
    assert IN | OUT is UEvent(5)
    assert IN | 4 is UEvent(5)
    assert 4 | IN is UEvent(5)
    assert (IN | OUT) ^ OUT is IN
    assert (IN | OUT) ^ 4 is IN
    assert 5 ^ OUT is IN


def test_a_complement_takes_bits_away() -> None:
    assert isinstance(~IN, UEvent)
    assert ~IN & IN is UEvent.poll_none
    assert (IN | PRI | OUT) & ~IN is PRI | OUT
    assert UEvent(IN | UNKNOWN) & ~IN == UNKNOWN
    for event in UEvent:
        assert event not in ~event
        assert all(other in ~event for other in UEvent if other is not event)


@pytest.mark.parametrize("event", [*UEvent, UEvent.poll_none, IN | OUT])
def test_copies_are_the_object_itself(event: UEvent) -> None:
    assert copy.copy(event) is event
    assert copy.deepcopy([event])[0] is event
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(event, protocol)) is event


class _Ordinary(IntFlag):
    """The same flag with enum's own ``&``."""

    IN, PRI, OUT, ET = 1, 2, 4, 1 << 31


OPERANDS = [0, 1, 5, 7, UNKNOWN, 0x45, 1 << 31, 1 << 40, -1, -2, ~5, 2**64 - 1]


@pytest.mark.parametrize("left", [0, 1, 5, 0x45, 1 << 31])
@pytest.mark.parametrize("right", OPERANDS)
def test_and_gives_the_member_that_enum_would_give(left: int, right: int) -> None:
    expected = int(_Ordinary(left) & right)
    for result in (UEvent(left) & right, right & UEvent(left)):
        assert type(result) is UEvent
        assert result == expected
        assert result is UEVENT_OF[expected]


def test_and_of_two_members() -> None:
    assert (IN | OUT) & IN is IN
    assert IN & (IN | OUT) is IN
    assert IN & OUT is UEvent.poll_none


def test_and_with_a_bool() -> None:
    assert IN & True is IN
    assert OUT & True is UEvent.poll_none


def test_and_in_place() -> None:
    event = IN | OUT
    event &= ~OUT
    assert event is IN


@pytest.mark.parametrize("stranger", ["x", 1.5, None, [1]])
def test_and_with_what_is_no_integer_is_a_type_error(stranger: Any) -> None:
    with pytest.raises(TypeError):
        operator.and_(IN, stranger)
    with pytest.raises(TypeError):
        operator.and_(stranger, IN)


@pytest.mark.parametrize("mask", [*range(64), *NUMBERS.values(), 0x45, 1 << 40, -1, -2])
def test_the_table_gives_the_member_of_a_number(mask: int) -> None:
    assert type(UEVENT_OF[mask]) is UEvent
    assert UEVENT_OF[mask] == UEvent(mask)
    assert UEVENT_OF[mask] is UEVENT_OF[mask]
