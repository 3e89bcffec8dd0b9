"""Who is answered, in which order that is decided, and what is remembered."""

from __future__ import annotations

import gc
import socket
import struct
import sys
import tracemalloc
from ipaddress import IPv4Address, ip_network
from random import Random
from typing import Any

import pytest
from uloop_servers.counters import Count
from uloop_servers.guard import ADDRESSES, Guard, Network, Policy
from uloop_servers.protocols import PROTOCOLS

CLIENT = ("192.0.2.1", 40001)
EVERYBODY = (ip_network("0.0.0.0/0"), ip_network("::/0"))
NTP_QUESTION = b"\x23" + bytes(47)  # version 4, mode 3
TEXT_ANSWER = b"2020-06-15 15:34:33.899256"
LOOPING = [name for name, protocol in PROTOCOLS.items() if protocol.loops]


def networks(text: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, text.split()))


def refused(guard: Guard, sender: Any = CLIENT, *, protocol: str = "clock", now: float = 0.0) -> Count | None:
    datagram = NTP_QUESTION if protocol == "ntp" else b""
    return guard.refuses(protocol, datagram, sender, now)


def answers(guard: Guard, sender: Any = CLIENT, *, protocol: str = "clock", now: float = 0.0) -> int:
    """How many of a thousand questions are answered at this moment."""
    return sum(refused(guard, sender, protocol=protocol, now=now) is None for _ in range(1000))


# Addresses


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255"),
        *("::", "ff02::1", "ff02::1%2", "ffff::1", "::ffff:224.0.0.1", "::ffff:255.255.255.255"),
    ],
)
def test_what_no_single_host_can_have_is_not_answered(host: str, protocol: str) -> None:
    assert refused(Guard(Policy()), (host, 40001), protocol=protocol) is Count.SOURCE


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sender", [("127.0.0.1", 40001), ("223.255.255.255", 1024), ("::1", 40001, 0, 0)])
def test_hosts_are_answered(sender: Any, protocol: str) -> None:
    assert refused(Guard(Policy()), sender, protocol=protocol) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_is_denied(protocol: str) -> None:
    guard = Guard(Policy(allow=networks("192.0.2.0/24"), deny=networks("192.0.2.128/25")))
    assert refused(guard, ("192.0.2.1", 40001), protocol=protocol) is None
    assert refused(guard, ("192.0.2.129", 40001), protocol=protocol) is Count.DENIED
    assert refused(guard, ("::ffff:192.0.2.1", 40001, 0, 0), protocol=protocol) is None
    assert refused(guard, ("2001:db8::1", 40001, 0, 0), protocol=protocol) is Count.DENIED


# Ports and form


@pytest.mark.parametrize("protocol", LOOPING)
def test_our_own_ports_are_not_answered(protocol: str) -> None:
    """Who asks from such a port is another server of ours, as far as anybody can tell."""
    guard = Guard(Policy(), own_ports=(40001, 40003))
    assert refused(guard, ("192.0.2.1", 40001), protocol=protocol) is Count.PORT
    assert refused(guard, ("192.0.2.1", 40002), protocol=protocol) is None
    assert refused(guard, ("192.0.2.1", 40003), protocol=protocol) is Count.PORT


def test_ntp_servers_may_ask_each_other() -> None:
    guard = Guard(Policy(), own_ports=(123, 40001))
    assert refused(guard, ("192.0.2.1", 123), protocol="ntp") is None
    assert refused(guard, ("192.0.2.1", 40001), protocol="ntp") is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_wants_no_answer_gets_none(protocol: str) -> None:
    assert refused(Guard(Policy()), ("192.0.2.1", 0), protocol=protocol) is Count.PORT


@pytest.mark.parametrize("answering", PROTOCOLS)
def test_the_form_is_what_the_protocol_says(answering: str) -> None:
    guard = Guard(Policy())
    reasons = {"ntp": Count.LENGTH}
    assert guard.refuses(answering, TEXT_ANSWER, CLIENT, 0.0) is reasons.get(answering, Count.FORM)
    kiss = b"\xe4" + bytes(47)  # version 4, mode 4: an answer
    reasons = {"ntp": Count.MODE}
    assert guard.refuses(answering, kiss, CLIENT, 0.0) is reasons.get(answering, Count.FORM)


