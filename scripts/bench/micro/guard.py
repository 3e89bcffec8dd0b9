"""The guard: whether datagrams are to be answered, alone and as many at once as the servers read.

The sources have a share so large that it never ends, which is counted all the same. The time is read
anew for each batch, as the server does.
"""

from __future__ import annotations

import socket
import time
from itertools import cycle, islice

from uloop_reactor.mmsg import BATCH, encode
from uloop_servers.counters import Count
from uloop_servers.guard import SOURCES, Guard, Policy
from uloop_servers.protocols import ntp

from micro.statement import Statement

TEXT = b"t"
ANSWER = b"2020-06-15 15:34:33.899256"
NTP_QUESTION = ntp.request(0).data
STRANGERS = 3 * SOURCES  # more than the guard remembers
GENEROUS = Policy(rate_limit=1e9, rate_burst=1_000_000)
STINGY = Policy(rate_limit=1e-6, rate_burst=1)
CODE = "refusals(protocol, datagrams, senders, now())"
CODE_FOR_STRANGERS = "refusals(protocol, datagrams, next(batches), now())"


def senders(number: int) -> list[bytes]:
    """So many addresses, as recvmmsg(2) gives them."""
    return [encode(socket.AF_INET, (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 40000)) for n in range(number)]


def statement(
    says: str, policy: Policy, protocol: str, datagram: bytes, at_once: int, expected: Count | None
) -> Statement:
    guard, datagrams, known = Guard(policy), [datagram] * at_once, senders(at_once)
    guard.refusals(protocol, datagrams, known, time.monotonic())  # the stingy one has given all now
    refused = guard.refusals(protocol, datagrams, known, time.monotonic())
    if refused != ({} if expected is None else dict.fromkeys(range(at_once), expected)):
        raise AssertionError(f"{says}: the guard says {refused}")
    names = {
        "refusals": guard.refusals,
        "protocol": protocol,
        "datagrams": datagrams,
        "senders": known,
        "now": time.monotonic,
    }
    return Statement("guard", f"{says}, of {at_once} at once", CODE, names, at_once)


def statement_for_strangers() -> Statement:
    all_senders = iter(senders(STRANGERS))
    batches = [list(islice(all_senders, BATCH)) for _ in range(STRANGERS // BATCH)]
    names = {
        "refusals": Guard(GENEROUS).refusals,
        "protocol": "clock",
        "datagrams": [TEXT] * BATCH,
        "batches": cycle(batches),
        "now": time.monotonic,
    }
    says = f"a question as text from a new source, admitted, of {BATCH} at once"
    return Statement("guard", says, CODE_FOR_STRANGERS, names, BATCH)


STATEMENTS = [
    statement("a question as text, admitted", GENEROUS, "clock", TEXT, 1, None),
    statement("a question as text, admitted", GENEROUS, "clock", TEXT, BATCH, None),
    statement("an answer as text, refused for its form", GENEROUS, "clock", ANSWER, BATCH, Count.FORM),
    statement("a question as text, refused for its rate", STINGY, "clock", TEXT, BATCH, Count.RATE),
    statement("a question of NTP, admitted", GENEROUS, "ntp", NTP_QUESTION, 1, None),
    statement("a question of NTP, admitted", GENEROUS, "ntp", NTP_QUESTION, BATCH, None),
    statement_for_strangers(),
]
