"""Counters: what the servers count, in memory that every worker shares with its parent.

Each worker has a row, and is the only one to write to it; the parent adds the rows up when somebody
asks. So there is nothing to send and nothing to lock, and the worker that takes the place of one that
was killed goes on counting in the same row.

What is counted for each message on a TCP connection comes here twice a second only, since to add to
shared memory costs 40 ns each time, of the 2 us that an answer costs in Python. The process that counts
is asked for it before its own row is read; that of a worker is half a second old at most, and so much is
lost when one is killed.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from enum import IntEnum

from .endpoint import SCHEMES

__all__ = ["REFUSALS", "Count", "Counters", "Ledger", "Vital"]


class Count(IntEnum):
    """What is counted for each scheme. The names, in lower case, are those in the metrics."""

    ANSWERED = 0
    RECEIVED_BYTES = 1
    SENT_BYTES = 2
    KERNEL_TIMESTAMPS = 3
    PROGRAM_TIMESTAMPS = 4
    CONNECTIONS = 5  #: accepted
    OPEN_CONNECTIONS = 6  #: now
    EVICTED = 7  #: connections that made room for others
    TIMED_OUT = 8  #: connections
    # Why a datagram or a connection was refused:
    FORM = 9  #: it could be another server's answer
    PORT = 10  #: it comes from a port that servers answer from
    SOURCE = 11  #: it comes from an address that nobody can have
    DESTINATION = 12  #: it was sent to more than one host
    DENIED = 13  #: by --allow and --deny
    RATE = 14  #: this source has had its share
    CROWD = 15  #: this source has as many connections as it may
    LENGTH = 16  #: NTP: no packet has such a length
    VERSION = 17  #: NTP: a version that we do not speak
    MODE = 18  #: NTP: not a client's question


REFUSALS = tuple(Count(number) for number in range(Count.FORM, Count.MODE + 1))


class Vital(IntEnum):
    """What each worker tells of itself."""

    HEARTBEAT = 0  #: when its loop last turned, as time.monotonic_ns has it; 0 before the first time
    LAG = 1  #: the longest that a turn of its loop took of late, in ns
    TURNS = 2
    LEAP = 3  #: the NTP leap indicator: 3 is "not synchronised"
    STRATUM = 4
    DISPERSION = 5  #: root dispersion, in ns


CELL = 8  # bytes: one signed number of 64 bits
CELLS = len(Vital) + len(SCHEMES) * len(Count)


class Counters:
    """One worker's row.

    Attributes:
        vital: a number for each :class:`Vital`, to read and to write.
        update: called before the row is read, to add what was counted elsewhere in this process.
    """

    def __init__(self, cells: memoryview[int]) -> None:
        self._cells = cells
        self.vital = cells[: len(Vital)]
        self.update: Callable[[], object] = lambda: None

    def of(self, scheme: str) -> memoryview[int]:
        """The numbers of a scheme like ``"udp"``, one for each :class:`Count`, to read and to write."""
        first = len(Vital) + list(SCHEMES).index(scheme) * len(Count)
        return self._cells[first : first + len(Count)]

    def begin_anew(self) -> None:
        """A worker takes over the row of one that has ended, which has no connections any more."""
        for number in range(len(self.vital)):
            self.vital[number] = 0
        for scheme in SCHEMES:
            self.of(scheme)[Count.OPEN_CONNECTIONS] = 0


class Ledger:
    """The rows of all workers. Made before they are forked.

    Parameters:
        workers: how many rows.
    """

    def __init__(self, workers: int = 1) -> None:
        self._memory = mmap.mmap(-1, workers * CELLS * CELL)  # shared with children, unlike a bytearray
        cells = memoryview(self._memory).cast("q")
        self.rows = [Counters(cells[i * CELLS : (i + 1) * CELLS]) for i in range(workers)]

    def total(self, scheme: str, count: Count) -> int:
        """The sum over all workers."""
        for row in self.rows:
            row.update()
        return sum(row.of(scheme)[count] for row in self.rows)
