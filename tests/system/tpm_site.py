"""A site whose gateway has its key in a TPM, and its identity from a provisioning service beside its hub."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from cryptography import x509

from edge_gateway.records import Value
from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.virtual_tpm import VirtualTpm
from tests.uplink.far_sides import certified_request, thumbprint

from .feeder import SensorBank
from .gateway_process import GatewayProcess, edge_gateway
from .receiver import Receiver
from .site import GATEWAY, QUICK, Site, sensor_links, write_config

SENSORS: Final = 4
CERTIFICATE_KEY: Final = "gateway-tls"


@dataclass(frozen=True, slots=True)
class TpmSite(Site):
    """A site whose gateway has its key in a TPM, from the provisioning service beside its hub."""

    hub: LocalHub
    dps: LocalDps
    door: FrontDoor

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
async def tpm_site(
    directory: Path, authority: LocalAuthority, *, by: Literal["tpm", "x509"] = "tpm", **key_store: Any
) -> AsyncIterator[TpmSite]:
    """Build a site, and provision its gateway as an installer does; it runs and reads its sensors.

    Args:
        directory: an empty one.
        authority: signs for the cloud, and for the gateway if that proves itself by certificate.
        by: what the gateway proves itself by: the TPM itself, or a certificate whose key is in it.
        key_store: more of that section of the configuration.
    """
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
        options = ["--config", str(config)]
        if by == "tpm":
            enrolment = await told("provision", "tpm-enrolment", *options)
            endorsement_key = EndorsementKey.parse(base64.b64decode(enrolment["endorsementKey"]))
            dps.add_enrolment(IndividualEnrolment(enrolment["registrationId"], endorsement_key, GATEWAY))
        else:
            code, request, error = await edge_gateway("keys", "csr", CERTIFICATE_KEY, *options)
            assert code == 0, error
            parsed = x509.load_pem_x509_csr(request.encode())
            certificate_file = certified_request(authority, parsed, directory / "gateway.pem")
            dps.add_enrolment(IndividualEnrolment(GATEWAY, Thumbprints(thumbprint(certificate_file))))
            options += ["--certificate-file", str(certificate_file), "--certificate-key", CERTIFICATE_KEY]
        service = ("--id-scope", dps.id_scope, "--host", address, "--port", str(door.ports()["https"]))
        await told("provision", "dps", "--method", by, *service, "--ca-file", str(ca_file), *options)
        async with GatewayProcess(config) as gateway:
            await gateway.start_reading()
            site = TpmSite(directory, bank, gateway, receiver, hub, dps, door)
            await site.flows()
            yield site


async def ends_well(site: TpmSite) -> None:
    """Everything that was read is at the hub, once and in order."""
    await site.flows()
    await site.settled()
    assert (await site.gateway.stop()).code == 0
    assert site.verdict() == []
