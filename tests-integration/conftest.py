"""Servers as processes, on every backend that this platform has."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import pytest
from uloop_reactor import available_backends

READY = re.compile(r"uloop-servers: serving (?P<endpoint>(?P<scheme>[\w+]+)://.*:(?P<port>\d+))$")
PATIENCE = 30  # seconds; a test that runs into it has failed
SLOW = ", and everything else waited"  # ends the warning of a callback that took long


if sys.platform == "win32":

    def ask_to_end(process: subprocess.Popen[str]) -> bool:
        """Send a Ctrl-Break; not by os.kill, which makes a SystemError of it where there is no console."""
        return bool(ctypes.windll.kernel32.GenerateConsoleCtrlEvent(signal.CTRL_BREAK_EVENT, process.pid))

else:

    def ask_to_end(process: subprocess.Popen[str]) -> bool:
        process.terminate()
        return True


# Other tests may have put a model of kqueue into this process; the processes started here have none.
BACKENDS = [name for name in available_backends() if name != "kqueue" or sys.platform != "linux"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def has_ipv6() -> bool:
    """Whether this machine has."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest, has_ipv6: bool) -> str:
    """The loopback address of each family in turn."""
    if request.param == "::1" and not has_ipv6:
        pytest.skip("this machine has no IPv6")
    return str(request.param)


class Program:
    """A Python program in a process of its own, with what it prints to standard error.

    Its loop warns of callbacks that took long. That tells how busy this machine is with other tests, so
    such lines are left out.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], **options: Any) -> None:
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP  # to send it a Ctrl-Break
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.lines: list[str] = []
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def next_line(self) -> str:
        """The next line on standard error; waits for it."""
        line = self._queue.get(timeout=PATIENCE)
        assert line is not None, f"the program has ended; it said {self.lines}"
        return line

    def close_input(self) -> None:
        """Let it read the end of its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def terminate(self) -> int:
        """End it as an operator would; its exit code."""
        if self.process.poll() is None and not ask_to_end(self.process):
            self.process.kill()
            self.wait()
            return 0  # it cannot be asked here, so there is nothing to judge
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; its exit code."""
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join()
            self.close_input()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                if SLOW not in line:
                    self.lines.append(line.rstrip("\n"))
                    self._queue.put(self.lines[-1])
        self._queue.put(None)


class Server(Program):
    """``uloop-servers serve``, with one endpoint of each transport on free ports if none is given.

    Parameters:
        arguments: endpoints, each of another scheme, and options.
        environment: in addition to ours.
        options: for ``subprocess.Popen``.
    """

    def __init__(
        self,
        backend: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        count = sum("://" in argument for argument in arguments)
        if not count:
            arguments = [*arguments, "tcp://127.0.0.1:0", "udp://127.0.0.1:0"]
            count = 2
        command = ["-m", "uloop_servers", "serve", "--backend", backend, *arguments]
        super().__init__(command, environment or {}, **options)
        self.endpoints: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        try:
            while len(self.ports) < count:
                ready = READY.match(self.next_line())
                if ready:  # there may be warnings as well
                    self.endpoints[ready["scheme"]] = ready["endpoint"]
                    self.ports[ready["scheme"]] = int(ready["port"])
        except BaseException:
            self.process.kill()
            self.wait()
            raise


@pytest.fixture
def start_program() -> Iterator[Callable[..., Program]]:
    """Starts a program; it is killed after the test if it still runs."""
    programs: list[Program] = []

    def start(*command: str, environment: Mapping[str, str] | None = None) -> Program:
        programs.append(Program(command, environment or {}))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.wait()


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Starts a server; after the test it must end with 0, and have shown no traceback."""
    servers: list[Server] = []

    def start(backend: str, *arguments: str, **options: Any) -> Server:
        servers.append(Server(backend, arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        exit_code = server.terminate()
        assert exit_code == 0, server.lines
        assert not [line for line in server.lines if "Traceback" in line], server.lines


@pytest.fixture
def server(start_server: Callable[..., Server], backend: str) -> Server:
    """A server on each backend in turn."""
    return start_server(backend)
