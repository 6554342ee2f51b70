"""Start takes the same time and memory however much is queued: told by what is asked of the disk, not by a watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_gateway.buffer.store import Store
from edge_gateway.config.model import BufferSettings
from edge_gateway.records import Message
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.failing_disk import Call, FailingDisk, failing_disk

from .conftest import HandClock, reading, writes

SETTINGS = BufferSettings(max_records_per_message=100, max_message_age_s=0.0)
QUEUED = 200_000


@pytest.fixture(scope="module")
def disk() -> Iterator[FailingDisk]:
    with failing_disk("start") as disk:
        yield disk


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a store with little and one with much, of the same ten devices."""
    directory = tmp_path_factory.mktemp("start")
    for name, queued in ("little", 100), ("much", QUEUED):
        store = open_bench_store(directory / name, SETTINGS, clock=HandClock())
        for start in range(0, queued, 1000):
            numbers = range(start, min(start + 1000, queued))
            store.write(writes([reading(f"device-{number % 10}", number * 0.7) for number in numbers]))
        assert store.totals().queued == queued
        store.close()
    assert (directory / "much").stat().st_size > 100 * (directory / "little").stat().st_size
    return directory


def opened(directory: Path, name: str, disk: FailingDisk) -> Store:
    return open_bench_store(directory / name, SETTINGS, clock=HandClock(), vfs=disk.name)


def reads(directory: Path, name: str, disk: FailingDisk, *, until_taken: bool) -> int:
    """How often the disk is read to open a store, and to take its first message and append a reading."""
    before = disk.calls[Call.READ]
    store = opened(directory, name, disk)
    if until_taken:
        assert isinstance(store.take(), Message)
        store.write(writes([reading()]))
    count = disk.calls[Call.READ] - before
    store.close()
    return count


def test_opening_does_not_read_two_hundred_thousand_records(directory: Path, disk: FailingDisk) -> None:
    """What is queued is not looked at, but for the way to the first of each lane in a larger tree."""
    little, much = (reads(directory, name, disk, until_taken=False) for name in ("little", "much"))
    assert much <= little + 6


def test_the_first_message_and_the_first_append_read_a_few_pages(directory: Path, disk: FailingDisk) -> None:
    """A message is a page or two, and the way to it a little longer."""
    little, much = (reads(directory, name, disk, until_taken=True) for name in ("little", "much"))
    assert much <= little + 8


def test_what_is_queued_is_known_at_once(directory: Path, disk: FailingDisk) -> None:
    """Status needs no look at the queue either."""
    before = disk.calls[Call.READ]
    store = opened(directory, "much", disk)
    assert store.totals().queued >= QUEUED
    assert store.queued()["normal"] >= QUEUED
    assert disk.calls[Call.READ] - before < 100
    store.close()
