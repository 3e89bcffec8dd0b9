"""Runs mypy for each platform: what Linux never executes must be right on Windows and macOS too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = ("linux", "win32", "darwin")


def main() -> int:
    # One run each, for mypy wants module names to be unique, and each has a conftest.py.
    trees = [*sorted((ROOT / "packages").iterdir()), ROOT / "tests-integration", ROOT / "scripts"]
    failed = False
    for platform in PLATFORMS:
        for tree in trees:
            cache = ROOT / ".mypy_cache" / platform
            command = [
                sys.executable,
                "-m",
                "mypy",
                "--platform",
                platform,
                "--cache-dir",
                str(cache),
                str(tree),
            ]
            print(platform, tree.name, end=": ", flush=True)
            failed |= subprocess.run(command, cwd=ROOT).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
