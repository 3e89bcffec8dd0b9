"""Following a time daemon: one of our own on the loopback, in each of its moods, and chronyd."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uloop_reactor import DatagramSocket, Uloop, available_backends
from uloop_reactor.datagram import Address
from uloop_reactor.testing import VirtualClock
from uloop_servers import follow
from uloop_servers.follow import Daemon
from uloop_servers.protocols import ntp
from uloop_servers.timesource import PHI, SECOND, UNSYNCHRONISED, Quality, TimeSource

HOST = "127.0.0.1"
GOOD = Quality(1, 3, bytes((192, 0, 2, 7)), 0, 0.015625, 0.03125)


class Peer(DatagramSocket, TimeSource):
    """A time daemon. Its answers go through ``mood``, which may bend them."""

    def __init__(self, loop: Uloop, sock: socket.socket) -> None:
        DatagramSocket.__init__(self, loop, sock)
        self.told = GOOD
        self.offset = 0  # ns that its clock is ahead of the machine's
        self.asked = 0
        self.mood: Callable[[bytes], list[bytes]] = lambda answer: [answer]

    def now(self) -> int:
        return time.time_ns() + self.offset

    def quality(self, now: int) -> Quality:
        return self.told

    def on_datagram(self, data: bytes, sender: Address) -> None:
        assert ntp.refusal(data, sender[1]) is None
        self.asked += 1
        answer = ntp.answer(data, self.now(), self)
        for datagram in self.mood(answer):
            self.reply(datagram)


LONGEST_WAY = follow.LONGEST_WAY


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers may take a second, since the machine that runs the tests is busy."""
    monkeypatch.setattr(follow, "LONGEST_WAY", SECOND)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=available_backends())
def loop(request: pytest.FixtureRequest, clock: VirtualClock) -> Iterator[Uloop]:
    with Uloop(request.param, clock=clock) as loop:
        yield loop


@pytest.fixture
def peer(loop: Uloop) -> Iterator[Peer]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    peer = Peer(loop, sock)
    yield peer
    peer.close()


@pytest.fixture
def daemon(loop: Uloop, peer: Peer) -> Iterator[Daemon]:
    daemon = Daemon(loop, HOST, peer.address[1])
    yield daemon
    daemon.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, peer: Peer) -> Callable[[], list[str]]:
    """What has been logged since the last call, without who it is about."""
    caplog.set_level(logging.INFO, logger="uloop.servers")
    prefix = f"the time daemon at {HOST}:{peer.address[1]} "

    def take() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.name == "uloop.servers"]
        caplog.clear()
        assert all(message.startswith(prefix) for message in messages)
        return [message.removeprefix(prefix) for message in messages]

    return take


