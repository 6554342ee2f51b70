"""The lanes of the bench: one for each policy, all so small that a short life comes to every one of them."""

from __future__ import annotations

import random
from typing import Final

from edge_gateway.config.buffer import BufferSettings, LaneSettings


def _small(name: str, max_bytes: int | None, **others: object) -> LaneSettings:
    """A lane; a limit as low as these is refused in a configuration."""
    return LaneSettings.model_validate({"name": name, **others}).model_copy(update={"max_bytes": max_bytes})


SETTINGS: Final = BufferSettings(
    max_records_per_message=8, max_message_bytes=4096, max_message_age_s=0.5, settle_within_s=0.25, ledger_days=1
).model_copy(
    update={
        "lanes": (
            _small("alert", 1_500, max_records_per_message=1, max_message_age_s=0),
            _small("normal", 5_000),
            _small("live", None, ttl_s=20.0, max_message_age_s=0),
            _small("bulk", 3_000, when_full="thin", keep_every=3),
            _small("trend", 2_500, when_full="drop-newest"),
            _small("strict", 2_500, when_full="refuse"),
        ),
        "quarantine_bytes": 1_000,
        "reserve_bytes": 0,
    }
)
"""All lanes, and more disk than they can fill."""

LANES: Final = tuple(lane.name for lane in SETTINGS.lanes)

READING_LANES: Final = LANES[1:]

ROUTES: Final = ("", "door", "pump")
"""The gateway's own, and those of two sensors with identities of their own."""

_OPTIONAL: Final = ("live", "bulk", "trend", "strict")

_LITTLE_DISK_BYTES: Final = 250_000
"""Of which the log takes a quarter; the lanes together would fill more than what is left."""


def settings_of_a_session(rng: random.Random) -> BufferSettings:
    """What the configuration says from one opening to the next: a lane may be gone, or the disk be small."""
    update: dict[str, object] = {}
    if rng.random() < 0.3:
        gone = rng.choice(_OPTIONAL)
        update["lanes"] = tuple(lane for lane in SETTINGS.lanes if lane.name != gone)
    if rng.random() < 0.25:
        update["max_disk_bytes"] = _LITTLE_DISK_BYTES
    return SETTINGS.model_copy(update=update)
