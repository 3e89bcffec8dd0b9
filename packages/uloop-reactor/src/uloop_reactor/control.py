"""Control data: what the system tells of a datagram besides its bytes and its sender.

Two things are asked for: when it arrived, and where it was sent to, which may be any address of this
machine when the socket is bound to all of them, or one that many machines have. What is told comes
from recvmmsg as the kernel has it, in bytes, and elsewhere as ``socket.recvmsg`` makes of it: a list
of (level, type, data). Source: cmsg(3).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache

from . import mmsg
from .mmsg import CMSGHDR, Ancillary

__all__ = [
    "CONTROL_ROOM",
    "Control",
    "answer_from",
    "arrival",
    "arrivals",
    "ask_for_packet_info",
    "ask_for_timestamps",
    "destination",
    "is_shared",
    "is_shared_address",
    "packet_info",
]

Control = bytes | Sequence[Ancillary]

SECOND = 1_000_000_000  # ns
CONTROL_ROOM = mmsg.CONTROL_ROOM if hasattr(socket.socket, "recvmsg") else 0  # bytes

# Receive timestamps: option, type of the control data, its layout, nanoseconds per unit of the fraction
if mmsg.SUPPORTED:
    TIMESTAMP: tuple[int, int, str, int] | None = (35, 35, "=qq", 1)  # SO_TIMESTAMPNS, socket(7)
elif sys.platform == "darwin" or sys.platform.startswith("freebsd"):
    TIMESTAMP = (0x0400, 0x02, "=qi", 1000)  # SO_TIMESTAMP, SCM_TIMESTAMP, <sys/socket.h>
else:
    TIMESTAMP = None

# Where a datagram was sent to, IPv4: the option, which is the type of the control data too, and
# where in these the address that was asked is, and the one to answer from
if sys.platform in ("linux", "darwin"):
    # IP_PKTINFO: ifindex, spec_dst, addr. ip(7); <netinet/in.h>, XNU's udp_check_pktinfo
    PACKET_INFO: tuple[int, slice, slice] | None = (
        8 if sys.platform == "linux" else 26,
        slice(8, 12),
        slice(4, 8),
    )
elif sys.platform.startswith("freebsd"):
    PACKET_INFO = (7, slice(0, 4), slice(0, 4))  # IP_RECVDSTADDR, which is IP_SENDSRCADDR: ip(4)
else:
    PACKET_INFO = None
IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", None)  # RFC 3542, section 6: address, ifindex
IPV6_RECVPKTINFO = getattr(socket, "IPV6_RECVPKTINFO", None)

#: what control data with a timestamp begins with, as the kernel of Linux has it, and how long that part is
STAMPED = CMSGHDR.pack(CMSGHDR.size + 16, socket.SOL_SOCKET, 35)
STAMP_SIZE = len(STAMPED) + 16


def ask_for_timestamps(sock: socket.socket) -> bool:
    """Whether the system will tell when each datagram arrives."""
    if TIMESTAMP is None or not CONTROL_ROOM:
        return False
    sock.setsockopt(socket.SOL_SOCKET, TIMESTAMP[0], 1)
    return True


def ask_for_packet_info(sock: socket.socket) -> bool:
    """Whether the system will tell where each datagram was sent to."""
    if not CONTROL_ROOM:
        return False
    if sock.family == socket.AF_INET and PACKET_INFO is not None:
        sock.setsockopt(socket.IPPROTO_IP, PACKET_INFO[0], 1)
        return True
    if sock.family == socket.AF_INET6 and IPV6_RECVPKTINFO is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        return True
    return False


def arrival(control: Control) -> int | None:
    """When the kernel says that a datagram arrived, in ns since the epoch; ``None`` if it says nothing."""
    if TIMESTAMP is None:
        return None
    _, wanted, layout, unit = TIMESTAMP
    for level, kind, data in mmsg.parse_control(control) if isinstance(control, bytes) else control:
        if level == socket.SOL_SOCKET and kind == wanted:
            seconds, fraction = struct.unpack_from(layout, data)
            return int(seconds * SECOND + fraction * unit)
    return None


def arrivals(controls: Sequence[Control]) -> list[int | None]:
    """The same for the datagrams of a batch."""
    count, first = len(controls), controls[0]
    if isinstance(first, bytes) and len(first) >= STAMP_SIZE:
        # As a rule all have the same things in the same order, the timestamp first. Then all are read
        # at once, in 0.1 us each instead of 1.2.
        length = len(first)
        if list(map(len, controls)).count(length) == count:
            fields = _stamps(length, count).unpack(b"".join(controls))  # type: ignore[arg-type]
            if fields[0::4].count(STAMPED) == count:
                return [seconds * SECOND + ns for seconds, ns in zip(fields[1::4], fields[2::4], strict=True)]
    return [arrival(control) for control in controls]


@lru_cache(256)
def _stamps(length: int, count: int) -> struct.Struct:
    """The layout of control data: of each the header of the timestamp, seconds, ns, and the rest."""
    return struct.Struct("=" + f"{len(STAMPED)}sqq{length - STAMP_SIZE}s" * count)


def packet_info(control: Control) -> Ancillary | None:
    """What the system tells of where a datagram was sent to: for the functions below."""
    if not isinstance(control, bytes):
        return _info_among(control)
    # The timestamp differs each time; what is behind it is the same for all who ask one address of ours.
    return _info_in(control[STAMP_SIZE:] if control.startswith(STAMPED) else control)


@lru_cache(mmsg.KNOWN)
def _info_in(control: bytes) -> Ancillary | None:
    return _info_among(mmsg.parse_control(control))


def _info_among(ancillary: Sequence[Ancillary]) -> Ancillary | None:
    for info in ancillary:
        level, kind, _ = info
        if level == socket.IPPROTO_IP and PACKET_INFO is not None and kind == PACKET_INFO[0]:
            return info
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            return info
    return None


@lru_cache(mmsg.KNOWN)
def destination(info: Ancillary) -> str:
    """The host that a datagram was sent to."""
    level, _, data = info
    if level == socket.IPPROTO_IPV6:
        return socket.inet_ntop(socket.AF_INET6, data[:16])
    assert PACKET_INFO is not None
    return socket.inet_ntop(socket.AF_INET, data[PACKET_INFO[1]])


@lru_cache(mmsg.KNOWN)
def is_shared(info: Ancillary) -> bool:
    """Whether a datagram was sent to an address that many hosts have: broadcast or multicast."""
    level, _, data = info
    if level == socket.IPPROTO_IP and PACKET_INFO is not None:
        _, asked, answering = PACKET_INFO
        # Of a network's broadcast address the kernel tells which address of ours got it: another one.
        if data[asked] != data[answering]:
            return True
    # IPV6_PKTINFO has no such pair: when a question in IPv4 comes to a socket of both families by its
    # network's broadcast address, that looks like any other address, and nothing more can be known.
    return is_shared_address(destination(info))


@lru_cache(mmsg.KNOWN)
def is_shared_address(host: str) -> bool:
    """Whether this is such an address, as far as it tells by itself."""
    if host[:7].lower() == "::ffff:" and "." in host:
        host = host[7:]  # IPv4, on an IPv6 socket
    if ":" in host:
        return host[:2].lower() == "ff"
    return int(host.partition(".")[0]) >= 224  # multicast, and 255.255.255.255


@lru_cache(mmsg.KNOWN)
def answer_from(info: Ancillary | None) -> tuple[Ancillary, ...]:
    """Control data to answer from the address that was asked; none if one cannot answer from there."""
    if info is None:
        return ()
    level, kind, data = info
    if level == socket.IPPROTO_IPV6:
        if data[0] == 0xFF:
            return ()  # multicast
        # An address of one link is nothing without it; for others, the route picks the interface.
        interface = data[16:20] if data[:2] == b"\xfe\x80" else bytes(4)
        return ((level, kind, data[:16] + interface),)
    assert PACKET_INFO is not None
    asked, answering = PACKET_INFO[1:]
    address = data[answering]
    if address[0] >= 224:
        return ()  # multicast or broadcast, on a system that does not tell which address of ours got it
    if asked == answering:
        return ((level, kind, address),)
    return ((level, kind, bytes(4) + address + bytes(4)),)  # the route picks the interface
