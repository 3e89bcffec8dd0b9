"""When a datagram arrived, and where it was sent to."""

from __future__ import annotations

import inspect
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from uloop_reactor import Uloop
from uloop_reactor.control import is_shared_address
from uloop_reactor.datagram import Address, DatagramSocket, Options

IPV4 = "127.0.0.1"


class Recorder(DatagramSocket):
    def __init__(self, *args: Any, **options: Any):
        self.arrivals: list[tuple[int, str]] = []
        self.destinations: list[str | None] = []
        self.broadcasts: list[bool] = []
        super().__init__(*args, **options)

    def on_datagram(self, data: bytes, sender: Address) -> None:
        self.arrivals.append((self.arrival, self.timestamp_source))
        self.destinations.append(self.destination)
        self.broadcasts.append(self.broadcast)
        self.reply(data)


def run_until(loop: Uloop, condition: Callable[[], bool]) -> None:
    while not condition():
        loop.run_once(30)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("burst", [1, 5])
def test_arrival(timestamps: bool, burst: int, loop: Uloop) -> None:
    server = Recorder.bind(loop, (IPV4, 0), timestamps=timestamps)
    kernel = timestamps and (sys.platform in ("linux", "darwin") or sys.platform.startswith("freebsd"))
    rounds = 0
    before_reading = False  # by the kernel's word
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        # By recvmmsg and by recvmsg; and Linux takes the time of reading until it has got round
        # to what it was asked for.
        while rounds < 12 or before_reading != kernel:
            server.arrivals.clear()
            started = time.time_ns()
            for _ in range(burst):
                client.sendto(b"x", server.address)
            sent = time.time_ns()
            run_until(loop, lambda: len(server.arrivals) == burst)
            assert [client.recv(100) for _ in range(burst)] == [b"x"] * burst
            for arrival, source in server.arrivals:
                # the kernels of macOS and BSD count microseconds, Windows' clock ticks are longer
                assert (started // 1000 * 1000) <= arrival <= time.time_ns()
                assert source == ("kernel" if kernel else "program")
            before_reading = kernel and server.arrivals[-1][0] <= sent
            rounds += 1
    server.close()


@pytest.mark.parametrize("burst", [1, 5])
@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_destination(bound: str, burst: int, loop: Uloop) -> None:
    hosts = ["::1"] if bound == "::" else [IPV4, "127.0.0.2", "127.1.2.3"]
    if sys.platform != "linux":
        hosts = hosts[:1]  # the other addresses of the loopback interface have to be set up
    try:
        server = Recorder.bind(loop, (bound, 0), packet_info=True, timestamps=True)
    except OSError:
        pytest.skip("this machine has no IPv6")
    expected: list[str | None] = []
    for host in hosts * 12:
        with socket.socket(socket.AF_INET6 if bound == "::" else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            client.connect((host, server.address[1]))  # it hears nobody else
            for number in range(burst):
                client.send(b"%d" % number)
            expected += [host] * burst
            run_until(loop, lambda: len(server.destinations) == len(expected))  # noqa: B023
            assert [client.recv(100) for _ in range(burst)] == [b"%d" % number for number in range(burst)]
    if sys.platform == "win32":
        expected = [None] * len(expected)  # Python has no recvmsg there
    assert server.destinations == expected
    assert not any(server.broadcasts)
    server.close()


def test_multicast_is_seen_as_such(loop: Uloop) -> None:
    if sys.platform != "linux":
        pytest.skip("which interface is taken for multicast differs")
    group = "239.255.77.77"
    server = Recorder.bind(loop, ("0.0.0.0", 0), packet_info=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        member = socket.inet_aton(group) + socket.inet_aton(IPV4)
        server._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(IPV4))
        client.settimeout(30)
        client.sendto(b"x", (group, server.address[1]))
        run_until(loop, lambda: server.destinations != [])
        assert server.destinations == [group]
        assert server.broadcasts == [True]
        assert client.recv(100) == b"x"  # from an address of ours
    server.close()


def test_multicast_to_a_socket_of_both_families(loop: Uloop) -> None:
    """An inherited one; what comes over IPv4 is told as ``::ffff:239.255.77.79``."""
    if sys.platform != "linux":
        pytest.skip("other systems do not let an IPv6 socket into groups of IPv4")
    group = "239.255.77.79"
    try:
        sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:
        pytest.skip("this machine has no IPv6")
    sock.close()
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    member = socket.inet_aton(group) + socket.inet_aton(IPV4)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    server = Recorder(loop, sock, packet_info=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(IPV4))
        client.sendto(b"x", (group, server.address[1]))
        client.sendto(b"x", (IPV4, server.address[1]))
        run_until(loop, lambda: len(server.broadcasts) == 2)
    assert server.destinations == [f"::ffff:{group}", f"::ffff:{IPV4}"]
    assert server.broadcasts == [True, False]
    server.abort()  # its answer has no address to leave from


@pytest.mark.parametrize(
    ("host", "shared"),
    [
        *(("224.0.0.1", True), ("255.255.255.255", True), ("192.0.2.255", False)),
        *(("::ffff:224.0.0.1", True), ("::FFFF:255.255.255.255", True), ("::ffff:192.0.2.1", False)),
        *(("ff02::1%lo", True), ("FF02::1", True), ("::1", False), ("fe80::1", False), ("::ffff:0:1", False)),
    ],
)
def test_addresses_of_many(host: str, shared: bool) -> None:
    assert is_shared_address(host) is shared


def test_a_socket_bound_to_a_group(loop: Uloop) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems bind to addresses of their own alone, or route multicast otherwise")
    group = "239.255.77.78"
    server = Recorder.bind(loop, (group, 0), packet_info=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        member = socket.inet_aton(group) + socket.inet_aton(IPV4)
        server._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(IPV4))
        client.sendto(b"x", (group, server.address[1]))
        run_until(loop, lambda: server.broadcasts != [])
    assert server.broadcasts == [True]
    server.abort()  # its answer has no address to leave from


def test_a_broadcast_is_seen_as_such(loop: Uloop) -> None:
    if sys.platform != "linux":
        pytest.skip("the loopback interface of other systems has no broadcast address")
    server = Recorder.bind(loop, ("0.0.0.0", 0), packet_info=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"x", ("127.255.255.255", server.address[1]))
        client.sendto(b"x", ("127.1.2.3", server.address[1]))
        run_until(loop, lambda: len(server.broadcasts) == 2)
    assert server.broadcasts == [True, False]
    assert server.destinations == ["127.255.255.255", "127.1.2.3"]
    assert not server.broadcast  # between datagrams
    server.close()


def test_not_asked_for(loop: Uloop) -> None:
    server = Recorder.bind(loop, (IPV4, 0))
    assert server.destination is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", server.address)
        run_until(loop, lambda: server.destinations != [])
    assert server.destinations == [None]
    assert server.broadcasts == [False]
    server.close()


def test_one_address_is_the_destination_itself(loop: Uloop) -> None:
    """FreeBSD refuses an address to answer from there, so the kernel is not asked."""
    server = Recorder.bind(loop, (IPV4, 0), packet_info=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(b"x", server.address)
        run_until(loop, lambda: server.destinations != [])
        assert client.recv(100) == b"x"
    assert server.destinations == [IPV4]
    if sys.platform == "linux":
        assert server._sock.getsockopt(socket.IPPROTO_IP, 8) == 0  # IP_PKTINFO
    server.close()


def test_bind_knows_the_options_of_the_constructor() -> None:
    parameters = inspect.signature(DatagramSocket).parameters.values()
    options = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    assert options == list(Options.__annotations__)


def test_receive_buffer(loop: Uloop) -> None:
    server = Recorder.bind(loop, (IPV4, 0), receive_buffer=50_000)
    assert server._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (50_000, 100_000)  # Linux doubles
    server.close()


def test_two_may_share_a_port(loop: Uloop) -> None:
    if not sys.platform.startswith(("linux", "freebsd")):
        with pytest.raises(ValueError, match=r"reuse_port: .* does not share"):
            Recorder.bind(loop, (IPV4, 0), reuse_port=True)
        return
    first = Recorder.bind(loop, (IPV4, 0), reuse_port=True)
    second = Recorder.bind(loop, first.address, reuse_port=True)
    assert first.address == second.address
    first.close()
    second.close()


def test_ipv6_is_ipv6_only(loop: Uloop) -> None:
    for attempt in range(5):
        try:
            six = Recorder.bind(loop, ("::", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        try:
            four = Recorder.bind(loop, ("", six.address[1]))
        except OSError:
            if attempt == 4:
                raise
            continue  # the port may be somebody else's
        finally:
            six.close()
        assert four.address[0] == "0.0.0.0"
        four.close()
        return
