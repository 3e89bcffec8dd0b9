"""What is behind a descriptor that select calls readable: data, an end, or an error.

select knows three states, epoll more. What is missing is asked of the descriptor itself, but
only with questions that take nothing away: how many bytes wait (FIONREAD), what state a TCP
connection is in (TCP_INFO), and, of Unix sockets, whether an empty send is refused. A peek, an
SO_ERROR or an empty send on TCP would tell more, and would take the error from the program that
is to find it: its ``recv`` would not raise ConnectionResetError any more.

A probe takes the number of a readable descriptor, and returns epoll's bits without OUT, which
select tells.

Sources: tcp(7), unix(7), pipe(7), pty(7), and ``tcp_poll``, ``unix_poll`` and ``pipe_poll`` in Linux.
"""

from __future__ import annotations

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

__all__ = ["probe_for"]

IN = int(UEvent.poll_in)
ERR = int(UEvent.poll_err)
HUP = int(UEvent.poll_hup)
RDHUP = int(UEvent.poll_rdhup)

# Linux's <net/tcp_states.h>
ESTABLISHED, SYN_SENT = 1, 2
FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 4, 5, 6, 7, 8, 9, 10, 11
# where Linux's struct tcp_info has what we want to know
BYTES_ACKED, BYTES_SENT, BYTES_RETRANSMITTED = slice(120, 128), slice(200, 208), slice(208, 216)
SEGMENTS_IN, BYTES_NOT_SENT = slice(140, 144), slice(144, 148)
TCP_INFO_SIZE = 216

PTY_CONTROLLER = (5, 2)  # Linux's device numbers of /dev/ptmx


def probe_for(number: int) -> Probe:
    """The probe for what a descriptor is.

    Parameters:
        number: of an open descriptor.

    Returns:
        A function of a number that select has called readable to a mask without OUT.
    """
    if sys.platform != "win32" and not stat.S_ISSOCK(os.fstat(number).st_mode):
        return _file_probe(number)
    # The family is a lie, perhaps; but to find it out Python asks for the name, and a socket of
    # Windows that has none says EINVAL.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
    try:
        kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    finally:
        sock.detach()
    return _stream_probe(number) if kind == socket.SOCK_STREAM else _datagram


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
    return not _bytes_waiting(number) and _is_readable(number) and not _bytes_waiting(number)


def _stream_has_ended(number: int) -> bool:
    # Before an urgent byte FIONREAD says 0, whatever is behind it.
    return not _is_at_urgent_byte(number) and _has_ended(number)


def _is_readable(number: int) -> bool:
    return bool(select.select([number], [], [], 0)[0])


def _is_listening(number: int) -> bool:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        sock.detach()


if sys.platform == "win32":
    import ctypes

    FIONREAD = 0x4004667F  # <winsock2.h>
    _ioctlsocket = ctypes.WinDLL("ws2_32").ioctlsocket
    _ioctlsocket.argtypes = (ctypes.c_size_t, ctypes.c_long, ctypes.POINTER(ctypes.c_ulong))
    _ioctlsocket.restype = ctypes.c_int

    def _bytes_waiting(number: int) -> int:
        count = ctypes.c_ulong()
        if _ioctlsocket(number, FIONREAD, ctypes.byref(count)):
            return 1  # it is no stream with an end: a listening socket, say
        return count.value

    def _is_at_urgent_byte(number: int) -> bool:
        return bool(select.select([], [], [number], 0)[2])


else:
    import fcntl
    import termios

    SIOCATMARK = 0x8905 if sys.platform == "linux" else 0x40047307  # <sys/sockio.h>

    def _bytes_waiting(number: int) -> int:
        try:
            return _ioctl(number, termios.FIONREAD)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return 1  # it is no stream with an end: a listening Unix socket, say
            raise

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

    def _stream_probe(number: int) -> Probe:
        sock = socket.socket(fileno=number)
        try:
            family = sock.family
        finally:
            sock.detach()
        if family in (socket.AF_INET, socket.AF_INET6):
            return partial(_linux_tcp, _acknowledged_beside_data(number))
        return _linux_unix_stream if family == socket.AF_UNIX else _stream

    def _linux_unix_stream(number: int) -> int:
        if not _has_ended(number) or _is_listening(number):
            return IN
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
        try:
            # Of a Unix socket, unlike TCP, this leaves an error where it is.
            sock.send(b"", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            return IN | RDHUP | HUP
        except OSError as error:
            return HUP if error.errno == errno.ENOTCONN else IN | RDHUP
        finally:
            sock.detach()
        return IN | RDHUP

    def _linux_tcp(acknowledged_before: int, number: int) -> int:
        info = _tcp_info(number)
        state = info[0]
        if state == CLOSE_WAIT:
            return IN | RDHUP
        if state in (LAST_ACK, CLOSING, TIME_WAIT):
            return IN | RDHUP | HUP
        if state == CLOSE:
            if _counter(info, SEGMENTS_IN) == 0:
                return HUP  # it has not been connected yet
            if _counter(info, BYTES_ACKED) - _data_sent(info) > acknowledged_before:
                return IN | RDHUP | HUP  # the peer has acknowledged the end that we sent: all is well
            # A reset, or a refused connect. Whether the program has read the error already cannot be known.
            return IN | RDHUP | HUP | ERR
        if state != LISTEN and _stream_has_ended(number):  # we have shut it down ourselves
            return IN | RDHUP | HUP if state in (FIN_WAIT_1, FIN_WAIT_2) else IN | RDHUP
        return IN

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
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, number)
        try:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE).ljust(
                TCP_INFO_SIZE, b"\0"
            )
        finally:
            sock.detach()

    def _counter(info: bytes, place: slice) -> int:
        return int.from_bytes(info[place], sys.byteorder)

    def _linux_terminal(is_controller: bool, number: int) -> int:
        try:
            ended = _has_ended(number)
        except OSError:  # EIO: the controlling side has closed
            return IN | ERR | HUP
        # A terminal itself is readable and empty when Ctrl-D was typed: that is something to read.
        return HUP if is_controller and ended else IN

else:

    def _stream_probe(number: int) -> Probe:
        return _stream
