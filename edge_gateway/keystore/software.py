"""Keys in encrypted files, for boxes without a TPM.

Each key is a file, `NAME.key`, encrypted under one wrapping key. That key comes from a file that somebody gives, a
stick or a systemd credential; otherwise it is made at first use and lies beside the others, as `wrapping-key`. Then a
file that was copied tells nothing, and a directory that was copied tells everything: `weakness` says so.

A key is decrypted for one signature, in place, and erased at once; the wrapping key likewise. To wipe, the wrapping key
goes first, and with it at one stroke all that was encrypted under it, here and elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.key_files import KeyFiles, changing, check_name, check_size
from edge_gateway.keystore.secret import Secret
from edge_gateway.keystore.wrapping_key import LONGEST_SECRET_BYTES, WrappingKeyFile, unwrap, wrap

CREATED_KEY_BYTES: Final = 32
WRAPPING_KEY_NAME: Final = "wrapping-key"

_NONCE_BYTES: Final = 12
_SEALED: Final = b"sealed"
_IDENTITY: Final = b"identity key "


class SoftwareKeyStore:
    """`KeyStore` on a directory.

    Args:
        directory: made with mode 0700 when the first key is put.
        wrapping_key_file: 32 bytes, as they are or in base64, that only the gateway's user can read. Left out, the
            store makes its own beside the keys.
        random_bytes: gives so many bytes that nobody can guess.

    Raises:
        KeyStoreUnavailable: by every method that needs it, while the given wrapping key is not there.
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    kind: Final = "software"

    def __init__(
        self,
        directory: Path,
        *,
        wrapping_key_file: Path | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._files = KeyFiles(directory)
        self._random_bytes = random_bytes
        self._wrapping_key = WrappingKeyFile(
            wrapping_key_file or directory / WRAPPING_KEY_NAME,
            is_ours=wrapping_key_file is None,
            random_bytes=random_bytes,
        )

    def __repr__(self) -> str:
        return f"SoftwareKeyStore({str(self._files.directory)!r})"

    @property
    def weakness(self) -> str:
        """See `KeyStore.weakness`."""
        if self._wrapping_key.is_ours:
            return (
                "Keys are in files, and what decrypts them lies beside them: who copies the whole data directory has "
                "every key. A TPM, or at least key_store: wrapping_key_file, would prevent it"
            )
        return (
            "Keys are in files, decrypted in memory to sign: who has the data directory and the wrapping key has every "
            "key. A TPM would prevent it"
        )

    def put(self, name: str, key: Secret) -> None:
        """See `KeyStore.put`."""
        check_name(name)
        check_size(name, len(key))
        self._files.put(name, self._wrapped(key, _purpose(name)))

    def create(self, name: str) -> None:
        """See `KeyStore.create`."""
        with Secret.random(CREATED_KEY_BYTES, self._random_bytes) as key:
            self.put(name, key)

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`."""
        wrapped = self._files.read(name)
        with self._unwrapped(wrapped, _purpose(name), where=str(self._files.path(name))) as key:
            return hmac.digest(key.view(), data, hashlib.sha256)

    def names(self) -> list[str]:
        """See `KeyStore.names`."""
        return self._files.names()

    def remove(self, name: str) -> None:
        """See `KeyStore.remove`. On flash the encrypted key may still be there, for who has the wrapping key too."""
        self._files.remove(name)

    def seal(self, secret: Secret) -> bytes:
        """See `KeyStore.seal`."""
        if not 0 < len(secret) <= LONGEST_SECRET_BYTES:
            raise KeyStoreError(
                f"a secret of {len(secret)} bytes cannot be sealed",
                where=str(self._files.directory),
                remedy=f"Give 1 to {LONGEST_SECRET_BYTES} bytes",
            )
        return self._wrapped(secret, _SEALED)

    def unseal(self, sealed: bytes) -> Secret:
        """See `KeyStore.unseal`."""
        return self._unwrapped(sealed, _SEALED, where=f"sealed secret of {len(sealed)} bytes")

    def check(self) -> None:
        """See `KeyStore.check`."""
        self._files.check()
        if not self._wrapping_key.is_ours or self._wrapping_key.exists() or self._files.names():
            self._wrapping_key.load().wipe()

    def wipe(self) -> None:
        """See `KeyStore.wipe`. A wrapping key that was given is destroyed too."""
        left: list[KeyStoreError] = []
        for step in (self._wrapping_key.destroy, self._files.remove_all):
            try:
                step()
            except KeyStoreError as error:
                left.append(error)
        if left:
            raise KeyStoreError(
                "; ".join(f"{error.where}: {error.what}" for error in left),
                where=repr(self),
                remedy=". ".join(error.remedy for error in left),
            ) from left[0]

    def close(self) -> None:
        """See `KeyStore.close`. Nothing is held between calls."""

    def _wrapped(self, secret: Secret, purpose: bytes) -> bytes:
        if self._wrapping_key.is_ours:
            self._make_wrapping_key()
        with self._wrapping_key.load() as key:
            return wrap(key, secret, purpose, self._random_bytes(_NONCE_BYTES))

    def _unwrapped(self, wrapped: bytes, purpose: bytes, *, where: str) -> Secret:
        with self._wrapping_key.load() as key:
            return unwrap(key, wrapped, purpose, where=where)

    def _make_wrapping_key(self) -> None:
        """Make one if there never was one; a key that is there tells that one was lost."""
        if self._wrapping_key.exists():
            return
        with changing(self._files.directory, self._wrapping_key.path):
            if not self._wrapping_key.exists() and not self._files.names():
                self._wrapping_key.make()


def _purpose(name: str) -> bytes:
    return _IDENTITY + name.encode()
