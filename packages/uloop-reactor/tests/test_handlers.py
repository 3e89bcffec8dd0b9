"""add, modify and remove: what they take, what they refuse, what they pass over in silence."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from uloop_reactor import UEvent, Uloop

MakePair = Callable[[], tuple[socket.socket, socket.socket]]


@dataclass
class Recorder:
    events: list[tuple[int, UEvent]] = field(default_factory=list)

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.events.append((fileno, event))


@dataclass
class Named:
    """Not a socket, but it stands for one."""

    sock: socket.socket

    def fileno(self) -> int:
        return self.sock.fileno()


NAMES: list[Callable[[socket.socket], socket.socket | int | Named]] = [
    lambda sock: sock,
    lambda sock: sock.fileno(),
    Named,
]


@pytest.mark.parametrize("name", NAMES, ids=["socket", "number", "object"])
def test_a_descriptor_has_several_names(
    name: Callable[[socket.socket], socket.socket | int | Named], loop: Uloop, make_pair: MakePair
) -> None:
    ours, _ = make_pair()
    recorder = Recorder()
    loop.add(name(ours), UEvent.poll_none, recorder)
    loop.modify(name(ours), UEvent.poll_out)
    loop.run_once(30)
    assert recorder.events == [(ours.fileno(), UEvent.poll_out)]
    loop.remove(name(ours))
    loop.run_once(0)
    assert len(recorder.events) == 1


def test_a_mode_may_be_a_plain_number(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    recorder = Recorder()
    loop.add(make_readable(), 1, recorder)
    loop.run_once(30)
    (event,) = [event for _, event in recorder.events]
    assert type(event) is UEvent
    assert event == UEvent.poll_in


def test_one_event_tells_all_that_holds(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    recorder = Recorder()
    loop.add(make_readable(), UEvent.poll_in | UEvent.poll_out, recorder)
    loop.run_once(30)
    assert [event for _, event in recorder.events] == [UEvent.poll_in | UEvent.poll_out]


def test_events_are_levels(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sock, recorder = make_readable(), Recorder()
    loop.add(sock, UEvent.poll_in, recorder)
    for _ in range(3):
        loop.run_once(30)
    assert len(recorder.events) == 3
    sock.recv(100)
    loop.run_once(0)
    assert len(recorder.events) == 3


def test_one_handler_may_serve_many_descriptors(
    loop: Uloop, make_readable: Callable[[], socket.socket]
) -> None:
    sockets, recorder = [make_readable() for _ in range(5)], Recorder()
    for sock in sockets:
        loop.add(sock, UEvent.poll_in, recorder)
    loop.run_once(30)
    assert sorted(number for number, _ in recorder.events) == sorted(sock.fileno() for sock in sockets)


def test_what_is_not_known_is_passed_over(loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    loop.modify(ours, UEvent.poll_in)
    loop.modify(ours.fileno(), UEvent.poll_in)
    loop.remove(ours)
    loop.remove(ours.fileno())
    loop.remove(12345)
    loop.modify(12345, UEvent.poll_in)


def test_removing_twice_is_no_error(loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    loop.add(ours, UEvent.poll_in, Recorder())
    loop.remove(ours)
    loop.remove(ours)


def test_a_closed_socket_can_be_removed(loop: Uloop, make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    loop.add(ours, UEvent.poll_in, Recorder())
    loop.add(theirs, UEvent.poll_in, Recorder())
    number = theirs.fileno()
    ours.close()
    theirs.close()
    loop.remove(ours)  # it does not know its number any more
    loop.modify(ours, UEvent.poll_out)
    loop.remove(number)
    loop.run_once(0)


def is_bad_descriptor(error: OSError) -> bool:
    return error.errno == errno.EBADF


def test_modifying_a_closed_descriptor_is_an_error(loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    number = ours.fileno()
    loop.add(ours, UEvent.poll_in, Recorder())
    ours.close()
    with pytest.raises(OSError, check=is_bad_descriptor):
        loop.modify(number, UEvent.poll_out)


def test_a_descriptor_has_one_handler(loop: Uloop, make_readable: Callable[[], socket.socket]) -> None:
    sock, first, second = make_readable(), Recorder(), Recorder()
    loop.add(sock, UEvent.poll_in, first)
    with pytest.raises(FileExistsError):
        loop.add(sock, UEvent.poll_out, second)
    loop.run_once(30)
    assert [event for _, event in first.events] == [UEvent.poll_in]
    assert second.events == []


class WithoutProcessEvent:
    def fileno(self) -> int:
        return 0


class ProcessEventIsNoMethod:
    process_event = 5


@pytest.mark.parametrize(
    "handler", [None, lambda fileno, event: None, WithoutProcessEvent(), ProcessEventIsNoMethod()]
)
def test_a_handler_that_cannot_be_called_is_refused(
    handler: object, loop: Uloop, make_pair: MakePair
) -> None:
    ours, _ = make_pair()
    with pytest.raises(TypeError, match="process_event"):
        loop.add(ours, UEvent.poll_in, handler)  # type: ignore[arg-type]
    loop.add(ours, UEvent.poll_in, Recorder())  # nothing was left behind


@pytest.mark.parametrize("what", ["5", None, 5.0, object()])
def test_what_is_no_descriptor_is_refused(what: object, loop: Uloop) -> None:
    with pytest.raises(TypeError):
        loop.add(what, UEvent.poll_in, Recorder())  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["r", None, 1.0])
def test_a_mode_that_is_no_integer_is_refused(mode: object, loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    with pytest.raises(TypeError):
        loop.add(ours, mode, Recorder())  # type: ignore[arg-type]
    loop.add(ours, UEvent.poll_in, Recorder())
    with pytest.raises(TypeError):
        loop.modify(ours, mode)  # type: ignore[arg-type]


def test_what_is_not_open_is_refused(loop: Uloop, make_pair: MakePair) -> None:
    ours, _ = make_pair()
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError, check=is_bad_descriptor):
        loop.add(number, UEvent.poll_in, Recorder())
    with pytest.raises(ValueError, match="negative"):
        loop.add(ours, UEvent.poll_in, Recorder())


def test_a_file_is_refused(loop: Uloop, tmp_path: Path) -> None:
    # To Windows' select a file is no socket, and that is all it says.
    refusal = OSError if sys.platform == "win32" else PermissionError
    with (tmp_path / "file").open("wb") as file, pytest.raises(refusal):
        loop.add(file, UEvent.poll_in, Recorder())


@pytest.mark.parametrize("mode", [UEvent.poll_et, UEvent.poll_exclusive])
def test_a_mode_that_the_backend_lacks_is_refused(
    mode: UEvent, loop: Uloop, make_readable: Callable[[], socket.socket]
) -> None:
    if loop.backend == "epoll":
        pytest.skip("epoll has every mode")
    sock, recorder = make_readable(), Recorder()
    with pytest.raises(ValueError, match="epoll alone has it"):
        loop.add(sock, UEvent.poll_in | mode, recorder)
    loop.add(sock, UEvent.poll_in, recorder)  # nothing was left behind
    with pytest.raises(ValueError, match="epoll alone has it"):
        loop.modify(sock, UEvent.poll_out | mode)
    loop.run_once(30)
    assert [event for _, event in recorder.events] == [UEvent.poll_in]  # as it was before


@pytest.mark.parametrize("mode", [UEvent.poll_none, UEvent.poll_exclusive])
def test_a_mode_that_epoll_refuses_changes_nothing(
    mode: UEvent, loop: Uloop, make_readable: Callable[[], socket.socket]
) -> None:
    if loop.backend != "epoll":
        pytest.skip(f"{loop.backend} has no poll_exclusive: epoll alone has it")
    sock, recorder = make_readable(), Recorder()
    impossible = UEvent.poll_in | UEvent.poll_exclusive | UEvent.poll_oneshot
    with pytest.raises(OSError, match="Invalid argument"):
        loop.add(sock, impossible, recorder)
    loop.add(sock, UEvent.poll_in | mode, recorder)
    with pytest.raises(OSError, match="Invalid argument"):
        loop.modify(sock, impossible)
    loop.run_once(30)
    assert [event for _, event in recorder.events] == [UEvent.poll_in]
