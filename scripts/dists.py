"""Builds every wheel and sdist, installs each alone into a clean environment, and uses it there.

A package that leans on something it does not declare fails here. The siblings that it does
declare come from the same build, by path: an index may have others of the same name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("uloop-events", "uloop-reactor", "uloop-servers")
if sys.platform == "win32":
    NEW_GROUP, TERMINATE = subprocess.CREATE_NEW_PROCESS_GROUP, signal.CTRL_BREAK_EVENT
else:
    NEW_GROUP, TERMINATE = 0, signal.SIGTERM
#: modules that need another platform say so when they are used, not when they are imported
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(("__main__", ".testing")):
        importlib.import_module(module.name)
for name in package.__all__:
    getattr(package, name)
"""
TESTS = {
    "uloop-events": ["test_catalogue.py", "test_fairness.py", "test_event_mask.py"],
    "uloop-reactor": ["test_ancestor_interface.py", "test_stream.py", "test_datagram.py", "test_listener.py"],
    "uloop-servers": ["test_command_line.py", "test_open_server.py", "test_ntp.py", "test_admin_http.py"],
}
TEST_TOOLS = [f"{tool}=={version(tool)}" for tool in ("pytest", "pytest-timeout")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dists = work / "dist"
        for package in PACKAGES:
            uv("build", "--quiet", "--out-dir", dists, ROOT / "packages" / package)
        for package in PACKAGES:
            siblings = work / f"siblings-of-{package}.txt"
            others = [name for name in PACKAGES if name != package]
            siblings.write_text("".join(f"{name} @ {find(dists, name, 'whl').as_uri()}\n" for name in others))
            sdist = find(dists, package, "tar.gz")
            with tarfile.open(sdist) as archive:
                archive.extractall(work / "sdists", filter="data")
            tests = next((work / "sdists").glob(f"{package.replace('-', '_')}-*/tests"))
            for artifact in (find(dists, package, "whl"), sdist):
                print(f"{artifact.name}: installed alone", flush=True)
                environment = work / f"{artifact.name}-environment"
                python = install(environment, artifact, siblings)
                run(python, "-I", "-c", IMPORT_ALL, package.replace("-", "_"), cwd=work)
                if package == "uloop-servers":
                    serve(python)
                # Whether the package is whole, the tests that go through most of it tell; all of
                # them run on the sources, on every Python.
                some = [tests / name for name in TESTS[package]]
                run(python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", *some, cwd=work)


def install(environment: Path, artifact: Path, siblings: Path) -> Path:
    """A clean environment with this file and what it requires; its Python.

    The siblings are constraints: where each is to be had, if it is required at all.
    """
    uv("venv", "--quiet", "--python", sys.executable, environment)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("pip", "install", "--quiet", "--python", python, "--constraints", siblings, artifact)
    uv("pip", "check", "--quiet", "--python", python)
    uv("pip", "install", "--quiet", "--python", python, *TEST_TOOLS)
    return python


def serve(python: Path) -> None:
    """Serve the time by the installed command, ask it, and end it as an operator would."""
    command = python.parent / ("uloop-servers.exe" if os.name == "nt" else "uloop-servers")
    server = subprocess.Popen(
        [command, "serve", "tcp://127.0.0.1:0", "udp://127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
        creationflags=NEW_GROUP,
    )
    try:
        assert server.stderr is not None
        serving = (line for line in server.stderr if ": serving " in line)  # there may be warnings as well
        for line in islice(serving, 2):
            run(command, "ask", line.split()[-1])
    finally:
        server.send_signal(TERMINATE)
        exit_code = server.wait(30)
    if exit_code:
        sys.exit(f"uloop-servers ended with {exit_code}")


def find(dists: Path, package: str, ending: str) -> Path:
    return next(dists.glob(f"{package.replace('-', '_')}-*.{ending}"))


def uv(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "uv", *arguments)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    result = subprocess.run([str(part) for part in command], cwd=cwd)
    if result.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    main()
