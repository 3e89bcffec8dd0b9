"""Names resolved beside the loop, and what needs no resolution."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from uloop_reactor import Uloop
from uloop_reactor.offload import AddressInfo, Offload

Resolution = Future[list[AddressInfo]]


@pytest.fixture
def offload(loop: Uloop) -> Iterator[Offload]:
    offload = Offload(loop.call_threadsafe)
    yield offload
    offload.close()


@pytest.fixture
def resolve(loop: Uloop, offload: Offload) -> Callable[..., Resolution]:
    def resolve(host: str, port: int | str = 80, **options: int) -> Resolution:
        seen: list[Resolution] = []
        future = offload.resolve(host, port, seen.append, **options)
        assert not seen  # never from within the call
        while not seen:
            loop.run_once()
        assert seen == [future]
        return future

    return resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_numeric_address_needs_no_thread(resolve: Callable[..., Resolution], host: str) -> None:
    before = threading.enumerate()
    ((family, kind, _, _, address),) = resolve(host).result()
    assert family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
    assert kind == socket.SOCK_STREAM
    assert address[:2] == (host, 80)
    assert threading.enumerate() == before


def test_a_name(resolve: Callable[..., Resolution]) -> None:
    addresses = {info[4][:2] for info in resolve("localhost").result()}
    assert addresses & {("127.0.0.1", 80), ("::1", 80)}


def test_family_and_type(resolve: Callable[..., Resolution]) -> None:
    infos = resolve("localhost", family=socket.AF_INET, type=socket.SOCK_DGRAM).result()
    assert {info[:2] for info in infos} == {(socket.AF_INET, socket.SOCK_DGRAM)}


@pytest.mark.parametrize("host", ["a name with blanks.invalid", "a" * 64 + ".invalid", "nul\0.invalid"])
def test_what_is_no_name_fails_like_one_that_is_unknown(
    resolve: Callable[..., Resolution], host: str
) -> None:
    assert isinstance(resolve(host).exception(), (socket.gaierror, ValueError))


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_cannot_be(offload: Offload, port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be 0 to 65535, not {port}"):
        offload.resolve("127.0.0.1", port, print)
