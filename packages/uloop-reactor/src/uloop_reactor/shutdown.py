"""Graceful shutdown: nothing new, what was begun is finished, and it does not take for ever.

Every handler in the loop's table that has a method ``close`` is closed: listeners stop accepting,
streams flush what they hold, connectors give up. A handler that is done removes itself from
the table, so the table says when all are: then the loop stops. What is left at the deadline is
aborted; a handler without ``abort`` is removed, and its descriptor is its owner's business.
Handlers without ``close`` are not asked and not waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .timers import Timer
    from .uloop import Uloop

__all__ = ["Shutdown"]

log = logging.getLogger("uloop.reactor")


class Shutdown:
    """One shutdown of a loop.

    Parameters:
        loop: it is stopped at the end.
        table: tells the number and the handler of each descriptor.
        over: called at the end.
    """

    def __init__(
        self, loop: Uloop, table: Callable[[], list[tuple[int, object]]], over: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._table = table
        self._over = over
        self._asked: dict[int, object] = {}  # by id, since a handler need not be hashable
        self._deadline: Timer | None = None
        self._looking = False
        self._ended = False

    def begin(self, grace: float) -> None:
        """Ask everybody to close; called again, it can bring the deadline forward."""
        deadline = self._loop.time() + grace
        if self._deadline is None:
            self._deadline = self._loop.call_at(deadline, self._abort)
        elif deadline < self._deadline.when:
            self._deadline.reschedule(deadline)
        self.changed()

    def changed(self) -> None:
        """The table has changed; look later in this turn whether anybody is left."""
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self._ended:
            return
        if self._ask():
            self.changed()  # what they have left to be called comes first
        elif not self._left():
            self._end()

    def _ask(self) -> bool:
        """Ask those who were not asked yet; tells whether there were any."""
        new = [handler for _, handler in self._left() if id(handler) not in self._asked]
        for handler in new:
            self._asked[id(handler)] = handler
            _call(handler, "close")
        return bool(new)

    def _abort(self) -> None:
        self._ask()  # those who came just now, or all, if there is no time at all
        left = self._left()
        if left:
            log.warning("shutdown: aborting %d handlers that were not done in time", len(left))
        for number, handler in left:
            if hasattr(handler, "abort"):
                _call(handler, "abort")
            self._loop.remove(number)
        self._loop.call_soon(self._end)  # after what they have left to be called

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ended:
            return
        self._ended = True
        self._over()
        self._loop.stop()

    def _left(self) -> list[tuple[int, object]]:
        return [(number, handler) for number, handler in self._table() if hasattr(handler, "close")]


def _call(handler: object, name: str) -> None:
    try:
        getattr(handler, name)()
    except Exception:
        log.exception("shutdown: %s of %r failed", name, handler)
