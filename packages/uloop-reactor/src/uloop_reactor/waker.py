"""Waker: ends the wait of a loop, from another thread or from a signal handler.

A pair of connected sockets: the loop watches one, and a byte sent into the other makes it
readable. A pair of sockets rather than an eventfd or a pipe, because Windows' select takes
sockets alone, and because a signal's C-level handler (``signal.set_wakeup_fd``) writes one
byte where an eventfd wants eight.

What a byte says is "look", not what at: whoever wakes the loop has left a note elsewhere
first. So bytes that do not fit are no loss: the ones that did are still unread.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from uloop_events import UEvent

__all__ = ["Waker"]


class Waker:
    """Makes its own descriptor readable when asked to; a handler like any other."""

    def __init__(self) -> None:
        self._gets_signals = False
        self._open()

    def _open(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        try:
            # On Windows it is a TCP connection, where a byte would wait for the last one's ACK.
            self._writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # elsewhere it is a pair of Unix sockets

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the descriptor readable. Any thread, any signal handler; takes no lock."""
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # full: there is enough in it to wake the loop; closed: nobody to wake

    def wait(self, seconds: float) -> None:
        """Wait until somebody wakes us, without the loop's backend."""
        self._reader.settimeout(seconds)
        try:
            self._reader.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            pass
        except OSError:
            time.sleep(seconds)  # what fails the backend may fail a socket's own wait too
        finally:
            self._reader.setblocking(False)

    def process_event(self, fileno: int, event: UEvent, /) -> None:
        """Swallow what has come; what it was for is looked at in every turn anyway."""
        try:
            while len(self._reader.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    @contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """Let signals wake the loop while this lasts; then restore what was there.

        Without it a signal that arrives just before the wait begins is noticed only when the
        wait ends by itself, and on Windows Ctrl-C never ends a wait. Python can do it in the
        main thread alone, where its signal handlers run.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._gets_signals = True
        try:
            yield
        finally:
            self._gets_signals = False
            try:
                signal.set_wakeup_fd(previous)
            except (OSError, ValueError):
                signal.set_wakeup_fd(-1)  # its owner has closed it meanwhile

    def let_go(self) -> None:
        """In a forked child: wake the parent no more, whose sockets these are too."""
        if self._gets_signals:
            signal.set_wakeup_fd(-1)

    def renew(self) -> None:
        """Make sockets that are ours alone."""
        self.close()
        self._open()
        if self._gets_signals:
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
