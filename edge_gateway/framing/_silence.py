"""When a pause between two bytes counts as silence."""

from __future__ import annotations

_TIMER_EARLY_S = 1e-6
"""An event loop may run a timer one clock tick early and rounds sums of floats. Far below a character time (10 bits at
4 Mbit/s take 2.5 us), so no real pause is misjudged, and a flush on time is never taken for one too early."""


def is_silence(last_at_s: float, at_s: float, silence_s: float) -> bool:
    """Whether nothing coming from `last_at_s` to `at_s` is a pause of at least `silence_s`."""
    return at_s >= last_at_s + silence_s - _TIMER_EARLY_S
