"""The key stores that one suite judges, each with what stands on its other side."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from edge_gateway.clock import SystemClock
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.keystore.workload import WorkloadKeyStore
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.cloud.edge.ca import EdgeCa
from edge_gateway.testbench.cloud.edge.workload_api import ENCRYPTION_KEY_BYTES, EdgeSecrets, WorkloadApi
from edge_gateway.testbench.cloud.identity import Identity, IdentityName, NoAuthentication, SymmetricKeys

Backend: TypeAlias = Callable[[Path], AbstractContextManager[KeyStore]]
"""Opens a store on a directory; twice on the same directory is the same store after a restart."""

MODULE_HUB_KEY: Final = bytes(range(100, 132))


@contextmanager
def software(directory: Path) -> Iterator[KeyStore]:
    store = SoftwareKeyStore(directory / "keys")
    yield store
    store.close()


@contextmanager
def software_with_wrapping_file(directory: Path) -> Iterator[KeyStore]:
    given = directory / "given-key"
    if not given.exists():
        given.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
        given.chmod(0o400)
    store = SoftwareKeyStore(directory / "keys", wrapping_key_file=given)
    yield store
    store.close()


@contextmanager
def tpm(directory: Path) -> Iterator[KeyStore]:
    from .tpm.backend import tpm_key_store, why_not

    if why_not():
        pytest.skip(why_not())
    with tpm_key_store(directory) as store:
        yield store


class EdgeHost:
    """An IoT Edge host with one module, `sensor`, in a thread of its own. A context manager.

    Args:
        socket: where it serves the workload API.
        hub_key: the module's.
        encryption_key: the host's own.
    """

    def __init__(self, socket: Path, hub_key: bytes, encryption_key: bytes) -> None:
        self._hub_key = base64.b64encode(hub_key).decode()
        authority = LocalAuthority()
        edge_ca = EdgeCa(authority.intermediate("edge CA"), SystemClock())
        secrets = EdgeSecrets("hub.example", "edge", edge_ca, encryption_key, "")
        self.api = WorkloadApi("sensor", socket, secrets, self)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edge host")

    def module_identity(self, module_id: str) -> Identity:
        keys: SymmetricKeys | NoAuthentication = SymmetricKeys(self._hub_key, self._hub_key)
        return Identity(IdentityName("edge", module_id), keys, "g1")

    def module_details(self) -> Sequence[Mapping[str, Any]]:
        return []

    def __enter__(self) -> EdgeHost:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.api.__aenter__(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.api.__aexit__(None, None, None), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def workload(directory: Path) -> Iterator[KeyStore]:
    directory.mkdir(exist_ok=True)
    encryption_key = directory.name.encode().rjust(ENCRYPTION_KEY_BYTES)[-ENCRYPTION_KEY_BYTES:]
    with EdgeHost(directory / "w.sock", MODULE_HUB_KEY, encryption_key) as host:
        yield WorkloadKeyStore(workload_uri=host.api.uri, module_id="sensor", generation_id="g1")


OF_OUR_KEYS: Final[Mapping[str, Backend]] = {
    "software": software,
    "software, wrapping file": software_with_wrapping_file,
    "tpm": tpm,
}
"""Those that keys can be put into."""

ALL: Final[Mapping[str, Backend]] = {**OF_OUR_KEYS, "workload": workload}
