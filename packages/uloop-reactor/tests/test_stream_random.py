"""Whatever two streams do to each other: the bytes arrive in order, the callbacks come in a legal order."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="the steps are made up by Hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from uloop_reactor import Uloop
from uloop_reactor.stream import PAUSED, WRITE_EOF_CALLED, State, Stream
from uloop_reactor.tls import TlsStream

FILES = Path(__file__).parent / "tls_files"

SIDES = st.sampled_from([0, 1])
STEPS = st.one_of(
    st.tuples(st.just("write"), SIDES, st.sampled_from([1, 100, 20_000, 70_000, 1_000_000])),
    st.tuples(st.sampled_from(["pause_reading", "resume_reading", "write_eof", "close"]), SIDES, st.none()),
    st.tuples(st.just("run"), SIDES, st.integers(1, 4)),
)


class Recorder(Stream):
    """Notes what it is told; ends its half only when the test says so."""

    calls: list[str]
    chunks: list[bytes]
    sent: list[bytes]
    reason: BaseException | None = None

    def on_connect(self) -> None:
        self.calls.append("connect")

    def on_data(self, data: bytes) -> None:
        assert data
        assert not self._flags & PAUSED
        self.chunks.append(data)
        self.calls.append("data")

    def on_eof(self) -> None:
        self.calls.append("eof")

    def on_pause(self) -> None:  # both may send much before they read
        self.calls.append("pause")

    def on_drain(self) -> None:
        self.calls.append("drain")

    def on_close(self, reason: BaseException | None) -> None:
        self.calls.append("close")
        self.reason = reason


class TlsRecorder(Recorder, TlsStream):
    pass


def check_order(calls: list[str]) -> None:
    """A small machine of what may follow what."""
    connected = paused = ended = closed = False
    for call in calls:
        assert not closed, calls
        if call == "connect":
            assert not connected, calls
            connected = True
        elif call == "data":
            assert connected, calls
            assert not ended, calls
        elif call == "eof":
            assert connected, calls
            assert not ended, calls
            ended = True
        elif call == "pause":
            assert not paused, calls
            paused = True
        elif call == "drain":
            assert paused, calls
            paused = False
        elif call == "close":
            closed = True
    assert closed, calls


def make_plain(loop: Uloop, left: socket.socket, right: socket.socket) -> tuple[Recorder, Recorder]:
    return Recorder(loop, left), Recorder(loop, right)


def make_tls(loop: Uloop, left: socket.socket, right: socket.socket) -> tuple[Recorder, Recorder]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FILES / "localhost.pem", FILES / "localhost.key")
    trusting = ssl.create_default_context(cafile=str(FILES / "ca.pem"))
    return (
        TlsRecorder(loop, left, trusting, server_hostname="localhost"),
        TlsRecorder(loop, right, context, server_side=True),
    )


@pytest.mark.parametrize("make", [make_plain, make_tls])
def test_bytes_and_callbacks_come_in_order(
    loop: Uloop,
    make: Callable[[Uloop, socket.socket, socket.socket], tuple[Recorder, Recorder]],
    tmp_path: Path,
) -> None:
    set_hypothesis_home_dir(tmp_path)  # or it would leave a folder in the repository

    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(STEPS, max_size=25))
    def check(steps: list[Any]) -> None:
        left, right = socket.socketpair()
        pair = make(loop, left, right)
        for stream in pair:
            stream.calls, stream.chunks, stream.sent = [], [], []
        try:
            converse(loop, pair, steps)
        finally:
            for stream in pair:
                stream.abort()
            loop.run_once(0)

    check()


def converse(loop: Uloop, pair: tuple[Recorder, Recorder], steps: list[Any]) -> None:
    for step, side, value in steps:
        stream = pair[side]
        if step == "write":
            if not stream._flags & WRITE_EOF_CALLED:
                data = bytearray((len(stream.sent) + position) & 0xFF for position in range(256)) * (
                    value // 256 + 1
                )
                if stream.state in (State.CONNECTING, State.OPEN, State.THEY_ENDED):
                    stream.sent.append(bytes(data))
                stream.write(data)
                data[:] = bytes(len(data))
        elif step == "run":
            for _ in range(value):
                loop.run_once(0)
        elif step == "write_eof" and isinstance(stream, TlsStream) and stream.state is State.CONNECTING:
            with pytest.raises(NotImplementedError):
                stream.write_eof()
        else:
            getattr(stream, step)()
    for stream in pair:
        stream.resume_reading()
    while any(stream.unsent for stream in pair):
        loop.run_once(0.01)
    for stream in pair:
        stream.close() if "connect" in stream.calls or stream.sent else stream.abort()
    while not all("close" in stream.calls for stream in pair):
        loop.run_once(0.01)
    for stream, other in zip(pair, reversed(pair), strict=True):
        check_order(stream.calls)
        received, sent = b"".join(stream.chunks), b"".join(other.sent)
        assert sent.startswith(received)  # in order, nothing changed
        if "eof" in stream.calls:
            assert received == sent  # and to the end, if there was one
