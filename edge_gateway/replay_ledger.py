"""Keeps the counters of devices on disk, so that a restart of the gateway cannot be used to replay frames.

`codec.replay` says which counters are new, and reserves them ahead; this writes what was reserved. The order is the
promise: frames are judged, the reservation they need is durable, and only then are they handed on. Nothing is written
for a device within its reservation, so a plant of any size writes about once a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
import structlog

from edge_gateway.codec.replay import ReplayGuard, ReplayRule
from edge_gateway.durable_file import replace_durably
from edge_gateway.offload import Offload, run

_log = structlog.get_logger()

CounterKey: TypeAlias = tuple[str, int | str | None, str]
"""A link's name, a device's address on it, and the counter of its profile."""

_MOST_FILE_BYTES: Final = 16 << 20
"""More than any plant has devices for."""


class ReplayLedger:
    """The guards of all devices, and the file that outlives them.

    Args:
        path: the file; its directory must exist when something is written.
        offload: runs what blocks.
    """

    def __init__(self, path: Path, offload: Offload) -> None:
        self._path = path
        self._offload = offload
        self._numbers = _load(path)
        """What stands in the file, or will once it is written."""
        self._guards: dict[CounterKey, ReplayGuard] = {}
        self._writing = asyncio.Lock()
        self._is_unwritten = False
        self.fault = ""
        """Why the file could not be written; empty if it could."""

    def guard(self, link: str, address: int | str | None, rule: ReplayRule, span: int) -> ReplayGuard:
        """The guard of a device's counter, made from what the file says of it; to be asked for once."""
        counter = (link, address, rule.counter)
        last = self._numbers.get(counter)
        # A profile may have changed since, and its counter become narrower.
        guard = ReplayGuard(rule, span, None if last is None or last >= span else last)
        self._guards[counter] = guard
        return guard

    async def settle(self, now_s: float, *, is_due: bool) -> None:
        """Return when everything that was judged new up to now is covered by what is on disk.

        If the disk fails that is logged and shown as `fault`, and data goes on: it is written with the next call.

        Args:
            now_s: a clock that only goes forward, seconds.
            is_due: whether one of the guards asked since the last call says `must_reserve`.
        """
        # Whoever needs nothing waits as well: its numbers may be those that a writing in progress makes durable.
        async with self._writing:
            if self._is_unwritten or (is_due and any(guard.must_reserve for guard in self._guards.values())):
                for counter, guard in self._guards.items():
                    if guard.would_reserve:
                        self._numbers[counter] = guard.reserve(now_s)
                await self._write()

    async def close(self) -> None:
        """Write the last numbers themselves, so that after an orderly stop no frame is refused."""
        async with self._writing:
            exact = {
                counter: guard.last
                for counter, guard in self._guards.items()
                if counter in self._numbers and guard.last is not None
            }
            if exact:
                self._numbers |= exact
                await self._write()

    async def _write(self) -> None:
        # Until it is done, even if this task is cancelled while it waits.
        self._is_unwritten = True
        try:
            await run(self._offload, partial(replace_durably, self._path, _document(self._numbers)))
        except OSError as error:
            if not self.fault:
                _log.error("replay.unwritten", path=str(self._path), reason=error.strerror)
            self.fault = f"{self._path}: the counters of devices cannot be written: {error.strerror}"
        else:
            self._is_unwritten = False
            self.fault = ""


def _document(numbers: Mapping[CounterKey, int]) -> bytes:
    links: dict[str, list[tuple[int | str | None, str, int]]] = {}
    for (link, address, counter), number in numbers.items():
        links.setdefault(link, []).append((address, counter, number))
    return orjson.dumps({"links": links})


def _load(path: Path) -> dict[CounterKey, int]:
    """What the file says; nothing if there is none. Of a broken file, which only a person can have broken, nothing."""
    try:
        with path.open("rb") as file:
            return dict(_entries(orjson.loads(file.read(_MOST_FILE_BYTES))))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.error("replay.unreadable", path=str(path), error=type(error).__name__)
        return {}


def _entries(document: Any) -> list[tuple[CounterKey, int]]:
    """Raises ValueError for anything that `_document` does not write."""
    if not (isinstance(document, dict) and isinstance(links := document.get("links"), dict)):
        raise ValueError("no links in it")
    entries: list[tuple[CounterKey, int]] = []
    for link, devices in links.items():
        if not isinstance(devices, list):
            raise ValueError("no devices of a link")
        for entry in devices:
            match entry:
                case [int() | str() | None as address, str(counter), int(number)] if number >= 0:
                    entries.append(((link, address, counter), number))
                case _:
                    raise ValueError("no counter of a device")
    return entries
