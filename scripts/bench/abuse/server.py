"""A server under attack: a process of its own, of which we see what any operator can see."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

if sys.platform != "linux":
    sys.exit("the abuse is made for Linux: the figures are read from /proc")

HERE = Path(__file__).parent
PATIENCE = 20.0  # seconds, for a server to come up


@dataclass(frozen=True)
class Contestant:
    name: str  # as the table has it
    program: str
    variant: str

    @property
    def is_ours(self) -> bool:
        return self.program == "with_uloop.py"


class Server:
    """Starts one scenario of a contestant, and kills it in the end with all that it has forked.

    Raises:
        RuntimeError: it did not come up; with what it had to say.
    """

    def __init__(
        self, contestant: Contestant, *scenario: str, environment: Mapping[str, str] | None = None
    ) -> None:
        # It lives as long as the server.
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, HERE / contestant.program, contestant.variant, *scenario],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that it has a group of its own, which can be killed
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = self.process.stdin
        self.stdout = self.process.stdout
        self.pid = self.process.pid
        line = self.next_line(PATIENCE)
        if not line.startswith("ready "):
            self.kill()
            said = self.log_text()
            self.close_files()
            raise RuntimeError(f"{contestant.name} did not come up for {' '.join(scenario)}: {said or line}")
        self.port = int(line.split()[1])
        self.begin()
        os.write(self.stdin.fileno(), b"go\n")

    def begin(self) -> None:
        """Count processor time and log from here."""
        self.cpu_before = self.cpu_so_far()
        self.log_before = len(self.log_text())

    def cpu_so_far(self) -> float:
        # The clock of another process's processor time: clock_getcpuclockid(3), made by its rule.
        return time.clock_gettime(~self.pid << 3 | 2)

    def cpu(self) -> float:
        """Seconds of processor time since ``begin``, of all threads, without what it has forked."""
        return self.cpu_so_far() - self.cpu_before

    def memory(self) -> float:
        """MiB that are resident."""
        resident_pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def living_children(self) -> int:
        """How many processes it has forked that have not ended."""
        numbers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        states = [Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] for number in numbers]
        return len(states) - states.count("Z")

    def logged(self) -> str:
        """What was logged since ``begin``."""
        return self.log_text()[self.log_before :]

    def log_text(self) -> str:
        size = os.fstat(self.log.fileno()).st_size
        # Not by seek: the position is one and the same for the server.
        return os.pread(self.log.fileno(), size, 0).decode("utf-8", "replace")

    def next_line(self, seconds: float) -> str:
        """What it says next on standard output; empty if nothing in time, or if that has ended."""
        if not select.select([self.stdout], [], [], max(0.0, seconds))[0]:
            return ""
        line = b""
        while byte := os.read(self.stdout.fileno(), 1):  # unbuffered, or select would not tell
            line += byte
            if byte == b"\n":
                break
        return line.decode().strip()

    def exit_code(self, seconds: float) -> int | None:
        """How it ended; ``None`` if it did not in time."""
        try:
            return self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # they have all ended
        self.process.wait()

    def close_files(self) -> None:
        for file in (self.stdin, self.stdout, self.log):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.close_files()
