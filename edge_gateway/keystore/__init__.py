"""Holds keys by name, so that the configuration can name them and need not contain them.

There are three kinds, kept apart. An identity key goes in and never comes out: the store signs with it. A payload key
is shared with a sensor and must be computed with here, so it can be opened, as a `Secret` that tells nobody what it is.
A data key is made here, for what the gateway keeps on its disk, and opened likewise; it has a number for a name. What
opens payloads or data has no way to an identity key: it keeps what a key store has sealed, and has it unsealed.
"""

from __future__ import annotations

from typing import Final, Protocol

from edge_gateway.keystore.secret import Secret

__all__ = ["DATA_KEY_BYTES", "Attester", "DataKeys", "KeyStore", "PayloadKeyStore", "Secret"]

DATA_KEY_BYTES: Final = 32
"""AES-256."""


class KeyStore(Protocol):
    """Holds symmetric keys by name, signs with them, and seals other secrets.

    Calls may block, for a tenth of a second where a TPM does the work; any thread may make them.
    """

    @property
    def kind(self) -> str:
        """What status calls it: `software`, `tpm` or `iot-edge`."""
        ...

    @property
    def weakness(self) -> str:
        """Why its keys are less safe than they could be, in a sentence; empty for those in a TPM."""
        ...

    def put(self, name: str, key: Secret) -> None:
        """Bring in a key of 16 to 64 bytes, or put it in an older one's place.

        A power cut leaves the older key or this one.

        Raises:
            KeyStoreError: the name or the key cannot be used, or the store cannot be written.
        """
        ...

    def create(self, name: str) -> None:
        """Make a random key of 32 bytes that nobody ever sees, as `put`.

        Raises:
            KeyStoreError: the name cannot be used, or the store cannot be written.
        """
        ...

    def sign(self, name: str, data: bytes) -> bytes:
        """HMAC-SHA256 of `data` under the key `name`, 32 bytes.

        Raises:
            KeyMissing: there is no such key.
            KeyStoreUnavailable: the store does not answer now.
            KeyStoreError: the key cannot be used.
        """
        ...

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        ...

    def remove(self, name: str) -> None:
        """Forget a key, for good when this returns.

        Raises:
            KeyMissing: there is no such key.
            KeyStoreError: the store cannot be written.
        """
        ...

    def seal(self, secret: Secret) -> bytes:
        """At most 64 bytes in a form that only this store opens, for whoever keeps them.

        Raises:
            KeyStoreUnavailable: the store does not answer now, or the box was not started as was approved, so that
                it would not open again.
            KeyStoreError: it is nothing, or too long.
        """
        ...

    def unseal(self, sealed: bytes) -> Secret:
        """What was sealed.

        Which of both errors it is decides what becomes of it: one that may pass is waited for, what does not open for
        good is given up.

        Raises:
            KeyStoreUnavailable: the store does not answer now, or the box was not started as was approved. It opens
                when that is put right.
            KeyStoreError: this is not as it was sealed, or another store sealed it.
        """
        ...

    def check(self) -> None:
        """Find out whether the store can be used; cheap enough for every minute.

        Raises:
            KeyStoreError: it cannot, and why.
        """
        ...

    def wipe(self) -> None:
        """Destroy all keys, and what opens what was sealed. If it is cut short, the next call ends it.

        Raises:
            KeyStoreError: something may be left; the text says what.
        """
        ...

    def close(self) -> None:
        """Let go of the store. Nothing may be called after it."""
        ...


class Attester(Protocol):
    """Proves to a provisioning service which TPM this is, and takes a key that only this TPM can open.

    Source: Azure Device Provisioning Service, TPM attestation; TPM 2.0 Library part 3, sections 12.5 and 13.3.
    """

    def endorsement_key(self) -> bytes:
        """The public part of the key that names this TPM, a marshalled TPM2B_PUBLIC.

        Raises:
            KeyStoreError: the TPM does not give it.
        """
        ...

    def storage_root_key(self) -> bytes:
        """The public part of the key that this store's keys are wrapped with, likewise.

        Raises:
            KeyStoreError: the TPM does not give it.
        """
        ...

    def import_challenge(self, name: str, challenge: bytes) -> None:
        """Take the key in a service's `authenticationKey` as the key `name`, as `KeyStore.put`.

        Raises:
            KeyStoreError: it was made for another TPM, or has been changed on its way.
        """
        ...


class PayloadKeyStore(Protocol):
    """Holds the keys of encrypted sensor payloads by name."""

    def open_key(self, name: str) -> Secret:
        """The key `name`: AES, so of 16, 24 or 32 bytes.

        Raises:
            KeyStoreError: no such key, or it cannot be used.
        """
        ...

    def put(self, name: str, key: Secret) -> None:
        """Store a key of 16, 24 or 32 bytes under `name`, replacing an older one.

        Raises:
            KeyStoreError: the name or the key cannot be used, or the store cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Forget the key `name`.

        Raises:
            KeyStoreError: no such key, or the store cannot be written.
        """
        ...

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        ...


class DataKeys(Protocol):
    """Makes and holds the keys of what the gateway keeps on its disk, by number. The highest is the newest.

    Opening may be slow (a TPM takes a tenth of a second) and may fail for a while; who opens keeps what was opened at
    hand.
    """

    def ids(self) -> list[int]:
        """The numbers of all keys, sorted; of those too that cannot be opened now.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        ...

    def create(self) -> int:
        """Make a random key of `DATA_KEY_BYTES`.

        When this returns the key can be opened, and survives a power cut. One that comes before may leave a key that
        nobody has used.

        Returns:
            Its number, higher than any this store has ever given, to keys since destroyed too; 1 for the first.

        Raises:
            KeyStoreError: the store cannot be written.
        """
        ...

    def open(self, key_id: int) -> Secret:
        """The key of this number.

        Raises:
            KeyStoreError: it cannot be opened now, or there is none: which of both, `ids` tells.
        """
        ...

    def destroy(self, key_id: int) -> None:
        """Forget a key, for good when this returns: what is sealed under it can never be opened again.

        Raises:
            KeyStoreError: there is none, or the store cannot be written; the key may still be there.
        """
        ...
