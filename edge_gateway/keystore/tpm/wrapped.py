"""What a TPM has wrapped, as bytes for a disk: the public area, and the private part that only this TPM opens.

```
offset  size  content
0       4     "EGTK"
4       1     version, 1
5       1     size of the label
6       n     label: the key's name, so that a file under another name is noticed; empty for a sealed secret
        2+n   TPM2B_PUBLIC
        2+n   TPM2B_PRIVATE
        32    SHA-256 over all before: for a disk that rots; whoever changes it on purpose the TPM notices
```

All numbers are big-endian, as a TPM's.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Self

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.tpm.public_areas import LONGEST_PUBLIC_BYTES

_MAGIC: Final = b"EGTK"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sBB")
_SIZE: Final = struct.Struct(">H")
_CHECKSUM_BYTES: Final = 32
_LONGEST_LABEL_BYTES: Final = 64
_LONGEST_PRIVATE_BYTES: Final = 1024
"""A key of 64 bytes takes 192."""

LONGEST_WRAPPED_BYTES: Final = (
    _HEAD.size + _LONGEST_LABEL_BYTES + LONGEST_PUBLIC_BYTES + _LONGEST_PRIVATE_BYTES + _CHECKSUM_BYTES
)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """An object under the storage root key, out of the TPM. Nothing of it is secret."""

    label: str
    """ASCII, at most 64 characters."""
    public: bytes
    """TPM2B_PUBLIC, its size in front."""
    private: bytes
    """TPM2B_PRIVATE, likewise."""

    def to_bytes(self) -> bytes:
        """For the disk."""
        label = self.label.encode("ascii")
        content = _HEAD.pack(_MAGIC, _VERSION, len(label)) + label + self.public + self.private
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, label: str, where: str) -> Self:
        """Read what `to_bytes` wrote.

        Args:
            data: at most `LONGEST_WRAPPED_BYTES` can be right.
            label: what it has to be.
            where: for the error.

        Raises:
            KeyStoreError: it is not as it was written, or was written for another label.
        """
        if not _HEAD.size + _CHECKSUM_BYTES <= len(data) <= LONGEST_WRAPPED_BYTES:
            raise _damaged("it has an impossible size", where)
        magic, version, label_bytes = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise _damaged("it is something else", where)
        if version != _VERSION:
            raise KeyStoreError(
                f"it is of version {version}; this gateway reads {_VERSION}",
                where=where,
                remedy="Run the gateway that wrote it, or a newer one",
            )
        content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            raise _damaged("its checksum is wrong", where)
        public_at = _HEAD.size + label_bytes
        found = content[_HEAD.size : public_at]
        if found != label.encode("ascii"):
            raise KeyStoreError(
                f"it was written for {found.decode('ascii', 'replace')!r} and is not the one asked for",
                where=where,
                remedy="Give the file its name back",
            )
        public, private_at = _sized_at(content, public_at, LONGEST_PUBLIC_BYTES, where)
        private, end = _sized_at(content, private_at, _LONGEST_PRIVATE_BYTES, where)
        if end != len(content):
            raise _damaged("it has too much in it", where)
        return cls(label, public, private)


def _sized_at(content: bytes, start: int, longest_bytes: int, where: str) -> tuple[bytes, int]:
    """A TPM2B with its size, and where it ends."""
    if start + _SIZE.size > len(content):
        raise _damaged("it ends too early", where)
    (size_bytes,) = _SIZE.unpack_from(content, start)
    end = start + _SIZE.size + size_bytes
    if end > len(content) or end - start > longest_bytes:
        raise _damaged("a size in it is wrong", where)
    return content[start:end], end


def _damaged(what: str, where: str) -> KeyStoreError:
    return KeyStoreError(
        f"not what the key store wrote: {what}",
        where=where,
        remedy="Bring it back from this box's backup, or import the key again",
    )
