"""The servers of Twisted, as its documentation has them; there are no variants."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import common

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux")

endpoints: Any = importlib.import_module("twisted.internet.endpoints")
protocol: Any = importlib.import_module("twisted.internet.protocol")
reactor: Any = importlib.import_module("twisted.internet.reactor")
task: Any = importlib.import_module("twisted.internet.task")
importlib.import_module("twisted.python.log").startLogging(sys.stderr, setStdout=False)


class Echo(protocol.Protocol):  # type: ignore[misc]
    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(data)


class Forker(protocol.Protocol):  # type: ignore[misc]
    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        reply = common.answer(data)
        if reply is not None:
            self.transport.write(reply)


class Reader:
    """Calls a function when a descriptor is readable."""

    def __init__(self, number: int, call: Any, *args: object) -> None:
        self.number = number
        self.call = call
        self.args = args

    def fileno(self) -> int:
        return self.number

    def doRead(self) -> None:  # noqa: N802
        self.call(*self.args)

    def connectionLost(self, reason: object) -> None:  # noqa: N802
        pass

    def logPrefix(self) -> str:  # noqa: N802
        return "Reader"


def listen(of: type = Echo) -> None:
    endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    listening = endpoint.listen(protocol.Factory.forProtocol(of))
    listening.addCallback(lambda port: common.ready(port.getHost().port))


def echo() -> None:
    listen()
    reactor.run()


def fork() -> None:
    listen(Forker)
    reactor.run()


def raising() -> None:
    def fail() -> None:
        raise common.BugError

    ours, theirs = common.readable_socket()
    reactor.addReader(Reader(ours.fileno(), fail))
    echo()
    theirs.close()


def busy() -> None:
    def again() -> None:
        reactor.callLater(0, again)

    for _ in range(common.CALLBACKS):
        again()
    echo()


def ticks(period: str, work: str) -> None:
    task.LoopingCall(common.tick, float(work)).start(float(period), now=False)
    common.ready()
    reactor.run()


def reuse() -> None:
    state = common.Reuse()

    def old_owner(number: int) -> None:
        if state.old_owner_called(number):
            try:
                reactor.addReader(Reader(state.reused, state.new_owner_called))
            except Exception as error:
                state.refused = repr(error)

    for number in state.numbers:
        reactor.addReader(Reader(number, old_owner, number))
    reactor.callLater(0.2, state.send_to_new_owner)
    reactor.callLater(0.4, reactor.stop)
    common.ready()
    reactor.run()
    state.tell()


def stop(place: str) -> None:
    common.ready()
    match place:
        case "handler":
            ours, theirs = common.readable_socket()
            reactor.addReader(Reader(ours.fileno(), lambda: (ours.recv(1), reactor.stop(), theirs)))
        case "callback":
            reactor.callLater(0, reactor.stop)
        case "timer":
            reactor.callLater(0.1, reactor.stop)
        case "signal":
            signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(reactor.stop))
            common.raise_signal_soon()
        case "thread":
            common.in_thread_soon(lambda: reactor.callFromThread(reactor.stop))
        case "twice":
            reactor.callLater(0, lambda: (reactor.stop(), reactor.stop()))
        case "before":
            reactor.stop()
    reactor.run()
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
    }
)
