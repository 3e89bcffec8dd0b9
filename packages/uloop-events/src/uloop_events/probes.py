"""What is behind a descriptor that select calls readable: data, an end, or an error.

select knows three states, epoll more. What is missing is asked of the descriptor itself, but
only with questions that take nothing away and change nothing: how many bytes wait (FIONREAD),
what state a TCP connection is in (TCP_INFO), and, of Unix sockets, whether an empty send is
refused. A peek, an SO_ERROR or an empty send on TCP would tell more, and would take the error
from the program that is to find it: its ``recv`` would not raise ConnectionResetError any more.

The questions are put by ctypes. A ``socket.socket`` made for the number would be simpler, but
it may make the program's socket non-blocking (``socket.setdefaulttimeout``), and closes it if
a Ctrl-C comes before ``detach``.

A probe takes the number of a readable descriptor, and returns epoll's bits without OUT, which
select tells. Where an end is not certain it is not told, and the program finds it by reading.

Sources: tcp(7), unix(7), pipe(7), pty(7), and ``tcp_poll``, ``unix_poll`` and ``pipe_poll`` in Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import stat
import sys
from functools import partial

from .event import UEvent

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[int], int]

__all__ = ["has_peer", "probe_for"]

IN = int(UEvent.poll_in)
ERR = int(UEvent.poll_err)
HUP = int(UEvent.poll_hup)
RDHUP = int(UEvent.poll_rdhup)

# Linux's <net/tcp_states.h>
ESTABLISHED, SYN_SENT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 2, 6, 7, 8, 9, 11
# where Linux's struct tcp_info has what we want to know
BYTES_ACKED, BYTES_SENT, BYTES_RETRANSMITTED = slice(120, 128), slice(200, 208), slice(208, 216)
SEGMENTS_IN, BYTES_NOT_SENT = slice(140, 144), slice(144, 148)
TCP_INFO_SIZE = 216
SO_PROTOCOL, SO_DOMAIN = 38, 39  # Linux's <asm-generic/socket.h>

PTY_CONTROLLER = (5, 2)  # Linux's device numbers of /dev/ptmx
LONGEST_ADDRESS = 128  # bytes of a struct sockaddr_storage
LOOKS = 4  # until it is believed that there is nothing to read, though another thread may be reading


def probe_for(number: int) -> Probe:
    """The probe for what a descriptor is.

    Parameters:
        number: of an open descriptor.

    Returns:
        A function of a number that select has called readable to a mask without OUT.
    """
    if sys.platform != "win32" and not stat.S_ISSOCK(os.fstat(number).st_mode):
        return _file_probe(number)
    kind = _option(number, socket.SOL_SOCKET, socket.SO_TYPE)
    return _stream_probe(number) if kind == socket.SOCK_STREAM else _datagram


def has_peer(number: int) -> bool:
    """Whether a socket is connected. Unlike SO_ERROR, this leaves an error to who asks for it next."""
    address = ctypes.create_string_buffer(LONGEST_ADDRESS)
    size = ctypes.c_int(LONGEST_ADDRESS)
    return not _getpeername(number, address, ctypes.byref(size))


def _other(number: int) -> int:
    return IN


def _datagram(number: int) -> int:
    # An error and an empty datagram both show as readable with nothing in it.
    return IN


def _stream(number: int) -> int:
    """A stream socket of any system: data or somebody who connects, or the end of what the peer sends."""
    return IN | RDHUP if _stream_has_ended(number) and not _is_listening(number) else IN


def _pipe_reader(number: int) -> int:
    return HUP if _has_ended(number) else IN


def _pipe_writer(number: int) -> int:
    return ERR  # what cannot be read is "readable" when its reader has gone


def _has_ended(number: int) -> bool:
    """Whether there is nothing to read, and not because another thread has read it just now."""
    return all(not _bytes_waiting(number) and _is_readable(number) for _ in range(LOOKS))


def _stream_has_ended(number: int) -> bool:
    # Before an urgent byte FIONREAD says 0, whatever is behind it.
    return not _is_at_urgent_byte(number) and _has_ended(number)


def _is_readable(number: int) -> bool:
    return bool(select.select([number], [], [], 0)[0])


def _is_exceptional(number: int) -> bool:
    return bool(select.select([], [], [number], 0)[2])


def _is_listening(number: int) -> bool:
    try:
        return bool(_option(number, socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _option(number: int, level: int, name: int) -> int:
    """What getsockopt(2) says, as a number."""
    return int.from_bytes(_long_option(number, level, name, ctypes.sizeof(ctypes.c_int)), sys.byteorder)


def _long_option(number: int, level: int, name: int, size: int) -> bytes:
    value = ctypes.create_string_buffer(size)
    if _getsockopt(number, level, name, value, ctypes.byref(ctypes.c_int(size))):
        raise _error()
    return value.raw


if sys.platform == "win32":
    _library = ctypes.WinDLL("ws2_32", use_last_error=True)
    Descriptor = ctypes.c_size_t
else:
    _library = ctypes.CDLL(None, use_errno=True)
    Descriptor = ctypes.c_int

_getsockopt = _library.getsockopt
_getsockopt.argtypes = (Descriptor, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_getpeername = _library.getpeername
_getpeername.argtypes = (Descriptor, ctypes.c_void_p, ctypes.c_void_p)


if sys.platform == "win32":
    FIONREAD = 0x4004667F  # <winsock2.h>
    _ioctlsocket = _library.ioctlsocket
    _ioctlsocket.argtypes = (Descriptor, ctypes.c_long, ctypes.c_void_p)

    def _error() -> OSError:
        return ctypes.WinError(ctypes.get_last_error())

    def _bytes_waiting(number: int) -> int:
        count = ctypes.c_ulong()
        if _ioctlsocket(number, FIONREAD, ctypes.byref(count)):
            return 1  # it is no stream with an end: a listening socket, say
        return count.value

    def _is_at_urgent_byte(number: int) -> bool:
        return _is_exceptional(number)

else:
    import fcntl
    import termios

    SIOCATMARK = 0x8905 if sys.platform == "linux" else 0x40047307  # <sys/sockio.h>

    def _error() -> OSError:
        code = ctypes.get_errno()
        return OSError(code, os.strerror(code))

    def _bytes_waiting(number: int) -> int:
        try:
            return _ioctl(number, termios.FIONREAD)
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            return 1  # it is nothing with an end: a listening Unix socket, or a device

    def _is_at_urgent_byte(number: int) -> bool:
        try:
            return bool(_ioctl(number, SIOCATMARK))
        except OSError:
            return False  # it is a socket of a kind that has no urgent data

    def _ioctl(number: int, request: int) -> int:
        return int.from_bytes(fcntl.ioctl(number, request, bytes(4)), sys.byteorder)

    def _file_probe(number: int) -> Probe:
        status = os.fstat(number)
        if stat.S_ISFIFO(status.st_mode):
            for_writing_alone = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            return _pipe_writer if for_writing_alone else _pipe_reader
        if sys.platform == "linux" and stat.S_ISCHR(status.st_mode):
            is_controller = (os.major(status.st_rdev), os.minor(status.st_rdev)) == PTY_CONTROLLER
            return partial(_linux_terminal, is_controller)
        return _other


if sys.platform == "linux":
    _send = _library.send
    _send.argtypes = (Descriptor, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _send.restype = ctypes.c_ssize_t

    def _stream_probe(number: int) -> Probe:
        family = _option(number, socket.SOL_SOCKET, SO_DOMAIN)
        if family == socket.AF_UNIX:
            return _linux_unix_stream
        if _option(number, socket.SOL_SOCKET, SO_PROTOCOL) == socket.IPPROTO_TCP:
            return partial(_linux_tcp, _acknowledged_beside_data(number))
        return _stream  # MPTCP, for one, whose TCP_INFO is that of a part of it

    def _linux_unix_stream(number: int) -> int:
        if not _stream_has_ended(number) or _is_listening(number):
            return IN
        # Of a Unix socket, unlike TCP, this leaves an error where it is.
        if _send(number, None, 0, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == 0:
            return IN | RDHUP
        code = ctypes.get_errno()
        if code == errno.EPIPE:
            return IN | RDHUP | HUP
        return HUP if code == errno.ENOTCONN else IN | RDHUP

    def _linux_tcp(acknowledged_before: int, number: int) -> int:
        info = _tcp_info(number)
        state = info[0]
        if state == CLOSE_WAIT:
            return IN | RDHUP
        if state in (LAST_ACK, CLOSING, TIME_WAIT):
            return IN | RDHUP | HUP
        if state != CLOSE:
            return IN  # the peer has not ended
        if _counter(info, SEGMENTS_IN) == 0:
            return HUP  # it has not been connected yet
        if _counter(info, BYTES_ACKED) - _data_sent(info) > acknowledged_before:
            return IN | RDHUP | HUP  # the peer has acknowledged the end that we sent: all is well
        # A reset, or a refused connect. Whether the program has read the error already cannot be known.
        return IN | RDHUP | HUP | ERR

    def _acknowledged_beside_data(number: int) -> int:
        """What a peer acknowledges beside data before the end: 1, our SYN, where it was us who connected."""
        info = _tcp_info(number)
        if info[0] == SYN_SENT or (info[0] == CLOSE and not _counter(info, SEGMENTS_IN)):
            return 1  # it is about to connect
        if info[0] not in (ESTABLISHED, CLOSE_WAIT):
            return 0  # too late to know
        not_acknowledged = _ioctl(number, termios.TIOCOUTQ)
        written = _data_sent(info) + _counter(info, BYTES_NOT_SENT)
        return _counter(info, BYTES_ACKED) + not_acknowledged - written

    def _data_sent(info: bytes) -> int:
        return _counter(info, BYTES_SENT) - _counter(info, BYTES_RETRANSMITTED)

    def _tcp_info(number: int) -> bytes:
        return _long_option(number, socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)

    def _counter(info: bytes, place: slice) -> int:
        return int.from_bytes(info[place], sys.byteorder)

    def _linux_terminal(is_controller: bool, number: int) -> int:
        try:
            ended = _has_ended(number)
        except OSError:  # EIO: the controlling side has closed
            return IN | ERR | HUP
        # A terminal itself is readable and empty when Ctrl-D was typed: that is something to read.
        # So is the status byte that the controlling side gets in packet mode.
        return HUP if is_controller and ended and not _is_exceptional(number) else IN

else:

    def _stream_probe(number: int) -> Probe:
        return _stream
