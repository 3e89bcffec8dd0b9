"""Who is measured, and how each is started."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parents[2] / "packages"
#: The guard has all its work with each datagram, but refuses none: that is for who asks too often.
LIMITS = ("--rate-limit", "1000000000", "--rate-burst", "1000000")
#: of this tree, whatever is installed
OUR_PATH = os.pathsep.join(
    str(PACKAGES / f"uloop-{name}" / "src") for name in ("events", "reactor", "servers")
)


@dataclass(frozen=True)
class Contestant:
    """A server.

    Parameters:
        name: as the tables have it.
        protocols: of ``"tcp"``, ``"udp"`` and ``"ntp"``.
        distribution: what must be installed for it, as ``pip`` calls it; nothing for most.
        backend: of ours.
        most_clients: that it can have at once.
        by_default: whether it is measured when no names are given.
    """

    name: str
    protocols: tuple[str, ...]
    distribution: str | None = None
    backend: str | None = None
    most_clients: int | None = None
    by_default: bool = True

    @property
    def is_ours(self) -> bool:
        return self.backend is not None

    def command(self, protocol: str, python: str, reference: Path) -> list[str]:
        """What starts it on a port that the system chooses.

        Parameters:
            protocol: one of its protocols.
            python: the interpreter for all but those in C.
            reference: the server in C.
        """
        if self.backend is not None:
            # fmt: off
            return [python, "-m", "uloop_servers", "serve", f"{protocol}://127.0.0.1:0",
                    "--backend", self.backend, *LIMITS]
            # fmt: on
        if self.name == "C":
            return [str(reference), protocol]
        if self.name == "C-batched":
            return [str(reference), protocol, "batched"]
        return [python, str(HERE / "peers.py"), self.name, protocol]

    def environment(self) -> Mapping[str, str]:
        # With bytecode, as when installed: what the compiler leaves behind is memory for connections.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONPATH": OUR_PATH} if self.is_ours else kept


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("C", ("tcp", "udp")),
        Contestant("C-batched", ("udp",)),
        Contestant("uloop", ("tcp", "udp", "ntp"), backend="epoll"),
        Contestant("uloop-poll", ("tcp", "udp", "ntp"), backend="poll", by_default=False),
        Contestant(
            "uloop-select", ("tcp", "udp", "ntp"), backend="select", most_clients=900, by_default=False
        ),
        Contestant("by-hand", ("tcp", "udp")),
        Contestant("uvloop", ("tcp", "udp"), "uvloop"),
        Contestant("uvloop-datetime", ("tcp", "udp"), "uvloop"),
        Contestant("asyncio", ("tcp", "udp")),
        Contestant("asyncio-streams", ("tcp",)),
        Contestant("gevent", ("tcp", "udp"), "gevent"),
        Contestant("Twisted", ("tcp", "udp"), "Twisted"),
        Contestant("Tornado", ("tcp",), "tornado"),
        Contestant("trio", ("tcp", "udp"), "trio"),
    )
}

ASK_VERSIONS = """
import importlib.metadata, json, platform, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
print(json.dumps([f"{platform.python_implementation()} {platform.python_version()}", versions]))
"""


def versions(python: str) -> tuple[str, dict[str, str | None]]:
    """An interpreter's name with its version, and that of each distribution; ``None`` for what it lacks."""
    names = [each.distribution for each in CONTESTANTS.values() if each.distribution is not None]
    told = subprocess.run(
        [python, "-c", ASK_VERSIONS, *names], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    interpreter, found = json.loads(told)
    return interpreter, found
