"""The guard: who is answered.

A time server on UDP that answers anything is a weapon. One datagram with a forged source makes
two of them answer each other's answers for ever (CVE-2024-2169), and many with the same forged
source send our answers to a victim. The guard knows six reasons to be silent, and checks them in
this order:

1. SOURCE: the address is nobody's, or everybody's: 0.0.0.0/8 and ``::``, the broadcast address,
   multicast.
2. PORT: the datagram comes from a port that we serve ourselves, so another server of ours, here or
   on another host, could have sent it. NTP is exempt: its peers ask from port 123, and an answer,
   which has another mode than a question, never triggers another one. On no protocol is there an answer
   for port 0, where nobody can be.
3. What the protocol says of its form and its port (the ``refusal`` of each protocol's module).
4. DENIED: by the access list.
5. RATE: this source has had its share.
6. CROWD, of connections: this source has as many as it may.

The first three tell what can never be a client's question, whoever is allowed here: so the counts
show an attack as what it is, also one by addresses that are not on the list. The rate comes last,
so that what is refused for another reason uses up nobody's share: else a loop that we do not take
part in, or a stranger who forges a client's address, would silence that client with datagrams that
get no answer anyway.

A loop has one datagram under way, so a single one that is not answered ends it. That is why there
is no leak: chrony answers some of those beyond the limit, so that clients behind a flood of forged
questions get through now and then, and each of these answers would keep a loop alive.

What strangers can fill is bounded: the verdicts on ``ADDRESSES`` addresses, as many senders for each
protocol that are known to be welcome, and the shares of twice ``SOURCES`` sources are remembered, about
20 MB when all are full, and one number for each source that has a connection. The guard of a worker
knows what that worker has answered. Of sockets that share a port, the kernel gives all datagrams
between two ports to the same worker, so a loop ends as soon as with one, but a source that asks from
many ports can have its share from each. A socket that all workers read, inherited from systemd, gives
its datagrams to anybody, so a loop there ends with the first worker that has had enough.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from uloop_reactor.datagram import Peer
from uloop_reactor.mmsg import endpoint

from .counters import Count
from .protocols import PROTOCOLS, clock, daytime, ntp, time_protocol
from .protocols.answers import SERVER_PORTS, are_too_short

__all__ = ["AccessList", "Guard", "Network", "Policy", "RateLimit"]

Network = IPv4Network | IPv6Network
#: what follows from an address alone: SOURCE, DENIED or nothing against it; and whose share it uses
Judgement = tuple[Count | None, bytes]
Refusal = Callable[[bytes, int], Count | None]

REFUSALS: dict[str, Refusal] = {
    "clock": clock.refusal,
    "daytime": daytime.refusal,
    "time": time_protocol.refusal,
    "ntp": ntp.refusal,
}
ARE_USUAL: dict[str, Callable[[Sequence[bytes]], bool]] = {
    "clock": are_too_short,
    "daytime": are_too_short,
    "time": are_too_short,
    "ntp": ntp.are_usual,
}
NO_PORT = frozenset((0,))  # nobody can be answered there
DEFAULT_RATE = 1.0  # answers a second, on protocols that can loop
ADDRESSES = 16_384  # whose verdicts are remembered
SOURCES = 32_768  # in each of the two generations of shares

IPV4_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
UNSPECIFIED = bytes(16)
BROADCAST = b"\xff\xff\xff\xff"
LINK_LOCAL = bytes((0xFE, 0x80, 0, 0, 0, 0, 0, 0))  # fe80::/64, RFC 4291 section 2.5.6


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator wants of the guard.

    Parameters:
        rate_limit: answers a second for each source, to datagrams. ``None`` is 1 on the protocols
            that can loop and no limit on NTP; a number is for all of them; 0 is no limit.
        rate_burst: answers that a source which was silent for long may have at once.
        allow, deny: networks; see :class:`AccessList`.
        max_connections_per_source: at once; ``None`` for no limit.

    A source is an IPv4 address or an IPv6 /64, of which a single host has all addresses; but
    a link-local address stands for itself, since all hosts of a link share that /64.

    Raises:
        ValueError: a number makes no sense; the message names it.
    """

    rate_limit: float | None = None
    rate_burst: int = 60
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    max_connections_per_source: int | None = None

    def __post_init__(self) -> None:
        if self.rate_burst < 1:
            raise ValueError(f"rate_burst must be at least 1 answer, not {self.rate_burst}")
        rate = self.rate_limit
        if rate and not (rate > 0 and math.isfinite(rate) and math.isfinite(self.rate_burst / rate)):
            raise ValueError(
                f"rate_limit must be a number of answers a second, or 0 for no limit, not {self.rate_limit}"
            )
        if self.max_connections_per_source is not None and self.max_connections_per_source < 1:
            raise ValueError(
                "max_connections_per_source must be at least 1, or None for no limit, "
                f"not {self.max_connections_per_source}"
            )


