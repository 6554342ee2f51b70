"""Looks after the key store while the gateway runs: says what kind it is, and when it stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore

_log = structlog.get_logger()

_LOOK_EVERY_S: Final = 60.0


class Offload(Protocol):
    """Runs blocking calls off the event loop, one after the other."""

    def __call__(self, call: Callable[[], None], done: Callable[[BaseException | None], None], /) -> None:
        """Run `call`; then call `done` in the event loop with what was raised, or with None."""
        ...


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
        looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if looked.done():
                return
            if error is None:
                looked.set_result(None)
            else:
                looked.set_exception(error)

        self._offload(self._store.check, done)
        try:
            await looked
        except KeyStoreError as error:
            if not self.fault:
                _log.error("key_store.failing", kind=self.kind, reason=str(error))
            self.fault = str(error)
        else:
            if self.fault:
                _log.info("key_store.recovered", kind=self.kind)
            self.fault = ""
