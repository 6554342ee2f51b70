"""A short life of the real buffer on a disk that remembers: all it does, in an order and at times drawn from a seed.

`DurableBuffer` on `Store`, in virtual time: appends alone and together to all lanes and some routes, bad frames,
replays, notes, rejects and records too large for any message, messages taken and settled in any order, rewinds of one
route or of all, pauses of a second and of a day, a clock that is set late, new keys, checkpoints of every kind, VACUUM,
and a restart in between: of the process or of the machine, now and then with another configuration. The log is
checkpointed by itself every few pages instead of every thousand, and its file kept short, so that the rare paths are
common.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.offload import run_inline
from edge_gateway.records import Message
from edge_gateway.testbench.power_cut.contents import NOTES
from edge_gateway.testbench.power_cut.disk_model import Files
from edge_gateway.testbench.power_cut.keys import Nonces, NotedKeys
from edge_gateway.testbench.power_cut.memory_disk import Given, MemoryDisk, Operation, Said
from edge_gateway.testbench.power_cut.offers import DEVICES, LINKS, Offers
from edge_gateway.testbench.power_cut.settings import ROUTES, settings_of_a_session
from edge_gateway.testbench.power_cut.state import State
from edge_gateway.testbench.power_cut.witness import Witness
from edge_gateway.testbench.power_cut.witnessed_store import WitnessedStore
from edge_gateway.testbench.power_cut.world import WorldClock
from edge_gateway.testbench.virtual_time import START_NS, run_virtual

_SESSIONS: Final = 2
_STEPS: Final = 40
"""Of each session."""

_PATIENCE_S: Final = 1.0
"""Longer than a message waits for company."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Conditions:
    """What a run of the machine is done with; the product's own by default."""

    store: type[WitnessedStore] = WitnessedStore
    synchronous: str = "FULL"


@dataclass(frozen=True)
class Beginning:
    """What a life begins with."""

    files: Files = field(default_factory=dict)
    state: State = field(default_factory=State)
    given: dict[str, Given] = field(default_factory=dict)
    """Messages that have left the store in earlier lives, by id."""
    key_ids: tuple[int, ...] = ()
    true_ns: int = START_NS
    offers: Offers = field(default_factory=Offers)
    """Of the whole chain, as are the nonces."""
    nonces: Nonces = field(default_factory=Nonces)


@dataclass(frozen=True)
class Life:
    """All that happened between the first opening and the last closing."""

    log: Sequence[Operation | Said]
    states: Sequence[State]
    end_ns: int
    """The true time at its end."""


def live(disk: MemoryDisk, beginning: Beginning, seed: str, *, conditions: Conditions) -> Life:
    """Run the workload.

    Args:
        disk: where; what is on it is replaced.
        beginning: what it begins with.
        seed: draws everything.
        conditions: what it is done with.
    """
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    disk.load(beginning.files, rng.getrandbits(32))
    witness = Witness(
        disk.log,
        beginning.state,
        offers=beginning.offers,
        nonces=beginning.nonces,
        given=((each.lane, each.route, each.number) for each in beginning.given.values()),
    )
    keys = NotedKeys(disk.log, beginning.key_ids)
    clock = WorldClock(f"boot-{seed}", beginning.true_ns, trusted=rng.random() < 0.5)
    for session in range(_SESSIONS):
        if session and rng.random() < 0.5:
            clock.reboot(rng.choice((1.0, 60.0, 4000.0)), trusted=rng.random() < 0.5)
        run_virtual(_watched_session(disk, witness, keys, clock, rng, conditions))
    return Life(disk.log, witness.states, clock.true_ns())


