"""Lockstep: a loop of ours and the real epoll watch the same descriptors, and must say the same.

Hypothesis makes up what happens, one step at a time: descriptors are opened, connected, written
to, filled, shut down, reset and closed, so that their numbers come back; they are registered,
modified and unregistered, whether that is allowed or not; and both loops are polled. Errors must
have the same type and errno, events the same masks, but for the bits that a loop cannot know
(``unsure``), and small ``maxevents`` must give everybody a turn in both.

Duplicates of a descriptor are left out: what epoll does with a closed descriptor that has one,
no loop of ours can.

Without being told otherwise this runs the same steps every time, so that a failure comes from a
change and not from luck. What luck finds is for this, which takes minutes:

    HYPOTHESIS_PROFILE=nightly pytest packages/uloop-events/tests/test_lockstep.py
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest
from uloop_events import EPOLLERR as ERR
from uloop_events import EPOLLHUP as HUP
from uloop_events import EPOLLIN as IN
from uloop_events import EPOLLONESHOT as ONESHOT
from uloop_events import EPOLLOUT as OUT
from uloop_events import EPOLLPRI as PRI
from uloop_events import EPOLLRDHUP as RDHUP
from uloop_events import EpollLike, UEvent

pytest.importorskip("hypothesis", reason="the steps are made up by Hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

if sys.platform != "linux":
    pytest.skip("the real epoll is on Linux alone", allow_module_level=True)

# No database: what fails comes again by itself, or is printed with what brings it back.
COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", COMMON, derandomize=True, max_examples=200, stateful_step_count=40)
settings.register_profile("nightly", COMMON, max_examples=2000, stateful_step_count=50)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")

MOST_OPEN = 14
DEADLINE = 10  # seconds that the system has to deliver what was sent; it needs far less
SMALL_BUFFER = 65536
UNACKNOWLEDGED = 24  # where struct tcp_info has the number of segments under way

EVERYTHING = int(IN | PRI | OUT | RDHUP)
BITS = st.sampled_from([int(bit) for bit in (IN, PRI, OUT, RDHUP, ONESHOT, ERR, HUP)])
MASKS = st.sampled_from([EVERYTHING, EVERYTHING | int(ONESHOT)]) | st.sets(BITS).map(sum)
WAYS = st.sampled_from([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])


class End:
    """One end of something, and what has happened to it so far."""

    def __init__(self, kind: str, file: socket.socket | FileIO | None) -> None:
        self.kind = kind  # tcp, fresh, refused, listener, unix, udp, reader, writer
        self.peer: End | None = None
        self.waiting: list[End] = []  # of a listener: the connections to accept, which have no file yet
        self.unread = 0  # bytes for us to read, of datagrams their number, but for the urgent one
        self.urgent_after: int | None = None  # how many bytes of those come before an urgent one
        self.urgent_read = False
        self.full = False  # nothing more can be sent until the peer has read everything
        self.shut_rd = self.shut_wr = self.closed = False
        self.is_reset = False
        self.is_watched_late = False  # since it was reset
        self.has_connected = False  # was not accepted
        self.error = ""  # "waits" to be read, or was "read"
        self.number = -1
        if file is not None:
            self.open(file)

    def open(self, file: socket.socket | FileIO) -> None:
        self.file = file
        self.number = file.fileno()
        os.set_blocking(self.number, False)

    def __repr__(self) -> str:
        return f"{self.kind} {self.number}"

    @property
    def socket(self) -> socket.socket:
        assert isinstance(self.file, socket.socket)
        return self.file

    @property
    def sends_no_more(self) -> bool:
        return self.shut_wr or self.closed

    @property
    def has_ended(self) -> bool:
        """Whether there is an end behind what is unread."""
        return self.shut_rd or (self.peer is not None and self.peer.sends_no_more)

    @property
    def peer_has_ended(self) -> bool:
        """Whether the end of what the peer sends has got here."""
        return self.peer is not None and self.peer.sends_no_more and not self.peer.full

    def must_show(self) -> int:
        """What poll(2) shows once all that happened has got here; of the kinds where that takes a while."""
        mask = {"tcp": OUT, "udp": OUT, "refused": HUP | OUT}.get(self.kind, 0)
        if self.full:
            mask = 0
        if self.unread or self.waiting:
            mask |= IN if self.kind in ("tcp", "udp", "listener") else 0
        if self.urgent_after is not None and not self.urgent_read:
            mask |= PRI
        if self.kind in ("tcp", "udp", "refused") and self.error == "waits":
            mask |= ERR
        if self.kind == "tcp":
            has_ended = self.shut_rd or self.peer_has_ended
            if has_ended or self.is_reset:
                mask |= RDHUP
            if self.is_reset or (has_ended and self.shut_wr):
                mask |= HUP
        return int(mask)

    def settle(self) -> None:
        missing, deadline = self.must_show(), time.monotonic() + DEADLINE
        while missing:
            poll = select.poll()
            poll.register(self.number, missing)
            for _, shown in poll.poll(DEADLINE * 1000):
                missing &= ~shown
            assert not missing or time.monotonic() < deadline, f"{self}: {UEvent(missing)!r} never came"

    def suffer_reset(self) -> None:
        """A reset has come, which does nothing when both directions had ended well before."""
        assert self.peer is not None
        is_over = self.shut_wr and self.peer.shut_wr and not self.full and not self.peer.full
        if not self.is_reset and not is_over:
            self.is_reset = True
            self.error = "waits"

    def has_said(self, error: OSError) -> None:
        """What an error of the system's calls leaves behind: it is told once."""
        takes_it = self.kind in ("tcp", "refused") or isinstance(
            error, (ConnectionResetError, ConnectionRefusedError)
        )
        if takes_it and self.error and not isinstance(error, BlockingIOError):
            self.error = "read"

    def has_read(self, count: int) -> None:
        self.unread -= count
        assert self.unread >= 0, f"{self}: there was more than was sent"
        if self.urgent_after is not None:
            # Reading on, be it in vain, leaves an urgent byte behind.
            is_passed = count > self.urgent_after or (count == 0 and self.urgent_after == 0)
            self.urgent_after = None if is_passed else self.urgent_after - count
        if self.peer is not None and not self.unread:
            self.peer.full = False

    def close(self, is_reset: bool) -> None:
        """What it means for the peer."""
        self.closed = True
        if self.peer is None or self.peer.closed:
            return
        is_discarded = self.unread > 0 or self.urgent_after is not None
        if self.kind == "tcp" and (is_reset or is_discarded):
            self.peer.suffer_reset()
        elif self.kind == "unix" and is_discarded:
            self.peer.error = "waits"


