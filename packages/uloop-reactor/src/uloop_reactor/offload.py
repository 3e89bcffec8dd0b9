"""Offload: calls that block, and the resolution of names, on threads beside the loop.

* A call runs on one of a few threads, and ``done(future)`` runs in the thread of the loop:
  once, whether the call returned or raised.
* Who cancels is not told: after a ``future.cancel()`` that returned True, nothing is called.
* Names have threads of their own. In one pool, slow calls would delay every new connection,
  and one dead name server every call.
* Nothing here is waited for at the end: not by ``close``, and not when the interpreter exits.

The last is why this is not ``concurrent.futures.ThreadPoolExecutor``, which joins its threads
at exit: one ``getaddrinfo`` that hangs for half a minute (resolv.conf(5): 5 s a try, two tries,
three servers), and the program hangs with it. Nothing can interrupt such a call; but a daemon
thread can be left in it.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

__all__ = ["AddressInfo", "Offload", "ThreadPool"]

T = TypeVar("T")

#: a row of ``socket.getaddrinfo``: family, type, protocol, canonical name, address
AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]

# These threads wait rather than compute, so the number of cores says nothing about how many are
# useful; and they are started only when all of those before them are busy. What limits them is
# memory: a thread costs some 50 KiB, and with glibc 8 MiB of address space.
MOST_CALLS = 32  # at once; as many as ThreadPoolExecutor has at most
MOST_NAMES = 16  # at once; so many may wait for dead servers before they delay the living
LONGEST_IDLENESS = 10.0  # seconds until a thread without work ends; real ones, whatever the loop's clock


class Offload:
    """What a loop has done on threads.

    Parameters:
        call_threadsafe: the method of the loop.
    """

    def __init__(self, call_threadsafe: Callable[..., object]) -> None:
        self._call_threadsafe = call_threadsafe
        self._calls = ThreadPool("uloop-call", MOST_CALLS)
        self._names = ThreadPool("uloop-name", MOST_NAMES)

    def run(
        self, function: Callable[..., T], *args: object, done: Callable[[Future[T]], object] | None = None
    ) -> Future[T]:
        """Call ``function(*args)`` on a thread.

        Parameters:
            done: called with the future, in the loop's thread, when the call has returned or
                raised. Without it, an exception goes to the loop as that of a callback.

        Returns:
            The future. It can be cancelled until the call has begun; then ``done`` is not called.

        Raises:
            TypeError: the function cannot be called.
            RuntimeError: this is closed; or there is no thread, and none can be started.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {function!r}")
        future = self._calls.submit(function, *args)
        future.add_done_callback(partial(self._tell, done or partial(_raise_error_of, function)))
        return future

    def resolve(
        self,
        host: str | None,
        port: int | str | None,
        done: Callable[[Future[list[AddressInfo]]], object],
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - the names of getaddrinfo
    ) -> Future[list[AddressInfo]]:
        """Resolve a name by ``socket.getaddrinfo``; what is numeric already needs no thread.

        Parameters:
            host: a name or a numeric address; ``None`` is this host.
            port: a number or the name of a service.
            done: called with the future, in the loop's thread and never from within this call.
                The result is the list of ``getaddrinfo``, the exception a ``socket.gaierror``,
                or a ``UnicodeError`` for what cannot be a name.
            family: ``AF_INET`` or ``AF_INET6``; 0 is both.
            type: ``SOCK_STREAM`` or ``SOCK_DGRAM``.

        Returns:
            The future, as ``run`` does.

        Raises:
            ValueError: there is no such port.
            RuntimeError: as ``run``.
        """
        if isinstance(port, int) and not 0 <= port <= 65535:  # glibc would take it modulo 65536
            raise ValueError(f"port must be 0 to 65535, not {port}")
        self._names.check_open()
        try:
            numeric = _addresses(host, port, family, type, socket.AI_NUMERICHOST)
        except (OSError, ValueError):
            # It is a name, or nothing at all, which is to fail where names fail.
            future = self._names.submit(_addresses, host, port, family, type)
        else:
            future = Future()
            future.set_result(numeric)
        future.add_done_callback(partial(self._tell, done))
        return future

    def close(self) -> None:
        """Cancel what has not begun, and leave alone what has. A second call does nothing."""
        self._calls.close()
        self._names.close()

    def _tell(self, done: Callable[[Future[T]], object], future: Future[T]) -> None:
        if future.cancelled():
            return
        try:
            self._call_threadsafe(done, future)
        except RuntimeError:
            pass  # the loop has been closed meanwhile: there is nobody to tell


def _addresses(
    host: str | None, port: int | str | None, family: int, socktype: int, flags: int = 0
) -> list[AddressInfo]:
    return [*socket.getaddrinfo(host, port, family, socktype, 0, flags)]


def _raise_error_of(function: Callable[..., object], future: Future[Any]) -> None:
    future.result()  # the loop's log shows this call with its arguments


class ThreadPool:
    """Daemon threads that work off a queue: started when needed, gone when idle for long.

    Parameters:
        name: what the threads are called, with a number.
        most: threads at once.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._changed = threading.Condition()  # its lock guards all that follows
        self._queue: deque[tuple[Future[Any], Callable[..., object], tuple[object, ...]]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """Call ``function(*args)`` when a thread is free."""
        self.check_open()
        future: Future[T] = Future()
        with self._changed:
            self._queue.append((future, function, args))
            # One that is woken counts as idle until it runs, but so does its work as queued.
            if self._idle >= len(self._queue):
                self._changed.notify()
            elif self._threads < self._most:
                self._start_thread()
        return future

    def check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this loop is closed")

    def close(self) -> None:
        """End the idle threads, and cancel what waits. Those at work end after it."""
        with self._changed:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for future, _, _ in waiting:
            future.cancel()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more of them
            if not self._threads:
                self._queue.pop()
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while call := self._next_call():
            _perform(*call)
            del call  # an idle thread keeps nobody's arguments alive

    def _next_call(self) -> tuple[Future[Any], Callable[..., object], tuple[object, ...]] | None:
        """Wait for work; ``None`` when this thread is to end."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closed, LONGEST_IDLENESS)
            self._idle -= 1
            if self._queue:
                return self._queue.popleft()
            self._threads -= 1
            return None


def _perform(future: Future[Any], function: Callable[..., object], args: tuple[object, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args)
    except BaseException as error:
        future.set_exception(error)
        del future  # or the exception would hold itself, by its traceback, this frame and the future
    else:
        future.set_result(result)