async def _watched_session(
    disk: MemoryDisk, witness: Witness, keys: NotedKeys, clock: WorldClock, rng: random.Random, conditions: Conditions
) -> None:
    """From an opening to a closing; what breaks the buffer is raised instead of waited for."""
    clock.follow(asyncio.get_running_loop())
    settings = settings_of_a_session(rng)
    pragmas = (
        f"synchronous = {conditions.synchronous}",
        f"wal_autocheckpoint = {rng.choice((4, 12, 30, 1000))}",
        f"journal_size_limit = {rng.choice((0, 30_000, 8_388_608))}",
    )
    store = conditions.store(disk, witness, settings, keys=keys, clock=clock, rng=rng, pragmas=pragmas)
    async with DurableBuffer(
        store,
        settle_within_s=settings.settle_within_s,
        commit_within_s=settings.commit_within_s,
        offload=run_inline,
    ) as buffer:
        session = _Session(buffer, store, witness, settings, clock, rng)
        broken = asyncio.create_task(buffer.watch(), name="power cut: broken buffer")
        steps = asyncio.create_task(session.run(), name="power cut: workload")
        await asyncio.wait((steps, broken), return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            steps.cancel()
            await broken
        broken.cancel()
        await steps


class _Session:
    """What is done with a buffer from an opening to a closing."""

    def __init__(
        self,
        buffer: DurableBuffer,
        store: WitnessedStore,
        witness: Witness,
        settings: BufferSettings,
        clock: WorldClock,
        rng: random.Random,
    ) -> None:
        self._buffer = buffer
        self._store = store
        self._witness = witness
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._reading_lanes = [lane.name for lane in settings.lanes if lane.name != settings.event_lane]
        self._in_flight: list[Message] = []
        self._settled: list[Message] = []

    async def run(self) -> None:
        """Do so many things, one after the other."""
        rng = self._rng
        uplink = rng.choice((1, 4, 8))
        weights = (14, 5, 1, uplink, uplink, 1, 4, 1, 1, 1, 2)
        for _ in range(_STEPS):
            match rng.choices(
                ("append", "together", "replay", "take", "settle", "flush", "wait", "rewind", "clock", "key", "disk"),
                weights,
            )[0]:
                case "append":
                    await self._append()
                case "together":
                    await asyncio.gather(*(self._append() for _ in range(rng.randint(2, 4))))
                case "replay":
                    await self._replay()
                case "take":
                    await self._take()
                case "settle":
                    self._settle()
                case "flush":
                    await self._buffer.flush()
                    self._witness.confirmed(self._settled)
                case "wait":
                    await asyncio.sleep(
                        rng.choice((rng.random(), rng.random(), 8 * rng.random(), 30.0, 3000.0, 100_000.0))
                    )
                case "rewind":
                    self._rewind()
                case "clock":
                    self._clock.trusted = True
                case "key":
                    await self._buffer.rotate_key()
                case "disk" if rng.random() < 0.3:
                    self._store.tidy()
                case "disk":
                    self._store.checkpoint(rng.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE")))

    async def _append(self, replays: Sequence[int] = ()) -> None:
        rng, offers = self._rng, self._witness.offers
        records = [offers.record(self._clock, rng) for _ in range(rng.choice((0, 1, 1, 2, 5, 12)))]
        bad: list[BadFrame] = [
            offers.frame(self._clock, rng) for _ in range(self._seldom(0.15, lambda: rng.choice((1, 2, 6)), 0))
        ]
        nothing_rejected: list[tuple[str, int]] = []
        rejected = self._seldom(0.1, lambda: [(rng.choice((*DEVICES, *LINKS)), rng.randint(1, 3))], nothing_rejected)
        no_notes: dict[str, str] = {}
        notes = self._seldom(0.1, lambda: {rng.choice(NOTES): f"note {rng.random()}"}, no_notes)
        lane = rng.choice(("", *self._reading_lanes))
        batch = Batch(records, lane, bad, rejected, replays, notes, rng.choice(ROUTES))
        with suppress(LaneFull):  # only readings can be refused; all else of the batch is durable
            await self._buffer.append(batch)
        self._witness.acknowledged(batch)

    async def _replay(self) -> None:
        """A profile was mended: some bad frames are tried again."""
        chunks = await self._buffer.read_chunks(quarantine=True)
        await self._append([chunk.id for chunk in chunks if self._rng.random() < 0.5])

    async def _take(self) -> None:
        outlet = self._buffer.route(self._rng.choice(ROUTES))
        for _ in range(self._rng.choice((1, 2, 6))):
            try:
                self._in_flight.append(await asyncio.wait_for(outlet.take(), _PATIENCE_S))
            except TimeoutError:
                return

    def _rewind(self) -> None:
        """The session of one route, or of all, has ended."""
        for route in self._rng.choice((ROUTES, *((each,) for each in ROUTES))):
            self._in_flight = [message for message in self._in_flight if message.route != route]
            self._buffer.route(route).rewind()

    def _settle(self) -> None:
        for _ in range(min(len(self._in_flight), self._rng.choice((1, 2, 8)))):
            message = self._in_flight.pop(self._rng.randrange(len(self._in_flight)))
            self._settled.append(message)
            self._buffer.settle(message)

    def _seldom(self, share: float, make: Callable[[], _T], otherwise: _T) -> _T:
        return make() if self._rng.random() < share else otherwise
