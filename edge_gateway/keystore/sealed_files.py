r"""Secrets in files that a key store has sealed: what the file holds, opens with that store only.

```
edge-gateway sealed 1 KIND\n | what the store of that kind has made of: name (16 bytes), secret
```

The name, as the first half of a SHA-256, is sealed along with the secret, so that no file can stand in for another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.key_files import KeyFiles
from edge_gateway.keystore.secret import Secret

_MARK: Final = b"edge-gateway sealed "
_VERSION: Final = b"1"
_NAME_BYTES: Final = 16


class SealedFiles:
    """Named secrets in a directory of their own.

    Args:
        directory: made with mode 0700 when the first secret is put.
        store: seals them.
        kind: what the secrets are, `data key` for instance. Those of one kind do not open as those of another.
        remedy: what to do about a secret by this name that does not open.
        import_options: what `edge-gateway keys import` needs to bring such a secret.

    Raises:
        KeyStoreUnavailable: by `put` and `open`, while the store does not answer.
        KeyStoreError: by every method, when a file's or the directory's mode would let others read it.
    """

    def __init__(
        self,
        directory: Path,
        store: KeyStore,
        *,
        kind: str,
        remedy: Callable[[str], str],
        import_options: str = "",
    ) -> None:
        self.files: Final = KeyFiles(directory, import_options=import_options)
        self._store = store
        self._kind = kind
        self._remedy = remedy

    def put(self, name: str, secret: Secret) -> None:
        """Seal and keep a secret; a power cut leaves the old one or the new one.

        Raises:
            KeyStoreError: the name cannot be used, or the directory cannot be written.
        """
        self.files.path(name)
        with Secret(bytes(_NAME_BYTES + len(secret))) as named:
            named.view()[:_NAME_BYTES] = self._name_in(name)
            named.view()[_NAME_BYTES:] = secret.view()
            sealed = self._store.seal(named)
        self.files.put(name, _MARK + _VERSION + b" " + self._store.kind.encode() + b"\n" + sealed)

    def open(self, name: str) -> Secret:
        """The secret of this name.

        Raises:
            KeyMissing: there is none.
            KeyStoreError: it cannot be read, or does not open.
        """
        content = self.files.read(name)
        try:
            sealed_by, sealed = read_sealed_file(content)
            if sealed_by != self._store.kind:
                raise ValueError(f"was sealed by a key store of kind {sealed_by}, and this one is {self._store.kind}")
            with self._store.unseal(sealed) as named:
                if not hmac.compare_digest(named.view()[:_NAME_BYTES], self._name_in(name)):
                    raise ValueError(f"is not what was kept as {self._kind} {name!r}")
                return Secret(named.view()[_NAME_BYTES:])
        except KeyStoreUnavailable:
            raise
        except KeyStoreError as error:
            raise self._does_not_open(name, f"does not unseal: {error.what}") from error
        except ValueError as error:
            raise self._does_not_open(name, str(error)) from None

    def _name_in(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._kind} {name}".encode()).digest()[:_NAME_BYTES]

    def _does_not_open(self, name: str, what: str) -> KeyStoreError:
        return KeyStoreError(what, where=str(self.files.path(name)), remedy=self._remedy(name))


def read_sealed_file(content: bytes) -> tuple[str, bytes]:
    """The kind of key store that sealed a file, and what it has made of it.

    Raises:
        ValueError: this is no such file; the text says why.
    """
    line, _, sealed = content.partition(b"\n")
    if not line.startswith(_MARK):
        raise ValueError("is no sealed key")
    version, _, kind = line.removeprefix(_MARK).partition(b" ")
    if version != _VERSION:
        raise ValueError(f"is of version {version[:8]!r}, which is not known here")
    if not (kind.isascii() and kind.replace(b"-", b"").isalnum()):
        raise ValueError("does not say by which kind of key store it was sealed")
    return kind.decode("ascii"), sealed
