"""recvmmsg and sendmmsg: many datagrams in one system call, by way of ctypes.

Both take an array of headers, each of which points to an address, to control data and to the
bytes of one datagram. These arrays are laid out once and used for every call:

* What the kernel overwrites in them, the lengths, is put back by copying the first state over.
* Python takes and gives whole columns: the data of all datagrams of a batch, the addresses of all. To
  touch a single ctypes field costs 0.1 us, and a column of 64 numbers 0.4 us.
* Received datagrams are copied out before the call returns, so sockets may share the arrays.

ctypes gives the interpreter's lock away during the call.

Only Linux with 64-bit words on x86-64 and ARM, where the layouts below were checked, is
``SUPPORTED``. The BSDs have both calls, with other types in the structures. Source: recvmmsg(2),
sendmmsg(2), recv(2), cmsg(3), ip(7), ipv6(7), unix(7).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from operator import eq
from typing import Any

__all__ = [
    "BATCH",
    "SUPPORTED",
    "ReceiveArrays",
    "SendArrays",
    "can_merge",
    "decode",
    "encode",
    "endpoint",
    "pack_control",
    "parse_control",
]

BATCH = 64  # datagrams in one call
LARGEST_ALIKE = 512  # bytes of datagrams that are copied side by side; there is room for a batch of them
FEWEST_ALIKE = 16  # datagrams that are worth another layout
CONTROL_ROOM = 256  # bytes; what we ask for takes 72, and a program may have asked for more
ADDRESS_ROOM = 128  # bytes: struct sockaddr_storage, bind(2)
#: of addresses and packet infos that are known already; a server for more peers still works
KNOWN = 1024

Ancillary = tuple[int, int, bytes]  # level, type, data: as socket.recvmsg returns them


#: what there is of each datagram of a batch: all their data, or all their senders
Column = Sequence[bytes]


class IoVec(ctypes.Structure):
    """struct iovec, readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    """struct msghdr as the kernel has it, recvmsg(2); that of musl differs in padding alone."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    """struct mmsghdr, recvmmsg(2)."""

    _fields_ = (("hdr", MsgHdr), ("len", ctypes.c_uint))


CMSGHDR = struct.Struct("=Qii")  # struct cmsghdr, cmsg(3): length with this header, level, type
SOCKADDR_IN = struct.Struct("=H2s4s8x")  # family, port, address: ip(7)
SOCKADDR_IN6 = struct.Struct("=H2s4s16sI")  # family, port, flow info, address, scope: ipv6(7)
FAMILY = struct.Struct("=H")
UNIX: int | None = getattr(socket, "AF_UNIX", None)  # Python has none on Windows
UNIX_PATH_ROOM = 108  # unix(7)
UINT16 = struct.Struct("=H")
SOL_UDP, UDP_SEGMENT = 17, 103  # udp(7)
PIECE = 65000  # bytes of the datagrams that go as one; with their headers, an IP packet has 65535

# Where things are, in units of the columns that they are read and written by.
HEADER = ctypes.sizeof(MMsgHdr)
WORD, LONG = 4, 8
WORDS, LONGS = HEADER // WORD, HEADER // LONG
NAMELEN = MsgHdr.namelen.offset // WORD
LENGTH = MMsgHdr.len.offset // WORD
NAME = MsgHdr.name.offset // LONG
IOV = MsgHdr.iov.offset // LONG
IOVLEN = MsgHdr.iovlen.offset // LONG
CONTROL = MsgHdr.control.offset // LONG
CONTROLLEN = MsgHdr.controllen.offset // LONG

SUPPORTED = False
_recvmmsg: Any = None
_sendmmsg: Any = None
if (
    sys.platform == "linux"
    and sys.maxsize > 2**32
    and platform.machine() in ("x86_64", "aarch64", "aarch64_be")
):
    try:
        _libc = ctypes.CDLL(None, use_errno=True)
        _recvmmsg, _sendmmsg = _libc.recvmmsg, _libc.sendmmsg
    except (OSError, AttributeError):
        pass  # a C library without them, or none that can be loaded
    else:
        _recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        _sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        _recvmmsg.restype = _sendmmsg.restype = ctypes.c_int
        SUPPORTED = True

MSG_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)  # not on Windows


class ReceiveArrays:
    """Room for ``BATCH`` datagrams to arrive in.

    Parameters:
        size: bytes to keep of each datagram.
        control: whether control data is wanted.
    """

    def __init__(self, size: int, control: bool) -> None:
        # The system gives this memory out page by page as it is written to: of 4 MiB for the
        # largest datagrams, small ones take 256 KiB. A ctypes array would be cleared, that is
        # written to. ACCESS_COPY, because mmap's default is shared with the children of a fork.
        self._data = mmap.mmap(-1, BATCH * size, access=mmap.ACCESS_COPY)
        self._names: Any = (ctypes.c_char * (BATCH * ADDRESS_ROOM))()
        self._controls: Any = (ctypes.c_char * (BATCH * CONTROL_ROOM))()
        self._vectors: Any = (IoVec * BATCH)()
        self._headers: Any = (MMsgHdr * BATCH)()
        self._size = size
        self._control = control
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        for i in range(BATCH):
            vector, header = self._vectors[i], self._headers[i].hdr
            vector.base = first + i * size
            vector.len = size
            header.name = ctypes.addressof(self._names) + i * ADDRESS_ROOM
            header.namelen = ADDRESS_ROOM
            header.iov = ctypes.addressof(vector)
            header.iovlen = 1
            if control:
                header.control = ctypes.addressof(self._controls) + i * CONTROL_ROOM
                header.controllen = CONTROL_ROOM
        self._view = memoryview(self._headers).cast("B")
        self._first_state = bytes(self._view)
        self._words = self._view.cast("I")
        self._longs = self._view.cast("Q")
        self._address = ctypes.addressof(self._headers)

    def receive(self, fileno: int) -> tuple[Column, Column, Column]:
        """What is waiting, at most ``BATCH`` datagrams; does not block.

        Returns:
            Of each datagram its data, its sender and its control data, as the kernel gave them:
            see :func:`decode` and :func:`parse_control`. Data that fills ``size`` may have been cut.

        Raises:
            OSError: of recvmmsg(2); BlockingIOError if there is none.
        """
        self._view[:] = self._first_state
        count: int = _recvmmsg(fileno, self._address, BATCH, MSG_DONTWAIT, None)
        if count < 0:
            raise _last_error()
        words = self._words[: count * WORDS]
        data = _column(self._data, self._size, words[LENGTH::WORDS].tolist())
        names = _column(self._names, ADDRESS_ROOM, words[NAMELEN::WORDS].tolist())
        if not self._control:
            return data, names, (b"",) * count
        lengths = self._longs[CONTROLLEN : count * LONGS : LONGS].tolist()
        return data, names, _column(self._controls, CONTROL_ROOM, lengths)


def _column(array: Any, room: int, lengths: list[int]) -> Column:
    """The items of an array in which each has so much room, and fills so many bytes of it."""
    first = lengths[0]
    if lengths.count(first) == len(lengths):
        # As a rule all are equally long. One call takes them out, in 10 to 20 ns each instead of 70 to 100.
        return _layout(first, room, len(lengths)).unpack_from(array)
    starts = range(0, room * len(lengths), room)
    return [array[start : start + length] for start, length in zip(starts, lengths, strict=True)]


@lru_cache(256)
def _layout(length: int, room: int, count: int) -> struct.Struct:
    return struct.Struct(f"{length}s{room - length}x" * count)


class SendArrays:
    """What points to the datagrams that are to be sent."""

    def __init__(self) -> None:
        self._vectors: Any = (IoVec * BATCH)()
        self._headers: Any = (MMsgHdr * BATCH)()
        # The same memory as columns. A c_char_p takes the address of a bytes object, and holds
        # on to it until the next one takes its place.
        self._bases: Any = (ctypes.c_char_p * (2 * BATCH)).from_buffer(self._vectors)
        self._lengths = memoryview(self._vectors).cast("B").cast("Q")
        self._pointers: Any = (ctypes.c_char_p * (LONGS * BATCH)).from_buffer(self._headers)
        self._words = memoryview(self._headers).cast("B").cast("I")
        self._longs = memoryview(self._headers).cast("B").cast("Q")
        self._address = ctypes.addressof(self._headers)
        first = ctypes.addressof(self._vectors)
        self._vector_addresses = range(first, first + ctypes.sizeof(self._vectors), ctypes.sizeof(IoVec))
        self._alike = AlikeArrays()
        self.runs: list[int] = []  # how many datagrams each piece of the last call was

    def send(
        self, fileno: int, data: Column, names: Column, controls: Column | None = None, merge: bool = False
    ) -> int:
        """Send at most ``BATCH`` datagrams; does not block.

        Parameters:
            data: their bytes.
            names: where each goes, as :func:`encode` gives it; nothing for the connected peer.
            controls: control data for each, as :func:`pack_control` gives it; ``None`` for none.
            merge: hand runs of datagrams of one size to one address over as one piece, which the
                kernel cuts up again: see :func:`can_merge`.

        Returns:
            How many were sent, at least one: the first ones.

        Raises:
            OSError: of sendmmsg(2), about the first one, or all of the first run.
        """
        if merge and any(map(eq, names, names[1:])):  # neighbours that go to one peer
            runs = _runs(data, names, controls)
        else:
            runs = [1] * len(data)
            address = self._alike.laid_out(data, names, controls)
            if address is not None:
                self.runs = runs
                return _sendmmsg_or_raise(fileno, address, len(data))
        self.runs = runs
        bases, lengths, pointers, words = self._bases, self._lengths, self._pointers, self._words
        longs = self._longs
        for i, each in enumerate(data):
            bases[2 * i] = each
            lengths[2 * i + 1] = len(each)
        start = 0
        for i, count in enumerate(runs):
            name = names[start]
            pointers[i * LONGS + NAME] = name
            words[i * WORDS + NAMELEN] = len(name)
            longs[i * LONGS + IOV] = self._vector_addresses[start]
            longs[i * LONGS + IOVLEN] = count
            control = b"" if controls is None else controls[start]
            if count > 1:
                control += pack_control(((SOL_UDP, UDP_SEGMENT, UINT16.pack(len(data[start]))),))
            pointers[i * LONGS + CONTROL] = control
            longs[i * LONGS + CONTROLLEN] = len(control)
            start += count
        return sum(runs[: _sendmmsg_or_raise(fileno, self._address, len(runs))])


class AlikeArrays:
    """The same for datagrams of one size, to addresses of one size, with control data of one size.

    That is what servers answer with. They are copied into blocks, side by side, so the headers point
    to the same places in each call: it costs 0.1 us for a datagram to copy it, and 1 us to write
    a header.
    """

    def __init__(self) -> None:
        self._data = memoryview(bytearray(BATCH * LARGEST_ALIKE))
        self._names = memoryview(bytearray(BATCH * ADDRESS_ROOM))
        self._controls = memoryview(bytearray(BATCH * CONTROL_ROOM))
        self._vectors: Any = (IoVec * BATCH)()
        self._headers: Any = (MMsgHdr * BATCH)()
        self._address = ctypes.addressof(self._headers)
        self._shape: tuple[int, int, int] | None = None  # the sizes that the headers are for
        self._columns = memoryview(self._headers).cast("B").cast("Q")
        self._columns[IOV::LONGS] = _spread(ctypes.addressof(self._vectors), ctypes.sizeof(IoVec))
        self._columns[IOVLEN::LONGS] = _spread(1, 0)

    def laid_out(self, data: Column, names: Column, controls: Column | None) -> int | None:
        """The address of the headers for these datagrams, or ``None`` if they are not alike."""
        size = _common_length(data)
        name_size = _common_length(names)
        control_size = 0 if controls is None else _common_length(controls)
        if size is None or name_size is None or control_size is None:
            return None
        shape = (size, name_size, control_size)
        if shape != self._shape:
            # It takes 15 us, as long as to write 15 headers; and the next ones may have another shape.
            if len(data) < FEWEST_ALIKE or size > LARGEST_ALIKE or control_size > CONTROL_ROOM:
                return None
            self._shape = None  # should Ctrl-C come in the middle
            self._lay_out(*shape)
            self._shape = shape
        self._data[: size * len(data)] = b"".join(data)
        self._names[: name_size * len(data)] = b"".join(names)
        if controls is not None:
            self._controls[: control_size * len(data)] = b"".join(controls)
        return self._address

    def _lay_out(self, size: int, name_size: int, control_size: int) -> None:
        vectors = memoryview(self._vectors).cast("B").cast("Q")
        vectors[0::2] = _spread(_address_of(self._data), size)
        vectors[1::2] = _spread(size, 0)
        columns = self._columns
        columns[NAME::LONGS] = _spread(_address_of(self._names), name_size)
        memoryview(self._headers).cast("B").cast("I")[NAMELEN::WORDS] = _spread(name_size, 0, "I")
        columns[CONTROL::LONGS] = _spread(_address_of(self._controls), control_size)
        columns[CONTROLLEN::LONGS] = _spread(control_size, 0)


def _spread(first: int, step: int, kind: str = "Q") -> memoryview:
    """A column of ``BATCH`` numbers."""
    return memoryview(array(kind, [first + i * step for i in range(BATCH)]))


def _address_of(block: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(block))


def _common_length(column: Column) -> int | None:
    lengths = list(map(len, column))
    return lengths[0] if lengths.count(lengths[0]) == len(lengths) else None


def _sendmmsg_or_raise(fileno: int, address: int, count: int) -> int:
    sent: int = _sendmmsg(fileno, address, count, MSG_DONTWAIT)
    if sent < 0:
        raise _last_error()
    return sent


def can_merge(sock: socket.socket) -> bool:
    """Whether ``SendArrays.send`` may merge datagrams: UDP_SEGMENT in udp(7), since Linux 4.18.

    The kernel's way through its network layers is most of what a datagram costs, and a piece
    goes it once: 0.5 us for a datagram of 48 bytes instead of 2.7, on the loopback interface.
    An older kernel would not know the control data, and send the piece as it is: so it is asked.
    A socket whose program merges by itself is left alone.
    """
    try:
        return sock.getsockopt(SOL_UDP, UDP_SEGMENT) == 0
    except OSError:
        return False


def _runs(data: Column, names: Column, controls: Column | None) -> list[int]:
    """The lengths of runs of datagrams that can go as one piece."""
    runs: list[int] = []
    of_run: tuple[int, bytes, bytes] | None = None
    room = 0
    for each, name, control in zip(data, names, controls or repeat(b""), strict=False):
        size = len(each)
        if (size, name, control) == of_run and size <= room and size:
            runs[-1] += 1
            room -= size
        else:
            runs.append(1)
            of_run = (size, name, control)
            room = PIECE - size
    return runs


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))  # which makes it a BlockingIOError and so on


@lru_cache(KNOWN)
def decode(name: bytes) -> Any:
    """A struct sockaddr as ``socket.recvfrom`` would return it.

    Raises:
        ValueError: it is of a family that is neither IPv4, IPv6 nor Unix.
    """
    if not name:
        return None  # of a Unix socket that is not bound
    (family,) = FAMILY.unpack_from(name)
    if family == socket.AF_INET:
        _, port, host = SOCKADDR_IN.unpack(name)
        return socket.inet_ntop(family, host), int.from_bytes(port, "big")
    if family == socket.AF_INET6:
        _, port, flow, host, scope = SOCKADDR_IN6.unpack(name)
        return (
            socket.inet_ntop(family, host),
            int.from_bytes(port, "big"),
            int.from_bytes(flow, "big"),
            scope,
        )
    if family == UNIX:
        path = name[FAMILY.size :]
        if path[:1] == b"\0":
            return path  # in the abstract namespace, where every byte counts
        return os.fsdecode(path.partition(b"\0")[0])
    raise ValueError(f"the address family must be AF_INET, AF_INET6 or AF_UNIX, not {family}")


def endpoint(name: bytes) -> tuple[bytes, int]:
    """The address, 4 or 16 bytes, and the port of an IPv4 or IPv6 struct sockaddr."""
    at = slice(4, 8) if len(name) == SOCKADDR_IN.size else slice(8, 24)
    return name[at], int.from_bytes(name[2:4], "big")


@lru_cache(KNOWN)
def encode(family: int, address: Any) -> bytes:
    """A numeric address, as ``socket.sendto`` takes it, as a struct sockaddr.

    Raises:
        OSError: the host is not numeric.
    """
    if family == socket.AF_INET:
        host, port = address
        return SOCKADDR_IN.pack(family, port.to_bytes(2, "big"), socket.inet_pton(family, host))
    if family == socket.AF_INET6:
        host, port, flow, scope = (*address, 0, 0)[:4]
        return SOCKADDR_IN6.pack(
            family, port.to_bytes(2, "big"), flow.to_bytes(4, "big"), socket.inet_pton(family, host), scope
        )
    path = os.fsencode(address)
    if path[:1] != b"\0":
        path += b"\0"
    return FAMILY.pack(family) + path


def parse_control(control: bytes) -> list[Ancillary]:
    """Control data as ``socket.recvmsg`` would return it: (level, type, data)."""
    found = []
    start = 0
    while start + CMSGHDR.size <= len(control):
        length, level, kind = CMSGHDR.unpack_from(control, start)
        if length < CMSGHDR.size:
            break
        found.append((level, kind, control[start + CMSGHDR.size : start + length]))
        start += (length + LONG - 1) & -LONG
    return found


@lru_cache(KNOWN)
def pack_control(ancillary: tuple[Ancillary, ...]) -> bytes:
    """Control data for the kernel, from what ``socket.sendmsg`` would take."""
    packed = b""
    for level, kind, data in ancillary:
        padding = -len(data) % LONG
        packed += CMSGHDR.pack(CMSGHDR.size + len(data), level, kind) + data + bytes(padding)
    return packed
