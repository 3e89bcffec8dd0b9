"""What ``select.epoll`` makes of its arguments, and which error says what.

Source: CPython's ``Modules/selectmodule.c`` and ``Objects/fileobject.c``, and what they were seen to do.
"""

from __future__ import annotations

import math
from operator import index

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import SupportsIndex

    from .contract import Descriptor

__all__ = ["INT_MAX", "c_int", "event_mask", "file_number", "maximum_of_events", "milliseconds_of"]

INT_MAX = 2**31 - 1
UINT_MAX = 2**32 - 1
LONGEST_TIMEOUT = INT_MAX // 1000  # seconds
MAXEVENTS = 1023  # what select.epoll makes of -1


def file_number(fd: Descriptor) -> int:
    """The number of a descriptor, as CPython's ``PyObject_AsFileDescriptor`` finds it."""
    if isinstance(fd, int):
        number = int(fd)
    else:
        fileno = getattr(fd, "fileno", None)
        if fileno is None:
            raise TypeError(f"fd must be an int, or have a fileno() method, not {fd!r}")
        result = fileno()
        if not isinstance(result, int):
            raise TypeError(f"fileno() of {fd!r} must return an int, not {result!r}")
        number = int(result)
    if c_int(number) < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    return number


def event_mask(eventmask: SupportsIndex) -> int:
    """The 32 bits that epoll_ctl(2) would see."""
    return index(eventmask) & UINT_MAX


def c_int(value: SupportsIndex) -> int:
    """An integer that fits into a C int; ``OverflowError`` if it does not."""
    number = index(value)
    if not -INT_MAX - 1 <= number <= INT_MAX:
        raise OverflowError(f"{number} does not fit into a C int")
    return number


def maximum_of_events(maxevents: int) -> int:
    """How many events a poll may return."""
    if maxevents > 0:
        return maxevents
    if maxevents == -1:
        return MAXEVENTS
    raise ValueError(f"maxevents must be -1 or greater than 0, got {maxevents}")


def milliseconds_of(timeout: float | None) -> int | None:
    """A timeout as epoll_wait(2) counts it; ``None`` for ever.

    Seconds are rounded away from zero to nanoseconds, then up to milliseconds: no wait is
    shorter than asked for, and -0.0009 is no wait at all.
    """
    if timeout is None:
        return None
    if type(timeout) is int and 0 <= timeout <= LONGEST_TIMEOUT:
        return timeout * 1000  # as below, but quicker
    if isinstance(timeout, float):
        scaled = timeout * 1e9
        try:
            nanoseconds = math.ceil(scaled) if scaled >= 0 else math.floor(scaled)
        except ValueError:
            raise ValueError("timeout must be a number of seconds or None, not NaN") from None
        except OverflowError:
            raise OverflowError(f"timeout is too large: {timeout}") from None
    else:
        try:
            nanoseconds = index(timeout) * 1_000_000_000
        except TypeError:
            raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}") from None
    milliseconds = -(-nanoseconds // 1_000_000)
    if not -INT_MAX - 1 <= milliseconds <= INT_MAX:
        raise OverflowError(f"timeout is too large: {timeout}")
    return None if milliseconds < 0 else milliseconds