class Guard:
    """Decides who is answered, and keeps what it needs to decide.

    Parameters:
        policy: what the operator wants.
        own_ports: the UDP ports that we serve, of all protocols.
    """

    def __init__(self, policy: Policy, *, own_ports: Collection[int] = ()) -> None:
        self._own_ports = frozenset(own_ports)
        self._limit: RateLimit | None = None
        self._connections: dict[bytes, int] = {}
        self.reconfigure(policy)

    def reconfigure(self, policy: Policy) -> None:
        """Follow another policy from now on. What the sources have used up stays used up."""
        self._policy = policy
        self._judge = lru_cache(ADDRESSES)(partial(_judge, AccessList(policy.allow, policy.deny)))
        rate = DEFAULT_RATE if policy.rate_limit is None else policy.rate_limit
        if not rate:
            self._limit = None
        elif self._limit is None:
            self._limit = RateLimit(rate, policy.rate_burst)
        else:
            self._limit.change(rate, policy.rate_burst)
        self._rules = {
            name: Rules(
                self._own_ports | SERVER_PORTS if protocol.loops else NO_PORT,
                REFUSALS[name],
                ARE_USUAL[name],
                None if policy.rate_limit is None and not protocol.loops else self._limit,
                {},
            )
            for name, protocol in PROTOCOLS.items()
        }

    # Datagrams

    def refuses(self, protocol: str, datagram: bytes, sender: Peer, now: float) -> Count | None:
        """Why a datagram is not to be answered; ``None`` if it is, which uses up a part of the share.

        Parameters: as of ``refusals``.
        """
        return self.refusals(protocol, (datagram,), (sender,), now).get(0)

    def refusals(
        self, protocol: str, datagrams: Sequence[bytes], senders: Sequence[Peer], now: float
    ) -> dict[int, Count]:
        """Which datagrams of a batch are not to be answered, and why; the others use up their shares.

        Parameters:
            protocol: one of ``PROTOCOLS``.
            datagrams: what was received.
            senders: from where, for each: an address as Python's socket module has it, or a struct
                sockaddr in bytes.
            now: the loop's time, in seconds.

        Returns:
            The reason for each place in the batch, counted from 0, that gets no answer.
        """
        rules = self._rules[protocol]
        # As a rule all senders are known to be welcome, and all questions are of the usual form. To see
        # that at once costs half of what it costs to look at each.
        sources = list(map(rules.welcome.get, senders))
        refused = {}
        if None in sources or not rules.are_usual(datagrams):
            for place, (datagram, sender) in enumerate(zip(datagrams, senders, strict=True)):
                reason, sources[place] = self._examine(rules, datagram, sender)
                if reason is not None:
                    refused[place] = reason
                    sources[place] = None  # uses up nothing
        if rules.limit is not None:
            for place in rules.limit.take_each(sources, now):
                refused[place] = Count.RATE
        return refused

    def _examine(self, rules: Rules, datagram: bytes, sender: Peer) -> tuple[Count | None, bytes]:
        """What is against a datagram, but for the rate; and its source."""
        if isinstance(sender, bytes):
            address, port = endpoint(sender)
            address = _unmapped_address(address)
        else:
            address, port = _packed(sender[0]), sender[1]
        verdict, source = self._judge(address)
        if verdict is Count.SOURCE:
            return verdict, source
        if port in rules.ports:
            return Count.PORT, source
        if verdict is None:
            if len(rules.welcome) >= ADDRESSES:
                rules.welcome.clear()  # they will be known again soon
            rules.welcome[sender] = source
        return rules.refusal(datagram, port) or verdict, source

    # Connections

    def refuses_connection(self, host: str) -> Count | None:
        """Why a connection from this address is to be closed before anything is read, or ``None``."""
        verdict, source = self._judge(_packed(host))
        if verdict is not None:
            return verdict
        most = self._policy.max_connections_per_source
        if most is not None and self._connections.get(source, 0) >= most:
            return Count.CROWD
        return None

    def connected(self, host: str) -> None:
        """A connection from this address was accepted. It is counted also while there is no limit,
        since there may be one later."""
        source = self._judge(_packed(host))[1]
        self._connections[source] = self._connections.get(source, 0) + 1

    def disconnected(self, host: str) -> None:
        """A connection of which ``connected`` was told has ended."""
        source = self._judge(_packed(host))[1]
        left = self._connections[source] - 1
        if left:
            self._connections[source] = left
        else:
            del self._connections[source]


