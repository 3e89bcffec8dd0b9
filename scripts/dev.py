#!/usr/bin/env python3
"""Sets up everything that this repository needs, and runs it. Needs nothing but Python.

    python3 scripts/dev.py serve [ARGUMENT...]   the time servers, until Ctrl-C
    python3 scripts/dev.py test [ARGUMENT...]    the tests; arguments are pytest's
    python3 scripts/dev.py ANYTHING ELSE         hatch, with these arguments

All it makes is in .venv/: a virtual environment with hatch, and hatch's own environments.
The first run takes about half a minute, later ones start at once: what was set up is reused
until a pyproject.toml, a version or the requirements change.

This file must be understood by any Python 3, to tell an old one that it is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
REQUIREMENTS = os.path.join(ROOT, "scripts", "requirements-dev.txt")
HATCH_CONFIG = os.path.join(VENV, "hatch.toml")
HATCH_DATA = os.path.join(VENV, "hatch")
ENVIRONMENT_PYTHON = os.path.join(VENV, "environment-python.txt")
WINDOWS = os.name == "nt"


def main(arguments):
    if sys.version_info < OLDEST:
        return "uloop needs Python %d.%d or later, and this is %d.%d" % (OLDEST + tuple(sys.version_info[:2]))
    command = arguments[0] if arguments else "--help"
    set_up_hatch()
    if command == "serve":
        return run([environment_python(), os.path.join(ROOT, "scripts", "serve.py")] + arguments[1:])
    if command == "test":
        os.chdir(ROOT)
        return run([environment_python(), "-m", "pytest"] + arguments[1:])
    return run(hatch_command(arguments or ["--help"]))


def set_up_hatch():
    """A virtual environment with hatch, and a configuration that is nobody's but this tree's."""
    stamp = os.path.join(VENV, "requirements.stamp")
    wanted = digest([REQUIREMENTS]) + sys.version
    if read(stamp) != wanted:
        say("setting up .venv, once")
        shutil.rmtree(VENV, ignore_errors=True)
        try:
            import venv

            venv.create(VENV, with_pip=True)
        except (ImportError, subprocess.CalledProcessError):
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit("this Python lacks venv; on Debian and Ubuntu: apt-get install python3-venv")
        check(
            [
                venv_program("python"),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "-r",
                REQUIREMENTS,
            ]
        )
        write(HATCH_CONFIG, "")
        write(stamp, wanted)
    os.environ["HATCH_CONFIG"] = HATCH_CONFIG
    os.environ["HATCH_DATA_DIR"] = HATCH_DATA
    # uv, which hatch installs with, would trust a list of its own, and fail behind a company's proxy.
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    # What is set up must not depend on an environment that happens to be active, or be seen by it.
    for name in ("VIRTUAL_ENV", "HATCH_ENV", "HATCH_ENV_ACTIVE", "PYTHONPATH", "PYTHONHOME"):
        os.environ.pop(name, None)
    # hatch does not notice a new console script, version or range of a sibling; we do.
    stamp = os.path.join(VENV, "packages.stamp")
    wanted = digest(package_definitions())
    if read(stamp) != wanted:
        forget_environments()
        write(stamp, wanted)


def environment_python():
    """The Python of hatch's default environment, where the three packages are installed."""
    python = read(ENVIRONMENT_PYTHON)
    if not os.path.exists(python):
        say("installing the packages")
        forget_environments()  # an earlier attempt may have been cut short
        check(hatch_command(["env", "create"]))
        found = subprocess.check_output(hatch_command(["env", "find"]), cwd=ROOT, universal_newlines=True)
        python = program_of(found.strip().splitlines()[-1], "python")
        write(ENVIRONMENT_PYTHON, python)
    return python


def package_definitions():
    yield os.path.join(ROOT, "pyproject.toml")
    packages = os.path.join(ROOT, "packages")
    for folder, folders, files in os.walk(packages):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            if name in ("pyproject.toml", "__about__.py"):
                yield os.path.join(folder, name)


def hatch_command(arguments):
    return [venv_program("hatch")] + arguments


def venv_program(name):
    return program_of(VENV, name)


def program_of(environment, name):
    return (
        os.path.join(environment, "Scripts", name + ".exe")
        if WINDOWS
        else os.path.join(environment, "bin", name)
    )


def run(command):
    """Become the command, so that signals and exit codes are its own."""
    sys.stdout.flush()
    if not WINDOWS:
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # Ctrl-C goes to the command as well, which ends as it sees fit


def check(command):
    """Run a step of the set-up; what it prints is shown only if it fails."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    output = process.communicate()[0]
    if process.returncode:
        sys.stderr.write(output)
        sys.exit("setting up failed: %s" % " ".join(command))


def digest(paths):
    result = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            result.update(file.read())
    return result.hexdigest()


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def forget_environments():
    shutil.rmtree(os.path.join(HATCH_DATA, "env"), ignore_errors=True)
    if os.path.exists(ENVIRONMENT_PYTHON):
        os.remove(ENVIRONMENT_PYTHON)


def say(text):
    sys.stderr.write("dev.py: %s\n" % text)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
