"""The system calls under AfdLoop: Windows' AFD driver and its completion ports, by ctypes.

AFD is the driver that Winsock's sockets are made of. It is not documented, but ``select``
itself, libuv, wepoll, mio and trio all stand on the one request used here, and it has not
changed since Windows Vista: *poll these sockets, and complete when one has one of these
events*. A request is made once, completes once, and is told of by a completion port.

This module is declarations and thin functions; what they are good for is in ``afd_loop.py``,
which imports it, and with it ctypes, when the first loop is made.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import sys

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[..., Any]

__all__ = ["Completions", "Driver", "Names", "Request", "driver"]

IOCTL_AFD_POLL = 0x00012024
SIO_BASE_HANDLE = 0x48000022
SIO_BSP_HANDLE_POLL = 0x4800001D

FIRST_ERROR = 0xC0000000
NOT_FOUND = 0xC0000225  # STATUS_NOT_FOUND: it has completed before it could be cancelled
WAIT_TIMEOUT = 258
WSAENOTSOCK = 10038

SYNCHRONIZE = 0x00100000
FILE_SHARE_READ_WRITE = 0x3
OPEN_EXISTING = 3
FILE_FLAG_OVERLAPPED = 0x40000000
FILE_SKIP_COMPLETION_PORT_ON_SUCCESS = 0x1
FILE_SKIP_SET_EVENT_ON_HANDLE = 0x2

SOL_SOCKET = 0xFFFF
SO_TYPE = 0x1008
SOCK_STREAM = 1
LONGEST_ADDRESS = 128  # bytes of a SOCKADDR_STORAGE
FAMILY_AND_PORT = 4  # bytes that every SOCKADDR of the internet's families begins with

BOOL = ctypes.c_int
DWORD = ctypes.c_uint32
NTSTATUS = ctypes.c_uint32  # signed in Windows' headers; so it compares with the codes as they are written
HANDLE = ctypes.c_void_p
POINTER = ctypes.c_void_p
SOCKET = ctypes.c_size_t
WORD = ctypes.sizeof(POINTER)


class Request(ctypes.Structure):
    """One request to poll one socket: an IO_STATUS_BLOCK, and behind it an AFD_POLL_INFO.

    The system writes into it until the request has completed: it must be kept until then.
    """

    _fields_ = (
        ("status", ctypes.c_size_t),  # a union with a pointer
        ("information", ctypes.c_size_t),
        ("timeout", ctypes.c_int64),
        ("count", ctypes.c_uint32),  # of the sockets that follow
        ("exclusive", ctypes.c_uint32),
        ("socket", ctypes.c_size_t),
        ("events", ctypes.c_uint32),
        ("result", ctypes.c_int32),
    )

    if TYPE_CHECKING:
        status: int
        information: int
        timeout: int
        count: int
        exclusive: int
        socket: int
        events: int
        result: int
        address: int  # its own


class Completions:
    """Where a wait puts the addresses of the requests that have been answered.

    An OVERLAPPED_ENTRY has four members, of a pointer's size each, counting the padding: a
    flat array of such words is read without an object for each entry.
    """

    SIZE = 1024

    def __init__(self) -> None:
        self.entries = (ctypes.c_size_t * (4 * self.SIZE))()
        self.count = ctypes.c_uint32()
        self.where = ctypes.c_void_p(ctypes.addressof(self.entries))
        self.where_count = ctypes.c_void_p(ctypes.addressof(self.count))

    def take(self) -> list[int]:
        """The addresses, once: the next call returns nothing."""
        count, self.count.value = self.count.value, 0
        return self.entries[1 : 4 * count : 4]

    def forget(self) -> None:
        # A wait that has timed out may say that it has found one entry, and leave that as it was.
        self.count.value = self.entries[1] = 0


class Names:
    """Asks sockets for their addresses; for one thread at a time."""

    def __init__(self, own_name: Call, peer_name: Call) -> None:
        self._address = (ctypes.c_char * LONGEST_ADDRESS)()
        self._size = ctypes.c_int()
        self._where = POINTER(ctypes.addressof(self._address))
        self._where_size = POINTER(ctypes.addressof(self._size))
        self._own_name = own_name
        self._peer_name = peer_name

    def port(self, number: int) -> bytes:
        """The family and port of a socket's own end; empty if it has none yet.

        Not the address, which changes when a socket connects.
        """
        self._size.value = LONGEST_ADDRESS
        if self._own_name(number, self._where, self._where_size):
            return b""
        return self._address.raw[:FAMILY_AND_PORT]

    def peer(self, number: int) -> bytes:
        """The address of the other end; empty if there is none."""
        self._size.value = LONGEST_ADDRESS
        if self._peer_name(number, self._where, self._where_size):
            return b""
        return self._address.raw[: self._size.value]


class Driver:
    """The system's functions, declared."""

    def __init__(self) -> None:
        kernel32, ntdll, winsock = _library("kernel32"), _library("ntdll"), _library("ws2_32")
        self._create_file = _declare(
            kernel32.CreateFileW, HANDLE, ctypes.c_wchar_p, DWORD, DWORD, POINTER, DWORD, DWORD, HANDLE
        )
        self._create_port = _declare(
            kernel32.CreateIoCompletionPort, HANDLE, HANDLE, HANDLE, ctypes.c_size_t, DWORD
        )
        self._set_modes = _declare(kernel32.SetFileCompletionNotificationModes, BOOL, HANDLE, ctypes.c_ubyte)
        self._get = _declare(
            kernel32.GetQueuedCompletionStatusEx, BOOL, HANDLE, POINTER, DWORD, POINTER, DWORD, BOOL
        )
        self._post = _declare(
            kernel32.PostQueuedCompletionStatus, BOOL, HANDLE, DWORD, ctypes.c_size_t, POINTER
        )
        self._close = _declare(kernel32.CloseHandle, BOOL, HANDLE)
        self._control = _declare(
            ntdll.NtDeviceIoControlFile,
            NTSTATUS,
            *(HANDLE, HANDLE, POINTER, POINTER, POINTER, DWORD, POINTER, DWORD, POINTER, DWORD),
        )
        self._cancel = _declare(ntdll.NtCancelIoFileEx, NTSTATUS, HANDLE, POINTER, POINTER)
        self._error_of_status = _declare(ntdll.RtlNtStatusToDosError, DWORD, NTSTATUS)
        self._socket_control = _declare(
            winsock.WSAIoctl,
            ctypes.c_int,
            *(SOCKET, DWORD, POINTER, DWORD, POINTER, DWORD, POINTER, POINTER, POINTER),
        )
        self._option = _declare(
            winsock.getsockopt, ctypes.c_int, SOCKET, ctypes.c_int, ctypes.c_int, POINTER, POINTER
        )
        self._own_name = _declare(winsock.getsockname, ctypes.c_int, SOCKET, POINTER, POINTER)
        self._peer_name = _declare(winsock.getpeername, ctypes.c_int, SOCKET, POINTER, POINTER)

    def open_port(self) -> HANDLE:
        """A new completion port."""
        port = self._create_port(HANDLE(-1), None, 0, 0)
        if not port:
            raise _error(_last_code())
        return HANDLE(port)

    def open_device(self, port: HANDLE) -> HANDLE:
        r"""A handle to talk to AFD with, which is no socket, and reports to the port.

        ``\Device\Afd`` is a name of the NT kernel; Win32 has it under ``GLOBALROOT``. What
        follows it is for the eyes of debuggers alone.
        """
        found = self._create_file(
            r"\\.\GLOBALROOT\Device\Afd\uloop",
            *(SYNCHRONIZE, FILE_SHARE_READ_WRITE, None, OPEN_EXISTING, FILE_FLAG_OVERLAPPED, None),
        )
        if found == HANDLE(-1).value:
            raise _error(_last_code())
        device = HANDLE(found)
        if not self._create_port(device, port, 0, 0) or not self._set_modes(
            device, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE
        ):
            error = _error(_last_code())
            self.close(device)
            raise error
        return device

    def close(self, handle: HANDLE) -> None:
        self._close(handle)

    def starter(self, device: HANDLE, request: Request) -> Callable[[], int]:
        """A function that makes the request, and returns an NTSTATUS.

        If that is STATUS_PENDING the port will tell of the answer; else the answer is there
        already. All that need not be made anew for each call is made here.
        """
        status = ctypes.addressof(request)
        information = POINTER(status + Request.timeout.offset)  # type: ignore[attr-defined]
        size = ctypes.sizeof(Request) - Request.timeout.offset  # type: ignore[attr-defined]
        # The third address comes back from the port, to know the request by.
        where = POINTER(status)
        return functools.partial(
            self._control,
            *(device, None, None, where, where, IOCTL_AFD_POLL, information, size, information, size),
        )

    def cancel(self, device: HANDLE, request: Request | None) -> None:
        """Take a request back, or all of a device; the port tells of each, as if it were answered."""
        block = (ctypes.c_size_t * 2)()
        where = None if request is None else POINTER(ctypes.addressof(request))
        status = self._cancel(device, where, ctypes.addressof(block))
        if self.failed(status) and status != NOT_FOUND:
            raise self.error_of(status)

    def wait(self, port: HANDLE, completions: Completions, milliseconds: int) -> None:
        """Wait for answers; the addresses of the requests are left in ``completions``.

        They are not returned: a Ctrl-C may come between a return and an assignment, and nobody
        is told of an answer twice.
        """
        completions.forget()
        if not self._get(port, completions.where, completions.SIZE, completions.where_count, milliseconds, 0):
            completions.forget()
            code = _last_code()
            if code != WAIT_TIMEOUT:
                raise _error(code)

    def wake(self, port: HANDLE) -> None:
        """End one wait, this one or the next, with nothing."""
        self._post(port, 0, 0, None)

    def base_socket(self, number: int) -> int:
        """The socket of Windows itself, under what others may have put between it and the program.

        Layered service providers hide it, and SIO_BASE_HANDLE finds it. Some, made by a kit
        named Komodia, break that, but let SIO_BSP_HANDLE_POLL pass, which finds the next layer.
        """
        found = ctypes.c_size_t()
        returned = ctypes.c_uint32()
        while True:
            for question in (SIO_BASE_HANDLE, SIO_BSP_HANDLE_POLL):
                if not self._socket_control(
                    *(number, question, None, 0, ctypes.addressof(found), WORD),
                    *(ctypes.addressof(returned), None, None),
                ):
                    break
                code = _last_code()
                if code == WSAENOTSOCK:
                    raise OSError(errno.EBADF, f"descriptor {number} is not an open socket")
            else:
                raise _error(code)
            if question == SIO_BASE_HANDLE:
                return found.value
            if found.value == number:  # no layer further down
                raise _error(code)
            number = found.value

    def is_stream(self, number: int) -> bool:
        kind, size = ctypes.c_int(), ctypes.c_int(ctypes.sizeof(ctypes.c_int))
        self._option(number, SOL_SOCKET, SO_TYPE, ctypes.addressof(kind), ctypes.addressof(size))
        return kind.value == SOCK_STREAM

    def failed(self, status: int) -> bool:
        """Whether an NTSTATUS is an error."""
        return status >= FIRST_ERROR

    def new_request(self) -> Request:
        request = Request()
        request.address = ctypes.addressof(request)
        return request

    def new_completions(self) -> Completions:
        return Completions()

    def new_names(self) -> Names:
        return Names(self._own_name, self._peer_name)

    def error_of(self, status: int) -> OSError:
        """The exception that says what an NTSTATUS says."""
        return _error(self._error_of_status(status))


@functools.cache
def driver() -> Driver:
    """The one that all loops share."""
    return Driver()


def _declare(function: Any, result: type, *arguments: type) -> Call:
    function.restype = result
    function.argtypes = arguments
    declared: Call = function
    return declared


def _library(name: str) -> ctypes.CDLL:
    if sys.platform == "win32":
        return ctypes.WinDLL(name, use_last_error=True)
    raise NotImplementedError(f"{sys.platform} has no AFD, which is Windows'; SelectLoop runs everywhere")


def _last_code() -> int:
    if sys.platform == "win32":
        return ctypes.get_last_error()
    raise NotImplementedError


def _error(code: int) -> OSError:
    if sys.platform == "win32":
        return ctypes.WinError(code)
    raise NotImplementedError
