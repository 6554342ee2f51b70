"""Faults by the clock: `cut@3-6,kill@8,unplug@10-12` as what to do when, in seconds after the start."""

from __future__ import annotations

import enum
import math
from typing import Final, NamedTuple

from edge_gateway.errors import ConfigError

EXAMPLE: Final = "cut@3-6,kill@8,unplug@10-12"


class Action(enum.Enum):
    """What can be done to the bench."""

    CUT = "cut"
    """Silence the network between gateway and hub."""
    RESTORE = "restore"
    UNPLUG = "unplug"
    """Pull one sensor's cable."""
    PLUG_IN = "plug-in"
    KILL = "kill"
    """SIGKILL the gateway, and start it again."""
    COMMAND = "command"
    """Have the hub send a command to a sensor."""


_SPANS: Final = {Action.CUT: Action.RESTORE, Action.UNPLUG: Action.PLUG_IN}
"""What takes a while, with what ends it."""
_MOMENTS: Final = (Action.KILL, Action.COMMAND)


class Step(NamedTuple):
    """One action at one time."""

    at_s: float
    """Seconds after the start."""
    action: Action


def parse_faults(text: str) -> list[Step]:
    """Read faults separated by commas, and return their steps in the order of time.

    Args:
        text: `cut@FROM-TO`, `unplug@FROM-TO`, `kill@AT`, `command@AT`, in seconds; empty for none.

    Raises:
        ConfigError: a part cannot be read, or two of a kind overlap.
    """
    steps: list[Step] = []
    busy_until_s = dict.fromkeys(_SPANS, 0.0)
    for start_s, action, end_s in sorted(_parse(part.strip()) for part in text.split(",") if part.strip()):
        done = Action(action)
        steps.append(Step(start_s, done))
        if done in _SPANS:
            if start_s < busy_until_s[done]:
                raise ConfigError(
                    f"two faults {action!r} overlap at {start_s:g} s", where="--faults", remedy="Let one end first"
                )
            busy_until_s[done] = end_s
            steps.append(Step(end_s, _SPANS[done]))
    return sorted(steps, key=lambda step: step.at_s)


def _parse(part: str) -> tuple[float, str, float]:
    name, _, times = part.partition("@")
    start, dash, end = times.partition("-")
    try:
        action, start_s, end_s = Action(name), float(start), float(end) if dash else None
    except ValueError:
        raise _unreadable(part) from None
    known = end_s is not None if action in _SPANS else end_s is None and action in _MOMENTS
    if not known or not 0 <= start_s < math.inf or (end_s is not None and not start_s < end_s < math.inf):
        raise _unreadable(part)
    return start_s, action.value, end_s if end_s is not None else start_s


def _unreadable(part: str) -> ConfigError:
    return ConfigError(
        f"{part!r} is no fault",
        where="--faults",
        remedy=f"For instance {EXAMPLE}; cut and unplug take FROM-TO, kill and command one time, in seconds",
    )
