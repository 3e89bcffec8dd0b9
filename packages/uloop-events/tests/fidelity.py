"""How near each loop comes to epoll: recordings of the catalogue, and the table made of them.

    python packages/uloop-events/tests/fidelity.py record   every loop that runs here
    python packages/uloop-events/tests/fidelity.py write    FIDELITY.md, of all recordings

The recording of the real epoll is the oracle. Where another one differs, ``DIFFERENCES`` says
why; the tests want a reason for each difference, and a difference for each reason.
"""

from __future__ import annotations

import json
import platform
import re
import select
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uloop_events
from catalogue import CATALOGUE
from differences import DIFFERENCES, UNPROVEN_FAMILIES, Difference
from stage import NotHereError, Stage
from uloop_events import EpollLike

HERE = Path(__file__).parent
RECORDINGS = HERE / "recordings"
TABLE = HERE.parent / "FIDELITY.md"

#: what was said, by situation; None where the system has nothing of the kind
Recording = dict[str, list[str] | None]


@dataclass(frozen=True)
class Column:
    """A loop on a system: one recording, one column of the table."""

    loop: str
    system: str
    title: str

    @property
    def path(self) -> Path:
        return RECORDINGS / f"{self.loop}-{self.system}.json"

    def loop_type(self) -> Callable[[], EpollLike]:
        module = select if self.loop == "epoll" else uloop_events
        found: Callable[[], EpollLike] = getattr(module, self.loop)
        return found

    def runs_here(self) -> bool:
        return self.system == SYSTEM or (self.system == "model" and SYSTEM == "linux")

    def load(self) -> Recording:
        recording: Recording = json.loads(self.path.read_text(encoding="utf-8"))["said"]
        return recording

    def made_on(self) -> str:
        made_on: str = json.loads(self.path.read_text(encoding="utf-8"))["made on"]
        return made_on


SYSTEM = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
EPOLL = Column("epoll", "linux", "`select.epoll`, Linux")
COLUMNS = [
    EPOLL,
    Column("PollLoop", "linux", "`PollLoop`, Linux"),
    Column("KqueueLoop", "model", "`KqueueLoop`, model of kqueue"),
    Column("AfdLoop", "windows", "`AfdLoop`, Windows"),
    Column("SelectLoop", "linux", "`SelectLoop`, Linux"),
    Column("SelectLoop", "windows", "`SelectLoop`, Windows"),
]
IMITATIONS = COLUMNS[1:]


def play(situation: str, loop_type: Callable[[], EpollLike], folder: Path) -> list[str] | None:
    """What a loop says in a situation; ``None`` where there is no such situation here."""
    with ExitStack() as stack:
        loop = stack.enter_context(loop_type())
        stage = stack.enter_context(Stage(loop, folder))
        try:
            CATALOGUE[situation](stage)
        except NotHereError:
            return None
        return stage.said


def record(column: Column) -> None:
    said: Recording = {}
    for situation in CATALOGUE:
        with tempfile.TemporaryDirectory() as folder:
            said[situation] = play(situation, column.loop_type(), Path(folder))
    # A line for each situation, so that a change can be read.
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(answers)}" for name, answers in said.items())
    text = f'{{"made on": {json.dumps(made_here())}, "said": {{\n{rows}\n}}}}\n'
    RECORDINGS.mkdir(exist_ok=True)
    column.path.write_text(text, encoding="utf-8", newline="\n")


def made_here() -> str:
    """The system and its version: ``Linux 6.18.44``."""
    if is_wine():
        return f"wine, as Windows {platform.release()}"
    version = re.match(r"[\d.]+\d", platform.release())
    return f"{platform.system()} {version[0] if version else platform.release()}"


def is_wine() -> bool:
    """Whether this Windows is wine, which differs here and there."""
    if sys.platform != "win32":
        return False
    import ctypes  # which no other platform needs here

    return hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def table() -> str:
    """The text of FIDELITY.md."""
    oracle = EPOLL.load()
    recordings = {column: column.load() for column in IMITATIONS if column.path.exists()}
    notes: list[str] = []
    lines = [
        *PREFACE.format(kernel=EPOLL.made_on(), count=len(oracle)).splitlines(),
        "",
        "| loop | recorded on | exact | approximate | impossible | no such thing there |",
        "|---|---|---|---|---|---|",
    ]
    for column, recording in recordings.items():
        verdicts = [verdict(column, name, oracle, recording) for name in oracle]
        counts = " | ".join(
            str(sum(1 for each in verdicts if each.startswith(kind)))
            for kind in ("exact", "approximate", "impossible", "-")
        )
        lines.append(f"| {column.title} | {column.made_on()} | {counts} |")
    families: dict[str, list[str]] = {}
    for name in oracle:
        families.setdefault(name.partition(": ")[0], []).append(name)
    for family, names in families.items():
        lines += ["", f"## {family}", ""]
        lines.append(
            "| situation | " + " | ".join([EPOLL.title, *(each.title for each in recordings)]) + " |"
        )
        lines.append("|---" * (len(recordings) + 2) + "|")
        for name in names:
            cells = [name.partition(": ")[2], shown(oracle[name])]
            for column, recording in recordings.items():
                cell = verdict(column, name, oracle, recording)
                difference = difference_of(column, name)
                if cell in ("approximate", "impossible") and difference:
                    if difference.reason not in notes:
                        notes.append(difference.reason)
                    cell = f"{cell}: {shown(recording[name])} [{notes.index(difference.reason) + 1}]"
                if column.system == "model" and name.startswith(UNPROVEN_FAMILIES) and cell != "-":
                    cell += ", unproven"
                cells.append(cell)
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Why", ""]
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"


PREFACE = """\
# How near each loop comes to epoll

Made by the tests, of what the loops said: do not edit. `tests/catalogue.py` has the {count}
situations, `tests/recordings/` what was said in them, and `select.epoll` on {kernel} is what
all are measured by. Where a situation says nothing else, IN, PRI, OUT and RDHUP were asked for.
Several answers to several polls are separated by semicolons.

*exact*: the same answers. *approximate*: other answers, for the reason that the number names.
*impossible*: refused, since the platform's call has no such thing. *-*: the system has nothing
of the kind. *unproven*: the model of kqueue assumes it; no kqueue was asked.
"""


def verdict(column: Column, name: str, oracle: Recording, recording: Recording) -> str:
    if recording[name] is None:
        return "-"
    if recording[name] == oracle[name]:
        return "exact"
    difference = difference_of(column, name)
    return difference.verdict if difference else "approximate"


def difference_of(column: Column, name: str) -> Difference | None:
    return DIFFERENCES.get(f"{column.loop}-{column.system}", {}).get(name)


def shown(said: list[str] | None) -> str:
    return "-" if said is None else "; ".join(said) or "(no error)"


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        if SYSTEM == "linux":
            import kqueue_model

            kqueue_model.install()
        for each in COLUMNS:
            if each.runs_here():
                record(each)
    elif sys.argv[1:] == ["write"]:
        TABLE.write_text(table(), encoding="utf-8", newline="\n")
    else:
        sys.exit(__doc__)