# The order


def test_the_order_of_the_reasons() -> None:
    """Each in turn is mended, and the next one shows."""
    deny_all = Policy(deny=EVERYBODY, rate_burst=1)
    guard = Guard(deny_all, own_ports=(40001,))
    assert guard.refuses("clock", TEXT_ANSWER, ("224.0.0.1", 40001), 0.0) is Count.SOURCE
    assert guard.refuses("clock", TEXT_ANSWER, ("192.0.2.1", 40001), 0.0) is Count.PORT
    assert guard.refuses("clock", TEXT_ANSWER, ("192.0.2.1", 40002), 0.0) is Count.FORM
    assert guard.refuses("clock", b"", ("192.0.2.1", 40002), 0.0) is Count.DENIED
    guard.reconfigure(Policy(rate_burst=1))
    assert guard.refuses("clock", b"", ("192.0.2.1", 40002), 0.0) is None
    assert guard.refuses("clock", b"", ("192.0.2.1", 40002), 0.0) is Count.RATE


def test_what_is_refused_uses_up_nobodys_share() -> None:
    """Or a stranger could silence a client with forged datagrams that get no answer anyway."""
    guard = Guard(Policy(deny=networks("192.0.2.1/32")), own_ports=(40009,))
    for _ in range(100):
        assert guard.refuses("clock", b"", ("192.0.2.1", 40009), 0.0) is Count.PORT
        assert guard.refuses("clock", TEXT_ANSWER, CLIENT, 0.0) is Count.FORM
        assert guard.refuses("clock", b"", CLIENT, 0.0) is Count.DENIED
    guard.reconfigure(Policy())
    assert answers(guard) == 60


# The rate


@pytest.mark.parametrize("protocol", LOOPING)
def test_protocols_that_can_loop_have_a_limit(protocol: str) -> None:
    guard = Guard(Policy())
    assert answers(guard, protocol=protocol) == 60
    assert refused(guard, protocol=protocol) is Count.RATE
    assert answers(guard, protocol=protocol, now=2.0) == 2


def test_ntp_has_none() -> None:
    assert answers(Guard(Policy()), protocol="ntp") == 1000


def test_a_source_has_one_share_for_all_protocols() -> None:
    guard = Guard(Policy())
    assert answers(guard, protocol="clock") == 60
    assert refused(guard, protocol="time") is Count.RATE


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_limit_that_is_given_is_for_all(protocol: str) -> None:
    guard = Guard(Policy(rate_limit=10, rate_burst=5))
    assert answers(guard, protocol=protocol) == 5
    assert answers(guard, protocol=protocol, now=0.2) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_limit(protocol: str) -> None:
    assert answers(Guard(Policy(rate_limit=0)), protocol=protocol) == 1000


def test_a_source_is_an_ipv4_address_whatever_its_port() -> None:
    guard = Guard(Policy())
    assert answers(guard, ("192.0.2.1", 40001)) == 60
    assert answers(guard, ("192.0.2.1", 40002)) == 0
    assert answers(guard, ("::ffff:192.0.2.1", 40001, 0, 0)) == 0
    assert answers(guard, ("192.0.2.2", 40001)) == 60


def test_a_source_is_an_ipv6_network_of_64_bits() -> None:
    """One host has all of its addresses, so it could be a new source for each question."""
    guard = Guard(Policy())
    assert answers(guard, ("2001:db8::1", 40001, 0, 0)) == 60
    assert answers(guard, ("2001:db8::ffff:0:0:1", 40001, 0, 0)) == 0
    assert answers(guard, ("2001:db8:0:1::1", 40001, 0, 0)) == 60


