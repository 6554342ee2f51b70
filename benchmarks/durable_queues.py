"""The durable queues that `buffer.py` measures, with one face: the gateway's, and the least that SQLite asks for.

- `GatewayBuffer`: `DurableBuffer` on a `Store`, with its thread, as `edge-gateway run` opens them;
- `BareLoop`: the standard library's `sqlite3` in one thread, WAL and `synchronous=FULL`, one commit for each batch. It
  is given the JSON ready made, and has no accounts, lanes, messages, caps or sealing. It stores a row for each record,
  as one would write it first, or a row for each batch, as the gateway does: the tightest limit we know.

Every method opens the queue in a directory and closes it, so that bytes counted around it are all there are.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson

from edge_gateway import assembly, buffer
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.clock import Clock, SystemClock, rfc3339
from edge_gateway.config.model import GatewayConfig
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.offload import Offload, run_inline
from edge_gateway.records import Message, Reading, Value

_IN_FLIGHT = 8
"""Messages taken and not confirmed while a queue is drained; `delivery.in_flight` is the same."""
_RECORDS_PER_MESSAGE = 500
_DELETE_WITHIN_S = 0.25
"""How long a confirmed message may wait for its deletion; `buffer.settle_within_s` is the same."""
_CONFIRMED_AFTER_S = 0.02
"""A hub's answer, where a trickle is delivered at once."""
_LOADING_RECORDS = 10
_START_NS = 1_780_000_000_000_000_000


# --- what is put in --------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Records that are made durable together, in both forms."""

    readings: list[Reading]
    documents: list[bytes]
    """What the hub shall get of each, as JSON."""

    @property
    def payload_bytes(self) -> int:
        """Bytes that a queue has to keep."""
        return sum(map(len, self.documents))


def make_batches(size: int, count: int, rng: random.Random, *, devices: int = 20) -> list[Batch]:
    """Readings of climate sensors that drift, each device in its turn, a round of them every 20 ms.

    Those of a round share their time, as what one read of a link brings does. Compression finds no pattern in times and
    uptimes that it would not find in the field.

    Args:
        size: records in each batch.
        count: batches.
        rng: what they measure.
        devices: how many sensors.
    """
    temperatures = [20 + 5 * rng.random() for _ in range(devices)]
    uptimes_ms = [rng.randrange(1 << 31) for _ in range(devices)]
    batteries = [round(2.8 + 0.4 * rng.random(), 3) for _ in range(devices)]
    time_ns = 0
    batches = []
    numbers = iter(range(size * count))
    for _ in range(count):
        readings, documents = [], []
        for _ in range(size):
            turn, device = divmod(next(numbers), devices)
            if device == 0:
                time_ns = _START_NS + turn * 20_000_000 + rng.randrange(20_000) * 1_000
            temperatures[device] += rng.gauss(0, 0.02)
            values: dict[str, Value] = {
                "uptime_ms": uptimes_ms[device] + 20 * turn,
                "temperature": round(temperatures[device], 2),
                "humidity": round(40 + 10 * rng.random(), 2),
                "battery": batteries[device],
                "door_open": False,
                "low_battery": False,
                "mode": "measure",
            }
            reading = Reading(f"sensor-{device + 1}", "reference-climate", time_ns, values)
            readings.append(reading)
            documents.append(_document(reading, turn + 1))
        batches.append(Batch(readings, documents))
    return batches


def _document(reading: Reading, seq: int) -> bytes:
    return orjson.dumps(
        {
            "device": reading.device,
            "profile": reading.profile,
            "seq": seq,
            "time": rfc3339(reading.time_ns),
            "values": reading.values,
        }
    )


class Arrival(NamedTuple):
    """A record that comes by itself."""

    due_s: float
    """After the beginning."""
    batch: Batch


def make_arrivals(per_s: float, seconds: float, rng: random.Random) -> list[Arrival]:
    """Lone records at random moments (a Poisson process), as sensors that know nothing of each other send them."""
    batches = make_batches(1, 500, rng)
    arrivals: list[Arrival] = []
    due_s = rng.expovariate(per_s)
    while due_s < seconds:
        arrivals.append(Arrival(due_s, batches[len(arrivals) % len(batches)]))
        due_s += rng.expovariate(per_s)
    return arrivals


# --- the queues ------------------------------------------------------------------------------------------------------


class DurableQueue(Protocol):
    """What is measured of a queue."""

    name: str

    def append(self, directory: Path, batches: Iterable[Batch], *, producers: int = 1) -> float:
        """Append the batches, each durable before its producer goes on; return seconds without opening and closing."""
        ...

    def append_at(self, directory: Path, arrivals: Sequence[Arrival], *, producers: int) -> list[float]:
        """Append records when they are due; return for each the seconds until it was durable.

        The time begins when the producer gets the record: when it is due, if the producer was still busy with the one
        before, else when the system woke it. How late a system wakes a sleeper is not the queue's.
        """
        ...

    def trickle(self, directory: Path, batches: Iterable[Batch], per_s: float, *, delivering: bool) -> None:
        """Append batches at a steady pace; deliver them at once, or leave them queued."""
        ...

    def start(self, directory: Path, batch: Batch) -> float:
        """Open, and append; return seconds until it was durable."""
        ...

    def drain(self, directory: Path) -> tuple[int, float]:
        """Deliver all that is queued to a hub that is at once content; return how many records, and seconds."""
        ...


