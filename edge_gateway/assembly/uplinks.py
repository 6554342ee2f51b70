"""The way to the hub, as the configuration names it, or as `edge-gateway provision` has found it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import assert_never

from edge_gateway.clock import Clock
from edge_gateway.config.model import GatewayConfig, IotHubUplink, MqttUplink
from edge_gateway.errors import ConfigError, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.uplink import Downlink, Session, Uplink
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.mqtt import MqttBroker


def make_uplink(config: GatewayConfig, keys: KeyStore, clock: Clock) -> Uplink:
    """The uplink under the gateway's own identity.

    Raises:
        ConfigError: a certificate file cannot be used.
    """
    match config.uplink:
        case IotHubUplink(host_name=None) as settings:

            def hub_of(identity: Identity) -> Uplink:
                known = _settings_of(identity, settings)
                return IotHub(known, config.delivery, key_store=keys, clock=clock)

            return ProvisionedHub(config.gateway.data_directory / IDENTITIES_FILE, hub_of)
        case IotHubUplink():
            return IotHub(config.uplink, config.delivery, key_store=keys, clock=clock)
        case MqttUplink():
            return MqttBroker(config.uplink, config.delivery, gateway=config.gateway.name)
        case _:
            assert_never(config.uplink)


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
        try:
            identity = Identities(self._path).own
        except ConfigError as error:
            raise UplinkRefused(error.what, where=error.where, remedy=error.remedy) from error
        if identity is None:
            raise UplinkRefused(
                "this gateway has not been provisioned",
                where="uplink",
                remedy="Run `edge-gateway provision`, or give host_name and device_id",
            )
        if self._hub is None or identity != self._identity:
            self._identity, self._hub = identity, self._hub_of(identity)
        async with self._hub.connect(downlink) as session:
            yield session


def _settings_of(identity: Identity, settings: IotHubUplink) -> IotHubUplink:
    return settings.model_copy(
        update={
            "host_name": identity.host_name,
            "device_id": identity.device_id,
            "key": identity.key or settings.key,
            "gateway_host_name": identity.gateway_host_name or settings.gateway_host_name,
            "certificate_file": Path(identity.certificate_file) if identity.certificate_file else None,
            "private_key_file": Path(identity.private_key_file) if identity.private_key_file else None,
        }
    )
