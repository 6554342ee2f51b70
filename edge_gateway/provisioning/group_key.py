"""The key of an enrolment group: whoever has it can be each of the group's devices, known or yet to come.

So it is given for one command, wiped, and erased from where it came; unless somebody asks to keep it in the key store,
for sensors to come. There it derives keys by signing, so in a TPM it never is in the open again.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from edge_gateway.errors import ConfigError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import Generations, destroy_before
from edge_gateway.provisioning.secret_input import SecretInput
from edge_gateway.provisioning.symmetric_keys import (
    MOST_KEY_FILE_BYTES,
    Derive,
    deriving,
    keep_generation,
    read_key,
    signing_by,
    signing_with,
)

GROUP_KEY: Final = "dps-group"
"""In the key store, if it is kept."""


class GroupKey:
    """A group's key while it is needed. Use it as a context manager.

    Args:
        store: has it, or is going to.
        from_file: a file with it in base64, `-` for standard input; None to use the one in the store.
        keep_file: the file is not to be erased.
        keep_key: it is to be kept in the store.

    Raises:
        ConfigError: on entering, there is none, or it cannot be read.
        KeyStoreError: on entering, the store cannot be used.
    """

    derive: Derive
    """Gives devices' keys; only within the context."""

    def __init__(self, store: KeyStore, from_file: str | None, *, keep_file: bool, keep_key: bool) -> None:
        self._store = store
        self._from_file = from_file
        self._keep_file = keep_file
        self._keep_key = keep_key
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        if self._from_file is None:
            kept = Generations(self._store.names()).newest(GROUP_KEY)
            if kept is None:
                raise ConfigError(
                    "no group's key is given, and none is kept",
                    where="--from-file",
                    remedy="Name a file with it, or `-`",
                )
            self._given = None
            self.derive = deriving(signing_by(self._store, kept))
            return self
        with ExitStack() as resources:
            self._given = resources.enter_context(
                SecretInput(self._from_file, most_bytes=MOST_KEY_FILE_BYTES, keep_file=self._keep_file)
            )
            self._key = resources.enter_context(read_key(self._given.content, where=self._given.where))
            self.derive = deriving(signing_with(self._key))
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def done(self, *, is_proven: bool) -> str:
        """Keep the key if it is to be kept, and erase the file: all that was to be had by it is had.

        Args:
            is_proven: a key that was derived from it has been accepted. Otherwise nothing is done: it may be a wrong
                one, which must not take a good one's place, nor be erased before somebody has looked at it.

        Returns:
            What was done, in a sentence; empty if there is nothing to say.

        Raises:
            ConfigError: the file cannot be erased.
            KeyStoreError: the key cannot be kept; the file still has it.
        """
        if self._given is None:
            return ""
        if not is_proven:
            return (
                "No sensor has its key from the group's that was given, so that is neither kept nor erased: compare it "
                "with the enrolment group's; to have all keys anew from it, give --again"
            )
        if self._keep_key:
            keep_generation(self._store, GROUP_KEY, self._key)
            destroy_before(self._store, GROUP_KEY, keep=1)
        return self._given.erase()
