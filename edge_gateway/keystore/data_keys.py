"""The keys of what the gateway itself keeps on its disk, in files, for boxes without a TPM.

A key's number is its file's name, and the highest name is the highest number ever given. So the newest key, when it is
destroyed, leaves an empty file; all others just go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import DATA_KEY_BYTES, Secret
from edge_gateway.keystore.key_files import KeyFiles

_NUMBER: Final = re.compile("[1-9][0-9]{0,8}")
"""What we call a file; what else lies in the directory is not ours."""

_DESTROYED: Final = b""


class SoftwareDataKeys:
    """`DataKeys` on a directory of its own. One process at a time may change it.

    Whoever can read the disk can read the keys, a destroyed one too for as long as its blocks have not been written
    over: this keeps what is stored from whoever gets the database alone, as in a backup.

    Args:
        directory: made with mode 0700 when the first key is made.
        random_bytes: gives so many bytes that nobody can guess.

    Raises:
        KeyStoreError: by `create`, `open` and `destroy`, when a mode would let others read a key.
    """

    def __init__(self, directory: Path, *, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._files = KeyFiles(
            directory, sizes_bytes=(len(_DESTROYED), DATA_KEY_BYTES), sizes_told=f"{DATA_KEY_BYTES} bytes"
        )
        self._random_bytes = random_bytes

    def __repr__(self) -> str:
        return f"SoftwareDataKeys({str(self._files.directory)!r})"

    def ids(self) -> list[int]:
        """See `DataKeys.ids`."""
        return [number for number in self._numbers() if not self._is_destroyed(number)]

    def create(self) -> int:
        """See `DataKeys.create`."""
        key_id = max(self._numbers(), default=0) + 1
        self._files.put(str(key_id), self._random_bytes(DATA_KEY_BYTES))
        # The directory may be new, and its files are no safer from a power cut than its name.
        _sync(self._files.directory.parent)
        return key_id

    def open(self, key_id: int) -> Secret:
        """See `DataKeys.open`."""
        if key_id in self._numbers():
            key = self._files.read(str(key_id))
            if key != _DESTROYED:
                return Secret(key)
        raise self._missing(key_id)

    def destroy(self, key_id: int) -> None:
        """See `DataKeys.destroy`."""
        if key_id not in self.ids():
            raise self._missing(key_id)
        if key_id == max(self._numbers()):
            self._files.put(str(key_id), _DESTROYED)
        else:
            self._files.remove(str(key_id))
            _sync(self._files.directory)

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._files.names() if _NUMBER.fullmatch(name))

    def _is_destroyed(self, number: int) -> bool:
        try:
            return self._files.read(str(number)) == _DESTROYED
        except KeyStoreError:
            return False  # why it cannot be read, `open` will say

    def _missing(self, key_id: int) -> KeyStoreError:
        known = ", ".join(map(str, self.ids())) or "none"
        return KeyStoreError(
            "there is no such key",
            where=f"data key {key_id} in {self._files.directory}",
            remedy=f"Keys there: {known}. Bring the directory back from a backup if it was lost",
        )


def _sync(directory: Path) -> None:
    """Make the names in a directory safe from a power cut."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise KeyStoreError(
            f"cannot be synced: {error.strerror}", where=str(directory), remedy="Look at the disk and its owner"
        ) from error
