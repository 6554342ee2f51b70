"""A hub and its provisioning service on an address of their own, a key store and a file of identities."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_gateway.clock import Clock, SystemClock
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import newest_generation
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.dps import DpsClient
from edge_gateway.provisioning.identities import Identities
from edge_gateway.provisioning.tls import tls_context
from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.uplink.sas import sas_token


class Site:
    """What a gateway meets: a hub, a provisioning service, and an authority that has signed for both."""

    def __init__(self, authority: LocalAuthority, address: str, directory: Path) -> None:
        self.hub = LocalHub(host_name=address, rng=random.Random(1))
        self.dps = LocalDps(hubs=[self.hub], host_name=address, rng=random.Random(1), polls=1, retry_after_s=0)
        self.door = FrontDoor([self.hub, self.dps], authority=authority, address=address, mqtt_port=0, https_port=0)
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_text(authority.ca_pem)

    @property
    def port(self) -> int:
        """Of HTTPS."""
        return self.door.ports()["https"]

    def client(
        self,
        *,
        id_scope: str = "",
        clock: Clock | None = None,
        certificate: tuple[Path, Path] | tuple[None, None] = (None, None),
        patience_s: float = 30.0,
    ) -> DpsClient:
        return DpsClient(
            id_scope or self.dps.id_scope,
            tls=tls_context(self.ca_file, *certificate),
            clock=clock or SystemClock(),
            rng=random.Random(1),
            host=self.door.address,
            port=self.port,
            patience_s=patience_s,
        )

    def admits(self, device_id: str, store: KeyStore, key: str) -> bool:
        """Whether the hub lets the device in by a token that the newest generation of the key signs."""
        resource = f"{self.hub.host_name}/devices/{device_id}"
        token = sas_token(store, newest_generation(store, key), resource, 4_000_000_000)
        try:
            self.hub.admit_device(IdentityName(device_id), token=token)
        except AccessDenied:
            return False
        return True


@pytest.fixture(scope="session")
def authority() -> LocalAuthority:
    return LocalAuthority()


@pytest.fixture
async def site(authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[Site]:
    # Not seeded: several runs of the suite may share the machine.
    site = Site(authority, free_loopback_address(random.Random()), tmp_path)
    async with site.door:
        yield site


@pytest.fixture
def store(tmp_path: Path) -> SoftwareKeyStore:
    return SoftwareKeyStore(tmp_path / "keys")


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path / "identities.json")
