"""What the store may hold after a cut, kept beside it by a plain model that knows nothing of SQLite.

The promise, for a cut at any moment: the store opens by itself and holds exactly the state after transaction *k*, where
*k* is one that has begun, and not before the last that anybody was told is safe. From this follows what the buffer
promises: nothing acknowledged is lost, nothing whose removal was written comes back, what is under way is there whole
or not at all, every account balances. At least once on the wire, with the same bytes under the same id, is looked at
beside (`verdict`).

Somebody is told when `Store.write` returns, and again when `append` or `flush` of the buffer above return.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias, cast

import apsw
import orjson

from edge_gateway.buffer import Account
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.model import BufferSettings
from edge_gateway.records import Event, Lane, Message, Reading
from edge_gateway.testbench.power_cut.memory_disk import Began, Given, MemoryDisk, Operation, Promised, Said

STORE_PATH: Final = "/power-cut/buffer.db"

SETTINGS: Final = BufferSettings(
    max_records_per_message=8, max_message_bytes=4096, max_message_age_s=0.5, settle_within_s=0.25
).model_copy(update={"max_bytes": 12_000})
"""Small, so that a short life fills messages and evicts. A cap so low is refused in a configuration."""

NEVER: Final = 1 << 62
"""The transaction of what was acknowledged without ever having been in one."""

Key: TypeAlias = tuple[str, Lane]


class Entry(NamedTuple):
    """A record that is queued."""

    device: str
    seq: int
    number: int
    """Different for every record ever offered."""


@dataclass(frozen=True)
class State:
    """What a store holds. Not to be changed."""

    queued: dict[Lane, tuple[Entry, ...]] = field(default_factory=lambda: dict.fromkeys(Lane, ()))
    accounts: dict[Key, Account] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)


class Witness:
    """Follows one store from its opening, transaction by transaction.

    Args:
        log: where the disk notes what it does; what was said goes there too.
        state: what the store begins with.
    """

    def __init__(self, log: list[Operation | Said], state: State) -> None:
        self._log = log
        self.states = [state]
        """After each transaction; the first is what it began with."""
        self._in_transaction: dict[object, int] = {}
        """Which transaction a record, by its number, was appended in, or a message, by its id, removed."""
        self._taken: dict[tuple[Lane, int], set[int]] = {}
        """Numbers of the records in each message given out since the last rewind."""

    def begins(self, writes: Writes) -> None:
        """A transaction begins."""
        number = len(self.states)
        self._log.append(Began(number))
        self._in_transaction |= {number_of(record): number for record in writes.records}
        self._in_transaction |= {message.id: number for message in writes.settled}

    def returned(self, writes: Writes, accounts: dict[Key, Account]) -> None:
        """It has returned. How much was evicted is read from `accounts`; which it was follows from the policy."""
        before = self.states[-1]
        queued = {lane: list(entries) for lane, entries in before.queued.items()}
        last_seq = Counter(before.last_seq)
        counts: dict[str, Counter[Key]] = {what: Counter() for what in ("received", "delivered", "evicted", "rejected")}
        for lane, kind in ((Lane.ALERT, Event), (Lane.NORMAL, Reading)):
            for record in writes.records:
                if not isinstance(record, kind):
                    continue
                last_seq[record.device] += 1
                counts["received"][record.device, lane] += 1
                if _fits(record):
                    queued[lane].append(Entry(record.device, last_seq[record.device], number_of(record)))
                else:
                    counts["rejected"][record.device, lane] += 1
        for device, count in writes.rejected:
            counts["received"][device, Lane.NORMAL] += count
            counts["rejected"][device, Lane.NORMAL] += count
        for message in writes.settled:
            gone = self._taken.pop((message.lane, message.number), set())
            for entry in queued[message.lane]:
                counts["delivered"][entry.device, message.lane] += entry.number in gone
            queued[message.lane] = [entry for entry in queued[message.lane] if entry.number not in gone]
        evicted = sum(account.evicted for account in accounts.values()) - sum(
            account.evicted for account in before.accounts.values()
        )
        in_flight = set[int]().union(*self._taken.values())
        victims = [entry for entry in queued[Lane.NORMAL] if entry.number not in in_flight][:evicted]
        counts["evicted"].update((entry.device, Lane.NORMAL) for entry in victims)
        queued[Lane.NORMAL] = [entry for entry in queued[Lane.NORMAL] if entry not in victims]
        self.states.append(
            State(
                {lane: tuple(entries) for lane, entries in queued.items()},
                _accounts(before.accounts, counts, queued),
                dict(last_seq),
            )
        )
        self._log.append(Promised(len(self.states) - 1))

    def given(self, message: Message) -> None:
        """The store has given out a message."""
        self._taken[message.lane, message.number] = {each["values"]["n"] for each in orjson.loads(message.body)}
        self._log.append(Given(message.id, message.body))

    def rewound(self) -> None:
        """The store has forgotten what it gave out, as it does at every opening."""
        self._taken.clear()

    def acknowledged(self, records: Sequence[Reading | Event], settled: Sequence[Message] = ()) -> None:
        """The buffer has said that these records, and the removal of these messages, are durable."""
        keys = [*map(number_of, records), *(message.id for message in settled)]
        self._log.append(Promised(max((self._in_transaction.get(key, NEVER) for key in keys), default=0)))


def _accounts(
    before: dict[Key, Account], counts: dict[str, Counter[Key]], queued: dict[Lane, list[Entry]]
) -> dict[Key, Account]:
    accounts: dict[Key, Account] = {}
    for key in sorted({*before, *(key for counter in counts.values() for key in counter)}):
        account = before.get(key, Account())
        accounts[key] = replace(
            account,
            **{what: getattr(account, what) + counter[key] for what, counter in counts.items()},
            queued=sum(entry.device == key[0] for entry in queued[key[1]]),
        )
    return {key: account for key, account in accounts.items() if account != Account()}


def number_of(record: Reading | Event) -> int:
    """The number a record of the workload carries."""
    return cast("int", record.values["n"])


def _fits(record: Reading | Event) -> bool:
    """Whether a record fits a message; the workload's are either well below the limit or above it."""
    return len(orjson.dumps(record.values)) < SETTINGS.max_message_bytes


