"""The command: ``uloop-servers serve``, ``check-config`` and ``ask``.

Exit codes: 0 when all went well, 1 when it did not, 2 for arguments that make no sense, 3 from
``ask`` when the server's clock is not synchronised, 78 for a bad configuration, 130 after Ctrl-C.

What a command needs is imported when it is the one: ``ask`` has no use for a server, and ``--version``
for neither.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from .__about__ import __version__

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["main"]

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
        exit_code: int = options.run(options)
        return exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, without all that would have been right.

    Parameters:
        fill: adds the arguments, when they are to be parsed.
    """

    def __init__(self, *, fill: Callable[[Parser], object], **details: Any) -> None:
        super().__init__(**details, allow_abbrev=False)
        self._fill: Callable[[Parser], object] | None = fill

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:  # called for subcommands, too
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        return super().parse_known_args(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> Parser:
    return Parser(prog="uloop-servers", description="Time servers on UDP and TCP.", fill=_add_commands)


def _add_commands(parser: Parser) -> None:
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "serve",
        help="serve the time until Ctrl-C",
        description="Serve the time until SIGINT (Ctrl-C) or SIGTERM. Each endpoint is named on "
        "standard error once it is bound.",
        epilog="Each option can also be given in the environment, as in ULOOP_RATE_LIMIT=10, and in the "
        "file, as in rate-limit = 10; a flag wins over the environment, and that over the file.",
        fill=_add_options_of_serve,
    )
    commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Check a configuration file, without binding anything, and print what it comes to. "
        "Exits with 78 if it is bad.",
        fill=_add_options_of_check_config,
    )
    commands.add_parser(
        "ask",
        help="ask a time server",
        description="Ask a time server, and show its time, the round trip and the offset of its clock. "
        "Exits with 1 if it does not tell the time, and with 3 if its clock is not synchronised.",
        fill=_add_options_of_ask,
    )


# serve


def _add_options_of_serve(parser: Parser) -> None:
    from .config import add_options

    add_options(parser)
    parser.set_defaults(run=partial(_serve, parser))


def _serve(parser: Parser, options: argparse.Namespace) -> int:
    from . import logs
    from .config import BAD_CONFIGURATION, ConfigError, load
    from .run import serve

    try:
        settings = load(options, os.environ)
    except ConfigError as error:
        if error.usage:
            parser.error(str(error))
        logs.configure()
        logs.SERVICES.error("%s", error)
        return BAD_CONFIGURATION
    logs.configure(settings.log_format, settings.log_level)
    return serve(settings, lambda: load(options, os.environ))


# check-config


def _add_options_of_check_config(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="in TOML, as for serve --config")
    parser.set_defaults(run=_check_config)


def _check_config(options: argparse.Namespace) -> int:
    from .config import check_config

    return check_config(options.file)


# ask


def _add_options_of_ask(parser: Parser) -> None:
    parser.add_argument("endpoint", type=_endpoint, metavar="ENDPOINT", help="whom to ask, as for serve")
    parser.add_argument("--count", type=_count, default=1, metavar="N", help="ask so often (default: 1)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object for each answer; times in seconds"
    )
    parser.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    from .ask import ask_and_print

    return ask_and_print(options.endpoint, options.count, options.json)


def _endpoint(text: str) -> Endpoint:
    from .endpoint import Endpoint

    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999999")
    return int(text)
