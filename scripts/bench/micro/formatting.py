"""What it costs to write an answer; that of the base protocol beside the shortest way to write it.

Answers of NTP differ, so those to questions that have come together are written together.
"""

from __future__ import annotations

import time
from datetime import datetime

from uloop_reactor.mmsg import BATCH
from uloop_servers.protocols import clock, daytime, ntp, time_protocol
from uloop_servers.timesource import LocalReference, TimeSource

from micro.statement import Statement

WHOLE = "str(datetime.now()).encode()"
CODE = "answer(question, arrival, source)"
NAMES: dict[str, object] = {
    "question": ntp.request(0).data,  # the others do not look at it
    "arrival": time.time_ns(),
    "source": TimeSource(LocalReference()),
}
MANY: dict[str, object] = {
    "answers": ntp.answers,
    "questions": [ntp.request(0).data for _ in range(BATCH)],
    "arrivals": [time.time_ns()] * BATCH,
    "source": TimeSource(LocalReference()),
}

STATEMENTS = [
    Statement("formatting", WHOLE, WHOLE, {"datetime": datetime}),
    Statement("formatting", "the base protocol", CODE, {**NAMES, "answer": clock.answer}, beside=WHOLE),
    Statement("formatting", "Daytime", CODE, {**NAMES, "answer": daytime.answer}),
    Statement("formatting", "Time", CODE, {**NAMES, "answer": time_protocol.answer}),
    Statement("formatting", "NTP", CODE, {**NAMES, "answer": ntp.answer}),
    Statement("formatting", f"NTP, of {BATCH} at once", "answers(questions, arrivals, source)", MANY, BATCH),
]
