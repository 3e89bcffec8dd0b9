"""Registry: the descriptors of a loop, each with its handler, in our table and in the backend's.

The two agree, but for these: a mask of 0 is silence here, even of errors; a handler that failed
is left out for a while; and a descriptor that was closed without a word is in our table alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from uloop_events import UEvent

from .factory import create_backend
from .handler import ProcessesEvents
from .timers import Timer

__all__ = ["TOLD_ONCE", "Registration", "Registry"]

log = logging.getLogger("uloop.reactor")

UNASKED = int(UEvent.poll_err | UEvent.poll_hup)  # reported whatever the mask
#: registered, but silent: an error is reported once at most, and then filtered out. A mask of
#: 0 would do for silence, if it did not report errors in every turn.
MUTED = ONESHOT = int(UEvent.poll_oneshot)
EXCLUSIVE = int(UEvent.poll_exclusive)
TOLD_ONCE = int(UEvent.poll_oneshot | UEvent.poll_et)


class Registration:
    """What the loop knows of one descriptor."""

    __slots__ = ("failures", "handler", "mask", "pause", "reportable")

    def __init__(self, handler: ProcessesEvents, mask: int) -> None:
        self.handler = handler
        self.ask_for(mask)
        self.failures = 0  # in a row
        self.pause: Timer | None = None  # what ends the pause it is in

    def ask_for(self, mask: int) -> None:
        """What the program wants to be told of; nothing at all, not even errors, if that is 0."""
        self.mask = mask
        self.reportable = mask | UNASKED if mask else 0


class Registry:
    """The descriptors of one loop.

    Parameters:
        backend: as for ``create_backend``.
    """

    def __init__(self, backend: str | None) -> None:
        self.name, self.backend = create_backend(backend)
        self.table: dict[int, Registration] = {}
        self.turn = 0  # the one that the loop is in
        # The numbers that were added in this turn, whose events are none of their business, and those that
        # were modified. In each registration, as the number of a turn, it would cost 48 bytes.
        self.added: set[int] = set()
        self.modified: set[int] = set()

    def add(self, number: int, mask: int, handler: ProcessesEvents) -> Registration | None:
        """Register a descriptor.

        Returns:
            What was known of that number before: the backend has accepted it, so that one was
            closed in between.
        """
        self.backend.register(number, mask or MUTED)
        before = self.forget(number)
        self.table[number] = Registration(handler, mask)
        self.added.add(number)
        return before

    def modify(self, number: int, mask: int) -> None:
        """Watch a descriptor for something else, if it is known."""
        registration = self.table.get(number)
        if registration is None:
            return
        self.backend.modify(number, mask or MUTED)
        registration.ask_for(mask)
        self.modified.add(number)
        if registration.pause is not None:
            self._mute(number, registration)  # it was possible, and waits for the end of the pause

    def remove(self, number: int) -> bool:
        """Forget a descriptor, if it is known; tells whether it was."""
        if self.forget(number) is None:
            return False
        try:
            self.backend.unregister(number)
        except OSError:
            pass  # closed already: the backend has dropped it, or is about to
        return True

    def forget(self, number: int) -> Registration | None:
        """Take a descriptor out of our table alone."""
        registration = self.table.pop(number, None)
        if registration is not None and registration.pause is not None:
            registration.pause.cancel()
        return registration

    def asks_for_more(self, number: int, registration: Registration) -> bool:
        """Whether a handler that has failed in this turn would be called again by itself.

        A oneshot would not, unless the handler asked for more before it failed.
        """
        return not registration.mask & ONESHOT or number in self.modified

    def leave_out(self, number: int, registration: Registration, until: Timer) -> None:
        """Call a handler no more for a while."""
        registration.pause = until
        self._mute(number, registration)

    def let_in(self, number: int, registration: Registration) -> None:
        """End the pause of a handler."""
        registration.pause = None
        registration.ask_for(registration.mask)
        self._watch(number, registration, registration.mask or MUTED)

    def arm_again(self, missed: Iterable[tuple[int, int]]) -> None:
        """Have those told again that are told once, and will not be, because the turn is left early."""
        for number, _ in missed:
            registration = self.table.get(number)
            if registration is not None and registration.reportable & TOLD_ONCE:
                self._watch(number, registration, registration.mask)

    def renew(self, table: dict[int, Registration]) -> None:
        """Make a backend that knows these descriptors and nothing else.

        A oneshot counts as armed: that it was told already is not known here, so it may be told
        once more.
        """
        self.backend.close()
        _, self.backend = create_backend(self.name)
        self.table.clear()  # in place: the loop may be in the middle of it
        for number, registration in table.items():
            mask = registration.mask or MUTED
            try:
                self.backend.register(number, MUTED if registration.pause is not None else mask)
            except OSError as error:
                log.warning(
                    "removed descriptor %d: %s; its handler was %r", number, error, registration.handler
                )
                continue
            self.table[number] = registration
            self.added.add(number)  # what was collected before is none of its business

    def close(self) -> None:
        self.table.clear()
        self.backend.close()

    def _mute(self, number: int, registration: Registration) -> None:
        registration.reportable = 0
        self._watch(number, registration, MUTED)

    def _watch(self, number: int, registration: Registration, mask: int) -> None:
        """Have the backend watch for something else than the program asked for, or for that again."""
        try:
            if registration.mask & EXCLUSIVE:  # epoll_ctl(2) does not modify these
                self.backend.unregister(number)
                self.backend.register(number, mask)
            else:
                self.backend.modify(number, mask)
        except OSError:
            log.warning(
                "removed descriptor %d: it was closed; its handler was %r", number, registration.handler
            )
            self.forget(number)
