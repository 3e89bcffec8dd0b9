"""The rows of the table: each attacks the server of one contestant and tells what happened."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import clients
import common
from clients import connected, served
from server import HERE, Contestant, Server

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

MIB = 1 << 20


@dataclass
class Outcome:
    """What happened, in a few words, and what it cost."""

    happened: str
    good: bool | None = None  # whether the row's criterion is met; None: it was not tried
    cpu: float | None = None  # seconds of the server's processor time
    lines: int | None = None  # logged
    bytes: int | None = None
    log: str = field(default="", repr=False)  # its beginning, for who wants to know


Attack = Callable[[Contestant], Outcome]


@dataclass(frozen=True)
class Row:
    name: str
    what: str
    criterion: str
    attack: Attack


ROWS: dict[str, Row] = {}


def row(name: str, what: str, criterion: str) -> Callable[[Attack], Attack]:
    """Put an attack into the table, with what it does and what is good."""

    def put(attack: Attack) -> Attack:
        ROWS[name] = Row(name, what, criterion, attack)
        return attack

    return put


def outcome(server: Server, happened: str, *, good: bool, most_cpu: float, most_lines: int) -> Outcome:
    """An outcome with what the server has spent and logged since ``begin``."""
    cpu, log = server.cpu(), server.logged()
    lines = log.count("\n")
    good = good and cpu <= most_cpu and lines <= most_lines
    return Outcome(happened, good, cpu, lines, len(log.encode()), log[:2000])


@row(
    "descriptors",
    "64 descriptors and 100 clients; after 3 s 40 leave, and then whoever is answered",
    "all 100 are answered, none sent away; at most 0.3 s of processor time in the 3 s, and 4 lines",
)
def descriptors(contestant: Contestant) -> Outcome:
    with Server(contestant, "echo") as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, 64))
        crowd = clients.Crowd(server.port, 100)
        try:
            crowd.wait(3)
            cpu_while_full = server.cpu()
            at_once = len(crowd.answered)
            crowd.leave(min(40, at_once))
            crowd.wait(5, leaving=True)
            stranded, shed = len(crowd.asking), crowd.shed
        finally:
            crowd.close()
        answered = 100 - stranded - shed
        happened = f"{answered} of 100 answered, {at_once} at once; {shed} sent away, {stranded} stranded"
        good = answered == 100 and cpu_while_full <= 0.3
        made = outcome(server, happened, good=good, most_cpu=1, most_lines=4)
        made.cpu = cpu_while_full
        return made


@row(
    "crowd",
    "1,100 clients, more than select has room for; after 3 s 200 leave, and then whoever is answered; where "
    "the backlog is short, some come again as late as TCP has them, and count as stranded after 8 s",
    "nobody is stranded, at most 20 are sent away, at most 4 lines",
)
def crowd(contestant: Contestant) -> Outcome:
    size = 1100
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < size + 100:
        return Outcome(f"not run: the hard limit of descriptors is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (size + 100, hard))  # the server's, too
    with Server(contestant, "echo") as server:
        crowd = clients.Crowd(server.port, size)
        try:
            crowd.wait(3)
            at_once = len(crowd.answered)
            crowd.leave(min(200, at_once))
            crowd.wait(5, leaving=True)
            stranded, shed = len(crowd.asking), crowd.shed
        finally:
            crowd.close()
        answered = size - stranded - shed
        happened = f"{answered} of {size} answered, {at_once} at once; {shed} sent away, {stranded} stranded"
        return outcome(server, happened, good=not stranded and shed <= 20, most_cpu=3, most_lines=4)


@row(
    "never-reads",
    "one client sends all it can, 256 MiB at most, and never reads, for 3 s; another asks 20 times a second",
    "the server grows by at most 16 MiB, the other client has all its answers",
)
def never_reads(contestant: Contestant) -> Outcome:
    with Server(contestant, "echo") as server, connected(server.port) as others:
        served(others)
        before = most = server.memory()
        server.begin()
        flood = clients.Flood(server.port, reads=False, at_most=256 * MIB)
        asked = answered = 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            flood.flow(0.05)
            asked += 1
            answered += served(others)
            most = max(most, server.memory())
            if not flood.left:
                time.sleep(0.05)  # the pace of the other client goes on
        sent = 256 - flood.left / MIB
        growth = most - before
        happened = f"grew by {growth:.0f} MiB of {sent:.0f} sent; {answered} of {asked} others answered"
        good = growth <= 16 and answered == asked
        made = outcome(server, happened, good=good, most_cpu=3, most_lines=2)
        flood.client.close()
        return made


@row(
    "slow",
    "100 clients send a byte each second, one after the other; another asks 20 times a second; for 3 s",
    "every byte comes back, at most 0.15 s of processor time, nothing is logged",
)
def slow(contestant: Contestant) -> Outcome:
    with Server(contestant, "echo") as server, connected(server.port, 101) as crowd:
        served(crowd)
        server.begin()
        asked = answered = 0
        start = time.monotonic()
        for moment in range(300):
            time.sleep(max(0.0, start + moment / 100 - time.monotonic()))
            asked += 1
            answered += served([crowd[moment % 100]], b"x")
            if moment % 5 == 0:
                asked += 1
                answered += served(crowd[100:])
        happened = f"{answered} of {asked} answered"
        return outcome(server, happened, good=answered == asked, most_cpu=0.15, most_lines=0)


RESETS = 400  # at each stage
CLIENTS_AT_ONCE = 40  # less than the shortest backlog


def reset_before_accept(server: Server, client: socket.socket) -> None:
    pass  # the server sleeps until all have gone


def reset_once_connected(server: Server, client: socket.socket) -> None:
    pass


def reset_after_sending(server: Server, client: socket.socket) -> None:
    client.send(bytes(1024))


def reset_amid_the_answer(server: Server, client: socket.socket) -> None:
    client.setblocking(False)
    try:
        for _ in range(16):
            client.send(bytes(65536))
    except BlockingIOError:
        pass
    client.settimeout(clients.PATIENCE)
    client.recv(1)


def reset_after_half_close(server: Server, client: socket.socket) -> None:
    client.send(bytes(1024))
    client.shutdown(socket.SHUT_WR)
    client.recv(1)


STAGES = (
    reset_before_accept,
    reset_once_connected,
    reset_after_sending,
    reset_amid_the_answer,
    reset_after_half_close,
)


@row(
    "resets",
    f"{RESETS} clients each reset the connection before it is accepted, once it is, after sending, in the "
    "middle of the answer and after a half close; then 20 clients ask",
    "all 20 are answered, no descriptor is left open, at most 5 lines are logged",
)
def resets(contestant: Contestant) -> Outcome:
    with Server(contestant, "echo") as server:
        clients.newly_served(server.port, 1)
        before = server.descriptors()
        server.begin()
        for stage in STAGES:
            for _ in range(RESETS // CLIENTS_AT_ONCE):
                if stage is reset_before_accept:
                    server.send_signal(signal.SIGSTOP)
                with connected(server.port, CLIENTS_AT_ONCE) as crowd:
                    for client in crowd:
                        try:
                            stage(server, client)
                        except OSError:
                            pass  # the server was quicker to close
                        clients.reset(client)
                server.send_signal(signal.SIGCONT)
                # It has dealt with all of them when it answers: the accept queue is empty again.
                clients.newly_served(server.port, 1)
        answered = clients.newly_served(server.port, 20)
        end = time.monotonic() + 5
        while (left := server.descriptors() - before) > 0 and time.monotonic() < end:
            time.sleep(0.05)
        happened = f"then {answered} of 20 answered; {max(left, 0)} descriptors left open"
        return outcome(server, happened, good=answered == 20 and left <= 0, most_cpu=5, most_lines=5)


@row(
    "raising",
    "the handler of a readable descriptor always raises, for 2 s; a client asks 20 times a second",
    "the client has all its answers, at most 0.2 s of processor time and 200 lines",
)
def raising(contestant: Contestant) -> Outcome:
    with Server(contestant, "raising") as server, connected(server.port) as others:
        asked = answered = 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            asked += 1
            answered += served(others)
            time.sleep(0.05)
        raised = sum(line.strip().startswith("common.BugError") for line in server.logged().splitlines())
        happened = f"raised {raised} times; {answered} of {asked} answered"
        return outcome(server, happened, good=answered == asked, most_cpu=0.2, most_lines=200)


@row(
    "reuse",
    "a descriptor is closed behind the loop's back, and a new file with its number is watched, in one batch",
    "the new owner gets no event of the old one, and then its own",
)
def reuse(contestant: Contestant) -> Outcome:
    with Server(contestant, "reuse") as server:
        line = server.next_line(10)
        if not line:
            return outcome(server, "no end", good=False, most_cpu=1, most_lines=0)
        found = json.loads(line)
        server.exit_code(5)
        log = server.logged()
    words = ["stale event" if found["stale"] else "no stale event"]
    if found["refused"]:
        words.append(f"refused: {found['refused']}")
    words.append("hears its own" if found["heard"] else "never hears its own")
    good = not found["stale"] and not found["refused"] and bool(found["heard"])
    return Outcome(", ".join(words), good, None, log.count("\n"), len(log.encode()), log[:2000])


@row(
    "ends",
    f"stop and close, from each of: {', '.join(common.PLACES)} run; asyncio refuses to close a loop that "
    "runs, and the program goes on",
    "the program ends by itself each time, with exit code 0",
)
def ends(contestant: Contestant) -> Outcome:
    words = []
    good = True
    logs = []
    for how in ("stop", "close"):
        if how == "close" and contestant.program == "with_twisted.py":
            words.append("there is no close")
            continue
        servers: dict[str, Server] = {}
        failed: defaultdict[str, list[str]] = defaultdict(list)
        try:
            for place in common.PLACES:
                servers[place] = Server(contestant, how, place)
            end = time.monotonic() + 3
            for place, server in servers.items():
                code = server.exit_code(end - time.monotonic())
                if code != 0:
                    failed["goes on" if code is None else f"exit {code}"].append(place)
                logs.append(server.logged())
        finally:
            for server in servers.values():
                with server:
                    pass
        but = "".join(f" ({what}: {', '.join(places)})" for what, places in failed.items())
        ended = len(common.PLACES) - sum(map(len, failed.values()))
        words.append(f"{how} {ended} of {len(common.PLACES)}{but}")
        good = good and not failed
    log = "".join(logs)
    return Outcome("; ".join(words), good, None, log.count("\n"), len(log.encode()), log[:2000])


@row(
    "busy",
    f"{common.CALLBACKS:,} callbacks that schedule themselves again and again; one client asks for 1 s",
    "at least 20 answers",
)
def busy(contestant: Contestant) -> Outcome:
    with Server(contestant, "busy") as server, connected(server.port) as others:
        served(others)
        server.begin()
        answered = 0
        end = time.monotonic() + 1
        while time.monotonic() < end:
            answered += served(others)
        return outcome(server, f"{answered} answers", good=answered >= 20, most_cpu=2, most_lines=0)


@row(
    "flood",
    "one client sends and reads all it can, another asks 100 times a second, for 2 s",
    "the worst answer takes at most 100 ms, the median at most 10 ms",
)
def flood(contestant: Contestant) -> Outcome:
    with Server(contestant, "echo") as server, connected(server.port) as others:
        served(others)
        # A process of its own, so that it does not take turns with the client that is measured.
        command = [sys.executable, str(HERE), "--flood", str(server.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as flooder:
            assert flooder.stdout is not None
            flooder.stdout.readline()
            server.begin()
            delays = []
            good = True
            start = time.monotonic()
            for moment in range(200):
                time.sleep(max(0.0, start + moment / 100 - time.monotonic()))
                asked = time.monotonic()
                good = bool(served(others)) and good
                delays.append((time.monotonic() - asked) * 1e3)
                if time.monotonic() > start + 10:
                    break  # that is clear enough
            median, worst = statistics.median(delays), max(delays)
            happened = f"{worst:.1f} ms at worst, {median:.2f} ms in the middle"
            good = good and worst <= 100 and median <= 10
            made = outcome(server, happened, good=good, most_cpu=10, most_lines=0)
            flooder.kill()  # which some would log
        return made


@functools.cache
def libfaketime() -> Path | None:
    try:
        found = importlib.util.find_spec("libfaketime")
    except ImportError:
        return None
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.rglob("libfaketime.so.1"), None)


@row(
    "clock",
    "the wall clock is set an hour ahead and back every 0.3 s; ticks of 50 ms, for 3 s",
    "58 to 61 ticks",
)
def clock(contestant: Contestant) -> Outcome:
    library = libfaketime()
    if library is None:
        return Outcome("not run: libfaketime is not installed")
    with tempfile.TemporaryDirectory() as folder:
        offset = Path(folder, "offset")
        offset.write_text("+0")
        environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        with Server(contestant, "ticks", "0.05", "0", environment=environment) as server:
            start = time.monotonic()
            walls = []
            while (now := time.monotonic() - start) < 3:
                step = int(now / 0.3)
                # Replaced, not written into: the server must never read half a number.
                new = Path(folder, "new")
                new.write_text(("+0", "+3600", "-3600")[step % 3])
                new.replace(offset)
                while line := server.next_line(start + min(3, (step + 1) * 0.3) - time.monotonic()):
                    walls.append(float(line.split()[1]))
            happened = f"{len(walls)} of 60 ticks"
            if len(walls) > 1 and max(walls) - min(walls) < 3600:
                return Outcome("not run: libfaketime has no effect here")
            return outcome(server, happened, good=58 <= len(walls) <= 61, most_cpu=1, most_lines=0)


@row(
    "fork",
    "the server forks in a handler, and the child goes back to the loop; then the client that was there asks "
    "50 times, and 50 new ones once",
    "the parent alone answers, all of them, and the child ends with an error that names the fork",
)
def fork(contestant: Contestant) -> Outcome:
    with Server(contestant, "fork") as server, connected(server.port) as others:
        others[0].sendall(b"fork")
        others[0].recv(100)
        answers: Counter[int] = Counter()
        for _ in range(50):
            answers[who_answers(others[0])] += 1
        for _ in range(50):
            with connected(server.port) as one:
                answers[who_answers(one[0])] += 1
        parent, nobody = answers.pop(server.pid, 0), answers.pop(0, 0)
        child = sum(answers.values())
        end = time.monotonic() + 2  # an interpreter takes a while to end
        while (lives := server.living_children() > 0) and time.monotonic() < end:
            time.sleep(0.02)
        errors = [line for line in server.logged().splitlines() if "Error" in line]
        said = errors[-1] if errors else "no error"
        happened = f"the parent answers {parent}, the child {child}, nobody {nobody}; {said}"
        good = parent == 100 and not lives and "RuntimeError" in said
        return outcome(server, happened, good=good, most_cpu=2, most_lines=100)


def who_answers(client: socket.socket) -> int:
    """The process that answers; 0 if none does."""
    client.settimeout(0.5)
    try:
        client.sendall(b"who")
        return int(client.recv(100) or b"0")
    except (OSError, ValueError):
        return 0


@row(
    "drift",
    "ticks of 10 ms with 3 ms of work, 100 of them; asyncio has no periodic calls, and sleeps in between",
    "the last one is at most 10 ms late",
)
def drift(contestant: Contestant) -> Outcome:
    with Server(contestant, "ticks", "0.01", "0.003") as server:
        times: list[float] = []
        while len(times) < 100 and (line := server.next_line(5)):
            times.append(float(line.split()[0]))
        if len(times) < 100:
            return outcome(server, f"{len(times)} ticks", good=False, most_cpu=0, most_lines=0)
        late = (times[-1] - times[0] - 0.99) * 1e3
        happened = f"{late:+.0f} ms late after 0.99 s"
        return outcome(server, happened, good=late <= 10, most_cpu=1, most_lines=0)


def flood_until_killed(port: int) -> None:
    """What the flooding process does."""
    flooder = clients.Flood(port, reads=True, at_most=1 << 50)
    os.write(1, b"ready\n")
    flooder.flow(60)
