"""Where options are given, which place wins, and what is said of those that are bad."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from uloop_reactor import available_backends
from uloop_servers import Endpoint
from uloop_servers.config import (
    DEFAULT_ENDPOINTS,
    OPTIONS,
    ConfigError,
    Settings,
    add_options,
    as_toml,
    load,
    reference,
    renew,
)

# For each option: what is given on the command line, in the environment and in the file, and the value.
GOOD: list[tuple[str, str, str, Any]] = [
    ("endpoints", "ntp://[::1]:0", '["ntp://[::1]:0"]', (Endpoint("ntp", "::1", 0),)),
    ("workers", "1024", "1024", 1024),
    ("metrics", "9123", "9123", ("127.0.0.1", 9123)),
    ("metrics", "localhost:0", '"localhost:0"', ("localhost", 0)),
    ("metrics", "[::1]:65535", '"[::1]:65535"', ("::1", 65535)),
    ("rate_limit", "0", "0", 0.0),
    ("rate_limit", "2.5", "2.5", 2.5),
    ("rate_limit", "1e3", "1e3", 1000.0),
    ("rate_burst", "1", "1", 1),
    ("allow", "10.0.0.0/8", '["10.0.0.0/8"]', (ipaddress.ip_network("10.0.0.0/8"),)),
    ("deny", "2001:db8::1", '["2001:db8::1"]', (ipaddress.ip_network("2001:db8::1/128"),)),
    ("max_connections", "100000", "100000", 100_000),
    ("max_connections_per_source", "7", "7", 7),
    ("idle_timeout", "0.5", "0.5", 0.5),
    ("write_timeout", "60", "60", 60.0),
    ("daytime_format", "long", '"long"', "long"),
    ("stratum", "15", "15", 15),
    ("follow", "localhost", '"localhost"', ("localhost", 123)),
    ("follow", "[::1]", '"[::1]"', ("::1", 123)),
    ("follow", "127.0.0.1:11123", '"127.0.0.1:11123"', ("127.0.0.1", 11123)),
    ("grace", "0", "0", 0.0),
    ("user", "nobody:nogroup", '"nobody:nogroup"', "nobody:nogroup"),
    ("user", "1000", "1000", "1000"),
    ("log_format", "json", '"json"', "json"),
    ("log_level", "debug", '"debug"', "debug"),
    ("backend", available_backends()[-1], f'"{available_backends()[-1]}"', available_backends()[-1]),
]
SWITCHES = [option for option in OPTIONS.values() if option.kinds == (bool,)]

# Text that is bad in all three places, and what is said of it.
BAD: list[tuple[str, str, str]] = [
    ("endpoints", "ftp://127.0.0.1:21", "'ftp://127.0.0.1:21' has the unknown scheme 'ftp'"),
    ("workers", "0", "'0' is not a number of workers from 1 to 1024"),
    ("workers", "1025", "'1025' is not a number of workers"),
    ("workers", "two", "'two' is not a number of workers"),
    ("workers", "1.5", "'1.5' is not a number of workers"),
    ("workers", "٣", "is not a number of workers"),
    ("metrics", "127.0.0.1", "'127.0.0.1' is not a port, or an address and a port, like 9123 or [::1]:9123"),
    ("metrics", "65536", "'65536' has the port 65536; ports are 0 to 65535"),
    ("metrics", "[localhost]:1", "'[localhost]:1' has 'localhost' in brackets, which is not an IPv6 address"),
    ("metrics", "::1:9123", "'::1:9123' is not a port"),
    ("rate_limit", "fast", "'fast' is not a number of answers a second, like 10, or 0 for no limit"),
    ("rate_limit", "-1", "'-1' is not a number of answers"),
    ("rate_limit", "nan", "'nan' is not a number of answers"),
    ("rate_limit", "inf", "'inf' is not a number of answers"),
    ("rate_limit", "1e999", "'1e999' is not a number of answers"),
    ("rate_limit", "1e-300", "'1e-300' is not a number of answers"),
    ("rate_limit", "1_000", "'1_000' is not a number of answers"),
    ("rate_burst", "0", "'0' is not a number of answers from 1 to 1000000"),
    ("allow", "10.0.0.1/8", "'10.0.0.1/8' is an address within a network; the network is 10.0.0.0/8"),
    ("allow", "10.0.0/8", "'10.0.0/8' is not an address or a network like 192.0.2.7, 10.0.0.0/8"),
    ("deny", "localhost", "'localhost' is not an address or a network"),
    ("deny", "fe80::1%eth0", "'fe80::1%eth0' is not an address or a network"),
    ("max_connections", "0", "'0' is not a number of connections from 1"),
    ("max_connections_per_source", "-5", "'-5' is not a number of connections from 1"),
    ("idle_timeout", "0", "'0' is not a number of seconds above 0 to 1000000, like 300"),
    ("write_timeout", "1e7", "'1e7' is not a number of seconds"),
    ("utc", "maybe", "'maybe' is neither true nor false"),
    ("daytime_format", "nicely", "'nicely' is not a format of Daytime; known are xinetd, "),
    ("stratum", "16", "'16' is not an NTP stratum from 1 to 15"),
    ("follow", "11123", "'11123' is not a host, or a host and a port"),
    ("follow", "127.0.0.1:0", "'127.0.0.1:0' has the port 0; ports are 1 to 65535"),
    ("grace", "-1", "'-1' is not a number of seconds from 0 to 1000000, like 10"),
    ("user", "a:b:c", "'a:b:c' is not a user or a user and a group, like nobody"),
    ("user", ":nogroup", "':nogroup' is not a user"),
    ("log_format", "xml", "'xml' is not a log format; known are text, json"),
    ("log_level", "loud", "'loud' is not a log level; known are debug, info, warning, error"),
    ("backend", "carrier-pigeon", "'carrier-pigeon' is not a backend of this platform; known are"),
]


class RefusedError(Exception):
    """What argparse would have printed."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise RefusedError(message)


