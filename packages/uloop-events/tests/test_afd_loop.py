"""AfdLoop: what only a loop on AFD can get wrong. What all loops have in common is tested elsewhere."""

from __future__ import annotations

import _thread
import gc
import random
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from uloop_events import EPOLLIN, EPOLLONESHOT, EPOLLOUT, AfdLoop, SelectLoop

if sys.platform != "win32":
    pytest.skip("AFD is Windows' own", allow_module_level=True)

import ctypes

SocketPair = tuple[socket.socket, socket.socket]
MakePair = Callable[[], SocketPair]
Wait = Callable[[socket.socket], None]
Reopen = Callable[[socket.socket], SocketPair]

MANY = 600  # more than the 512 of select
CROWD = 1100  # more than one wait can fetch, which is 1024
CYCLES = 3000
THREADS = 4
ROUNDS = 50
LONG = 30.0  # seconds; a poll that misses its event returns nothing after that


@pytest.fixture
def loop() -> Iterator[AfdLoop]:
    with AfdLoop() as opened:
        yield opened


@pytest.fixture
def udp_sockets(stack: ExitStack) -> Callable[[int], list[socket.socket]]:
    """Makes sockets that are writable from the start, and need no peer."""

    def make(count: int) -> list[socket.socket]:
        sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return sockets

    return make


@pytest.fixture
def reopen(stack: ExitStack) -> Reopen:
    """Closes a socket, and makes pairs until one of them has got its number."""

    def close_and_make(old: socket.socket) -> SocketPair:
        number = old.fileno()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            old.close()
            for _ in range(100):
                theirs = stack.enter_context(socket.create_connection(listener.getsockname()))
                ours = stack.enter_context(listener.accept()[0])
                if theirs.fileno() == number:
                    ours, theirs = theirs, ours
                if ours.fileno() == number:
                    return ours, theirs
        pytest.skip("Windows has not used the number again")

    return close_and_make


@contextmanager
def no_more_handles() -> Iterator[None]:
    """As many handles must be open after the block as before it."""

    def count() -> int:
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentProcess.restype = ctypes.c_void_p
        found = ctypes.c_uint32()
        kernel32.GetProcessHandleCount(ctypes.c_void_p(kernel32.GetCurrentProcess()), ctypes.byref(found))
        return found.value

    with AfdLoop() as loop, socket.socket(type=socket.SOCK_DGRAM) as first:
        loop.register(first)  # what is opened once, by whatever is used for the first time
        loop.poll(0)
    gc.collect()
    before = count()
    yield
    gc.collect()
    assert count() == before, "handles open before and after"


# Many sockets


