"""What destroys a gateway's keys, and what watches for a reason to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_gateway.assembly.buffer import RESERVE_FILE
from edge_gateway.assembly.keys import (
    DATA_KEYS_DIRECTORY,
    KEYS_DIRECTORY,
    PAYLOAD_KEYS_DIRECTORY,
    data_keys,
    make_key_store,
    payload_key_store,
    tpm_of,
)
from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.emergency import Emergency, RevocableKeyStore, Wipe, wipe_of
from edge_gateway.emergency.tamper.making import make_watches
from edge_gateway.keystore import KeyStore

if TYPE_CHECKING:
    from edge_gateway.emergency.tamper.watch import TamperWatch


def make_wipe(config: GatewayConfig, keys: KeyStore, clock: Clock) -> Wipe:
    """The wipe of all keys of a gateway.

    Args:
        config: the gateway's.
        keys: its key store.
        clock: tells when.
    """
    return wipe_of(
        config,
        keys=keys,
        data_keys=data_keys(config, keys),
        payload_keys=payload_key_store(config, keys),
        key_directories=(KEYS_DIRECTORY, DATA_KEYS_DIRECTORY, PAYLOAD_KEYS_DIRECTORY),
        spare_file=RESERVE_FILE,
        clock=clock,
    )


def key_store(config: GatewayConfig) -> KeyStore:
    """The store that holds the keys a configuration names. A process should have one.

    Raises:
        ConfigError: this box cannot have such a store, lacks the software for it, or the release key cannot be used.
        GatewayWiped: all keys were destroyed; one that was cut short has been ended now.
    """
    keys = make_key_store(config)
    make_wipe(config, keys, SystemClock(config.gateway.clock_trust)).refuse()
    return keys


def make_emergency(config: GatewayConfig, raw: KeyStore, keys: RevocableKeyStore, clock: Clock) -> Emergency:
    """What wipes a gateway that runs.

    Args:
        config: the gateway's.
        raw: its key store.
        keys: the same, as the rest of the gateway has it.
        clock: stamps the alert.

    Raises:
        ConfigError: a tamper input needs what is not there.
    """
    return Emergency(
        config.gateway.name,
        make_wipe(config, raw, clock),
        keys,
        _watches(config, raw),
        clock=clock,
        alert_within_s=config.tamper.alert_within_s,
    )


def _watches(config: GatewayConfig, raw: KeyStore) -> list[TamperWatch]:
    tpm = tpm_of(raw) if raw.kind == "tpm" else None
    return make_watches(config.tamper, config.gateway.data_directory, tpm)
