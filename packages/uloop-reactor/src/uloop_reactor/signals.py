"""Signals that a program wants told of by callbacks of its loop.

Python calls its signal handlers between any two bytecodes of the main thread: in the middle of
some handler, whose data may be half changed. So ours leaves a note with the loop and wakes it, and
the callback is called like any other, in its turn.

Several loops, and others, may set handlers for one signal, and let go of them in any order. So what
was there before is put back only where we are the current one; else our handler stays, out of
use, in the chain of those who will put each other back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["Signals"]

#: what signal.signal takes and returns; ``None`` is a handler that was not installed by Python
Disposition = Callable[[int, FrameType | None], object] | int | None


class Note:
    """Our signal handler for one signal.

    Parameters:
        call: what to do when the signal comes.
        found: the disposition that was there before.
    """

    def __init__(self, call: Callable[[], object], found: Disposition) -> None:
        self.call = call
        self.found = found
        self.in_use = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        current: object = signal.getsignal(number)
        if self.in_use:
            self.call()
        elif current is self:
            # It was let go of where it could not be put back: in another thread.
            self.put_back(number)
            signal.raise_signal(number)
        else:  # somebody who came after us hands on to what he has found
            found = self._before()
            if callable(found):
                found(number, frame)

    def put_back(self, number: int) -> None:
        """Restore what was there before."""
        found = self._before()
        # What was not installed by Python cannot be restored by it either.
        signal.signal(number, signal.SIG_DFL if found is None else found)

    def _before(self) -> Disposition:
        """What was there before, past those who have been let go of since."""
        found = self.found
        while isinstance(found, Note) and not found.in_use:
            found = found.found
        return found


class Signals:
    """The signals of one loop.

    Parameters:
        call: how a callback is put off to the loop, from a signal handler.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call
        self._notes: dict[int, Note] = {}
        self._aside: dict[int, Note] = {}

    def on(self, number: int, callback: Callable[..., object] | None, args: tuple[object, ...]) -> None:
        """Call ``callback(*args)`` when the signal comes; ``None`` restores what was there before.

        Raises:
            RuntimeError: not in the main thread, where Python's signal handlers run.
            ValueError, OSError: the platform has no such signal, or it cannot be caught.
            TypeError: the callback cannot be called.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        if number not in signal.valid_signals():
            raise ValueError(f"there is no signal {number!r} on this platform")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"signal {number!r} can be watched in the main thread alone")
        self._let_go(number)
        if callback is not None:
            told = callback
            note = Note(lambda: self._call(told, *args), signal.getsignal(number))
            signal.signal(number, note)
            self._notes[number] = note

    def restore(self) -> None:
        """Put back what was there before, wherever we are the current ones."""
        for number in list(self._notes):
            self._let_go(number)

    def put_aside(self) -> None:
        """In a forked child: let go of all, until :meth:`renew`."""
        self._aside = dict(self._notes)
        self.restore()

    def renew(self) -> None:
        """Undo :meth:`put_aside`."""
        for number, note in self._aside.items():
            renewed = Note(note.call, signal.getsignal(number))
            signal.signal(number, renewed)
            self._notes[number] = renewed

    def _let_go(self, number: int) -> None:
        note = self._notes.pop(number, None)
        if note is None:
            return
        note.in_use = False
        current: object = signal.getsignal(number)
        if current is note and threading.current_thread() is threading.main_thread():
            note.put_back(number)
