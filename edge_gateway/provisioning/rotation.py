"""Rotates, while the gateway runs, the keys that need nobody for it, and says which do.

By itself a gateway can have a new key for its identity where its TPM proves it to the provisioning service, and make
a new key for what it keeps on its disk. A key that came by a connection string, from a table or from a group's key
was made by somebody, who has to bring the next one: `edge-gateway keys rotate`.

A rotation that fails has left a key that works, or one that the hub's next refusal replaces (see
`uplink.reregistering`), and is tried again after an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_gateway.errors import GatewayError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import Generations

_log = structlog.get_logger()

_LOOK_EVERY_S: Final = 3600.0
_LOOKS_FOR_BROUGHT: Final = 60
"""In that time: who has brought a key wants to see in status that all is well."""
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class OwnRotation:
    """Something that this gateway can rotate without anybody."""

    key: str
    """Its name in the key store, or for what is no identity's a word for people."""
    rotate: Callable[[], Awaitable[object]]
    """Raises a GatewayError if it cannot be done now."""
    age_s: Callable[[], float | None]
    """How old the newest key is; None if that is not known. Blocks."""


@dataclass(slots=True)
class Rotated:
    """What became of the keys."""

    done: list[str] = field(default_factory=list)
    """Names of those that are new."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why others are not, with what to do."""
    left: list[str] = field(default_factory=list)
    """Names of those that somebody has to bring, the first twenty."""
    left_count: int = 0


class KeyRotation:
    """Rotates keys on schedule and on demand. Use `run` as a task.

    Args:
        store: has the identities' keys.
        identity_keys: names of the keys that prove who the gateway and its sensors are. Blocks; raises a GatewayError.
        key_age_s: how old a key is, by its name in the store; None if that is not known. Blocks.
        own: what can be rotated here now. Blocks.
        refused: the names of keys that the hub has refused of late.
        rotate_after_s: a key that is older is rotated, or told of; None for no schedule.
    """

    def __init__(
        self,
        store: KeyStore,
        identity_keys: Callable[[], Iterable[str]],
        key_age_s: Callable[[str], float | None],
        own: Callable[[], Iterable[OwnRotation]],
        *,
        refused: Callable[[], list[str]] = list,
        rotate_after_s: float | None,
    ) -> None:
        self._store = store
        self._identity_keys = identity_keys
        self._key_age_s = key_age_s
        self._own = own
        self._refused = refused
        self._rotate_after_s = rotate_after_s
        self._rotating = asyncio.Lock()
        self.overdue: list[str] = []
        """Names of keys older than they should be, for status: those that somebody has to bring, the first twenty."""
        self.overdue_count = 0

    async def run(self) -> None:
        """Look every hour what is due, and sooner whether somebody has brought what was overdue, until cancelled."""
        while self._rotate_after_s is not None:
            await self.rotate_due(self._rotate_after_s)
            for _ in range(_LOOKS_FOR_BROUGHT):
                await asyncio.sleep(_LOOK_EVERY_S / _LOOKS_FOR_BROUGHT)
                if self.overdue_count:
                    await self._look_for_brought(self._rotate_after_s)

    def status(self) -> dict[str, Any]:
        """Which keys are in want of somebody, as JSON can say it."""
        return {"overdue": self.overdue, "overdue_count": self.overdue_count, "refused": self._refused()[:_MOST_TOLD]}

    @property
    def fault(self) -> str:
        """What somebody has to do, in a sentence; empty if nothing."""
        if not self.overdue_count:
            return ""
        more = "" if self.overdue_count == 1 else f" and {self.overdue_count - 1} more"
        return (
            f"the key {self.overdue[0]}{more} is older than it should be: bring the next one by "
            "`edge-gateway keys rotate`"
        )

    async def rotate_now(self, key: str = "") -> Rotated:
        """Rotate all that can be, whatever its age: for the command `rotate-keys`. Never raises what is foreseen.

        Args:
            key: only this one.
        """
        return await self._rotate(None, key)

    async def rotate_due(self, after_s: float) -> Rotated:
        """Rotate what is older and can be; note what is older and cannot.

        Args:
            after_s: seconds.
        """
        rotated = await self._rotate(after_s)
        self._note_overdue(rotated.left, rotated.left_count)
        return rotated

    async def _look_for_brought(self, after_s: float) -> None:
        with suppress(GatewayError):  # told with the next attempt to rotate
            own = {each.key for each in await asyncio.to_thread(self._own)}
            left = await asyncio.to_thread(self._left, own, after_s)
            self._note_overdue(left[:_MOST_TOLD], len(left))

    def _note_overdue(self, keys: list[str], count: int) -> None:
        if keys and keys != self.overdue:
            _log.warning("key.overdue", keys=keys, count=count)
        self.overdue, self.overdue_count = keys, count

    async def _rotate(self, after_s: float | None, only: str = "") -> Rotated:
        async with self._rotating:
            rotated = Rotated()
            try:
                own = {each.key: each for each in await asyncio.to_thread(self._own)}
                left = await asyncio.to_thread(self._left, own, after_s)
            except GatewayError as error:
                rotated.failed["identities"] = str(error)
                return rotated
            left = [key for key in left if only in ("", key)]
            rotated.left, rotated.left_count = left[:_MOST_TOLD], len(left)
            for key, each in own.items():
                if only not in ("", key):
                    continue
                try:
                    if after_s is not None and not await asyncio.to_thread(_is_older, each.age_s, after_s):
                        continue
                    await each.rotate()
                except GatewayError as error:
                    _log.warning("key.rotation_failed", key=key, reason=str(error))
                    rotated.failed[key] = str(error)
                else:
                    _log.info("key.rotated", key=key)
                    rotated.done.append(key)
            return rotated

    def _left(self, own: Collection[str], after_s: float | None) -> list[str]:
        """The keys of identities that are not rotated here, of that age."""
        generations = Generations(self._store.names())
        left = []
        for key in self._identity_keys():
            newest = generations.newest(key) if key not in own else None
            if newest is not None and (after_s is None or (self._key_age_s(newest) or 0.0) >= after_s):
                left.append(key)
        return left


def _is_older(age_s: Callable[[], float | None], after_s: float) -> bool:
    known_s = age_s()
    return known_s is not None and known_s >= after_s
