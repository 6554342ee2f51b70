"""A client of Azure's Device Provisioning Service over HTTPS: says which device is who, at which hub.

```
PUT  /{id scope}/registrations/{registration id}/register              -> 202, or 200, or 401 with a TPM's challenge
GET  /{id scope}/registrations/{registration id}/operations/{number}   -> 202 until it is 200
```

A device proves itself by a symmetric key, by the certificate of its TLS connection, or by its TPM: then the first
request is answered with 401 and a key that only this TPM can open, which signs the second. Registering again is
harmless: the same device gets the same identity, and a TPM a new key for it.

Source: Azure REST API specifications, deviceprovisioningservices data plane, device/routes.tsp, api-version 2021-06-01;
https://learn.microsoft.com/azure/iot-dps/concepts-tpm-attestation.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias, assert_never

import orjson
import structlog

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import ConfigError
from edge_gateway.provisioning.dps_answers import Assigned, Assigning, Disabled, Failed, read_challenge, read_status
from edge_gateway.provisioning.dps_faults import disabled, failed, refused
from edge_gateway.provisioning.dps_http import DpsHttp, Reply
from edge_gateway.provisioning.errors import ProvisioningError, ProvisioningUnavailable
from edge_gateway.provisioning.identities import is_host_name, is_registration_id
from edge_gateway.provisioning.symmetric_keys import Sign, in_base64

_log = structlog.get_logger()

GLOBAL_HOST: Final = "global.azure-devices-provisioning.net"

_API_VERSION: Final = "2021-06-01"
_TOKEN_LIFETIME_S: Final = 3600
_MOST_ID_SCOPE_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class BySymmetricKey:
    """A device proves itself by a key that the service knows, or can derive."""

    sign: Sign


@dataclass(frozen=True, slots=True)
class ByCertificate:
    """A device proves itself by the certificate in the client's TLS context."""


@dataclass(frozen=True, slots=True)
class ByTpm:
    """A device proves itself by its TPM."""

    endorsement_key: bytes
    """A marshalled TPM2B_PUBLIC."""
    storage_root_key: bytes
    """Likewise."""
    take_challenge: Callable[[bytes], None]
    """Takes the key in an `authenticationKey` into the TPM. May block."""
    sign: Sign
    """Signs with the key that was taken in."""


Proof: TypeAlias = BySymmetricKey | ByCertificate | ByTpm


class DpsClient:
    """Registers devices. Use it as an async context manager, for any number of devices at once.

    Args:
        id_scope: tells the customer's service from all others.
        tls: from `tls_context`; with a certificate for `ByCertificate`.
        clock: tokens end at a wall time.
        rng: jitter.
        host: the service's.
        port: the service's.
        patience_s: how long one registration may take in all, waiting for a throttled service included.

    Raises:
        ConfigError: the id scope or the host cannot be one.
    """

    def __init__(
        self,
        id_scope: str,
        *,
        tls: ssl.SSLContext,
        clock: Clock,
        rng: random.Random,
        host: str = GLOBAL_HOST,
        port: int = 443,
        patience_s: float = 600.0,
    ) -> None:
        if not (id_scope.isascii() and id_scope.isalnum() and len(id_scope) <= _MOST_ID_SCOPE_CHARACTERS):
            raise ConfigError(
                "cannot be an id scope", where=repr(id_scope), remedy="Copy it from the service's overview: 0ne..."
            )
        if not is_host_name(host):
            raise ConfigError("cannot be a host's name", where=repr(host), remedy=f"For Azure it is {GLOBAL_HOST}")
        self.id_scope: Final = id_scope
        self.host: Final = host
        self.port: Final = port
        self.clock: Final = clock
        self.http: Final = DpsHttp(host, port, tls=tls, rng=rng)
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.__aexit__(kind, error, trace)

    async def register(self, registration_id: str, proof: Proof) -> Assigned:
        """Register a device, or register it again, and return which hub it has.

        Args:
            registration_id: the service's name for it.
            proof: what it proves itself by.

        Raises:
            ConfigError: the registration id cannot be one.
            ProvisioningRefused: the service does not want it, or shows a certificate that cannot be trusted.
            ProvisioningUnavailable: the service cannot be reached, or is not done in time.
            KeyStoreError: the key store does not sign, or does not take a challenge.
        """
        if not is_registration_id(registration_id):
            raise ConfigError(
                "cannot be a registration id",
                where=repr(registration_id),
                remedy="Use at most 128 letters, digits, `-`, `.`, `_` and `:`, a letter or digit first and last",
            )
        registration = _Registration(self, registration_id, proof)
        try:
            async with asyncio.timeout(self._patience_s):
                status = await registration.carry_out()
        except TimeoutError as error:
            raise ProvisioningUnavailable(
                f"the service was not done within {self._patience_s:g} s",
                where=registration.where,
                remedy="Try again later: a device that is enrolled may register as often as it likes",
            ) from error
        match status:
            case Assigned(host_name, device_id):
                _log.info("provisioning.assigned", where=registration.where, hub=host_name, device_id=device_id)
                return status
            case Failed():
                raise failed(status, registration.where)
            case Disabled():
                raise disabled(registration.where)
            case _:
                assert_never(status)


