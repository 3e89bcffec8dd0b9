"""The base protocol: whatever the client sends, the server answers with its local time.

An answer is always 26 bytes of ASCII, without a line end::

    2020-06-15 15:34:33.899256

On TCP there is one answer for each chunk that the server reads, and the connection stays
open; TCP keeps no message boundaries, so a client that wants one answer for each request
waits for it before it sends the next. On UDP there is one answer for each datagram, an empty
one included.
"""

from __future__ import annotations

import re
from datetime import datetime

__all__ = ["ANSWER_LENGTH", "answer", "is_answer", "read_answer"]

ANSWER_LENGTH = 26

# Wider than what we send: others leave out a fraction of 0, or end the line.
ANSWER_SHAPE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\s*")


def answer(now: datetime) -> bytes:
    """The answer at a time: 26 bytes, also when the fraction is 0."""
    return now.isoformat(" ", "microseconds").encode("ascii")


def is_answer(datagram: bytes) -> bool:
    """Whether a datagram could be what another server of this protocol has answered.

    A server that answers answers is a weapon: one datagram with a forged source makes two of
    them talk to each other for ever (CVE-2024-2169).
    """
    return ANSWER_SHAPE.fullmatch(datagram) is not None


def read_answer(data: bytes) -> datetime:
    """The time in an answer, without a time zone: it is the server's local time.

    Raises:
        ValueError: it is no answer of this protocol.
    """
    try:
        if len(data) != ANSWER_LENGTH:
            raise ValueError(f"it has {len(data)} bytes")
        return datetime.strptime(data.decode("ascii"), "%Y-%m-%d %H:%M:%S.%f")
    except ValueError as error:
        raise ValueError(f"{data[:60]!r} is not a time like 2020-06-15 15:34:33.899256") from error
