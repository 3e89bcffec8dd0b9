"""Configuration: one table of options, which can be given in three places.

Every option is a field of :class:`Settings`, and all that is known about it stands there: how its
text is read, its default, what the help says. From this table come

- the command line: ``--rate-limit 10`` (the endpoints have no flag, they are the arguments),
- the environment: ``ULOOP_RATE_LIMIT=10``; an empty variable counts as unset,
- the file, in TOML, named by ``--config`` or ``ULOOP_CONFIG``: ``rate-limit = 10`` (or ``rate_limit``).

1. A flag wins over the environment, the environment over the file, the file over the default. A
   list that is given in one place replaces that of the others, it is not added to it.
2. The same function reads an option's text in all three places, so all say the same of a bad one.
   A file has types as well, and they must be right: ``"5"`` is no number there.
3. An unknown key is an error, and so is an unknown variable ``ULOOP_...``. It is most often a known one
   with a slip of the finger, and a limit that is not in force is worse than a server that does not start.
   But names like ``ULOOP_PORT`` and ``ULOOP_SERVICE_HOST`` are Kubernetes' own for a service "uloop".
4. Nothing is looked up: names of hosts and users may be known elsewhere or later.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from uloop_reactor import available_backends

from .endpoint import Endpoint

if TYPE_CHECKING:
    from .guard import Policy

__all__ = [
    "BAD_CONFIGURATION",
    "DEFAULT_ENDPOINTS",
    "OPTIONS",
    "ConfigError",
    "Option",
    "Settings",
    "add_options",
    "as_toml",
    "check_config",
    "load",
    "reference",
    "renew",
]

#: the exit code for a :class:`ConfigError`: EX_CONFIG of <sysexits.h>
BAD_CONFIGURATION = 78

DEFAULT_ENDPOINTS = (Endpoint("tcp", "127.0.0.1", 3333), Endpoint("udp", "127.0.0.1", 3333))

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """The configuration is bad: one line that names the place, the value and what would be right.

    Attributes:
        usage: it is the command line alone that is bad.
    """

    usage = False


#: begins the names of the environment's variables
PREFIX = "ULOOP_"
FILE_VARIABLE = "ULOOP_CONFIG"
#: variables that are not meant for us: those that Kubernetes and Docker make of a service's name
NOT_OURS = re.compile(r"ULOOP_(\w+_)?(SERVICE_(HOST|PORT)|PORT)(_\w+)?", re.ASCII)

# How the text of an option is read: functions that return the value, or raise ValueError with one
# sentence. What they are made with, ``what``, ends the sentence "'fast' is not ...".

Parse = Callable[[str], Any]

INTEGER = re.compile(r"[0-9]{1,15}")
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
HOST_AND_PORT = re.compile(
    r"(?:\[(?P<ipv6>[^][/?#@\s]+)\]|(?P<host>[^][:/?#@\s]+))(?::(?P<port>[0-9]{1,5}))?"
)
USER = re.compile(r"[^:\s\0]+(:[^:\s\0]+)?")
SMALLEST = 1e-6  # of numbers above 0: something can be divided by all of them
BOOLEANS = {
    **dict.fromkeys(["true", "yes", "on", "1"], True),
    **dict.fromkeys(["false", "no", "off", "0"], False),
}


def _integer(what: str, least: int, most: int) -> Parse:
    def parse(text: str) -> int:
        if not INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not {what}")
        return int(text)

    return parse


def _number(what: str, *, zero: bool, most: float) -> Parse:
    def parse(text: str) -> float:
        number = float(text) if NUMBER.fullmatch(text) else -1
        if not (SMALLEST <= number <= most or (zero and number == 0)):
            raise ValueError(f"{text!r} is not {what}")
        return number

    return parse


def _seconds(example: int, *, zero: bool = False) -> Parse:
    least = "from 0" if zero else "above 0"
    return _number(f"a number of seconds {least} to 1000000, like {example}", zero=zero, most=1e6)


def _choice(what: str, known: Callable[[], Sequence[str]]) -> Parse:
    def parse(text: str) -> str:
        if text not in known():
            raise ValueError(f"{text!r} is not {what}; known are {', '.join(known())}")
        return text

    return parse


def _host_and_port(what: str, *, host: str | None = None, port: int | None = None) -> Parse:
    """Either may be left out if there is one to take for it; digits alone are a port."""

    def parse(text: str) -> tuple[str, int]:
        port_alone = host is not None and text.isascii() and text.isdigit()
        match = HOST_AND_PORT.fullmatch(f"{host}:{text}" if port_alone else text)
        if match is None or (match["port"] is None and port is None) or (match["host"] or "").isdigit():
            raise ValueError(f"{text!r} is not {what}")
        if match["ipv6"] is not None and not _is_ipv6(match["ipv6"]):
            raise ValueError(f"{text!r} has {match['ipv6']!r} in brackets, which is not an IPv6 address")
        number = port if match["port"] is None else int(match["port"])
        if number is None or number > 65535 or (number == 0 and port is not None):
            raise ValueError(f"{text!r} has the port {number}; ports are {int(port is not None)} to 65535")
        return match["ipv6"] or match["host"], number

    return parse


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _network(text: str) -> Network:
    wrong = f"{text!r} is not an address or a network like 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
    if "%" in text:
        raise ValueError(wrong)  # an interface says nothing about who is at the other end
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(wrong) from None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is an address within a network; the network is {network}") from None


def _boolean(text: str) -> bool:
    if text not in BOOLEANS:
        raise ValueError(f"{text!r} is neither true nor false")
    return BOOLEANS[text]


def _user(text: str) -> str:
    if not USER.fullmatch(text):
        raise ValueError(f"{text!r} is not a user or a user and a group, like nobody or nobody:nogroup")
    return text


def _daytime_formats() -> Sequence[str]:
    from .protocols.daytime import FORMATS

    return tuple(FORMATS)


# The table


@dataclass(frozen=True)
class Option:
    """What is known about an option.

    Parameters:
        name: of the field of :class:`Settings`.
        default: its value when it is given nowhere.
        parse: reads its text; raises ValueError with one sentence.
        metavar: what stands for its value in the help.
        help: what it does, in a phrase.
        unset: what happens without it, where ``default`` does not say that.
        kinds: the types that its value may have in TOML.
        many: it is a list, and ``parse`` reads one element.
        live: SIGHUP can change it.
    """

    name: str
    default: Any
    parse: Parse
    metavar: str
    help: str
    unset: str = ""
    kinds: tuple[type, ...] = (str,)
    many: bool = False
    live: bool = False

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its name on the command line; of endpoints, which stand there without a flag, the metavar."""
        return self.metavar if self.name == "endpoints" else f"--{self.key}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"{PREFIX}{self.name.upper()}"

    @property
    def description(self) -> str:
        """The help, with the default."""
        default = self.unset or _plain(self.default, self.many)
        return f"{self.help} (default: {default})" if default else self.help


