"""UDP: a protocol on a datagram socket.

A datagram is answered or dropped; no error of one of them touches the others, and none is worth
a line in the log, since strangers cause them. Answers leave from the address that was asked.
What was sent to many hosts at once is not answered: the answers of all of them would go to one
sender, who may be forged.

What has arrived together is answered together. The kernel's part for each datagram is 3.5 us, and what
Python does for each alone would be as much: so it is asked what time it is, the answer written and what
was done counted once for all of them. So they are told the same time, taken right before the first of them
leaves; the last of 64 leaves about 0.2 ms later.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uloop_reactor import DatagramSocket, Uloop

from .counters import Count

if TYPE_CHECKING:
    from uloop_reactor.datagram import Batch

    from .guard import Guard
    from .protocols import Answer, TimeProtocol
    from .timesource import TimeSource

__all__ = ["UdpServer"]

RECEIVE_BUFFER = 1024 * 1024  # bytes; a burst of clients must fit into it, or some are lost


class UdpServer(DatagramSocket):
    """Serves a protocol on a socket that is bound.

    Parameters:
        sock: ours from now on, unless this fails.
        protocol: what is spoken.
        answer: its answers.
        tally: the numbers of its scheme.
    """

    def __init__(
        self,
        loop: Uloop,
        sock: socket.socket,
        protocol: TimeProtocol,
        answer: Answer,
        *,
        source: TimeSource,
        guard: Guard,
        tally: memoryview[int],
    ) -> None:
        self._protocol = protocol
        self._answer = answer
        self._source = source
        self._guard = guard
        self._tally = tally
        # Only NTP tells its clients when they were heard.
        stamps = protocol.name == "ntp"
        super().__init__(loop, sock, timestamps=stamps, packet_info=True, receive_buffer=RECEIVE_BUFFER)

    def on_batch(self, batch: Batch) -> None:
        tally = self._tally
        tally[Count.RECEIVED_BYTES] += sum(map(len, batch.data))
        shared = self.broadcasts_in(batch)
        if shared:
            tally[Count.DESTINATION] += len(shared)
            batch = batch.without(shared)
            if not batch:
                return
        refused = self._guard.refusals(self._protocol.name, batch.data, batch.senders, self.loop.time())
        if refused:
            for reason in refused.values():
                tally[reason] += 1
            batch = batch.without(refused)
            if not batch:
                return
        answers = self._answers_to(batch)
        self.reply_each(batch, answers)
        tally[Count.ANSWERED] += len(answers)
        tally[Count.SENT_BYTES] += len(answers) * len(answers[0])  # at one moment, all are equally long

    def _answers_to(self, batch: Batch) -> Sequence[bytes]:
        source = self._source
        if self._protocol.answers is None:  # all are told the same
            return [self._answer(b"", batch.read_at, source)] * len(batch)
        stamps = self.arrivals_of(batch)
        unknown = stamps.count(None)
        self._tally[Count.PROGRAM_TIMESTAMPS] += unknown
        self._tally[Count.KERNEL_TIMESTAMPS] += len(stamps) - unknown
        arrivals = [stamp or batch.read_at for stamp in stamps]
        return self._protocol.answers(batch.data, arrivals, source)

    def finish(self, *, turn_away: bool) -> None:
        """Answer all that has arrived, and close.

        Parameters:
            turn_away: have the kernel tell those who come too late that nobody is here.
        """
        self.receive_backlog(turn_away=turn_away)
        self.close()
