"""What can be registered besides sockets, and what is refused as it is always ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest
from uloop_events import EPOLLIN, EPOLLOUT, EpollLike

if sys.platform == "win32":
    pytest.skip("select on Windows takes sockets alone", allow_module_level=True)

NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/mounts")


def check_refused(loop: EpollLike, descriptor: int) -> None:
    with pytest.raises(PermissionError):
        loop.register(descriptor, EPOLLIN)
    with pytest.raises(PermissionError):
        loop.modify(descriptor, EPOLLIN)
    with pytest.raises(PermissionError):
        loop.unregister(descriptor)
    assert loop.poll(0) == []


def test_a_regular_file_is_refused(loop: EpollLike, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        check_refused(loop, file.fileno())


def test_a_directory_is_refused(loop: EpollLike, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        check_refused(loop, directory)
    finally:
        os.close(directory)


@pytest.mark.parametrize("name", ["null", "zero", "full", "urandom"])
def test_a_device_without_readiness_is_refused(loop: EpollLike, name: str) -> None:
    path = f"/dev/{name}"
    if not os.path.exists(path):
        pytest.skip(f"{sys.platform} has no {path}")
    device = os.open(path, os.O_RDONLY)
    try:
        check_refused(loop, device)
    finally:
        os.close(device)


@NEEDS_PROC
def test_a_regular_file_that_has_readiness(loop: EpollLike) -> None:
    # The kernel reports a change of the mounts as PRI and ERR; so it does for GPIO pins in /sys.
    with open("/proc/self/mounts") as mounts:
        loop.register(mounts, EPOLLIN)
        assert loop.poll(0) == [(mounts.fileno(), EPOLLIN)]
        loop.unregister(mounts)


def test_a_pipe_is_watched(loop: EpollLike, pipe_pair: Callable[[], tuple[FileIO, FileIO]]) -> None:
    reader, writer = pipe_pair()
    loop.register(reader, EPOLLIN)
    loop.register(writer, EPOLLOUT)
    assert loop.poll(0) == [(writer.fileno(), EPOLLOUT)]
    writer.write(b"x")
    loop.modify(writer, 0)
    assert loop.poll(0) == [(reader.fileno(), EPOLLIN)]


def test_a_named_pipe_is_watched(loop: EpollLike, tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = stack.enter_context(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "r"))
    writer = stack.enter_context(FileIO(os.open(path, os.O_WRONLY), "w"))
    loop.register(reader, EPOLLIN)
    assert loop.poll(0) == []
    writer.write(b"x")
    assert loop.poll(5) == [(reader.fileno(), EPOLLIN)]


def test_a_terminal_is_watched(loop: EpollLike, stack: ExitStack) -> None:
    controller_number, terminal_number = os.openpty()
    controller = stack.enter_context(FileIO(controller_number, "r+"))
    terminal = stack.enter_context(FileIO(terminal_number, "r+"))
    loop.register(terminal, EPOLLIN)
    assert loop.poll(0) == []
    controller.write(b"a line\n")
    assert loop.poll(5) == [(terminal.fileno(), EPOLLIN)]
