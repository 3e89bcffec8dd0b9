"""Signals that a program wants told of by callbacks of its loop.

Python calls its signal handlers between any two bytecodes of the main thread: in the middle of
some handler, whose data may be half changed. So ours leaves a note with the loop and wakes it, and
the callback is called like any other, in its turn.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

__all__ = ["Signals"]

#: what signal.signal takes and returns
Disposition = Callable[[int, FrameType | None], object] | int | None


class Signals:
    """The signals of one loop.

    Parameters:
        call: how a callback is put off to the loop, from a signal handler.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call
        self._found: dict[int, Disposition] = {}  # what was there before us
        self._ours: dict[int, Disposition] = {}

    def on(self, number: int, callback: Callable[..., object] | None, args: tuple[object, ...]) -> None:
        """Call ``callback(*args)`` when the signal comes; ``None`` restores what was there before.

        Raises:
            RuntimeError: not in the main thread, where Python's signal handlers run.
            ValueError, OSError: the platform has no such signal, or it cannot be caught.
            TypeError: the callback cannot be called.
        """
        if callback is None:
            if number in self._found:
                self._set(number, self._found.pop(number))
                del self._ours[number]
            return
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        told = callback

        def note(signum: int, frame: FrameType | None) -> None:
            self._call(told, *args)

        found = self._set(number, note)
        self._found.setdefault(number, found)
        self._ours[number] = note

    def restore(self) -> None:
        """Put back what was there before; :meth:`renew` undoes it."""
        for number, found in self._found.items():
            if signal.getsignal(number) is self._ours[number]:  # else somebody else has come after us
                self._set(number, found)

    def renew(self) -> None:
        """Tell the loop again."""
        for number, ours in self._ours.items():
            self._set(number, ours)

    @staticmethod
    def _set(number: int, disposition: Disposition) -> Disposition:
        try:
            # None: a handler that was not installed by Python, which cannot be put back
            return signal.signal(number, signal.SIG_DFL if disposition is None else disposition)
        except ValueError as error:
            if number not in signal.valid_signals():
                raise
            raise RuntimeError(
                f"{signal.Signals(number).name} can be watched in the main thread alone"
            ) from error
