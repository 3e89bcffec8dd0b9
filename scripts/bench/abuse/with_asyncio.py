"""The servers of asyncio and uvloop: the variant is ``protocols``, ``streams`` or ``uvloop``.

As the documentation of asyncio has them: "TCP Echo Server" of transports and protocols, and of
streams; what is not about connections is the same for both, and there is no variant ``streams`` of it.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import common

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

variant = sys.argv[1]
loop: asyncio.AbstractEventLoop = (
    importlib.import_module("uvloop") if variant == "uvloop" else asyncio
).new_event_loop()
asyncio.set_event_loop(loop)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio's by inheritance
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Forker(Echo):
    def data_received(self, data: bytes) -> None:
        reply = common.answer(data)
        if reply is not None:
            self.transport.write(reply)


async def handle_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def listen(protocol: type[Echo] = Echo) -> None:
    if variant == "streams":
        server = await asyncio.start_server(handle_echo, "127.0.0.1", 0)
    else:
        server = await loop.create_server(protocol, "127.0.0.1", 0)
    common.ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def echo() -> None:
    loop.run_until_complete(listen())


def fork() -> None:
    loop.run_until_complete(listen(Forker))


def raising() -> None:
    def fail() -> None:
        raise common.BugError

    ours, theirs = common.readable_socket()
    loop.add_reader(ours, fail)
    echo()
    theirs.close()


def busy() -> None:
    def again() -> None:
        loop.call_soon(again)

    for _ in range(common.CALLBACKS):
        again()
    echo()


def ticks(period: str, work: str) -> None:
    async def tick_forever() -> None:
        while True:
            await asyncio.sleep(float(period))
            common.tick(float(work))

    common.ready()
    loop.run_until_complete(tick_forever())


def reuse() -> None:
    state = common.Reuse()

    def old_owner(number: int) -> None:
        if state.old_owner_called(number):
            try:
                loop.add_reader(state.reused, state.new_owner_called)
            except Exception as error:
                state.refused = repr(error)

    for number in state.numbers:
        loop.add_reader(number, old_owner, number)
    loop.call_later(0.2, state.send_to_new_owner)
    loop.call_later(0.4, loop.stop)
    common.ready()
    loop.run_forever()
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
            loop.add_reader(ours, lambda: (ours.recv(1), how(), theirs))
        case "callback":
            loop.call_soon(how)
        case "timer":
            loop.call_later(0.1, how)
        case "signal":
            loop.add_signal_handler(signal.SIGUSR1, how)
            common.raise_signal_soon()
        case "thread":
            common.in_thread_soon(lambda: loop.call_soon_threadsafe(how))
        case "twice":
            loop.call_soon(lambda: (how(), how()))
        case "before":
            how()
    try:
        loop.run_forever()
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
