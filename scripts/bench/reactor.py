"""What uloop-reactor costs, as ratios to what does the same work without it, all in one run:

    python scripts/dev.py run bench-reactor

*Echo.* Balls of 1 KiB bounce between the two ends of socket pairs: whoever gets one sends it
back. A bounce is one recv and one send by way of the loop, as in an echo server, and there is
no client whose cost would have to be told apart. One pair is one ready descriptor per turn, 64
pairs are 64. Measured against the loop that a competent person writes by hand: a dict of bound
methods over ``select.epoll``, with a timeout and a stop flag, and nothing else.

*Dispatch.* The same with handlers that do nothing about a byte that stays unread, so that all
descriptors are ready in every turn: the cost of one turn, and of each event in it.

*Timers.* A million are added, nine in ten are cancelled, and the loop goes through the rest,
which are due within a second; against asyncio. And 100,000 ``call_soon``. Each run is a process
of its own, for the peak of its memory.

*System calls* are counted by strace, where it is there: the difference between a short run and
a longer one.

All figures are processor time, and medians of rounds in which the contestants, each in a process
of its own, take turns, since the speed of a machine changes from one second to the next; the
range of all rounds is told beside them. What is not installed says so.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import random
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from uloop_reactor import UEvent, Uloop
from uloop_reactor.stream import Stream

if sys.platform != "linux":
    sys.exit("the hand-written loop is one for epoll: run this on Linux")

BALL = bytes(1024)
PAIRS = (1, 64)
ROUNDS = 15
BOUNCES = 12_800  # of all pairs together, in one round
TURNS_OF_DISPATCH = {1: 12_800, 64: 1_600}
TIMERS = 1_000_000
CANCELLED = 0.9
SOON = 100_000
ROUNDS_OF_TIMERS = 3
MIB = 1 << 20


def optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


uvloop = optional("uvloop")


# The hand-written loop


class Handwritten:
    """What a competent person writes where there is no framework."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int, int], object]] = {}
        self.stopped = False

    def add(self, fileno: int, mask: int, handler: Callable[[int, int], object]) -> None:
        self.epoll.register(fileno, mask)
        self.handlers[fileno] = handler

    def run(self) -> None:
        poll = self.epoll.poll
        handlers = self.handlers
        while not self.stopped:
            for fileno, mask in poll(10):
                handlers[fileno](fileno, mask)

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.epoll.close()


# Sockets


def make_ends(pairs: int) -> list[socket.socket]:
    """The ends of connected TCP sockets, pair after pair."""
    ends = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(pairs):
            left = socket.create_connection(listener.getsockname())
            right, _ = listener.accept()
            for end in (left, right):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ends.append(end)
    return ends


def throw_in(ends: list[socket.socket]) -> None:
    """Send a ball to the first end of each pair."""
    for end in ends[1::2]:
        end.send(BALL)


class Game:
    """Counts the bounces, and ends the loop after the last one."""

    def __init__(self, bounces: int) -> None:
        self.left = bounces
        self.stop: Callable[[], object] = sys.exit

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()


