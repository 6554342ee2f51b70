"""A device whose identity is in a TPM, from the first request to the provisioning service to a token for its hub.

The device's TPM is a real one (swtpm). It speaks HTTPS as the Node.js, C and Rust clients do; the client is our own,
because the SDK for Python has no attestation by TPM.
"""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest

from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub, sas_token
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment, InitialTwin
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey, registration_id
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.testbench.virtual_tpm import VirtualTpm

from .tpm_device import CommandRefused, TpmDevice, needs_swtpm

pytestmark = needs_swtpm

HUB = "hub.example"


class Reply(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def blob(self) -> bytes:
        """Of a challenge."""
        return base64.b64decode(self.body["authenticationKey"], validate=True)


class DpsClient:
    """What a client asks the service over HTTPS.

    Args:
        session: its requests go to the service.
        id_scope: the service's.
        registration_id: who the device is.
        device: its TPM.
    """

    def __init__(self, session: aiohttp.ClientSession, id_scope: str, registration_id: str, device: TpmDevice) -> None:
        self.registration_id = registration_id
        self.device = device
        self._session = session
        self._id_scope = id_scope

    @property
    def resource(self) -> str:
        """The path of the registration, which is also what its tokens are for."""
        return f"{self._id_scope}/registrations/{self.registration_id}"

    async def register(
        self,
        *,
        token: str | None = None,
        names_tpm: bool = True,
        endorsement_key: bytes | None = None,
        storage_root_key: bytes | None = None,
    ) -> Reply:
        """The first leg, or with a token the second; the TPM's keys in place of which others may be claimed."""
        body: dict[str, Any] = {"registrationId": self.registration_id}
        if names_tpm:
            keys = (endorsement_key or self.device.endorsement_key, storage_root_key or self.device.storage_root_key)
            written = [base64.b64encode(key).decode() for key in keys]
            body["tpm"] = {"endorsementKey": written[0], "storageRootKey": written[1]}
        return await self._request("PUT", f"/{self.resource}/register", token, body)

    async def token(self, *, lower_case: bool = False) -> str:
        """A token for the service, signed by the TPM."""
        resource = quote(self.resource, safe="")
        return f"{await self.tpm_token(resource.lower() if lower_case else resource)}&skn=registration"

    async def tpm_token(self, resource: str) -> str:
        """A token for a resource, percent-encoded, signed by the TPM."""
        end_s = int(time.time()) + 60
        signature = base64.b64encode(await self.device.sign(f"{resource}\n{end_s}".encode())).decode()
        return f"SharedAccessSignature sr={resource}&sig={quote(signature, safe='')}&se={end_s}"

    async def poll(self, accepted: Reply, token: str | None) -> Reply:
        """Ask how a registration goes."""
        return await self._request("GET", f"/{self.resource}/operations/{accepted.body['operationId']}", token)

    async def provision(self) -> Reply:
        """All of it; returns the result, after the device's key is in the TPM."""
        await self.device.take_in((await self.register()).blob)
        token = await self.token()
        reply = await self.register(token=token)
        while reply.status == 202:
            reply = await self.poll(reply, token)
        await self.device.take_in(base64.b64decode(reply.body["registrationState"]["tpm"]["authenticationKey"]))
        return reply

    async def _request(self, method: str, path: str, token: str | None, body: object = None) -> Reply:
        headers = {} if token is None else {"Authorization": token}
        async with self._session.request(
            method, f"{path}?api-version=2019-03-31", json=body, headers=headers
        ) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, await response.json(), names)


@pytest.fixture
async def tpm() -> AsyncIterator[VirtualTpm]:
    async with VirtualTpm() as tpm:
        yield tpm


@pytest.fixture
async def device(tpm: VirtualTpm) -> TpmDevice:
    device = TpmDevice(tpm)
    await device.create_parents()
    return device


@pytest.fixture
def plain_hub() -> LocalHub:
    """A hub that nobody has to reach over the network."""
    return LocalHub(host_name=HUB)


@pytest.fixture
def dps(plain_hub: LocalHub) -> LocalDps:
    return LocalDps(hubs=[plain_hub], retry_after_s=1)


@pytest.fixture
async def client(dps: LocalDps, device: TpmDevice, authority: LocalAuthority, address: str) -> AsyncIterator[DpsClient]:
    """A client of the service, where its TPM is enrolled under the id that follows from it."""
    endorsement_key = EndorsementKey.parse(device.endorsement_key)
    name = registration_id(endorsement_key)
    twin = InitialTwin(tags={"site": "north"}, desired={"period_s": 5})
    dps.add_enrolment(IndividualEnrolment(name, endorsement_key, "pump-7", initial_twin=twin))
    async with (
        FrontDoor([dps], authority=authority, address=address, mqtt_port=0, https_port=0) as door,
        aiohttp.ClientSession(
            f"https://{address}:{door.ports()['https']}",
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority.ca_pem)),
        ) as session,
    ):
        yield DpsClient(session, dps.id_scope, name, device)


def admitted(hub: LocalHub, token: str) -> bool:
    try:
        identity, _ = hub.admit_device(IdentityName("pump-7"), token=token)
    except AccessDenied:
        return False
    return identity.enabled


