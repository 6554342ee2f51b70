"""A gateway whose TPM proves it gets new keys while it runs: because somebody asks for it, or because it has to."""

from __future__ import annotations

import base64
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_gateway.keystore.generations import generation_name
from edge_gateway.records import Value
from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.virtual_tpm import VirtualTpm
from tests.keystore.tpm.backend import why_not

from .feeder import SensorBank
from .gateway_process import GatewayProcess, edge_gateway
from .receiver import Receiver
from .site import GATEWAY, QUICK, Site, sensor_links, write_config

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SENSORS = 4


@dataclass(frozen=True, slots=True)
class TpmSite(Site):
    """A site whose gateway has its key in a TPM, from the provisioning service beside its hub."""

    hub: LocalHub
    dps: LocalDps

    async def keys(self) -> list[str]:
        """What is in the key store, as its owner sees it."""
        listed = await told("keys", "list", "--generations", "--config", str(self.gateway.config_file))
        return [stored for ages in listed.values() for stored in ages]

    async def command(self, name: str, **arguments: Any) -> tuple[int, Any]:
        """Call the gateway's direct method: its status, and what it answers."""
        document: Value = {"device": GATEWAY, "command": name, "arguments": arguments}
        reply = await self.hub.invoke_method(GATEWAY, "command", document)
        return reply.status, reply.payload

    async def flows(self) -> None:
        """Wait until more has arrived of each sensor."""
        frames = self.receiver.frames
        before = {sensor.name: len(frames[sensor.name]) for sensor in self.sensors.sensors}
        await self.receiver.until(lambda: all(len(frames[name]) >= count + 10 for name, count in before.items()))


async def told(*arguments: str) -> Any:
    """What a subcommand prints as JSON."""
    code, output, error = await edge_gateway(*arguments, "--json")
    assert code == 0, error
    return orjson.loads(output)


@asynccontextmanager
async def tpm_site(directory: Path, authority: LocalAuthority, **key_store: Any) -> AsyncIterator[TpmSite]:
    """Build a site, and provision its gateway as an installer does; it runs and reads its sensors."""
    address, receiver = free_loopback_address(random.Random()), Receiver()
    hub = LocalHub(host_name=address, on_message=receiver.add, keep_messages=0)
    dps = LocalDps(hubs=[hub], host_name=address, polls=1, retry_after_s=0)
    ca_file = directory / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    async with (
        FrontDoor([hub, dps], authority=authority, address=address, mqtt_port=8883, https_port=0) as door,
        VirtualTpm(directory / "tpm") as tpm,
        SensorBank(directory, SENSORS) as bank,
    ):
        sections: dict[str, Any] = {
            "uplink": {"kind": "iot-hub", "ca_file": str(ca_file)},
            "key_store": {"kind": "tpm", "tcti": tpm.tcti, "storage_key": "rsa", **key_store},
            **QUICK,
        }
        config = write_config(directory, links=sensor_links(directory, SENSORS), **sections)
        enrolment = await told("provision", "tpm-enrolment", "--config", str(config))
        endorsement_key = EndorsementKey.parse(base64.b64decode(enrolment["endorsementKey"]))
        dps.add_enrolment(IndividualEnrolment(enrolment["registrationId"], endorsement_key, GATEWAY))
        service = ("--id-scope", dps.id_scope, "--host", address, "--port", str(door.ports()["https"]))
        await told("provision", "dps", "--method", "tpm", *service, "--ca-file", str(ca_file), "--config", str(config))
        async with GatewayProcess(config) as gateway:
            await gateway.start_reading()
            site = TpmSite(directory, bank, gateway, receiver, hub, dps)
            await site.flows()
            yield site


async def ends_well(site: TpmSite) -> None:
    """Everything that was read is at the hub, once and in order."""
    await site.flows()
    await site.settled()
    assert (await site.gateway.stop()).code == 0
    assert site.verdict() == []


async def test_all_keys_by_a_direct_method(tmp_path: Path, authority: LocalAuthority) -> None:
    """New keys at the hub and for the disk while readings flow: none is lost, the old key stays as predecessor."""
    async with tpm_site(tmp_path, authority) as site:
        before = site.hub.identity(GATEWAY).primary_key
        status, answer = await site.command("rotate-keys")
        assert (status, answer["answer"]) == (
            200,
            {"rotated": ["gateway", "buffer"], "failed": {}, "left": [], "left_count": 0},
        )
        await site.gateway.event("uplink.closed", reason="there is a newer key")
        await site.gateway.event("key.rotated", key="gateway")
        assert site.hub.identity(GATEWAY).primary_key != before
        await ends_well(site)
        assert await site.keys() == [generation_name("gateway", 2), "gateway"]


async def test_one_key_by_a_direct_method_and_by_command(tmp_path: Path, authority: LocalAuthority) -> None:
    """Only that one; what there is not is said; on the box `keys rotate` does the same, and nobody brings a key."""
    async with tpm_site(tmp_path, authority) as site:
        status, answer = await site.command("rotate-keys", key="buffer")
        assert (status, answer["answer"]["rotated"]) == (200, ["buffer"])
        status, answer = await site.command("rotate-keys", key="gatewya")
        assert status == 400
        assert "there is no such key" in answer["detail"]
        rotated = await told("keys", "rotate", "gateway", "--config", str(site.gateway.config_file))
        assert rotated["newest"] == generation_name("gateway", 2)
        await site.gateway.event("uplink.closed", reason="there is a newer key")
        await ends_well(site)


async def test_a_key_that_never_arrived_is_asked_for_again(tmp_path: Path, authority: LocalAuthority) -> None:
    """The hub has a newer key than the TPM, as after a power cut amid rotation: the gateway mends it by itself."""
    async with tpm_site(tmp_path, authority) as site:
        site.hub.rotate_keys(GATEWAY)
        await site.gateway.event("uplink.registered")
        await ends_well(site)
        assert generation_name("gateway", 2) in await site.keys()


async def test_by_the_calendar(tmp_path: Path, authority: LocalAuthority) -> None:
    """Keys that are older than they may be are replaced without anybody's doing, and status has nothing to say."""
    async with tpm_site(tmp_path, authority, rotate_after_days=30) as site:
        assert (await site.gateway.stop()).code == 0
        age(site.gateway.data_directory, days=31)
        await site.gateway.start_reading()
        for key in ("gateway", "buffer"):
            await site.gateway.event("key.rotated", key=key)
        await ends_well(site)
        assert await site.keys() == [generation_name("gateway", 2), "gateway"]


def age(data_directory: Path, *, days: int) -> None:
    """Date all keys back."""
    then_s = time.time() - days * 86_400
    for directory in ("keys", "data-keys"):
        for path in (data_directory / directory).iterdir():
            os.utime(path, (then_s, then_s))
