"""What a hub remembers over a restart."""

from __future__ import annotations

import asyncio
import random
import stat
from pathlib import Path

import orjson
import pytest

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.hub_state import StateFile, hub_document, restore
from edge_gateway.testbench.cloud.identity import CertificateAuthority, NoAuthentication, Thumbprints
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.virtual_time import run_virtual

from .mqtt_client import connected_client


def new_hub(seed: int) -> LocalHub:
    return LocalHub(host_name="hub.example", rng=random.Random(seed))


def furnished_hub() -> LocalHub:
    hub = new_hub(1)
    hub.add_device("sensor-1")
    hub.add_device("sensor-2", authentication=Thumbprints("A" * 40, "b" * 64))
    hub.add_device("sensor-3", authentication=CertificateAuthority())
    hub.add_device("edge-1", edge=True)
    hub.add_module("edge-1", "filter", managed_by="iotEdge")
    hub.add_module("edge-1", "mute", authentication=NoAuthentication())
    hub.set_enabled("sensor-2", False)
    hub.patch_desired("sensor-1", {"a": {"b": 1}})
    hub.twin("edge-1", "filter").patch_reported({"c": [1, None]})
    hub.patch_tags("sensor-1", {"plant": "x"})
    hub.send_c2d("sensor-1", b"\x00\xff", {"k": None}, message_id="m", ack="full")
    return hub


async def test_everything_comes_back() -> None:
    """Identities, keys, policies, twins with metadata and waiting messages are the same in the hub made from them."""
    hub = furnished_hub()
    document = orjson.loads(orjson.dumps(hub_document(hub)))
    again = new_hub(2)
    restore(again, document, "hub.json")
    assert hub_document(again) == document
    assert again.twin("sensor-1").service_document() == hub.twin("sensor-1").service_document()


async def test_a_message_that_waited_over_the_restart_is_delivered(
    authority: LocalAuthority, address: str, tmp_path: Path
) -> None:
    """A message accepted before the restart reaches the device after it, and its id is not given to the next one."""
    path = tmp_path / "hub.json"
    async with LocalHub(authority=authority, address=address) as hub, StateFile(path, hub):
        hub.add_device("sensor-1")
        hub.send_c2d("sensor-1", b"waited")
    again = LocalHub(authority=authority, address=address)
    async with StateFile(path, again), again, connected_client(again, authority) as client:
        again.send_c2d("sensor-1", b"new")
        await client.subscribe("devices/sensor-1/messages/devicebound/#")
        waited, new = await client.receive(Publish), await client.receive(Publish)
        assert (waited.payload, new.payload) == (b"waited", b"new")
        assert waited.packet_id != new.packet_id


def test_changes_are_written_while_the_hub_runs(tmp_path: Path) -> None:
    """A change is in the file a second later, and the file is its owner's alone."""
    path = tmp_path / "hub.json"

    async def main() -> list[int]:
        hub = new_hub(1)
        counts = []
        async with StateFile(path, hub):
            for device_id in ("sensor-1", "sensor-2"):
                hub.add_device(device_id)
                await asyncio.sleep(1)
                counts.append(len(orjson.loads(path.read_bytes())["identities"]))
        return counts

    assert run_virtual(main()) == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 1, "host_name": "other.example"}',
        b'{"format": 2, "host_name": "hub.example"}',
        b'{"format": 1, "host_name": "hub.example", "policies": {}, "identities": [{"name": ["x"]}]}',
        b'{"format": 1, "host_name": "hub.example", "policies": {"stranger": ["", ""]}, "identities": []}',
    ],
)
async def test_a_file_that_is_not_this_hubs(tmp_path: Path, content: bytes) -> None:
    """A foreign or damaged file is an error that says what to do, and is left as it is."""
    path = tmp_path / "hub.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"Remove|Start"):
        async with StateFile(path, new_hub(1)):
            pass
    assert path.read_bytes() == content
