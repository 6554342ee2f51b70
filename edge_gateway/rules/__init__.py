"""Readings to events and commands.

Pure: a rule is a small callable that is given readings and says what follows from them; time comes with the readings.
It may remember, for instance whether an alert is raised, but does no I/O and never blocks.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_gateway.records import Command, Event


class Outcome(NamedTuple):
    """What follows from some readings."""

    events: list[Event]
    commands: list[Command]
