"""The key stores of a gateway, as its configuration names them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from edge_gateway.config.key_store import KeyStoreSettings
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore

if TYPE_CHECKING:
    from edge_gateway.keystore.tpm import TpmKeyStore

KEYS_DIRECTORY: Final = "keys"
DATA_KEYS_DIRECTORY: Final = "data-keys"
PAYLOAD_KEYS_DIRECTORY: Final = "payload-keys"


def make_key_store(config: GatewayConfig) -> KeyStore:
    """The store that a configuration names, whether all is well with it or not; nothing is opened yet.

    Raises:
        ConfigError: this box cannot have such a store, lacks the software for it, or the release key cannot be used.
    """
    directory = config.gateway.data_directory / KEYS_DIRECTORY
    settings = config.key_store
    match settings.kind:
        case "software":
            return SoftwareKeyStore(directory, wrapping_key_file=settings.wrapping_key_file)
        case "tpm":
            return _tpm_key_store(directory, settings)
        case "iot-edge":
            # Imported when needed, as is that of the TPM: a gateway carries one of them for years.
            from edge_gateway.keystore.workload import WorkloadKeyStore

            return WorkloadKeyStore.from_environment(os.environ)
        case _:
            assert_never(settings.kind)


def payload_key_store(config: GatewayConfig, keys: KeyStore) -> SealedPayloadKeys:
    """The keys of encrypted payloads.

    Args:
        config: whose.
        keys: what they are sealed with.
    """
    return SealedPayloadKeys(config.gateway.data_directory / PAYLOAD_KEYS_DIRECTORY, keys)


def data_keys(config: GatewayConfig, keys: KeyStore) -> SealedDataKeys:
    """The keys of what the gateway keeps on its disk; arguments as `payload_key_store`."""
    return SealedDataKeys(config.gateway.data_directory / DATA_KEYS_DIRECTORY, keys)


def tpm_of(keys: KeyStore) -> TpmKeyStore:
    """A key store that does what only a TPM can do: keys for certificates, and how the box was started.

    Raises:
        ConfigError: this one is none.
    """
    if keys.kind == "tpm":
        from edge_gateway.keystore.tpm import TpmKeyStore

        if isinstance(keys, TpmKeyStore):
            return keys
    raise ConfigError(
        f"a key store of kind {keys.kind} cannot do this",
        where="key_store.kind",
        remedy="It takes a TPM: say kind: tpm",
    )


def _tpm_key_store(directory: Path, settings: KeyStoreSettings) -> TpmKeyStore:
    from edge_gateway.keystore.tpm import BootPolicy, PasswordFile, TpmKeyStore

    owner, lockout, boot = settings.owner_password_file, settings.lockout_password_file, settings.boot
    return TpmKeyStore(
        directory,
        tcti=settings.tcti,
        srk=settings.storage_key,
        owner_auth=None if owner is None else PasswordFile(owner),
        lockout_auth=None if lockout is None else PasswordFile(lockout),
        boot_policy=None if boot is None else BootPolicy.read(boot.release_key_file, boot.approvals_file, boot.pcrs),
    )
