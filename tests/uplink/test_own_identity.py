"""The gateway's own identity: by certificate, and as it has been provisioned."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.assembly.uplinks import make_uplink
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import parse_config
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import UplinkRefused
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.records import Message
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.uplink import Uplink

from .far_sides import TIME_LIMIT_S, HubFarSide, RecordingDownlink, failure_to_connect, soon

CERTIFIED = "gateway-17"
BODY = b'[{"x": 1}]'


def uplink_of(directory: Path, hub: HubFarSide, keys: KeyStore, **settings: object) -> Uplink:
    """The uplink as a configuration with these settings has it."""
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/x"}, "profile": "reference-climate"}],
        "uplink": {"kind": "iot-hub", "ca_file": str(hub.ca_file), **settings},
    }
    config = parse_config(document, where="test", directory=directory)
    revocable = RevocableKeyStore(keys)
    return make_uplink(config, keys, revocable, Keyring(revocable), clock=SystemClock(), rng=random.Random(1))


async def send(uplink: Uplink, gateway: RecordingDownlink) -> None:
    async with asyncio.timeout(TIME_LIMIT_S), uplink.connect(gateway.downlink()) as session:
        await session.send(Message("5eed-1", "normal", 1, 1, BODY))


def certified(hub: HubFarSide, authority: LocalAuthority, directory: Path) -> tuple[Path, Path]:
    """A certificate and its key in files, for a device that the hub knows by its thumbprint."""
    certificate = authority.device_certificate(CERTIFIED)
    hub.hub.add_device(CERTIFIED, authentication=Thumbprints(certificate.sha256_thumbprint))
    return certificate.write(directory)


async def test_a_certificate_proves_the_identity(
    hub: HubFarSide, authority: LocalAuthority, gateway: RecordingDownlink, tmp_path: Path
) -> None:
    """With a certificate in place of a key, what is sent arrives under its identity."""
    certificate, key = certified(hub, authority, tmp_path)
    uplink = uplink_of(
        tmp_path,
        hub,
        hub.keys,
        host_name=hub.hub.host_name,
        device_id=CERTIFIED,
        certificate_file=str(certificate),
        private_key_file=str(key),
    )
    await send(uplink, gateway)
    (arrived,) = hub.hub.messages
    assert (arrived.device_id, arrived.body) == (CERTIFIED, BODY)


async def test_a_gateway_that_is_provisioned_while_it_runs_needs_no_restart(
    hub: HubFarSide, gateway: RecordingDownlink, tmp_path: Path
) -> None:
    """Before, it is told what to run; after, the next session is under the identity that was found."""
    keys = SoftwareKeyStore(tmp_path / "data" / KEYS_DIRECTORY)
    uplink = uplink_of(tmp_path, hub, keys)
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkRefused)
    assert "edge-gateway provision" in error.remedy

    found = hub.hub.add_device("found")
    keys.put("own", Secret(base64.b64decode(found.primary_key)))
    identity = Identity("", hub.hub.host_name, "found", "own", "connection-string")
    Identities(tmp_path / "data" / IDENTITIES_FILE).put(identity)
    await send(uplink, gateway)
    assert [each.device_id for each in hub.hub.messages] == ["found"]
    assert uplink.endpoint.endswith("/found")


async def test_identities_that_cannot_be_read_stop_nothing_else(
    hub: HubFarSide, gateway: RecordingDownlink, tmp_path: Path
) -> None:
    """A damaged file is the uplink's refusal, with its path; the gateway goes on reading sensors."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / IDENTITIES_FILE).write_bytes(b"{")
    error = await soon(failure_to_connect(uplink_of(tmp_path, hub, hub.keys), gateway))
    assert isinstance(error, UplinkRefused)
    assert IDENTITIES_FILE in error.where
