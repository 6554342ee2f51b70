"""Whatever the disk does, the store keeps what it has acknowledged, and goes on by itself when the disk does.

A short life of the store is lived once on a sound disk, to count what it asks the disk for. Then it is lived again and
again, each time with another of these calls failing. What fails is told by `BufferUnavailable` alone and offered again
later, as the gateway does. At the end the disk is sound, and the hub has to have every acknowledged record, once and in
order, and the account has to balance.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import apsw
import orjson
import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.store import Store
from edge_gateway.errors import BufferUnavailable
from edge_gateway.offload import Worker, run_inline
from edge_gateway.records import Event, Message, Reading, Value
from edge_gateway.testbench.failing_disk import Answer, Call, FailingDisk, Fault, Lost, failing_disk
from edge_gateway.testbench.virtual_time import run_virtual

from .conftest import NOW_NS, OpenStore, reading, writes

STEPS: Final = 24
"""Of a life."""

TROUBLE_STEPS: Final = 6
"""So long a disk fails that does not come back by itself."""

DEVICES: Final = ("boiler", "door", "pump")


End: TypeAlias = Callable[[FailingDisk], None]
"""What a process ends by."""


class Life:
    """What a gateway does with its store, in an order drawn from a seed; what it was told, and what the hub got.

    Args:
        open_it: opens the store.
        seed: draws the steps, which are the same whatever the disk does.
    """

    def __init__(self, open_it: Callable[[], Store], seed: int) -> None:
        self._open_it = open_it
        self._rng = random.Random(seed)
        self._numbers = count(1)
        self._store: Store | None = None
        self._offered: list[Reading | Event] = []
        """What no write has acknowledged yet; it is offered again, in order."""
        self._confirmed: list[Message] = []
        """What the hub has and no write has removed yet."""
        self.acknowledged: list[int] = []
        self.unsure: set[int] = set()
        """Records that were offered when the process was killed: nobody was told, so they may be there or not."""
        self.hub: dict[str, bytes] = {}
        """The messages that arrived, by id."""
        self.faults: list[str] = []
        self.troubles: list[str] = []
        """What was raised."""

    def step(self) -> None:
        """Do something; an unavailable store is no reason to stop."""
        what = self._rng.choices(("append", "take", "settle", "rewind", "restart"), (10, 6, 5, 1, 1))[0]
        records = [self._record() for _ in range(self._rng.choice((1, 1, 2, 5)))]
        try:
            if self._store is None:
                self._store = self._open_it()
            match what:
                case "append":
                    self._offered += records
                    self._write()
                case "take":
                    self._take(3)
                case "settle":
                    self._write()
                case "rewind":
                    self._store.rewind()
                    self._confirmed.clear()
                case "restart":
                    self._end()
        except BufferUnavailable as error:
            self.troubles.append(str(error))

    def kill(self) -> None:
        """The process is gone, and with it what only it knew. The disk has been told already."""
        try:
            self._end()
        except BufferUnavailable as error:
            self.troubles.append(str(error))

    def finish(self) -> list[str]:
        """Deliver everything, on a disk that is sound, and return what is wrong in the end."""
        if self._store is None:
            self._store = self._open_it()
        self._write()
        while self._take(1):
            self._write()
        in_memory = self._store.totals()
        self._end()
        self._store = self._open_it()
        accounts = self._store.accounts()
        self._end()
        arrived = self._arrived()
        for (device, _), account in accounts.items():
            if account.balance() or account.queued:
                self.faults.append(f"{device}: {account}")
        if not len(arrived) == sum(account.delivered for account in accounts.values()) == in_memory.delivered:
            self.faults.append(f"{len(arrived)} arrived, in memory {in_memory}, on disk {accounts}")
        lost = sorted(set(self.acknowledged) - set(arrived))
        if len(lost) > in_memory.evicted:
            self.faults.append(f"acknowledged and lost: {lost}, of which {in_memory.evicted} were evicted")
        if invented := sorted(set(arrived) - set(self.acknowledged) - self.unsure):
            self.faults.append(f"arrived and never acknowledged: {invented}")
        if len(set(arrived)) < len(arrived):
            self.faults.append(f"arrived twice, under different ids: {arrived}")
        return self.faults

    def _end(self) -> None:
        self.unsure.update(map(number_of, self._offered))
        self._offered.clear()
        self._confirmed.clear()
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _write(self) -> None:
        assert self._store is not None
        self._store.write(writes(list(self._offered), settled=self._confirmed))
        self.acknowledged += map(number_of, self._offered)
        self._offered.clear()
        self._confirmed.clear()

    def _take(self, most: int) -> bool:
        assert self._store is not None
        for _ in range(most):
            message = self._store.take(wait_for_more=False)
            if not isinstance(message, Message):
                return False
            if self.hub.setdefault(message.id, message.body) != message.body:
                self.faults.append(f"message {message.id} came with other bytes than before")
            self._confirmed.append(message)
        return True

    def _arrived(self) -> list[int]:
        """Numbers of the records, repeated messages dropped."""
        numbers = []
        last: defaultdict[tuple[str, bool], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for body in self.hub.values():
            for document in orjson.loads(body):
                number = document["values"]["n"]
                numbers.append(number)
                queue, place = (document["device"], "event" in document), (document["seq"], number)
                if not (place[0] > last[queue][0] and place[1] > last[queue][1]):
                    self.faults.append(f"out of order: {queue} has {place} after {last[queue]}")
                last[queue] = place
        return numbers

    def _record(self) -> Reading | Event:
        device = self._rng.choice(DEVICES)
        padding = self._rng.randbytes(self._rng.choice((0, 50, 2000))).hex()  # compression does not make it small
        values: dict[str, Value] = {"n": next(self._numbers), "padding": padding}
        if self._rng.random() < 0.2:
            return Event(device, "hot", "alert-raised", NOW_NS, values)
        return Reading(device, "climate", NOW_NS, values)


def number_of(record: Reading | Event) -> int:
    number = record.values["n"]
    assert isinstance(number, int)
    return number


class Bench:
    """Lives lives, each in a new store on the same disk.

    Args:
        disk: sound between two lives.
        open_store: opens the store.
        directory: where the store is.
    """

    def __init__(self, disk: FailingDisk, open_store: OpenStore, directory: Path) -> None:
        self.disk = disk
        self._open_store = open_store
        self._directory = directory

    def open_it(self) -> Store:
        """Open the store so that a short life comes to everything: reads, checkpoints, and a log that is cut short."""
        store = self._open_store(vfs=self.disk.name, max_records_per_message=8, max_message_bytes=8192)
        for connection in apsw.connections():
            if Path(connection.filename).parent == self._directory:
                for pragma in ("cache_size = 2", "wal_autocheckpoint = 12", "journal_size_limit = 0"):
                    connection.execute(f"PRAGMA {pragma}")
        return store

    def empty(self) -> None:
        """Begin anew."""
        for file in self._directory.iterdir():
            file.unlink()
        self.disk.calls.clear()
        self.disk.refused.clear()

    def files(self) -> list[str]:
        """Their names."""
        return [file.name for file in self._directory.iterdir()]

    def live(
        self,
        *faults: Fault,
        seed: int = 1,
        capacity_bytes: int | None = None,
        ends: Mapping[int, End] = MappingProxyType({}),
    ) -> Life:
        """Live a life on a disk with these faults.

        Args:
            faults: those without an end are mended some steps after the first of them was met.
            seed: draws the steps.
            capacity_bytes: of a disk that is small until the end.
            ends: how the process ends, and goes on in a new one, by the number of steps since the disk was mended.
        """
        self.empty()
        disk = self.disk
        disk.faults, disk.capacity_bytes = faults, capacity_bytes
        trouble_steps = 1 if all(fault.last for fault in faults) else TROUBLE_STEPS
        life = Life(self.open_it, seed)
        troubled = deaths = 0
        disk.deaths = 0
        for _ in range(STEPS):
            life.step()
            troubled += bool(disk.refused)
            if troubled == trouble_steps:
                disk.faults = ()  # and nothing else: the disk stays small, or slow
            if (end := ends.get(troubled - trouble_steps)) is not None:
                end(disk)
            if disk.deaths > deaths:
                deaths = disk.deaths
                life.kill()
        disk.mend()
        return life

    def calls(self, *calls: Call, seed: int = 1) -> range:
        """The numbers of all calls of these kinds that a life on a sound disk makes."""
        life = self.live(seed=seed)
        number = sum(self.disk.calls[call] for call in calls)
        assert life.finish() == []
        assert life.troubles == []
        return range(1, number + 1)


@pytest.fixture
def bench(tmp_path: Path, open_store: OpenStore) -> Iterator[Bench]:
    with failing_disk("failing-disk") as disk:
        yield Bench(disk, open_store, tmp_path)


FOR_ALL_WRITES: Final = frozenset({Call.OPEN, Call.WRITE, Call.TRUNCATE, Call.SYNC, Call.DELETE})
"""What a read-only disk refuses."""

KILLED, CUT = FailingDisk.kill, FailingDisk.cut_power


def killed_and_cut_at_sync(number: int) -> End:
    """Killed now; in the next life the power fails in the middle of that sync."""

    def end(disk: FailingDisk) -> None:
        countdown = iter(range(number - 1, -1, -1))

        def cut() -> None:
            if next(countdown, None) == 0:
                disk.cut_power()

        disk.kill()
        disk.slow_sync = cut

    return end


@pytest.mark.parametrize("partly", [False, True], ids=["nothing-of-it", "half-of-it"])
def test_a_disk_that_fills_up_at_any_write(bench: Bench, partly: bool) -> None:
    """From any write on there is no room until some is freed: nothing is lost, and the store goes on by itself."""
    for number in bench.calls(Call.WRITE):
        life = bench.live(Fault({Call.WRITE}, Answer.NO_SPACE, first=number, partly=partly))
        assert life.finish() == [], number


@pytest.mark.parametrize("call", [Call.WRITE, Call.READ, Call.TRUNCATE])
@pytest.mark.parametrize("once", [True, False], ids=["once", "until-mended"])
def test_an_io_error_at_any_call(bench: Bench, call: Call, once: bool) -> None:
    """An input/output error costs nothing that was acknowledged, wherever it strikes, and heals with the disk."""
    for number in bench.calls(call):
        life = bench.live(Fault({call}, Answer.IO_ERROR, first=number, last=number if once else None))
        assert life.finish() == [], number


def test_a_disk_that_turns_read_only_at_any_call(bench: Bench) -> None:
    """From any call on the disk is read-only, for files that are open too, until it is mounted writable again."""
    for number in bench.calls(*FOR_ALL_WRITES):
        life = bench.live(Fault(FOR_ALL_WRITES, Answer.READ_ONLY, first=number))
        assert life.finish() == [], number


@pytest.mark.parametrize("capacity_kib", range(8, 36, 4))
def test_a_small_disk(bench: Bench, capacity_kib: int) -> None:
    """On a disk that is full for most of a life, what was acknowledged arrives or is counted as evicted."""
    life = bench.live(capacity_bytes=capacity_kib << 10)
    assert life.finish() == []
    assert bench.disk.refused[Call.WRITE], "the disk was never full"


@pytest.mark.parametrize("lost", Lost)
@pytest.mark.parametrize("once", [True, False], ids=["once", "until-mended"])
def test_a_sync_that_fails(bench: Bench, lost: Lost, once: bool) -> None:
    """While the process lives, a failed sync costs nothing, whatever the kernel makes of the pages."""
    for number in bench.calls(Call.SYNC):
        life = bench.live(Fault({Call.SYNC}, Answer.IO_ERROR, first=number, last=number if once else None, lost=lost))
        assert life.finish() == [], number


@pytest.mark.parametrize("lost", Lost)
@pytest.mark.parametrize(
    "ends",
    [
        {2: CUT},
        {0: KILLED},
        {0: KILLED, 2: CUT},
        {1: CUT, 4: KILLED},
        *({0: killed_and_cut_at_sync(number)} for number in (2, 4)),
    ],
    ids=["cut", "killed", "killed-and-cut", "cut-and-killed", *(f"killed-and-cut-at-sync-{n}" for n in (2, 4))],
)
@pytest.mark.parametrize(("once", "seed"), [(True, 2), (False, 6)], ids=["once", "until-mended"])
def test_a_sync_that_fails_and_then_an_end(
    bench: Bench, lost: Lost, ends: Mapping[int, End], once: bool, seed: int
) -> None:
    """A new process may find on the disk, or in the kernel's memory alone, what the old one was told has failed."""
    for number in bench.calls(Call.SYNC, seed=seed):
        fault = Fault({Call.SYNC}, Answer.IO_ERROR, first=number, last=number if once else None, lost=lost)
        assert bench.live(fault, seed=seed, ends=ends).finish() == [], number


