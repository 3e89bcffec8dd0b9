"""The script that sets everything up: what can be tried without setting it up again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no name for each Python version", allow_module_level=True)

DEV = Path(__file__).resolve().parent.parent / "scripts" / "dev.py"
TOO_OLD = ["python2.7", *(f"python3.{minor}" for minor in range(6, 11))]


def find(name: str) -> str | None:
    """A Python by its name, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    folders = [str(folder) for folder in pyenv.glob("*/bin")]
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))


@pytest.mark.parametrize("name", TOO_OLD)
def test_a_python_that_is_too_old_gets_one_line(name: str) -> None:
    python = find(name)
    if python is None:
        pytest.skip(f"there is no {name} here")
    result = subprocess.run([python, str(DEV), "test"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line == f"uloop needs Python 3.11 or later, and this is {name.removeprefix('python')}"
