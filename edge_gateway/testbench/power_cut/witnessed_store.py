"""The product's store, with a witness who hears every call."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.buffer.transaction import Transaction
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.records import Message
from edge_gateway.testbench.power_cut.contents import contents_of
from edge_gateway.testbench.power_cut.keys import Nonces, NotedKeys, WatchedSealer
from edge_gateway.testbench.power_cut.memory_disk import MemoryDisk
from edge_gateway.testbench.power_cut.witness import Witness
from edge_gateway.testbench.power_cut.world import WorldClock

STORE_PATH = "/power-cut/buffer.db"


class WitnessedStore(Store):
    """A store under watch, that can be told to do what it otherwise does rarely.

    Args:
        disk: where it lives.
        witness: who hears.
        settings: lanes and limits.
        keys: data keys.
        clock: of the machine that it runs on.
        rng: makes the store's id if there is no store yet, and salts.
        pragmas: SQLite settings that differ from the product's.
    """

    def __init__(
        self,
        disk: MemoryDisk,
        witness: Witness,
        settings: BufferSettings,
        *,
        keys: NotedKeys,
        clock: WorldClock,
        rng: random.Random,
        pragmas: Sequence[str],
    ) -> None:
        self._witness = witness
        self._settings = settings
        self._world_clock = clock
        self._keys = keys
        self._pragmas = pragmas
        self._is_heard = True
        super().__init__(
            STORE_PATH,
            settings,
            sealer=self.make_sealer(keys, rng, witness.nonces),
            clock=clock,
            rng=rng,
            vfs=disk.name,
        )
        witness.rewound()

    @staticmethod
    def make_sealer(keys: NotedKeys, rng: random.Random, nonces: Nonces) -> Sealer:
        """What this opening seals with."""
        return WatchedSealer(keys, random_bytes=rng.randbytes, nonces=nonces)

    def _open(self) -> None:
        super()._open()
        for pragma in self._pragmas:
            self._shelf.db.execute(f"PRAGMA {pragma}")

    def write(self, writes: Writes) -> list[LaneFull | None]:
        """See `Store.write`."""
        return self.heard(writes, lambda: super(WitnessedStore, self).write(writes))

    def _transact(self, steps: Callable[[Transaction], list[LaneFull | None]]) -> list[LaneFull | None]:
        # Also those transactions that nobody has asked for.
        return self.heard(Writes(), lambda: super(WitnessedStore, self)._transact(steps))

    def heard(self, writes: Writes, call: Callable[[], list[LaneFull | None]]) -> list[LaneFull | None]:
        """Do what shall be one transaction, and tell the witness, unless this is part of another one."""
        if not self._is_heard:
            return call()
        self._witness.begins(writes)
        with self.unheard():
            refused = call()
            seen = contents_of(self)
        self._witness.returned(writes, refused, seen, settings=self._settings, clock=self._world_clock)
        return refused

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Within this the witness hears nothing."""
        before, self._is_heard = self._is_heard, False
        try:
            yield
        finally:
            self._is_heard = before

    def take(
        self, *, wait_for_more: bool = True, lanes: Collection[tuple[str, str]] | None = None
    ) -> Message | float | None:
        """See `Store.take`."""
        taken = super().take(wait_for_more=wait_for_more, lanes=lanes)
        if isinstance(taken, Message):
            self._witness.given(taken)
        return taken

    def rewind(self, route: str | None = None) -> None:
        """See `Store.rewind`."""
        super().rewind(route)
        self._witness.rewound(route)

    def tidy(self) -> None:
        """`Store.tidy` as for a large database, however small this one is."""
        if self._shelf.space.free_pages():
            self._shelf.db.execute("VACUUM")

    def checkpoint(self, mode: str) -> None:
        """Move the log into the database: PASSIVE, FULL, RESTART or TRUNCATE."""
        self._shelf.db.execute(f"PRAGMA wal_checkpoint({mode})")
