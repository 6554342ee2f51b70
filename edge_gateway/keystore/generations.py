"""A key and those that come after it, so that one can be changed without a moment in which none works.

A key `NAME` may be in the store several times, as *generations*: the first is `NAME` itself, the second
`NAME.g2.DIGEST`, and so on. The digest is of the name: without it the second key of a sensor `boiler` would be the
first of a sensor `boiler.g2`. A number is given once, and nothing but the store's list of names says which there are;
so there is no file that could contradict it, and after a power cut a generation is there or it is not.

The newest is the one to use. Which the hub really takes, `edge_gateway.keystore.keyring` finds out, and destroys those
before it, but for one: the *predecessor*. As a hub has a primary and a secondary key, hub and gateway may then be
changed in any order.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S, Clock
from edge_gateway.errors import KeyMissing, KeyStoreError, KeyTaken
from edge_gateway.keystore import KeyStore

MOST_GENERATIONS: Final = 8
"""Of one key: each is tried at a hub that refuses them, and more than three are there only if some were wrong."""

_KEPT_CHARACTERS: Final = 40
"""Of a key's name in those of its later generations; no name in the store has more than 64."""

_DIGEST_CHARACTERS: Final = 12
_LATER: Final = re.compile(rf"(.{{1,{_KEPT_CHARACTERS}}})\.g([1-9][0-9]{{0,7}})\.([0-9a-f]{{{_DIGEST_CHARACTERS}}})")
_SUFFIXES: Final = (".key", ".tpm")
"""Of key files: in software, and wrapped by a TPM."""


def generation_name(name: str, number: int) -> str:
    """What the store calls a generation of a key.

    Args:
        name: the key's.
        number: from 1 to 99,999,999.
    """
    return name if number == 1 else f"{name[:_KEPT_CHARACTERS]}.g{number}.{_digest(name)}"


class Generations:
    """Which generations there are of which keys.

    Args:
        names: all in the store.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._later: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for each in self._names:
            parts = _LATER.fullmatch(each)
            if parts is not None and int(parts[2]) > 1:
                self._later[parts[1], parts[3]].append(int(parts[2]))

    def of(self, name: str) -> list[int]:
        """The numbers of a key's generations, the newest first; empty if there is no such key."""
        first = [1] if name in self._names else []
        return sorted([*self._later.get(_family(name), ()), *first], reverse=True)

    def newest(self, name: str) -> str | None:
        """What the store calls the newest generation of a key; None if there is no such key."""
        numbers = self.of(name)
        return generation_name(name, numbers[0]) if numbers else None

    def keys(self, known: Iterable[str] = ()) -> dict[str, list[int]]:
        """All keys with the numbers of their generations, the newest first; sorted by name.

        Args:
            known: names of keys. Of a name with more than 40 characters the later generations have only the beginning;
                if it is neither among these nor in the store, each of them stands for itself.
        """
        owners = {_family(name): name for name in (*self._names, *known)}
        names = {self._key_of(each, owners) for each in self._names}
        return {name: self.of(name) for name in sorted(names)}

    @staticmethod
    def _key_of(stored: str, owners: Mapping[tuple[str, str], str]) -> str:
        parts = _LATER.fullmatch(stored)
        if parts is None or int(parts[2]) == 1:
            return stored
        if _digest(parts[1]) == parts[3]:
            return parts[1]
        return owners.get((parts[1], parts[3]), stored)


def generation_names(store: KeyStore, name: str) -> list[str]:
    """What the store calls the generations of a key, the newest first; the key's own name if there is none. Blocks.

    Raises:
        KeyStoreError: the store cannot be read.
    """
    return [generation_name(name, number) for number in Generations(store.names()).of(name) or [1]]


def newest_generation(store: KeyStore, name: str) -> str:
    """What the store calls the newest generation of a key; the key's own name if there is none. Blocks.

    Raises:
        KeyStoreError: the store cannot be read.
    """
    return Generations(store.names()).newest(name) or name


def next_generation(store: KeyStore, name: str) -> str:
    """What the store shall call the next generation of a key: the key's own name if there is none yet. Blocks.

    Raises:
        KeyStoreError: the store cannot be read, or there are too many.
    """
    numbers = Generations(store.names()).of(name)
    if len(numbers) >= MOST_GENERATIONS:
        raise KeyStoreError(
            f"there are {len(numbers)} keys of this name already, and no hub has taken one of the later ones",
            where=f"key {name!r}",
            remedy="See `edge-gateway keys list --generations`, and remove those that are wrong by their full names",
        )
    return generation_name(name, numbers[0] + 1 if numbers else 1)


def is_later_generation(stored: str) -> bool:
    """Whether this is what the store calls a key's second generation, or one after it, which is put there once."""
    parts = _LATER.fullmatch(stored)
    return parts is not None and int(parts[2]) > 1


def put_generation(store: KeyStore, name: str, put: Callable[[str], None]) -> str:
    """Have a key's next generation put into the store, under the next number if somebody else was faster. Blocks.

    Args:
        store: gets it.
        name: of the key.
        put: puts it there under the name it is given.

    Returns:
        What the store calls it.

    Raises:
        KeyStoreError: the store cannot be read or written, or there are too many.
    """
    while True:
        stored = next_generation(store, name)
        with suppress(KeyTaken):
            put(stored)
            return stored


def destroy_before(store: KeyStore, name: str, *, keep: int) -> list[str]:
    """Destroy the older generations of a key, the oldest first. Blocks.

    Args:
        store: has them.
        name: of the key.
        keep: how many of the newest stay; 0 destroys all.

    Returns:
        What the store called them.

    Raises:
        KeyStoreError: the store cannot be read or written; some may be left.
    """
    numbers = Generations(store.names()).of(name)
    doomed = [generation_name(name, number) for number in reversed(numbers[keep:])]
    destroy(store, doomed)
    return doomed


def destroy(store: KeyStore, names: Iterable[str]) -> None:
    """Destroy keys, those too that somebody else is just destroying. Blocks.

    Raises:
        KeyStoreError: the store cannot be written.
    """
    for name in names:
        with suppress(KeyMissing):
            store.remove(name)


def age_s(directory: Path, stored: str, clock: Clock) -> float | None:
    """How long ago a key came into the store, by its file's date; None if that cannot be known.

    Where the clock was not set then, or is not to be believed now, a key of yesterday would be 56 years old, and its
    predecessor destroyed.

    Args:
        directory: of the key store.
        stored: what the store calls the generation. Its file is written once.
        clock: dates are wall time.
    """
    if not clock.trusted:
        return None
    for suffix in _SUFFIXES:
        try:
            written_ns = (directory / f"{stored}{suffix}").stat().st_mtime_ns
        except OSError:
            continue
        return None if written_ns < EARLIEST_PLAUSIBLE_NS else max(0.0, (clock.now_ns() - written_ns) / NS_PER_S)
    return None


def _family(name: str) -> tuple[str, str]:
    return name[:_KEPT_CHARACTERS], _digest(name)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARACTERS]