def test_a_store_that_opens_has_its_log(bench: Bench) -> None:
    """Whichever sync fails while the store is made: it does not open, or it works with a log as it always does."""
    for number in range(1, 6):
        bench.empty()
        bench.disk.faults = [Fault({Call.SYNC}, Answer.IO_ERROR, first=number, last=number)]
        try:
            store = bench.open_it()
        except BufferUnavailable:
            continue
        files = sorted(bench.files())
        store.close()
        assert files == ["buffer.db", "buffer.db-wal"], number


RECORDS: Final = 60


def test_the_buffer_goes_on_by_itself(bench: Bench) -> None:
    """Ten minutes without room, then ten read-only, in virtual time: all that was appended arrives in the end."""

    async def main() -> None:
        arrived: list[int] = []
        refusals: list[int] = []
        clean = asyncio.Event()

        async def deliver() -> None:
            while True:
                message = await buffer.take()
                arrived.extend(document["values"]["x"] for document in orjson.loads(message.body))
                buffer.settle(message)
                if len(arrived) == RECORDS:
                    clean.set()

        loop = asyncio.get_running_loop()
        store = bench.open_it()
        async with (
            asyncio.timeout(7200),  # or a buffer that never goes on would be tried for ever
            DurableBuffer(store, settle_within_s=0.25, commit_within_s=0.01, offload=run_inline) as buffer,
        ):
            delivery = asyncio.create_task(deliver(), name="delivery")
            for number in range(RECORDS):
                match number:
                    case 20:
                        bench.disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE)]
                        loop.call_later(600, bench.disk.mend)
                    case 40:
                        bench.disk.faults = [Fault(FOR_ALL_WRITES, Answer.READ_ONLY)]
                        loop.call_later(600, bench.disk.mend)
                while True:
                    try:
                        await buffer.append(Batch([reading(value=number)]))
                        break
                    except BufferUnavailable:
                        refusals.append(number)
                        await asyncio.sleep(10)
                await asyncio.sleep(1)
            await clean.wait()
            await buffer.flush()
            delivery.cancel()
            assert refusals == [20] * 60 + [40] * 60
            assert arrived == list(range(RECORDS))
            totals = buffer.status().totals
            assert (totals.received, totals.delivered, totals.queued) == (RECORDS, RECORDS, 0)
            assert not buffer.status().fault

    run_virtual(main())


async def test_a_slow_disk_stops_nobody_else(bench: Bench) -> None:
    """While a sync takes its time the event loop runs on; the append returns when the sync does."""
    loop = asyncio.get_running_loop()
    waiting, go_on = asyncio.Event(), threading.Event()

    def slow_sync() -> None:
        loop.call_soon_threadsafe(waiting.set)
        go_on.wait()

    store = bench.open_it()
    with Worker("slow disk") as offload:
        async with (
            asyncio.timeout(60),
            DurableBuffer(store, settle_within_s=0.25, commit_within_s=0.0, offload=offload) as buffer,
        ):
            bench.disk.slow_sync = slow_sync
            append = asyncio.create_task(buffer.append(Batch([reading()])), name="append")
            await waiting.wait()
            assert not append.done()
            assert buffer.status().totals.received == 0
            go_on.set()
            await append
            assert buffer.status().totals.received == 1