def parse(*arguments: str) -> argparse.Namespace:
    parser = Parser(allow_abbrev=False)
    add_options(parser)
    return parser.parse_args(arguments)


def settings_of(*arguments: str, **environment: str) -> Settings:
    return load(parse(*arguments), environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "uloop.toml"


def as_arguments(name: str, text: str) -> list[str]:
    return [text] if name == "endpoints" else [f"{OPTIONS[name].flag}={text}"]


def test_the_defaults() -> None:
    settings = settings_of()
    assert settings == Settings()
    assert settings.endpoints == DEFAULT_ENDPOINTS
    assert [str(endpoint) for endpoint in DEFAULT_ENDPOINTS] == [
        "tcp://127.0.0.1:3333",
        "udp://127.0.0.1:3333",
    ]
    assert settings.rate_limit is None
    assert settings.idle_timeout == 300
    assert not settings.given


@pytest.mark.parametrize(("name", "text", "toml", "value"), GOOD)
def test_each_option_in_each_place(name: str, text: str, toml: str, value: Any, file: Path) -> None:
    option = OPTIONS[name]
    for key in {option.key, option.name}:
        file.write_text(f"{key} = {toml}\n")
        for settings in (
            settings_of(*as_arguments(name, text)),
            settings_of(**{option.variable: text}),
            settings_of("--config", str(file)),
        ):
            assert getattr(settings, name) == value
            assert settings.given == {name}
            assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.key)
def test_switches(option: Any, file: Path) -> None:
    def value(*arguments: str, **environment: str) -> Any:
        return getattr(settings_of(*arguments, **environment), option.name)

    assert value() is False
    assert value(option.flag) is True
    for text, expected in [("true", True), ("1", True), ("no", False), ("0", False), ("off", False)]:
        assert value(**{option.variable: text}) is expected
    file.write_text(f"{option.key} = true\n")
    assert value("--config", str(file)) is True
    assert value("--config", str(file), f"--no-{option.key}") is False


