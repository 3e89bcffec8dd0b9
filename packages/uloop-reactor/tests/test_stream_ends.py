"""How streams end: half by half, in order, by a reset at every stage, and from within every callback."""

from __future__ import annotations

import gc
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uloop_reactor import UEvent, Uloop
from uloop_reactor.stream import HELD, State, Stream

MakePair = Callable[[], tuple[socket.socket, socket.socket]]
Run = Callable[["Recorder"], object]

MUCH = bytes(8 * 1024 * 1024)  # more than the kernel takes while nobody reads


class Recorder(Stream):
    """Notes what it is told, and does in each callback what the test wants done there."""

    def __init__(self, loop: Uloop, sock: socket.socket, **options: Any) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.reason: BaseException | None = None
        self.do: dict[str, Run] = {}
        super().__init__(loop, sock, **options)

    def _told(self, what: str) -> None:
        self.calls.append(what)
        if what in self.do:
            self.do.pop(what)(self)

    def on_connect(self) -> None:
        self._told("connect")

    def on_data(self, data: bytes) -> None:
        self.data += data
        self._told("data")

    def on_eof(self) -> None:
        self._told("eof")
        super().on_eof()

    def on_pause(self) -> None:
        self._told("pause")

    def on_drain(self) -> None:
        self._told("drain")

    def on_timeout(self, error: TimeoutError) -> None:
        self._told("timeout")
        super().on_timeout(error)

    def on_close(self, reason: BaseException | None) -> None:
        self.reason = reason
        self._told("close")


class HalfOpen(Recorder):
    """Has more to say when the peer has ended."""

    def on_eof(self) -> None:
        self._told("eof")


@pytest.fixture
def make_tcp_pair() -> Iterator[MakePair]:
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            made.append(socket.create_connection(listener.getsockname()))
            made.append(listener.accept()[0])
        for sock in made[-2:]:
            sock.setblocking(False)
        return made[-2], made[-1]

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def open_stream(
    loop: Uloop, make_tcp_pair: MakePair
) -> Iterator[Callable[..., tuple[Recorder, socket.socket]]]:
    """Makes streams that are open, with the sockets of their peers."""
    made: list[Recorder] = []

    def make(kind: type[Recorder] = Recorder, **options: Any) -> tuple[Recorder, socket.socket]:
        sock, peer = make_tcp_pair()
        stream = kind(loop, sock, **options)
        made.append(stream)
        until(loop, lambda: stream.calls)
        return stream, peer

    yield make
    for stream in made:
        stream.abort()


def until(loop: Uloop, condition: Callable[[], object]) -> None:
    while not condition():
        loop.run_once(0.01)


def read_to_the_end(loop: Uloop, sock: socket.socket) -> bytes:
    received = bytearray()
    while True:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            loop.run_once(0.01)
            continue
        if not data:
            return bytes(received)
        received += data


def reset(sock: socket.socket) -> None:
    sock.setsockopt(
        socket.SOL_SOCKET,
        socket.SO_LINGER,
        struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0),
    )
    sock.close()


def turns(loop: Uloop, number: int = 5) -> None:
    for _ in range(number):
        loop.run_once(0)


# Half close