class _Registration:
    """The conversation about one device."""

    def __init__(self, client: DpsClient, registration_id: str, proof: Proof) -> None:
        self.where: Final = f"{registration_id} at {client.host}, id scope {client.id_scope}"
        self._client = client
        self._registration_id = registration_id
        self._proof = proof
        self._headers = {"Content-Type": "application/json"}

    async def carry_out(self) -> Assigned | Failed | Disabled:
        document: dict[str, object] = {"registrationId": self._registration_id}
        match self._proof:
            case BySymmetricKey(sign):
                await self._authorize(sign)
            case ByCertificate():
                pass
            case ByTpm(endorsement_key, storage_root_key, take_challenge, sign):
                document["tpm"] = {
                    "endorsementKey": in_base64(endorsement_key),
                    "storageRootKey": in_base64(storage_root_key),
                }
                await asyncio.to_thread(take_challenge, await self._challenge(document))
                await self._authorize(sign)
            case _:
                assert_never(self._proof)
        reply = await self._ask("PUT", "/register", document)
        while isinstance(status := self._status(reply), Assigning):
            await asyncio.sleep(reply.wait_s)
            reply = await self._ask("GET", f"/operations/{urllib.parse.quote(status.operation_id, safe='')}")
        return status

    async def _authorize(self, sign: Sign) -> None:
        """Have the requests from now on carry a token.

        Source: https://learn.microsoft.com/azure/iot-dps/how-to-control-access#security-tokens
        """
        resource = f"{self._client.id_scope}/registrations/{self._registration_id}"
        encoded = urllib.parse.quote(resource, safe="")
        expiry_s = self._client.clock.now_ns() // NS_PER_S + _TOKEN_LIFETIME_S
        signature = await asyncio.to_thread(sign, f"{encoded}\n{expiry_s}".encode())
        signed = urllib.parse.quote(in_base64(signature), safe="")
        self._headers["Authorization"] = (
            f"SharedAccessSignature sr={encoded}&sig={signed}&se={expiry_s}&skn=registration"
        )

    async def _challenge(self, document: object) -> bytes:
        """The key that the TPM shall prove itself with."""
        reply = await self._ask("PUT", "/register", document)
        challenge = read_challenge(reply.body, where=self.where) if reply.status == 401 else None
        if challenge is None:
            raise self._refused(reply)
        return challenge

    def _status(self, reply: Reply) -> Assigned | Assigning | Failed | Disabled:
        if not 200 <= reply.status < 300:
            raise self._refused(reply)
        return read_status(reply.body, where=self.where)

    async def _ask(self, method: str, path: str, document: object = None) -> Reply:
        registration_id = urllib.parse.quote(self._registration_id, safe="")
        return await self._client.http.ask(
            method,
            f"/{self._client.id_scope}/registrations/{registration_id}{path}?api-version={_API_VERSION}",
            headers=self._headers,
            body=None if document is None else orjson.dumps(document),
            where=self.where,
        )

    def _refused(self, reply: Reply) -> ProvisioningError:
        return refused(
            reply.status,
            reply.body,
            date=reply.date,
            now_ns=self._client.clock.now_ns(),
            proof_remedy=self._what_to_compare(),
            where=self.where,
        )

    def _what_to_compare(self) -> str:
        """What is wrong if the service does not believe the device."""
        match self._proof:
            case BySymmetricKey():
                return (
                    "Compare id scope, registration id and key with the enrolment's; a group's key needs --method group"
                )
            case ByCertificate():
                return (
                    "Enrol this certificate, or one that has signed it, under its common name, and verify that "
                    "certificate in the service; compare the id scope"
                )
            case ByTpm(endorsement_key):
                return (
                    f"Enrol this TPM under the registration id {self._registration_id}, with the endorsement key "
                    f"{in_base64(endorsement_key)}; compare the id scope"
                )
            case _:
                assert_never(self._proof)
