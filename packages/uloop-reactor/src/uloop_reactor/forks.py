"""What a fork does to the loops of the process, in the child.

The child has a copy of the loop's memory, but shares the kernel's side of it with its parent: the
same epoll, the same wake-up socket. If it went on, parent and child would take each other's
events and each other's wake-ups, and an ``unregister`` of one would count for both. So in the
child a loop is put aside (:meth:`Uloop._put_aside`), and refuses to be used until it is closed, or made
anew by :meth:`Uloop.reinit`. Even in the middle of a batch the child does nothing more of it.

``os.fork`` calls this, and so does multiprocessing's ``fork``; ``subprocess`` does not, and need not.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

from uloop_events import UEvent

if TYPE_CHECKING:
    from .turns import Turns
    from .uloop import Uloop

__all__ = ["FORKED", "Aside", "note"]

FORKED = "this loop is its parent process's: call reinit() to use it here, or close() to let go of it"

_loops: WeakSet[Uloop] = WeakSet()


class Aside:
    """What a loop held when its process forked, out of the child's reach; taken from it when made."""

    def __init__(self, turns: Turns) -> None:
        self._stopping = turns.stopping
        self._table = dict(turns.registry.table)
        self._timers = turns.timers.put_aside()
        self._soon = list(turns.soon)
        turns.registry.table.clear()
        turns.soon.clear()
        turns.stopping = True  # after the callback that has forked, if there is one
        turns.sleep_no_more()
        turns.waker.let_go()

    def forget(self, number: int) -> None:
        """The child has closed a descriptor of its own accord."""
        self._table.pop(number, None)

    def give_back(self, turns: Turns) -> None:
        """Let the loop go on with it, in a backend and with a waker of its own.

        Raises:
            OSError: there is no descriptor left.
        """
        self._table.pop(turns.waker.fileno(), None)
        turns.waker.renew()
        turns.registry.renew(self._table)
        turns.registry.add(turns.waker.fileno(), int(UEvent.poll_in), turns.waker)
        turns.use_backend()
        turns.timers.put_back(self._timers)
        turns.soon.extend(self._soon)
        turns.stopping = self._stopping


def note(loop: Uloop) -> None:
    """Have a loop put aside in every child that is forked from now on."""
    _loops.add(loop)


def _put_aside() -> None:
    for loop in list(_loops):
        loop._put_aside()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_put_aside)
