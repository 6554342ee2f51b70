"""All of it together at one address: hub, provisioning service, storage, and a directory that keeps what they know.

```python
async with LocalCloud(address=free_loopback_address(rng)) as cloud:
    cloud.hub.add_device("sensor-1")
    ...  # clients trust cloud.authority.ca_pem and connect to cloud.hub.host_name
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from edge_gateway.clock import Clock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import LocalAuthority
from edge_gateway.testbench.cloud.amqp.endpoint import AmqpEndpoint
from edge_gateway.testbench.cloud.front_door import AMQP_PORT, HTTPS_PORT, MQTT_PORT, FrontDoor
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.hub_state import StateFile
from edge_gateway.testbench.cloud.identity import Identity, SymmetricKeys
from edge_gateway.testbench.cloud.kept_file import KeptFile
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup
from edge_gateway.testbench.cloud.provisioning.state import DpsStateFile
from edge_gateway.testbench.cloud.storage.blob_store import BlobStore
from edge_gateway.testbench.receiver import ReceivedMessage

CONNECTIONS_FILE = "connections.json"
_HUB_FILE = "hub.json"
_DPS_FILE = "provisioning.json"
_BLOBS_DIRECTORY = "blobs"


class LocalCloud:
    """A hub and a provisioning service behind one front door. Use it as an async context manager.

    Args:
        directory: keeps the certificate authority, the state of both services and uploaded files from one start to the
            next, and has what clients need (`bench-ca.pem`, `connections.json`); None keeps everything in memory.
        address: the IPv4 address to listen on; see `free_loopback_address`.
        host_name: by which clients know it; the address if None.
        mqtt_port: 8883 is the only one the SDKs connect to; 0 takes a free one.
        https_port: for HTTPS and MQTT over WebSocket; None offers neither.
        amqp_port: for what service SDKs do by AMQP; None does not offer it.
        id_scope: the provisioning service's.
        clock: wall time, by which tokens end.
        on_message: called with each device-to-cloud message before it is confirmed. It must not raise.
        keep_messages: how many of the newest messages the hub holds; None holds all.
        tier: whose rates and quota hold, e.g. `S1`; None allows everything.
        units: how many of that tier.

    Raises:
        BenchError: on entering, the address or the directory cannot be used.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        address: str = "127.0.0.1",
        host_name: str | None = None,
        mqtt_port: int = MQTT_PORT,
        https_port: int | None = HTTPS_PORT,
        amqp_port: int | None = AMQP_PORT,
        id_scope: str = "0ne00000001",
        clock: Clock | None = None,
        on_message: Callable[[ReceivedMessage], None] | None = None,
        keep_messages: int | None = None,
        tier: str | None = None,
        units: int = 1,
    ) -> None:
        if directory is not None:
            _make(directory)
        self.authority = LocalAuthority(directory, clock=clock)
        self.hub = LocalHub(
            host_name=host_name if host_name is not None else address,
            clock=clock,
            on_message=on_message,
            keep_messages=keep_messages,
            tier=tier,
            units=units,
            blobs=BlobStore(directory=directory / _BLOBS_DIRECTORY if directory is not None else None, clock=clock),
        )
        self.dps = LocalDps(hubs=[self.hub], id_scope=id_scope, host_name=self.hub.host_name, clock=clock)
        self.amqp = AmqpEndpoint(self.hub)
        self.door = FrontDoor(
            [self.hub, self.dps],
            authority=self.authority,
            address=address,
            mqtt_port=mqtt_port,
            https_port=https_port,
            clock=clock,
        )
        if amqp_port is not None:
            self.door.offer("amqp", amqp_port, self.amqp.make_connection)
        self._directory = directory
        self._connections_file: KeptFile | None = None
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            if self._directory is not None:
                await resources.enter_async_context(StateFile(self._directory / _HUB_FILE, self.hub))
                await resources.enter_async_context(DpsStateFile(self._directory / _DPS_FILE, self.dps))
            await resources.enter_async_context(self.door)
            resources.push_async_callback(self.hub.close)
            resources.callback(self.amqp.close)
            if self._directory is not None:
                self._connections_file = KeptFile(self._directory / CONNECTIONS_FILE, self._connections, self._change)
                await resources.enter_async_context(self._connections_file)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    def save_connections(self) -> None:
        """Bring `connections.json` up to date now and not in a moment, for who is about to read it."""
        if self._connections_file is not None:
            self._connections_file.save()

    def connections(self) -> dict[str, Any]:
        """What clients are configured with: connection strings and enrolment keys, by who uses them. Secret."""
        hub = self.hub
        devices = [each for each in hub.registry.devices() if _has_keys(each)]
        modules = [each for device in hub.registry.devices() for each in hub.registry.modules(device.device_id)]
        return {
            "hub": hub.host_name,
            "address": self.door.address,
            "ports": self.door.ports(),
            "service": hub.service_connection_string(),
            "event_hubs": self.amqp.event_hubs_connection_string(),
            "devices": {each.device_id: hub.connection_string(each.device_id) for each in devices},
            "modules": {str(each.name): hub.connection_string(*each.name) for each in modules if _has_keys(each)},
            "provisioning": {
                "host": self.dps.host_name,
                "id_scope": self.dps.id_scope,
                "service": self.dps.connection_string(),
                "groups": {group.enrolment_id: _primary_key(group) for group in self.dps.groups},
            },
        }

    async def _change(self) -> None:
        """Wait for the next change of either service."""
        changes = [
            asyncio.create_task(service.change(), name=f"testbench-change {service.host_name}")
            for service in (self.hub, self.dps)
        ]
        try:
            await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for change in changes:
                change.cancel()

    def _connections(self) -> bytes:
        return orjson.dumps(self.connections(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _has_keys(identity: Identity) -> bool:
    return isinstance(identity.authentication, SymmetricKeys)


def _primary_key(group: EnrolmentGroup) -> str | None:
    return group.attestation.primary if isinstance(group.attestation, SymmetricKeys) else None


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(
            f"cannot be made: {error.strerror}", where=str(directory), remedy="Name a directory that can be written"
        ) from error
