"""Datagrams into and out of a socket: in batches where the system can, one by one elsewhere.

A batch is kept in columns, and what is said of it is said of a whole column: with an object for
each datagram, Python's part of the work would be twice as long. So a sender is what the system has said
it is, until somebody asks: in bytes, a struct sockaddr, where many datagrams come in one call; and an
address as ``socket.recvfrom`` returns it elsewhere and on Unix sockets.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Collection, Sequence
from itertools import compress
from typing import Any

from . import mmsg
from .control import CONTROL_ROOM, Control
from .datagram_sockets import Address
from .mmsg import BATCH, UNIX, Ancillary

__all__ = ["FAILURES", "Arrays", "Batch", "Batches", "OneByOne", "Peer", "Source", "Waiting"]

log = logging.getLogger("uloop.reactor")

FAILURES = 8  # in a row make a call suspect: receiving is to rest then, recvmmsg to be given up
LONGEST_UNMERGED = 1024  # batches until merging is tried again, after it has failed again and again
#: After so many lone datagrams in a row, the next ones are read with recvfrom, and every so many
#: with recvmmsg, to see whether that still holds. To read one costs 1.5 us instead of 3.0.
PATIENCE = 8

#: from a route or device that cannot cut a piece up into datagrams (Linux: net/ipv4/udp.c, udp_send_skb)
NOT_MERGED = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP)
#: from a sandbox that does not let us call recvmmsg or sendmmsg, or an emulator that does not know them
REFUSED = (errno.ENOSYS, errno.EPERM, errno.EINVAL)

#: an address; or on IP sockets bytes, the struct sockaddr of one, which nobody has looked into yet;
#: or ``None`` for the connected peer
Peer = Any
#: control data for the kernel: from which address of ours
Source = tuple[Ancillary, ...]
#: for the kernel: data, where to, from where
Waiting = tuple[bytes, Peer, Source]


class Batch:
    """Datagrams that have arrived together, in columns: the first of each column belong together.

    Attributes:
        data: their bytes.
        senders: where they come from: see ``DatagramSocket.address_of``. They are hashable; equal
            ones are the same sender, but the same sender may be told in two ways.
        controls: what else the system tells of them.
        read_at: when they were read, in ns since the epoch.
    """

    __slots__ = ("controls", "data", "read_at", "senders")

    def __init__(
        self,
        data: Sequence[bytes] = (),
        senders: Sequence[Peer] = (),
        controls: Sequence[Control] = (),
        read_at: int = 0,
    ) -> None:
        self.data = data
        self.senders = senders
        self.controls = controls
        self.read_at = read_at

    def __len__(self) -> int:
        return len(self.data)

    def without(self, places: Collection[int]) -> Batch:
        """What is left when the datagrams at these places, counted from 0, are left out."""
        left = [place not in places for place in range(len(self.data))]
        data, senders = tuple(compress(self.data, left)), tuple(compress(self.senders, left))
        return Batch(data, senders, tuple(compress(self.controls, left)), self.read_at)


class OneByOne:
    """Datagrams by one call each: what every platform has."""

    def __init__(self, sock: socket.socket, size: int, control: bool) -> None:
        self.sock: Any = sock  # Windows' has no recvmsg and sendmsg, and is not asked for them
        self.size = size
        self.control = control

    def receive(self) -> tuple[Batch, OSError | None]:
        """A batch, and the error that ended it, if there was one."""
        received: list[tuple[bytes, Peer, Control]] = []
        failure = None
        try:
            while len(received) < BATCH:
                received.append(self.receive_one())
        except BlockingIOError:
            pass
        except OSError as error:
            failure = error
        data, senders, controls = zip(*received, strict=True) if received else ((), (), ())
        return Batch(data, senders, controls), failure

    def receive_one(self) -> tuple[bytes, Peer, Control]:
        if self.control:
            data, ancillary, _, sender = self.sock.recvmsg(self.size, CONTROL_ROOM)
            return data, sender or None, ancillary
        data, sender = self.sock.recvfrom(self.size)
        return data, sender or None, ()

    def send(
        self, data: Sequence[bytes], peers: Sequence[Peer], ancillaries: Sequence[Source]
    ) -> tuple[int, OSError | None]:
        """Send datagrams, given in columns.

        Returns:
            How many of them were sent, and the error of the next one, if there was one.
        """
        sent = 0
        try:
            for message in zip(data, peers, ancillaries, strict=True):
                self.send_one(*message)
                sent += 1
        except OSError as error:
            return sent, error
        return sent, None

    def send_one(self, data: bytes, peer: Peer, ancillary: Source) -> None:
        if ancillary:
            self.sock.sendmsg([data], ancillary, 0, self.address_of(peer))
        elif peer is None:
            self.sock.send(data)
        else:
            self.sock.sendto(data, self.address_of(peer))

    def address_of(self, peer: Peer) -> Address:
        """A peer's address, as ``socket.recvfrom`` returns it."""
        return peer