def test_each_link_local_address_is_a_source() -> None:
    """All hosts of a link have the same 64 bits there."""
    guard = Guard(Policy())
    assert answers(guard, ("fe80::1", 40001, 0, 2)) == 60
    assert answers(guard, ("fe80::1%2", 40001, 0, 2)) == 0
    assert answers(guard, ("fe80::2", 40001, 0, 2)) == 60


# Connections


def test_a_connection_of_anybody_is_welcome() -> None:
    guard = Guard(Policy())
    for _ in range(1000):
        assert guard.refuses_connection("192.0.2.1") is None
        guard.connected("192.0.2.1")


def test_a_connection_may_be_denied() -> None:
    guard = Guard(Policy(deny=networks("192.0.2.0/24")))
    assert guard.refuses_connection("192.0.2.1") is Count.DENIED
    assert guard.refuses_connection("::ffff:192.0.2.1") is Count.DENIED
    assert guard.refuses_connection("192.0.3.1") is None


def test_connections_of_a_source_are_counted() -> None:
    guard = Guard(Policy(max_connections_per_source=2))
    for host in ("192.0.2.1", "::ffff:192.0.2.1"):
        assert guard.refuses_connection(host) is None
        guard.connected(host)
    assert guard.refuses_connection("192.0.2.1") is Count.CROWD
    assert guard.refuses_connection("192.0.2.2") is None
    guard.disconnected("192.0.2.1")
    assert guard.refuses_connection("192.0.2.1") is None


def test_connections_of_an_ipv6_network_are_counted_together() -> None:
    guard = Guard(Policy(max_connections_per_source=1))
    guard.connected("2001:db8::1")
    assert guard.refuses_connection("2001:db8::2") is Count.CROWD
    assert guard.refuses_connection("2001:db8:0:1::1") is None


def test_who_has_no_connection_is_forgotten() -> None:
    guard = Guard(Policy())
    for _ in range(2):
        guard.connected("192.0.2.1")
    guard.disconnected("192.0.2.1")
    assert len(guard._connections) == 1
    guard.disconnected("192.0.2.1")
    assert not guard._connections


# Another policy


def test_another_policy_counts_at_once() -> None:
    """Also for those whom the guard has judged before."""
    guard = Guard(Policy())
    assert refused(guard) is None
    assert guard.refuses_connection(CLIENT[0]) is None
    guard.reconfigure(Policy(deny=networks("192.0.2.0/24")))
    assert refused(guard) is Count.DENIED
    assert guard.refuses_connection(CLIENT[0]) is Count.DENIED
    guard.reconfigure(Policy())
    assert refused(guard) is None


def test_what_was_used_up_stays_used_up() -> None:
    """Or a reload would start a loop anew that the limit has ended, and let in a crowd."""
    guard = Guard(Policy())
    assert answers(guard) == 60
    guard.connected(CLIENT[0])
    guard.reconfigure(Policy(rate_limit=2, max_connections_per_source=1))
    assert answers(guard) == 0
    assert answers(guard, now=1.0) == 2
    assert guard.refuses_connection(CLIENT[0]) is Count.CROWD


def test_the_limit_can_be_turned_off_and_on() -> None:
    guard = Guard(Policy())
    assert answers(guard) == 60
    guard.reconfigure(Policy(rate_limit=0))
    assert answers(guard) == 1000
    guard.reconfigure(Policy())
    assert answers(guard) == 60