TRUTH = (bool,)
WHOLE = (int,)
NUMERIC = (float, int)
#: how TOML's types are called
KIND = {
    bool: "a boolean (true or false)",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
}


def _option(default: Any, parse: Parse, metavar: str, phrase: str, **details: Any) -> Any:
    return field(default=default, metadata={"parse": parse, "metavar": metavar, "help": phrase, **details})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server was told to do.

    Attributes:
        given: the names of the options that were given, whatever their values; the others have
            their defaults.
    """

    endpoints: tuple[Endpoint, ...] = _option(
        DEFAULT_ENDPOINTS,
        Endpoint.parse,
        "ENDPOINT",
        "SCHEME://HOST:PORT; the schemes are tcp and udp (the time as text), daytime+tcp, daytime+udp, "
        "time+tcp, time+udp and ntp; IPv6 addresses in brackets, port 0 for a free one",
        many=True,
    )
    workers: int = _option(
        1,
        _integer("a number of workers from 1 to 1024", 1, 1024),
        "N",
        "processes that share the ports",
        kinds=WHOLE,
    )
    metrics: tuple[str, int] | None = _option(
        None,
        _host_and_port("a port, or an address and a port, like 9123 or [::1]:9123", host="127.0.0.1"),
        "[HOST:]PORT",
        "serve /metrics, /livez and /readyz over HTTP here; on 127.0.0.1 if no host is named",
        unset="not served",
        kinds=(str, int),
    )
    rate_limit: float | None = _option(
        None,
        _number("a number of answers a second, like 10, or 0 for no limit", zero=True, most=1e9),
        "N",
        "answers a second to one source of datagrams, an IPv4 address or an IPv6 /64; 0 for no limit",
        unset="1 on the text and Time protocols, no limit on NTP",
        kinds=NUMERIC,
        live=True,
    )
    rate_burst: int = _option(
        60,
        _integer("a number of answers from 1 to 1000000", 1, 1_000_000),
        "N",
        "answers that a source may have at once, before the rate limit holds",
        kinds=WHOLE,
        live=True,
    )
    allow: tuple[Network, ...] = _option(
        (),
        _network,
        "NET",
        "serve these networks or addresses only; the most specific of --allow and --deny decides",
        unset="all",
        many=True,
        live=True,
    )
    deny: tuple[Network, ...] = _option(
        (), _network, "NET", "do not serve these networks or addresses", unset="none", many=True, live=True
    )
    max_connections: int | None = _option(
        None,
        _integer("a number of connections from 1 to 10000000", 1, 10_000_000),
        "N",
        "TCP connections at once",
        unset="the limit of descriptors less 32",
        kinds=WHOLE,
        live=True,
    )
    max_connections_per_source: int | None = _option(
        None,
        _integer("a number of connections from 1 to 10000000", 1, 10_000_000),
        "N",
        "TCP connections at once of one source",
        unset="no limit",
        kinds=WHOLE,
        live=True,
    )
    idle_timeout: float = _option(
        300.0,
        _seconds(300),
        "SECONDS",
        "close a TCP connection that was silent so long",
        kinds=NUMERIC,
        live=True,
    )
    write_timeout: float = _option(
        30.0,
        _seconds(30),
        "SECONDS",
        "close a TCP connection that took none of our answers so long",
        kinds=NUMERIC,
        live=True,
    )
    utc: bool = _option(False, _boolean, "", "UTC instead of the local time", kinds=TRUTH)
    daytime_format: str = _option(
        "xinetd",
        _choice("a format of Daytime", _daytime_formats),
        "NAME",
        "how Daytime writes the time: xinetd, long, ctime, iso or nist",
    )
    trust_local_clock: bool = _option(
        False,
        _boolean,
        "",
        "NTP: say that this machine's clock is right, whatever the kernel says of it",
        kinds=TRUTH,
    )
    stratum: int | None = _option(
        None,
        _integer("an NTP stratum from 1 to 15", 1, 15),
        "N",
        "NTP: how far we are from a reference clock, 1 to 15",
        unset="10",
        kinds=WHOLE,
    )
    follow: tuple[str, int] | None = _option(
        None,
        _host_and_port("a host, or a host and a port, like 127.0.0.1 or [::1]:11123", port=123),
        "HOST[:PORT]",
        "NTP: have stratum, reference and quality from the daemon there, which sets this machine's clock",
        unset="ask the kernel",
    )
    grace: float = _option(
        10.0,
        _seconds(10, zero=True),
        "SECONDS",
        "how long SIGTERM and SIGINT wait for what was begun",
        kinds=NUMERIC,
    )
    user: str | None = _option(
        None,
        _user,
        "USER[:GROUP]",
        "who to be once the ports are bound, if started by root",
        unset="who started it",
        kinds=(str, int),
    )
    log_format: str = _option(
        "text", _choice("a log format", lambda: ("text", "json")), "NAME", "text or json", live=True
    )
    log_level: str = _option(
        "info",
        _choice("a log level", lambda: ("debug", "info", "warning", "error")),
        "NAME",
        "log from here up: debug, info, warning or error",
        live=True,
    )
    backend: str | None = _option(
        None,
        _choice("a backend of this platform", available_backends),
        "NAME",
        "how to wait for clients: epoll, kqueue, poll, afd or select, of which no platform has all",
        unset="the first of these that there is",
    )

    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def policy(self) -> Policy:
        """What the guard goes by."""
        from .guard import Policy

        return Policy(
            rate_limit=self.rate_limit,
            rate_burst=self.rate_burst,
            allow=self.allow,
            deny=self.deny,
            max_connections_per_source=self.max_connections_per_source,
        )


#: all options by the name of their field
OPTIONS = {
    row.name: Option(name=row.name, default=row.default, **row.metadata)
    for row in fields(Settings)
    if row.metadata
}


# Reading them. Each place gives what it has: by name the value, and how to call the place.

Found = dict[str, tuple[Any, str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser take all options, for :func:`load`. What was not given is not in its namespace."""
    for option in OPTIONS.values():
        details: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": option.description.replace("%", "%%"),
        }
        if option.kinds == TRUTH:
            parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, **details)
            continue
        details |= {"metavar": option.metavar, "type": _argument(option.parse)}
        if option.name == "endpoints":
            parser.add_argument(option.name, nargs="*", **details)
        else:
            parser.add_argument(option.flag, action="append" if option.many else "store", **details)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="read options from this TOML file (default: that in ULOOP_CONFIG); they have the names of the "
        "flags, as in rate-limit = 10",
    )


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Read the file, if one is named, and put together what the three places say.

    Parameters:
        arguments: what a parser with :func:`add_options` has made.
        environment: that of the process, as a rule: ``os.environ``.

    Raises:
        ConfigError: the file or the environment is bad, or what they say contradicts itself.
    """
    path = getattr(arguments, "config", "") or environment.get(FILE_VARIABLE, "")
    found = _in_file(path) if path else {}
    found |= _in_environment(environment)
    found |= _on_command_line(arguments)
    _check_together(found)
    return Settings(given=frozenset(found), **{name: value for name, (value, _) in found.items()})


def renew(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """What SIGHUP makes of the settings of a server that runs.

    Returns:
        The old settings with the new values of those options that can change, and the keys of
        the others that differ: they need a restart.
    """
    live = {option.name: getattr(new, option.name) for option in OPTIONS.values() if option.live}
    renewed = replace(old, **live)
    return renewed, [
        option.key
        for option in OPTIONS.values()
        if getattr(renewed, option.name) != getattr(new, option.name)
    ]


def check_config(path: str) -> int:
    """Print what a file makes of the settings, without regard to the environment.

    Returns:
        The exit code: 0, or 78 after one line on standard error that says what is bad.
    """
    try:
        settings = load(argparse.Namespace(config=path), {})
    except ConfigError as error:
        if sys.stderr is not None:
            print(f"uloop-servers: error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    print(as_toml(settings), end="")
    return 0


def _argument(parse: Parse) -> Parse:
    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:  # argparse keeps the sentences of its own errors alone
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


def _on_command_line(arguments: argparse.Namespace) -> Found:
    given = {option: getattr(arguments, option.name, None) for option in OPTIONS.values()}
    return {
        option.name: (tuple(value) if option.many else value, option.flag)
        for option, value in given.items()
        if value is not None
    }


def _in_environment(environment: Mapping[str, str]) -> Found:
    found: Found = {}
    known = [FILE_VARIABLE, *(option.variable for option in OPTIONS.values())]
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name in known or not text.strip() or NOT_OURS.fullmatch(name):
            continue
        slip = name.removeprefix(PREFIX).upper().replace("-", "_")
        near = difflib.get_close_matches(slip, [one.removeprefix(PREFIX) for one in known], n=1)
        shown = name if name.isprintable() else repr(name)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"{shown}: unknown variable; {hint}")
    for option in OPTIONS.values():
        text = environment.get(option.variable, "").strip()
        if not text:
            continue
        try:
            if option.many:
                value: Any = tuple(option.parse(part) for part in re.split(r"[,\s]+", text) if part)
            else:
                value = option.parse(text)
        except ValueError as error:
            raise ConfigError(f"{option.variable}: {error}") from None
        found[option.name] = value, option.variable
    return found


def _check_together(found: Found) -> None:
    """Look at what is right in itself, but not beside the others."""

    def say(name: str, sentence: str, other: str | None = None) -> ConfigError:
        error = ConfigError(f"{found[name][1]}: {sentence}")
        names = [name] if other is None else [name, other]
        error.usage = all(found[one][1] == OPTIONS[one].flag for one in names)
        return error

    values = {name: value for name, (value, _) in found.items()}
    if "endpoints" in values and not values["endpoints"]:
        raise say("endpoints", "the list is empty, so there is nothing to serve")
    if values.get("follow") and values.get("trust_local_clock"):  # of which --no- is no contradiction
        raise say(
            "follow",
            "it excludes trust-local-clock: either that daemon says how good the clock is, or you do",
            "trust_local_clock",
        )
    if values.get("follow") and values.get("stratum"):
        raise say(
            "stratum",
            "it excludes follow: the stratum is that of the daemon which is followed",
            "follow",
        )


# The file


def _in_file(path: str) -> Found:
    shown = path if path.isprintable() else repr(path)
    text = _read_text(path, shown)
    document = _read_toml(text, shown)
    found: Found = {}
    for key, value in document.items():
        line = _line_of(key, text)
        place = f"{shown}:{line}" if line else shown
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            raise ConfigError(f"{place}: {key!r} is a table; all keys stand at the top of the file, in none")
        option = OPTIONS.get(key.replace("-", "_"))
        if option is None or key not in (option.key, option.name):
            raise ConfigError(f"{place}: unknown key {key!r}; {_nearest(key)}")
        place = f"{place}: {option.key}"
        if option.name in found:
            raise ConfigError(f"{place}: it is given twice, as {option.key} and as {option.name}")
        try:
            found[option.name] = _value(option, value), place
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
    return found


def _read_text(path: str, shown: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: there can be no file of such a name
        raise ConfigError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = content.decode("utf-8-sig")  # with the mark that editors on Windows put first
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown}:{line}: is not text in UTF-8") from None
    return text.replace("\r\n", "\n")


def _read_toml(text: str, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).rpartition(" (at ")
        if numbers := re.findall("[0-9]+", place):
            line, column = numbers
        else:  # at the end of the document
            last = text.removesuffix("\n").split("\n")
            line, column = len(last), len(last[-1]) + 1
        raise ConfigError(f"{shown}:{line}:{column}: {message[:1].lower()}{message[1:]}") from None
    except RecursionError:
        raise ConfigError(f"{shown}: is nested too deeply") from None
    except ValueError:  # Python converts no more than 4300 digits
        raise ConfigError(f"{shown}: a number has too many digits") from None


def _line_of(key: str, text: str) -> int:
    """The line where a key stands, as ``key =``, ``key.more =`` or ``[key]``; 0 if that cannot be said.

    TOML's own reader does not tell, but it can be asked: what stands before the key is a document
    that lacks it, unless this line is a part of a string or an array.
    """
    lines = text.split("\n")
    form = re.compile(rf"""\s*\[{{0,2}}\s*(["']?){re.escape(key)}\1\s*[].=]""")
    for number, line in enumerate(lines):
        if form.match(line):
            try:
                if key not in tomllib.loads("\n".join(lines[:number])):
                    return number + 1
            except ValueError:
                pass
    return 0


def _nearest(key: str) -> str:
    keys = [option.key for option in OPTIONS.values()]
    near = difflib.get_close_matches(key.replace("_", "-").lower(), keys, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"


def _value(option: Option, value: Any) -> Any:
    """Take a value of a TOML document for an option.

    Raises:
        ValueError: it is of the wrong type or makes no sense.
    """
    if not option.many:
        return _element(option, value)
    if not isinstance(value, list):
        raise ValueError(f"{_plain(value)!r} is not in an array, like [{_quoted(_plain(value))}]")
    return tuple(_element(option, element) for element in value)


def _element(option: Option, value: Any) -> Any:
    kind, right = KIND.get(type(value), "a date or a time"), KIND[option.kinds[0]]
    if type(value) not in KIND or isinstance(value, list):
        raise ValueError(f"{kind} stands where {right} belongs")
    read = option.parse(_plain(value))  # may find a better reason to refuse it than its type
    if type(value) not in option.kinds:
        shown = _plain(value) if isinstance(value, bool) else repr(value)
        raise ValueError(f"{shown} is {kind}, where {right} belongs")
    return read


# Writing them


def as_toml(settings: Settings) -> str:
    """Settings as a file that :func:`load` reads back to the same; options that are ``None`` are left out."""
    lines = []
    for option in OPTIONS.values():
        value = getattr(settings, option.name)
        if option.many:
            lines.append(f"{option.key} = [{', '.join(_quoted(_plain(one)) for one in value)}]\n")
        elif value is not None:
            plain = _plain(value)
            lines.append(f"{option.key} = {plain if isinstance(value, int | float) else _quoted(plain)}\n")
    return "".join(lines)


def reference() -> str:
    """All options as a table in Markdown."""
    lines = ["| option | | default | SIGHUP |\n", "| --- | --- | --- | --- |\n"]
    for option in OPTIONS.values():
        name = " ".join(dict.fromkeys((option.flag, option.metavar))).strip()
        default = option.unset or f"`{_plain(option.default, option.many)}`"
        lines.append(f"| `{name}` | {option.help} | {default} | {'yes' if option.live else ''} |\n")
    return "".join(lines)


def _plain(value: Any, many: bool = False) -> str:
    """The text of a value, as a person writes it on the command line."""
    if many:
        return " ".join(map(_plain, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and abs(value) >= 2**64:
        return hex(value)  # Python writes no more than 4300 digits, except in hexadecimal
    return str(value)


def _quoted(text: str) -> str:
    """A string of TOML, in ASCII. JSON's are that, but for what it writes as two surrogates, and for DEL."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda character: f"\\U{ord(character[0]):08x}", quoted)
