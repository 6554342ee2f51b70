"""A key store that can be shut while others hold it: in a process that wipes, nobody signs or makes a key any more."""

from __future__ import annotations

from typing import cast

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Attester, KeyStore, Secret


class RevocableKeyStore:
    """`KeyStore` as another one, until it is revoked; after that it can be wiped and closed, and nothing else.

    Also `Attester`, where the other one is.

    A key that others have opened, to seal what they keep for instance, stays with them as long as the process lives.

    Args:
        store: what does the work.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._revoked = False

    def __repr__(self) -> str:
        return f"RevocableKeyStore({self._store!r})"

    def revoke(self) -> None:
        """From now on every use is refused. What is in another thread's hands just now may still end."""
        self._revoked = True

    def refuse_if_revoked(self) -> None:
        """For those who use a key of this store otherwise than by its methods.

        Raises:
            KeyStoreError: it is revoked.
        """
        if self._revoked:
            raise KeyStoreError(
                "the keys are being wiped", where="key store", remedy="To use the box again, provision it anew"
            )

    @property
    def kind(self) -> str:
        """See `KeyStore.kind`."""
        return self._store.kind

    @property
    def weakness(self) -> str:
        """See `KeyStore.weakness`."""
        return self._store.weakness

    def put(self, name: str, key: Secret) -> None:
        """See `KeyStore.put`."""
        self._open.put(name, key)

    def create(self, name: str) -> None:
        """See `KeyStore.create`."""
        self._open.create(name)

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`."""
        return self._open.sign(name, data)

    def names(self) -> list[str]:
        """See `KeyStore.names`."""
        return self._open.names()

    def remove(self, name: str) -> None:
        """See `KeyStore.remove`."""
        self._open.remove(name)

    def seal(self, secret: Secret) -> bytes:
        """See `KeyStore.seal`."""
        return self._open.seal(secret)

    def unseal(self, sealed: bytes) -> Secret:
        """See `KeyStore.unseal`."""
        return self._open.unseal(sealed)

    def check(self) -> None:
        """See `KeyStore.check`."""
        self._open.check()

    def endorsement_key(self) -> bytes:
        """See `Attester.endorsement_key`."""
        return self._attester.endorsement_key()

    def storage_root_key(self) -> bytes:
        """See `Attester.storage_root_key`."""
        return self._attester.storage_root_key()

    def import_challenge(self, name: str, challenge: bytes) -> None:
        """See `Attester.import_challenge`."""
        self._attester.import_challenge(name, challenge)

    def wipe(self) -> None:
        """See `KeyStore.wipe`."""
        self._store.wipe()

    def close(self) -> None:
        """See `KeyStore.close`."""
        self._store.close()

    @property
    def _open(self) -> KeyStore:
        self.refuse_if_revoked()
        return self._store

    @property
    def _attester(self) -> Attester:
        if self.kind != "tpm":
            raise KeyStoreError(
                f"a key store of kind {self.kind} cannot prove which box this is",
                where="key store",
                remedy="It takes a TPM: key_store: {kind: tpm}",
            )
        return cast("Attester", self._open)
