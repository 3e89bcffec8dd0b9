"""Which datagrams the text and Time protocols do not answer, lest two servers talk for ever.

These protocols answer whatever comes, so one datagram with a forged sender makes two servers answer
each other's answers until the end of days (CVE-2024-2169, "Loop DoS of application-layer protocols").
Nothing in a datagram says that it is a question. So we do not answer what another server may have said,
by its form or by the port it comes from:

* Text with a time of day in it (``\\d:\\d\\d:\\d\\d``): the base protocol and Daytime, in every layout
  we know of.
* Four bytes that are not text: Time (RFC 868). Four bytes that begin with a printable character are a
  question, as in ``time``: taken for a time, they are one before 1968 or from 2053 on.
* Eight bytes that are not text: Time as GNU inetutils' inetd sends it, a ``long`` of 64 bits.
* 48 bytes or more, not text, whose first byte has a mode of NTP that servers send: 2 and 4 to 7. No
  answer of NTP is text, since its fourth byte, the precision, is a negative number.

Our own answers are all of these forms, so no two of ours can be set at each other, on any protocols. A
loop with a server of another kind ends in the rate limit, which is for the guard.

A client asks from a port that its system has chosen, 1024 or higher. Servers answer from their own, so a
datagram from one of these is forged, or an answer. The advisory's advice is to drop all below 1024; the
few above are those of services that answer anybody, from CISA's alert TA14-017A, "UDP-Based Amplification
Attacks", with NFS, CoAP and our own. They are few because a system may choose them for a client: FreeBSD
starts at 10000, and then one question in 50,000 comes from one of them and is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..counters import Count

__all__ = ["SERVER_PORTS", "are_too_short", "could_be_answer", "refusal"]

SERVER_PORTS = frozenset(range(1024)) | {
    1900,  # SSDP
    2049,  # NFS
    3333,  # the base protocol
    3702,  # WS-Discovery
    5353,  # multicast DNS
    5683,  # CoAP
    11211,  # memcached
    27015,  # Steam
    27960,  # Quake
}
TIME_OF_DAY = re.compile(rb"[0-9]:[0-9][0-9]:[0-9][0-9]")
TEXT = bytes(range(0x20, 0x7F)) + b"\t\r\n"
EXAMINED = 128  # bytes; an answer is at its start, and a long question should cost no more than a short one
TIME_LENGTHS = (4, 8)
SHORTEST_ANSWER = 4
NTP_LENGTH = 48
NTP_ANSWER_MODES = (2, 4, 5, 6, 7)


def could_be_answer(data: bytes) -> bool:
    """Whether a time server could have said this."""
    if len(data) < SHORTEST_ANSWER:
        return False  # as are the usual questions
    if TIME_OF_DAY.search(data, 0, EXAMINED):
        return True
    length = len(data)
    if length == 4 and data[0] < 0x20:
        return True  # 4 bytes like "\r\n\r\n" are a time as well, one of 2043
    if length in TIME_LENGTHS:
        return not _is_text(data)
    return length >= NTP_LENGTH and data[0] & 7 in NTP_ANSWER_MODES and not _is_text(data[:EXAMINED])


def are_too_short(datagrams: Sequence[bytes]) -> bool:
    """Whether all of these are shorter than any answer, as questions usually are."""
    return max(map(len, datagrams), default=0) < SHORTEST_ANSWER


def refusal(datagram: bytes, port: int) -> Count | None:
    """Why a datagram is not answered, as far as its form tells; ``None`` if it is.

    Parameters:
        datagram: what has come.
        port: the port it comes from.
    """
    if port in SERVER_PORTS:
        return Count.PORT
    if len(datagram) >= SHORTEST_ANSWER and could_be_answer(datagram):
        return Count.FORM
    return None


def _is_text(data: bytes) -> bool:
    return not data.translate(None, TEXT)
