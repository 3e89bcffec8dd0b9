"""LoopSelector on every loop: what CPython's own tests of selectors do not look at."""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from io import FileIO, UnsupportedOperation
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import pytest
import uloop_events.selector
from uloop_events import Descriptor, EpollLike, HasFileno, SelectLoop
from uloop_events.selector import LoopSelector

SocketPair = tuple[socket.socket, socket.socket]
LoopType = Callable[..., EpollLike]

DEADLINE = 10.0  # seconds that the system has for what takes it far less
BOTH = EVENT_READ | EVENT_WRITE
CLIENTS = 50
BLOCK = b"x" * 100_000  # more than fits into a socket at once


@pytest.fixture
def selector(loop: EpollLike) -> Iterator[LoopSelector]:
    with LoopSelector(loop) as opened:
        yield opened


@pytest.fixture
def runner(loop: EpollLike) -> Iterator[asyncio.Runner]:
    """Runs coroutines by asyncio on a loop of each type."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(LoopSelector(loop))) as opened:
        yield opened


# Errors

BAD_CALLS: dict[str, Callable[[selectors.BaseSelector, Any, Any, Any], object]] = {
    "register no events": lambda each, known, other, closed: each.register(other, 0),
    "register too many events": lambda each, known, other, closed: each.register(other, 4),
    "register negative events": lambda each, known, other, closed: each.register(other, -1),
    "register twice": lambda each, known, other, closed: each.register(known, EVENT_READ),
    "register a known number": lambda each, known, other, closed: each.register(known.fileno(), EVENT_READ),
    "register no file": lambda each, known, other, closed: each.register("text", EVENT_READ),  # type: ignore[arg-type]
    "register a negative number": lambda each, known, other, closed: each.register(-1, EVENT_READ),
    "register a closed object": lambda each, known, other, closed: each.register(closed, EVENT_READ),
    "unregister a stranger": lambda each, known, other, closed: each.unregister(other),
    "unregister no file": lambda each, known, other, closed: each.unregister(None),  # type: ignore[arg-type]
    "unregister a closed stranger": lambda each, known, other, closed: each.unregister(closed),
    "modify a stranger": lambda each, known, other, closed: each.modify(other, EVENT_READ),
    "modify a closed stranger": lambda each, known, other, closed: each.modify(closed, EVENT_READ),
    "get a stranger's key": lambda each, known, other, closed: each.get_key(other),
    "get a closed stranger's key": lambda each, known, other, closed: each.get_key(closed),
    "look up a stranger": lambda each, known, other, closed: each.get_map()[other],
    "look up a closed stranger": lambda each, known, other, closed: each.get_map()[closed],
    "look for a closed stranger": lambda each, known, other, closed: closed in each.get_map(),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_bad_call_is_the_error_that_it_is_with_the_standard_library(
    selector: LoopSelector,
    socket_pair: Callable[[], SocketPair],
    call: Callable[[selectors.BaseSelector, Any, Any, Any], object],
) -> None:
    known, other = socket_pair()
    closed, _ = socket_pair()
    closed.close()
    errors = []
    with selectors.DefaultSelector() as theirs:
        for each in (theirs, selector):
            each.register(known, EVENT_READ)
            with pytest.raises((ValueError, KeyError)) as caught:
                call(each, known, other, closed)
            errors.append((caught.type, str(caught.value)))
            assert list(each.get_map().values()) == [each.get_key(known)]
    assert errors[1] == errors[0]


def test_modify_refuses_bad_events_and_changes_nothing(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    key = selector.register(ours, EVENT_WRITE)
    for events in (0, 4, -1):
        with pytest.raises(ValueError, match=f"Invalid events: {events}"):
            selector.modify(ours, events, "new")
    assert selector.get_key(ours) is key
    assert selector.select(0) == [(key, EVENT_WRITE)]


def test_what_the_loop_refuses_to_register_has_no_key(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError, match=r".") as caught:
        selector.register(number, EVENT_READ)
    assert caught.value.errno == errno.EBADF
    assert number not in selector.get_map()


def test_what_was_closed_cannot_be_modified_and_is_forgotten(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    selector.register(ours, EVENT_READ)
    ours.close()
    with pytest.raises(OSError, match=r".") as caught:
        selector.modify(ours, EVENT_WRITE)
    assert caught.value.errno == errno.EBADF
    assert len(selector.get_map()) == 0


def test_what_cannot_be_modified_leaves_the_loop_as_well(socket_pair: Callable[[], SocketPair]) -> None:
    class Unmodifiable(SelectLoop):
        def modify(self, fd: Descriptor, eventmask: int) -> None:
            raise ZeroDivisionError

    ours, _ = socket_pair()
    with LoopSelector(Unmodifiable()) as selector:
        selector.register(ours, EVENT_READ)
        with pytest.raises(ZeroDivisionError):
            selector.modify(ours, EVENT_WRITE)
        assert len(selector.get_map()) == 0
        key = selector.register(ours, EVENT_WRITE)
        assert selector.select(0) == [(key, EVENT_WRITE)]


# Keys


def test_modify_exchanges_the_data_and_keeps_the_file_object(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    selector.register(ours, EVENT_WRITE, "old")
    key = selector.modify(ours.fileno(), EVENT_WRITE, "new")
    assert key.fileobj is ours
    assert key[1:] == (ours.fileno(), EVENT_WRITE, "new")
    assert selector.select(0) == [(key, EVENT_WRITE)]


def test_the_map_is_a_live_view(selector: LoopSelector, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    view = selector.get_map()
    key = selector.register(ours, EVENT_READ)
    assert dict(view) == {ours.fileno(): key}
    assert view.get(ours) is key
    assert view.get(theirs) is None
    assert ours in view
    assert theirs not in view
    selector.unregister(ours)
    assert dict(view) == {}


# Closing


def test_close_closes_the_loop_and_a_second_time_nothing(
    loop: EpollLike, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, _ = socket_pair()
    selector = LoopSelector(loop)
    selector.register(ours, EVENT_WRITE)
    view = selector.get_map()
    selector.close()
    selector.close()
    assert loop.closed
    assert selector.get_map() is None
    assert len(view) == 0


def test_with_closes_the_loop(loop: EpollLike) -> None:
    selector = LoopSelector(loop)
    with selector as entered:
        assert entered is selector
        assert not loop.closed
    assert loop.closed


CALLS_WHEN_CLOSED: list[tuple[Callable[[LoopSelector, socket.socket], object], type[Exception], str]] = [
    (lambda selector, sock: selector.register(sock, EVENT_READ), ValueError, "closed"),
    (lambda selector, sock: selector.select(0), ValueError, "closed"),
    (lambda selector, sock: selector.unregister(sock), KeyError, "is not registered"),
    (lambda selector, sock: selector.modify(sock, EVENT_READ), KeyError, "is not registered"),
    (lambda selector, sock: selector.get_key(sock), RuntimeError, "^Selector is closed$"),
]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    CALLS_WHEN_CLOSED,
    ids=["register", "select", "unregister", "modify", "get_key"],
)
def test_a_closed_selector_says_so(
    selector: LoopSelector,
    socket_pair: Callable[[], SocketPair],
    call: Callable[[LoopSelector, socket.socket], object],
    error: type[Exception],
    text: str,
) -> None:
    ours, _ = socket_pair()
    selector.register(ours, EVENT_WRITE)
    selector.close()
    with pytest.raises(error, match=text):
        call(selector, ours)


def test_closing_leaves_the_file_objects_open(loop: EpollLike, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    selector = LoopSelector(loop)
    selector.register(ours, EVENT_READ)
    selector.close()
    theirs.send(b"x")
    assert ours.recv(1) == b"x"


def test_without_a_loop_it_makes_and_closes_one(socket_pair: Callable[[], SocketPair]) -> None:
    ours, _ = socket_pair()
    with LoopSelector() as selector:
        key = selector.register(ours, EVENT_WRITE)
        assert selector.select(0) == [(key, EVENT_WRITE)]


def test_it_has_a_number_if_the_loop_has(loop: Any) -> None:
    try:
        number = loop.fileno()
    except (AttributeError, UnsupportedOperation):
        number = None
    with LoopSelector(loop) as selector:
        assert hasattr(selector, "fileno") == (number is not None)
        if number is not None:
            assert selector.fileno() == number


@pytest.mark.skipif(sys.platform != "linux", reason="no loop has a number here")
def test_by_its_number_another_loop_watches_it(socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    with LoopSelector() as inner, LoopSelector() as outer:
        inner.register(ours, EVENT_READ)
        key = outer.register(inner, EVENT_READ)
        assert outer.select(0) == []
        theirs.send(b"x")
        assert outer.select(DEADLINE) == [(key, EVENT_READ)]


# Events


@pytest.mark.parametrize("events", [EVENT_READ, EVENT_WRITE, BOTH])
def test_what_was_not_asked_for_is_not_reported(
    selector: LoopSelector,
    socket_pair: Callable[[], SocketPair],
    until_readable: Callable[[HasFileno], None],
    events: int,
) -> None:
    ours, theirs = socket_pair()
    theirs.send(b"x")
    until_readable(ours)
    key = selector.register(ours, events)
    assert selector.select(DEADLINE) == [(key, events)]


@pytest.mark.parametrize("events", [EVENT_READ, EVENT_WRITE, BOTH])
def test_a_hang_up_is_whatever_was_asked_for(
    selector: LoopSelector,
    socket_pair: Callable[[], SocketPair],
    until_readable: Callable[[HasFileno], None],
    events: int,
) -> None:
    ours, theirs = socket_pair()
    theirs.close()
    until_readable(ours)
    key = selector.register(ours, events)
    assert selector.select(DEADLINE) == [(key, events)]


@pytest.mark.parametrize("events", [EVENT_READ, EVENT_WRITE, BOTH])
def test_a_failed_connect_is_whatever_was_asked_for(
    selector: LoopSelector, stack: ExitStack, events: int
) -> None:
    nobody = stack.enter_context(socket.socket())
    nobody.bind(("127.0.0.1", 0))  # and does not listen
    ours = stack.enter_context(socket.socket())
    ours.setblocking(False)
    ours.connect_ex(nobody.getsockname())
    key = selector.register(ours, events)
    assert selector.select(DEADLINE) == [(key, events)]
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_the_end_of_a_pipe_wakes_its_reader(
    selector: LoopSelector, pipe_pair: Callable[[], tuple[FileIO, FileIO]]
) -> None:
    reader, writer = pipe_pair()
    key = selector.register(reader, EVENT_READ)
    assert selector.select(0) == []
    writer.close()
    assert selector.select(DEADLINE) == [(key, EVENT_READ)]


def test_a_pipe_without_a_reader_wakes_its_writer(
    selector: LoopSelector, pipe_pair: Callable[[], tuple[FileIO, FileIO]]
) -> None:
    reader, writer = pipe_pair()
    key = selector.register(writer, EVENT_WRITE)
    reader.close()
    assert selector.select(DEADLINE) == [(key, EVENT_WRITE)]


# Waiting


@pytest.mark.parametrize("timeout", [0, -0.0, -1e-9, -1, -1e300])
def test_no_time_does_not_block(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair], timeout: float
) -> None:
    assert selector.select(timeout) == []
    selector.register(socket_pair()[0], EVENT_READ)
    assert selector.select(timeout) == []


@pytest.mark.parametrize("timeout", [1e-9, 0.0101, 0.05])
def test_the_time_is_rounded_up(
    selector: LoopSelector,
    socket_pair: Callable[[], SocketPair],
    never_earlier_than: Callable[[float], AbstractContextManager[None]],
    timeout: float,
) -> None:
    selector.register(socket_pair()[0], EVENT_READ)
    with never_earlier_than(timeout):
        assert selector.select(timeout) == []


def test_without_a_timeout_it_waits(selector: LoopSelector, socket_pair: Callable[[], SocketPair]) -> None:
    ours, theirs = socket_pair()
    key = selector.register(ours, EVENT_READ)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(selector.select)
        theirs.send(b"x")
        assert waiting.result(DEADLINE) == [(key, EVENT_READ)]


# Closed while registered


def test_a_closed_descriptor_is_not_reported(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    closed, other = socket_pair()[0], socket_pair()[0]
    selector.register(closed, EVENT_WRITE)
    key = selector.register(other, EVENT_WRITE)
    closed.close()
    assert selector.select(DEADLINE) == [(key, EVENT_WRITE)]


def test_a_closed_object_keeps_its_key_until_it_is_unregistered(
    selector: LoopSelector, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    selector.register(theirs, EVENT_READ)
    number = ours.fileno()
    key = selector.register(ours, EVENT_READ, "old")
    ours.close()
    assert selector.get_key(ours) == key
    assert selector.get_map()[ours] == key
    key = selector.modify(ours, EVENT_READ, "new")
    assert key == (ours, number, EVENT_READ, "new")
    assert selector.unregister(ours) == key
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        selector.get_key(ours)
    with pytest.raises(KeyError, match="is not registered"):
        selector.unregister(number)


@pytest.mark.parametrize("unregister_first", [True, False])
def test_the_next_one_with_its_number_is_watched_as_any_other(
    selector: LoopSelector, unregister_first: bool
) -> None:
    numbers = set()
    for _ in range(20):  # on some systems a number does not return at once
        closed = socket.socket(type=socket.SOCK_DGRAM)
        numbers.add(closed.fileno())
        selector.register(closed, EVENT_WRITE)
        closed.close()
        if unregister_first:
            selector.unregister(closed)
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            if not unregister_first:
                selector.unregister(closed)
            key = selector.register(other, EVENT_WRITE)
            assert selector.select(DEADLINE) == [(key, EVENT_WRITE)]
            selector.unregister(other)
    assert len(numbers) < 20


# asyncio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask_for_echo(address: tuple[str, int], sent: bytes) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == sent
    writer.close()
    await writer.wait_closed()


def test_asyncio_serves_tcp(runner: asyncio.Runner) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            await asyncio.gather(*(ask_for_echo(address, BLOCK + bytes([each])) for each in range(CLIENTS)))

    runner.run(asyncio.wait_for(main(), DEADLINE))


def test_asyncio_notices_a_refused_connection(runner: asyncio.Runner, stack: ExitStack) -> None:
    nobody = stack.enter_context(socket.socket())
    nobody.bind(("127.0.0.1", 0))

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*nobody.getsockname())

    runner.run(asyncio.wait_for(main(), DEADLINE))


def test_asyncio_is_woken_by_another_thread(runner: asyncio.Runner) -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: "done")

    assert runner.run(asyncio.wait_for(main(), DEADLINE)) == "done"


def test_add_reader_and_add_writer_call_back(
    runner: asyncio.Runner, socket_pair: Callable[[], SocketPair]
) -> None:
    ours, theirs = socket_pair()
    happened: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        readable, writable = asyncio.Event(), asyncio.Event()

        def read() -> None:
            happened.append("read " + ours.recv(10).decode())
            readable.set()

        def write() -> None:
            happened.append("write")
            assert loop.remove_writer(ours)
            writable.set()

        loop.add_reader(ours, read)
        loop.add_writer(ours, write)
        await writable.wait()
        theirs.send(b"x")
        await readable.wait()
        readable.clear()
        theirs.send(b"y")
        await readable.wait()
        assert loop.remove_reader(ours)
        assert not loop.remove_reader(ours)
        assert not loop.remove_writer(ours)

    runner.run(asyncio.wait_for(main(), DEADLINE))
    assert happened == ["write", "read x", "read y"]


def test_asyncio_closes_the_loop(loop: EpollLike) -> None:
    asyncio.SelectorEventLoop(LoopSelector(loop)).close()
    assert loop.closed


def test_the_example_of_the_docstring_runs() -> None:
    documentation = uloop_events.selector.__doc__ or ""
    _, _, after = documentation.partition("::\n\n")
    example = textwrap.dedent("".join(line for line in after.splitlines(True) if line[:4].isspace()))
    result = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("Hello, world\n", "")
