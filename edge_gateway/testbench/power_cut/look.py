"""Opens an image with the product's own code, looks at everything, uses it and opens it again."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import apsw

from edge_gateway.buffer import Account, BadFrame, Batch
from edge_gateway.buffer.ledger import verify_rows
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.errors import GatewayError
from edge_gateway.records import Event, Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys
from edge_gateway.testbench.power_cut.contents import (
    NOTES,
    Contents,
    Entry,
    contents_of,
    documents_of,
    entries_of,
)
from edge_gateway.testbench.power_cut.disk_model import Files
from edge_gateway.testbench.power_cut.memory_disk import MemoryDisk
from edge_gateway.testbench.power_cut.offers import DEVICES, LINKS, SECRETS, number_of
from edge_gateway.testbench.power_cut.settings import LANES, READING_LANES, ROUTES, SETTINGS
from edge_gateway.testbench.power_cut.state import Problem
from edge_gateway.testbench.power_cut.witnessed_store import STORE_PATH
from edge_gateway.testbench.power_cut.world import WorldClock
from edge_gateway.testbench.virtual_time import START_NS

_FIRST_PROBE: Final = 1_000_000_000
"""Numbers of the records appended after the cut; the workload's are smaller."""

_CLOCK: Final = WorldClock("after-the-cut", START_NS, trusted=False)
"""Nobody knows yet how long the power was away, so nothing expires by being looked at."""


@dataclass(frozen=True)
class Seen:
    """What was found in an image."""

    refused: str = ""
    """Why the store did not open or could not be used; all else is then empty."""
    faults: tuple[Problem, ...] = ()
    """What is wrong in itself, whatever went before."""
    contents: Contents = field(default_factory=Contents)
    messages: tuple[tuple[str, bytes], ...] = ()
    """Id and body of each message taken, also of those appended after the cut."""
    next_seqs: tuple[tuple[str, int], ...] = ()
    """By device: the seq of the first record after the cut."""


def look(disk: MemoryDisk, files: Files, key_ids: tuple[int, ...]) -> Seen:
    """Open an image as after a restart, take all, append to every lane, settle, close, reopen.

    Args:
        disk: a disk to do it on; what is on it is replaced.
        files: the image.
        key_ids: the data keys that were there at the cut.
    """
    disk.load(files, 0)
    try:
        store = _open(disk, key_ids)
        try:
            seen = _use(store)
        finally:
            store.close()
        reopened = _open(disk, key_ids)
        try:
            left = contents_of(reopened)
            reopened.check()
        finally:
            reopened.close()
    except (GatewayError, apsw.Error, ValueError, KeyError, TypeError) as error:
        return Seen(refused=f"{type(error).__name__}: {error}")
    faults = [*seen.faults, *_account_faults(left)]
    faults += [
        _unsound(f"{key} still has {account.queued} queued") for key, account in left.accounts.items() if account.queued
    ]
    faults += [
        Problem("readable", f"{secret!r} stands in {name}")
        for name, data in files.items()
        for secret in SECRETS
        if secret in data
    ]
    return Seen("", tuple(faults), seen.contents, seen.messages, seen.next_seqs)


def _open(disk: MemoryDisk, key_ids: tuple[int, ...]) -> Store:
    rng = random.Random(0)  # noqa: S311  # repeatable on purpose
    return Store(STORE_PATH, SETTINGS, sealer=_sealer(key_ids), clock=_CLOCK, rng=rng, vfs=disk.name)


@functools.lru_cache(4)
def _sealer(key_ids: tuple[int, ...]) -> Sealer:
    """One for all images with these keys: it learns nothing from them."""
    rng = random.Random(0)  # noqa: S311  # repeatable on purpose
    return Sealer(MemoryDataKeys(key_ids or (1,)), random_bytes=rng.randbytes)


def _use(store: Store) -> Seen:
    contents = contents_of(store)
    faults = _account_faults(contents)
    faults += [Problem("ledger", fault.what) for fault in verify_rows(contents.ledger)]
    in_memory = {key: account for key, account in store.known_accounts().items() if account != Account()}
    if in_memory != contents.accounts:
        faults.append(_unsound(f"in memory the accounts are {in_memory}, on disk {contents.accounts}"))
    messages = _take_all(store)
    for lane in LANES:
        stored = b",".join(chunk.payload or b"" for chunk in contents.chunks if chunk.lane == lane)
        given = b",".join(message.body[1:-1] for message in messages if message.lane == lane)
        if stored != given:
            faults.append(_unsound(f"{lane}: {len(given)} bytes are given out, and {len(stored)} are there"))
    batches = _probes()
    # Settled in the same transaction, or a full store would have to give up what is new.
    refused = store.write(Writes(batches, messages))
    later = _take_all(store)
    probed = [entry for message in later for entry in entries_of(documents_of(message.body[1:-1]))]
    if any(refused) or sorted(entry.number for entry in probed) != _numbers(batches) or store.note(NOTES[0]) != "after":
        faults.append(_unsound(f"not all that was appended after the cut came out: {refused} {probed}"))
    kept = store.read_chunks(0, 1_000, quarantine=True)
    if not kept or documents_of(kept[-1].payload)[-1]["link"] != LINKS[0]:
        faults.append(_unsound("a bad frame after the cut is not in the quarantine"))
    store.write(Writes(settled=later))
    return Seen(
        "",
        tuple(faults),
        contents,
        tuple((message.id, message.body) for message in (*messages, *later)),
        tuple((device, min(entry.seq for entry in probed if entry.device == device)) for device in _devices(probed)),
    )


def _probes() -> list[Batch]:
    """A record for each lane, and together of each device and route; a frame; a note."""
    lanes = [*READING_LANES, ""]
    records = [
        Reading(DEVICES[at % len(DEVICES)], "climate", START_NS, {"n": _FIRST_PROBE + at}) for at in range(len(lanes))
    ]
    readings = [
        Batch([record], lane, route=ROUTES[at % len(ROUTES)])
        for at, (record, lane) in enumerate(zip(records, lanes, strict=True))
    ]
    alert = Event(DEVICES[0], "hot", "alert-raised", START_NS, {"n": _FIRST_PROBE + len(lanes)})
    others = Batch([alert], bad=[BadFrame(LINKS[0], "checksum", b"probe", START_NS)], notes={NOTES[0]: "after"})
    return [*readings, others]


def _numbers(batches: Sequence[Batch]) -> list[int]:
    return sorted(number_of(record) for batch in batches for record in batch.records)


def _devices(entries: Iterable[Entry]) -> list[str]:
    return sorted({entry.device for entry in entries})


def _take_all(store: Store) -> list[Message]:
    messages = []
    while isinstance(message := store.take(wait_for_more=False), Message):
        messages.append(message)
    return messages


def _account_faults(contents: Contents) -> list[Problem]:
    return [
        _unsound(f"{key}: off by {account.balance()}")
        for key, account in contents.accounts.items()
        if account.balance()
    ]


def _unsound(what: str) -> Problem:
    return Problem("unsound", what)
