"""The keys of what the gateway itself keeps on its disk, in files that the key store has sealed.

A key's number is its file's name, and the highest name is the highest number ever given. So the newest key, when it is
destroyed, leaves an empty file; all others just go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyMissing
from edge_gateway.keystore import DATA_KEY_BYTES, KeyStore
from edge_gateway.keystore.sealed_files import SealedFiles
from edge_gateway.keystore.secret import Secret

_NUMBER: Final = re.compile("[1-9][0-9]{0,8}")
"""What we call a file; what else lies in the directory is not ours."""


class SealedDataKeys:
    """`DataKeys` on a directory of its own. One process at a time may change it.

    A destroyed key's file is overwritten. On flash what was in it may stay for a while, and opens for who has the key
    store too.

    Args:
        directory: made with mode 0700 when the first key is made.
        store: seals the keys.
        random_bytes: gives so many bytes that nobody can guess.

    Raises:
        KeyStoreUnavailable: by `create` and `open`, while the store does not answer.
        KeyStoreError: by `create`, `open` and `destroy`, when a mode would let others read a key.
    """

    def __init__(self, directory: Path, store: KeyStore, *, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._sealed = SealedFiles(
            directory,
            store,
            kind="data key",
            remedy=lambda _: (
                "Bring file and key store back as they were; without them what was stored under this key "
                "stays closed, and a new key is made for what comes"
            ),
        )
        self._files = self._sealed.files
        self._random_bytes = random_bytes

    def __repr__(self) -> str:
        return f"SealedDataKeys({str(self._files.directory)!r})"

    def ids(self) -> list[int]:
        """See `DataKeys.ids`."""
        return [number for number in self._numbers() if not self._files.is_empty(str(number))]

    def create(self) -> int:
        """See `DataKeys.create`."""
        key_id = max(self._numbers(), default=0) + 1
        with Secret.random(DATA_KEY_BYTES, self._random_bytes) as key:
            self._sealed.put(str(key_id), key)
        return key_id

    def open(self, key_id: int) -> Secret:
        """See `DataKeys.open`."""
        if key_id not in self.ids():
            raise self._missing(key_id)
        return self._sealed.open(str(key_id))

    def destroy(self, key_id: int) -> None:
        """See `DataKeys.destroy`."""
        if key_id not in self.ids():
            raise self._missing(key_id)
        if key_id == max(self._numbers()):
            self._files.empty(str(key_id))
        else:
            self._files.remove(str(key_id))

    def wipe(self) -> None:
        """Destroy all keys, and with them their numbers: only together with all that is stored under them.

        Raises:
            KeyStoreError: something may be left; the text says what. The next call ends it.
        """
        self._files.remove_all()

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._files.names() if _NUMBER.fullmatch(name))

    def _missing(self, key_id: int) -> KeyMissing:
        known = ", ".join(map(str, self.ids())) or "none"
        return KeyMissing(
            "there is no such key",
            where=f"data key {key_id} in {self._files.directory}",
            remedy=f"Keys there: {known}. Bring the directory back from a backup if it was lost",
        )