def test_every_option_is_tried_here() -> None:
    assert {name for name, *_ in GOOD} | {option.name for option in SWITCHES} == set(OPTIONS)
    assert {name for name, *_ in BAD} | {"trust_local_clock"} == set(OPTIONS)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text('rate-limit = 1\nrate-burst = 1\ngrace = 1\ndeny = ["192.0.2.1"]\n')
    environment = {"ULOOP_CONFIG": str(file), "ULOOP_RATE_BURST": "2", "ULOOP_GRACE": "2"}
    settings = settings_of("--grace", "3", "--deny", "192.0.2.3", **environment)
    assert (settings.rate_limit, settings.rate_burst, settings.grace) == (1, 2, 3)
    assert settings.deny == (ipaddress.ip_network("192.0.2.3"),)  # a list takes the place of another


def test_the_flag_names_the_file_even_if_the_environment_does(file: Path) -> None:
    file.write_text("workers = 3\n")
    assert settings_of("--config", str(file), ULOOP_CONFIG="/no/such/file").workers == 3


def test_lists() -> None:
    networks = tuple(map(ipaddress.ip_network, ["10.0.0.0/8", "::1", "192.0.2.0/24"]))
    flags = [f"--allow={network}" for network in networks]
    assert settings_of(*flags).allow == networks
    assert settings_of(ULOOP_ALLOW="10.0.0.0/8, ::1\n192.0.2.0/24,").allow == networks
    endpoints = settings_of(ULOOP_ENDPOINTS=" ntp://127.0.0.1  tcp://[::1]:1 ").endpoints
    assert [str(endpoint) for endpoint in endpoints] == ["ntp://127.0.0.1:123", "tcp://[::1]:1"]


def test_an_empty_variable_is_none() -> None:
    empty = {option.variable: " " for option in OPTIONS.values()}
    assert settings_of(**empty, ULOOP_CONFIG="").given == frozenset()


