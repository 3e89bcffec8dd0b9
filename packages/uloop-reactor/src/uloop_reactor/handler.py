"""EventHandler: what a loop calls when something happens on a descriptor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from uloop_events import UEvent

if TYPE_CHECKING:
    from .uloop import Uloop

__all__ = ["EventHandler", "ProcessesEvents"]


class ProcessesEvents(Protocol):
    """All that a loop asks of a handler. It need not inherit from anything."""

    def process_event(self, fileno: int, event: UEvent, /) -> object:
        """Deal with what happened.

        Parameters:
            fileno: the descriptor it happened on.
            event: all that holds for it. ``poll_err`` and ``poll_hup`` come unasked, and
                events are levels: what is not dealt with is reported again in the next turn.
        """
        ...


class EventHandler(ABC):
    """A base for handlers of one descriptor, for those who like to inherit.

    >>> class Echo(EventHandler):
    ...     def __init__(self, sock):
    ...         self.sock = sock
    ...     def fileno(self):
    ...         return self.sock.fileno()
    ...     def process_event(self, fileno, event):
    ...         data, peer = self.sock.recvfrom(65535)
    ...         self.sock.sendto(data, peer)
    """

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor that this handler is for."""

    def add_to_event_loop(self, loop: Uloop) -> None:
        """Add this handler to a loop, to be told when there is something to read."""
        loop.add(self.fileno(), UEvent.poll_in, self)

    @abstractmethod
    def process_event(self, fileno: int, event: UEvent, /) -> object:
        """Deal with what happened: see :meth:`ProcessesEvents.process_event`."""
