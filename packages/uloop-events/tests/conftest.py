"""What the tests share: every loop of the platform, things to watch, and a leak check.

``select.epoll`` is among the loops on Linux. It is what the others imitate, so a test that it
fails is a wrong test.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO

import pytest
from uloop_events import AfdLoop, EpollLike, HasFileno, KqueueLoop, PollLoop, SelectLoop

LoopType = Callable[..., EpollLike]
SocketPair = tuple[socket.socket, socket.socket]

USER_SPACE_LOOPS: list[LoopType] = (
    [AfdLoop, SelectLoop] if sys.platform == "win32" else [PollLoop, SelectLoop]
)
if sys.platform == "linux":
    import kqueue_model

    kqueue_model.install()
if hasattr(select, "kqueue"):  # the model on Linux, the real thing on macOS and the BSDs
    USER_SPACE_LOOPS.append(KqueueLoop)
LOOPS: list[LoopType] = list(USER_SPACE_LOOPS)
if sys.platform == "linux":
    LOOPS.insert(0, select.epoll)

DEADLINE = 10.0  # seconds that the system has to deliver what was sent; it needs far less


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """A test must leave as many descriptors open as it found."""
    if sys.platform == "win32":
        yield  # Windows has no list of a process's sockets
        return
    directory = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    before = len(os.listdir(directory))
    yield
    assert len(os.listdir(directory)) == before, "descriptors open before and after the test"


@pytest.fixture(params=LOOPS, ids=lambda loop_type: loop_type.__name__)
def loop_type(request: pytest.FixtureRequest) -> LoopType:
    """Every loop that runs here, the real epoll included."""
    found: LoopType = request.param
    return found


@pytest.fixture
def loop(loop_type: LoopType) -> Iterator[EpollLike]:
    """An open loop of each type."""
    with loop_type() as opened:
        yield opened


@pytest.fixture(params=USER_SPACE_LOOPS, ids=lambda loop_type: loop_type.__name__)
def user_space_loop(request: pytest.FixtureRequest) -> Iterator[EpollLike]:
    """An open loop of each type that is ours."""
    with request.param() as opened:
        yield opened


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is entered here is closed when the test is over."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def socket_pair(stack: ExitStack) -> Callable[[], SocketPair]:
    """Makes two connected sockets, of AF_UNIX where there is one."""

    def make() -> SocketPair:
        ours, theirs = socket.socketpair()
        return stack.enter_context(ours), stack.enter_context(theirs)

    return make


@pytest.fixture
def tcp_pair(stack: ExitStack) -> Callable[[], SocketPair]:
    """Makes two sockets that are connected by TCP over the loopback interface."""

    def make() -> SocketPair:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = stack.enter_context(socket.create_connection(listener.getsockname()))
            ours = stack.enter_context(listener.accept()[0])
        return ours, theirs

    return make


@pytest.fixture
def pipe_pair(stack: ExitStack) -> Callable[[], tuple[FileIO, FileIO]]:
    """Makes the reader and the writer of a pipe, as files that can be closed twice."""
    if sys.platform == "win32":
        pytest.skip("select on Windows takes sockets alone")

    def make() -> tuple[FileIO, FileIO]:
        reader, writer = os.pipe()
        return stack.enter_context(FileIO(reader, "r")), stack.enter_context(FileIO(writer, "w"))

    return make


@pytest.fixture
def until_readable() -> Callable[[HasFileno], None]:
    """Waits, without a loop of ours, for something sent to arrive."""

    def wait(receiver: HasFileno) -> None:
        assert select.select([receiver], [], [], DEADLINE)[0], "nothing arrived"

    return wait


@pytest.fixture
def never_earlier_than() -> Callable[[float], object]:
    """``with never_earlier_than(seconds)``: the block must take that long at least."""

    @contextmanager
    def measure(seconds: float) -> Iterator[None]:
        start = time.monotonic()
        yield
        assert time.monotonic() - start > seconds - 1e-6, "seconds (but for the rounding of floats)"

    return measure


@pytest.fixture
def room_for_descriptors() -> Iterator[Callable[[int], None]]:
    """Makes sure that the process may have so many descriptors open."""
    if sys.platform == "win32":
        pytest.skip("Windows numbers sockets without a limit of its own")
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def ensure(count: int) -> None:
        if hard != resource.RLIM_INFINITY and hard < count:
            pytest.skip(f"this process may have {hard} descriptors, and the test needs {count}")
        if soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

    yield ensure
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