@pytest.mark.parametrize(("name", "text", "sentence"), BAD)
def test_bad_text_in_each_place(name: str, text: str, sentence: str, file: Path) -> None:
    option = OPTIONS[name]
    with pytest.raises(ConfigError) as refusal:
        settings_of(**{option.variable: text})
    assert str(refusal.value).startswith(f"{option.variable}: ")
    assert sentence in str(refusal.value)

    quoted = f'"{text}"'
    file.write_text(f"# one\n\n{option.key} = {f'[{quoted}]' if option.many else quoted}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        settings_of("--config", str(file))
    assert str(refusal.value).startswith(f"{file}:3: {option.key}: ")
    assert sentence in str(refusal.value)

    if option not in SWITCHES:
        with pytest.raises(RefusedError) as refused:
            parse(*as_arguments(name, text))
        assert sentence in str(refused.value)


@pytest.mark.parametrize(("variable", "text"), [("ULOOP_USER", "a\nb"), ("ULOOP_GRACE", "1\u20282\x85")])
def test_one_line_whatever_is_given(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings_of(**{variable: text})
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ULOOP_RATELIMIT", "did you mean ULOOP_RATE_LIMIT?"),
        ("ULOOP_RATE-LIMIT", "did you mean ULOOP_RATE_LIMIT?"),
        ("ULOOP_Stratum", "did you mean ULOOP_STRATUM?"),
        ("ULOOP_CONFIGS", "did you mean ULOOP_CONFIG?"),
        ("ULOOP_", "known are ULOOP_CONFIG, ULOOP_ENDPOINTS, ULOOP_WORKERS, "),
        ("ULOOP_SUPPORT", "unknown variable; "),
    ],
)
def test_an_unknown_variable(variable: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings_of(**{variable: "1"})
    assert str(refusal.value).startswith(f"{variable}: unknown variable; ")
    assert hint in str(refusal.value)
    assert settings_of(**{variable: " "}) == Settings()  # an empty one counts as unset


@pytest.mark.parametrize(
    "variable",
    [
        *("ULOOP_PORT", "ULOOP_PORT_123_UDP", "ULOOP_PORT_123_UDP_ADDR", "ULOOP_SERVICE_HOST"),
        *("ULOOP_SERVICE_PORT", "ULOOP_SERVICE_PORT_NTP", "ULOOP_SERVERS_SERVICE_HOST", "ULOOP_SERVERS_PORT"),
        *("ULOOPING", "MY_ULOOP_RATELIMIT"),
    ],
)
def test_variables_that_are_not_for_us(variable: str) -> None:
    """Kubernetes has such for a service called uloop, or uloop-servers."""
    assert settings_of(**{variable: "tcp://10.0.0.1:123"}) == Settings()


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (
            ("--follow=localhost", "--trust-local-clock"),
            {},
            "--follow: it excludes trust-local-clock: either that daemon says how good the clock is, "
            "or you do",
        ),
        (
            ("--follow=localhost",),
            {"ULOOP_STRATUM": "1"},
            "ULOOP_STRATUM: it excludes follow: the stratum is that of the daemon which is followed",
        ),
    ],
)
def test_what_excludes_each_other(
    arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings_of(*arguments, **environment)
    assert str(refusal.value) == sentence
    assert refusal.value.usage == (not environment)


def test_a_flag_that_says_no_ends_a_contradiction() -> None:
    settings = settings_of("--follow=localhost", "--no-trust-local-clock", ULOOP_TRUST_LOCAL_CLOCK="true")
    assert settings.follow == ("localhost", 123)


def test_the_guard_goes_by_it() -> None:
    settings = settings_of("--rate-limit=3", "--rate-burst=4", "--deny=::1", "--max-connections-per-source=5")
    policy = settings.policy
    assert (policy.rate_limit, policy.rate_burst, policy.max_connections_per_source) == (3, 4, 5)
    assert (policy.allow, policy.deny) == ((), settings.deny)


def test_what_a_running_server_takes_over() -> None:
    old = settings_of("--rate-limit=1", "--workers=2")
    new = settings_of("--rate-limit=5", "--workers=3", "--log-format=json", "--utc")
    renewed, restart = renew(old, new)
    assert (renewed.rate_limit, renewed.log_format) == (5, "json")
    assert (renewed.workers, renewed.utc) == (2, False)
    assert restart == ["workers", "utc"]
    assert renew(old, old) == (old, [])


def test_what_can_change_while_it_runs() -> None:
    assert {option.key for option in OPTIONS.values() if option.live} == {
        *("rate-limit", "rate-burst", "allow", "deny", "max-connections", "max-connections-per-source"),
        *("idle-timeout", "write-timeout", "log-format", "log-level"),
    }


# Writing


@pytest.mark.parametrize(("name", "text", "toml", "value"), GOOD)
def test_written_and_read_back(name: str, text: str, toml: str, value: Any, file: Path) -> None:
    settings = settings_of(*as_arguments(name, text))
    file.write_text(as_toml(settings), encoding="utf-8")
    assert settings_of("--config", str(file)) == settings


def test_written_in_ascii(file: Path) -> None:
    settings = Settings(user='"Zoë"\\\x7f𝄞')
    assert as_toml(settings).isascii()
    file.write_text(as_toml(settings))
    assert settings_of("--config", str(file)) == settings


def test_the_defaults_as_a_file() -> None:
    lines = as_toml(Settings()).splitlines()
    assert lines[:2] == ['endpoints = ["tcp://127.0.0.1:3333", "udp://127.0.0.1:3333"]', "workers = 1"]
    assert "idle-timeout = 300" in lines
    assert "allow = []" in lines
    assert "utc = false" in lines
    assert not [line for line in lines if line.startswith("rate-limit")]  # it has none


def test_all_options_are_in_the_help_and_in_the_reference() -> None:
    parser = Parser(prog="x")
    add_options(parser)
    for text in (parser.format_help(), reference()):
        assert all(option.flag in text for option in OPTIONS.values())
    assert len(reference().splitlines()) == 2 + len(OPTIONS)
    assert "| `--idle-timeout SECONDS` |" in reference()
    assert "| `300` | yes |" in reference()


def test_the_readme_has_the_same_table() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert reference() in readme
