"""A short life of the real buffer on a disk that remembers: all it does, in an order and at times drawn from a seed.

`DurableBuffer` on `Store`, in virtual time: appends alone and together, readings, alerts, rejects and records too large
for any message, messages taken and settled in any order, rewinds, pauses, checkpoints of every kind, and a restart in
between. The log is checkpointed by itself every few pages instead of every thousand, and its file kept short, so that
the rare paths are common.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from edge_gateway.buffer.durable import DurableBuffer, run_inline
from edge_gateway.records import Event, Message, Reading, Value
from edge_gateway.testbench.power_cut.disk_model import Files
from edge_gateway.testbench.power_cut.memory_disk import MemoryDisk, Operation, Said
from edge_gateway.testbench.power_cut.witness import SETTINGS, State, Witness, WitnessedStore
from edge_gateway.testbench.virtual_time import START_NS, run_virtual

DEVICES: Final = ("boiler", "door", "pump")

_SESSIONS: Final = 2
_STEPS: Final = 40
"""Of each session."""

_PATIENCE_S: Final = 1.0
"""Longer than a message waits for company."""


@dataclass(frozen=True)
class Conditions:
    """What a run of the machine is done with; the product's own by default."""

    store: type[WitnessedStore] = WitnessedStore
    synchronous: str = "FULL"


@dataclass(frozen=True)
class Life:
    """All that happened between the first opening and the last closing."""

    began_with: Files
    log: Sequence[Operation | Said]
    states: Sequence[State]


def live(disk: MemoryDisk, files: Files, state: State, seed: str, *, first_number: int, conditions: Conditions) -> Life:
    """Run the workload.

    Args:
        disk: where; what is on it is replaced.
        files: what it begins with.
        state: what these hold.
        seed: draws everything.
        first_number: of the records, which count up from it.
        conditions: what it is done with.
    """
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    disk.load(files, rng.getrandbits(32))
    witness = Witness(disk.log, state)
    numbers = count(first_number)
    for _ in range(_SESSIONS):
        pragmas = (
            f"synchronous = {conditions.synchronous}",
            f"wal_autocheckpoint = {rng.choice((4, 12, 30, 1000))}",
            f"journal_size_limit = {rng.choice((0, 30_000, 8_388_608))}",
        )
        store = conditions.store(disk, witness, rng=rng, pragmas=pragmas)
        run_virtual(_watched_session(store, witness, numbers, rng))
    return Life(files, disk.log, witness.states)


async def _watched_session(store: WitnessedStore, witness: Witness, numbers: count[int], rng: random.Random) -> None:
    """From an opening to a closing; what breaks the buffer is raised instead of waited for."""
    async with DurableBuffer(store, settle_within_s=SETTINGS.settle_within_s, offload=run_inline) as buffer:
        broken = asyncio.create_task(buffer.watch(), name="power cut: broken buffer")
        session = asyncio.create_task(_session(buffer, store, witness, numbers, rng), name="power cut: workload")
        await asyncio.wait((session, broken), return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            session.cancel()
            await broken
        broken.cancel()
        await session


async def _session(
    buffer: DurableBuffer, store: WitnessedStore, witness: Witness, numbers: count[int], rng: random.Random
) -> None:
    in_flight: list[Message] = []
    settled: list[Message] = []

    async def append() -> None:
        records = [_record(next(numbers), rng) for _ in range(rng.choice((0, 1, 1, 2, 5, 12)))]
        rejected = [(rng.choice(DEVICES), rng.randint(1, 3))] if rng.random() < 0.1 else []
        await buffer.append(records, rejected)
        witness.acknowledged(records)

    async def take() -> None:
        for _ in range(rng.choice((1, 2, 6))):
            try:
                in_flight.append(await asyncio.wait_for(buffer.take(), _PATIENCE_S))
            except TimeoutError:
                return

    def settle() -> None:
        for _ in range(min(len(in_flight), rng.choice((1, 2, 8)))):
            message = in_flight.pop(rng.randrange(len(in_flight)))
            settled.append(message)
            buffer.settle(message)

    for _ in range(_STEPS):
        match rng.choices(
            ("append", "together", "take", "settle", "flush", "wait", "rewind", "checkpoint"),
            (10, 4, 7, 7, 1, 2, 1, 1),
        )[0]:
            case "append":
                await append()
            case "together":
                await asyncio.gather(*(append() for _ in range(rng.randint(2, 4))))
            case "take":
                await take()
            case "settle":
                settle()
            case "flush":
                await buffer.flush()
                witness.acknowledged((), settled)
            case "wait":
                await asyncio.sleep(rng.random())
            case "rewind":
                in_flight.clear()
                buffer.rewind()
            case "checkpoint":
                store.checkpoint(rng.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE")))


def _record(number: int, rng: random.Random) -> Reading | Event:
    """A record of 100 bytes or some hundred; of all, one in a hundred too large for any message."""
    device = rng.choice(DEVICES)
    padding = rng.choices((0, rng.randint(0, 600), 2 * SETTINGS.max_message_bytes), (60, 39, 1))[0]
    values: dict[str, Value] = {"n": number, "padding": "x" * padding}
    if rng.random() < 0.2:
        return Event(device, "hot", "alert-raised", START_NS, values)
    return Reading(device, "climate", START_NS, values)
