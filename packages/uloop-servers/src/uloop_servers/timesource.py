"""What time it is, and how good that is.

The time is always that of this machine's clock: we set no clocks. How good it is, is for a
:class:`Reference` to say, of which there are three:

* :class:`KernelReference`: what the kernel has been told by whoever steers its clock (the default).
* :class:`LocalReference`: the operator's word, where nobody steers it, or nobody can say
  (``--trust-local-clock``).
* :class:`uloop_servers.follow.Daemon`: what the daemon that steers it tells over NTP (``--follow``).

All times are whole nanoseconds since the Unix epoch (1970-01-01, UTC), as ``time.time_ns`` has them. So
nothing is rounded, and nothing ends in 2036 or 2038.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from . import kernel_clock

__all__ = [
    "LEAP_UNSYNCHRONISED",
    "PHI",
    "SECOND",
    "UNSYNCHRONISED",
    "KernelReference",
    "LocalReference",
    "Quality",
    "Reference",
    "TimeSource",
]

SECOND = 1_000_000_000  # ns
LEAP_UNSYNCHRONISED = 3  # the leap indicator of a clock that is not synchronised, RFC 5905, section 7.3
PHI = 15e-6  # how many seconds a clock may drift in one, RFC 5905, section 7.2
UPDATE_INTERVAL = 64 * SECOND  # how often a local clock counts as compared with itself, like chrony's
LOCAL_DISPERSION = 1e-3  # seconds, for a clock that somebody vouches for
LOCAL_CLOCK = bytes((127, 127, 1, 1))  # the reference of ntpd's and chrony's "local clock"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the time is, in NTP's terms (RFC 5905, section 7.3).

    Parameters:
        leap: the last minute of this month has 60 (0), 61 (1) or 59 (2) seconds; 3: the clock is
            not synchronised.
        stratum: 1 to 15, how many clocks away the reference clock is; 16: not synchronised.
        reference_id: 4 bytes, what it is synchronised to.
        reference_time: when it was last set or checked, in ns since the epoch.
        root_delay: seconds, the round trip to the reference clock.
        root_dispersion: seconds, the largest error but for the delay, grown to the moment asked about.
    """

    leap: int
    stratum: int
    reference_id: bytes
    reference_time: int
    root_delay: float
    root_dispersion: float

    @property
    def synchronised(self) -> bool:
        """Whether clients may set their clocks by it."""
        return self.leap != LEAP_UNSYNCHRONISED


#: for a clock of which nothing is known; 16 seconds are MAXDISP, "as wrong as can be"
UNSYNCHRONISED = Quality(
    leap=LEAP_UNSYNCHRONISED,
    stratum=16,
    reference_id=b"INIT",
    reference_time=0,
    root_delay=0.0,
    root_dispersion=16.0,
)


class Reference(Protocol):
    """Who says how good the time is."""

    def quality(self, now: int) -> Quality:
        """How good it is.

        Parameters:
            now: ns since the epoch.
        """
        ...


class TimeSource:
    """The time of this machine, and how good it is.

    Parameters:
        reference: who says how good; ``None``: the kernel.
        utc: tell UTC instead of the local time zone's.
    """

    def __init__(self, reference: Reference | None = None, *, utc: bool = False) -> None:
        self.utc = utc
        self._reference = KernelReference() if reference is None else reference
        self._quality = UNSYNCHRONISED
        self._asked = -SECOND  # when the reference was asked, ns since the epoch

    def now(self) -> int:
        """The time, in ns since the epoch."""
        return time.time_ns()

    def quality(self, now: int) -> Quality:
        """How good the time is.

        The reference is asked at most once a second, since every NTP packet needs the answer and the
        kernel takes a microsecond or two. So a change shows a second later, and the dispersion is that
        of the end of the second: never less than is true.

        Parameters:
            now: ns since the epoch.
        """
        if not 0 <= now - self._asked < SECOND:  # nor do we keep it when the clock was set back
            quality = self._reference.quality(now)
            self._quality = replace(quality, root_dispersion=quality.root_dispersion + PHI)
            self._asked = now
        return self._quality

    def local(self, now: int) -> datetime:
        """A time in the local time zone, or in UTC if this source has ``utc``: always aware.

        Parameters:
            now: ns since the epoch.
        """
        moment = EPOCH + timedelta(microseconds=now // 1000)
        return moment if self.utc else moment.astimezone()


class KernelReference:
    """The kernel's word, which it has from whoever steers its clock.

    The kernel's largest error contains the root delay; so it is told as the root dispersion, and the
    delay as 0. The kernel lets it grow itself, faster than we would. Which server the time comes from
    the kernel does not know: the stratum is the operator's to say, and is far from the top if he
    does not.

    Where the kernel's word cannot be had, as on Windows, the clock counts as not synchronised.

    Parameters:
        stratum: 1 to 15.

    Raises:
        ValueError: no such stratum.
    """

    def __init__(self, stratum: int = 10) -> None:
        self._stratum = _checked(stratum)

    def quality(self, now: int) -> Quality:
        """See :meth:`Reference.quality`."""
        clock = kernel_clock.read()
        if clock is None or not clock.synchronised:
            return UNSYNCHRONISED
        return Quality(
            leap=clock.leap,
            stratum=self._stratum,
            reference_id=_reference_id(self._stratum),
            reference_time=_last_update(now),
            root_delay=0.0,
            root_dispersion=clock.maxerror,
        )


class LocalReference:
    """The operator's word: this clock is right, whatever the kernel says.

    Leap seconds are announced all the same if the kernel has been told of one, since the
    announcement is of what this very clock is going to do.

    Parameters:
        stratum: 1 to 15. The default is one that no client prefers to a server with a better source.

    Raises:
        ValueError: no such stratum.
    """

    def __init__(self, stratum: int = 10) -> None:
        self._stratum = _checked(stratum)

    def quality(self, now: int) -> Quality:
        """See :meth:`Reference.quality`."""
        clock = kernel_clock.read()
        updated = _last_update(now)
        return Quality(
            leap=0 if clock is None else clock.leap,
            stratum=self._stratum,
            reference_id=_reference_id(self._stratum),
            reference_time=updated,
            root_delay=0.0,
            root_dispersion=LOCAL_DISPERSION + PHI * (now - updated) / SECOND,
        )


def _checked(stratum: int) -> int:
    if not 1 <= stratum <= 15:
        raise ValueError(f"the stratum must be 1 to 15, not {stratum}")
    return stratum


def _reference_id(stratum: int) -> bytes:
    # At stratum 1 it is a name, and LOCL is the one of an "uncalibrated local clock": RFC 4330, section 4.
    return b"LOCL" if stratum == 1 else LOCAL_CLOCK


def _last_update(now: int) -> int:
    # Some clients reject a reference time that is old, or in the future.
    return now - now % UPDATE_INTERVAL
