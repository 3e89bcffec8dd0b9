"""NTP, versions 1 to 4: what a server answers to clients, and what a client needs to ask one.

RFC 5905 (section 7.3 has the packet, appendix A.5.3 how it is filled in) and RFC 4330 (section 6). A packet
has 48 bytes, then perhaps extension fields and a code of authentication, which we pass over::

    0   leap indicator (2 bits), version (3), mode (3)
    1   stratum, poll interval and precision, a byte each; the latter two as powers of 2 seconds
    4   root delay, root dispersion: seconds, 16 bits before and 16 after the point
    12  reference id: 4 bytes
    16  reference time: when the clock was last set
    24  origin time: the client's time T1, when its question left, as the client has sent it
    32  receive time: T2, when the question arrived
    40  transmit time: T3, when the answer left

A time is the seconds since 1900, 32 bits before and 32 after the point. The count begins again at
2036-02-07 06:28:16 UTC; which era is meant, a reader finds by taking the one next to a time that is
about right.

What is answered, and how:

* Questions of clients alone (mode 3; mode 0 of version 1, which had no modes, if it does not come from
  port 123, where a server would be). An answer has mode 4, which nobody answers; so two servers
  cannot be set at each other, and port 123, which real servers ask from, is welcome.
* Symmetric peers (mode 1), broadcasts and the control modes are not. Those have been used for attacks.
* An answer has the version of its question, and is never longer than that.
* A clock that is not synchronised says so, in each way there is: leap 3, stratum 0, reference ``INIT``.
  The times are told all the same.
"""

from __future__ import annotations

import math
import random
import re
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import itemgetter

from ..counters import Count
from ..timesource import LEAP_UNSYNCHRONISED, SECOND, TimeSource
from .time_protocol import SINCE_1900

__all__ = [
    "KISS_CODES",
    "PACKET_LENGTH",
    "KissError",
    "OriginError",
    "Question",
    "Reply",
    "answer",
    "answers",
    "are_usual",
    "offset_and_delay",
    "precision",
    "read_answer",
    "refusal",
    "request",
]

PACKET_LENGTH = 48
PORT = 123
VERSION_BITS = 0o070  # of the first byte
CLIENT, SERVER = 3, 4  # modes
NEWEST_VERSION = 4
FIRST_BYTE = itemgetter(0)
#: first bytes of clients' questions
QUESTIONS = frozenset(
    leap << 6 | version << 3 | CLIENT for leap in range(4) for version in range(1, NEWEST_VERSION + 1)
)
TRANSMIT = slice(40, 48)
#: leap, version and mode; stratum; poll; precision; root delay; root dispersion; reference id; reference
#: time; origin time; receive time; transmit time
PACKET = struct.Struct("!BBBbII4sQ8sQQ")
#: precision to reference time, which are the same in all answers of a moment; and a packet of which
#: these are one part
COMMON_PART = struct.Struct("!bII4sQ")
PACKET_BY_PARTS = struct.Struct(f"!BBB{COMMON_PART.size}s8sQQ")
FRACTION = 32  # bits of a time after the point
ERA = 1 << 64  # here times begin again
EPOCH = SINCE_1900 << FRACTION  # 1970
UNITS = 1 << 16  # of root delay and dispersion, in a second
LARGEST = (1 << 32) - 1  # of these

#: RFC 5905, section 7.4, figure 13, and RFC 8915, section 5.7
KISS_CODES = {
    "ACST": "it belongs to an anycast service",
    "AUTH": "it could not authenticate us",
    "AUTO": "its Autokey exchange has failed",
    "BCST": "it belongs to a broadcast service",
    "CRYP": "the cryptographic check has failed",
    "DENY": "it denies us access",
    "DROP": "it has lost its peer",
    "RSTR": "its policy denies us access",
    "INIT": "it is not synchronised yet",
    "MCST": "it belongs to a multicast service",
    "NKEY": "it has no such key",
    "NTSN": "the NTS cookie was not good",
    "RATE": "we have asked too often",
    "RMOT": "somebody is tampering with it from afar",
    "STEP": "its clock was set, and is not synchronised again yet",
}


# The server


def are_usual(datagrams: Sequence[bytes]) -> bool:
    """Whether all of these are questions of clients, without extensions, as questions usually are."""
    return set(map(len, datagrams)) == {PACKET_LENGTH} and set(map(FIRST_BYTE, datagrams)) <= QUESTIONS


