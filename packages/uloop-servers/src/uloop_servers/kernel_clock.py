"""What the kernel says of its own clock: whether somebody keeps it right, and how wrong it may be.

Time daemons (chronyd, ntpd, timesyncd …) tell the kernel how good the clock is that they steer, and
anybody may ask it: adjtimex(2) on Linux, ntp_gettime(2) on macOS and FreeBSD. Both come from "A Kernel
Model for Precision Timekeeping", RFC 1589. So a server can say honestly how good its time is, without
a word with the daemon.

Elsewhere, and in a sandbox that forbids the call, the state cannot be read.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

__all__ = ["KernelClock", "read"]

TIME_INS, TIME_DEL, TIME_OOP, TIME_WAIT, TIME_ERROR = 1, 2, 3, 4, 5  # <sys/timex.h>, the same everywhere
STA_INS, STA_DEL = 0x0010, 0x0020
#: A leap second in progress (TIME_OOP) is inserted in the current minute.
LEAP = {TIME_INS: 1, TIME_OOP: 1, TIME_DEL: 2}
MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True)
class KernelClock:
    """The state of the kernel's clock.

    Parameters:
        synchronised: whether somebody keeps it right; after 16 seconds of possible error the
            kernel itself says no.
        leap: what it will do at the end of the day, whether it is synchronised or not: 0 nothing, 1
            insert a second, 2 leave one out.
        maxerror: seconds that it is wrong at most, as the daemon has reckoned.
        esterror: seconds that it is wrong by estimate.
    """

    synchronised: bool
    leap: int
    maxerror: float
    esterror: float


if sys.platform == "linux":

    class _Timex(ctypes.Structure):
        """``struct timex``, adjtimex(2): modes of 0 only read."""

        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_long * 32),  # more than any Linux writes
        )

    def _ask() -> tuple[int, int, int, int] | None:
        """The clock's state (``TIME_…``), its status bits, and the errors in microseconds."""
        timex = _Timex()
        state: int = _libc().adjtimex(ctypes.byref(timex))
        if state == -1:
            return None
        return state, timex.status, timex.maxerror, timex.esterror

else:

    class _NtpTimeval(ctypes.Structure):
        """``struct ntptimeval``, <sys/timex.h> of macOS and FreeBSD."""

        _fields_ = (
            ("seconds", ctypes.c_longlong if sys.platform.startswith("freebsd") else ctypes.c_long),
            ("nanoseconds", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("tai", ctypes.c_long),
            ("time_state", ctypes.c_int),
            ("rest", ctypes.c_long * 8),
        )

    def _ask() -> tuple[int, int, int, int] | None:
        """The clock's state (``TIME_…``), no status bits, and the errors in microseconds."""
        if sys.platform != "darwin" and not sys.platform.startswith("freebsd"):
            return None  # NetBSD has another struct, the others have no such call
        timeval = _NtpTimeval(time_state=-1)
        # What it returns is the state on one system, and 0 on the other; the struct has it on both.
        _libc().ntp_gettime(ctypes.byref(timeval))
        if timeval.time_state == -1:
            return None
        return timeval.time_state, 0, timeval.maxerror, timeval.esterror


def read() -> KernelClock | None:
    """Ask the kernel. Takes some microseconds, and needs no privilege.

    Returns:
        The state of its clock, or ``None`` where that cannot be read.
    """
    try:
        answer = _ask()
    except (OSError, AttributeError):
        return None  # no C library to be had, or one without the call
    if answer is None:
        return None
    state, status, maxerror, esterror = answer
    if state == TIME_ERROR:
        # Not synchronised, which hides what the kernel is going to do: only the order for it is told.
        leap = 1 if status & STA_INS else 2 if status & STA_DEL else 0
    else:
        leap = LEAP.get(state, 0)
    return KernelClock(state != TIME_ERROR, leap, maxerror * MICROSECOND, esterror * MICROSECOND)


@cache
def _libc() -> ctypes.CDLL:
    """The C library that this program already uses: glibc, musl, or another."""
    return ctypes.CDLL(None)
