"""The life of a stream is the table in stream.py: every transition of it happens, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import uloop_reactor.stream
from uloop_reactor import Uloop
from uloop_reactor.stream import TABLE, Event, State, Stream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]

TRANSITIONS = [(state, event) for state, row in TABLE.items() for event in row]
MUCH = bytes(8 * 1024 * 1024)  # more than the kernel takes while nobody reads


class Traveller(Stream):
    """Notes what happens to it, and leaves the ends to the test."""

    def __init__(self, loop: Uloop, sock: socket.socket) -> None:
        self.path: list[tuple[State, Event]] = []
        self.closed: list[BaseException | None] = []
        self.failure: OSError | None = None
        super().__init__(loop, sock, write_limit=2 * len(MUCH))

    def _go(self, event: Event, reason: BaseException | None = None) -> None:
        self.path.append((self.state, event))
        super()._go(event, reason)

    def on_eof(self) -> None:
        pass

    def on_pause(self) -> None:
        pass

    def _send_failed(self, error: OSError) -> None:
        self.failure = error
        super()._send_failed(error)

    def on_close(self, reason: BaseException | None) -> None:
        self.closed.append(reason)


class Journey:
    """A stream, its peer, and the ways to lead it somewhere."""

    def __init__(self, loop: Uloop, make_pair: MakePair) -> None:
        self.loop = loop
        sock, self.peer = make_pair()
        self.stream = Traveller(loop, sock)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.loop.run_once(0.01)

    def until_left(self, state: State) -> None:
        self.until(lambda: self.stream.state is not state)

    def peer_reads_all(self) -> None:
        while True:
            try:
                if not self.peer.recv(1 << 20):
                    return
            except BlockingIOError:
                self.loop.run_once(0.01)
                if self.stream.state in (State.LINGERING, State.BROKEN, State.CLOSED):
                    return

    def to(self, state: State, event: Event | None = None) -> None:
        """Into a state in which that event can happen."""
        stream = self.stream
        if state is State.CONNECTING:
            return
        if event is Event.CONNECTED:
            if state is State.WE_ENDED:
                stream.write_eof()
            else:
                stream.write(b"x")
                stream.close()
            return
        self.until_left(State.CONNECTING)
        if state is State.WE_ENDED:
            if event in (Event.FLUSHED, Event.BROKEN):
                stream.write(MUCH)
            stream.write_eof()
        elif state is State.THEY_ENDED:
            self.peer.shutdown(socket.SHUT_WR)
            self.until_left(State.OPEN)
        elif state is State.BROKEN:
            self.break_sending()
        elif state is State.CLOSING:
            stream.write(MUCH)
            stream.close()
        elif state is State.FINISHING:
            stream.write(MUCH)
            self.peer.shutdown(socket.SHUT_WR)
            self.until_left(State.OPEN)
            stream.close()
        elif state is State.LINGERING:
            stream.close()
        elif state is State.CLOSED:
            stream.abort()

    def break_sending(self) -> None:
        """As a reset does, but the peer stays to do what the test wants of it."""
        self.stream._sock.shutdown(socket.SHUT_WR)
        if self.stream.state is State.OPEN:
            self.stream.write(b"x")
        else:
            self.peer_reads_all()

    def happens(self, event: Event) -> None:
        stream, before = self.stream, len(self.stream.path)
        if event is Event.PEER_EOF:
            self.peer.shutdown(socket.SHUT_WR)
        elif event is Event.WRITE_EOF:
            stream.write_eof()
        elif event is Event.CLOSE:
            if stream.state is State.CONNECTING:
                stream.write(b"x")  # with nothing to send it would be given up
            stream.close()
        elif event is Event.BROKEN:
            self.break_sending()
        elif event is Event.LOST:
            stream.abort()
        elif event is Event.FLUSHED:
            self.peer_reads_all()
        self.until(lambda: len(stream.path) > before)


@pytest.mark.parametrize(
    ("state", "event"), TRANSITIONS, ids=[f"{state.name}-{event.name}" for state, event in TRANSITIONS]
)
def test_every_transition_happens(loop: Uloop, make_pair: MakePair, state: State, event: Event) -> None:
    journey = Journey(loop, make_pair)
    journey.to(state, event)
    assert journey.stream.state is state
    before = len(journey.stream.path)
    journey.happens(event)
    assert journey.stream.path[before] == (state, event)
    # What follows from it at once may have led it on: from CLOSING, say, when nothing waits.
    arrived = [*(left for left, _ in journey.stream.path[before + 1 :]), journey.stream.state][0]
    assert arrived is TABLE[state][event]
    journey.stream.abort()
    journey.until(lambda: bool(journey.stream.closed))
    assert journey.stream.closed == [journey.stream.failure]
    assert (journey.stream.failure is not None) is (State.BROKEN in (state, TABLE[state][event]))


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_what_a_state_has_no_use_for_changes_nothing(loop: Uloop, make_pair: MakePair, state: State) -> None:
    journey = Journey(loop, make_pair)
    journey.to(state)
    stream = journey.stream
    assert stream.state is state
    before = len(stream.path)
    if Event.WRITE_EOF not in TABLE[state]:
        stream.write_eof()
    if Event.CLOSE not in TABLE[state]:
        stream.close()
    if Event.LOST not in TABLE[state]:
        stream.abort(ValueError("too late"))
    assert (stream.state, stream.path[before:]) == (state, [])
    stream.abort()
    journey.until(lambda: bool(stream.closed))
    assert stream.closed == [stream.failure]


def test_every_state_leads_to_the_last_one() -> None:
    assert all(row.get(Event.LOST) is State.CLOSED for state, row in TABLE.items() if row)
    assert [state for state, row in TABLE.items() if not row] == [State.CLOSED]
    assert set(TABLE) == set(State)


def test_the_documentation_shows_the_table() -> None:
    head, *rows = [line.split() for line in documented_table()]
    assert head == ["state", *(event.value for event in Event)]
    shown = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    assert shown == {
        state.name: {event.value: row[event].name if event in row else "-" for event in Event}
        for state, row in TABLE.items()
    }


def documented_table() -> list[str]:
    lines = (uloop_reactor.stream.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["state"])
    return lines[start : start + 1 + len(State)]