def test_more_sockets_than_select_takes(
    loop: AfdLoop, udp_sockets: Callable[[int], list[socket.socket]]
) -> None:
    sockets = udp_sockets(MANY)
    for each in sockets:
        loop.register(each, EPOLLIN)
    assert loop.poll(0) == []
    for each in (sockets[0], sockets[MANY // 2], sockets[-1]):
        sockets[1].sendto(b"x", each.getsockname())
        assert loop.poll(LONG) == [(each.fileno(), EPOLLIN)]
        each.recv(1)
    assert loop.poll(0) == []
    for each in sockets:
        loop.modify(each, EPOLLOUT)
    expected = sorted((each.fileno(), EPOLLOUT) for each in sockets)
    assert sorted(loop.poll(0)) == expected
    for each in sockets[::2]:
        loop.unregister(each)
    assert sorted(loop.poll(0)) == sorted((each.fileno(), EPOLLOUT) for each in sockets[1::2])


def test_more_are_ready_than_one_wait_fetches(
    loop: AfdLoop, udp_sockets: Callable[[int], list[socket.socket]]
) -> None:
    sockets = udp_sockets(CROWD)
    numbers = {each.fileno() for each in sockets}
    for each in sockets:
        loop.register(each, EPOLLIN)
    assert loop.poll(0) == []  # now that all are waited for, let them be ready by way of the port
    for each in sockets:
        each.sendto(b"x", each.getsockname())
        select.select([each], [], [], LONG)
    assert {number for number, _ in loop.poll(0, 2 * CROWD)} == numbers
    first = {number for number, _ in loop.poll(0)}
    second = [number for number, _ in loop.poll(0)]
    assert len(first) == len(second) == 1023
    assert set(second[: CROWD - 1023]) == numbers - first, "those left out come first"


# What is reported is true when it is reported


def test_what_came_and_went_between_two_polls_is_not_reported(
    loop: AfdLoop, socket_pair: MakePair, until_readable: Wait
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    assert loop.poll(0) == []  # AFD will tell, from now on
    for _ in range(3):
        theirs.send(b"x")
        until_readable(ours)
        ours.recv(1)
        assert loop.poll(0) == []
    theirs.send(b"x")
    assert loop.poll(LONG) == [(ours.fileno(), EPOLLIN)]


@pytest.mark.parametrize("mask", [EPOLLIN, EPOLLIN | EPOLLONESHOT])
def test_registered_anew_when_an_answer_is_on_its_way(
    loop: AfdLoop, socket_pair: MakePair, until_readable: Wait, mask: int
) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, mask)
    assert loop.poll(0) == []
    theirs.send(b"x")
    until_readable(ours)
    loop.unregister(ours)
    loop.register(ours, EPOLLOUT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]
    loop.unregister(ours)
    ours.recv(1)
    loop.register(ours, mask)
    assert loop.poll(0) == []


def test_random_changes_against_select(stack: ExitStack, loop: AfdLoop, tcp_pair: MakePair) -> None:
    """After any history, a poll must say of each socket what select says of it then."""
    chance = random.Random(512)
    masks = (0, EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLIN | EPOLLONESHOT)
    wanted: dict[socket.socket, int] = {}
    unread: dict[socket.socket, int] = {}
    pairs = [tcp_pair() for _ in range(40)]
    for _ in range(1500):
        index = chance.randrange(len(pairs))
        ours, theirs = pairs[index]
        action = chance.choice(
            ["register", "modify", "modify", "unregister", "send", "recv", "close", "poll"]
        )
        if action == "register" and ours not in wanted:
            wanted[ours] = chance.choice(masks)
            loop.register(ours, wanted[ours])
        elif action == "modify" and ours in wanted:
            wanted[ours] = chance.choice(masks)
            loop.modify(ours, wanted[ours])
        elif action == "unregister" and ours in wanted:
            del wanted[ours]
            loop.unregister(ours)
        elif action == "send":
            theirs.send(b"x")
            select.select([ours], [], [], LONG)
            unread[ours] = unread.get(ours, 0) + 1
        elif action == "recv" and unread.pop(ours, 0):
            ours.recv(1000)
        elif action == "close":
            wanted.pop(ours, None)
            unread.pop(ours, None)
            ours.close()
            theirs.close()
            pairs[index] = tcp_pair()
        elif action == "poll":
            expected = {}
            for sock, mask in wanted.items():
                seen = mask & EPOLLOUT | (mask & EPOLLIN if sock in unread else 0)
                if seen:
                    expected[sock.fileno()] = seen
                    if mask & EPOLLONESHOT:
                        wanted[sock] = 0
            assert dict(loop.poll(0)) == expected


# Numbers that are used again


def asked_for_nothing_yet(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    loop.register(ours, EPOLLIN)


def waited_for(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    loop.register(ours, EPOLLIN)
    assert loop.poll(0) == []


def about_to_be_reported(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    waited_for(loop, ours, theirs)
    theirs.send(b"x")
    select.select([ours], [], [], LONG)


def reported(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    loop.register(ours, EPOLLOUT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]


def a_oneshot_that_has_fired(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    loop.register(ours, EPOLLOUT | EPOLLONESHOT)
    assert loop.poll(0) == [(ours.fileno(), EPOLLOUT)]


def a_oneshot_that_has_fired_before(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    a_oneshot_that_has_fired(loop, ours, theirs)
    assert loop.poll(0) == []


def changed_a_moment_ago(loop: AfdLoop, ours: socket.socket, theirs: socket.socket) -> None:
    waited_for(loop, ours, theirs)
    loop.modify(ours, EPOLLIN | EPOLLOUT)


HISTORIES = [
    asked_for_nothing_yet,
    waited_for,
    about_to_be_reported,
    reported,
    a_oneshot_that_has_fired,
    a_oneshot_that_has_fired_before,
    changed_a_moment_ago,
]
History = Callable[[AfdLoop, socket.socket, socket.socket], None]


@pytest.mark.parametrize("history", HISTORIES)
def test_the_next_socket_with_a_number_can_be_registered(
    loop: AfdLoop, tcp_pair: MakePair, reopen: Reopen, history: History
) -> None:
    old, old_peer = tcp_pair()
    history(loop, old, old_peer)
    new, new_peer = reopen(old)
    loop.register(new, EPOLLIN)
    assert loop.poll(0) == []
    new_peer.send(b"x")
    assert loop.poll(LONG) == [(new.fileno(), EPOLLIN)]
    with pytest.raises(FileExistsError):
        loop.register(new, EPOLLIN)
    loop.unregister(new)
    assert loop.poll(0) == []


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(
    "call",
    [lambda loop, sock: loop.modify(sock, EPOLLOUT), lambda loop, sock: loop.unregister(sock)],
    ids=["modify", "unregister"],
)
def test_the_next_socket_with_a_number_is_not_registered_already(
    loop: AfdLoop,
    tcp_pair: MakePair,
    reopen: Reopen,
    history: History,
    call: Callable[[AfdLoop, socket.socket], None],
) -> None:
    old, old_peer = tcp_pair()
    history(loop, old, old_peer)
    new, _ = reopen(old)
    with pytest.raises(FileNotFoundError):
        call(loop, new)
    assert loop.poll(0) == []


@pytest.mark.parametrize("history", HISTORIES)
def test_the_next_socket_with_a_number_is_not_watched(
    loop: AfdLoop, tcp_pair: MakePair, reopen: Reopen, until_readable: Wait, history: History
) -> None:
    old, old_peer = tcp_pair()
    history(loop, old, old_peer)
    new, new_peer = reopen(old)
    new_peer.send(b"x")
    until_readable(new)
    for _ in range(3):
        assert loop.poll(0) == []


def test_what_was_connecting_is_the_same_when_it_has_connected(loop: AfdLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        loop.register(client, EPOLLOUT)
        client.connect_ex(listener.getsockname())
        assert loop.poll(LONG)[0][0] == client.fileno()
        with pytest.raises(FileExistsError):
            loop.register(client, EPOLLIN)
        loop.modify(client, EPOLLIN)
        loop.unregister(client)


def test_what_was_reset_is_the_same_socket_still(
    loop: AfdLoop, tcp_pair: MakePair, until_readable: Wait
) -> None:
    ours, theirs = tcp_pair()
    loop.register(ours, EPOLLIN)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0")
    theirs.close()
    until_readable(ours)
    loop.modify(ours, EPOLLOUT)
    assert [number for number, _ in loop.poll(0)] == [ours.fileno()]
    loop.unregister(ours)


# Threads


@pytest.mark.parametrize(
    ("before", "after"), [(EPOLLIN, EPOLLOUT), (EPOLLIN, EPOLLIN | EPOLLOUT), (0, EPOLLOUT)]
)
def test_modify_ends_the_wait_of_another_thread(
    loop: AfdLoop, socket_pair: MakePair, before: int, after: int
) -> None:
    ours, _ = socket_pair()
    loop.register(ours, before)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(ROUNDS):
            polling = pool.submit(loop.poll, LONG)
            loop.modify(ours, after)
            assert polling.result() == [(ours.fileno(), EPOLLOUT)]
            loop.modify(ours, before)


def test_all_threads_that_wait_are_told(loop: AfdLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(ROUNDS):
            polling = [pool.submit(loop.poll, LONG) for _ in range(THREADS)]
            theirs.send(b"x")
            for each in polling:
                assert each.result() == [(ours.fileno(), EPOLLIN)]
            ours.recv(1)


def test_threads_may_come_and_go(loop: AfdLoop, socket_pair: MakePair) -> None:
    """What a thread has asked of AFD must not end with the thread."""
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    for _ in range(ROUNDS):
        asker = threading.Thread(target=loop.poll, args=(0,))
        asker.start()
        asker.join()
        assert loop.poll(0) == []
        theirs.send(b"x")
        assert loop.poll(LONG) == [(ours.fileno(), EPOLLIN)]
        ours.recv(1)


@pytest.mark.parametrize("unregister", [True, False])
def test_sockets_that_are_closed_while_another_thread_polls(
    loop: AfdLoop, socket_pair: MakePair, unregister: bool
) -> None:
    if not unregister and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version"):
        pytest.skip("wine's server ends with an assertion when one thread closes what another one polls")
    steady, steady_peer = socket_pair()
    loop.register(steady, EPOLLIN)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(loop.poll, LONG)
        for _ in range(ROUNDS):
            with socket.socket(type=socket.SOCK_DGRAM) as short_lived:
                short_lived.bind(("127.0.0.1", 0))
                loop.register(short_lived, EPOLLIN)
                if unregister:
                    loop.unregister(short_lived)
        steady_peer.send(b"x")
        assert polling.result() == [(steady.fileno(), EPOLLIN)]


def test_an_exception_from_outside_loses_no_event(loop: AfdLoop, socket_pair: MakePair) -> None:
    """Ctrl-C raises at any moment, one of which is when AFD has told and nobody has noted it yet."""
    ours, theirs = socket_pair()
    loop.register(ours, EPOLLIN)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def poll_until_interrupted(disturber: threading.Thread) -> None:
        disturber.start()
        loop.poll(LONG)
        disturber.join()
        loop.poll(0.001)  # some code in which the exception can be raised

    def disturb() -> None:
        theirs.send(b"x")
        _thread.interrupt_main()

    try:
        for _ in range(ROUNDS):
            assert loop.poll(0) == []
            disturber = threading.Thread(target=disturb)
            with pytest.raises(KeyboardInterrupt):
                poll_until_interrupted(disturber)
            disturber.join()
            assert loop.poll(LONG) == [(ours.fileno(), EPOLLIN)]
            ours.recv(1)
    finally:
        signal.signal(signal.SIGINT, previous)


# Nothing is left behind


def test_closing_with_requests_under_way(udp_sockets: Callable[[int], list[socket.socket]]) -> None:
    sockets = udp_sockets(100)
    with no_more_handles():
        loop = AfdLoop()
        for each in sockets:
            loop.register(each, EPOLLIN)
        assert loop.poll(0) == []
        for each in sockets[:30]:
            loop.modify(each, EPOLLIN | EPOLLOUT)
        for each in sockets[30:60]:
            each.sendto(b"x", each.getsockname())
        for each in sockets[60:90]:
            loop.unregister(each)
        loop.close()
    for each in sockets[30:60]:
        assert each.recv(1) == b"x"


def test_a_loop_that_nobody_has_closed(socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    with no_more_handles():
        loop = AfdLoop()
        loop.register(ours, EPOLLIN)
        assert loop.poll(0) == []
        del loop
    theirs.send(b"x")
    assert ours.recv(1) == b"x"


def test_closing_while_another_thread_polls(socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # starts the thread, which has handles of its own
        with no_more_handles():
            loop = AfdLoop()
            loop.register(ours, EPOLLIN)
            assert loop.poll(0) == []
            polling = pool.submit(loop.poll, LONG)
            while not loop._polls:
                assert not polling.done()  # it has not begun yet
            loop.close()
            theirs.send(b"x")
            assert polling.result() == [(ours.fileno(), EPOLLIN)], "as with epoll, the poll goes on"
            del loop, polling


def test_thousands_of_registrations(loop: AfdLoop, socket_pair: MakePair) -> None:
    ours, _ = socket_pair()
    with no_more_handles():
        for turn in range(CYCLES):
            loop.register(ours, EPOLLIN)
            if turn % 3:
                assert loop.poll(0) == []
            loop.unregister(ours)
        assert loop.poll(0) == []
    assert not loop._out
    assert len(loop._groups) == 1


def test_groups_go_with_their_sockets(
    loop: AfdLoop, udp_sockets: Callable[[int], list[socket.socket]]
) -> None:
    sockets = udp_sockets(MANY)
    for _ in range(3):
        for each in sockets:
            loop.register(each, EPOLLIN)
        assert loop.poll(0) == []
        for each in sockets:
            loop.unregister(each)
        assert loop.poll(0) == []
    assert (len(loop._groups), len(loop._out)) == (1, 0)


def test_sockets_that_are_closed_without_a_word(
    loop: AfdLoop, udp_sockets: Callable[[int], list[socket.socket]]
) -> None:
    for _ in range(3):
        sockets = udp_sockets(MANY)
        for each in sockets:
            loop.register(each, EPOLLIN)
        assert loop.poll(0) == []
        for each in sockets:
            each.close()
        assert loop.poll(0) == []
    assert (len(loop._interests), len(loop._watches), len(loop._out), len(loop._groups)) == (0, 0, 0, 1)


def test_a_storm_of_changes(loop: AfdLoop, udp_sockets: Callable[[int], list[socket.socket]]) -> None:
    """Each takes back the request that was made for the one before."""
    sockets = udp_sockets(200)
    for each in sockets:
        loop.register(each, 0)
    for _ in range(10):
        assert loop.poll(0) == []
        for each in sockets:
            loop.modify(each, EPOLLIN)
        assert loop.poll(0) == []
        for each in sockets:
            loop.modify(each, EPOLLOUT)
        assert sorted(loop.poll(0)) == sorted((each.fileno(), EPOLLOUT) for each in sockets)
        for each in sockets:
            loop.modify(each, EPOLLOUT | EPOLLIN)
            loop.modify(each, 0)
    assert loop.poll(0) == []


def test_beside_a_loop_of_another_kind(loop: AfdLoop, socket_pair: MakePair) -> None:
    ours, theirs = socket_pair()
    with SelectLoop() as other:
        loop.register(ours, EPOLLIN)
        other.register(ours, EPOLLIN)
        for _ in range(ROUNDS):
            assert loop.poll(0) == other.poll(0) == []
            theirs.send(b"x")
            assert loop.poll(LONG) == other.poll(LONG) == [(ours.fileno(), EPOLLIN)]
            ours.recv(1)
