"""The one key that the keys of the software store are encrypted under, and how.

What is wrapped is self-contained:

```
"EGW" version  nonce | encrypted secret | tag
3     1        12      1 to 64 bytes      16
```

AES-256-GCM with a random nonce: keys are few, and nothing has to be remembered that a backup could take back. The tag
also holds for the four bytes in front and for what the secret is for, so what was wrapped for one purpose or name does
not open for another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore.key_files import (
    aside_of,
    destroy_file,
    read_private,
    refuse_if_wiped,
    sync_directory,
    write_private,
)
from edge_gateway.keystore.secret import Secret

WRAPPING_KEY_BYTES: Final = 32
LONGEST_SECRET_BYTES: Final = 64

_MARK: Final = b"EGW"
_VERSION: Final = b"\x01"
_NONCE: Final = slice(4, 16)
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_SHORTEST_BYTES: Final = 4 + _NONCE_BYTES + 1 + _TAG_BYTES
_LONGEST_BYTES: Final = 4 + _NONCE_BYTES + LONGEST_SECRET_BYTES + _TAG_BYTES

_MOST_FILE_BYTES: Final = 64
"""Base64 with a line's end, and blanks around."""


class WrappingKeyFile:
    """A file with a key of 32 bytes, as they are or in base64.

    The key is read anew each time it is needed, and is in memory for that long only.

    Args:
        path: where it is.
        is_ours: we make it, and find it missing only if it was lost. Otherwise somebody gives it, who may still come.
        random_bytes: gives so many bytes that nobody can guess.
    """

    def __init__(self, path: Path, *, is_ours: bool, random_bytes: Callable[[int], bytes]) -> None:
        self.path: Final = path
        self.is_ours: Final = is_ours
        self._random_bytes = random_bytes

    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

    def make(self) -> None:
        """Write a new key; the directory is there, and the caller's alone for now.

        Raises:
            OSError: it cannot be written.
        """
        with Secret.random(WRAPPING_KEY_BYTES, self._random_bytes) as key:
            write_private(self.path, key.view())

    def load(self) -> Secret:
        """Read the key.

        Raises:
            KeyStoreUnavailable: it is not there now, and somebody else brings it.
            KeyStoreError: it is lost, others can read it, or it is no such key.
        """
        content = bytearray(_MOST_FILE_BYTES + 1)
        try:
            size_bytes = read_private(self.path, content)
            return parse_wrapping_key(memoryview(content)[:size_bytes], where=str(self.path))
        except FileNotFoundError:
            raise self._missing() from None
        except OSError as error:
            raise KeyStoreError(
                f"the wrapping key cannot be read: {error.strerror}",
                where=str(self.path),
                remedy="Run as the gateway's user",
            ) from error
        finally:
            content[:] = bytes(len(content))

    def destroy(self) -> None:
        """Overwrite the key and take it away, if it is there.

        Raises:
            KeyStoreError: it is still there.
        """
        path = self.path.resolve()
        try:
            for each in (path, aside_of(path)):
                with suppress(FileNotFoundError):
                    destroy_file(each)
            if path.parent.exists():
                sync_directory(path.parent)
        except OSError as error:
            raise KeyStoreError(
                f"the wrapping key could not be destroyed: {error.strerror}",
                where=str(self.path),
                remedy="Destroy it where it comes from; what a backup of the key directory holds opens with it",
            ) from error

    def _missing(self) -> KeyStoreError:
        if self.is_ours:
            refuse_if_wiped(self.path.parent)
            return KeyStoreError(
                "the wrapping key is missing, without which no key here opens",
                where=str(self.path),
                remedy="Bring it back from a backup; or end what was begun: edge-gateway keys wipe, and provision anew",
            )
        return KeyStoreUnavailable(
            "the wrapping key is not there",
            where=str(self.path),
            remedy="Plug in what holds it, or start the gateway by the service that gives it; see key_store: "
            "wrapping_key_file",
        )


def parse_wrapping_key(content: memoryview, *, where: str) -> Secret:
    """The key in a file: 32 bytes, or as many in base64.

    Raises:
        KeyStoreError: it is none, or was wiped.
    """
    try:
        key = Secret(content) if len(content) == WRAPPING_KEY_BYTES else Secret.from_base64(content)
        if len(key) != WRAPPING_KEY_BYTES:
            raise ValueError("base64 of another length")
    except ValueError:
        raise KeyStoreError(
            "holds no wrapping key",
            where=where,
            remedy="It takes 32 random bytes, as they are or in base64: openssl rand -base64 32",
        ) from None
    if not any(key.view()):
        raise KeyStoreError(
            "the wrapping key was wiped: it is all zeros",
            where=where,
            remedy="End what was begun: edge-gateway keys wipe, and provision anew",
        )
    return key


def wrap(key: Secret, secret: Secret, purpose: bytes, nonce: bytes) -> bytes:
    """Encrypt a secret of 1 to 64 bytes.

    Args:
        key: the wrapping key.
        secret: what to wrap.
        purpose: opens with these bytes only; they are not kept.
        nonce: 12 random bytes.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher  # 7 MiB, for those who need it
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import GCM

    head = _MARK + _VERSION
    encryptor = Cipher(AES(key.view()), GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(head + purpose)
    encrypted = encryptor.update(secret.view()) + encryptor.finalize()
    return head + nonce + encrypted + encryptor.tag


def unwrap(key: Secret, wrapped: bytes, purpose: bytes, *, where: str) -> Secret:
    """Decrypt what was wrapped, in place.

    Raises:
        KeyStoreError: it is not what was wrapped under this key for this purpose.
    """
    head = wrapped[: _NONCE.start]
    if not head.startswith(_MARK) or not _SHORTEST_BYTES <= len(wrapped) <= _LONGEST_BYTES:
        raise _damaged("is nothing that a software key store has encrypted", where)
    if head != _MARK + _VERSION:
        raise KeyStoreError(
            f"is of version {head[-1]}, which is not known here",
            where=where,
            remedy="Use the edge-gateway that wrote it, or a later one",
        )
    encrypted = wrapped[_NONCE.stop : -_TAG_BYTES]
    secret = Secret(bytes(len(encrypted)))
    is_ours = _decrypt(key, wrapped[_NONCE], head + purpose, encrypted, wrapped[-_TAG_BYTES:], into=secret)
    # OpenSSL leaves blocks of the secret on the stack. The same computation on zeros takes their place.
    nothing = Secret(bytes(WRAPPING_KEY_BYTES)), bytes(_NONCE_BYTES), b"", bytes(len(encrypted)), bytes(_TAG_BYTES)
    _decrypt(*nothing, into=Secret(bytes(len(encrypted))))
    if not is_ours:
        raise _damaged("was changed, is not where it was put, or the wrapping key is another one", where)
    return secret


def _decrypt(key: Secret, nonce: bytes, bound_to: bytes, encrypted: bytes, tag: bytes, *, into: Secret) -> bool:
    """Whether the tag is right; if it is not, nothing is left in `into`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import GCM

    decryptor = Cipher(AES(key.view()), GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(bound_to)
    try:
        decryptor.update_into(encrypted, into.view())
        decryptor.finalize()
    except InvalidTag:
        into.wipe()
        return False
    return True


def _damaged(what: str, where: str) -> KeyStoreError:
    return KeyStoreError(
        what, where=where, remedy="Bring file and wrapping key back from the same backup, or import the key again"
    )
