"""A start takes the same work and memory however much is queued, and so does the first message."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from edge_gateway.records import Message
from edge_gateway.testbench.failing_disk import Call, FailingDisk, failing_disk

from .conftest import NOW_NS, OpenStore, reading, writes

FEW, MANY = 2_000, 200_000
_AT_ONCE = 500
_DEVICES = 20


class Start(NamedTuple):
    """What it took to open a store and to take its first message."""

    reads: int
    peak_bytes: int
    first: Message


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with failing_disk("counted reads") as disk:
        yield disk


def fill(open_store: OpenStore, records: int) -> None:
    """Queue so many, in messages of as many as are appended at once."""
    store = open_store()
    for first in range(0, records, _AT_ONCE):
        store.write(
            writes([reading(f"d{n % _DEVICES}", n, time_ns=NOW_NS + n) for n in range(first, first + _AT_ONCE)])
        )
    store.close()


def start(open_store: OpenStore, disk: FailingDisk, queued: int) -> Start:
    """Open the store, and give out the first message."""
    reads = disk.calls[Call.READ]
    tracemalloc.start()
    store = open_store(vfs=disk.name)
    first = store.take()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(store.queued().values()) == queued
    store.close()
    assert isinstance(first, Message)
    return Start(disk.calls[Call.READ] - reads, peak_bytes, first)


def test_a_start_takes_the_same_work_however_much_is_queued(open_store: OpenStore, disk: FailingDisk) -> None:
    """A hundred times the queue costs a page more here and there, as trees grow deeper, and no more memory."""
    fill(open_store, FEW)
    with_few = start(open_store, disk, FEW)
    fill(open_store, MANY - FEW)
    with_many = start(open_store, disk, MANY)
    assert with_many.first == with_few.first
    assert 0 < with_many.reads <= with_few.reads + 8
    assert with_many.peak_bytes <= with_few.peak_bytes * 1.1 + 50_000


def test_a_queue_is_drained_by_streaming(open_store: OpenStore, disk: FailingDisk) -> None:
    """Taking and settling everything holds a message at a time, and reads each page of the queue about once."""
    fill(open_store, MANY)
    store = open_store(vfs=disk.name)
    pages = store.stats()["disk"]["database_bytes"] // 1024
    before = disk.calls[Call.READ]
    tracemalloc.start()
    taken = 0
    while isinstance(message := store.take(), Message):
        taken += message.records
        store.write(writes(settled=[message]))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (taken, sum(store.queued().values())) == (MANY, 0)
    assert peak_bytes < 2_000_000
    assert disk.calls[Call.READ] - before < 3 * pages
    store.close()
