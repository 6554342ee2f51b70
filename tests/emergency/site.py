"""A gateway with everything a wipe has to destroy, and the questions whether it is alive or dead."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_gateway.assembly import open_buffer
from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import SystemClock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.emergency import Wipe, wipe_of
from edge_gateway.errors import GatewayError, KeyStoreError
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.records import Reading
from edge_gateway.testbench.memory_scan import find_secrets

_T = TypeVar("_T")

KEY_NAMES = ("gateway", "leaf.boiler", "dps-group")
CLOCK = SystemClock()

_drawn = random.Random(26)
KEYS = {name: _drawn.randbytes(32) for name in KEY_NAMES}
PAYLOAD_KEY = _drawn.randbytes(16)
TLS_KEY = _drawn.randbytes(32)
PASSWORD = _drawn.randbytes(24)


def config_of(root: Path) -> GatewayConfig:
    document = {
        "gateway": {"name": "plant", "data_directory": str(root / "data")},
        "links": [{"name": "air", "port": {"path": "/dev/null"}, "profile": "bthome-v2", "framing": {"kind": "slip"}}],
        "uplink": {"kind": "mqtt", "host": "unused", "username": "plant", "password_file": str(root / "password")},
    }
    return GatewayConfig.model_validate(document)


def run(call: Callable[[], Awaitable[_T]]) -> _T:
    async def running() -> _T:
        return await call()

    return asyncio.run(running())


@dataclass
class Site:
    """A gateway in `root`. Making one is starting it anew: nothing is remembered."""

    root: Path
    store: KeyStore

    @classmethod
    def of_software(cls, root: Path) -> Site:
        return cls(root, SoftwareKeyStore(root / "data" / "keys"))

    @property
    def directory(self) -> Path:
        return self.root / "data"

    @property
    def data_keys(self) -> SealedDataKeys:
        return SealedDataKeys(self.directory / "data-keys", self.store)

    @property
    def payload_keys(self) -> SealedPayloadKeys:
        return SealedPayloadKeys(self.directory / "payload-keys", self.store)

    def wipe(self) -> Wipe:
        return wipe_of(
            config_of(self.root),
            keys=self.store,
            data_keys=self.data_keys,
            payload_keys=self.payload_keys,
            key_directories=("keys", "data-keys", "payload-keys"),
            spare_file="buffer.reserve",
            clock=CLOCK,
        )

    def furnish(self) -> None:
        """Put in keys, identities, and a reading that waits."""
        for name, key in KEYS.items():
            self.store.put(name, Secret(key))
        self.payload_keys.put("kitchen", Secret(PAYLOAD_KEY))
        (self.root / "tls.key").write_text(TLS_KEY.hex())
        (self.root / "password").write_text(PASSWORD.hex())
        Identities(self.directory / "identities.json").put(
            Identity(
                "",
                "hub.example",
                "plant",
                "",
                "dps-x509",
                certificate_file=str(self.root / "tls.pem"),
                private_key_file=str(self.root / "tls.key"),
            ),
            Identity("boiler", "hub.example", "boiler", "leaf.boiler", "csv"),
        )
        (self.root / "sealed").write_bytes(self.store.seal(Secret(PAYLOAD_KEY * 2)))

        async def fill() -> None:
            async with self._buffer() as buffer:
                await buffer.append(Batch([Reading("boiler", "p", CLOCK.now_ns(), {"t": 21.5})]))

        run(fill)

    def copy(self, root: Path) -> None:
        """Everything but what names the old place, at another."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("tpm"))
        text = (root / "data" / "identities.json").read_text()
        (root / "data" / "identities.json").write_text(text.replace(str(self.root), str(root)))

    def data_key(self) -> bytes:
        with self.data_keys.open(1) as key:
            return key.reveal()

    # --- alive or dead ------------------------------------------------------------------------------------------------

    def abilities(self) -> set[str]:
        """All that this gateway can still do."""
        probes: dict[str, Callable[[], object]] = {
            f"sign {name}": lambda name=name: self.store.sign(name, b"x")  # type: ignore[misc]  # bound to each name
            for name in KEY_NAMES
        }
        probes |= {
            "unseal": lambda: self.store.unseal((self.root / "sealed").read_bytes()),
            "open data key": lambda: self.data_keys.open(1),
            "open payload key": lambda: self.payload_keys.open_key("kitchen"),
        }
        able = {what for what, probe in probes.items() if _works(probe)}
        identities = self.directory / "identities.json"
        able |= {f"identity {each.device}" for each in Identities(identities)}
        able |= {f"file {name}" for name in ("tls.key", "password") if (self.root / name).exists()}
        if self._reads_buffer():
            able.add("read buffer")
        return able

    def secrets_on_disk(self, secrets: list[bytes]) -> int:
        return len(find_secrets(self.root, secrets).findings)

    def _reads_buffer(self) -> bool:
        async def read() -> bool:
            async with self._buffer() as buffer:
                return any(chunk.payload is not None for chunk in await buffer.read_chunks())

        try:
            return run(read)
        except GatewayError:
            return False

    def _buffer(self) -> AbstractAsyncContextManager[DurableBuffer]:
        return open_buffer(config_of(self.root), clock=CLOCK, rng=random.Random(1), keys=self.store)


def _works(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except KeyStoreError:
        return False
    return True
