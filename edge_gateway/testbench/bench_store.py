"""A store for tests and benches: keys in memory, limits at their defaults."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store
from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret


class MemoryDataKeys:
    """`DataKeys` that live as long as this object; key number n is made of n alone, so any two of these are alike."""

    def __init__(self, ids: tuple[int, ...] = (1,)) -> None:
        self._ids = list(ids)

    def ids(self) -> list[int]:
        """See `DataKeys.ids`."""
        return list(self._ids)

    def create(self) -> int:
        """See `DataKeys.create`."""
        self._ids.append(max(self._ids, default=0) + 1)
        return self._ids[-1]

    def open(self, key_id: int) -> Secret:
        """See `DataKeys.open`."""
        if key_id not in self._ids:
            raise KeyStoreError("there is no such key", where=f"data key {key_id}", remedy="Bring it back")
        return Secret(key_id.to_bytes(32, "big"))

    def destroy(self, key_id: int) -> None:
        """See `DataKeys.destroy`."""
        self._ids.remove(key_id)


def open_bench_store(
    path: Path | str,
    settings: BufferSettings | None = None,
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    keys: MemoryDataKeys | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
    vfs: str | None = None,
) -> Store:
    """Open a store, or make it.

    Args:
        path: the database file; `:memory:` for one that lives as long as the process.
        settings: lanes and limits; the defaults if left out.
        clock: the system's if left out.
        rng: makes the store's id; always the same one if left out.
        keys: key number 1 if left out.
        random_bytes: for salts.
        vfs: name of an apsw VFS.

    Raises:
        BufferInUse: another process has the file open.
        BufferUnavailable: the file cannot be created or read.
    """
    return Store(
        path,
        settings or BufferSettings(),
        sealer=Sealer(keys or MemoryDataKeys(), random_bytes=random_bytes),
        clock=clock or SystemClock(),
        rng=rng or random.Random(1),  # noqa: S311  # repeatable on purpose
        vfs=vfs,
    )
