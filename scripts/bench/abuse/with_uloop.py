"""The servers of uloop: the variant is the backend."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import common

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

if sys.argv[1] == "kqueue":
    sys.path.append(str(Path(__file__).resolve().parents[3] / "packages/uloop-events/tests"))
    import kqueue_model

    kqueue_model.install()

from uloop_reactor import UEvent, Uloop
from uloop_reactor.listener import TcpListener
from uloop_reactor.stream import Stream

loop = Uloop(sys.argv[1])


class Echo(Stream):
    def on_data(self, data: bytes) -> None:
        self.write(data)


class Forker(Stream):
    def on_data(self, data: bytes) -> None:
        reply = common.answer(data)
        if reply is not None:
            self.write(reply)


class Handler:
    """Calls a function."""

    def __init__(self, call: Callable[[int], object]) -> None:
        self.call = call

    def process_event(self, fileno: int, event: UEvent) -> None:
        self.call(fileno)


def listen(factory: type[Stream] = Echo) -> None:
    listener = TcpListener(loop, ("127.0.0.1", 0), factory)
    common.ready(listener.address[1])


def echo() -> None:
    listen()
    loop.run()


def fork() -> None:
    listen(Forker)
    loop.run()


def raising() -> None:
    def fail(fileno: int) -> None:
        raise common.BugError

    ours, theirs = common.readable_socket()
    loop.add(ours, UEvent.poll_in, Handler(fail))
    echo()
    theirs.close()


def busy() -> None:
    def again() -> None:
        loop.call_soon(again)

    for _ in range(common.CALLBACKS):
        again()
    echo()


def ticks(period: str, work: str) -> None:
    loop.call_every(float(period), common.tick, float(work))
    common.ready()
    loop.run()


def reuse() -> None:
    state = common.Reuse()

    def old_owner(number: int) -> None:
        if state.old_owner_called(number):
            try:
                loop.add(state.reused, UEvent.poll_in, Handler(lambda fileno: state.new_owner_called()))
            except Exception as error:
                state.refused = repr(error)

    for number in state.numbers:
        loop.add(number, UEvent.poll_in, Handler(old_owner))
    loop.call_later(0.2, state.send_to_new_owner)
    loop.call_later(0.4, loop.stop)
    common.ready()
    loop.run()
    state.tell()


def stop(place: str) -> None:
    end(place, loop.stop)


def close(place: str) -> None:
    end(place, loop.close)


def end(place: str, how: Callable[[], object]) -> None:
    common.ready()
    match place:
        case "handler":
            ours, theirs = common.readable_socket()
            loop.add(ours, UEvent.poll_in, Handler(lambda fileno: (how(), theirs)))
        case "callback":
            loop.call_soon(how)
        case "timer":
            loop.call_later(0.1, how)
        case "signal":
            # In the signal's handler itself; from there it is close that must be put off.
            direct = how == loop.stop
            signal.signal(
                signal.SIGUSR1, lambda number, frame: how() if direct else loop.call_threadsafe(how)
            )
            common.raise_signal_soon()
        case "thread":
            common.in_thread_soon(how if how == loop.stop else lambda: loop.call_threadsafe(how))
        case "twice":
            loop.call_soon(lambda: (how(), how()))
        case "before":
            how()
    try:
        loop.run()
    except RuntimeError:
        if (place, how) != ("before", loop.close):
            raise  # else that was the right answer
    loop.close()
    common.say("ended")


common.serve(
    {
        "echo": echo,
        "fork": fork,
        "raising": raising,
        "busy": busy,
        "ticks": ticks,
        "reuse": reuse,
        "stop": stop,
        "close": close,
    }
)
