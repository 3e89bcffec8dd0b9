"""A configuration file: what it comes to, and one line, with its place, for whatever is wrong in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
from uloop_servers.config import (
    BAD_CONFIGURATION,
    ConfigError,
    Settings,
    as_toml,
    check_config,
    load,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "uloop.toml"


def complaint(file: Path, content: str | bytes) -> str:
    """What is said of a file, without the file's name and the ``:`` after it."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as refusal:
        load(argparse.Namespace(config=str(file)), {})
    text = str(refusal.value)
    assert text.startswith(f"{file}:")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{file}:")


TOP = "is a table; all keys stand at the top of the file, in none"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # the type
        ('workers = "5"', "1: workers: '5' is a string, where a whole number belongs"),
        ("workers = 2.0", "1: workers: 2.0 is a number, where a whole number belongs"),
        ("workers = true", "1: workers: 'true' is not a number of workers from 1 to 1024"),
        ("workers = [1]", "1: workers: an array stands where a whole number belongs"),
        ('rate-limit = "5"', "1: rate-limit: '5' is a string, where a number belongs"),
        ("rate-limit = nan", "1: rate-limit: 'nan' is not a number of answers a second, like 10, or 0 for n"),
        ("rate-limit = -inf", "1: rate-limit: '-inf' is not a number of answers"),
        ("grace = 07:32:00", "1: grace: a date or a time stands where a number belongs"),
        ("utc = 1", "1: utc: 1 is a whole number, where a boolean (true or false) belongs"),
        ('utc = "true"', "1: utc: 'true' is a string, where a boolean (true or false) belongs"),
        ("user = true", "1: user: true is a boolean (true or false), where a string belongs"),
        ("metrics = 9123.0", "1: metrics: 9123.0 is a number, where a string belongs"),
        ('allow = "10.0.0.0/8"', "1: allow: '10.0.0.0/8' is not in an array, like [\"10.0.0.0/8\"]"),
        ('allow = [["::1"]]', "1: allow: an array stands where a string belongs"),
        ("allow = [1]", "1: allow: '1' is not an address or a network like"),
        ("endpoints = []", "1: endpoints: the list is empty, so there is nothing to serve"),
        (f"workers = 0x{'f' * 5000}", "1: workers: '0xffff"),
        # the key
        ("rate-limt = 1", "1: unknown key 'rate-limt'; did you mean rate-limit?"),
        ("Rate_Limit = 1", "1: unknown key 'Rate_Limit'; did you mean rate-limit?"),
        (
            "max_connections-per_source = 1",
            "1: unknown key 'max_connections-per_source'; did you mean max-conn",
        ),
        ("zzz = 1", "1: unknown key 'zzz'; known are endpoints, workers, metrics, "),
        ("config = 'x'", "1: unknown key 'config'; "),
        ('"a\\nb" = 1', " unknown key 'a\\nb'; "),
        (
            "rate-limit = 1\nrate_limit = 2",
            "2: rate-limit: it is given twice, as rate-limit and as rate_limit",
        ),
        ("[guard]\nrate-limit = 1", f"1: 'guard' {TOP}"),
        ("utc = true\n\n[[guard]]\nrate-limit = 1", f"3: 'guard' {TOP}"),
        ("\nguard.rate = 1", f"2: 'guard' {TOP}"),
        ('"rate-limit" . x = 1', f"1: 'rate-limit' {TOP}"),
        ("guard = {rate = 1}", f"1: 'guard' {TOP}"),
        # the line
        ("\n \t'rate-limit'\t= 'x'", "2: rate-limit: 'x' is not"),
        ("\r\n\r\nrate-limit = 'x'\r\n", "3: rate-limit: 'x' is not"),
        ('# rate-limit = 1\nrate-limit="x"', "2: rate-limit: 'x' is not"),
        ('backend = """\\\nselect"""\nrate-limit = "x"', "3: rate-limit: 'x' is not"),
        ("allow = [\n'::1',\n'x']", "1: allow: 'x' is not"),
        ("user = '''\nuser = 1'''", "1: user: 'user = 1' is not a user"),
        # TOML
        ("workers = ", "1:11: invalid value"),
        ("utc = true\nworkers = 1 1\n", "2:13: expected newline or end of document after a statement"),
        ("utc = true\nutc = true\n", "2:11: cannot overwrite a value"),
        ("user = 'x\n", "1:10: "),
        (f"workers = {'[' * 100_000}", " is nested too deeply"),
        (f"workers = {'9' * 5000}", " a number has too many digits"),
        (b"utc = true\nuser = '\xff'", "2: is not text in UTF-8"),
    ],
)
def test_what_is_wrong_in_a_file(content: str | bytes, expected: str, file: Path) -> None:
    assert complaint(file, content).startswith(expected)


@pytest.mark.parametrize("before", ['user = """\\\nrate-limit=1"""', "allow = [\n# rate-limit = 1\n]"])
def test_what_only_looks_like_the_key(before: str, file: Path) -> None:
    content = before + "\nrate-limit = 'x'"
    assert complaint(file, content).startswith(f"{content.count(chr(10)) + 1}: rate-limit: ")


def test_with_the_mark_of_windows_editors(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfworkers = 7\r\n")
    assert load(argparse.Namespace(config=str(file)), {}).workers == 7


@pytest.mark.parametrize("name", ["missing.toml", "missing/uloop.toml", "with\0nul", "with\nline.toml"])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match=": cannot be read: ") as refusal:
        load(argparse.Namespace(), {"ULOOP_CONFIG": path})
    assert len(str(refusal.value).splitlines()) == 1


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: (Is a directory|Permission denied)"):
        load(argparse.Namespace(config=str(tmp_path)), {})


def test_a_good_file_is_shown_with_the_defaults(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("rate_limit = 5\n")
    monkeypatch.setenv("ULOOP_RATE_LIMIT", "nonsense")  # is not what is checked
    assert check_config(str(file)) == 0
    output, errors = capsys.readouterr()
    assert output == as_toml(Settings(rate_limit=5))
    assert "rate-limit = 5\n" in output
    assert not errors


def test_a_bad_file_is_one_line_and_78(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("\n\n\n\n\n\nrate-limit = 'fast'\n")
    assert check_config(str(file)) == BAD_CONFIGURATION == 78
    output, errors = capsys.readouterr()
    assert not output
    assert errors == (
        f"uloop-servers: error: {file}:7: rate-limit: 'fast' is not a number of answers a second, like 10, "
        "or 0 for no limit\n"
    )


def test_a_bad_file_and_nobody_to_tell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("zzz = 1\n")
    monkeypatch.setattr(sys, "stderr", None)
    assert check_config(str(file)) == BAD_CONFIGURATION