def test_the_peer_ends_and_we_go_on(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(HalfOpen)
    peer.send(b"question")
    peer.shutdown(socket.SHUT_WR)
    until(loop, lambda: "eof" in stream.calls)
    assert stream.state is State.THEY_ENDED
    stream.write(b"ans")
    turns(loop)
    stream.write(b"wer")
    stream.write_eof()
    assert read_to_the_end(loop, peer) == b"answer"
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["connect", "data", "eof", "close"]
    assert (stream.data, stream.reason) == (b"question", None)


def test_we_end_and_the_peer_goes_on(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(HalfOpen)
    stream.write(MUCH)
    stream.write_eof()
    assert stream.unsent
    assert read_to_the_end(loop, peer) == MUCH
    assert stream.state is State.WE_ENDED
    peer.send(b"answer")
    until(loop, lambda: stream.data == b"answer")
    peer.close()
    until(loop, lambda: "close" in stream.calls)
    assert [call for call in stream.calls if call not in ("pause", "drain")] == [
        "connect",
        "data",
        "eof",
        "close",
    ]
    assert stream.reason is None


def test_a_half_that_has_ended_does_not_spin(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(HalfOpen)
    events = count_events(stream)
    peer.shutdown(socket.SHUT_WR)
    until(loop, lambda: "eof" in stream.calls)
    peer.close()  # and all of it is over, which a backend tells unasked
    before = len(events)
    for _ in range(20):
        loop.run_once(0.005)
    assert len(events) == before
    assert stream.state is State.THEY_ENDED


def count_events(stream: Recorder) -> list[object]:
    events: list[object] = []

    def process_event(*event: object) -> None:
        events.append(event)
        type(stream).process_event(stream, *event)  # type: ignore[arg-type]

    stream.process_event = process_event  # type: ignore[method-assign]
    return events


# In order


def test_close_sends_everything_first(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream()
    stream.write(MUCH)
    stream.close()
    stream.close()
    assert stream.state is State.CLOSING
    assert read_to_the_end(loop, peer) == MUCH
    peer.close()
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["connect", "pause", "close"]
    assert stream.reason is None


def test_what_the_peer_says_meanwhile_does_not_destroy_what_we_sent(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream()
    stream.write(b"x" * 100_000)
    peer.send(b"never read by the program")
    stream.close()
    turns(loop)
    peer.send(b"nor this")
    turns(loop)
    assert stream.state is State.LINGERING
    assert read_to_the_end(loop, peer) == b"x" * 100_000  # where a reset would have been
    peer.send(b"still open")
    peer.close()
    until(loop, lambda: "close" in stream.calls)
    assert (stream.calls[-1], stream.reason, stream.data) == ("close", None, b"")


def test_a_paused_stream_closes(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream()
    stream.pause_reading()
    peer.send(b"never read by the program")
    stream.write(b"bye")
    stream.close()
    assert read_to_the_end(loop, peer) == b"bye"
    peer.close()
    until(loop, lambda: "close" in stream.calls)
    assert stream.reason is None


def test_a_peer_that_does_not_end_has_a_few_seconds(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(linger_timeout=0.05)
    stream.write(b"bye")
    closed = loop.time()
    stream.close()
    until(loop, lambda: "close" in stream.calls)
    assert loop.time() - closed >= 0.05
    assert stream.reason is None
    assert read_to_the_end(loop, peer) == b"bye"


def test_abort_is_a_reset(loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]) -> None:
    stream, peer = open_stream()
    stream.write(b"lost")
    reason = ValueError("enough")
    stream.abort(reason)
    assert stream.fileno() == -1
    stream.abort(KeyError("too late"))
    assert select.select([peer], [], [], 30)[0]
    if sys.platform != "win32":  # wine forgets the reset; Windows has it, but may give what came before it
        with pytest.raises(ConnectionResetError):
            peer.recv(100), peer.recv(100)
    until(loop, lambda: "close" in stream.calls)
    turns(loop)
    assert stream.calls == ["connect", "close"]
    assert stream.reason is reason


# Resets


def failed_by_reset(stream: Recorder) -> bool:
    # Which of the two depends on whether we read or wrote first.
    return isinstance(stream.reason, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError))


no_resets = pytest.mark.skipif(
    sys.platform == "win32", reason="wine turns a reset into an end, Windows itself does not"
)


@no_resets
def test_a_reset_before_on_connect(loop: Uloop, make_tcp_pair: MakePair) -> None:
    sock, peer = make_tcp_pair()
    stream = Recorder(loop, sock)
    reset(peer)
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["close"]
    assert failed_by_reset(stream)


@no_resets
def test_a_reset_before_the_stream_was_made(loop: Uloop, make_tcp_pair: MakePair) -> None:
    sock, peer = make_tcp_pair()
    reset(peer)
    stream = Recorder(loop, sock)
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["close"]
    assert failed_by_reset(stream)


@no_resets
@pytest.mark.parametrize("stage", ["idle", "flushing", "closing", "lingering", "we ended"])
def test_a_reset_is_the_reason(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]], stage: str
) -> None:
    stream, peer = open_stream()
    if stage in ("flushing", "closing"):
        stream.write(MUCH)
    if stage in ("closing", "lingering"):
        stream.close()
    if stage == "we ended":
        stream.write_eof()
    turns(loop)
    reset(peer)
    until(loop, lambda: "close" in stream.calls)
    assert failed_by_reset(stream)
    assert stream.calls.count("close") == 1


@no_resets
def test_what_came_before_a_reset_is_not_lost(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream()
    stream.write(MUCH)  # so that there is something to fail, too
    turns(loop)
    stream.pause_reading()
    sent = peer.send(b"last words" * 10_000)  # more than one read
    stream.resume_reading()
    reset(peer)
    until(loop, lambda: "close" in stream.calls)
    assert len(stream.data) == sent or sys.platform != "linux"  # others drop it with the reset
    assert failed_by_reset(stream)


class Held(Recorder):
    """With the default of on_pause: not read from while much waits."""

    def on_pause(self) -> None:
        self._told("pause")
        Stream.on_pause(self)


def say_and_leave(peer: socket.socket, words: bytes) -> None:
    peer.send(words)
    reset(peer)


def heard_last_words(stream: Recorder, words: bytes) -> bool:
    return stream.data == words or sys.platform != "linux"  # others drop it with the reset


@no_resets
def test_the_answer_to_an_upload_that_is_refused(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(Held)
    stream.write(MUCH)
    assert stream._flags & HELD
    say_and_leave(peer, b"413 too large")
    until(loop, lambda: "close" in stream.calls)
    assert heard_last_words(stream, b"413 too large")
    assert "eof" not in stream.calls
    assert failed_by_reset(stream)


@no_resets
@pytest.mark.parametrize("send", ["write", "write_eof"])
def test_last_words_before_a_send_that_fails_at_once(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]], send: str
) -> None:
    stream, peer = open_stream()
    say_and_leave(peer, b"last words")
    assert select.select([stream], [], [], 30)[0]
    getattr(stream, send)(*[b"hello?"] * (send == "write"))
    if send == "write" and stream.state is State.BROKEN:
        stream.write(b"dropped")
        assert stream.unsent == 0
    until(loop, lambda: "close" in stream.calls)
    assert heard_last_words(stream, b"last words")
    assert "eof" not in stream.calls
    assert failed_by_reset(stream)


def break_sending(stream: Recorder) -> None:
    """With a peer that stays, as a Unix one may that only has stopped to read."""
    stream._sock.shutdown(socket.SHUT_WR)
    stream.write(b"hello?")
    assert stream.state is State.BROKEN


def test_a_peer_that_stays_when_sending_has_failed(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(linger_timeout=0.05)
    began = loop.time()
    break_sending(stream)
    peer.send(b"still here")
    until(loop, lambda: "close" in stream.calls)
    assert loop.time() - began >= 0.05
    assert stream.data == b"still here"
    assert isinstance(stream.reason, OSError)


def test_a_program_that_pauses_between_the_last_words(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, peer = open_stream(linger_timeout=0.05)
    stream.do["data"] = Stream.pause_reading
    break_sending(stream)
    peer.send(b"last ")
    until(loop, lambda: stream.data)
    peer.send(b"words")
    waited = loop.call_later(0.2, lambda: None)
    until(loop, lambda: not waited.active)
    assert stream.state is State.BROKEN  # it is the program that lets it wait
    stream.resume_reading()
    until(loop, lambda: "close" in stream.calls)
    assert stream.data == b"last words"


@no_resets
@pytest.mark.parametrize("paused", [True, False])
def test_a_stream_that_has_failed_is_freed_at_once(
    loop: Uloop, make_tcp_pair: MakePair, paused: bool
) -> None:
    """Though it keeps the reason, as many a program does: no work for the garbage collector."""

    def fail() -> weakref.ref[Recorder]:
        sock, peer = make_tcp_pair()
        stream = Recorder(loop, sock)
        until(loop, lambda: stream.calls)
        if paused:
            stream.pause_reading()
            stream.write(MUCH)
        reset(peer)
        until(loop, lambda: "close" in stream.calls)
        assert failed_by_reset(stream)
        return weakref.ref(stream)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


@no_resets
@pytest.mark.parametrize("unsent", [True, False])
def test_a_reset_of_a_paused_stream(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]], unsent: bool
) -> None:
    stream, peer = open_stream()
    stream.pause_reading()
    if unsent:
        stream.write(MUCH)
    events = count_events(stream)
    reset(peer)
    for _ in range(20):
        loop.run_once(0.005)
    if not unsent:
        assert events == []  # no spinning on what nobody asked for
        for _ in range(2):  # on some platforms the first one is still taken
            stream.write(b"hello?")
            turns(loop)
    until(loop, lambda: "close" in stream.calls)
    assert failed_by_reset(stream)
    assert len(events) <= 2


@no_resets
@pytest.mark.parametrize("end", ["write_eof", "close"])
def test_a_reset_that_is_noticed_by_ending(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]], end: str
) -> None:
    stream, peer = open_stream()
    reset(peer)
    assert select.select([stream], [], [], 30)[0]
    getattr(stream, end)()
    until(loop, lambda: "close" in stream.calls)
    assert failed_by_reset(stream)  # rather than "not connected"


@no_resets
@pytest.mark.parametrize("event", [UEvent.poll_err, UEvent.poll_hup, UEvent.poll_err | UEvent.poll_hup])
def test_a_reset_that_is_not_told_as_writability(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]], event: UEvent
) -> None:
    """As epoll does, and not every system must."""
    stream, peer = open_stream()
    stream.write(MUCH)
    stream.pause_reading()
    reset(peer)
    stream.process_event(stream.fileno(), event)
    assert stream.state is State.CLOSED
    until(loop, lambda: "close" in stream.calls)
    assert failed_by_reset(stream)


