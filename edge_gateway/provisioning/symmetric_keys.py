"""Symmetric keys on their way into the key store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final, TypeAlias

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable, KeyTaken
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.generations import Generations, destroy, destroy_before, put_generation

SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64
"""What hubs and the provisioning service accept."""

MOST_KEY_CHARACTERS: Final = 4 * ((LONGEST_KEY_BYTES + 2) // 3)
"""In base64."""

MOST_KEY_FILE_BYTES: Final = 256
"""Of a file with a key in base64: some blanks do no harm."""

_PROBE: Final = b"edge-gateway: is this the key?"

Sign: TypeAlias = Callable[[bytes], bytes]
"""HMAC-SHA256 of some data under one key. May block, as a TPM takes its time."""

Derive: TypeAlias = Callable[[str], Secret]
"""The key of a group's device, by its registration id. May block."""


def read_key(text: bytes | bytearray | memoryview, *, where: str) -> Secret:
    """A key as portals show it: base64 of 16 to 64 bytes.

    Args:
        text: nothing but the key, with or without blanks around it.
        where: for the error, which never has the text.

    Raises:
        ConfigError: it is none.
    """
    try:
        key = Secret.from_base64(text)
    except ValueError:
        key = Secret(b"")
    if not SHORTEST_KEY_BYTES <= len(key) <= LONGEST_KEY_BYTES:
        raise ConfigError(
            "what was given is not a key",
            where=where,
            remedy=f"Give base64 of {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes, as the portal shows it",
        )
    return key


def signing_with(key: Secret) -> Sign:
    """Sign with a key in the open, which is not in the store yet."""
    return lambda data: hmac.digest(key.view(), data, hashlib.sha256)


def signing_by(store: KeyStore, name: str) -> Sign:
    """Sign with a key in the store."""
    return lambda data: store.sign(name, data)


def deriving(sign: Sign) -> Derive:
    """The keys of a group's devices: HMAC-SHA256 of the registration id under the group's key.

    That is what signing does: a group's key in a TPM derives its devices' keys and never leaves.

    Source: https://learn.microsoft.com/azure/iot-dps/concepts-symmetric-key-attestation#group-enrollments
    """
    return lambda registration_id: Secret(sign(registration_id.encode()))


def in_base64(key: bytes) -> str:
    """As portals and services write it."""
    return base64.b64encode(key).decode()


def holds(store: KeyStore, name: str, key: Secret) -> bool:
    """Whether the store has just this key under the name, and can sign with it.

    Raises:
        KeyStoreUnavailable: the store does not answer now.
    """
    try:
        return hmac.compare_digest(store.sign(name, _PROBE), signing_with(key)(_PROBE))
    except KeyStoreUnavailable:
        raise
    except KeyStoreError:  # missing, or damaged: then the key is wanted all the more
        return False


def keep_key(store: KeyStore, name: str, key: Secret) -> None:
    """Put a key into the store, unless it is there, and see that the store signs as the key does.

    Raises:
        KeyStoreError: it cannot be put, or it signs otherwise.
    """
    if holds(store, name, key):
        return
    store.put(name, key)
    if not holds(store, name, key):
        raise KeyStoreError(
            "signs otherwise than the key that was put there",
            where=f"key {name!r}",
            remedy="Do not use this store: its memory, its disk or its TPM is faulty",
        )


def keep_generation(store: KeyStore, name: str, key: Secret, *, is_proven: bool = False, is_first: bool = False) -> str:
    """Put a key into the store as the newest generation of a name, unless it is that already. Older ones stay.

    Args:
        store: gets it.
        name: of the key, whatever its generations are called.
        key: the new one.
        is_proven: the provisioning service has accepted it; then of the older ones only the last stays.
        is_first: there is no older one, as whoever calls has seen: to list a store of thousands for each takes long.

    Returns:
        What the store calls it.

    Raises:
        KeyStoreError: it cannot be put, the store signs otherwise, or there are too many generations.
    """

    def put(stored: str) -> None:
        try:
            keep_key(store, stored, key)
        except (KeyStoreUnavailable, KeyTaken):
            raise
        except KeyStoreError:
            destroy(store, [stored])  # it would be tried before those that are good
            raise

    if is_first:
        put(name)
        return name
    newest = Generations(store.names()).newest(name)
    if newest is not None and holds(store, newest, key):
        return newest
    stored = put_generation(store, name, put)
    if is_proven:
        destroy_before(store, name, keep=2)
    return stored


async def keep_generation_off_loop(
    store: KeyStore, name: str, key: Secret, *, is_proven: bool = False, is_first: bool = False
) -> str:
    """As `keep_generation`, in a thread. Cancelled, it ends first, or the key would be wiped while it is written."""
    work = asyncio.to_thread(keep_generation, store, name, key, is_proven=is_proven, is_first=is_first)
    keeping = asyncio.create_task(work, name=f"keep-key {name}")
    try:
        return await asyncio.shield(keeping)
    except asyncio.CancelledError:
        await asyncio.wait([keeping])
        raise
