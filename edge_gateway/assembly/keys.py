"""The key stores of a gateway, as its configuration names them."""

from __future__ import annotations

import os
from typing import Final, assert_never

from edge_gateway.config.model import GatewayConfig
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore

KEYS_DIRECTORY: Final = "keys"
DATA_KEYS_DIRECTORY: Final = "data-keys"
PAYLOAD_KEYS_DIRECTORY: Final = "payload-keys"


def key_store(config: GatewayConfig) -> KeyStore:
    """The store that holds the keys a configuration names. A process should have one; nothing is opened yet.

    Raises:
        ConfigError: this box cannot have such a store, or lacks the software for it.
    """
    directory = config.gateway.data_directory / KEYS_DIRECTORY
    settings = config.key_store
    match settings.kind:
        case "software":
            return SoftwareKeyStore(directory, wrapping_key_file=settings.wrapping_key_file)
        case "tpm":
            # Imported when needed, as are the next: a gateway carries one of them for years.
            from edge_gateway.keystore.tpm import TpmKeyStore

            return TpmKeyStore(directory, tcti=settings.tcti, srk=settings.storage_key)
        case "iot-edge":
            from edge_gateway.keystore.workload import WorkloadKeyStore

            return WorkloadKeyStore.from_environment(os.environ)
        case _:
            assert_never(settings.kind)


def payload_key_store(config: GatewayConfig, keys: KeyStore | None = None) -> SealedPayloadKeys:
    """The keys of encrypted payloads.

    Args:
        config: whose.
        keys: what they are sealed with; left out, as configured.
    """
    directory = config.gateway.data_directory / PAYLOAD_KEYS_DIRECTORY
    return SealedPayloadKeys(directory, key_store(config) if keys is None else keys)


def data_keys(config: GatewayConfig, keys: KeyStore | None = None) -> SealedDataKeys:
    """The keys of what the gateway keeps on its disk; arguments as `payload_key_store`."""
    directory = config.gateway.data_directory / DATA_KEYS_DIRECTORY
    return SealedDataKeys(directory, key_store(config) if keys is None else keys)
