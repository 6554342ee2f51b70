"""All that a store says it holds, and the records and frames in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from edge_gateway.buffer import Account, StoredChunk
from edge_gateway.buffer.ledger import LedgerRow
from edge_gateway.buffer.store import Store

Key: TypeAlias = tuple[str, str]
"""Device or link; lane."""

NOTES: Final = ("shift", "charge")
"""Names under which the workload notes something."""

_ALL: Final = 1 << 40

Place: TypeAlias = tuple[str, str]
"""A lane and a route: what has an order of its own."""

MessageKey: TypeAlias = tuple[str, str, int]
"""Lane, route and number of a message."""


class Entry(NamedTuple):
    """A record that is queued."""

    device: str
    seq: int
    number: int
    """Different for every record ever offered."""


class Frame(NamedTuple):
    """A bad frame that is kept."""

    link: str
    lane: str
    """In whose account it is."""
    number: int
    """Different for every frame ever offered."""


@dataclass(frozen=True)
class Contents:
    """What is in a store. Two that are equal hold the same to the byte. Not to be changed."""

    chunks: tuple[StoredChunk, ...] = ()
    """What is queued, with payloads as they would be given out now."""
    quarantine: tuple[StoredChunk, ...] = ()
    accounts: Mapping[Key, Account] = field(default_factory=dict)
    """Those in which there is something."""
    notes: Mapping[str, str] = field(default_factory=dict)
    ledger: tuple[LedgerRow, ...] = ()


def contents_of(store: Store) -> Contents:
    """Read all of a store, as anybody may.

    Raises:
        BufferUnavailable: it cannot be read.
    """
    accounts = store.accounts()
    return Contents(
        tuple(store.read_chunks(0, _ALL)),
        tuple(store.read_chunks(0, _ALL, quarantine=True)),
        {key: accounts[key] for key in sorted(accounts) if accounts[key] != Account()},
        {name: text for name in NOTES if (text := store.note(name)) is not None},
        tuple(store.ledger_rows(0, _ALL)),
    )


def documents_of(payload: bytes | None) -> list[dict[str, Any]]:
    """The JSON objects of a payload; none if it is damaged.

    Raises:
        ValueError: it is no JSON.
    """
    documents: list[dict[str, Any]] = orjson.loads(b"[%b]" % (payload or b""))
    return documents


def entries_of(documents: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """The records that documents are of."""
    return [Entry(each["device"], each["seq"], each["values"]["n"]) for each in documents]


def queues_of(chunks: Iterable[StoredChunk]) -> dict[Place, list[Entry]]:
    """The records by lane and route, in order."""
    queues: dict[Place, list[Entry]] = {}
    for chunk in chunks:
        queues.setdefault((chunk.lane, chunk.route), []).extend(entries_of(documents_of(chunk.payload)))
    return queues


def frames_of(quarantine: Iterable[StoredChunk]) -> list[Frame]:
    """The bad frames, in order."""
    return [
        Frame(each["link"], chunk.lane, frame_number(bytes.fromhex(each["frame"])))
        for chunk in quarantine
        for each in documents_of(chunk.payload)
    ]


def frame_number(data: bytes) -> int:
    """The number that a frame of the workload begins with."""
    return int.from_bytes(data[:4], "big")