def unsure_of_select(end: End) -> int:
    """The bits that select and the probes cannot tell, given what has happened to a descriptor."""
    if end.kind in ("tcp", "refused"):
        # A reset connection looks the same before and after its error was read. It looks like one that
        # has ended well when an end or a SYN of ours was acknowledged before the loop saw it.
        looks_well = end.shut_wr or (end.has_connected and end.is_watched_late)
        lost = ERR if end.error == "read" or (end.error and looks_well) else 0
        # That it was us who shut it down for reading shows as something to read.
        hidden = RDHUP | HUP if end.shut_rd and not end.peer_has_ended else 0
        return int(lost) | int(hidden)
    if end.kind == "udp":
        # An error shows as something to read, and what was shut down does not show at all.
        return int(IN | ERR if end.error == "waits" else 0) | int(RDHUP | HUP if end.shut_rd else 0)
    if end.kind == "unix":
        # Data hides the end behind it; and that the peer did not read ours is not to be seen.
        hidden = RDHUP | HUP if end.unread and end.has_ended else 0
        return int(hidden) | int(ERR if end.error == "waits" else 0)
    peer_is_gone = end.peer is not None and end.peer.closed
    if end.kind == "reader":
        return int(HUP) if end.unread and peer_is_gone else 0  # data hides the end here, too
    if end.kind == "writer":
        return int(OUT) if end.full and peer_is_gone else 0  # select calls an error writable
    return 0


def unsure_of_kqueue(end: End) -> int:
    """The bits that kqueue has not, given what has happened to a descriptor."""
    if end.kind == "fresh":
        return int(OUT | HUP)  # nothing is reported of a TCP socket that was never connected
    if end.kind == "udp":
        return int(IN | ERR) if end.error == "waits" else 0  # an error that is no end is something to read
    if end.kind == "unix":
        # The end comes without the error, and lets a write fail at once, be there room or not.
        return int(ERR if end.error == "waits" else 0) | int(OUT if end.full and end.has_ended else 0)
    if end.kind == "writer":
        return int(OUT) if end.full and end.peer is not None and end.peer.closed else 0
    return 0


