"""How a server is measured: it is started, asked by the load, and ended."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.contestants import HERE, Contestant
from servers.scenarios import Result, Scenario
from servers.server import Server, on_core

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

WARM_UP = 0.3  # seconds
PATIENCE = 120.0  # seconds, for the load to connect, or to be done in the end
SPARE = 500  # descriptors that a server may need for anything but its clients


def compile_program(name: str, directory: Path) -> Path:
    """Make a program from one of the C files beside this one.

    Raises:
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    program = directory / name
    subprocess.run(["cc", "-O2", "-o", program, HERE / f"{name}.c"], check=True)
    return program


@dataclass(frozen=True)
class Bench:
    """What stays the same from one measurement to the next.

    Parameters:
        python: the interpreter of the servers.
        load, reference: the programs in C.
        server_core, load_core: where they run.
        duration: seconds of each measurement.
        sources: addresses that the clients are spread over.
    """

    python: str
    load: Path
    reference: Path
    server_core: int
    load_core: int
    duration: float
    sources: int

    def measure(self, contestant: Contestant, scenario: Scenario) -> Result:
        """Start a server, measure it, and end it.

        Raises:
            RuntimeError: it did not come up, or the load failed; the message says why.
        """
        protocol = scenario.protocol_of(contestant)
        command = contestant.command(protocol, self.python, self.reference)
        with Server(command, contestant.environment(), self.server_core) as server:
            result = self._ask(server, protocol, scenario.clients)
            if not scenario.idle:
                return result
            before = server.memory()
            idle = min(scenario.idle, most_descriptors() - scenario.clients - SPARE)
            with self._idle_connections(server, idle) as wrong:
                grown = server.memory() - before
                crowded = self._ask(server, protocol, scenario.clients)
            return Result(
                crowded.rate,
                crowded.cpu,
                crowded.busy,
                crowded.latency,
                crowded.lost + result.lost,
                crowded.wrong + result.wrong + wrong,
                idle,
                grown / idle,
                result.rate,
            )

    def _ask(self, server: Server, protocol: str, clients: int) -> Result:
        seconds = (str(WARM_UP), str(self.duration))
        pids = map(str, server.processes())
        with on_core(self.load_core):
            load = subprocess.Popen(
                [self.load, protocol, str(server.port), str(clients), str(self.sources), *seconds, *pids],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            out, errors = load.communicate(timeout=self.duration + PATIENCE)
        except subprocess.TimeoutExpired:
            raise RuntimeError("the load did not come to an end") from None
        finally:
            load.kill()
            load.wait()
        if load.returncode != 0:
            raise RuntimeError(f"the load failed: {errors.strip()}")
        told: dict[str, Any] = json.loads(out)
        answers = told["answers"] or 1  # of none there is no processor time for each
        return Result(
            rate=told["answers"] / told["seconds"],
            cpu=told["cpu"] / answers * 1e6,
            busy=told["cpu"] / told["seconds"],
            latency=told["latency"],
            lost=told["lost"],
            wrong=told["wrong"],
        )

    @contextmanager
    def _idle_connections(self, server: Server, number: int) -> Iterator[int]:
        """Hold so many connections meanwhile, each of which has been answered once; how many wrongly."""
        with on_core(self.load_core):
            load = subprocess.Popen(
                [self.load, "idle", str(server.port), str(number), str(self.sources)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert load.stdout is not None
        try:
            line = load.stdout.readline()
            if not line:
                raise RuntimeError(f"the load failed: {load.communicate()[1].strip()}")
            yield json.loads(line)["wrong"]
        finally:
            load.kill()
            load.communicate()


def most_descriptors() -> int:
    """Have as many as we may, we and who we start. How many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
