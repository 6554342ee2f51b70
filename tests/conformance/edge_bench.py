"""An edge device for a case, with two modules that are not run: the case's clients take their places."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edge_gateway.testbench import free_loopback_address
from edge_gateway.testbench.cloud.edge.deployment_manifest import parse_manifest
from edge_gateway.testbench.cloud.edge.host import EdgeHost
from edge_gateway.testbench.cloud.front_door import HTTPS_PORT
from edge_gateway.testbench.cloud.identity import AGENT, HUB
from edge_gateway.testbench.listener import may_listen

from .bench import Bench
from .client import Access

SENDER: Final = "sender"
RECEIVER: Final = "receiver"
_ROUTES: Final = {
    "up": f"FROM /messages/modules/{SENDER}/outputs/up INTO $upstream",
    "across": (
        f"FROM /messages/modules/{SENDER}/outputs/across "
        f'INTO BrokeredEndpoint("/modules/{RECEIVER}/inputs/from-sender")'
    ),
    "devices": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
}


class Edge:
    """The device, and who belongs to it."""

    def __init__(self, bench: Bench, host: EdgeHost, address: str) -> None:
        self.bench = bench
        self.host = host
        self._address = address

    def module(self, module_id: str) -> Access:
        """A module with a key, as in a debugger: it is told the gateway's name."""
        identity = self.bench.hub.identity(self.host.device_id, module_id)
        return Access(
            self._address,
            self.bench.hub.host_name,
            self.host.device_id,
            module_id,
            key=identity.primary_key,
            ca_pem=self.bench.authority.ca_pem,
        )

    def deployed_module(self, module_id: str) -> Access:
        """A module as it is deployed: it has nothing but its environment."""
        return replace(self.module(module_id), key="", environment=self.host.environment(module_id))

    def device(self) -> Access:
        """A new device behind this one."""
        parent = self.bench.hub.identity(self.host.device_id)
        identity = self.bench.hub.add_device(self.bench.new_id("leaf"), scope=parent.scope)
        return replace(self.module(SENDER), device_id=identity.device_id, module_id="", key=identity.primary_key)


@asynccontextmanager
async def running_edge(bench: Bench) -> AsyncIterator[Edge]:
    """An edge device, new for each case."""
    address = free_loopback_address(random.Random())
    with tempfile.TemporaryDirectory(prefix="edge-") as directory:  # paths of sockets have to be short
        host = EdgeHost(
            bench.hub,
            bench.new_id("edge"),
            Path(directory),
            authority=bench.authority,
            manifest=parse_manifest(_deployment()),
            address=address,
            https_port=HTTPS_PORT if may_listen(HTTPS_PORT) else None,
        )
        async with host:
            await host.deployed()
            yield Edge(bench, host, address)


def _deployment() -> dict[str, Any]:
    image = {"type": "docker", "settings": {"image": "registry.example/module:1.0", "createOptions": "{}"}}
    running = {**image, "status": "running", "restartPolicy": "always"}
    soon = {"ReportedPropertiesSyncFrequencySecs": {"value": 0}}
    return {
        "modulesContent": {
            AGENT: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {}},
                    "systemModules": {"edgeAgent": image, "edgeHub": {**running, "env": soon}},
                    "modules": {SENDER: running, RECEIVER: running},
                }
            },
            HUB: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": _ROUTES,
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
                }
            },
        }
    }
