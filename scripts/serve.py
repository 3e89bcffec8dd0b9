"""Runs ``uloop-servers serve``, and asks each endpoint once to show that it answers."""

from __future__ import annotations

import signal

# Until the servers deal with Ctrl-C themselves it ends the program without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import queue
import sys
import threading

from uloop_servers.ask import NoAnswerError, ask
from uloop_servers.cli import main
from uloop_servers.endpoint import Endpoint
from uloop_servers.run import READY

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # every address of this machine: one of them


class ReadyEndpoints(logging.Handler):
    """Hears the servers say that they are bound."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: queue.SimpleQueue[Endpoint] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == READY and isinstance(record.args, tuple):
            self.endpoints.put(Endpoint.parse(str(record.args[0])))


def show(text: str) -> None:
    try:
        print(text.replace("±", "+/-"), flush=True)  # which not every terminal has
    except OSError:
        pass  # nobody reads it, and the servers serve on


class Demonstration(threading.Thread):
    """Asks each endpoint as a client would, while the main thread serves."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ready = ReadyEndpoints()
        self.failed = False
        logging.getLogger("uloop.servers").addHandler(self.ready)

    def run(self) -> None:
        while True:
            bound = self.ready.endpoints.get()
            reachable = Endpoint(bound.scheme, WILDCARDS.get(bound.host, bound.host), bound.port)
            try:
                for reading in ask(reachable, notice=show):
                    show(f"it answers: {reading}")
            except NoAnswerError as error:
                show(str(error))
                self.failed = True
                signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    demonstration = Demonstration()
    demonstration.start()
    exit_code = main(["serve", *sys.argv[1:]])
    sys.exit(1 if demonstration.failed else exit_code)
