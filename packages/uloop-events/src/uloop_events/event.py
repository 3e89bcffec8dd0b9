"""UEvent: what can happen on a file descriptor, in the same numbers on every platform."""

from __future__ import annotations

from enum import IntFlag

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

__all__ = ["UEVENT_OF", "UEvent"]


class UEvent(IntFlag):
    """An event mask: what a program wants to be told of, and what it is told.

    The numbers are those of Linux's ``<sys/epoll.h>`` whatever the platform; each loop
    translates, by name, at its edge. See epoll_ctl(2) for the meaning of each bit.

    ``mask & UEvent.poll_in`` runs once or more for every event of a program's life, and
    enum's own ``&`` builds its result anew each time (0.4 to 1.9 µs). This one looks the
    result up in a table instead (0.1 to 0.15 µs); everything else is enum's own.
    """

    poll_none = 0x00
    #: there is something to read: data, a connection to accept, or the end of the stream
    poll_in = 0x01
    #: urgent data (TCP), or a change of state (pseudo-terminals)
    poll_pri = 0x02
    #: there is room to write, or a connect has ended
    poll_out = 0x04
    #: an error waits to be read; reported whether asked for or not
    poll_err = 0x08
    #: both directions have ended; reported whether asked for or not
    poll_hup = 0x10
    #: the descriptor is not open; poll(2) alone says this, and no loop of ours passes it on
    poll_nval = 0x20
    #: the peer will send no more
    poll_rdhup = 0x2000
    #: wake one of several epolls that wait for the same thing; epoll alone has it
    poll_exclusive = 1 << 28
    #: report once, then be silent until the next ``modify``
    poll_oneshot = 1 << 30
    #: report changes, not states; epoll alone has it
    poll_et = 1 << 31

    if not TYPE_CHECKING:  # for a type checker, enum's own signature is the right one

        def __and__(self, other):
            return UEVENT_OF[_int_and(self, other)]

        __rand__ = __and__


class _Members(dict[int, UEvent]):
    """Every mask met so far and its UEvent; a mask not met yet is added when asked for."""

    def __missing__(self, mask: Any) -> Any:
        if mask is NotImplemented:  # what int.__and__ says of an operand that is no number
            return mask
        event = self[mask] = UEvent(mask)
        return event


_int_and = int.__and__

#: ``UEVENT_OF[mask]`` is ``UEvent(mask)`` at a fraction of the cost.
UEVENT_OF = _Members()