def test_own_ports_outlast_another_policy() -> None:
    guard = Guard(Policy(), own_ports=(40001,))
    guard.reconfigure(Policy(rate_limit=0))
    assert refused(guard) is Count.PORT


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"rate_limit": -1.0},
            "rate_limit must be a number of answers a second, or 0 for no limit, not -1.0",
        ),
        ({"rate_limit": float("nan")}, "or 0 for no limit, not nan"),
        ({"rate_limit": float("inf")}, "or 0 for no limit, not inf"),
        ({"rate_limit": 5e-324}, "or 0 for no limit, not 5e-324"),
        ({"rate_burst": 0}, "rate_burst must be at least 1 answer, not 0"),
        (
            {"max_connections_per_source": 0},
            "max_connections_per_source must be at least 1, or None for no limit, not 0",
        ),
    ],
)
def test_a_policy_that_makes_no_sense(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as refusal:
        Policy(**bad)
    assert str(refusal.value).endswith(message)


# Batches


def sockaddr(sender: Any) -> bytes:
    """A struct sockaddr, ip(7) and ipv6(7)."""
    host, port = sender[:2]
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H2s4s16sI", socket.AF_INET6, port.to_bytes(2), bytes(4), packed, 0)
    return struct.pack("=H2s4s8x", socket.AF_INET, port.to_bytes(2), socket.inet_aton(host))


SENDERS = [
    *(("192.0.2.1", 40001), ("192.0.2.1", 123), ("192.0.2.1", 0), ("192.0.2.1", 40009), ("224.0.0.1", 40001)),
    *(("198.51.100.7", 40001), ("198.51.100.7", 123), ("2001:db8::1", 40001), ("2001:db8::1:1", 40001)),
    *(("::ffff:198.51.100.7", 40001), ("fe80::1", 40001), ("::", 1), ("255.255.255.255", 3333)),
]
DATAGRAMS = [
    b"",
    b"t",
    TEXT_ANSWER,
    b"\xe2\x93\x1a\x00",
    NTP_QUESTION,
    NTP_QUESTION + bytes(4),
    b"\x08" + bytes(47),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("raw", [False, True])
def test_a_batch_is_treated_as_one_after_the_other_would_be(protocol: str, raw: bool) -> None:
    """Whatever is in it, whoever is known already, and however the senders are told."""
    random = Random(6)
    policy = Policy(rate_limit=1, rate_burst=3, deny=networks("198.51.100.0/24"))
    whole, single = Guard(policy, own_ports=(40009,)), Guard(policy, own_ports=(40009,))
    reasons = set()
    for now in range(200):
        count = random.randrange(1, 10)
        usual = random.random() < 0.5  # nothing but questions of the usual form, as a rule
        question = NTP_QUESTION if protocol == "ntp" else b"t"
        datagrams = [question if usual else random.choice(DATAGRAMS) for _ in range(count)]
        senders = random.choices(SENDERS, k=count)
        expected = {}
        for place, (datagram, sender) in enumerate(zip(datagrams, senders, strict=True)):
            reason = single.refuses(protocol, datagram, sender, now)
            if reason is not None:
                expected[place] = reason
        told = list(map(sockaddr, senders)) if raw else senders
        assert whole.refusals(protocol, datagrams, told, now) == expected
        reasons |= set(expected.values())
    assert {Count.SOURCE, Count.PORT, Count.DENIED, Count.RATE} <= reasons
    assert reasons & {Count.FORM, Count.LENGTH}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_empty_batch(protocol: str) -> None:
    assert Guard(Policy()).refusals(protocol, (), (), 0.0) == {}


def test_who_is_denied_from_now_on_is_known_at_once() -> None:
    guard = Guard(Policy())
    sender = sockaddr(CLIENT)
    assert guard.refusals("clock", [b""], [sender], 0.0) == {}
    guard.reconfigure(Policy(deny=networks("192.0.2.0/24")))
    assert guard.refusals("clock", [b""], [sender], 0.0) == {0: Count.DENIED}


# Memory


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="tracemalloc is CPython's")
def test_a_flood_of_forged_sources_takes_a_bounded_amount_of_memory() -> None:
    guard = Guard(Policy())
    hosts = (str(IPv4Address(0x0B000000 + number)) for number in range(150_000))
    gc.collect()
    tracemalloc.start()
    try:
        for count, host in enumerate(hosts):
            assert refused(guard, (host, 40001)) is None
            if count == 75_000:
                half = tracemalloc.get_traced_memory()[0]
        memory = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert guard._judge.cache_info().currsize == ADDRESSES
    assert all(len(rules.welcome) <= ADDRESSES for rules in guard._rules.values())
    # It goes up and down with the generations.
    assert memory < 12e6
    assert memory - half < 4e6
