"""What the servers say: pure functions of bytes and times, without sockets.

Each module has ``answer(request, arrival, source)``, ``refusal(datagram, port)`` and ``read_answer``; where
the answer depends on the request, also ``answers``, for many that have arrived together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..timesource import TimeSource
from . import clock, daytime, ntp, time_protocol

__all__ = ["PROTOCOLS", "Answer", "Answers", "TimeProtocol"]

#: from a request, its arrival in ns since the epoch, and the time
Answer = Callable[[bytes, int, TimeSource], bytes]
#: the same for several requests, each with its arrival
Answers = Callable[[Sequence[bytes], Sequence[int], TimeSource], Sequence[bytes]]


@dataclass(frozen=True)
class TimeProtocol:
    """How a server speaks a protocol.

    Parameters:
        name: ``"clock"``, ``"daytime"``, ``"time"`` or ``"ntp"``.
        answer: what it says.
        once: on TCP it speaks as soon as it is connected, without having been asked (the request is
            empty), and then ends the connection. Otherwise it answers each chunk.
        loops: another server could take its answers for questions; so these are for a rate limit to end.
        answers: what it says to several at once; ``None`` if it tells all of them the same.
    """

    name: str
    answer: Answer
    once: bool
    loops: bool
    answers: Answers | None = None


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        TimeProtocol("clock", clock.answer, once=False, loops=True),
        TimeProtocol("daytime", daytime.answer, once=True, loops=True),
        TimeProtocol("time", time_protocol.answer, once=True, loops=True),
        TimeProtocol("ntp", ntp.answer, once=False, loops=False, answers=ntp.answers),
    )
}
