from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_gateway.buffer.store import Store
from edge_gateway.config.model import BufferSettings
from edge_gateway.records import Event, Reading

OpenStore = Callable[..., Store]


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    """Opens the same store anew at each call, as a restart does."""

    def open_it(*, vfs: str | None = None, **settings: object) -> Store:
        merged = {"max_message_age_s": 0.0} | settings
        return Store(tmp_path / "buffer.db", BufferSettings.model_validate(merged), rng=random.Random(7), vfs=vfs)

    return open_it


def reading(device: str = "a", value: object = 1, *, time_ns: int = 1_790_000_000_000_000_000) -> Reading:
    return Reading(device, "climate", time_ns, {"x": value})  # type: ignore[dict-item]  # tests pass what JSON cannot say, too


def alert(device: str = "a") -> Event:
    return Event(device, "hot", "alert-raised", 1_790_000_000_000_000_000, {"x": 31})
