"""A key store on a virtual TPM, for tests that block: the TPM's event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.testbench.virtual_tpm import VirtualTpm, find_swtpm

_T = TypeVar("_T")


def why_not() -> str:
    """Why there can be no TPM key store here; empty if there can."""
    if find_swtpm() is None:
        return "swtpm is not installed; on Debian and Ubuntu: apt-get install swtpm"
    if importlib.util.find_spec("tpm2_pytss") is None:
        return "tpm2-pytss is not installed: pip install edge-gateway[tpm]"
    return ""


class BlockingTpm:
    """A `VirtualTpm` whose methods wait. A context manager.

    Args:
        state: as for `VirtualTpm`.
    """

    def __init__(self, state: Path | None = None) -> None:
        self._tpm = VirtualTpm(state)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="virtual-tpm")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait_for(self._tpm.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._wait_for(self._tpm.__aexit__(None, None, None))
        finally:
            self._stop()

    @property
    def tcti(self) -> str:
        return self._tpm.tcti

    def restart(self) -> None:
        self._wait_for(self._tpm.restart())

    def kill(self) -> None:
        self._wait_for(self._tpm.kill())

    def power_cut(self) -> None:
        """Off without a word, and on again."""
        self.kill()
        self._wait_for(self._tpm.restart())

    def _wait_for(self, call: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(timeout=60)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def tpm_key_store(directory: Path) -> Iterator[TpmKeyStore]:
    """A store with a TPM of its own, both kept in `directory`: the next on it is the same after a restart."""
    with BlockingTpm(directory / "tpm") as tpm:
        store = TpmKeyStore(directory / "keys", tcti=tpm.tcti)
        try:
            yield store
        finally:
            store.close()