@pytest.mark.parametrize(
    ("names_tpm_again", "lower_case"), [(True, False), (False, True)], ids=["as Node.js", "as aziot"]
)
async def test_from_endorsement_key_to_hub(
    client: DpsClient, plain_hub: LocalHub, tpm: VirtualTpm, names_tpm_again: bool, lower_case: bool
) -> None:
    """Challenge, proof, polling, and a key for the hub that never is sent in clear and outlives a reboot in the TPM."""
    challenge = await client.register()
    assert challenge.status == 401
    assert challenge.headers["content-type"].startswith("application/json")
    assert challenge.body["keyName"] == "registration"
    await client.device.take_in(challenge.blob)

    token = await client.token(lower_case=lower_case)
    accepted = await client.register(token=token, names_tpm=names_tpm_again)
    assert (accepted.status, accepted.body["status"]) == (202, "assigning")
    assert accepted.headers["retry-after"] == "1"
    result = await client.poll(accepted, token)
    assert (result.status, result.body["status"]) == (200, "assigned")
    state = result.body["registrationState"]
    assert (state["assignedHub"], state["deviceId"]) == (HUB, "pump-7")
    assert plain_hub.twin("pump-7").tags == {"site": "north"}
    assert plain_hub.twin("pump-7").desired == {"period_s": 5}

    resource = quote(f"{HUB}/devices/pump-7", safe="")
    assert not admitted(plain_hub, await client.tpm_token(resource))  # it still has the key of the challenge
    await client.device.take_in(base64.b64decode(state["tpm"]["authenticationKey"]))
    assert admitted(plain_hub, await client.tpm_token(resource))
    assert plain_hub.identity("pump-7").primary_key not in str(result.body)
    await tpm.restart()
    assert admitted(plain_hub, await client.tpm_token(resource))


async def test_registering_again_brings_another_key(client: DpsClient, plain_hub: LocalHub) -> None:
    """After it has registered again, a device proves itself by the new key, and tokens by the old one are over."""
    resource = quote(f"{HUB}/devices/pump-7", safe="")
    await client.provision()
    old = await client.tpm_token(resource)
    assert admitted(plain_hub, old)
    await client.provision()
    assert admitted(plain_hub, await client.tpm_token(resource))
    assert not admitted(plain_hub, old)


async def test_another_tpm_cannot_use_the_challenge(client: DpsClient, dps: LocalDps) -> None:
    """Who knows a device's endorsement key gets a challenge and can do nothing with it: not with another TPM..."""
    async with VirtualTpm() as other:
        thief = TpmDevice(other)
        await thief.create_parents()
        challenge = await client.register(storage_root_key=thief.storage_root_key)
        assert challenge.status == 401
        with pytest.raises(CommandRefused):
            await thief.take_in(challenge.blob)
        # ...and not with a storage root key beside the TPM whose endorsement key it is.
        with pytest.raises(CommandRefused):
            await client.device.take_in(challenge.blob)
    assert dps.statistics.assigned == 0


async def test_a_token_without_the_tpm(client: DpsClient) -> None:
    """A token signed with any other key than the challenge's ends in 401 and an error in place of a challenge."""
    await client.register()
    key = base64.b64encode(os.urandom(32)).decode()
    forged = sas_token(client.resource, key, int(time.time()) + 60, policy="registration")
    reply = await client.register(token=forged)
    assert (reply.status, reply.body["errorCode"]) == (401, 401002)
    assert reply.headers["x-ms-error-code"] == "401002"
    assert "authenticationKey" not in reply.body


async def test_an_old_challenge(client: DpsClient) -> None:
    """Only the newest challenge counts: the key of the one before proves nothing any more."""
    await client.device.take_in((await client.register()).blob)
    old = await client.token()
    newest = await client.register()
    assert (await client.register(token=old)).status == 401
    await client.device.take_in(newest.blob)
    assert (await client.register(token=await client.token())).status == 202


async def test_a_tpm_that_is_not_enrolled(client: DpsClient) -> None:
    """Another endorsement key than the enrolled one gets an error and no challenge, and so does another id."""
    async with VirtualTpm() as other:
        stranger = TpmDevice(other)
        await stranger.create_parents()
        reply = await client.register(endorsement_key=stranger.endorsement_key)
    assert (reply.status, reply.body["errorCode"]) == (401, 401002)
    client.registration_id = "other"
    reply = await client.register()
    assert (reply.status, reply.body["errorCode"]) == (401, 401002)


@pytest.mark.parametrize("sent", [b"junk", bytes(316), bytes(5000)], ids=["short", "zeros", "long"])
async def test_what_is_no_key_is_a_bad_request(client: DpsClient, sent: bytes) -> None:
    """Bytes that are no TPM's key end in 400, with the key that is wrong."""
    for reply, wrong in (
        (await client.register(endorsement_key=sent), "endorsement key"),
        (await client.register(storage_root_key=sent), "storage root key"),
    ):
        assert reply.status == 400
        assert f"not a usable {wrong}: " in reply.body["message"]
