"""The keys of the bench, and a sealer that is watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_gateway.buffer.sealing import Sealer
from edge_gateway.keystore import DataKeys
from edge_gateway.testbench.bench_store import MemoryDataKeys
from edge_gateway.testbench.power_cut.memory_disk import KeysAre, Operation, Said

_NONCE: Final = slice(1, 25)
"""Where key id, salt and counter stand in a sealed payload; no two may have the same."""


class NotedKeys(MemoryDataKeys):
    """Data keys that note in the log of the disk what becomes of them, each as durable as a key store makes it.

    Args:
        log: where the disk notes what it does.
        ids: numbers of the keys there are.
    """

    def __init__(self, log: list[Operation | Said], ids: tuple[int, ...]) -> None:
        super().__init__(ids)
        self._log = log

    def create(self) -> int:
        """See `DataKeys.create`."""
        key_id = super().create()
        self._log.append(KeysAre(tuple(self.ids())))
        return key_id

    def destroy(self, key_id: int) -> None:
        """See `DataKeys.destroy`."""
        super().destroy(key_id)
        self._log.append(KeysAre(tuple(self.ids())))


class Nonces:
    """What was sealed under which key, salt and counter, over all lives of a chain."""

    def __init__(self) -> None:
        self._sealed: dict[bytes, int] = {}
        self._reused: list[bytes] = []

    def note(self, sealed: bytes) -> None:
        """A payload was sealed."""
        content = hash(sealed)
        if self._sealed.setdefault(sealed[_NONCE], content) != content:
            self._reused.append(sealed[_NONCE])

    def reused(self) -> list[bytes]:
        """Those that came up twice since this was asked last."""
        reused, self._reused = self._reused, []
        return reused


class WatchedSealer(Sealer):
    """The product's, which shows what it seals.

    Args:
        keys: data keys.
        random_bytes: for salts.
        nonces: where it is noted.
    """

    def __init__(self, keys: DataKeys, *, random_bytes: Callable[[int], bytes], nonces: Nonces) -> None:
        super().__init__(keys, random_bytes=random_bytes)
        self._nonces = nonces

    def seal(self, payload: bytes, context: bytes) -> bytes:
        """See `Sealer.seal`."""
        sealed = super().seal(payload, context)
        self._nonces.note(sealed)
        return sealed
