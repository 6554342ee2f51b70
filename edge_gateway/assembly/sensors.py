"""The sensors that the hub knows by identities of their own, as `edge-gateway provision leaves` has found them."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from edge_gateway.clock import Clock
from edge_gateway.codec import Codec
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.pipeline import SensorUplinks
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.uplink.leaf_sessions import LeafLimits
from edge_gateway.uplink.tls import client_context


def sensor_identities(config: GatewayConfig) -> Collection[Identity]:
    """Of each sensor that has one.

    Raises:
        ConfigError: they cannot be read.
    """
    if not isinstance(config.uplink, IotHubUplink):
        return ()
    return Identities(config.gateway.data_directory / IDENTITIES_FILE).leaves.values()


def make_sensor_uplinks(
    config: GatewayConfig,
    identities: Collection[Identity],
    codecs: Mapping[str, Codec],
    *,
    keys: KeyStore,
    keyring: Keyring,
    clock: Clock,
    rng: random.Random,
    resources: ExitStack,
) -> SensorUplinks:
    """An uplink for each of these sensors.

    Args:
        config: the gateway's.
        identities: the sensors'.
        codecs: of the links, by profile as the links give it.
        keys: sign for them.
        keyring: which of them are in use.
        clock: tokens end at a wall time.
        rng: jitter.
        resources: ends what they share.

    Raises:
        ConfigError: `ca_file` cannot be used.
    """
    settings = config.uplink
    if not isinstance(settings, IotHubUplink) or not identities:
        return SensorUplinks()
    # Imported when needed: most gateways have none.
    from edge_gateway.uplink.hub_commands import HubCommands
    from edge_gateway.uplink.hub_device import HubDevice

    limits = LeafLimits(
        most_sessions=settings.sensors.most_sessions,
        connects_per_s=settings.sensors.connects_per_s,
        idle_s=settings.sensors.idle_s,
    )
    # All together they do not knock more often than they may connect.
    retry_most_s = max(config.delivery.retry_most_s, len(identities) / limits.connects_per_s)
    delivery = config.delivery.model_copy(update={"retry_most_s": retry_most_s})
    hosts = {each.device: each.gateway_host_name or settings.gateway_host_name or each.host_name for each in identities}
    # Where names are looked up and keys sign. Apart for each host: one that is dead keeps nobody from the others.
    threads = {host: ThreadPoolExecutor(limits.most_connecting, f"sensors at {host}") for host in set(hosts.values())}
    for each in threads.values():
        resources.callback(each.shutdown, wait=False, cancel_futures=True)
    tls = client_context(settings.ca_file, None, None)
    commands = _commands(config, codecs)
    any_command = frozenset().union(*commands.values())
    uplinks = {
        each.device: HubDevice(
            each.host_name,
            each.device_id,
            each.key,
            delivery,
            key_store=keys,
            clock=clock,
            rng=rng,
            tls=tls,
            threads=threads[hosts[each.device]],
            commands=HubCommands(each.device, commands.get(each.device, any_command)),
            gateway_host_name=each.gateway_host_name or settings.gateway_host_name or "",
            token_lifetime_s=settings.token_lifetime_s,
            keyring=keyring,
        )
        for each in identities
    }
    return SensorUplinks(uplinks, delivery, limits, hold=settings.sensors.hold)


def _commands(config: GatewayConfig, codecs: Mapping[str, Codec]) -> dict[str, frozenset[str]]:
    """What each listed device obeys. Which profile another has that comes later, nobody knows yet."""
    return {
        device.name: frozenset(codecs[link.profile].profile.commands)
        for link in config.links
        for device in link.devices
    }
