"""Which generation of a key a session uses, and when to go over to a newer one.

The newest is tried first. One that the hub refuses stands back for an hour behind the others, or until they are refused
too. When the hub takes one, those before it are destroyed, but for the predecessor. What is newer than the one in use
is never destroyed here: the hub may be about to be told of it.

Keys come by other programs. So as long as sessions are up, the names in the store are looked at every few seconds, once
for all sessions; and sessions whose key has a newer generation are told one after the other, so that a thousand keys
that change at once are no burst at the hub. A wrong key costs a session one attempt to connect, and no message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final, TypeVar

import structlog

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import Generations, destroy, generation_name

_log = structlog.get_logger()
_T = TypeVar("_T")

_REFUSED_FOR_S: Final = 3600.0
"""A refused key is tried first again after so long, as the hub may have been told of it meanwhile."""


class Keyring:
    """The keys of a store, for all sessions of a process. Used on one event loop.

    Args:
        store: has the keys.
        threads: where the store blocks; None is the loop's own.
        look_every_s: how long a new key may go unnoticed by a session that is up; None for as long as the session.
        moves_per_s: how many sessions are told of newer keys in a second.
        predecessor_s: a predecessor is destroyed when the key after it is accepted at such an age; None for never.
        age_s: how long ago a key came into the store, by the name there; None if that is not known.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        threads: Executor | None = None,
        look_every_s: float | None = 2.0,
        moves_per_s: float = 10.0,
        predecessor_s: float | None = None,
        age_s: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        self.store: Final = store
        self._threads = threads
        self._look_every_s = look_every_s
        self._moves_per_s = moves_per_s
        self._predecessor_s = predecessor_s
        self._age_s = age_s
        self._keys: dict[str, KeyInUse] = {}
        self._watched: dict[KeyInUse, Callable[[], None]] = {}
        self._names: list[str] | None = None
        """As at the last look; None if keys are watched since that have not been compared with them."""
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Future[list[str] | None] | None = None
        self._next_move_at_s = float("-inf")

    def key(self, name: str) -> KeyInUse:
        """A key of this name, whether there is one yet or not; the same each time."""
        return self._keys.setdefault(name, KeyInUse(self, name))

    def refused(self) -> list[str]:
        """What the store calls keys that the hub has refused of late, or that the store could not sign with."""
        return sorted(stored for key in self._keys.values() for stored in key.refused)

    async def call(self, call: Callable[[], _T]) -> _T:
        """Have the store do something, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def is_outlived(self, stored: str) -> bool:
        """Whether a key is so old that its predecessor has to go. Blocks."""
        if self._predecessor_s is None:
            return False
        age_s = self._age_s(stored)
        return age_s is not None and age_s >= self._predecessor_s

    @contextmanager
    def watching(self, key: KeyInUse, on_newer: Callable[[], None]) -> Iterator[None]:
        """Have it told, once, when a key has a newer generation than any that was tried."""
        self._watched[key] = on_newer
        self._names = None
        if self._timer is None:
            self._look_later()
        try:
            yield
        finally:
            if self._watched.get(key) is on_newer:
                del self._watched[key]
            if not self._watched and self._timer is not None:
                self._timer.cancel()
                self._timer = self._looking = None

    def _look_later(self) -> None:
        if self._look_every_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._look_every_s, self._look)

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().run_in_executor(self._threads, self._changed_names)
        self._looking.add_done_callback(self._looked)

    def _changed_names(self) -> list[str] | None:
        """All names, if they are not as at the last look."""
        try:
            names = self.store.names()
        except KeyStoreError:
            return None  # whoever watches over the store says so; the keys in use are as good as before
        return names if names != self._names else None

    def _looked(self, looking: asyncio.Future[list[str] | None]) -> None:
        if looking is not self._looking or looking.cancelled():
            return  # nobody watched for a moment
        names = looking.result()
        if names is not None:
            self._names = names
            self._tell(Generations(names))
        self._look_later()

    def _tell(self, generations: Generations) -> None:
        loop = asyncio.get_running_loop()
        for key, on_newer in list(self._watched.items()):
            if key.notices_newer(generations):
                at_s = max(loop.time(), self._next_move_at_s)
                self._next_move_at_s = at_s + 1 / self._moves_per_s
                loop.call_at(at_s, self._move, key, on_newer)

    def _move(self, key: KeyInUse, on_newer: Callable[[], None]) -> None:
        if self._watched.get(key) is on_newer:  # otherwise the session has ended, and the next one has tried
            on_newer()


class KeyInUse:
    """One key, for the sessions under one identity, which come one after the other.

    Args:
        keyring: that it is on.
        name: of the key.
    """

    def __init__(self, keyring: Keyring, name: str) -> None:
        self._keyring = keyring
        self.name: Final = name
        self._numbers: list[int] = []
        """Of the generations there were when they were last tried, the newest first."""
        self._newest_seen = 0
        """Number of the newest generation that was tried, or that a session was told of."""
        self._refused_at_s: dict[int, float] = {}
        self._in_use: int | None = None

    @property
    def in_use(self) -> str | None:
        """What the store calls the generation that the hub took last; None if it took none yet."""
        return None if self._in_use is None else generation_name(self.name, self._in_use)

    @property
    def refused(self) -> list[str]:
        """What the store calls generations that the hub has refused of late."""
        return [generation_name(self.name, number) for number in sorted(self._refused_at_s)]

    async def to_try(self) -> list[int]:
        """The numbers of the generations to try, one after the other; the first if there is none, to be told so.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        generations = Generations(await self._keyring.call(self._keyring.store.names))
        self._numbers = numbers = generations.of(self.name) or [1]
        self._newest_seen = max(self._newest_seen, numbers[0])
        forgiven_s = asyncio.get_running_loop().time() - _REFUSED_FOR_S
        self._refused_at_s = {
            number: at_s for number, at_s in self._refused_at_s.items() if number in numbers and at_s > forgiven_s
        }
        return sorted(numbers, key=lambda number: (number in self._refused_at_s, -number))

    def note_refused(self, number: int) -> None:
        """The hub has refused it, or the store cannot sign with it."""
        self._refused_at_s[number] = asyncio.get_running_loop().time()

    async def note_accepted(self, number: int) -> None:
        """The hub has taken it: those before it are not needed any more, but for one."""
        self._refused_at_s.pop(number, None)
        self._in_use = number
        older = [each for each in self._numbers if each < number]
        if not older:
            return
        # The newest of those that may work.
        predecessor = next((each for each in older if each not in self._refused_at_s), older[0])
        try:
            destroyed = await self._keyring.call(partial(self._destroy, older, number, predecessor))
        except KeyStoreError as error:
            # The session is up and stays so; the next one tries again to destroy it.
            _log.warning("key.not_destroyed", key=self.name, reason=str(error))
            return
        if destroyed:
            _log.info("key.older_destroyed", key=self.name, in_use=self.in_use, destroyed=destroyed)

    def watching(self, on_newer: Callable[[], None]) -> AbstractContextManager[None]:
        """See `Keyring.watching`."""
        return self._keyring.watching(self, on_newer)

    def notices_newer(self, generations: Generations) -> bool:
        """Whether there is a newer generation than any that was tried or noticed before."""
        newest = max(generations.of(self.name), default=0)
        is_newer = newest > self._newest_seen
        self._newest_seen = max(newest, self._newest_seen)
        return is_newer

    def _destroy(self, older: list[int], number: int, predecessor: int) -> list[str]:
        """Destroy those before the generation of this number, and the predecessor too if its time is over. Blocks."""
        is_over = self._keyring.is_outlived(generation_name(self.name, number))
        doomed = [generation_name(self.name, each) for each in reversed(older) if is_over or each != predecessor]
        destroy(self._keyring.store, doomed)
        return doomed
