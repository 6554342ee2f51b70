"""A password of the TPM's in a file: read each time it is needed, and in memory for that long only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.key_files import read_private
from edge_gateway.keystore.secret import Secret

Password: TypeAlias = Callable[[], Secret]
"""Gives a password of the TPM's when it is needed; whoever has asked wipes it. May raise `KeyStoreError`."""

LONGEST_PASSWORD_BYTES: Final = 32
"""Every TPM takes as much: the size of its SHA-256 (TPM 2.0 Library part 1, section 11.6.2, authValue)."""

_LINE_ENDS: Final = b"\r\n"


class PasswordFile:
    """A `Password` in a file that only the gateway's user can read.

    Args:
        path: the password, and nothing else but the end of the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> Secret:
        """The password.

        Raises:
            KeyStoreError: others can read it, it cannot be read, or it is no password of a TPM's.
        """
        content = bytearray(LONGEST_PASSWORD_BYTES + len(_LINE_ENDS) + 1)
        try:
            size_bytes = read_private(self._path, content)
            while size_bytes and content[size_bytes - 1] in _LINE_ENDS:
                size_bytes -= 1
            if not 1 <= size_bytes <= LONGEST_PASSWORD_BYTES:
                raise KeyStoreError(
                    "is no password of a TPM",
                    where=str(self._path),
                    remedy=f"Give 1 to {LONGEST_PASSWORD_BYTES} bytes, and no file if there is no password",
                )
            return Secret(memoryview(content)[:size_bytes])
        except OSError as error:
            raise KeyStoreError(
                f"the TPM's password cannot be read: {error.strerror}",
                where=str(self._path),
                remedy="Run as the gateway's user",
            ) from error
        finally:
            content[:] = bytes(len(content))
