"""Importing the package must stay cheap."""

from __future__ import annotations

import subprocess
import sys

CODE = "import sys, uloop_events; print([name for name in sys.modules if name.split('.')[0] == 'asyncio'])"


def test_importing_the_package_does_not_import_asyncio() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
