"""The contract that every loop of this package keeps: what ``select.epoll`` does, observed.

==================  ======================  ==========================================
loop                runs on                 built on
==================  ======================  ==========================================
``select.epoll``    Linux                   epoll(7), with nothing of ours in between
``KqueueLoop``      macOS, the BSDs         kqueue(2)
``AfdLoop``         Windows                 the AFD driver, which is under Winsock
``PollLoop``        Linux, macOS, the BSDs  poll(2)
``SelectLoop``      everywhere              select(2); on Windows, Winsock's select
==================  ======================  ==========================================

What a platform cannot do is refused with an error that names it, never ignored.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

__all__ = ["Descriptor", "EpollLike", "HasFileno"]


class HasFileno(Protocol):
    """Anything that stands for a descriptor: a socket, a pipe's file object, ..."""

    def fileno(self) -> int: ...


#: A descriptor: its number (on Windows a socket's handle), or an object that tells it.
Descriptor = int | HasFileno


class EpollLike(Protocol):
    """Waits for events on many descriptors, as ``select.epoll`` does.

    A descriptor is registered with a mask of :class:`~uloop_events.UEvent` bits, or of the
    plain integers they stand for. Events are levels: a descriptor is reported by every
    ``poll`` for as long as the event lasts, unless ``poll_oneshot`` was asked for. One
    ``poll`` reports a descriptor once at most, with everything that holds for it in one
    mask: what was asked for, and ``poll_err`` and ``poll_hup`` in any case.

    A descriptor that is closed while it is registered is dropped in silence. Unregister it
    first all the same: its number may be in use again by the time anybody notices; epoll itself
    watches the open file, and reports the old number until its last duplicate is closed; and a
    thread that waits in poll(2) or select(2) keeps the file open until its wait ends.

    Any thread may call any method at any time. A change takes effect on a ``poll`` that another
    thread is in already; several threads may poll, and what is ready is told to each of them, a
    oneshot to one of them.

    Every method but ``close`` and ``__exit__`` raises ``ValueError`` once the loop is closed, if
    its arguments are of the right types. Source: epoll(7), epoll_ctl(2), epoll_wait(2),
    and CPython's ``Modules/selectmodule.c`` where those leave room.
    """

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        ...

    def register(self, fd: Descriptor, eventmask: int = ...) -> None:
        """Start to watch a descriptor.

        Parameters:
            fd: the number of an open descriptor, or an object with ``fileno()``.
            eventmask: what to watch for; IN, PRI and OUT when not given. Bits above the
                32nd are cut off, unknown ones are ignored.

        Raises:
            TypeError: ``fd`` is neither, or ``eventmask`` is no integer.
            ValueError: ``fd`` is negative (a closed socket's is), or does not fit the
                platform's call, or the mask asks for what the platform cannot do.
            OverflowError: ``fd`` is larger than a C int.
            FileExistsError: it is registered already.
            PermissionError: it is a file or a directory, which are always ready (EPERM).
            OSError: it is not open (EBADF).
        """
        ...

    def modify(self, fd: Descriptor, eventmask: int) -> None:
        """Watch a registered descriptor for something else; re-arms ``poll_oneshot``.

        Raises as ``register`` does, but ``FileNotFoundError`` when it is not registered.
        """
        ...

    def unregister(self, fd: Descriptor) -> None:
        """Stop watching a descriptor.

        Raises:
            FileNotFoundError: it is not registered, or its number has been closed and
                opened again since.
            OSError: it is not open (EBADF).
        """
        ...

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait until a registered descriptor has something to report.

        Parameters:
            timeout: seconds to wait at most, rounded up to the next millisecond; 0 looks
                and returns; ``None`` or a negative number waits for ever.
            maxevents: how many descriptors to report at most; -1 leaves it to the loop.
                When more are ready, the others come first in the calls that follow.

        Returns:
            A list of ``(descriptor, mask)`` pairs of plain integers; empty when the time
            ran out.

        Raises:
            TypeError: ``timeout`` is no number, or ``maxevents`` no integer.
            ValueError: ``timeout`` is NaN, or ``maxevents`` is 0 or less than -1.
            OverflowError: ``timeout`` is above 2147483.647, or ``maxevents`` above 2**31 - 1.
            OSError: a second thread polls in a loop on poll or select, which takes two
                descriptors more, and there are none left (EMFILE).
        """
        ...

    def close(self) -> None:
        """Let go of everything. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None: ...
