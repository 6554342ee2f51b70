"""Registers a gateway again, by itself, with the provisioning service it has its identity from.

The service may say that its hub is another one now. A TPM gets a new key each time; a certificate and the key of an
enrolment stay what they are. Nothing here needs a secret that somebody would have to bring.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edge_gateway.clock import Clock
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Attester, KeyStore
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.registration import Registration

if TYPE_CHECKING:
    from edge_gateway.provisioning.adoption import Adopter
    from edge_gateway.provisioning.dps import DpsClient


class Reregistration:
    """What a gateway was registered by.

    Args:
        store: has its key; gets a new one.
        identities_file: has its identity; gets what the service says. None if it goes by no such identity.
        clock: tokens end at a wall time.
        rng: jitter.
        certified_tls: gives TLS settings for a certificate whose key the store holds, by `ca_file`, the certificate's
            file and the key's name; raises a ConfigError or KeyStoreError.
    """

    def __init__(
        self,
        store: KeyStore,
        identities_file: Path | None,
        *,
        clock: Clock,
        rng: random.Random,
        certified_tls: Callable[[Path | None, Path, str], ssl.SSLContext],
    ) -> None:
        self._store = store
        self._identities_file = identities_file
        self._clock = clock
        self._rng = rng
        self._certified_tls = certified_tls
        self._registering = asyncio.Lock()

    def identity(self) -> Identity | None:
        """Of the gateway, if it can be registered again. Blocks for a moment.

        Raises:
            ConfigError: the identities cannot be read.
        """
        own = None if self._identities_file is None else Identities(self._identities_file).own
        return own if own is not None and own.registration else None

    async def register_if_possible(self) -> bool:
        """Register again, or return False if the gateway came by no service; raises as `register`."""
        if await asyncio.to_thread(self.identity) is None:
            return False
        await self.register()
        return True

    async def register(self) -> Identity:
        """Register again, and return what the gateway is now. Who comes meanwhile waits: a TPM takes one challenge.

        Raises:
            ConfigError: it did not come by a service, or the identities cannot be read or written.
            ProvisioningError: the service says no, or nothing.
            KeyStoreError: the key store does not sign, or does not take a new key.
        """
        # Imported when needed: HTTPS takes 14 MiB, and most gateways register once in their life. In a thread, as links
        # are read meanwhile.
        await asyncio.to_thread(importlib.import_module, "edge_gateway.provisioning.adoption")
        async with self._registering:
            return await self._register()

    async def _register(self) -> Identity:
        from edge_gateway.provisioning.adoption import Adopter
        from edge_gateway.provisioning.dps import DpsClient

        own = await asyncio.to_thread(self.identity)
        if own is None or self._identities_file is None:
            raise ConfigError(
                "the gateway has its identity from no provisioning service",
                where=str(self._identities_file or "uplink"),
                remedy="Bring it another one: edge-gateway provision",
            )
        identities = Identities(self._identities_file)
        ca_file = Path(own.registration_ca_file) if own.registration_ca_file else None
        at = Registration.parse(own.registration, ca_file)
        async with DpsClient(
            at.id_scope,
            tls=self._tls(own, ca_file),
            clock=self._clock,
            rng=self._rng,
            host=at.host,
            port=at.port,
        ) as client:
            return await self._by(own, Adopter(self._store, identities, own.key, ca_file=ca_file), client, at)

    def _tls(self, own: Identity, ca_file: Path | None) -> ssl.SSLContext:
        from edge_gateway.provisioning.tls import tls_context

        if own.certificate_key:
            return self._certified_tls(ca_file, Path(own.certificate_file), own.certificate_key)
        files = (Path(own.certificate_file), Path(own.private_key_file)) if own.certificate_file else (None, None)
        return tls_context(ca_file, *files)

    async def _by(self, own: Identity, adopter: Adopter, client: DpsClient, at: Registration) -> Identity:
        if own.method == "dps-tpm":
            # Where there is no TPM any more, the store lacks the key as well, and says so.
            return await adopter.by_tpm(client, at.registration_id, cast("Attester", self._store))
        if own.certificate_file:
            private_key_file = Path(own.private_key_file) if own.private_key_file else None
            return await adopter.by_certificate(
                client,
                at.registration_id,
                Path(own.certificate_file),
                private_key_file,
                certificate_key=own.certificate_key,
            )
        return await adopter.by_stored_key(client, at.registration_id, own.method)
