"""Masks of events: what ``&`` and the table of masks cost beside enum's own way."""

from __future__ import annotations

from enum import IntFlag

from uloop_events import UEVENT_OF, UEvent

from micro.statement import Statement


class EnumsOwn(IntFlag):
    """Nothing but an IntFlag."""

    poll_in = 0x01
    poll_out = 0x04


NAMES = {
    "UEVENT_OF": UEVENT_OF,
    "UEvent": UEvent,
    "poll_in": UEvent.poll_in,
    "both": UEvent.poll_in | UEvent.poll_out,
}
ENUMS_NAMES = {"poll_in": EnumsOwn.poll_in, "both": EnumsOwn.poll_in | EnumsOwn.poll_out}

STATEMENTS = [
    Statement("masks", "IntFlag & IntFlag", "both & poll_in", ENUMS_NAMES),
    Statement("masks", "UEvent & UEvent", "both & poll_in", NAMES, beside="IntFlag & IntFlag"),
    Statement("masks", "int & IntFlag", "5 & poll_in", ENUMS_NAMES),
    Statement("masks", "int & UEvent", "5 & poll_in", NAMES, beside="int & IntFlag"),
    Statement("masks", "UEvent(mask)", "UEvent(5)", NAMES),
    Statement("masks", "UEVENT_OF[mask]", "UEVENT_OF[5]", NAMES, beside="UEvent(mask)"),
]
