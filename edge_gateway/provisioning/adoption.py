"""How the gateway itself gets its identity, by a connection string or by the provisioning service.

Each way ends the same: the key is in the key store and signs, then the identity that names it is written. Where the
service says no, nothing here has changed, so an older identity goes on working. A gateway that is the same device with
another key gets it as a new generation; which of both the hub takes, its sessions find out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from edge_gateway.errors import ConfigError, KeyMissing
from edge_gateway.keystore import Attester, KeyStore, Secret
from edge_gateway.keystore.generations import destroy_before, generation_names, put_generation
from edge_gateway.provisioning.connection_string import ConnectionString
from edge_gateway.provisioning.dps import ByCertificate, BySymmetricKey, ByTpm, DpsClient
from edge_gateway.provisioning.dps_answers import Assigned
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.provisioning.identities import Identities, Identity, Method
from edge_gateway.provisioning.registration import Registration
from edge_gateway.provisioning.symmetric_keys import (
    keep_generation,
    keep_generation_off_loop,
    signing_by,
    signing_with,
)

CHALLENGE_KEY: Final = "dps-challenge"
"""In the key store, while a TPM proves itself."""


@dataclass(frozen=True, slots=True)
class Adopter:
    """Gives the gateway its identity.

    Args:
        store: gets the key.
        identities: gets the identity.
        key: name for the key in the store.
        replace: whether the gateway may become another device than it is.
        ca_file: what the service's certificate is checked by; kept for when the gateway registers again by itself.
    """

    store: KeyStore
    identities: Identities
    key: str
    replace: bool = False
    ca_file: Path | None = None

    def by_connection_string(self, given: ConnectionString) -> Identity:
        """Become the device of a connection string.

        Raises:
            ConfigError: the gateway is another device already, or a sensor has this identity.
            KeyStoreError: the store does not take the key, or signs otherwise.
        """
        identity = Identity(
            "", given.host_name, given.device_id, self.key, "connection-string", given.gateway_host_name
        )
        self._check(identity)
        keep_generation(self.store, self.key, given.key)
        self._put(identity)
        return identity

    async def by_symmetric_key(
        self, client: DpsClient, registration_id: str, key: Secret, *, is_of_group: bool = False
    ) -> Identity:
        """Become what the provisioning service says, by the key of an enrolment.

        Args:
            client: of the service.
            registration_id: the service's name for this gateway.
            key: the enrolment's, or one derived from a group's.
            is_of_group: it is the latter.

        Raises:
            ConfigError: the gateway is another device already, or a sensor has this identity.
            ProvisioningError: the service says no, or nothing.
            KeyStoreError: the store does not take the key, or signs otherwise.
        """
        assigned = await client.register(registration_id, BySymmetricKey(signing_with(key)))
        method: Method = "dps-group" if is_of_group else "dps-symmetric-key"
        identity = Identity("", assigned.host_name, assigned.device_id, self.key, method)
        identity = self._registered(identity, client, registration_id)
        self._check(identity)
        await keep_generation_off_loop(self.store, self.key, key, is_proven=True)
        self._put(identity)
        return identity

    async def by_certificate(
        self,
        client: DpsClient,
        registration_id: str,
        certificate_file: Path,
        private_key_file: Path | None = None,
        *,
        certificate_key: str = "",
    ) -> Identity:
        """Become what the provisioning service says, by the certificate in the client's TLS context.

        Args:
            client: the service.
            registration_id: the certificate's common name.
            certificate_file: the certificate.
            private_key_file: the key to it.
            certificate_key: its name in the key store, in place of a file.

        Raises:
            ConfigError: the gateway is another device already, or a sensor has this identity.
            ProvisioningError: the service says no, or nothing.
        """
        assigned = await client.register(registration_id, ByCertificate())
        identity = Identity(
            "",
            assigned.host_name,
            assigned.device_id,
            key="",
            method="dps-x509",
            certificate_file=str(certificate_file.resolve()),
            private_key_file="" if private_key_file is None else str(private_key_file.resolve()),
            certificate_key=certificate_key,
        )
        identity = self._registered(identity, client, registration_id)
        self._check(identity)
        self.identities.put(identity)
        return identity

    async def by_tpm(self, client: DpsClient, registration_id: str, attester: Attester) -> Identity:
        """Become what the provisioning service says, by the TPM that also holds the keys.

        Each time the device gets a new key at its hub, here a new generation. If the power fails before it is in the
        TPM, the gateway cannot connect until this is done again.

        Raises:
            ConfigError: the gateway is another device already, or a sensor has this identity.
            ProvisioningError: the service says no, or nothing, or sends no key.
            KeyStoreError: the TPM does not take a key: it was made for another one.
        """
        endorsement_key = await asyncio.to_thread(attester.endorsement_key)
        storage_root_key = await asyncio.to_thread(attester.storage_root_key)
        proof = ByTpm(
            endorsement_key,
            storage_root_key,
            partial(attester.import_challenge, CHALLENGE_KEY),
            signing_by(self.store, CHALLENGE_KEY),
        )
        try:
            assigned = await client.register(registration_id, proof)
        finally:
            with contextlib.suppress(KeyMissing):
                await asyncio.to_thread(self.store.remove, CHALLENGE_KEY)
        if not assigned.authentication_key:
            raise ConfigError(
                "the service sends no key for the TPM",
                where=registration_id,
                remedy="Enrol it by its TPM, and not otherwise",
            )
        identity = Identity("", assigned.host_name, assigned.device_id, self.key, "dps-tpm")
        identity = self._registered(identity, client, registration_id)
        self._check(identity)
        await asyncio.to_thread(self._take_in, attester, assigned.authentication_key)
        self._put(identity)
        return identity

    async def by_stored_key(self, client: DpsClient, registration_id: str, method: Method) -> Identity:
        """Ask the provisioning service again, by the key that an enrolment has given before: which hub is it now.

        A key that was rotated at the hub since is none of the enrolment's, which may be an older generation then.

        Args:
            client: of the service.
            registration_id: the service's name for this gateway.
            method: how it had that key.

        Raises:
            ConfigError: the gateway is another device already, or a sensor has this identity.
            ProvisioningError: the service says no, or nothing.
            KeyStoreError: the store does not sign.
        """
        assigned = await self._register_by_any(client, registration_id)
        identity = Identity("", assigned.host_name, assigned.device_id, self.key, method)
        identity = self._registered(identity, client, registration_id)
        self._check(identity)
        self.identities.put(identity)
        return identity

    async def _register_by_any(self, client: DpsClient, registration_id: str) -> Assigned:
        """Register by the newest generation of the key that the service accepts; else raise as for the newest."""
        refusals: list[ProvisioningRefused] = []
        for stored in await asyncio.to_thread(generation_names, self.store, self.key):
            try:
                return await client.register(registration_id, BySymmetricKey(signing_by(self.store, stored)))
            except ProvisioningRefused as refusal:
                refusals.append(refusal)
        raise refusals[0]

    def _registered(self, identity: Identity, client: DpsClient, registration_id: str) -> Identity:
        """The identity, with the place it was had from."""
        return replace(
            identity,
            registration=Registration(client.id_scope, registration_id, client.host, client.port).address,
            registration_ca_file=str(self.ca_file.resolve()) if self.ca_file is not None else "",
        )

    def _take_in(self, attester: Attester, authentication_key: bytes) -> None:
        put_generation(self.store, self.key, lambda stored: attester.import_challenge(stored, authentication_key))
        destroy_before(self.store, self.key, keep=2)

    def _put(self, identity: Identity) -> None:
        """Write down who the gateway is; keys of another device that it was have no use any more."""
        own = self.identities.own
        self.identities.put(identity)
        if own is not None and own.at_hub != identity.at_hub:
            destroy_before(self.store, self.key, keep=1)

    def _check(self, identity: Identity) -> None:
        """Refuse, before anything is changed, what would be a mistake.

        By the provisioning service the same device may come to another hub; by a connection string that is another one.
        """
        own = self.identities.own
        if own is not None and not self.replace:
            is_other_hub = identity.method == "connection-string" and own.at_hub != identity.at_hub
            if is_other_hub or own.device_id != identity.device_id:
                raise ConfigError(
                    f"this gateway is {own.device_id} at {own.host_name} already",
                    where=f"{identity.device_id} at {identity.host_name}",
                    remedy="If it shall be another device from now on, give --replace",
                )
        self.identities.check(identity)


def tpm_registration_id(endorsement_key: bytes) -> str:
    """The registration id that follows from a TPM: base32 of SHA-256 of its endorsement key, in lower case.

    Args:
        endorsement_key: a marshalled TPM2B_PUBLIC, which is hashed with the two bytes of its size.

    Source: azure-iot-sdk-c and azure-iot-sdk-node, which agree.
    """
    return base64.b32encode(hashlib.sha256(endorsement_key).digest()).decode().rstrip("=").lower()
