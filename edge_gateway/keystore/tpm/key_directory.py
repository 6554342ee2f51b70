"""The store's part of the disk: a file a key, the storage root key's name, and whether a wipe has begun.

| File | Content |
| --- | --- |
| `NAME.tpm` | a key, wrapped by the TPM: see `wrapped` |
| `NAME+certificate.tpm` | likewise, the key to a certificate; no key's name has a `+` |
| `srk.name` | the Name of the storage root key, in hex: the TPM and the owner these keys belong to |
| `wipe.begun` | empty: a wipe was begun and has not ended |

The directory has mode 0700 and the files 0600. What is in them opens in one TPM only; the modes are for those who
could then have that TPM sign.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.key_files import KeyFiles, changing, read_private, sync_directory
from edge_gateway.keystore.tpm.wrapped import Wrapped

_SUFFIX: Final = ".tpm"
_CERTIFICATE_SUFFIX: Final = f"+certificate{_SUFFIX}"
_ROOT_FILE: Final = "srk.name"
_WIPE_FILE: Final = "wipe.begun"
_ROOT_NAME: Final = re.compile(rb"[0-9a-f]{68}\n")


class KeyDirectory:
    """Wrapped keys by name. Needs no TPM.

    Those to certificates are apart, so that nothing that rotates, replaces or lists identities' keys takes one for its
    own; yet a name stands for one key only, which who puts a key has to see to.

    Args:
        path: made with mode 0700 when the first file is written.

    Raises:
        KeyStoreError: by every method, when a mode lets others in, or the disk does not do its part.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._keys = KeyFiles(path, suffix=_SUFFIX)
        self._certificate_keys = KeyFiles(path, suffix=_CERTIFICATE_SUFFIX)

    def names(self) -> list[str]:
        """Of all keys but those to certificates, sorted."""
        return self._keys.names()

    def certificate_key_names(self) -> list[str]:
        """Of all keys to certificates, sorted."""
        return self._certificate_keys.names()

    def read(self, name: str) -> Wrapped:
        """A key.

        Raises:
            KeyMissing: there is none of this name.
            KeyStoreError: it is not as it was written.
        """
        return _wrapped(self._keys, name)

    def read_certificate_key(self, name: str) -> Wrapped:
        """A key to a certificate; raises as `read`."""
        return _wrapped(self._certificate_keys, name)

    def put(self, key: Wrapped) -> None:
        """Keep a key under its label; a power cut leaves the older one or this one."""
        self._keys.put(key.label, key.to_bytes())

    def put_certificate_key(self, key: Wrapped) -> None:
        """Keep a key to a certificate, as `put`."""
        self._certificate_keys.put(key.label, key.to_bytes())

    def remove(self, name: str) -> None:
        """Forget a key, of whichever kind.

        Raises:
            KeyMissing: there is none of this name.
        """
        (self._certificate_keys if name in self.certificate_key_names() else self._keys).remove(name)

    @property
    def root_path(self) -> Path:
        """The file that says which storage root key these keys belong to; for errors."""
        return self.path / _ROOT_FILE

    def root_name(self) -> bytes | None:
        """The Name of the storage root key these keys belong to; None before the first.

        Raises:
            KeyStoreError: the file is damaged, or is gone while there are keys.
        """
        content = bytearray(100)
        try:
            size_bytes = read_private(self.root_path, content)
        except FileNotFoundError:
            if self.names() or self.certificate_key_names():
                raise KeyStoreError(
                    "it is missing, while there are keys",
                    where=str(self.root_path),
                    remedy="Bring the directory back from a backup, whole",
                ) from None
            return None
        except OSError as error:
            raise _failed("cannot be read", self.root_path, error) from error
        name = bytes(content[:size_bytes])
        if not _ROOT_NAME.fullmatch(name):
            raise KeyStoreError(
                "not what the key store wrote",
                where=str(self.root_path),
                remedy="Bring it back from this box's backup, or wipe: edge-gateway keys wipe",
            )
        return bytes.fromhex(name.decode("ascii"))

    def pin_root(self, name: bytes) -> None:
        """Remember the storage root key's Name for good."""
        with changing(self.path, self.root_path):
            replace_durably(self.root_path, name.hex().encode("ascii") + b"\n")

    @property
    def is_being_wiped(self) -> bool:
        """Whether a wipe has begun and not ended."""
        return (self.path / _WIPE_FILE).exists()

    def begin_wipe(self) -> None:
        """From now on, over any power cut, until `end_wipe`, this is a store that is being wiped."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(self.path / _WIPE_FILE, b"")
            sync_directory(self.path.parent)
        except OSError as error:
            raise _failed("cannot be marked as being wiped", self.path, error) from error

    def delete_all(self) -> None:
        """Delete keys first, then what says whose they were; one that stays keeps no other from going.

        They are not overwritten: of a thousand files that takes seconds, for which the TPM would have to wait. Modes
        are not asked for.
        """
        failures: list[OSError] = []
        try:
            keys = [each for each in sorted(self.path.iterdir()) if each.name.removesuffix(".new").endswith(_SUFFIX)]
            for doomed in (keys, [self.root_path]):
                for path in doomed:
                    try:
                        path.unlink(missing_ok=True)
                    except OSError as error:
                        failures.append(error)
                sync_directory(self.path)
        except FileNotFoundError:
            return  # there is no directory: nothing was ever put, or somebody else has removed it all
        except OSError as error:
            failures.append(error)
        if failures:
            raise _failed("cannot be wiped", self.path, failures[0]) from failures[0]

    def end_wipe(self) -> None:
        """The store is as new."""
        try:
            (self.path / _WIPE_FILE).unlink(missing_ok=True)
            sync_directory(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed("cannot be wiped", self.path, error) from error

    def check(self) -> None:
        """See that nobody else gets at the files, and that what they hold can be told."""
        self._keys.check()
        self.root_name()


def _wrapped(files: KeyFiles, name: str) -> Wrapped:
    return Wrapped.from_bytes(files.read(name), label=name, where=str(files.path(name)))


def _failed(what: str, path: Path, error: OSError) -> KeyStoreError:
    return KeyStoreError(
        f"{what}: {error.strerror}", where=str(path), remedy="Check the directory's owner and space, and the disk"
    )
