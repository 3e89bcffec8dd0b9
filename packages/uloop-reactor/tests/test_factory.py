"""Which backend a loop gets: the best one, the one that was named, or the environment's."""

from __future__ import annotations

import sys

import pytest
from uloop_reactor import Uloop, available_backends

#: a backend that exists, but not on this platform
ELSEWHERE = "afd" if sys.platform == "linux" else "epoll"


@pytest.fixture(autouse=True)
def environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULOOP_BACKEND", raising=False)


def test_the_backends_of_this_platform_stand_in_order_of_preference() -> None:
    order = ["epoll", "kqueue", "poll", "afd", "select"]
    assert available_backends() == sorted(available_backends(), key=order.index)
    least = {"linux": {"epoll", "poll", "select"}, "darwin": {"kqueue", "select"}, "win32": {"afd", "select"}}
    assert set(available_backends()) >= least.get(sys.platform, {"select"})


def test_the_list_of_backends_belongs_to_the_caller() -> None:
    expected = available_backends()
    available_backends().clear()
    assert available_backends() == expected


def test_without_a_name_it_is_the_best_one() -> None:
    with Uloop() as loop:
        assert loop.backend == available_backends()[0]


@pytest.mark.parametrize("name", available_backends())
def test_a_backend_can_be_named(name: str) -> None:
    with Uloop(name) as loop:
        assert loop.backend == name
    with Uloop(backend=name) as loop:
        assert loop.backend == name


@pytest.mark.parametrize("name", available_backends())
def test_a_name_means_what_it_says(name: str) -> None:
    classes = {
        "epoll": "epoll",
        "kqueue": "KqueueLoop",
        "poll": "PollLoop",
        "afd": "AfdLoop",
        "select": "SelectLoop",
    }
    with Uloop(name) as loop:
        assert type(loop._turns.registry.backend).__name__ == classes[name]


@pytest.mark.parametrize("name", available_backends())
def test_the_environment_can_name_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULOOP_BACKEND", name)
    with Uloop() as loop:
        assert loop.backend == name


@pytest.mark.parametrize("said", ["select", "nonsense"])
def test_an_argument_beats_the_environment(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULOOP_BACKEND", said)
    with Uloop(available_backends()[0]) as loop:
        assert loop.backend == available_backends()[0]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULOOP_BACKEND", "")
    with Uloop() as loop:
        assert loop.backend == available_backends()[0]


@pytest.mark.parametrize("name", ["nonsense", "", "EPOLL", ELSEWHERE])
def test_a_name_that_is_not_to_be_had_here_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no backend") as raised:
        Uloop(name)
    message = str(raised.value)
    assert repr(name) in message
    assert all(backend in message for backend in available_backends())
    assert "ULOOP_BACKEND" not in message  # it is not to blame


@pytest.mark.parametrize("name", ["nonsense", ELSEWHERE])
def test_a_bad_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULOOP_BACKEND", name)
    with pytest.raises(ValueError, match="ULOOP_BACKEND") as raised:
        Uloop()
    message = str(raised.value)
    assert repr(name) in message
    assert all(backend in message for backend in available_backends())
