"""Connections that are held: a process of the load that has opened them, and each of them answered once."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers.server import on_core

if sys.platform != "linux":
    sys.exit("this benchmark reads its figures from /proc: run it on Linux")

PATIENCE = 120.0  # seconds, for all of them to be answered


class Holder:
    """Starts to connect at once. Ends, and the connections with it, when it is left.

    Parameters:
        load: the program.
        port: of the server.
        number: of connections.
        sources: addresses that they are spread over.
        core: where it runs; ``None`` for any.
    """

    def __init__(self, load: Path, port: int, number: int, sources: int, core: int | None) -> None:
        with on_core(core):
            self._process = subprocess.Popen(
                [load, "idle", str(port), str(number), str(sources)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def ask_all(self) -> None:
        """Have all connections ask at once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, Any]:
        """Wait until all have been answered: after the start, and after each ``ask_all``.

        Returns:
            How many ``answers`` were right, how many were ``wrong``, and the ``latency``: microseconds
            by name; after the start, with the time to connect.

        Raises:
            RuntimeError: the load failed.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise RuntimeError(f"not all connections were answered within {PATIENCE:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load failed: {self._process.communicate()[1].strip()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