@no_resets
def test_a_reset_in_on_data(loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]) -> None:
    stream, peer = open_stream()

    def answer(stream: Recorder) -> None:
        reset(peer)
        for _ in range(3):
            stream.write(b"answer")

    stream.do["data"] = answer
    peer.send(b"question")
    until(loop, lambda: "close" in stream.calls)
    assert stream.calls == ["connect", "data", "close"]
    assert failed_by_reset(stream)


def test_a_socket_that_somebody_else_has_closed(
    loop: Uloop, open_stream: Callable[..., tuple[Recorder, socket.socket]]
) -> None:
    stream, _ = open_stream()
    stream._sock.close()
    stream.write(b"hello?")
    until(loop, lambda: "close" in stream.calls)
    assert isinstance(stream.reason, OSError)
    loop.close()  # it still had the descriptor, of which nobody has told it


def test_a_factory_that_fails_after_it_has_made_the_stream(
    loop: Uloop, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    sock, _ = make_pair()
    stream = Recorder(loop, sock)
    loop.remove(sock)
    sock.close()  # as a listener does then
    until(loop, lambda: stream.calls)
    assert (stream.calls, stream.reason, stream.state) == (["close"], None, State.CLOSED)
    assert not [record for record in caplog.records if record.exc_info]


# From within the callbacks


@pytest.mark.parametrize("action", ["close", "raise"])
def test_what_on_drain_does_comes_after_on_eof(
    loop: Uloop, make_pair: MakePair, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    sock, peer = make_pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # or Windows takes anything
    stream = HalfOpen(loop, sock)
    until(loop, lambda: stream.calls)
    while stream.unsent <= 64 * 1024:
        stream.write(b"x" * 8192)

    def act(stream: Recorder) -> None:
        if action == "raise":
            raise LookupError("a fault of this test")
        stream.close()

    stream.do["drain"] = act
    try:
        while True:  # what is left fits into the kernel now
            peer.recv(1 << 20)
    except BlockingIOError:
        pass
    peer.shutdown(socket.SHUT_WR)
    until_read(loop, peer, lambda: "drain" in stream.calls)
    if action == "raise":
        assert "a fault of this test" in caplog.text
        stream.close()
    until_read(loop, peer, lambda: "close" in stream.calls)
    assert stream.calls == ["connect", "pause", "eof", "drain", "close"]
    assert stream.reason is None


def until_read(loop: Uloop, peer: socket.socket, condition: Callable[[], object]) -> None:
    """As ``until``, with a peer that reads."""
    while not condition():
        loop.run_once(0.01)
        try:
            peer.recv(1 << 20)
        except BlockingIOError:
            pass


CALLBACKS = ["connect", "data", "pause", "drain", "timeout", "eof", "close"]


def provoke(loop: Uloop, stream: Recorder, peer: socket.socket, what: str) -> None:
    """Have a callback of a stream that is not open yet called, as far as it gets."""

    def running() -> bool:
        return what not in stream.calls and stream.state is not State.CLOSED

    while stream.state is State.CONNECTING:
        loop.run_once(0.01)
    if what == "data":
        peer.send(b"x")
    elif what in ("pause", "drain"):
        stream.write(MUCH)
        while running():
            loop.run_once(0.001)
            try:
                peer.recv(1 << 20)
            except BlockingIOError:
                pass
    elif what == "eof":
        peer.shutdown(socket.SHUT_WR)
    elif what == "close":
        stream.abort()
    until(loop, lambda: what in stream.calls)


ACTIONS: dict[str, Run] = {
    "close": Stream.close,
    "abort": Stream.abort,
    "write_eof": Stream.write_eof,
    "pause_reading": Stream.pause_reading,
    "write": lambda stream: stream.write(b"more"),
    "stop": lambda stream: stream.loop.stop(),
    "close and abort": lambda stream: [action(stream) for action in (Stream.close, Stream.abort)],
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_callback_may_do_anything(
    loop: Uloop, make_tcp_pair: MakePair, callback: str, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    sock, peer = make_tcp_pair()
    timeout = 0.02 if callback == "timeout" else None
    stream = Recorder(loop, sock, idle_timeout=timeout, linger_timeout=0.02, write_timeout=1)
    stream.do[callback] = ACTIONS[action]
    provoke(loop, stream, peer, callback)
    turns(loop)
    peer.close()
    stream.close()
    until(loop, lambda: "close" in stream.calls)
    turns(loop)
    assert stream.calls.count("close") == 1
    assert stream.calls[-1] == "close"
    assert stream.fileno() == -1
    assert not [record for record in caplog.records if record.exc_info]
    assert "0 descriptors" in repr(loop)


@pytest.mark.parametrize("then", ["abort", "close", "write"])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_callback_may_close_the_loop(
    loop: Uloop, make_tcp_pair: MakePair, callback: str, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    sock, peer = make_tcp_pair()
    timeout = 0.02 if callback == "timeout" else None
    stream = Recorder(loop, sock, idle_timeout=timeout)

    def close(stream: Recorder) -> None:
        stream.loop.close()
        if then == "write":
            stream.write(MUCH)
            stream.pause_reading()
            stream.resume_reading()
        else:
            getattr(stream, then)()

    stream.do[callback] = close

    def provoke_and_run() -> None:
        provoke(loop, stream, peer, callback)
        while True:
            loop.run_once(0)

    with pytest.raises(RuntimeError, match="closed"):
        provoke_and_run()
    stream.abort()
    assert stream.calls.count("close") == 1
    assert stream.calls[-1] == "close"
    assert stream.fileno() == -1
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("callback", CALLBACKS)
def test_what_a_callback_raises_is_logged_and_loses_nothing(
    loop: Uloop, make_tcp_pair: MakePair, callback: str, caplog: pytest.LogCaptureFixture
) -> None:
    sock, peer = make_tcp_pair()
    timeout = 0.02 if callback == "timeout" else None
    stream = Recorder(loop, sock, idle_timeout=timeout)
    stream.write(b"first ")
    listeners: list[Stream] = []
    stream.when_closed(listeners.append)

    def fail(stream: Recorder) -> None:
        raise LookupError("a fault of this test")

    stream.do[callback] = fail
    if callback == "pause":
        with pytest.raises(LookupError):  # the program's own write
            provoke(loop, stream, peer, callback)
    else:
        provoke(loop, stream, peer, callback)
        assert [
            record for record in caplog.records if record.exc_info and "LookupError" in str(record.exc_info)
        ]
    if stream.state is State.OPEN:
        stream.write(b" last")
        stream.close()
        left = read_to_the_end(loop, peer)
        if callback == "pause":
            assert left == b"first " + MUCH + b" last"
        assert left.endswith(b" last")
    if callback in ("eof", "timeout"):  # the default, which ends the stream, was not reached
        assert stream.state is not State.CLOSED
        stream.abort()
    peer.close()
    until(loop, lambda: listeners)
    assert stream.calls.count(callback) == 1
    assert stream.calls[-1] == "close"
    assert listeners == [stream]