def seconds_of(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


# Contestants: each plays a game on the sockets it is given, and tells the processor time of it.


class Bouncer:
    """The same handler for both loops. It takes what is on the socket as there is no event but data."""

    def __init__(self, sock: socket.socket, game: Game) -> None:
        self.recv = sock.recv
        self.send = sock.send
        self.game = game

    def process_event(self, fileno: int, event: int) -> None:
        self.send(self.recv(65536))
        self.game.count()


def by_hand(ends: list[socket.socket], game: Game) -> float:
    loop = Handwritten()
    game.stop = loop.stop
    for end in ends:
        loop.add(end.fileno(), select.EPOLLIN, Bouncer(end, game).process_event)
    throw_in(ends)
    spent = seconds_of(loop.run)
    loop.close()
    return spent


def by_handlers(ends: list[socket.socket], game: Game) -> float:
    with Uloop() as loop:
        game.stop = loop.stop
        for end in ends:
            loop.add(end, UEvent.poll_in, Bouncer(end, game))
        throw_in(ends)
        return seconds_of(loop.run)


class BouncingStream(Stream):
    game: Game

    def on_data(self, data: bytes) -> None:
        self.write(data)
        self.game.count()


def by_streams(ends: list[socket.socket], game: Game) -> float:
    with Uloop() as loop:
        game.stop = loop.stop
        streams = [BouncingStream(loop, end) for end in ends]
        for stream in streams:
            stream.game = game
        throw_in(ends)
        spent = seconds_of(loop.run)
        for stream in streams:
            stream.abort()
        return spent


class BouncingProtocol(asyncio.Protocol):
    def __init__(self, game: Game) -> None:
        self.game = game

    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio's by inheritance
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.game.count()


def by_protocols(ends: list[socket.socket], game: Game, loop: asyncio.AbstractEventLoop) -> float:
    async def connect() -> list[BouncingProtocol]:
        made = [await loop.connect_accepted_socket(lambda: BouncingProtocol(game), end) for end in ends]
        return [protocol for _, protocol in made]

    protocols = loop.run_until_complete(connect())
    game.stop = loop.stop
    throw_in(ends)
    spent = seconds_of(loop.run_forever)
    for protocol in protocols:
        protocol.transport.abort()
    for _ in range(2):  # turns, in which the transports close
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return spent


def by_asyncio(ends: list[socket.socket], game: Game) -> float:
    return by_protocols(ends, game, asyncio.new_event_loop())


def by_uvloop(ends: list[socket.socket], game: Game) -> float:
    assert uvloop is not None
    return by_protocols(ends, game, uvloop.new_event_loop())


Contestant = Callable[[list[socket.socket], Game], float]
ECHO: dict[str, Contestant] = {
    "hand-written": by_hand,
    "handlers": by_handlers,
    "Stream": by_streams,
    "asyncio": by_asyncio,
    "uvloop": by_uvloop,
}
TARGETS = {"handlers": 1.10, "Stream": 1.15}


def play(contestant: Contestant, pairs: int, bounces: int) -> float:
    """Microseconds per bounce."""
    ends = make_ends(pairs)
    spent = contestant(ends, Game(bounces))
    for end in ends:
        end.close()
    return spent / bounces * 1e6


class Player:
    """A contestant in a process of its own, which plays when it is told to.

    The memory allocator learns from what a process does. asyncio reads into blocks of 256 KiB, and
    by the history of the process they are taken from the heap, or mapped anew for each read, which
    costs three times as much. Next to uvloop it is always the first; alone it may be either, so look
    at the range of its ratio.
    """

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--child", "player", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, pairs: int, bounces: int) -> float:
        """Microseconds per bounce."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(pairs, bounces, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()  # its input ends, and so does it


def play_when_told(name: str) -> None:
    for line in sys.stdin:
        pairs, bounces = map(int, line.split())
        print(play(ECHO[name], pairs, bounces), flush=True)


def echo() -> None:
    names = [name for name in ECHO if name != "uvloop" or uvloop is not None]
    players = {name: Player(name) for name in names}
    for pairs in PAIRS:
        rounds = [
            {name: player.play(pairs, BOUNCES) for name, player in players.items()} for _ in range(ROUNDS)
        ]
        print(f"\nEcho of 1 KiB over TCP, {pairs} ready per turn")
        for name in ECHO:
            if name not in names:
                print(f"  {name:14} not installed")
                continue
            ratios = [each[name] / each["hand-written"] for each in rounds]
            cost = statistics.median(each[name] for each in rounds)
            ratio = statistics.median(ratios)
            print(
                f"  {name:14} {cost:6.2f} us   ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                f"   {system_calls(name, pairs):>17}{verdict(ratio, TARGETS.get(name))}",
                flush=True,
            )
    for player in players.values():
        player.close()


def verdict(ratio: float, target: float | None) -> str:
    if target is None:
        return ""
    return f"   target {target:.2f}: {'met' if round(ratio, 2) <= target else 'MISSED'}"


def system_calls(name: str, pairs: int) -> str:
    strace = shutil.which("strace")
    if strace is None:
        return "strace: not found"
    short, long = (calls_of_a_game(strace, name, pairs, bounces) for bounces in (1_280, 3_840))
    if not short or not long:
        return "strace: not allowed"
    return f"{(long - short) / 2_560:.2f} syscalls"


def calls_of_a_game(strace: str, name: str, pairs: int, bounces: int) -> int:
    """All system calls of a player that plays once, its start and its end included."""
    command = [strace, "-f", "-c", "-U", "calls,name", sys.executable, __file__, "--child", "player", name]
    run = subprocess.run(command, input=f"{pairs} {bounces}\n", capture_output=True, text=True)
    total = re.search(r"^ *(\d+) total$", run.stderr, re.MULTILINE)
    return int(total[1]) if total else 0


# Dispatch


class Idler:
    """Leaves its byte where it is, so that it is ready in every turn."""

    def process_event(self, fileno: int, event: int) -> None:
        pass


class Counter(Idler):
    """One of them ends the loop after so many turns."""

    def __init__(self, turns: int, stop: Callable[[], object]) -> None:
        self.left = turns
        self.stop = stop

    def process_event(self, fileno: int, event: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()


def turn_by_hand(ready: list[socket.socket], turns: int) -> float:
    loop = Handwritten()
    handlers = [Counter(turns, loop.stop), *(Idler() for _ in ready[1:])]
    for sock, handler in zip(ready, handlers, strict=True):
        loop.add(sock.fileno(), select.EPOLLIN, handler.process_event)
    spent = seconds_of(loop.run)
    loop.close()
    return spent / turns


def turn_of_ours(ready: list[socket.socket], turns: int) -> float:
    with Uloop() as loop:
        handlers = [Counter(turns, loop.stop), *(Idler() for _ in ready[1:])]
        for sock, handler in zip(ready, handlers, strict=True):
            loop.add(sock, UEvent.poll_in, handler)
        return seconds_of(loop.run) / turns


def dispatch() -> None:
    few, many = PAIRS
    ends = make_ends(many)
    throw_in(ends)
    ready = ends[::2]
    columns: dict[str, list[float]] = {"event by hand": [], "event": [], "turn by hand": [], "turn": []}
    for _ in range(ROUNDS):
        for turn, suffix in ((turn_by_hand, " by hand"), (turn_of_ours, "")):
            one = turn(ready[:few], TURNS_OF_DISPATCH[few])
            all_of_them = turn(ready, TURNS_OF_DISPATCH[many])
            event = (all_of_them - one) / (many - few)
            columns["event" + suffix].append(event * 1e9)
            columns["turn" + suffix].append((one - event * few) * 1e9)
    print("\nDispatch alone, handlers that do nothing, with epoll_wait")
    for what in ("event", "turn"):
        by_hand, ours = (statistics.median(columns[what + suffix]) for suffix in (" by hand", ""))
        rounds = zip(columns[what], columns[what + " by hand"], strict=True)
        more = [ours - by_hand for ours, by_hand in rounds]
        print(
            f"  per {what:5} hand-written {by_hand:5.0f} ns   ours {ours:5.0f} ns"
            f"   more {statistics.median(more):+5.0f} ns (min {min(more):+.0f})",
            flush=True,
        )


# Timers


Costs = dict[str, float]  # seconds of processor time, and MiB


def nothing() -> None:
    pass


def peak_memory() -> float:
    """MiB, of this program; ru_maxrss would begin with that of the process that started it."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def loop_of(name: str) -> tuple[Uloop | asyncio.AbstractEventLoop, Callable[[], object]]:
    """A loop and how to run it. The rest is called by the same names: ``call_later``, ``cancel``,
    ``call_soon`` and ``stop``.
    """
    if name == "uloop":
        ours = Uloop()
        return ours, ours.run
    if name == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        assert uvloop is not None
        loop = uvloop.new_event_loop()
    return loop, loop.run_forever


def timers_of(name: str) -> Costs:
    """A million timers: added, nine in ten cancelled in any order, and the rest gone through."""
    loop, run = loop_of(name)
    chance = random.Random(1)
    delays = [chance.random() for _ in range(TIMERS)]
    condemned = chance.sample(range(TIMERS), int(TIMERS * CANCELLED))
    left = TIMERS - len(condemned)

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            loop.stop()

    timers = []
    before = peak_memory()

    def add() -> None:
        call_later = loop.call_later
        timers.extend([call_later(delay, tick) for delay in delays])

    def cancel() -> None:
        for index in condemned:
            timers[index].cancel()

    costs = {"add": seconds_of(add), "cancel": seconds_of(cancel), "run": seconds_of(run)}
    costs["all"] = sum(costs.values())
    costs["MiB"] = peak_memory() - before
    loop.close()
    return costs


def soon_of(name: str) -> Costs:
    """Callbacks that are put off to the next turn, and called in it."""
    loop, run = loop_of(name)

    def call_all() -> None:
        for _ in range(SOON):
            loop.call_soon(nothing)
        loop.call_soon(loop.stop)
        run()

    costs = {"soon": seconds_of(call_all)}
    loop.close()
    return costs


OF_A_PROCESS = {"timers": timers_of, "soon": soon_of}


def timers() -> None:
    print(f"\n{TIMERS:,} timers, {CANCELLED:.0%} cancelled; {SOON:,} call_soon")
    names = ["uloop", "asyncio", *(["uvloop"] if uvloop is not None else [])]
    rounds: dict[str, list[Costs]] = {name: [] for name in names}
    for _ in range(ROUNDS_OF_TIMERS):
        for name in names:
            rounds[name].append({**in_a_process("timers", name), **in_a_process("soon", name)})
    medians = {
        name: {what: statistics.median(each[what] for each in rounds[name]) for what in rounds[name][0]}
        for name in names
    }
    for name, costs in medians.items():
        ratio = {what: cost / medians["asyncio"][what] for what, cost in costs.items()}
        print(
            f"  {name:8} add {costs['add']:.2f} s  cancel {costs['cancel']:.2f} s  run {costs['run']:.2f} s"
            f"  all {costs['all']:.2f} s: ratio {ratio['all']:.2f}"
            f"   peak {costs['MiB']:.0f} MiB: ratio {ratio['MiB']:.2f}"
            f"   call_soon {costs['soon'] / SOON * 1e9:.0f} ns: ratio {ratio['soon']:.2f}"
        )
    if uvloop is None:
        print("  uvloop   not installed")


def in_a_process(what: str, name: str) -> Costs:
    command = [sys.executable, __file__, "--child", what, name]
    costs: Costs = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return costs


SECTIONS = {"echo": echo, "dispatch": dispatch, "timers": timers}


def main() -> None:
    parser = argparse.ArgumentParser(description="What uloop-reactor costs, as ratios.")
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all"
    )
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)  # this process is one run of many
    options = parser.parse_args()
    match options.child:
        case ["player", name]:
            play_when_told(name)
            return
        case [what, name]:
            print(json.dumps(OF_A_PROCESS[what](name)))
            return
    if unknown := [section for section in options.sections if section not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    print(f"Python {sys.version.split()[0]} on {sys.platform}")
    for section in options.sections or SECTIONS:
        SECTIONS[section]()


if __name__ == "__main__":
    main()
