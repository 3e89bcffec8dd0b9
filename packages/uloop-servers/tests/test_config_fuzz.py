"""No text, and no file, makes the configuration fail in a way that is not documented."""

from __future__ import annotations

import argparse
import string
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the texts are made up by Hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from uloop_servers.config import OPTIONS, ConfigError, Option, as_toml, load

QUICK = settings(deadline=None, database=None, max_examples=500)

TEXTS = (
    st.text(st.characters())  # surrogates, too
    | st.text("0123456789.:[]/%e+-x")
    | st.from_regex(r"\[[0-9a-f:.%]*\](:[0-9]*)?", fullmatch=True)
    | st.from_regex(r"[a-z+]{1,7}://[0-9a-z.:\[\]]*", fullmatch=True)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.ip_addresses().map(str)
)

KEYS = st.sampled_from([option.key for option in OPTIONS.values()]) | st.text(string.ascii_letters + "-_.")
VALUES = st.sampled_from(
    [
        "true",
        "1",
        "-1",
        "1.5",
        "nan",
        '"x"',
        '"::1"',
        "'''\n'''",
        "[]",
        "[1]",
        '["::1"]',
        "{}",
        "1979-05-27",
        "[",
        "",
    ]
)
STATEMENTS = st.tuples(KEYS, VALUES).map(" = ".join) | st.sampled_from(
    ["[a]", "[[b]]", "#", '"""', "[allow]"]
)
DOCUMENTS = st.lists(STATEMENTS).map("\n".join).map(str.encode) | st.text().map(str.encode) | st.binary()


@QUICK
@given(st.sampled_from(list(OPTIONS.values())), TEXTS)
def test_any_text_of_an_option(option: Option, text: str) -> None:
    try:
        option.parse(text)
    except ValueError as error:
        said = str(error)
    else:
        return
    assert len(said.splitlines()) == 1
    assert repr(text) in said


@QUICK
@given(DOCUMENTS)
def test_any_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "any.toml")
        file.write_bytes(content)
        try:
            read = load(argparse.Namespace(config=str(file)), {})
        except ConfigError as error:
            said = str(error)
        else:
            file.write_text(as_toml(read))
            assert load(argparse.Namespace(config=str(file)), {}) == read
            return
        assert len(said.splitlines()) == 1
        assert said.startswith(f"{file}:")
