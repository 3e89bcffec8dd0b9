"""The Time protocol, RFC 868: seconds since 1900, in 4 bytes, the highest first.

On TCP the server sends them as soon as somebody connects, and closes; on UDP it answers each datagram,
as a rule an empty one.

4 bytes count to 2036-02-07 06:28:15 UTC, and begin again at 0 in the next second. What an answer means is
found by taking the time next to one that is about right.
"""

from __future__ import annotations

import struct

from ..timesource import SECOND, TimeSource
from .answers import refusal

__all__ = ["ANSWER_LENGTH", "SINCE_1900", "answer", "read_answer", "refusal"]

ANSWER_LENGTH = 4
SINCE_1900 = 2_208_988_800  # seconds from 1900 to 1970
ERA = 1 << 32  # seconds until the count begins again
SECONDS = struct.Struct("!I")


def answer(request: bytes, arrival: int, source: TimeSource) -> bytes:
    """The time, in 4 bytes.

    RFC 868 lets a server that does not know the time close the connection, or stay silent. We tell
    our clock's time also when nobody keeps that clock right: the protocol is asked where there is
    nothing better, in laboratories and by old machines, and a server which tells nothing at all
    because nobody runs NTP there would be of no use to them. Who needs to know asks over NTP.

    Parameters:
        request: what the client has sent; it does not matter.
        arrival: when that came, in ns since the epoch; it does not matter.
        source: what time it is.
    """
    return SECONDS.pack((source.now() // SECOND + SINCE_1900) % ERA)


def read_answer(data: bytes, near: int) -> int:
    """The time in an answer, in ns since the epoch: whole seconds.

    Parameters:
        data: the answer.
        near: a time that is about right, to 68 years, in ns since the epoch.

    Raises:
        ValueError: it is no answer of this protocol.
    """
    if len(data) != ANSWER_LENGTH:
        raise ValueError(f"{data[:60]!r} is not a time of RFC 868: it has {len(data)} bytes, not 4")
    told: int = SECONDS.unpack(data)[0] - SINCE_1900
    ahead = (told - near // SECOND + ERA // 2) % ERA - ERA // 2  # of near, -68 to 68 years
    return (near // SECOND + ahead) * SECOND