UNSURE = {"SelectLoop": unsure_of_select, "KqueueLoop": unsure_of_kqueue}


class Lockstep(RuleBasedStateMachine):
    """Two loops, and the descriptors that both watch."""

    loop_type: type[EpollLike]

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.loop_type()
        self.epoll: EpollLike = select.epoll()
        self.unsure = UNSURE.get(type(self.loop).__name__, lambda _end: 0)
        self.ends: dict[int, End] = {}  # those that are open, by number
        self.numbers: list[int] = []  # all that there ever were
        self.asked: dict[int, int] = {}  # the masks of those that are registered
        self.steps = 0
        self.patience = 1  # how many steps there are from one poll to the next

    def teardown(self) -> None:
        for end in self.ends.values():
            if end.kind == "tcp":  # or thousands of connections would linger for a minute
                linger_no_more(end)
            end.file.close()
        self.loop.close()
        self.epoll.close()

    @initialize(patience=st.integers(1, 6))
    def begin(self, patience: int) -> None:
        self.patience = patience

    @invariant()
    def must_agree(self) -> None:
        for end in self.ends.values():
            end.settle()
        self.steps += 1
        if self.steps % self.patience == 0:
            self.poll(-1)

    # Descriptors come

    @precondition(lambda self: len(self.ends) < MOST_OPEN)
    @rule(
        kind=st.sampled_from(["tcp", "tcp", "unix", "pipe", "udp", "listener", "fresh"]),
        masks=st.tuples(st.none() | MASKS, st.none() | MASKS),
    )
    def open(self, kind: str, masks: tuple[int | None, int | None]) -> None:
        files: list[socket.socket | FileIO]
        kinds = [kind, kind]
        if kind == "tcp":
            with tcp_listener() as listener:
                client = tcp_socket()
                client.connect(listener.getsockname())
                files = [listener.accept()[0], client]
        elif kind == "unix":
            files = [*socket.socketpair()]
        elif kind == "pipe":
            reader, writer = os.pipe()
            files, kinds = [FileIO(reader, "r"), FileIO(writer, "w")], ["reader", "writer"]
        elif kind == "udp":
            one, other = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
            one.bind(("127.0.0.1", 0))
            other.connect(one.getsockname())
            one.connect(other.getsockname())
            files = [one, other]
        else:
            files = [tcp_listener() if kind == "listener" else tcp_socket()]
        ends = [End(kind, file) for kind, file in zip(kinds, files, strict=False)]
        if len(ends) == 2:
            introduce(*ends)
        ends[-1].has_connected = kind == "tcp"
        for end, mask in zip(ends, masks, strict=False):
            self._add(end, mask)

    def _add(self, end: End, mask: int | None) -> None:
        self.ends[end.number] = end
        if end.number not in self.numbers:
            self.numbers.append(end.number)
        if mask is not None:
            self.register(end.number, mask)

    def _some(self, data: st.DataObject, *kinds: str) -> End | None:
        """One of those that are open, of these kinds, if there is any."""
        found = [end for end in self.ends.values() if end.kind in kinds]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), is_refused=st.booleans())
    def connect(self, data: st.DataObject, is_refused: bool) -> None:
        client, listener = self._some(data, "fresh"), self._some(data, "listener")
        if client is None:
            return
        if is_refused or listener is None:
            with tcp_socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                client.socket.connect_ex(nobody.getsockname())
                client.kind, client.error = "refused", "waits"
                client.settle()
        else:
            client.socket.connect_ex(listener.socket.getsockname())
            client.kind, client.has_connected = "tcp", True
            child = End("tcp", None)
            introduce(client, child)
            listener.waiting.append(child)

    @precondition(lambda self: len(self.ends) < MOST_OPEN)
    @rule(data=st.data(), mask=MASKS)
    def accept(self, data: st.DataObject, mask: int) -> None:
        listener = self._some(data, "listener")
        if listener and listener.waiting:
            child = listener.waiting.pop(0)
            child.open(listener.socket.accept()[0])
            self._add(child, mask)

    # Things happen to them

    @rule(data=st.data(), is_urgent=st.booleans())
    def write(self, data: st.DataObject, is_urgent: bool) -> None:
        end = self._some(data, "tcp", "unix", "udp", "writer")
        if end is None or end.peer is None:
            return
        is_urgent = is_urgent and end.kind == "tcp" and end.peer.urgent_after is None and not end.full
        try:
            if is_urgent:
                end.socket.send(b"!", socket.MSG_OOB)
            else:
                os.write(end.number, b"x")
        except OSError as error:
            end.has_said(error)
            return
        peer = end.peer
        if end.kind == "tcp" and (peer.closed or (peer.shut_rd and peer.shut_wr)):
            end.suffer_reset()  # nobody there wants to hear any more
            peer.suffer_reset()
        elif end.kind == "udp" and peer.closed:
            end.error = "waits"
        elif is_urgent:
            peer.urgent_after, peer.urgent_read = peer.unread, False
        else:
            peer.unread += 1

    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        end = self._some(data, "tcp", "unix", "writer")
        if (
            end is None
            or end.peer is None
            or end.sends_no_more
            or end.is_reset
            or end.peer.closed
            or end.peer.shut_rd
        ):
            return
        while True:
            # As long as TCP has something under way, room may come back.
            is_final = end.kind != "tcp" or not segments_under_way(end.socket)
            try:
                end.peer.unread += os.write(end.number, bytes(SMALL_BUFFER))
            except BlockingIOError:
                if is_final:
                    break
                if end.peer.number >= 0:  # have it acknowledge now, and not in 40 ms
                    end.peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                select.select([], [end.number], [], 0.001)
            except OSError as error:  # the peer of a Unix socket reads no more
                end.has_said(error)
                return
        end.full = True

    @rule(data=st.data(), everything=st.booleans())
    def read(self, data: st.DataObject, everything: bool) -> None:
        end = self._some(data, "tcp", "unix", "udp", "reader", "refused")
        if end is None:
            return
        # Of what comes from a full buffer all: it depends on the system how much of it makes room.
        everything = everything or (end.peer is not None and end.peer.full)
        left = end.unread if everything else min(1, end.unread)
        try:
            while True:
                try:
                    got = os.read(end.number, max(left, 1))
                except BlockingIOError:
                    if not left:
                        end.has_read(0)  # reading on, be it in vain, leaves an urgent byte behind
                        break
                    assert end.kind == "tcp", "the others have it at once"
                    assert select.select([end.number], [], [], DEADLINE)[0]
                    continue
                end.has_read(len(got))
                left -= len(got)
                if not got:
                    end.unread = 0  # a reset has lost what had not been sent
                if left <= 0 or not got:
                    break
        except OSError as error:
            end.has_read(0)
            end.has_said(error)

    @rule(data=st.data())
    def read_urgent(self, data: st.DataObject) -> None:
        end = self._some(data, "tcp")
        if end is not None and end.urgent_after is not None and not end.urgent_read:
            try:
                end.socket.recv(1, socket.MSG_OOB)
            except OSError as error:
                end.has_said(error)
            end.urgent_read = True

    @rule(data=st.data(), how=WAYS)
    def shut_down(self, data: st.DataObject, how: int) -> None:
        end = self._some(data, "tcp", "unix", "udp")
        if end is None or end.peer is None or end.peer.full:
            return  # what is in a full buffer may come afterwards, and is answered by a reset or not
        try:
            end.socket.shutdown(how)
        except OSError:
            pass  # it is over; epoll sees it all the same
        end.shut_rd |= how != socket.SHUT_WR
        end.shut_wr |= how != socket.SHUT_RD

    @rule(data=st.data(), is_reset=st.booleans(), is_replaced=st.booleans())
    def close(self, data: st.DataObject, is_reset: bool, is_replaced: bool) -> None:
        end = data.draw(st.sampled_from(list(self.ends.values()))) if self.ends else None
        if end is None:
            return
        is_reset = is_reset and end.kind == "tcp"
        if is_reset:
            linger_no_more(end)
        end.file.close()
        del self.ends[end.number]
        self.asked.pop(end.number, None)
        for child in end.waiting:
            child.close(is_reset=True)
        end.close(is_reset)
        if is_replaced:  # by something that nobody has registered, and is ready
            fresh = tcp_socket()
            if fresh.fileno() != end.number:
                os.dup2(fresh.fileno(), end.number, inheritable=False)
                fresh.close()
                fresh = socket.socket(fileno=end.number)
            self._add(End("fresh", fresh), None)

    # Both loops are asked

    def both(self, call: Callable[[EpollLike], None]) -> bool:
        """Whether a call succeeds; if not, it must fail for both loops, and in the same way."""
        outcomes: list[object] = []
        for loop in (self.epoll, self.loop):
            try:
                call(loop)
                outcomes.append(None)
            except (OSError, ValueError) as error:
                outcomes.append((type(error), getattr(error, "errno", None)))
        assert outcomes[0] == outcomes[1], "epoll, and the loop"
        return outcomes[0] is None

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), mask=MASKS)
    def register_some(self, data: st.DataObject, mask: int) -> None:
        self.register(data.draw(st.sampled_from(self.numbers)), mask)

    def register(self, number: int, mask: int) -> None:
        if self.both(lambda loop: loop.register(number, mask)):
            self.asked[number] = mask
            self.ends[number].is_watched_late = self.ends[number].is_reset

    @precondition(lambda self: self.numbers)
    @rule(data=st.data(), mask=MASKS)
    def modify(self, data: st.DataObject, mask: int) -> None:
        self._modify(data.draw(st.sampled_from(self.numbers)), mask)

    def _modify(self, number: int, mask: int) -> None:
        if self.both(lambda loop: loop.modify(number, mask)):
            self.asked[number] = mask

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.numbers))
        if self.both(lambda loop: loop.unregister(number)):
            del self.asked[number]

    @rule(maxevents=st.integers(1, 4))
    def poll(self, maxevents: int) -> None:
        """Poll until somebody has a second turn: by then everybody must have had the first."""
        said = []
        for loop in (self.epoll, self.loop):
            polls = [loop.poll(0, maxevents)]
            while len(polls[-1]) == maxevents and not is_repeated(polls):
                polls.append(loop.poll(0, maxevents))
            masks = dict(event for events in polls for event in events)
            told: set[int] = set()
            for events in polls:
                told_before = len(told)
                told.update(number for number, _ in events)
                most = len(events) if maxevents == -1 else maxevents
                assert len(told) == min(told_before + most, len(masks)), "a second turn before a first"
                assert dict(events).items() <= masks.items(), "another mask, though nothing has happened"
            said.append(masks)
        self.compare(*said)

    def compare(self, epoll: dict[int, int], ours: dict[int, int]) -> None:
        for number in sorted(epoll.keys() | ours.keys()):
            assert number in self.asked, f"{number} is not registered"
            end = self.ends[number]
            known = ~self.unsure(end)
            expected, found = epoll.get(number, 0), ours.get(number, 0)
            assert UEvent(found & known) == UEvent(expected & known), end
            if self.asked[number] & ONESHOT and bool(found) != bool(expected):
                # One is silent now, and the other is not, for a bit that it cannot know.
                self._modify(number, self.asked[number])


def is_repeated(polls: list[list[tuple[int, int]]]) -> bool:
    """Whether the last poll has told of somebody whom one before it has told of."""
    before = {number for events in polls[:-1] for number, _ in events}
    return any(number in before for number, _ in polls[-1])


def introduce(one: End, other: End) -> None:
    one.peer, other.peer = other, one


def tcp_socket() -> socket.socket:
    sock = socket.socket()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # so that it is soon full
        sock.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)
    return sock


def tcp_listener() -> socket.socket:
    listener = tcp_socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def linger_no_more(end: End) -> None:
    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def segments_under_way(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKNOWLEDGED + 4)
    return int.from_bytes(info[UNACKNOWLEDGED:], sys.byteorder)


@pytest.mark.timeout(3600 if PROFILE == "nightly" else 120)
def test_lockstep(user_space_loop: EpollLike, tmp_path: Path) -> None:
    set_hypothesis_home_dir(tmp_path)  # or it would leave a folder in the repository

    class Machine(Lockstep):
        loop_type = type(user_space_loop)

    run_state_machine_as_test(Machine, settings=settings.get_profile(PROFILE))
