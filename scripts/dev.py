#!/usr/bin/env python3
"""Sets up everything that this repository needs, and runs it. Needs nothing but Python.

    python3 scripts/dev.py serve [ARGUMENT...]   the time servers, until Ctrl-C
    python3 scripts/dev.py test [ARGUMENT...]    the tests; arguments are pytest's
    python3 scripts/dev.py ANYTHING ELSE         hatch, with these arguments

All it makes is in .venv/: a virtual environment with hatch, and hatch's own environments.
(uv, which installs them, keeps what it downloads in the user's cache.)
The first run takes about half a minute, later ones start at once: what was set up is reused
until a pyproject.toml, a version or the requirements change.

This file must be understood by any Python 3, to tell an old one that it is too old.
"""

import signal

# Ctrl-C during the imports ends us without a traceback; from main on it does so in order.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
REQUIREMENTS = os.path.join(ROOT, "scripts", "requirements-dev.txt")
LOCK = os.path.join(VENV, "lock")
HATCH_CONFIG = os.path.join(VENV, "hatch.toml")
HATCH_DATA = os.path.join(VENV, "hatch")
ENVIRONMENT_PYTHON = os.path.join(VENV, "environment-python.txt")
WINDOWS = os.name == "nt"


def main(arguments):
    if sys.version_info < OLDEST:
        return "uloop needs Python %d.%d or later, and this is %d.%d" % (OLDEST + tuple(sys.version_info[:2]))
    command = arguments[0] if arguments else "--help"
    set_environment()
    with locked():
        set_up_hatch()
        python = environment_python() if command in ("serve", "test") else None
    if command == "serve":
        return run([python, os.path.join(ROOT, "scripts", "serve.py")] + arguments[1:])
    if command == "test":
        os.chdir(ROOT)
        return run([python, "-m", "pytest"] + arguments[1:])
    return run(hatch_command(arguments or ["--help"]))


def set_environment():
    """What we install must not depend on what happens to be active, nor be hidden by it."""
    for name in ("VIRTUAL_ENV", "HATCH_ENV", "HATCH_ENV_ACTIVE", "PYTHONPATH", "PYTHONHOME"):
        os.environ.pop(name, None)
    os.environ["HATCH_CONFIG"] = HATCH_CONFIG
    os.environ["HATCH_DATA_DIR"] = HATCH_DATA
    # uv would trust a list of its own, and fail behind a company's proxy.
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault("UV_CACHE_DIR", os.path.join(VENV, "uv-cache"))


@contextlib.contextmanager
def locked():
    """One set-up at a time: a second dev.py waits here until the first has done it for both."""
    if not os.path.isdir(VENV):
        os.makedirs(VENV)
    with open(LOCK, "w") as lock:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:
                    pass  # it gives up after ten seconds
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up_hatch():
    """A virtual environment with hatch, and a configuration that is nobody's but this tree's."""
    # Environments hold absolute paths: one that was moved or copied is not ours.
    here = sys.version + ROOT
    stamp = os.path.join(VENV, "requirements.stamp")
    wanted = digest([REQUIREMENTS]) + here
    if read(stamp) != wanted:
        say("setting up .venv, once")
        clear_venv()
        try:
            import ensurepip  # noqa: F401
            import venv
        except ImportError:
            sys.exit("this Python lacks venv; on Debian and Ubuntu: apt-get install python3-venv")
        venv.create(VENV, with_pip=True)
        pip = [venv_program("python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        check(pip + ["-r", REQUIREMENTS])
        write(HATCH_CONFIG, "")
        write(stamp, wanted)
    # hatch does not notice a new console script, version or range of a sibling; we do.
    stamp = os.path.join(VENV, "packages.stamp")
    wanted = digest(package_definitions()) + here
    if read(stamp) != wanted:
        forget_environments()
        write(stamp, wanted)


def clear_venv():
    for name in os.listdir(VENV):
        path = os.path.join(VENV, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif path != LOCK:
            os.remove(path)


def environment_python():
    """The Python of hatch's default environment, where the three packages are installed."""
    python = read(ENVIRONMENT_PYTHON)
    if not os.path.exists(python):
        say("installing the packages")
        check(hatch_command(["env", "remove", "default"]))  # an earlier attempt may have been cut short
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
    if sys.stdout is not None:
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
    try:
        output = process.communicate()[0]
    except BaseException:
        process.kill()
        process.wait()
        raise
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
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
