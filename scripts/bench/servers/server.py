"""A server that is measured: a process, on a core of its own if it is to have one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

PATIENCE = 30.0  # seconds, for a server to come up


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started meanwhile runs on this core, from its first instruction on; ``None``: on any."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """Starts a server, waits until it says where it can be asked, and ends it.

    It says so as our own server does: a line on standard error with "serving", which ends with the port.
    There may be warnings before it.

    Raises:
        RuntimeError: it did not come up; with what it had to say.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], core: int | None) -> None:
        with on_core(core):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,  # so that select knows of every line that is still to be read
                env=environment,
                start_new_session=True,  # a group of its own, which can be ended with all that it has forked
            )
        assert self._process.stderr is not None
        self._log = self._process.stderr
        said = self._said_first()
        if "serving" not in said:
            self.end()
            raise RuntimeError(f"it did not come up: {said.strip() or 'it said nothing'}")
        self.port = int(said.rpartition(":")[2])

    def _said_first(self) -> str:
        """What it says up to the line that it serves, or to its end, or until our patience is over."""
        said = ""
        while "serving" not in said and select.select([self._log], [], [], PATIENCE)[0]:
            line = self._log.readline().decode("utf-8", "replace")
            if not line:
                break  # it has ended
            said += line
        return said

    def processes(self) -> list[int]:
        """The ids of its process and of those that it has forked."""
        found = [self._process.pid]
        for pid in found:  # which grows meanwhile
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found.extend(map(int, children))
        return found

    def memory(self) -> int:
        """Bytes that are resident."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.processes())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def memory_shared_out(self) -> int:
        """Bytes that are resident, of which a page that several processes share counts once in all: what
        forked processes still have in common would be counted for each of them otherwise."""
        kib = 0
        for pid in self.processes():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib * 1024

    def descriptors(self) -> list[int]:
        """How many of them each of its processes has open."""
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in self.processes()]

    def kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all have ended

    def end(self) -> None:
        self.kill()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
