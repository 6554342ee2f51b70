"""The disk the buffer takes: never more than allowed, used again when free, given back when much is free."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from edge_gateway.buffer import Account, BadFrame, Batch
from edge_gateway.buffer.database import reserve_bytes
from edge_gateway.buffer.reserve import ReserveFile
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import DiskFull, LaneFull
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys
from edge_gateway.testbench.failing_disk import FailingDisk, failing_disk

from . import incompressible
from .conftest import NOW_NS, HandClock, alert, reading

MIB = 1 << 20

RNG = random.Random(8)


class Opened(NamedTuple):
    """A store with its reserve, as a gateway has it."""

    store: Store
    settings: BufferSettings
    directory: Path
    clock: HandClock

    def disk_bytes(self) -> int:
        """What all its files take, as the file system says."""
        return sum(each.stat().st_blocks * 512 for each in self.directory.iterdir())

    def reserve_bytes(self) -> int:
        return (self.directory / "reserve").stat().st_blocks * 512

    def append(self, *records: Reading, lane: str = "") -> LaneFull | None:
        (refused,) = self.store.write(Writes([Batch(records, lane)]))
        return refused

    def take_all(self) -> list[Message]:
        taken = []
        while isinstance(message := self.store.take(wait_for_more=False), Message):
            taken.append(message)
        return taken


OpenWithReserve = Callable[..., Opened]


@pytest.fixture
def open_with_reserve(tmp_path: Path, clock: HandClock) -> OpenWithReserve:
    directory = tmp_path / "data"
    directory.mkdir()

    def open_it(*, disk: FailingDisk | None = None, **settings: object) -> Opened:
        chosen = BufferSettings.model_validate({"max_message_age_s": 0.0} | settings)
        path, size_bytes = directory / "reserve", reserve_bytes(chosen)
        store = Store(
            directory / "buffer.db",
            chosen,
            sealer=Sealer(MemoryDataKeys()),
            clock=clock,
            rng=random.Random(1),
            reserve=ReserveFile(path, size_bytes) if disk is None else ReserveOnAFullDisk(path, size_bytes, disk),
            vfs=None if disk is None else disk.name,
        )
        return Opened(store, chosen, directory, clock)

    return open_it


def one_lane(**more: object) -> list[dict[str, object]]:
    return [{"name": "alert"}, {"name": "normal", **more}]


def noisy(size: int, device: str = "a") -> Reading:
    """A reading that compression makes little smaller."""
    return reading(device, incompressible.text(size, seed=RNG.getrandbits(32)))


def seqs(messages: list[Message]) -> list[int]:
    return [each["seq"] for message in messages for each in orjson.loads(message.body)]


# --- the limit of the whole -----------------------------------------------------------------------------------------


@contextmanager
def watched(opened: Opened, disk: FailingDisk) -> Iterator[list[int]]:
    """Notes what the files take at every sync, and so at every moment that a power cut could keep."""
    sizes: list[int] = []
    disk.slow_sync = lambda: sizes.append(opened.disk_bytes())
    yield sizes
    sizes.append(opened.disk_bytes())


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with failing_disk("disk-limits") as disk:
        yield disk


@pytest.mark.parametrize(
    ("when_full", "max_disk_bytes"),
    [
        ("drop-oldest", 4 * MIB),
        ("drop-newest", 4 * MIB),
        ("thin", 4 * MIB),
        ("refuse", 4 * MIB),
        ("drop-oldest", 16 * MIB),
    ],
)
def test_database_log_and_reserve_together_stay_within_the_limit(
    open_with_reserve: OpenWithReserve, disk: FailingDisk, when_full: str, max_disk_bytes: int
) -> None:
    """While twice as much comes in as may be kept, the files never take more than they may, and use most of it."""
    opened = open_with_reserve(
        disk=disk, max_disk_bytes=max_disk_bytes, reserve_bytes=MIB, lanes=one_lane(when_full=when_full)
    )
    with watched(opened, disk) as sizes:
        received = 0
        while received < 2 * max_disk_bytes:
            size = RNG.choice([100, 1000, 20_000, 50_000])
            opened.append(*[noisy(size) for _ in range(50_000 // size)])
            received += 50_000
    assert max_disk_bytes // 2 < max(sizes) <= max_disk_bytes
    account = opened.store.accounts()["a", "normal"]
    assert account.balance() == 0
    assert (account.evicted > 0) is (when_full != "refuse")
    opened.store.close()


def test_bad_frames_alone_stay_within_the_limit(open_with_reserve: OpenWithReserve, disk: FailingDisk) -> None:
    """Also with a quarantine that may be larger than the disk allows."""
    opened = open_with_reserve(disk=disk, max_disk_bytes=4 * MIB, reserve_bytes=0, quarantine_bytes=64 * MIB)
    with watched(opened, disk) as sizes:
        for _ in range(150):
            opened.store.write(Writes([Batch(bad=[BadFrame("bus", "checksum", RNG.randbytes(40_000), NOW_NS)])]))
    assert max(sizes) <= 4 * MIB
    account = opened.store.accounts()["bus", "normal"]
    assert account.rejected > 0
    assert account.quarantined + account.rejected == account.received == 150
    opened.store.close()


def test_a_whole_backlog_that_expires_at_once_stays_within_the_limit(
    open_with_reserve: OpenWithReserve, disk: FailingDisk
) -> None:
    """Dropping everything in one transaction does not write it all to the log first."""
    opened = open_with_reserve(
        disk=disk, max_disk_bytes=4 * MIB, reserve_bytes=0, lanes=one_lane(ttl_s=3600), max_records_per_message=1
    )
    for _ in range(50):
        opened.append(*[noisy(200) for _ in range(100)])
    opened.clock.uptime_s = 3601
    with watched(opened, disk) as sizes:
        assert opened.store.take() is None
    assert max(sizes) <= 4 * MIB
    assert opened.store.accounts()["a", "normal"].expired == 5000
    opened.store.close()


def test_the_least_urgent_lane_gives_way_first(open_with_reserve: OpenWithReserve) -> None:
    """A full disk costs bulk data before readings, and readings before alerts."""
    lanes = [{"name": "alert"}, {"name": "normal"}, {"name": "bulk"}]
    opened = open_with_reserve(max_disk_bytes=4 * MIB, reserve_bytes=0, lanes=lanes)
    for _ in range(30):
        opened.append(noisy(50_000), lane="bulk")
    for _ in range(10):
        opened.append(noisy(50_000))
    queued = opened.store.queued()
    while opened.store.queued()["bulk"]:
        assert opened.store.queued()["normal"] >= queued["normal"]
        queued = opened.store.queued()
        opened.append(noisy(50_000))
    assert opened.store.accounts()["a", "normal"].evicted == 0
    opened.store.write(Writes([Batch([alert()])]))
    for _ in range(60):
        opened.append(noisy(50_000))
    assert opened.store.accounts()["a", "normal"].evicted > 0
    assert opened.store.queued()["alert"] == 1
    opened.append(noisy(50_000), lane="bulk")
    assert opened.store.queued()["bulk"] == 0, "it cannot make room among what is more urgent"


def test_the_quarantine_gives_way_before_any_lane(open_with_reserve: OpenWithReserve) -> None:
    """What cannot be sent anyhow makes room for what can."""
    opened = open_with_reserve(max_disk_bytes=4 * MIB, reserve_bytes=0, quarantine_bytes=2 * MIB)
    for _ in range(40):
        opened.store.write(Writes([Batch(bad=[BadFrame("bus", "checksum", RNG.randbytes(40_000), NOW_NS)])]))
    kept = opened.store.accounts()["bus", "normal"].quarantined
    while not opened.store.totals().evicted:
        opened.append(noisy(50_000))
    assert kept > 10
    assert opened.store.accounts()["bus", "normal"].quarantined == 0


# --- free pages -----------------------------------------------------------------------------------------------------


def test_what_was_delivered_makes_room_for_what_comes(open_with_reserve: OpenWithReserve) -> None:
    """Filled and drained again and again, the files do not grow."""
    opened = open_with_reserve(reserve_bytes=0, max_disk_bytes=64 * MIB)
    sizes = []
    for _ in range(6):
        for _ in range(20):
            opened.append(noisy(50_000))
        opened.store.write(Writes(settled=opened.take_all()))
        sizes.append(opened.disk_bytes())
    assert max(sizes) <= sizes[1] * 1.1


def test_a_large_empty_database_gives_its_space_back(open_with_reserve: OpenWithReserve) -> None:
    """After a long outage and its end, tidying leaves a small file, and everything still works."""
    opened = open_with_reserve(reserve_bytes=0, max_disk_bytes=64 * MIB)
    for _ in range(40):
        opened.append(*[noisy(100_000) for _ in range(10)])
    opened.store.write(Writes(settled=opened.take_all()))
    full_bytes = opened.disk_bytes()
    assert full_bytes > 16 * MIB
    opened.append(noisy(100))
    opened.store.tidy()
    opened.store.close()
    assert opened.disk_bytes() < MIB
    again = open_with_reserve(reserve_bytes=0, max_disk_bytes=64 * MIB)
    assert seqs(again.take_all()) == [401]


# --- a disk that others have filled ---------------------------------------------------------------------------------


class ReserveOnAFullDisk(ReserveFile):
    """A reserve that finds no room while the disk under the store has none.

    Args:
        path: as in `ReserveFile`.
        size_bytes: as in `ReserveFile`.
        disk: under the store.
    """

    def __init__(self, path: Path, size_bytes: int, disk: FailingDisk) -> None:
        super().__init__(path, size_bytes)
        self._directory, self._size = path.parent, size_bytes
        self._disk = disk

    def keep(self) -> bool:
        used = sum(each.stat().st_size for each in self._directory.iterdir())
        capacity_bytes = self._disk.capacity_bytes
        return (capacity_bytes is None or used + self._size <= capacity_bytes) and super().keep()


def fill(opened: Opened, disk: FailingDisk) -> None:
    """Somebody else takes all that is free on the disk."""
    disk.capacity_bytes = sum(each.stat().st_size for each in opened.directory.iterdir())


def test_on_a_full_disk_the_reserve_lets_records_and_acknowledgements_through(
    open_with_reserve: OpenWithReserve, disk: FailingDisk
) -> None:
    """What comes in and what was delivered goes on being written; status says `disk-full`."""
    opened = open_with_reserve(disk=disk, reserve_bytes=MIB)
    for _ in range(20):
        opened.append(noisy(20_000))
    assert (opened.store.state, opened.reserve_bytes()) == ("ok", MIB)
    fill(opened, disk)
    taken = opened.take_all()
    for message in taken:
        assert opened.store.write(Writes([Batch([noisy(20_000)])], [message])) == [None]
    assert (opened.store.state, opened.reserve_bytes()) == ("disk-full", 0)
    assert opened.store.accounts()["a", "normal"] == Account(received=20 + len(taken), delivered=20, queued=len(taken))
    opened.store.close()


def test_on_a_disk_that_stays_full_lanes_give_way_and_acknowledgements_go_on(
    open_with_reserve: OpenWithReserve, disk: FailingDisk
) -> None:
    """For as long as it lasts the oldest makes room for the newest, and the log goes on in the room it has."""
    opened = open_with_reserve(disk=disk, reserve_bytes=MIB)
    for _ in range(40):
        opened.append(noisy(20_000))
    fill(opened, disk)
    for _ in range(200):
        assert opened.append(noisy(20_000)) is None
    message = opened.take_all()[0]
    opened.store.write(Writes(settled=[message]))
    account = opened.store.accounts()["a", "normal"]
    assert account.delivered == message.records
    assert account.evicted > 0
    assert account.queued > 30
    assert account.balance() == 0
    opened.store.close()


def test_when_the_disk_has_room_again_the_reserve_is_taken_again(
    open_with_reserve: OpenWithReserve, disk: FailingDisk
) -> None:
    """Within a few seconds of the next write, and only then status says `ok`."""
    opened = open_with_reserve(disk=disk, reserve_bytes=MIB)
    opened.append(noisy(20_000))
    fill(opened, disk)
    while opened.store.state == "ok":
        opened.append(noisy(20_000))
    opened.clock.uptime_s += 60
    opened.append(noisy(100))
    assert (opened.store.state, opened.reserve_bytes()) == ("disk-full", 0)
    disk.capacity_bytes = None
    opened.clock.uptime_s += 60
    opened.append(noisy(100))
    assert (opened.store.state, opened.reserve_bytes()) == ("ok", MIB)
    opened.store.close()


def test_a_gateway_that_starts_on_a_full_disk_still_delivers(
    open_with_reserve: OpenWithReserve, disk: FailingDisk
) -> None:
    """Without any room, messages are given out all the same; that they were confirmed is noted when there is some."""
    opened = open_with_reserve(disk=disk, reserve_bytes=MIB)
    for _ in range(10):
        opened.append(noisy(20_000))
    opened.store.close()
    (opened.directory / "reserve").unlink()
    fill(opened, disk)
    opened = open_with_reserve(disk=disk, reserve_bytes=MIB)
    assert opened.store.state == "disk-full"
    taken = opened.take_all()
    assert seqs(taken) == list(range(1, 11))
    with pytest.raises(DiskFull):
        opened.store.write(Writes(settled=taken))
    disk.capacity_bytes = None
    opened.store.write(Writes(settled=taken))
    assert opened.store.accounts()["a", "normal"] == Account(received=10, delivered=10)
    opened.store.close()