def refusal(datagram: bytes, port: int) -> Count | None:
    """Why a datagram is not answered, as far as its form tells; ``None`` if it is.

    Parameters:
        datagram: what has come.
        port: the port it comes from.
    """
    length = len(datagram)
    if length < PACKET_LENGTH or length % 4:
        return Count.LENGTH
    version, mode = datagram[0] >> 3 & 7, datagram[0] & 7
    if not 1 <= version <= NEWEST_VERSION:
        return Count.VERSION
    if mode != CLIENT and (mode or version != 1 or port == PORT):
        return Count.MODE
    if not port:
        return Count.PORT
    return None


def answer(request: bytes, arrival: int, source: TimeSource) -> bytes:
    """The answer to a question that :func:`refusal` has nothing against.

    Parameters:
        request: the question.
        arrival: when it came, in ns since the epoch.
        source: what time it is, and how good.

    Raises:
        ValueError: it has not even the length of a packet.
    """
    if len(request) < PACKET_LENGTH:
        raise ValueError(f"a question has {PACKET_LENGTH} bytes or more, not {len(request)}")
    return answers((request,), (arrival,), source)[0]


def answers(requests: Sequence[bytes], arrivals: Sequence[int], source: TimeSource) -> list[bytes]:
    """The answers to questions that have arrived together, and are answered together.

    Parameters:
        requests: the questions, of 48 bytes or more each.
        arrivals: when each came, in ns since the epoch.
        source: what time it is, and how good.
    """
    quality = source.quality(source.now())
    synchronised = quality.synchronised
    # Bits that the clock is too coarse to tell are to be random: RFC 5905, section 6.
    coarse = (1 << max(FRACTION + precision(), 0)) - 1
    fine, noise = ~coarse, random.getrandbits(2 * FRACTION)
    low, reference_time = noise & coarse, _since_1900(quality.reference_time) if synchronised else 0
    # _since_1900, without its call
    received = [((arrival << FRACTION) // SECOND + EPOCH) & fine | low for arrival in arrivals]
    leap, stratum = quality.leap << 6 | SERVER, quality.stratum if synchronised else 0
    pack = PACKET_BY_PARTS.pack
    # As late as possible, since what comes after it the client takes for the way back.
    transmitted = _since_1900(source.now()) & fine | noise >> FRACTION & coarse
    # No time is later than now, or clients doubt us, even if the clock has just been set back; and 0
    # would mean that a time is not known.
    same = COMMON_PART.pack(
        precision(),
        _short(quality.root_delay),
        _short(quality.root_dispersion),
        quality.reference_id,
        min(reference_time, transmitted) % ERA,
    )
    last = transmitted % ERA or 1
    return [
        pack(
            leap | request[0] & VERSION_BITS,
            stratum,
            request[2],
            same,
            request[TRANSMIT],
            (arrived if arrived < transmitted else transmitted) % ERA or 1,
            last,
        )
        for request, arrived in zip(requests, received, strict=True)
    ]


@cache
def precision() -> int:
    """In what steps this machine's clock can be read, as a power of 2 seconds: the resolution of the
    clock, or the time that it takes to read it, if that is longer (RFC 5905, section 7.3)."""
    readings = [time.time_ns() for _ in range(100)]
    steps = [later - earlier for earlier, later in pairwise(readings) if later > earlier]
    shortest = min(steps, default=0) / SECOND
    return math.ceil(math.log2(max(shortest, time.get_clock_info("time").resolution)))


def _since_1900(moment: int) -> int:
    """A time as NTP has it, without the end of its era; from ns since 1970."""
    return (moment << FRACTION) // SECOND + EPOCH


def _short(seconds: float) -> int:
    return min(math.ceil(seconds * UNITS), LARGEST)


# The client


class OriginError(ValueError):
    """It is not the answer to this question: it answers an earlier one, or is forged."""


class KissError(ValueError):
    """The server says with a code why it does not tell the time, or not one to rely on.

    Attributes:
        code: 4 letters, as in ``"RATE"``.
        meaning: what it stands for, as the end of a sentence.
        reply: all that it has said.
    """

    def __init__(self, code: str, reply: Reply) -> None:
        self.code = code
        self.meaning = KISS_CODES.get(code, "for a reason that only it knows")
        self.reply = reply
        super().__init__(f"the server says {code}: {self.meaning}")


@dataclass(frozen=True, slots=True)
class Question:
    """A question that can be told from all others.

    It does not give away our time, which nobody needs to know. The server sends the stamp back: who
    has not seen the question cannot guess it.

    Parameters:
        version: 1 to 4.
        stamp: 8 random bytes, in place of the transmit time.
        sent: when it leaves (T1), in ns since the epoch.
    """

    version: int
    stamp: bytes
    sent: int

    @property
    def data(self) -> bytes:
        """The packet."""
        return bytes((self.version << 3 | CLIENT,)) + bytes(TRANSMIT.start - 1) + self.stamp


def request(now: int, version: int = NEWEST_VERSION) -> Question:
    """A new question.

    Parameters:
        now: ns since the epoch; take it right before the question is sent.
        version: 1 to 4.

    Raises:
        ValueError: no such version.
    """
    if not 1 <= version <= NEWEST_VERSION:
        raise ValueError(f"the version of NTP must be 1 to {NEWEST_VERSION}, not {version}")
    return Question(version, secrets.token_bytes(8), now)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server has answered. Times are in ns since the epoch, in the era next to our own time.

    Parameters:
        leap: 0 to 3, see :class:`uloop_servers.timesource.Quality`.
        version: of NTP.
        stratum: 0 to 255; of a server with the time, 1 to 15.
        poll: the interval at which it wants to be asked, as a power of 2 seconds.
        precision: of its clock, as a power of 2 seconds.
        root_delay: seconds.
        root_dispersion: seconds.
        reference_id: 4 bytes.
        reference_time: when its clock was last set; ``None`` if it does not know.
        received: when the question arrived (T2).
        transmitted: when the answer left (T3).
    """

    leap: int
    version: int
    stratum: int
    poll: int
    precision: int
    root_delay: float
    root_dispersion: float
    reference_id: bytes
    reference_time: int | None
    received: int
    transmitted: int

    @property
    def synchronised(self) -> bool:
        """Whether the server says that its clock is."""
        return self.leap != LEAP_UNSYNCHRONISED and 1 <= self.stratum <= 15


def read_answer(data: bytes, question: Question) -> Reply:
    """What a server has answered to a question.

    Raises:
        OriginError: it is not the answer to this question.
        KissError: the server says with a code that it will not answer, or not well.
        ValueError: it is no answer of an NTP server at all; one sentence says why.
    """
    if len(data) < PACKET_LENGTH:
        raise ValueError(f"it is no answer of NTP: it has {len(data)} bytes, not {PACKET_LENGTH}")
    first, stratum, poll, log_precision, delay, dispersion, reference_id, reference_time, origin, t2, t3 = (
        PACKET.unpack_from(data)
    )
    if first & 7 != SERVER:
        raise ValueError(f"it is no answer of an NTP server: its mode is {first & 7}, not {SERVER}")
    if origin != question.stamp:
        raise OriginError("it answers another question, so it is late or forged")
    reply = Reply(
        leap=first >> 6,
        version=first >> 3 & 7,
        stratum=stratum,
        poll=poll if poll < 128 else poll - 256,
        precision=log_precision,
        root_delay=delay / UNITS,
        root_dispersion=dispersion / UNITS,
        reference_id=reference_id,
        reference_time=_since_1970(reference_time, question.sent) if reference_time else None,
        received=_since_1970(t2, question.sent),
        transmitted=_since_1970(t3, question.sent),
    )
    if not stratum and (code := re.fullmatch(rb"[A-Z0-9]{4}", reference_id)):
        raise KissError(code[0].decode("ascii"), reply)
    if not t2 or not t3:
        raise ValueError("the server does not tell the time: the receive or transmit time is 0")
    return reply


def offset_and_delay(t1: int, t2: int, t3: int, t4: int) -> tuple[float, float]:
    """How far a server's clock is ahead of ours, and how long question and answer were under way.

    The offset may be wrong by half of the delay (RFC 5905, section 8).

    Parameters:
        t1: when the question left, by our clock, in ns since the epoch.
        t2: when it arrived, by the server's clock.
        t3: when the answer left, by the server's clock.
        t4: when it arrived, by our clock.

    Returns:
        Both in seconds.
    """
    return ((t2 - t1) + (t3 - t4)) / 2 / SECOND, ((t4 - t1) - (t3 - t2)) / SECOND


def _since_1970(stamp: int, near: int) -> int:
    """The time, in ns since 1970, that a stamp stands for: of all eras, the one next to another time."""
    about = _since_1900(near)
    whole = about + (stamp - about + ERA // 2) % ERA - ERA // 2
    # rounded, where _since_1900 cuts off, so that one undoes the other
    return ((whole - EPOCH) * SECOND + (1 << FRACTION - 1)) >> FRACTION
