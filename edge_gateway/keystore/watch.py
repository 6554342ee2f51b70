"""Looks after the key store while the gateway runs: says what kind it is, and when it stops answering."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore
from edge_gateway.offload import Offload, run

_log = structlog.get_logger()

_LOOK_EVERY_S: Final = 60.0


class KeyStoreWatch:
    """Tells status and log how the key store is.

    Args:
        store: what is watched.
        offload: where its calls block.
    """

    def __init__(self, store: KeyStore, offload: Offload) -> None:
        self._store = store
        self._offload = offload
        self.fault = ""
        """Why it cannot be used, with what to do about it; empty while it can."""

    @property
    def kind(self) -> str:
        """See `KeyStore.kind`."""
        return self._store.kind

    @property
    def weakness(self) -> str:
        """See `KeyStore.weakness`."""
        return self._store.weakness

    async def run(self) -> None:
        """Look every minute, until cancelled."""
        if self.weakness:
            _log.warning("key_store.weak", kind=self.kind, weakness=self.weakness)
        while True:
            await self._look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        try:
            await run(self._offload, self._store.check)
        except KeyStoreError as error:
            if not self.fault:
                _log.error("key_store.failing", kind=self.kind, reason=str(error))
            self.fault = str(error)
        else:
            if self.fault:
                _log.info("key_store.recovered", kind=self.kind)
            self.fault = ""
