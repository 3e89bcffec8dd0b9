"""What is measured: a statement, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """A statement that is run very often.

    Parameters:
        group: what kind of work it is.
        says: what it does, for the table; of the same group no two are the same.
        code: the statement.
        names: what it may use.
        times: how often it does that; the time told is for once.
        beside: what another statement of its group says, which does the same in another way.
    """

    group: str
    says: str
    code: str
    names: Mapping[str, object]
    times: int = 1
    beside: str | None = None

    @property
    def name(self) -> str:
        return f"{self.group}: {self.says}"
