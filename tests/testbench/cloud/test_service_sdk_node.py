"""The Node service SDK, unmodified, against the hub's REST API: host and CA are all it is told.

Its packages are installed once, into a cache directory of the user's.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.mqtt.packets import Publish

from .mqtt_client import connected_client, soon

PACKAGE = "azure-iothub@1.16.6"
SCRIPT = Path(__file__).with_name("service_sdk.js")
_INSTALL_WITHIN_S = 300
_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT")

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="Debian packages nodejs and npm are needed"
)


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """Where the SDK is, after it was installed if it was not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "edge-gateway-tests" / PACKAGE
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may install at once
        if not (directory / "installed").exists():
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory), PACKAGE]
            npm = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False)
            if npm.returncode and any(reason in npm.stderr for reason in _NO_NETWORK):
                pytest.skip(f"npm cannot reach its registry to install {PACKAGE}")
            assert npm.returncode == 0, npm.stderr
            (directory / "installed").touch()
    return directory / "node_modules"


class NodeSdk:
    """Runs one step of the script after another."""

    def __init__(self, hub: LocalHub, environment: dict[str, str]) -> None:
        self._hub = hub
        self._environment = environment

    async def run(self, step: str, policy: str = "iothubowner") -> Any:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(SCRIPT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        asked = {"step": step, "connectionString": self._hub.service_connection_string(policy)}
        output, errors = await soon(process.communicate(json.dumps(asked).encode()))
        assert process.returncode == 0, errors.decode()
        return json.loads(output)


@pytest.fixture
async def hub(authority: LocalAuthority, address: str) -> AsyncIterator[LocalHub]:
    """A hub with HTTPS; the SDK knows no port but 443."""
    async with LocalHub(authority=authority, address=address, https_port=443) as hub:
        yield hub


@pytest.fixture
def sdk(hub: LocalHub, authority: LocalAuthority, node_modules: Path, tmp_path: Path) -> NodeSdk:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    environment = {"NODE_PATH": str(node_modules), "NODE_EXTRA_CA_CERTS": str(ca_file)}
    return NodeSdk(hub, {**os.environ, **environment})


async def test_registry(hub: LocalHub, sdk: NodeSdk) -> None:
    """Devices and modules are created, read, changed, listed, counted and deleted, one by one and in bulk."""
    result = await sdk.run("registry")
    assert result["created"]["authentication"]["symmetricKey"]["primaryKey"]
    assert result["got"]["etag"] == result["created"]["etag"]
    assert result["updated"]["status"] == "disabled"
    assert result["statistics"] == {"totalDeviceCount": 1, "enabledDeviceCount": 0, "disabledDeviceCount": 1}
    modules = {module["moduleId"]: module["managedBy"] for module in result["modules"]}
    assert modules == {"$edgeAgent": None, "$edgeHub": None, "m": "you"}
    assert (result["added"]["isSuccessful"], result["bulkUpdated"]["isSuccessful"]) == (True, True)
    assert result["bulkFailed"]["name"] == "ArgumentError"
    assert [device["deviceId"] for device in result["listed"]] == ["d#1"]
    names = {what: error["name"] for what, error in result["errors"].items()}
    assert names == {
        "again": "DeviceAlreadyExistsError",
        "missing": "DeviceNotFoundError",
        "wrong": "ArgumentError",
        "old": "InvalidEtagError",
    }
    assert result["errors"]["missing"]["message"] == "no such device or module"
    assert hub.device_ids == []


async def test_twins_and_queries(hub: LocalHub, sdk: NodeSdk) -> None:
    """Twins are read and patched, and queried page by page."""
    for number in range(5):
        hub.add_device(f"d{number}")
    hub.add_module("d0", "m")
    result = await sdk.run("twins", "service")
    assert (result["tags"], result["etag"]) == ({"floor": 1}, hub.twin("d0").etag)
    assert result["stale"]["name"] == "InvalidEtagError"
    assert result["pages"] == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert result["counted"] == [{"n": 5}]
    assert result["wrong"]["name"] == "ArgumentError"
    assert "query, character 15" in result["wrong"]["message"]
    assert (hub.twin("d0").desired, hub.twin("d0", "m").desired) == ({"a": 1}, {"b": 2})


async def test_method(hub: LocalHub, authority: LocalAuthority, sdk: NodeSdk) -> None:
    """A direct method goes to the device and its answer comes back; one that is away is not found."""
    hub.add_device("away")
    async with connected_client(hub, authority, "there") as client:
        await client.subscribe("$iothub/methods/POST/#")
        run = asyncio.create_task(sdk.run("method", "service"))
        request = await client.receive(Publish)
        assert request.payload == b'{"in_s":5}'
        await client.publish(f"$iothub/methods/res/202/?{request.topic.partition('?')[2]}", b'"soon"')
        result = await soon(run)
    assert result["answer"] == {"status": 202, "payload": "soon"}
    assert result["unknown"]["name"] == "DeviceNotFoundError"
    assert result["away"] is not None


async def test_configurations(hub: LocalHub, sdk: NodeSdk) -> None:
    """Configurations are created, read, changed, listed and deleted, and a deployment is applied."""
    hub.add_device("edge", edge=True)
    result = await sdk.run("configurations")
    assert result["added"]["systemMetrics"]["results"] == {"targetedCount": 1, "appliedCount": 1}
    assert [each["priority"] for each in result["listed"]] == [2]
    assert result["missing"] is not None
    assert (hub.twin("edge").desired, hub.twin("edge", "m").desired) == ({"a": 1}, {"a": 1})


async def test_jobs(hub: LocalHub, sdk: NodeSdk) -> None:
    """A twin update is planned, followed and listed; a method is planned and cancelled."""
    hub.add_device("d")
    result = await sdk.run("jobs")
    assert result["job"]["deviceJobStatistics"]["succeededCount"] == 1
    assert (result["cancelled"], result["listed"]) == ("cancelled", ["j"])
    assert hub.twin("d").tags == {"job": 1}


async def test_denied(sdk: NodeSdk) -> None:
    """A policy without the right is refused."""
    assert (await sdk.run("denied", "device"))["name"] == "UnauthorizedError"
