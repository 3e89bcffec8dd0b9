"""The command: ``uloop-servers serve`` and ``uloop-servers ask``.

Exit codes: 0 when all went well, 1 when it did not, 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing

from uloop_reactor import Uloop, available_backends

from .__about__ import __version__
from .ask import NoAnswerError, ask
from .endpoint import Endpoint
from .service import open_server

__all__ = ["READY", "main"]

log = logging.getLogger("uloop.servers")

#: what is logged once for each endpoint when it is bound, with the endpoint as the argument
READY = "serving %s"
DEFAULT_ENDPOINTS = ("tcp://127.0.0.1:3333", "udp://127.0.0.1:3333")
USAGE_ERROR = 2
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    STOP_SIGNALS.append(signal.SIGBREAK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters:
        arguments: those of the command line when ``None``.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        return _serve(options) if options.command == "serve" else _ask(options)
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(options: argparse.Namespace) -> int:
    _log_to_stderr()
    try:
        loop = Uloop(options.backend)
    except ValueError as error:
        log.error("%s", error)
        return USAGE_ERROR
    except OSError as error:
        log.error("cannot start: %s", error.strerror or error)
        return 1
    with ExitStack() as cleanup:
        cleanup.enter_context(loop)
        _stop_on_signals(loop)
        servers = []
        for endpoint in options.endpoints or map(Endpoint.parse, DEFAULT_ENDPOINTS):
            try:
                servers.append(cleanup.enter_context(closing(open_server(loop, endpoint))))
            except (OSError, ValueError) as error:
                log.error("cannot serve %s: %s", endpoint, getattr(error, "strerror", None) or error)
                return 1
        for server in servers:
            log.info(READY, server.endpoint)
        loop.run()
        _ignore_signals()
    return 0


def _ask(options: argparse.Namespace) -> int:
    try:
        for reading in ask(options.endpoint, options.count):
            if sys.stdout is None:
                return 1  # it was closed before we came
            try:
                print(json.dumps(reading.as_dict()) if options.json else reading, flush=True)
            except OSError as error:
                return _output_failed(error)
    except NoAnswerError as error:
        _complain(str(error))
        return 1
    return 0


def _output_failed(error: OSError) -> int:
    # Windows says EINVAL when whoever read our output has gone, and that is no news to anybody.
    if error.errno not in (errno.EPIPE, errno.EINVAL):
        _complain(f"cannot write the answer: {error.strerror}")
    # What could not be written would be tried once more, and complained of, when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _complain(text: str) -> None:
    if sys.stderr is not None:  # or print would take standard output for it
        print(f"uloop-servers: {text}", file=sys.stderr)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("uloop-servers: %(message)s"))
    logging.getLogger("uloop").addHandler(handler)
    log.setLevel(logging.INFO)


def _stop_on_signals(loop: Uloop) -> None:
    # SIGINT in so many words, because a shell starts background jobs with it ignored.
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda *_: loop.stop())


def _ignore_signals() -> None:
    """From here on we end anyway. A Ctrl-C may be passed on by others and come again, and Python
    takes down its own handlers before it exits."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="uloop-servers", description="Time servers on UDP and TCP.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve the time until Ctrl-C",
        description="Serve the time until SIGINT (Ctrl-C) or SIGTERM. Each endpoint is named on "
        "standard error once it is bound.",
        allow_abbrev=False,
    )
    serve.add_argument(
        "endpoints",
        nargs="*",
        type=_endpoint,
        metavar="ENDPOINT",
        help=f"tcp://HOST:PORT or udp://HOST:PORT; IPv6 addresses in brackets, port 0 for a free one "
        f"(default: {' '.join(DEFAULT_ENDPOINTS)})",
    )
    serve.add_argument(
        "--backend",
        metavar="NAME",
        help=f"how to wait for clients: {', '.join(available_backends())} (default: the environment variable "
        f"ULOOP_BACKEND, or else the first of these)",
    )

    asking = commands.add_parser(
        "ask",
        help="ask a time server",
        description="Ask a time server, and show its time, the round trip and the offset of its clock.",
        allow_abbrev=False,
    )
    asking.add_argument("endpoint", type=_endpoint, metavar="ENDPOINT", help="whom to ask, as for serve")
    asking.add_argument("--count", type=_count, default=1, metavar="N", help="ask so often (default: 1)")
    asking.add_argument(
        "--json", action="store_true", help="one JSON object for each answer; times in seconds"
    )
    return parser


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999999")
    return int(text)
