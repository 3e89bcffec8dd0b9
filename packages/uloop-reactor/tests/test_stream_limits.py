"""Backpressure and timeouts: a peer that does not read, or says nothing, costs no more than was allowed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.stream import FULL, State, Stream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]

MUCH = bytes(8 * 1024 * 1024)  # more than the kernel takes while nobody reads


class Recorder(Stream):
    """Notes what it is told."""

    def __init__(self, loop: Uloop, sock: socket.socket, **options: Any) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.reason: BaseException | None = None
        super().__init__(loop, sock, **options)

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_pause(self) -> None:
        self.calls.append("pause")
        super().on_pause()

    def on_drain(self) -> None:
        self.calls.append("drain")
        super().on_drain()

    def on_timeout(self, error: TimeoutError) -> None:
        self.calls.append("timeout")
        super().on_timeout(error)

    def on_close(self, reason: BaseException | None) -> None:
        self.calls.append("close")
        self.reason = reason


class Patient(Recorder):
    def on_timeout(self, error: TimeoutError) -> None:
        self.calls.append("timeout")


@pytest.fixture
def open_stream(loop: Uloop, make_pair: MakePair) -> Iterator[Callable[..., tuple[Recorder, socket.socket]]]:
    """Makes streams that are open, with the sockets of their peers."""
    made: list[Recorder] = []

    def make(kind: type[Recorder] = Recorder, **options: Any) -> tuple[Recorder, socket.socket]:
        sock, peer = make_pair()
        # On Windows a pair takes megabytes unless it is told not to.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        stream = kind(loop, sock, **options)
        made.append(stream)
        until(loop, lambda: stream.calls)
        return stream, peer

    yield make
    for stream in made:
        stream.abort()


OpenStream = Callable[..., tuple[Recorder, socket.socket]]


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


def receive(loop: Uloop, sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            received += sock.recv(size - len(received))
        except BlockingIOError:
            loop.run_once(0.01)
    return bytes(received)


def fill(stream: Recorder, waiting: int, chunk: int = 1000) -> int:
    """Write until more than so many bytes wait. Returns how many were written."""
    written = 0
    while stream.unsent <= waiting:
        stream.write(b"x" * chunk)
        written += chunk
    return written


# Backpressure


def test_pause_and_drain_take_turns(loop: Uloop, open_stream: OpenStream) -> None:
    stream, peer = open_stream(high_water=10_000, low_water=5_000)
    for _ in range(3):
        written = fill(stream, 9_000)
        assert stream.calls[-1] != "pause"
        written += fill(stream, 10_000)
        assert stream.calls[-1] == "pause"
        written += fill(stream, 20_000)
        at_drain: list[int] = []
        stream.on_drain = lambda at_drain=at_drain: at_drain.append(stream.unsent)  # type: ignore[method-assign, misc]
        receive(loop, peer, written)
        until(loop, lambda at_drain=at_drain: at_drain)  # type: ignore[misc]
        assert [waiting <= 5_000 for waiting in at_drain] == [True]
        del stream.on_drain
        stream.on_drain()
    assert stream.calls == ["connect", *["pause", "drain"] * 3]


def test_low_water_is_a_quarter_unless_said_otherwise(loop: Uloop, open_stream: OpenStream) -> None:
    assert open_stream(high_water=1000)[0]._limits.low_water == 250


def test_one_that_does_not_read_the_answers_is_not_read_from(loop: Uloop, open_stream: OpenStream) -> None:
    stream, peer = open_stream()
    stream.write(MUCH)
    peer.send(b"another question")
    for _ in range(10):
        loop.run_once(0.001)
    assert stream.data == b""
    stream.pause_reading()
    stream.resume_reading()  # by the program, for reasons of its own
    for _ in range(10):
        loop.run_once(0.001)
    assert stream.data == b""
    receive(loop, peer, len(MUCH))
    until(loop, lambda: stream.data == b"another question")


def test_the_end_of_the_pressure_is_not_the_end_of_the_programs_pause(
    loop: Uloop, open_stream: OpenStream
) -> None:
    stream, peer = open_stream()
    stream.pause_reading()
    stream.write(MUCH)
    peer.send(b"another question")
    receive(loop, peer, len(MUCH))
    until(loop, lambda: "drain" in stream.calls)
    for _ in range(10):
        loop.run_once(0.001)
    assert stream.data == b""
    stream.resume_reading()
    until(loop, lambda: stream.data == b"another question")


def test_a_peer_that_never_reads_is_given_up(loop: Uloop, open_stream: OpenStream) -> None:
    stream, _ = open_stream(high_water=10_000, write_limit=100_000)
    while stream.state is State.OPEN:
        stream.write(b"x" * 1000)
        assert stream.unsent <= 101_000
        loop.run_once(0)
    until(loop, lambda: "close" in stream.calls)
    first, *pauses, last = stream.calls
    assert (first, last) == ("connect", "close")
    # A kernel that makes its buffers larger takes more after a while.
    assert pauses == [("pause", "drain")[number % 2] for number in range(len(pauses))]
    assert pauses[-1] == "pause"
    assert isinstance(stream.reason, BufferError)
    assert re.fullmatch(r"10\d{4} bytes wait to be sent, more than write_limit=100000", str(stream.reason))


def test_one_big_write_is_always_fine(loop: Uloop, open_stream: OpenStream) -> None:
    stream, peer = open_stream(high_water=1000, write_limit=1000)
    stream.write(MUCH)
    assert stream.unsent > 1000
    assert receive(loop, peer, len(MUCH)) == MUCH
    stream.write(b"more")
    assert receive(loop, peer, 4) == b"more"


def test_a_program_that_writes_until_it_is_paused(loop: Uloop, open_stream: OpenStream) -> None:
    class Source(Recorder):
        left = 3_000_000

        def produce(self) -> None:
            while self.left and not self._flags & FULL:
                self.write(b"x" * 10_000)
                self.left -= 10_000
                assert self.unsent <= 64 * 1024 + 10_000

        def on_drain(self) -> None:
            self.produce()

    stream, peer = open_stream(Source)
    assert isinstance(stream, Source)
    stream.produce()
    assert receive(loop, peer, 3_000_000) == b"x" * 3_000_000


def test_pausing_stops_at_once_and_loses_nothing(loop: Uloop, open_stream: OpenStream) -> None:
    class Counting(Recorder):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            self.calls.append("data")
            self.pause_reading()

    stream, peer = open_stream(Counting)
    sent = b"".join(number.to_bytes(4, "big") for number in range(50_000))
    rest = memoryview(sent)
    while len(stream.data) < len(sent):
        try:
            rest = rest[peer.send(rest) :] if rest else rest
        except BlockingIOError:
            pass
        before = stream.calls.count("data")
        stream.resume_reading()
        loop.run_once(0.01)
        loop.run_once(0)
        assert stream.calls.count("data") <= before + 1
    assert stream.data == sent


@pytest.mark.parametrize("size", [70_000, len(MUCH)])
def test_nothing_is_told_before_on_connect(loop: Uloop, make_pair: MakePair, size: int) -> None:
    sock, peer = make_pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    stream = Recorder(loop, sock)
    stream.write(bytes(size))
    assert stream.calls == []
    until(loop, lambda: stream.calls)
    assert stream.calls == (["connect", "pause"] if stream.unsent > 64 * 1024 else ["connect"])
    if size == len(MUCH):
        assert stream.calls[-1] == "pause"
    receive(loop, peer, size)
    until(loop, lambda: stream.calls.count("pause") == stream.calls.count("drain"))
    stream.abort()


# Timeouts


def test_a_timeout_before_on_connect_is_not_told(loop: Uloop, make_pair: MakePair) -> None:
    class NeverConnected(Recorder):
        def _check_connected(self) -> None:
            """As for one whose packets are lost."""

    stream = NeverConnected(loop, make_pair()[0], idle_timeout=0.05)
    until(loop, lambda: stream.calls)
    assert stream.calls == ["close"]
    assert "idle_timeout" in str(stream.reason)


def test_silence_is_told(loop: Uloop, open_stream: OpenStream) -> None:
    began = loop.time()
    stream, _ = open_stream(idle_timeout=0.05)
    until(loop, lambda: "close" in stream.calls)
    assert loop.time() - began >= 0.05
    assert stream.calls == ["connect", "timeout", "close"]
    assert isinstance(stream.reason, TimeoutError)
    assert str(stream.reason) == "nothing was read or sent for 0.05 s (idle_timeout)"


@pytest.mark.parametrize("speaker", ["we", "they"])
def test_what_is_said_ends_the_silence(loop: Uloop, open_stream: OpenStream, speaker: str) -> None:
    stream, peer = open_stream(idle_timeout=0.2)
    last = [loop.time()]

    def speak() -> None:
        if stream.state is State.OPEN:
            stream.write(b"x") if speaker == "we" else peer.send(b"x")
            last.append(loop.time())

    timers = [loop.call_later(0.05 * number, speak) for number in range(1, 8)]
    until(loop, lambda: "close" in stream.calls)
    assert len(last) == 8  # 0.35 s of it
    assert loop.time() - last[-1] >= 0.2
    assert not any(timer.active for timer in timers)


def test_a_stream_that_is_not_read_from_is_not_idle(loop: Uloop, open_stream: OpenStream) -> None:
    stream, _peer = open_stream(idle_timeout=0.02)
    stream.pause_reading()
    other, _ = open_stream(idle_timeout=0.1)
    until(loop, lambda: "close" in other.calls)
    assert stream.state is State.OPEN
    resumed = loop.time()
    stream.resume_reading()
    until(loop, lambda: "close" in stream.calls)
    assert loop.time() - resumed >= 0.02
    assert stream.calls == ["connect", "timeout", "close"]


@pytest.mark.parametrize("closing", [False, True])
def test_a_peer_that_takes_nothing(loop: Uloop, open_stream: OpenStream, closing: bool) -> None:
    stream, _peer = open_stream(write_timeout=0.05)
    began = loop.time()
    stream.write(MUCH)
    if closing:
        stream.close()
    until(loop, lambda: "close" in stream.calls)
    assert loop.time() - began >= 0.05
    assert stream.calls == ["connect", "pause", "timeout", "close"]
    assert isinstance(stream.reason, TimeoutError)
    assert "the peer took nothing for 0.05 s (write_timeout)" in str(stream.reason)
    assert re.search(r"; \d{7} bytes wait", str(stream.reason))


def test_a_peer_that_speaks_and_takes_nothing_is_no_better(loop: Uloop, open_stream: OpenStream) -> None:
    class Talkative(Recorder):
        def on_pause(self) -> None:
            pass

    stream, peer = open_stream(Talkative, write_timeout=0.1, idle_timeout=10)
    stream.write(MUCH)
    while "close" not in stream.calls:
        if stream.state is State.OPEN:
            peer.send(b"x")
        loop.run_once(0.01)
    assert stream.data
    assert "write_timeout" in str(stream.reason)


def test_a_slow_peer_is_no_dead_one(loop: Uloop, open_stream: OpenStream) -> None:
    stream, peer = open_stream(write_timeout=0.3)
    began = loop.time()
    stream.write(MUCH)
    received = 0
    while received < len(MUCH):
        # In portions over twice the timeout and more, each well within it.
        portion = min(len(MUCH) // 8, len(MUCH) - received)
        received += len(receive(loop, peer, portion))
        pause = [loop.call_later(0.09, lambda: None)]
        until(loop, lambda pause=pause: not pause[0].active)  # type: ignore[misc]
    assert loop.time() - began > 0.6
    assert stream.state is State.OPEN


def test_a_stream_that_outlives_its_timeout_has_as_much_time_again(
    loop: Uloop, open_stream: OpenStream
) -> None:
    stream, _ = open_stream(Patient, idle_timeout=0.03)
    began = loop.time()
    until(loop, lambda: stream.calls.count("timeout") == 3)
    assert loop.time() - began >= 0.06
    stream.abort()
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["connect", "timeout", "timeout", "timeout", "close"]


def test_an_earlier_deadline_overtakes_a_later_one(loop: Uloop, open_stream: OpenStream) -> None:
    stream, _ = open_stream(idle_timeout=20, write_timeout=0.05)
    stream.write(MUCH)
    until(loop, lambda: "close" in stream.calls)
    assert "write_timeout" in str(stream.reason)


def test_no_timer_is_left_behind(loop: Uloop, open_stream: OpenStream) -> None:
    stream, _ = open_stream(idle_timeout=20)
    timer = stream._timer
    assert timer is not None
    for _ in range(100):
        stream.write(b"x")
    assert stream._timer is timer  # nor touched while things go well
    stream.abort()
    assert not timer.active