class GatewayBuffer:
    """The gateway's buffer, with the settings it ships with."""

    name = "gateway"

    def append(self, directory: Path, batches: Iterable[Batch], *, producers: int = 1) -> float:
        """See `DurableQueue.append`."""

        async def run() -> float:
            async with _opened(directory) as queue:
                source = iter(batches)

                async def produce() -> None:
                    for batch in source:
                        await queue.append(buffer.Batch(batch.readings))

                began_s = time.perf_counter()
                await asyncio.gather(*(produce() for _ in range(producers)))
                return time.perf_counter() - began_s

        return asyncio.run(run())

    def append_at(self, directory: Path, arrivals: Sequence[Arrival], *, producers: int) -> list[float]:
        """See `DurableQueue.append_at`."""

        async def run() -> list[float]:
            async with _opened(directory) as queue:
                # What is loaded for the first record sealed, and for the first compressed, belongs to the start.
                await queue.append(buffer.Batch([arrival.batch.readings[0] for arrival in arrivals[:_LOADING_RECORDS]]))
                started_s = time.perf_counter()
                parts = (_produce(queue, arrivals[first::producers], started_s) for first in range(producers))
                return list(chain.from_iterable(await asyncio.gather(*parts)))

        return asyncio.run(run())

    def trickle(self, directory: Path, batches: Iterable[Batch], per_s: float, *, delivering: bool) -> None:
        """See `DurableQueue.trickle`. In virtual time: what is written depends on timers, and not on the machine."""
        # The test bench weighs 13 MiB, which must not be found in a process whose memory is measured.
        from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

        async def run() -> None:
            clock = VirtualClock(asyncio.get_running_loop())
            async with _opened(directory, clock=clock, offload=run_inline) as queue:
                delivery = asyncio.create_task(_deliver(queue)) if delivering else None
                for batch in batches:
                    await asyncio.sleep(1 / per_s)
                    await queue.append(buffer.Batch(batch.readings))
                if delivery is not None:
                    queue.drain()
                    await queue.emptied()
                    delivery.cancel()

        run_virtual(run())

    def start(self, directory: Path, batch: Batch) -> float:
        """See `DurableQueue.start`."""

        async def run() -> float:
            began_s = time.perf_counter()
            async with _opened(directory) as queue:
                await queue.append(buffer.Batch(batch.readings))
                return time.perf_counter() - began_s

        return asyncio.run(run())

    def drain(self, directory: Path) -> tuple[int, float]:
        """See `DurableQueue.drain`."""

        async def run() -> tuple[int, float]:
            async with _opened(directory) as queue:
                queued, drained = queue.status().totals.queued, 0
                flying: deque[Message] = deque()
                began_s = time.perf_counter()
                while drained < queued:
                    message = await queue.take()
                    drained += message.records
                    flying.append(message)
                    if len(flying) == _IN_FLIGHT:
                        queue.settle(flying.popleft())
                for message in flying:
                    queue.settle(message)
                await queue.flush()
                return drained, time.perf_counter() - began_s

        return asyncio.run(run())


async def _produce(queue: DurableBuffer, arrivals: Iterable[Arrival], started_s: float) -> list[float]:
    """One producer of `GatewayBuffer.append_at`."""
    waits_s = []
    for arrival in arrivals:
        began_s = started_s + arrival.due_s
        if (pause_s := began_s - time.perf_counter()) > 0:
            await asyncio.sleep(pause_s)
            began_s = time.perf_counter()
        await queue.append(buffer.Batch(arrival.batch.readings))
        waits_s.append(time.perf_counter() - began_s)
    return waits_s


async def _deliver(queue: DurableBuffer) -> None:
    """Take messages, and have each confirmed a little later."""
    loop = asyncio.get_running_loop()
    while True:
        loop.call_later(_CONFIRMED_AFTER_S, queue.settle, await queue.take())


def _opened(
    directory: Path, *, clock: Clock | None = None, offload: Offload | None = None
) -> AbstractAsyncContextManager[DurableBuffer]:
    return assembly.open_buffer(_config(directory), clock=clock or SystemClock(), rng=random.Random(1), offload=offload)


def append_to_store(directory: Path, batches: Iterable[Batch]) -> float:
    """Append the batches to the store alone, each in a transaction of its own; return seconds as `append` does.

    No event loop, no thread beside this one, and no waiting for others to share a sync.
    """
    with closing(_open_store(_config(directory))) as store:
        began_s = time.perf_counter()
        for batch in batches:
            store.write(Writes([buffer.Batch(batch.readings)]))
        return time.perf_counter() - began_s


def make_sealer(directory: Path) -> Sealer:
    """What compresses and encrypts payloads in the gateway's store."""
    store = assembly.key_store(_config(directory))
    return Sealer(SealedDataKeys(directory / assembly.DATA_KEYS_DIRECTORY, store))


