"""Which keys a gateway replaces by itself, and when."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from edge_gateway.assembly.certificates import certified_tls, open_certificate_key
from edge_gateway.assembly.keys import DATA_KEYS_DIRECTORY, KEYS_DIRECTORY, data_keys
from edge_gateway.clock import Clock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import age_s, newest_generation
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities
from edge_gateway.provisioning.reregistration import Reregistration
from edge_gateway.provisioning.rotation import KeyRotation, OwnRotation

BUFFER_KEY: Final = "buffer"
"""What the rotation calls the key that the buffer is encrypted with."""

_DAY_S: Final = 86_400.0
_KEY_THREADS: Final = 4


def make_keyring(config: GatewayConfig, keys: KeyStore, clock: Clock) -> Keyring:
    """The keys in use, for all sessions of a gateway.

    Args:
        config: the gateway's.
        keys: its key store.
        clock: tells how old keys are.
    """
    directory = config.gateway.data_directory / KEYS_DIRECTORY
    return Keyring(
        keys,
        # Not the loop's own, where the device SDK has but one thread.
        threads=ThreadPoolExecutor(_KEY_THREADS, thread_name_prefix="keyring"),
        predecessor_s=_seconds(config.key_store.drop_predecessor_after_days),
        age_s=lambda stored: age_s(directory, stored, clock),
    )


def goes_by_provisioning(config: GatewayConfig) -> bool:
    """Whether the gateway is at the hub who it was provisioned as, and not who its configuration names."""
    return isinstance(config.uplink, IotHubUplink) and config.uplink.host_name is None


def identity_keys(config: GatewayConfig) -> list[str]:
    """Names of the keys by which the gateway and its sensors prove at the hub who they are.

    Raises:
        ConfigError: the identities cannot be read.
    """
    uplink = config.uplink
    if not isinstance(uplink, IotHubUplink):
        return []
    identities = Identities(config.gateway.data_directory / IDENTITIES_FILE)
    if goes_by_provisioning(config):
        return [each.key for each in identities if each.key]
    own = [uplink.key] if uplink.certificate_file is None else []
    return [*own, *(each.key for each in identities.leaves.values())]


def make_reregistration(
    config: GatewayConfig, raw: KeyStore, keys: RevocableKeyStore, clock: Clock, rng: random.Random
) -> Reregistration:
    """What the gateway itself was registered by; arguments as `make_uplink`."""

    def tls(ca_file: Path | None, certificate_file: Path, key: str) -> ssl.SSLContext:
        return certified_tls(ca_file, certificate_file, open_certificate_key(raw, keys, key))

    path = config.gateway.data_directory / IDENTITIES_FILE if goes_by_provisioning(config) else None
    return Reregistration(keys, path, clock=clock, rng=rng, certified_tls=tls)


def make_rotation(
    config: GatewayConfig,
    keys: RevocableKeyStore,
    keyring: Keyring,
    rotate_buffer_key: Callable[[], Awaitable[int]],
    reregistration: Reregistration,
    clock: Clock,
) -> KeyRotation:
    """What replaces a gateway's keys.

    Args:
        config: the gateway's.
        keys: its key store.
        keyring: knows which of them the hub has refused.
        rotate_buffer_key: has the buffer encrypt with a new key.
        reregistration: has a TPM's key replaced.
        clock: tells how old keys are.
    """
    data_directory: Path = config.gateway.data_directory

    def key_age_s(stored: str) -> float | None:
        return age_s(data_directory / KEYS_DIRECTORY, stored, clock)

    def buffer_key_age_s() -> float | None:
        numbers = data_keys(config, keys).ids()
        return age_s(data_directory / DATA_KEYS_DIRECTORY, str(max(numbers)), clock) if numbers else None

    def own() -> Iterator[OwnRotation]:
        identity = reregistration.identity()
        if identity is not None and identity.method == "dps-tpm":
            key = identity.key
            yield OwnRotation(key, reregistration.register, lambda: key_age_s(newest_generation(keys, key)))
        yield OwnRotation(BUFFER_KEY, rotate_buffer_key, buffer_key_age_s)

    return KeyRotation(
        keys,
        lambda: identity_keys(config),
        key_age_s,
        lambda: list(own()),
        refused=keyring.refused,
        rotate_after_s=_seconds(config.key_store.rotate_after_days),
    )


def _seconds(days: int | None) -> float | None:
    return None if days is None else days * _DAY_S
