"""Importing the package is cheap, and gives all that ``select`` has."""

from __future__ import annotations

import select
import subprocess
import sys

import pytest
import uloop_events

CODE = """
import sys
before = set(sys.modules)
import uloop_events
print({name.split(".")[0] for name in set(sys.modules) - before} & {"asyncio", "ctypes", "socket", "typing"})
"""


def test_importing_the_package_imports_nothing_large() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("name", uloop_events.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(uloop_events, name) is not None
    assert name in dir(uloop_events)


@pytest.mark.parametrize("name", [name for name in dir(select) if not name.startswith("_")])
def test_every_name_of_select_passes_through(name: str) -> None:
    ours = getattr(uloop_events, name)
    if name not in uloop_events.__all__:
        assert ours is getattr(select, name)
    assert name in dir(uloop_events)


def test_what_select_gets_later_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "select", "patched")
    assert getattr(uloop_events, "select") == "patched"  # noqa: B009 - no type checker would believe it


@pytest.mark.parametrize("name", ["POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL"])
def test_the_names_of_poll_are_there_without_poll(name: str) -> None:
    # Programs for epoll use them beside epoll's: both have the same numbers on Linux.
    number = getattr(uloop_events, name)
    assert number == getattr(select, name, getattr(uloop_events.UEvent, f"poll_{name[4:].lower()}"))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'EPOLLNEVER'"):
        getattr(uloop_events, "EPOLLNEVER")  # noqa: B009 - no type checker would let it pass
    assert not hasattr(uloop_events, "_select_never")
