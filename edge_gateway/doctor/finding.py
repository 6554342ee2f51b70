"""What the doctor can find, and what it has found.

A `Fault` is declared once, beside the check that finds it: a fixed id, the cause and the fix, with `{places}` for what
is particular to a box. Found, it becomes a `Finding`. The table in docs/how-to/find-the-fault.md is made of the same
declarations.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


class Level(enum.Enum):
    """How bad a finding is."""

    FAULT = "fault"
    """The gateway cannot do part of its work."""
    WARNING = "warning"
    """It works, and will not for ever."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that can be wrong with a gateway's box, its surroundings or its cloud."""

    id: str
    """Fixed, for alarms and scripts: `disk.full`."""
    cause: str
    """In a sentence, with `{places}`."""
    fix: str
    """What to do about it, likewise."""
    level: Level = Level.FAULT

    def found(self, evidence: str = "", **places: object) -> Finding:
        """It is so.

        Args:
            evidence: what was seen that shows it, without a secret.
            places: fill in the cause and the fix.
        """
        return Finding(self, self.cause.format_map(places), self.fix.format_map(places), evidence)


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of this box."""

    fault: Fault
    cause: str
    fix: str
    evidence: str

    @property
    def id(self) -> str:
        """The fault's."""
        return self.fault.id

    @property
    def is_fault(self) -> bool:
        """Whether something does not work now."""
        return self.fault.level is Level.FAULT


Findings: TypeAlias = Sequence[Finding]
"""What a check has found; empty if all is well."""
