"""The first program of each README runs as it is printed there."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIME = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?"

#: what the program answers to b"hello"
ANSWERS = {
    "README.md": TIME,
    "packages/uloop-events/README.md": rb"hello",
    "packages/uloop-reactor/README.md": rb"hello",
    "packages/uloop-servers/README.md": TIME,
}


def first_program(readme: str) -> str:
    text = (ROOT / readme).read_text(encoding="utf-8")
    [program] = re.findall(r"<!-- first program -->\n```python\n(.*?)```", text, re.DOTALL)
    return str(program)


@pytest.mark.parametrize("readme", ANSWERS)
def test_it_answers(start_program: Callable[..., Any], readme: str) -> None:
    # it says its port on standard output, and so that the fixture sees it, that is made the other one
    program = start_program("-c", "import sys; sys.stdout = sys.stderr\n" + first_program(readme))
    port = int(re.findall(r"\d+", program.next_line())[-1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", port))
        for _ in range(3):
            sock.send(b"hello")
            assert re.fullmatch(ANSWERS[readme], sock.recv(100))
    assert len(program.lines) == 1, program.lines


@pytest.mark.parametrize("readme", ANSWERS)
def test_it_is_short(readme: str) -> None:
    """About ten lines; blank ones do not count."""
    assert len(first_program(readme).split("\n\n")) <= 4
    assert len([line for line in first_program(readme).splitlines() if line]) <= 13