class Batches(OneByOne):
    """Datagrams by recvmmsg and sendmmsg, where there is more than one."""

    def __init__(self, sock: socket.socket, size: int, control: bool, arrays: Arrays) -> None:
        super().__init__(sock, size, control)
        self.fileno = sock.fileno()
        self.family = sock.family
        self.raw = sock.family != UNIX  # there, the bytes of an address are one in the abstract namespace
        self.incoming = arrays.receiving(size, control)
        self.outgoing = arrays.sending
        self.merge = mmsg.can_merge(sock)
        self.unmerged = 0  # batches that are sent without merging, since merging has failed
        self.merge_failures = 0  # in a row
        self.lone = 0  # wake-ups in a row that had one datagram
        self.refused_receives = 0  # in a row, by recvmmsg, while the call for one succeeded
        self.refused_sends = 0  # likewise, by sendmmsg
        self.given_up = False  # the calls for many

    def receive(self) -> tuple[Batch, OSError | None]:
        if self.given_up:
            return super().receive()
        try:
            if self.lone >= PATIENCE and self.lone % PATIENCE:
                data, sender, control = self.receive_one()
                self.lone += 1
                return Batch((data,), (sender,), (control,)), None
            batch = Batch(*self.incoming.receive(self.fileno))
        except BlockingIOError:
            return Batch(), None
        except OSError as error:
            if error.errno not in REFUSED:
                return Batch(), error
            received, still = super().receive()
            self.refused_receives += still is None
            self.give_up_if(self.refused_receives, error)
            return received, still
        self.refused_receives = 0
        self.lone = self.lone + 1 if len(batch) == 1 else 0
        if not self.raw:
            batch.senders = tuple(map(mmsg.decode, batch.senders))
        return batch, None

    def send(
        self, data: Sequence[bytes], peers: Sequence[Peer], ancillaries: Sequence[Source]
    ) -> tuple[int, OSError | None]:
        if self.given_up or len(data) == 1:
            return super().send(data, peers, ancillaries)
        names = peers if self.raw else tuple(map(self.name_of, peers))
        merge = self.merge and not self.unmerged
        if self.unmerged:
            self.unmerged -= 1
        controls = tuple(map(mmsg.pack_control, ancillaries)) if any(ancillaries) else None
        try:
            try:
                # As a rule all have come with recvmmsg. To look at each before would cost 0.03 us.
                sent = self.outgoing.send(self.fileno, data, names, controls, merge)
            except TypeError:
                names = tuple(map(self.name_of, peers))
                sent = self.outgoing.send(self.fileno, data, names, controls, merge)
        except OSError as error:
            merged = self.outgoing.runs[0] > 1 and error.errno in NOT_MERGED
            if not merged and error.errno not in REFUSED:
                return 0, error
            # Was it the call, or the datagram? It may be for port 0, by a stranger's doing.
            sent, still = super().send(data[:1], peers[:1], ancillaries[:1])
            if merged and sent:
                self.note_failed_merge()
            elif not merged:
                self.refused_sends += sent
                self.give_up_if(self.refused_sends, error)
            return sent, still
        self.refused_sends = 0
        if self.outgoing.runs[0] > 1:
            self.merge_failures = 0
        return sent, None

    def note_failed_merge(self) -> None:
        """Do without for a while: some device or route cannot, or the datagrams are too long for one."""
        # Not for good, since it may be one peer's route alone, and every peer can choose a bad one.
        self.unmerged = min(1 << self.merge_failures, LONGEST_UNMERGED)
        self.merge_failures = min(self.merge_failures + 1, 16)

    def give_up_if(self, refusals: int, error: OSError) -> None:
        """Do without the calls for many if this was not by chance."""
        if error.errno == errno.ENOSYS or refusals >= FAILURES:
            self.given_up = True
            log.info("datagrams of descriptor %d go one by one from now on: %s", self.fileno, error)

    def address_of(self, peer: Peer) -> Address:
        return mmsg.decode(peer) if self.raw and peer.__class__ is bytes else peer

    def name_of(self, peer: Peer) -> bytes:
        """A peer's struct sockaddr; nothing for the connected one."""
        if peer is None:
            return b""
        if self.raw and peer.__class__ is bytes:
            return peer
        return mmsg.encode(self.family, peer)


class Arrays:
    """What the sockets of one loop share."""

    def __init__(self) -> None:
        self.sending = mmsg.SendArrays()
        self._receiving: dict[tuple[int, bool], mmsg.ReceiveArrays] = {}

    def receiving(self, size: int, control: bool) -> mmsg.ReceiveArrays:
        arrays = self._receiving.get((size, control))
        if arrays is None:
            arrays = self._receiving[size, control] = mmsg.ReceiveArrays(size, control)
        return arrays
