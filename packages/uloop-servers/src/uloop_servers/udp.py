"""UDP: a protocol on a datagram socket.

A datagram is answered or dropped; no error of one of them touches the others, and none is worth
a line in the log, since strangers cause them. Answers leave from the address that was asked.
What was sent to many hosts at once is not answered: the answers of all of them would go to one
sender, who may be forged.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from uloop_reactor import DatagramSocket, Uloop

from .counters import Count

if TYPE_CHECKING:
    from uloop_reactor.datagram import Address

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
        self._protocol = protocol.name
        self._answer = answer
        self._source = source
        self._guard = guard
        self._tally = tally
        # Only NTP tells its clients when they were heard.
        self._stamps = protocol.name == "ntp"
        super().__init__(loop, sock, timestamps=self._stamps, packet_info=True, receive_buffer=RECEIVE_BUFFER)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        tally = self._tally
        tally[Count.RECEIVED_BYTES] += len(data)
        if self.broadcast:
            tally[Count.DESTINATION] += 1
            return
        refusal = self._guard.refuses(self._protocol, data, sender, self.loop.time())
        if refusal is not None:
            tally[refusal] += 1
            return
        answer = self._answer(data, self.arrival, self._source)
        if answer is None:
            tally[Count.UNREADY] += 1
            return
        self.reply(answer)
        tally[Count.ANSWERED] += 1
        tally[Count.SENT_BYTES] += len(answer)
        if self._stamps:
            kernel = self.timestamp_source == "kernel"
            tally[Count.KERNEL_TIMESTAMPS if kernel else Count.PROGRAM_TIMESTAMPS] += 1

    def finish(self, *, turn_away: bool) -> None:
        """Answer all that has arrived, and close.

        Parameters:
            turn_away: have the kernel tell those who come too late that nobody is here.
        """
        self.receive_backlog(turn_away=turn_away)
        self.close()