def _config(directory: Path) -> GatewayConfig:
    """A gateway's, with everything about its buffer as it ships."""
    link = {
        "name": "port",
        "port": {"path": "/dev/null"},
        "profile": "reference-climate",
        "devices": [{"name": "sensor-1", "address": 1}],
    }
    return GatewayConfig.model_validate(
        {
            "gateway": {"name": "benchmark", "data_directory": directory},
            "links": [link],
            "uplink": {"kind": "mqtt", "host": "localhost"},
        }
    )


class BareLoop:
    """SQLite and nothing else.

    Args:
        name: for the report.
        row_per_batch: store a row for each batch instead of one for each record.
    """

    def __init__(self, name: str, *, row_per_batch: bool) -> None:
        self.name = name
        self._row_per_batch = row_per_batch

    def append(self, directory: Path, batches: Iterable[Batch], *, producers: int = 1) -> float:  # noqa: ARG002  # it is one
        """See `DurableQueue.append`. One producer takes the place of all."""
        with self._opened(directory) as db:
            began_s = time.perf_counter()
            for batch in batches:
                self._commit(db, [batch])
            return time.perf_counter() - began_s

    def append_at(self, directory: Path, arrivals: Sequence[Arrival], *, producers: int) -> list[float]:  # noqa: ARG002  # as above
        """See `DurableQueue.append_at`. All that came during a commit share the next one."""
        waits_s: list[float] = []
        with self._opened(directory) as db:
            started_s = time.perf_counter()
            done = 0
            while done < len(arrivals):
                pause_s = started_s + arrivals[done].due_s - time.perf_counter()
                if pause_s > 0:
                    time.sleep(pause_s)
                now_s, end = time.perf_counter(), done
                while end < len(arrivals) and started_s + arrivals[end].due_s <= now_s:
                    end += 1
                self._commit(db, [arrival.batch for arrival in arrivals[done:end]])
                durable_s = time.perf_counter()
                waits_s += (
                    durable_s - (now_s if pause_s > 0 else started_s + arrival.due_s) for arrival in arrivals[done:end]
                )
                done = end
        return waits_s

    def trickle(self, directory: Path, batches: Iterable[Batch], per_s: float, *, delivering: bool) -> None:  # noqa: ARG002  # as below
        """See `DurableQueue.trickle`. Without a pace: nothing here goes by time."""
        with self._opened(directory) as db:
            for batch in batches:
                self._commit(db, [batch], delivered=delivering)
            if delivering:
                self._commit(db, [], delivered=True)

    def start(self, directory: Path, batch: Batch) -> float:
        """See `DurableQueue.start`."""
        began_s = time.perf_counter()
        with self._opened(directory) as db:
            self._commit(db, [batch])
            return time.perf_counter() - began_s

    def drain(self, directory: Path) -> tuple[int, float]:
        """See `DurableQueue.drain`."""
        with self._opened(directory) as db:
            last = drained = 0
            began_s = deleted_s = time.perf_counter()
            while True:
                parts, records = [], 0
                for row in db.execute("SELECT * FROM record WHERE id > ? ORDER BY id", (last,)):
                    last, count, body = row
                    parts.append(body)
                    records += count
                    if records >= _RECORDS_PER_MESSAGE:
                        break
                _ = b"[" + b",".join(parts) + b"]"
                drained += records
                now_s = time.perf_counter()
                if not parts or now_s > deleted_s + _DELETE_WITHIN_S:
                    db.execute("DELETE FROM record WHERE id <= ?", (last,))
                    deleted_s = now_s
                if not parts:
                    return drained, time.perf_counter() - began_s

    @contextmanager
    def _opened(self, directory: Path) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(directory / f"{self.name}.db", isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("CREATE TABLE IF NOT EXISTS record(id INTEGER PRIMARY KEY, records INTEGER, body BLOB)")
            yield db

    def _commit(self, db: sqlite3.Connection, batches: Sequence[Batch], *, delivered: bool = False) -> None:
        """One transaction: the batches, and before them the deletion of all that is there, if it has been delivered."""
        if self._row_per_batch:
            documents = list(chain.from_iterable(batch.documents for batch in batches))
            rows = [(len(documents), b",".join(documents))] if documents else []
        else:
            rows = [(1, document) for batch in batches for document in batch.documents]
        db.execute("BEGIN")
        if delivered:
            db.execute("DELETE FROM record")
        db.executemany("INSERT INTO record(records, body) VALUES (?, ?)", rows)
        db.execute("COMMIT")


GATEWAY = GatewayBuffer()
ROWS = BareLoop("rows", row_per_batch=False)
BATCHES = BareLoop("batches", row_per_batch=True)
QUEUES: tuple[DurableQueue, ...] = (GATEWAY, ROWS, BATCHES)


def _open_store(config: GatewayConfig) -> Store:
    return assembly.open_store(config, clock=SystemClock(), rng=random.Random(1), keys=assembly.key_store(config))
