"""Text that compression makes little smaller, so that a test knows how much a record takes on disk."""

from __future__ import annotations

import base64
import random

_TEXT = base64.b85encode(random.Random(8).randbytes(200_000)).decode()


def text(size: int, *, seed: int) -> str:
    """So many characters, the same for the same seed, and others for others."""
    return _TEXT[(at := random.Random(seed).randrange(len(_TEXT) - size)) : at + size]
