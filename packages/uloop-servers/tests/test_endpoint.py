"""What an endpoint may look like, and what is said of one that does not."""

from __future__ import annotations

import socket

import pytest
from uloop_servers import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp://127.0.0.1:3333", Endpoint("tcp", "127.0.0.1", 3333)),
        ("udp://0.0.0.0:0", Endpoint("udp", "0.0.0.0", 0)),
        ("tcp://[::1]:65535", Endpoint("tcp", "::1", 65535)),
        ("udp://localhost:13", Endpoint("udp", "localhost", 13)),
    ],
)
def test_read_and_written(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["tcp://example.org", "udp://[::]"])
def test_the_port_is_3333_when_left_out(text: str) -> None:
    assert Endpoint.parse(text).port == 3333


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not an endpoint like tcp://127.0.0.1:3333"),
        ("127.0.0.1:3333", "is not an endpoint like"),
        ("tcp://", "is not an endpoint like"),
        ("tcp://127.0.0.1:", "is not an endpoint like"),
        ("tcp://127.0.0.1:x", "is not an endpoint like"),
        ("tcp://127.0.0.1:-1", "is not an endpoint like"),
        ("tcp://127.0.0.1:٣٣٣", "is not an endpoint like"),
        ("tcp://127.0.0.1:80/path", "is not an endpoint like"),
        ("tcp://user@host:80", "is not an endpoint like"),
        ("tcp://::1:3333", "is not an endpoint like"),
        ("tcp://127.0.0.1:80\n", "is not an endpoint like"),
        ("http://127.0.0.1:80", "has the unknown scheme 'http'; known are tcp, udp"),
        ("tcp://127.0.0.1:65536", "has the port 65536; ports are 0 to 65535"),
        ("tcp://[127.0.0.1]:80", "has '127.0.0.1' in brackets, which is not an IPv6 address"),
    ],
)
def test_refused_in_one_sentence_that_names_it(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"is not an endpoint|has ") as refusal:
        Endpoint.parse(text)
    assert str(refusal.value).startswith(repr(text))
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_bound_to_a_free_port(scheme: str) -> None:
    sock, endpoint = Endpoint.parse(f"{scheme}://127.0.0.1:0").bind()
    with sock:
        assert endpoint.port == sock.getsockname()[1] != 0
        assert not sock.getblocking()
        if endpoint.kind == socket.SOCK_STREAM:
            sock.listen()
        # nobody else can have it
        with pytest.raises(OSError, match=r"in use|10048|10013"):
            endpoint.bind()


def test_an_unknown_name() -> None:
    with pytest.raises(socket.gaierror):
        Endpoint.parse("tcp://no-such-host.invalid:1").bind()
