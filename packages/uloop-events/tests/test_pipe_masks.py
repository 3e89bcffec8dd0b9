"""What is reported for a pipe in each situation: epoll's mask, and as near as select comes."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest
from uloop_events import EPOLLERR as ERR
from uloop_events import EPOLLHUP as HUP
from uloop_events import EPOLLIN as IN
from uloop_events import EPOLLOUT as OUT

if sys.platform == "win32":
    pytest.skip("select on Windows takes sockets alone", allow_module_level=True)

MakePipe = Callable[[], tuple[FileIO, FileIO]]
Check = Callable[..., None]
LINUX_ALONE = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have their own idea of this state"
)


def test_reader_of_an_empty_pipe(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, _writer = pipe_pair()
    check_mask(reader, epoll=0, select=0, asked=IN)


def test_reader_of_a_pipe_with_data(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    writer.write(b"x")
    check_mask(reader, epoll=IN, select=IN, asked=IN)


def test_reader_when_the_writer_has_closed_after_writing(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    writer.write(b"x")
    writer.close()
    check_mask(reader, epoll=IN | HUP, select=IN, asked=IN)


def test_reader_when_the_writer_has_closed_and_all_is_read(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    writer.close()
    check_mask(reader, epoll=HUP, select=IN, asked=IN)


def test_writer(check_mask: Check, pipe_pair: MakePipe) -> None:
    _reader, writer = pipe_pair()
    check_mask(writer, epoll=OUT, select=OUT, asked=OUT)


def test_writer_of_a_full_pipe(check_mask: Check, pipe_pair: MakePipe) -> None:
    _reader, writer = pipe_pair()
    fill(writer)
    check_mask(writer, epoll=0, select=0, asked=OUT)


def test_writer_when_the_reader_has_closed(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    reader.close()
    check_mask(writer, epoll=OUT | ERR, select=OUT, asked=OUT)


@LINUX_ALONE
def test_writer_of_a_full_pipe_when_the_reader_has_closed(check_mask: Check, pipe_pair: MakePipe) -> None:
    reader, writer = pipe_pair()
    fill(writer)
    reader.close()
    check_mask(writer, epoll=ERR, select=OUT, asked=OUT)


@LINUX_ALONE
def test_reader_of_a_named_pipe_that_nobody_has_written_to(
    check_mask: Check, tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = stack.enter_context(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "r"))
    check_mask(reader, epoll=0, select=0, asked=IN)


@LINUX_ALONE
def test_terminal_whose_other_side_has_closed(check_mask: Check, stack: ExitStack) -> None:
    controller, terminal = os.openpty()
    os.close(controller)
    check_mask(stack.enter_context(FileIO(terminal, "r+")), epoll=IN | OUT | ERR | HUP, select=IN | OUT)


def fill(writer: FileIO) -> None:
    os.set_blocking(writer.fileno(), False)
    while select.select([], [writer], [], 0)[1]:
        writer.write(bytes(4096))
