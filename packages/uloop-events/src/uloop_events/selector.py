"""LoopSelector: any loop of this package as one of the selectors of Python's ``selectors``.

What is written for ``selectors``, asyncio above all, runs on such a loop by it: on one that
scales where the platform's own selector does not, or on the one that a test is about. This
takes the platform's best; ``LoopSelector(PollLoop())`` would take poll::

    import asyncio
    from uloop_events.selector import LoopSelector

    def new_event_loop():
        return asyncio.SelectorEventLoop(LoopSelector())

    async def greet(reader, writer):
        writer.write(b"Hello, " + await reader.readline())
        writer.close()

    async def main():
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"world\\n")
        print((await reader.read()).decode(), end="")
        writer.close()
        server.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())

To what the loop costs, ``register``, ``modify``, ``unregister`` and ``get_key`` add O(1), and
``select`` O(ready). Only a file object that was closed while it was registered is searched
for, in O(registered), for it does not know its number any more.

Where the selectors of the standard library differ, this one does what its ``EpollSelector``
does, with two exceptions: ``modify`` refuses bad events as ``register`` does, and what cannot
be modified leaves the loop as well as the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey

from .event import UEvent

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from _typeshed import FileDescriptorLike

    from .contract import EpollLike

__all__ = ["LoopSelector"]

IN = int(UEvent.poll_in)
OUT = int(UEvent.poll_out)
MASK_OF = {EVENT_READ: IN, EVENT_WRITE: OUT, EVENT_READ | EVENT_WRITE: IN | OUT}
NOT_IN = ~IN
NOT_OUT = ~OUT


class LoopSelector(BaseSelector):
    """Waits by means of a loop, and keeps a file object and some data for each descriptor.

    A file object is a descriptor's number, or an object with ``fileno()``. Events are
    ``EVENT_READ``, ``EVENT_WRITE`` or both. ``get_key`` and ``with`` are those of ``BaseSelector``.
    """

    #: the loop's, by which another loop can watch this one; missing if the loop has no descriptor
    fileno: Callable[[], int]

    def __init__(self, loop: EpollLike | None = None) -> None:
        """Take over a loop; ``close`` will close it.

        Parameters:
            loop: an open loop with nothing registered, for this selector's use alone;
                ``None`` for a new ``uloop_events.epoll()``, the platform's best.
        """
        if loop is None:
            from . import epoll  # not at the top, for the package may import this module

            loop = epoll()
        self._loop = loop
        self._keys: dict[int, SelectorKey] = {}
        self._map: Mapping[FileDescriptorLike, SelectorKey] | None = _KeyMap(self._keys)
        if hasattr(loop, "fileno"):
            self.fileno = loop.fileno

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """Start to watch a file object.

        Parameters:
            fileobj: what to watch.
            events: what to watch for.
            data: what ``select`` shall give back with the events.

        Returns:
            The key that it is registered with.

        Raises:
            ValueError: the events or the file object are bad, or the file object is closed, or does
                not fit into the loop; or the selector is closed.
            KeyError: the descriptor is registered already.
            OSError: the loop refuses it, because it is not open or is a regular file, say.
        """
        mask = _mask_of(events)
        key = SelectorKey(fileobj, _find(fileobj, self._keys), events, data)
        if key.fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {key.fd}) is already registered")
        self._loop.register(key.fd, mask)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        """Stop watching a file object, which may have been closed in the meantime.

        Parameters:
            fileobj: what was registered, or its number.

        Returns:
            The key that it was registered with.

        Raises:
            KeyError: it is not registered.
            ValueError: it is no file object, or a closed one that is not registered.
        """
        key = _registered(fileobj, self._keys)
        self._drop(key.fd)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """Watch a registered file object for other events, or with other data.

        Parameters:
            fileobj: what was registered, or its number.
            events: what to watch for from now on.
            data: what ``select`` shall give back with the events from now on.

        Returns:
            The key that it is registered with now.

        Raises:
            KeyError, ValueError: as ``unregister``, or the events are bad; nothing has changed.
            OSError: the loop refuses, because the descriptor was closed, say. As with the
                standard library's selectors, the file object is not registered any more.
        """
        key = _registered(fileobj, self._keys)
        if events != key.events:
            mask = _mask_of(events)
            try:
                self._loop.modify(key.fd, mask)
            except BaseException:
                self._drop(key.fd)
                raise
        if events != key.events or data is not key.data:
            key = self._keys[key.fd] = SelectorKey(key.fileobj, key.fd, events, data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait until a registered file object is ready.

        Parameters:
            timeout: seconds to wait at most, rounded up to milliseconds by the loop; 0 or less
                looks and returns; ``None`` waits for ever.

        Returns:
            Keys, each with its events; none when the time ran out. An error or a hang-up is every
            event that was asked for, so that whoever waits finds out.

        Raises:
            ValueError: the selector is closed, or ``timeout`` is NaN.
            OverflowError: ``timeout`` is more than the loop takes, which is 24 days.
        """
        if timeout is not None and timeout <= 0:
            timeout = 0  # of a negative number the loop would make an endless wait
        keys = self._keys
        ready = []
        for number, mask in self._loop.poll(timeout, len(keys) or 1):
            key = keys.get(number)
            if key is not None:
                events = (mask & NOT_IN and EVENT_WRITE) | (mask & NOT_OUT and EVENT_READ)
                ready.append((key, events & key.events))
        return ready

    def close(self) -> None:
        """Close the loop and forget every key; a second call does nothing."""
        self._keys.clear()
        self._map = None
        self._loop.close()

    def get_map(self) -> Mapping[FileDescriptorLike, SelectorKey]:
        """The keys by number and file object, as a read-only view; ``None`` when closed."""
        return self._map  # type: ignore[return-value]  # typeshed knows of no None

    def _drop(self, number: int) -> None:
        del self._keys[number]
        try:
            self._loop.unregister(number)
        except OSError:
            pass  # it was closed while it was registered, so the loop has dropped it by itself


class _KeyMap(Mapping["FileDescriptorLike", SelectorKey]):
    """A read-only view of the keys; its iterator gives numbers."""

    def __init__(self, keys: dict[int, SelectorKey]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __getitem__(self, fileobj: FileDescriptorLike) -> SelectorKey:
        return _registered(fileobj, self._keys)


def _mask_of(events: int) -> int:
    if events not in MASK_OF:
        raise ValueError(f"Invalid events: {events!r}")
    return MASK_OF[events]


def _registered(fileobj: FileDescriptorLike, keys: dict[int, SelectorKey]) -> SelectorKey:
    key = keys.get(_find(fileobj, keys))
    if key is None:
        raise KeyError(f"{fileobj!r} is not registered")
    return key


def _find(fileobj: FileDescriptorLike, keys: dict[int, SelectorKey]) -> int:
    """The number of a file object; of a closed one, the number that it is registered with."""
    try:
        number = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        number = None
    if number is not None and number >= 0:
        return number
    for key in keys.values():
        if key.fileobj is fileobj:
            return key.fd
    if number is None:
        raise ValueError(f"Invalid file object: {fileobj!r}")
    raise ValueError(f"Invalid file descriptor: {number}")
