"""Following the time daemon that steers this machine's clock: how good it says that the clock is.

chronyd, ntpd and their kin know far more of the clock than they tell the kernel: which server the time
comes from, and over how many hops. They tell it to anybody who asks over NTP. So we ask, every 16
seconds, and say the same to our own clients.

The rules:

1. We copy, and do not add a stratum: a stratum counts clocks, and the daemon and we serve the same one.
   So a client can take us for the daemon, and must not count us as a second witness.
2. Copying is right only if it is the same clock. Then the daemon's times lie between those of our
   question and its answer, both by our clock, to a millisecond. A daemon whose times do not, is that of
   another machine or steers nothing, and what it says of its clock is no word on ours: not synchronised.
   Clocks that are apart by less than the question or the answer was under way cannot be told from one:
   so the longer of the two is added to the dispersion, and an answer counts only if both together took
   no more than 10 ms. A busy machine can make one late: it counts as not given, like one that was lost.
3. Between two answers the dispersion grows at 15 ppm, as that of any clock that nobody compares.
4. Not synchronised is what the daemon says is not, or refuses to tell with a kiss code, and what has not
   been told for four questions. A daemon whose name cannot be looked up tells nothing; the name is looked
   up again with the next question.
5. Each question has a socket of its own, connected to the daemon, and a random stamp; so no late
   answer is taken for this one's, and no forged one for the daemon's.
6. The log has one line when the state changes, not one for each question.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from uloop_reactor import DatagramSocket, Uloop
from uloop_reactor.datagram import Address

from .protocols import ntp
from .timesource import PHI, SECOND, UNSYNCHRONISED, Quality

__all__ = ["Daemon"]

log = logging.getLogger("uloop.servers")

INTERVAL = 16.0  # seconds between questions
FIRST_INTERVAL = 1.0  # seconds; doubled with each question until the daemon vouches for the clock
PATIENCE = 4  # questions without an answer
TOLERANCE = (
    SECOND // 1000
)  # ns by which the daemon's time may lie outside, besides what our clock cannot tell
LONGEST_WAY = SECOND // 100  # ns that question and answer may be under way, if our clock can tell
LARGEST_DATAGRAM = 1024  # bytes; more than an answer to 48 bytes can have
SILENT = "does not answer"
FAR = "is too far away to tell whether it steers this machine's clock"


class Daemon:
    """A reference that asks a time daemon of this machine.

    Parameters:
        loop: the loop to ask on, at once.
        host: where the daemon is; a name is looked up on a thread, until it is found. If it has
            several addresses, each is asked in turn until one answers.
        port: its port, as a rule 123.
    """

    def __init__(self, loop: Uloop, host: str, port: int) -> None:
        self._loop = loop
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._endpoint = host, port
        self._addresses: list[Address] = []  # none until it was looked up
        self._look_up: Future[Any] | None = None  # the one under way
        self._closed = False
        self._enquiry: Enquiry | None = None
        self._unanswered = 0  # questions in a row
        self._lack = SILENT  # what they lack
        self._interval = FIRST_INTERVAL
        self._quality = UNSYNCHRONISED
        self._told = 0  # when it was, ns since the epoch
        self._state = ""  # the last that was logged
        self._ask()

    def quality(self, now: int) -> Quality:
        """See :meth:`uloop_servers.timesource.Reference.quality`."""
        told = self._quality
        if not told.synchronised:
            return told
        drift = PHI * max(now - self._told, 0) / SECOND
        return replace(told, root_dispersion=told.root_dispersion + drift)

    def close(self) -> None:
        """Ask no more. A second call does nothing."""
        self._closed = True
        self._timer.cancel()
        if self._enquiry is not None:
            self._enquiry.abort()

    def _ask(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._ask_again)
        self._interval = min(self._interval * 2, INTERVAL)
        self._unanswered += 1
        if self._addresses:
            self._put()
        elif self._look_up is None:
            try:
                self._look_up = self._loop.resolve(*self._endpoint, self._found, type=socket.SOCK_DGRAM)
            except RuntimeError as error:  # no thread to be had
                log.debug("the time daemon at %s cannot be looked up: %s", self._name, error)

    def _found(self, look_up: Future[Any]) -> None:
        self._look_up = None
        if self._closed:
            return
        try:
            self._addresses = [address for *_, address in look_up.result()]
        except (OSError, UnicodeError) as error:
            log.debug("the time daemon at %s cannot be looked up: %s", self._name, error)
        else:
            self._put()

    def _put(self) -> None:
        try:
            self._enquiry = Enquiry.connect(
                self._loop, self._addresses[0], timestamps=True, max_size=LARGEST_DATAGRAM
            )
        except (OSError, ValueError) as error:
            # No way there, no descriptor left, or no room for one in the backend: it counts as not answered.
            log.debug("the time daemon at %s cannot be asked: %s", self._name, error)
        else:
            self._enquiry.put(self._hear)

    def _ask_again(self) -> None:
        if self._enquiry is not None:
            self._enquiry.abort()
            self._enquiry = None
        if self._unanswered and self._addresses:
            self._addresses.append(self._addresses.pop(0))
        if self._unanswered >= PATIENCE:
            self._distrust(self._lack)
        self._ask()

    def _hear(self, question: ntp.Question, answer: ntp.Reply | ntp.KissError, arrival: int) -> None:
        slack = max(TOLERANCE, round(2.0 ** ntp.precision() * SECOND))
        far = False
        if isinstance(answer, ntp.KissError):
            self._distrust(f"says {answer.code}: {answer.meaning}")
        elif not answer.synchronised:
            self._distrust("says that the clock is not synchronised")
        elif not question.sent - slack <= answer.received <= answer.transmitted <= arrival + slack:
            self._distrust("does not steer the clock of this machine: its time is another")
        else:
            there, back = answer.received - question.sent, arrival - answer.transmitted
            far = there + back > max(LONGEST_WAY, slack)
            if not far:
                self._trust(answer, arrival, max(there, back, 0) / SECOND)
            elif not self._state:
                self._distrust(FAR)  # nothing is known yet that could be kept, so it is said at once
        self._lack = FAR if far else SILENT
        if not far:
            self._unanswered = 0

    def _trust(self, reply: ntp.Reply, now: int, doubt: float) -> None:
        """Pass on what it says; ``doubt`` is by how many seconds its clock may be another."""
        self._quality = Quality(
            leap=reply.leap,
            stratum=reply.stratum,
            reference_id=reply.reference_id,
            reference_time=now if reply.reference_time is None else reply.reference_time,
            root_delay=reply.root_delay,
            root_dispersion=reply.root_dispersion + doubt,
        )
        self._told = now
        self._interval = INTERVAL
        self._enter(logging.INFO, "says that the clock is synchronised")

    def _distrust(self, why: str) -> None:
        self._quality = UNSYNCHRONISED
        self._enter(logging.WARNING, f"{why}; so the clock counts as not synchronised")

    def _enter(self, level: int, state: str) -> None:
        if state != self._state:
            self._state = state
            log.log(level, "the time daemon at %s %s", self._name, state)


class Enquiry(DatagramSocket):
    """A question under way."""

    def put(self, hear: Callable[[ntp.Question, ntp.Reply | ntp.KissError, int], object]) -> None:
        """Send it. ``hear`` is called when it is answered, at most once: with the question, the
        answer, and when that arrived, in ns since the epoch."""
        self._hear = hear
        self._question = ntp.request(time.time_ns())
        self.send(self._question.data)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        """Take the answer; what is none is not from the daemon, or late."""
        answer: ntp.Reply | ntp.KissError
        try:
            answer = ntp.read_answer(data, self._question)
        except ntp.KissError as error:
            answer = error
        except ValueError:
            return
        arrival = self.arrival
        self.abort()
        self._hear(self._question, answer, arrival)