class Rules(NamedTuple):
    """What holds for the datagrams of a protocol, and who is known to be welcome."""

    ports: frozenset[int]  # from which nothing is answered
    refusal: Refusal
    are_usual: Callable[[Sequence[bytes]], bool]
    limit: RateLimit | None
    welcome: dict[Peer, bytes]  # senders with nothing against their address and port, and their sources


def _judge(access: AccessList, address: bytes) -> Judgement:
    """Takes 0.5 us and more, so the guard remembers what comes out."""
    first = address[0]
    if len(address) == 4:
        source = address
        nobodys = first == 0 or 224 <= first < 240 or address == BROADCAST
    else:
        source = address if address.startswith(LINK_LOCAL) else address[:8]
        nobodys = first == 0xFF or address == UNSPECIFIED
    if nobodys:
        return Count.SOURCE, source
    return (Count.DENIED if access.denies_packed(address) else None), source


class AccessList:
    """Who is allowed: the most specific network that an address is in decides.

    When both lists have that network, it is denied. An address that is in no network is allowed,
    unless there is anything in ``allow``: then it is denied. An IPv4-mapped IPv6 address or
    network (``::ffff:192.0.2.0/120``) counts as the IPv4 one, and ``::/0`` has no IPv4 in it.

    Parameters:
        allow, deny: networks.
    """

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        networks = {_unmapped(network): False for network in allow}
        self._otherwise = bool(networks)
        networks |= {_unmapped(network): True for network in deny}
        # For each length of addresses, in bytes: the lengths of prefixes, the longest first, each with
        # the bits to leave out and the prefixes themselves. So an address is looked up once for each
        # length of prefixes that is in use, however many networks there are.
        self._tables: dict[int, list[tuple[int, dict[int, bool]]]] = {4: [], 16: []}
        for network in sorted(networks, key=lambda network: network.prefixlen, reverse=True):
            table = self._tables[network.max_prefixlen // 8]
            host_bits = network.max_prefixlen - network.prefixlen
            if not table or table[-1][0] != host_bits:
                table.append((host_bits, {}))
            table[-1][1][int(network.network_address) >> host_bits] = networks[network]

    def denies(self, host: str) -> bool:
        """Whether an address is denied. A scope id, as in ``fe80::1%eth0``, makes no difference."""
        return self.denies_packed(_packed(host))

    def denies_packed(self, address: bytes) -> bool:
        """The same for the 4 or 16 bytes of an address, which is not IPv4-mapped."""
        number = int.from_bytes(address)
        for host_bits, prefixes in self._tables[len(address)]:
            denied = prefixes.get(number >> host_bits)
            if denied is not None:
                return denied
        return self._otherwise


class RateLimit:
    """A bucket of answers for each source, which fills at a steady rate.

    The rules (the generic cell rate algorithm, ITU-T I.371 annex A):

    1. What is kept of a bucket is one number: the time at which it will be full again. Each answer
       moves it on by the time that one takes to fill in, and there is none when that would
       move it further away than the time an empty bucket takes to fill.
    2. What is refused moves nothing: who keeps on asking waits no longer than who stops.
    3. The sources are in two generations. Who asks, answered or not, comes to the young one. When
       that has ``SOURCES`` of them, it becomes the old one, and the former old one is forgotten.
       So a flood of forged sources costs a bounded amount of memory, and forgets only those who
       have been silent while ``SOURCES`` others came: at 200,000 a second, for 0.16 s. To be
       forgotten is to have a full bucket. The other way, to refuse who is new when the table is
       full, would hand the service to the attacker; and to search for the oldest, or a
       list in order of use, would cost every datagram more than its share.

    Parameters:
        rate: answers a second, more than 0.
        burst: answers in a full bucket, 1 or more.
    """

    __slots__ = ("_interval", "_latest", "_old", "_patience", "_young")

    def __init__(self, rate: float, burst: int) -> None:
        self._young: dict[bytes, float] = {}
        self._old: dict[bytes, float] = {}
        self._latest = 0.0  # the latest time that was heard of
        self._set(rate, burst)

    def _set(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        # Until the bucket is full, when one answer is left; but for a thousandth of it, so that
        # rounding takes nobody's answer away.
        self._patience = (burst - 0.999) / rate

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._young) + len(self._old)

    def take(self, source: bytes, now: float) -> bool:
        """Take an answer from the source's bucket; False if none is left.

        Parameters:
            source: whose bucket.
            now: seconds, on a clock that does not go back.
        """
        return not self.take_each((source,), now)

    def take_each(self, sources: Iterable[bytes | None], now: float) -> list[int]:
        """Take an answer from the bucket of each.

        Parameters:
            sources: whose buckets; ``None`` is nobody's.
            now: as for ``take``.

        Returns:
            The places, counted from 0, of those who had none left.
        """
        self._latest = now
        young, interval, latest = self._young, self._interval, now + self._patience
        empty = []
        for place, source in enumerate(sources):
            try:
                full = young[source]  # type: ignore[index]
            except KeyError:
                if source is None:
                    continue
                full = self._recall(source, now)
                young = self._young  # perhaps a new generation
            if full > latest:
                empty.append(place)
            else:
                young[source] = (full if full > now else now) + interval  # type: ignore[index]
        return empty

    def _recall(self, source: bytes, now: float) -> float:
        """When the bucket of one who is not among the young is full."""
        full = self._old.get(source, now)
        if len(self._young) >= SOURCES:
            self._old = self._young
            self._young = {}
        self._young[source] = full
        return full

    def change(self, rate: float, burst: int) -> None:
        """Another rate and burst from now on; what was taken stays taken, as far as the bucket goes.

        Parameters: as of the class.
        """
        latest, interval = self._latest, self._interval
        self._set(rate, burst)
        for generation in (self._young, self._old):
            for source, full in generation.items():
                taken = min((full - latest) / interval, burst)
                generation[source] = latest + taken * self._interval


def _packed(host: str) -> bytes:
    """The 4 or 16 bytes of an address."""
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    return _unmapped_address(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]))


def _unmapped_address(address: bytes) -> bytes:
    return address[12:] if address.startswith(IPV4_MAPPED) else address


def _unmapped(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        address = network.network_address.packed
        if address.startswith(IPV4_MAPPED):
            return ip_network((address[12:], network.prefixlen - 96))
    return network
