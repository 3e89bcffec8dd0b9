"""Who is allowed by --allow and --deny."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from uloop_servers.guard import AccessList, Network


def access(*, allow: str = "", deny: str = "") -> AccessList:
    return AccessList(map(ip_network, allow.split()), map(ip_network, deny.split()))


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::"])
def test_without_lists_all_are_allowed(host: str) -> None:
    assert not access().denies(host)


def test_what_is_denied_is_denied_and_the_others_are_allowed() -> None:
    listed = access(deny="192.0.2.0/24 2001:db8::/32")
    assert listed.denies("192.0.2.0")
    assert listed.denies("192.0.2.255")
    assert not listed.denies("192.0.3.0")
    assert not listed.denies("192.0.1.255")
    assert listed.denies("2001:db8:ffff::1")
    assert not listed.denies("2001:db9::1")


def test_with_something_allowed_all_the_others_are_denied() -> None:
    """Those of the other IP version too: an operator who lists friends has listed all of them."""
    listed = access(allow="192.0.2.0/24")
    assert not listed.denies("192.0.2.7")
    assert listed.denies("198.51.100.7")
    assert listed.denies("2001:db8::7")


def test_the_most_specific_network_decides() -> None:
    listed = access(allow="10.0.0.0/8 10.1.2.0/24 10.1.2.3/32", deny="0.0.0.0/0 10.1.0.0/16 10.1.2.4/32")
    assert listed.denies("192.0.2.1")
    assert not listed.denies("10.2.0.1")
    assert listed.denies("10.1.3.1")
    assert not listed.denies("10.1.2.1")
    assert not listed.denies("10.1.2.3")
    assert listed.denies("10.1.2.4")


@pytest.mark.parametrize("network", ["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "192.0.2.1/32"])
def test_deny_wins_a_tie(network: str) -> None:
    host = str(ip_network(network)[0])
    assert not access(allow=network).denies(host)
    assert access(allow=network, deny=network).denies(host)


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    """It is what a socket that takes both has for an IPv4 client."""
    listed = access(deny="192.0.2.0/24")
    assert listed.denies("::ffff:192.0.2.1")
    assert listed.denies("::FFFF:c000:201")
    assert not listed.denies("::ffff:192.0.3.1")
    assert not listed.denies("::192.0.2.1")


def test_an_ipv4_mapped_network_is_the_ipv4_network() -> None:
    listed = access(deny="::ffff:192.0.2.0/120")
    assert listed.denies("192.0.2.0")
    assert listed.denies("192.0.2.255")
    assert not listed.denies("192.0.3.0")
    assert access(deny="::ffff:0:0/96").denies("192.0.2.1")
    # they are the same network, so this is a tie
    assert access(allow="192.0.2.0/24", deny="::ffff:192.0.2.0/120").denies("192.0.2.1")


def test_no_ipv4_is_in_an_ipv6_network() -> None:
    listed = access(deny="::/0")
    assert listed.denies("2001:db8::1")
    assert not listed.denies("192.0.2.1")
    assert not listed.denies("::ffff:192.0.2.1")


def test_a_scope_makes_no_difference() -> None:
    listed = access(deny="fe80::/10")
    assert listed.denies("fe80::1%eth0")
    assert listed.denies("fe80::1%2")
    assert not access(deny="fe80::2/128").denies("fe80::1%2")


def test_thousands_of_networks_cost_no_more_than_their_lengths() -> None:
    """One look for each length of prefixes; a list that is walked would let a flood of strangers
    cost as much as the operator has networks."""
    networks = [IPv4Network((number << 12, 20)) for number in range(5000)]
    listed = AccessList(networks[::2], networks[1::2])
    assert not listed.denies(str(networks[0][1]))
    assert listed.denies(str(networks[4999][1]))
    assert [len(table) for table in listed._tables.values()] == [1, 0]


def as_ipv4(network: Network) -> Network:
    """The IPv4 network that this one is, if it is one of IPv4-mapped addresses."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        address = network.network_address.ipv4_mapped
        if address is not None:
            return IPv4Network(f"{address}/{network.prefixlen - 96}")
    return network


def test_it_says_the_same_as_ipaddress() -> None:
    pytest.importorskip("hypothesis", reason="the lists are made up by Hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    # Addresses of few different bits, so that networks overlap and addresses lie in them.
    numbers_v4 = st.sampled_from([0x0A000000 | bits for bits in (0, 1, 2, 3, 0x100, 0x80000, 0x800000)])
    numbers_v6 = st.sampled_from([0xFE80 << 112 | bits for bits in (0, 1, 2, 1 << 63, 1 << 64, 1 << 100)])
    numbers_v6 |= numbers_v4.map(lambda number: 0xFFFF << 32 | number)
    networks = st.lists(
        st.builds(lambda n, length: IPv4Network((n, length), strict=False), numbers_v4, st.integers(0, 32))
        | st.builds(
            lambda n, length: IPv6Network((n, length), strict=False), numbers_v6, st.integers(0, 128)
        ),
        max_size=6,
    )
    addresses = st.builds(IPv4Address, numbers_v4) | st.builds(IPv6Address, numbers_v6)

    @settings(deadline=None)
    @given(networks, networks, addresses)
    def check(allow: list[Network], deny: list[Network], address: IPv4Address | IPv6Address) -> None:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        host = mapped or address
        allowed = max((n.prefixlen for n in map(as_ipv4, allow) if host in n), default=-1)
        denied = max((n.prefixlen for n in map(as_ipv4, deny) if host in n), default=-1)
        expected = bool(allow) if allowed == denied == -1 else denied >= allowed
        assert AccessList(allow, deny).denies(str(address)) == expected

    check()