def run_for(loop: Uloop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def quality(daemon: Daemon) -> Quality:
    return daemon.quality(time.time_ns())


GOOD_LINE = "says that the clock is synchronised"


def test_nothing_is_known_before_the_first_answer(daemon: Daemon) -> None:
    assert quality(daemon) == UNSYNCHRONISED


def test_what_the_daemon_says_is_copied(
    loop: Uloop, peer: Peer, daemon: Daemon, lines: Callable[[], list[str]]
) -> None:
    peer.told = Quality(1, 3, bytes((192, 0, 2, 7)), time.time_ns() - 9 * SECOND, 0.015625, 0.03125)
    run_for(loop, 0.5)
    told = quality(daemon)
    assert (told.leap, told.stratum, told.reference_id) == (1, 3, bytes((192, 0, 2, 7)))
    assert (told.reference_time, told.root_delay) == (peer.told.reference_time, 0.015625)
    assert 0.03125 <= told.root_dispersion < 0.03125 + 1  # with the time under way
    assert lines() == [GOOD_LINE]


@pytest.fixture
def times(peer: Peer, clock: VirtualClock) -> list[float]:
    """When the daemon is asked, in whole seconds."""
    times: list[float] = []

    def note(answer: bytes) -> list[bytes]:
        times.append(round(clock.time()))
        return [answer]

    peer.mood = note
    return times


def test_it_is_asked_every_16_seconds(loop: Uloop, times: list[float], daemon: Daemon) -> None:
    run_for(loop, 50)
    assert times == [0, 1, 17, 33, 49]


def test_at_first_it_is_asked_more_often_until_it_vouches_for_the_clock(
    loop: Uloop, peer: Peer, times: list[float], daemon: Daemon
) -> None:
    peer.told = UNSYNCHRONISED
    run_for(loop, 50)
    assert times == [0, 1, 3, 7, 15, 31, 47]


def test_the_dispersion_grows_between_answers(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    run_for(loop, 0.5)
    now = time.time_ns()
    grown = daemon.quality(now + 1000 * SECOND).root_dispersion - daemon.quality(now).root_dispersion
    assert grown == pytest.approx(1000 * PHI)


def test_a_daemon_that_does_not_know_when_it_was_set(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    peer.mood = lambda answer: [answer[:16] + bytes(8) + answer[24:]]
    before = time.time_ns()
    run_for(loop, 0.5)
    assert before - SECOND <= quality(daemon).reference_time <= time.time_ns()


def test_a_daemon_that_goes_is_no_witness_after_four_questions(
    loop: Uloop, peer: Peer, daemon: Daemon, lines: Callable[[], list[str]]
) -> None:
    run_for(loop, 0.5)
    peer.mood = lambda answer: []
    run_for(loop, 1 + 3 * 16 + 15)  # asked at 1, 17, 33 and 49 s
    assert quality(daemon).synchronised
    assert lines() == [GOOD_LINE]
    run_for(loop, 2)
    assert quality(daemon) == UNSYNCHRONISED
    run_for(loop, 500)
    assert lines() == ["does not answer; so the clock counts as not synchronised"]
    peer.mood = lambda answer: [answer]
    run_for(loop, 16)
    assert quality(daemon).synchronised
    assert lines() == [GOOD_LINE]


def test_a_few_answers_that_are_lost_do_no_harm(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    count = 0

    def lose_three_of_four(answer: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        return [] if count % 4 else [answer]

    run_for(loop, 0.5)
    peer.mood = lose_three_of_four
    for _ in range(40):
        run_for(loop, 16)
        assert quality(daemon).synchronised


@pytest.mark.parametrize(
    ("mood", "complaint"),
    [
        (
            lambda answer: [bytes((answer[0] | 0xC0,)) + answer[1:]],
            "says that the clock is not synchronised",
        ),
        (lambda answer: [answer[:1] + b"\x10" + answer[2:]], "says that the clock is not synchronised"),
        (
            lambda answer: [answer[:1] + b"\x00" + answer[2:12] + b"RATE" + answer[16:]],
            "says RATE: we have asked",
        ),
        (
            lambda answer: [b"\xe4\x00" + answer[2:12] + b"INIT" + answer[16:]],
            "says INIT: it is not synchronised",
        ),
    ],
)
def test_a_daemon_that_does_not_vouch_for_the_clock(
    mood: Callable[[bytes], list[bytes]],
    complaint: str,
    loop: Uloop,
    peer: Peer,
    daemon: Daemon,
    lines: Callable[[], list[str]],
) -> None:
    run_for(loop, 0.5)
    assert quality(daemon).synchronised
    peer.mood = mood
    run_for(loop, 100)
    assert quality(daemon) == UNSYNCHRONISED
    good, bad = lines()  # however often it was asked
    assert good == GOOD_LINE
    assert bad.startswith(complaint)
    assert bad.endswith("; so the clock counts as not synchronised")


@pytest.mark.parametrize("offset", [SECOND, -SECOND, SECOND // 20, -SECOND // 20])
def test_a_daemon_of_another_clock_is_no_witness(
    offset: int, loop: Uloop, peer: Peer, daemon: Daemon, lines: Callable[[], list[str]]
) -> None:
    peer.offset = offset
    run_for(loop, 100)
    assert quality(daemon) == UNSYNCHRONISED
    (line,) = lines()
    assert line.startswith(
        "does not steer the clock of this machine: its time is another; so the clock counts"
    )


class Early:
    """A clock by which the questions left so many ns earlier: they were under way for longer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.by = 0
        patch.setattr(follow, "time", self)

    def time_ns(self) -> int:
        return time.time_ns() - self.by


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> Early:
    return Early(monkeypatch)


@pytest.mark.parametrize("offset", [0, -SECOND // 100])
def test_a_daemon_that_is_too_far_away_is_no_witness(
    offset: int,
    early: Early,
    loop: Uloop,
    peer: Peer,
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its clock may be ours, or not."""
    monkeypatch.setattr(follow, "LONGEST_WAY", LONGEST_WAY)
    early.by = SECOND // 50
    peer.offset = offset
    daemon = Daemon(loop, HOST, peer.address[1])
    run_for(loop, 0.5)
    too_far = (
        "is too far away to tell whether it steers this machine's clock; so the clock counts as not "
        "synchronised"
    )
    assert lines() == [too_far]
    run_for(loop, 100)
    assert quality(daemon) == UNSYNCHRONISED
    assert lines() == []
    daemon.close()


def test_one_answer_that_took_long_is_as_none(
    early: Early, loop: Uloop, peer: Peer, lines: Callable[[], list[str]]
) -> None:
    """Four in a row are too many, and are not called a daemon that does not answer."""
    daemon = Daemon(loop, HOST, peer.address[1])
    run_for(loop, 0.5)
    early.by = 2 * SECOND
    run_for(loop, 1 + 3 * 16 + 15)  # asked at 1, 17, 33 and 49 s
    assert quality(daemon).synchronised
    assert lines() == [GOOD_LINE]
    run_for(loop, 2)
    assert quality(daemon) == UNSYNCHRONISED
    (line,) = lines()
    assert line.startswith("is too far away")
    daemon.close()


def test_the_time_under_way_is_added_to_the_dispersion(early: Early, loop: Uloop, peer: Peer) -> None:
    """A clock that is apart by less than that looks the same."""
    early.by = SECOND // 10
    daemon = Daemon(loop, HOST, peer.address[1])
    run_for(loop, 0.5)
    assert 0.03125 + 0.1 <= quality(daemon).root_dispersion < 0.03125 + 1
    daemon.close()


def test_what_does_not_answer_the_question_is_passed_over(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    forged = bytes((0xE4, 0)) + bytes(10) + b"DENY" + bytes(32)
    peer.mood = lambda answer: [b"", b"hello", forged, answer[:47], answer, answer, forged]
    run_for(loop, 0.5)
    assert quality(daemon).synchronised


def test_a_late_answer_is_not_taken(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    kept: list[bytes] = []

    def answer_the_last_question(answer: bytes) -> list[bytes]:
        kept.append(answer)
        return kept[-2:-1]

    peer.mood = answer_the_last_question
    run_for(loop, 100)
    assert len(kept) > 5
    assert quality(daemon) == UNSYNCHRONISED


def test_nobody_there(loop: Uloop, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
    daemon = Daemon(loop, HOST, port)  # that port is closed now
    run_for(loop, 100)
    assert quality(daemon) == UNSYNCHRONISED
    daemon.close()
    assert [r.levelname for r in caplog.records if r.name == "uloop.servers"] == ["WARNING"]


def test_of_several_addresses_the_one_that_answers(
    loop: Uloop, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo(HOST, peer.address[1], type=socket.SOCK_DGRAM)
    dead = [(*entry[:4], ("127.0.0.1", 1)) for entry in found]  # no server is on tcpmux's port for UDP
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: dead + found)
    daemon = Daemon(loop, "time.example", peer.address[1])
    run_for(loop, 1.5)
    assert quality(daemon).synchronised
    asked = peer.asked
    run_for(loop, 160)
    assert peer.asked == asked + 10  # it stays with it
    daemon.close()


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "again"), UnicodeError("too long")])
def test_a_name_that_is_unknown_for_a_while(
    error: Exception,
    loop: Uloop,
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It counts as a daemon that does not answer, and is looked up until it is found."""
    found = socket.getaddrinfo(HOST, peer.address[1], type=socket.SOCK_DGRAM)
    known = False

    def look_up(*_: object, **__: object) -> object:
        if known:
            return found
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    daemon = Daemon(loop, "time.example", peer.address[1])
    run_for(loop, 16)  # asked at 0, 1, 3, 7 and 15 s
    assert quality(daemon) == UNSYNCHRONISED
    name = f"the time daemon at time.example:{peer.address[1]}"
    silent = f"{name} does not answer; so the clock counts as not synchronised"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [silent]
    known = True
    run_for(loop, 16)
    assert quality(daemon).synchronised
    daemon.close()


def test_closed_before_the_name_is_found(loop: Uloop, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo(HOST, peer.address[1], type=socket.SOCK_DGRAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    Daemon(loop, "time.example", peer.address[1]).close()
    run_for(loop, 100)
    assert peer.asked == 0


def test_closed_it_asks_no_more(loop: Uloop, peer: Peer, daemon: Daemon) -> None:
    run_for(loop, 0.5)
    asked = peer.asked
    daemon.close()
    daemon.close()
    run_for(loop, 100)
    assert peer.asked == asked > 0


# The real thing


@pytest.fixture
def chronyd(tmp_path: Path) -> Iterator[int]:
    """chronyd on a free port, which takes its machine's clock for good and does not touch it."""
    program = shutil.which("chronyd")
    if program is None:
        pytest.skip("there is no chronyd (Debian's package chrony)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
    tmp_path.chmod(0o755)
    config = tmp_path / "chrony.conf"
    config.write_text(
        f"local stratum 5\nport {port}\nbindaddress {HOST}\nallow\ncmdport 0\npidfile {tmp_path}/pid\n"
    )
    command = [program, "-x", "-d", "-U", "-f", str(config)]
    if sys.platform != "win32" and os.geteuid() == 0:
        command[4:4] = ["-u", "nobody"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "version" in line and "starting" in line:
                break
        else:
            pytest.skip("chronyd of the package chrony cannot start here")
        yield port
        process.terminate()
        process.stderr.read()


@pytest.mark.timeout(60)
def test_chronyd(chronyd: int) -> None:
    with Uloop() as loop:
        daemon = Daemon(loop, HOST, chronyd)
        while not quality(daemon).synchronised:
            loop.run_once(1)
        told = quality(daemon)
        daemon.close()
    assert (told.leap, told.stratum, told.reference_id) == (0, 5, bytes((127, 127, 1, 1)))
    assert told.root_delay < 1
    assert told.root_dispersion < 1
