"""How a server is measured: it is started, asked by the load, and ended."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servers.contestants import HERE, Contestant
from servers.holding import Holder
from servers.scenarios import Result, Scenario
from servers.server import Server, on_core

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

WARM_UP = 0.3  # seconds
PATIENCE = 120.0  # seconds, for the load to connect, and to be done in the end
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
        server_core, load_core: where they run; ``None`` for any core.
        duration: seconds of each measurement.
        sources: addresses that the clients are spread over.
        sleeping: whether the load sleeps while it has nothing to do.
    """

    python: str
    load: Path
    reference: Path
    server_core: int | None
    load_core: int | None
    duration: float
    sources: int
    sleeping: bool = False

    def start(self, contestant: Contestant, protocol: str, options: Sequence[str] = ()) -> Server:
        """Start a server.

        Parameters:
            contestant: whose.
            protocol: one of its protocols.
            options: more of them, for ours.

        Raises:
            RuntimeError: it did not come up; the message says why.
        """
        command = [*contestant.command(protocol, self.python, self.reference), *options]
        return Server(command, contestant.environment(), self.server_core)

    def measure(self, contestant: Contestant, scenario: Scenario, options: Sequence[str] = ()) -> Result:
        """Start a server, measure it, and end it.

        Parameters:
            contestant: whose.
            scenario: what is asked of it.
            options: more of them, for ours.

        Raises:
            RuntimeError: it did not come up, or the load failed; the message says why.
        """
        protocol = scenario.protocol_of(contestant)
        with self.start(contestant, protocol, options) as server:
            result = self._ask(server, protocol, scenario.clients)
            if not scenario.idle:
                return result
            before = server.memory()
            idle = min(scenario.idle, most_descriptors() - scenario.clients - SPARE)
            with Holder(self.load, server.port, idle, self.sources, self.load_core) as holder:
                wrong = holder.told()["wrong"]
                grown = server.memory() - before
                crowded = self._ask(server, protocol, scenario.clients)
            return replace(
                crowded,
                lost=crowded.lost + result.lost,
                wrong=crowded.wrong + result.wrong + wrong,
                idle=idle,
                bytes_per_idle=grown / idle,
                rate_without=result.rate,
            )

    def _ask(self, server: Server, protocol: str, clients: int) -> Result:
        who = (protocol, str(server.port), str(clients), str(self.sources))
        how = ("sleep" if self.sleeping else "spin", str(WARM_UP), str(self.duration))
        pids = map(str, server.processes())
        with on_core(self.load_core):
            load = subprocess.Popen(
                [self.load, *who, *how, *pids],
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
        answers = told["answers"]
        if not answers:
            raise RuntimeError(f"it gave no right answer; {told['wrong']} were wrong, {told['lost']} lost")
        return Result(
            rate=told["answers"] / told["seconds"],
            cpu=told["cpu"] / answers * 1e6,
            busy=told["cpu"] / told["seconds"],
            load_cpu=told["load_cpu"] / answers * 1e6,
            latency=told["latency"],
            lost=told["lost"],
            wrong=told["wrong"],
        )


def most_descriptors() -> int:
    """Have as many as we may, we and who we start. How many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