class WitnessedStore(Store):
    """The product's store, with a witness who hears every call.

    Args:
        disk: where it lives.
        witness: who hears.
        rng: makes the store's id if there is no store yet.
        pragmas: SQLite settings that differ from the product's.
    """

    def __init__(self, disk: MemoryDisk, witness: Witness, *, rng: random.Random, pragmas: Sequence[str]) -> None:
        self._witness = witness
        self._pragmas = pragmas
        super().__init__(STORE_PATH, SETTINGS, rng=rng, vfs=disk.name)
        witness.rewound()

    def _open(self) -> apsw.Connection:
        db = super()._open()
        for pragma in self._pragmas:
            db.execute(f"PRAGMA {pragma}")
        return db

    def write(self, writes: Writes, now_s: float) -> None:
        """See `Store.write`."""
        self._witness.begins(writes)
        super().write(writes, now_s)
        self._witness.returned(writes, self.accounts())

    def take(self, now_s: float, *, wait_for_more: bool = True) -> Message | float | None:
        """See `Store.take`."""
        taken = super().take(now_s, wait_for_more=wait_for_more)
        if isinstance(taken, Message):
            self._witness.given(taken)
        return taken

    def rewind(self) -> None:
        """See `Store.rewind`."""
        super().rewind()
        self._witness.rewound()

    def checkpoint(self, mode: str) -> None:
        """Move the log into the database: PASSIVE, FULL, RESTART or TRUNCATE."""
        self._db.execute(f"PRAGMA wal_checkpoint({mode})")
