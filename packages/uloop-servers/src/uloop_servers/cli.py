"""The command: ``uloop-servers serve``, ``check-config`` and ``ask``.

Exit codes: 0 when all went well, 1 when it did not, 2 for arguments that make no sense, 3 from
``ask`` when the server's clock is not synchronised, 78 for a bad configuration.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from typing import NoReturn

from . import logs
from .__about__ import __version__
from .ask import ask_and_print
from .config import BAD_CONFIGURATION, ConfigError, add_options, check_config, load
from .endpoint import Endpoint
from .run import READY, serve

__all__ = ["READY", "main"]

log = logging.getLogger("uloop.servers")

USAGE_ERROR = 2
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters:
        arguments: those of the command line when ``None``.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve":
            return _serve(options)
        if options.command == "check-config":
            return check_config(options.file)
        return ask_and_print(options.endpoint, options.count, options.json)
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(options: argparse.Namespace) -> int:
    try:
        settings = load(options, os.environ)
    except ConfigError as error:
        logs.configure()
        log.error("%s", error)
        return BAD_CONFIGURATION
    logs.configure(settings.log_format, settings.log_level)
    return serve(settings, lambda: load(options, os.environ))


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, without all that would have been right."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="uloop-servers", description="Time servers on UDP and TCP.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serving = commands.add_parser(
        "serve",
        help="serve the time until Ctrl-C",
        description="Serve the time until SIGINT (Ctrl-C) or SIGTERM. Each endpoint is named on "
        "standard error once it is bound.",
        epilog="Each option can also be given in the environment, as in ULOOP_RATE_LIMIT=10, and in the "
        "file, as in rate-limit = 10; a flag wins over the environment, and that over the file.",
        allow_abbrev=False,
    )
    add_options(serving)

    checking = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Check a configuration file, without binding anything, and print what it comes to. "
        "Exits with 78 if it is bad.",
        allow_abbrev=False,
    )
    checking.add_argument("file", metavar="FILE", help="in TOML, as for serve --config")

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
