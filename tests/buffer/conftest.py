from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.clock import NS_PER_S
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.records import Event, Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys, open_bench_store

OpenStore = Callable[..., Store]

NOW_NS = 1_790_000_000 * NS_PER_S


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self, *, boot_id: str = "boot-1", trusted: bool = True, offset_ns: int = NOW_NS) -> None:
        self.boot_id = boot_id
        self.trusted = trusted
        self.offset_ns = offset_ns
        self.uptime_s = 0.0

    def now_ns(self) -> int:
        return self.offset_ns + self.uptime_ns()

    def uptime_ns(self) -> int:
        return round(self.uptime_s * NS_PER_S)

    def reboot(self, boot_id: str) -> None:
        self.boot_id, self.uptime_s = boot_id, 0.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def open_store(tmp_path: Path, clock: HandClock) -> OpenStore:
    """Opens the same store anew at each call, as a restart does."""
    keys = MemoryDataKeys()

    def open_it(*, vfs: str | None = None, **settings: object) -> Store:
        merged = {"max_message_age_s": 0.0} | settings
        return open_bench_store(
            tmp_path / "buffer.db", BufferSettings.model_validate(merged), clock=clock, keys=keys, vfs=vfs
        )

    return open_it


def writes(
    records: Sequence[Reading | Event] = (),
    rejected: Sequence[tuple[str, int]] = (),
    settled: Sequence[Message] = (),
    *,
    lane: str = "",
    bad: Sequence[BadFrame] = (),
) -> Writes:
    batch = Batch(records, lane, bad, rejected)
    return Writes([batch] if records or rejected or bad else [], list(settled))


def reading(device: str = "a", value: object = 1, *, time_ns: int = NOW_NS) -> Reading:
    return Reading(device, "climate", time_ns, {"x": value})  # type: ignore[dict-item]  # tests pass what JSON cannot say, too


def alert(device: str = "a") -> Event:
    return Event(device, "hot", "alert-raised", NOW_NS, {"x": 31})
