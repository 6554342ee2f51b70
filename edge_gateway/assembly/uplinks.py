"""The way to the hub, as the configuration names it, or as `edge-gateway provision` has found it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from edge_gateway.assembly.certificates import open_certificate_key
from edge_gateway.clock import Clock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink, MqttUplink
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyStoreError, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.uplink import Downlink, Session, Uplink
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.mqtt import MqttBroker
from edge_gateway.uplink.sas import unsigned
from edge_gateway.uplink.tls import client_context

if TYPE_CHECKING:
    from edge_gateway.keystore.tpm import CertificateKey
    from edge_gateway.uplink.tpm_tls import HeldKey


def make_uplink(
    config: GatewayConfig,
    raw: KeyStore,
    keys: RevocableKeyStore,
    keyring: Keyring,
    *,
    clock: Clock,
    rng: random.Random,
) -> Uplink:
    """The uplink under the gateway's own identity.

    Args:
        config: the gateway's.
        raw: its key store.
        keys: the same, until all keys are wiped.
        keyring: which of them are in use.
        clock: tokens end at a wall time.
        rng: jitter.

    Raises:
        ConfigError: a certificate file cannot be used, or `certificate_key` needs a TPM.
        KeyStoreError: there is no key of that name.
    """
    settings, name = config.uplink, config.gateway.name
    match settings:
        case IotHubUplink():

            def hub_of(settings: IotHubUplink) -> Uplink:
                certificate_file, key = settings.certificate_file, settings.certificate_key
                if certificate_file is None or key is None:
                    return IotHub(settings, config.delivery, key_store=keys, clock=clock, keyring=keyring)
                # The device SDK takes no key but one in a file.
                make = partial(_hub_device, settings, certificate_file, config.delivery, keys, clock, rng)
                return _certified(certificate_file, partial(open_certificate_key, raw, keys, key), make)

            if settings.host_name is None:
                path = config.gateway.data_directory / IDENTITIES_FILE
                return ProvisionedHub(path, lambda identity: hub_of(_settings_of(identity, settings)))
            return hub_of(settings)
        case MqttUplink(certificate_file=Path() as certificate_file, certificate_key=str() as key):

            def broker_of(held: HeldKey) -> Uplink:
                return MqttBroker(settings, config.delivery, gateway=name, certificate_key=held)

            return _certified(certificate_file, partial(open_certificate_key, raw, keys, key), broker_of)
        case MqttUplink():
            return MqttBroker(settings, config.delivery, gateway=name)
        case _:
            assert_never(settings)


def _certified(
    certificate_file: Path, open_key: Callable[[], CertificateKey], uplink_of: Callable[[HeldKey], Uplink]
) -> Uplink:
    from edge_gateway.uplink.certified import CertifiedUplink  # only who has such a key takes the risk of it

    return CertifiedUplink(certificate_file, open_key, uplink_of)


def _hub_device(
    settings: IotHubUplink,
    certificate_file: Path,
    delivery: DeliverySettings,
    keys: KeyStore,
    clock: Clock,
    rng: random.Random,
    key: HeldKey,
) -> Uplink:
    """The hub without the device SDK, under an identity that a certificate proves."""
    from edge_gateway.uplink.hub_device import HubDevice

    return HubDevice(
        settings.host_name or "",
        settings.device_id or "",
        None,
        delivery,
        key_store=keys,
        clock=clock,
        rng=rng,
        tls=client_context(settings.ca_file, certificate_file, key),
        gateway_host_name=settings.gateway_host_name or "",
    )


class ProvisionedHub:
    """`Uplink` to the hub this gateway has been provisioned to. It is looked up for each session.

    So a gateway reads its sensors before it is provisioned, and needs no restart after it.

    Args:
        path: of the file with the identities.
        hub_of: makes the uplink under an identity.
    """

    def __init__(self, path: Path, hub_of: Callable[[Identity], Uplink]) -> None:
        self._path = path
        self._hub_of = hub_of
        self._identity: Identity | None = None
        self._hub: Uplink | None = None

    @property
    def endpoint(self) -> str:
        """See `Uplink.endpoint`."""
        return self._hub.endpoint if self._hub is not None else "IoT Hub"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        async with AsyncExitStack() as resources:
            yield await resources.enter_async_context(self._look_up().connect(downlink))

    def _look_up(self) -> Uplink:
        try:
            identity = Identities(self._path).own
            if identity is not None and (self._hub is None or identity != self._identity):
                self._hub = self._hub_of(identity)
                self._identity = identity
        except ConfigError as error:
            raise UplinkRefused(error.what, where=error.where, remedy=error.remedy) from error
        except KeyStoreError as error:
            raise unsigned(error) from error
        if identity is None or self._hub is None:
            raise UplinkRefused(
                "this gateway has not been provisioned",
                where="uplink",
                remedy="Run `edge-gateway provision`, or give host_name and device_id",
            )
        return self._hub


def _settings_of(identity: Identity, settings: IotHubUplink) -> IotHubUplink:
    return settings.model_copy(
        update={
            "host_name": identity.host_name,
            "device_id": identity.device_id,
            "key": identity.key or settings.key,
            "gateway_host_name": identity.gateway_host_name or settings.gateway_host_name,
            "certificate_file": Path(identity.certificate_file) if identity.certificate_file else None,
            "private_key_file": Path(identity.private_key_file) if identity.private_key_file else None,
            "certificate_key": identity.certificate_key or None,
        }
    )
