"""What people ask of a store: whose records are where, what is in a chunk, how full it is. Nothing here changes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from edge_gateway.buffer import ACCOUNT_COLUMNS, Account, StoredChunk
from edge_gateway.buffer.books import WHOLE_LANE, Book, Key, total
from edge_gateway.buffer.chunks import CHUNKS, Damaged, counts_of, opened
from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.lanes import NUMBERS, QUARANTINE, lane_number
from edge_gateway.buffer.ledger import LedgerRow
from edge_gateway.buffer.loading import read_books
from edge_gateway.buffer.shelf import Shelf
from edge_gateway.errors import BufferDamaged

_SOME_CHUNKS: Final = f"{CHUNKS} LIMIT ?"
_COUNTS: Final = "SELECT id, counts FROM chunk"
_LEDGER_AFTER: Final = "SELECT * FROM ledger WHERE number > ? ORDER BY number LIMIT ?"


def known_accounts(shelf: Shelf) -> dict[tuple[str, str], Account]:
    """The account of each device and lane, from memory."""
    # A transaction, in another thread, may add some meanwhile.
    return _by_account(shelf, list(shelf.books.items()))


def counted_accounts(shelf: Shelf) -> dict[tuple[str, str], Account]:
    """The account of each device and lane, all read from disk; what is queued is counted chunk by chunk.

    Raises:
        BufferDamaged: they do not balance.
    """
    books = read_books(shelf.db).items()
    accounts = _by_account(shelf, ((key, book) for key, book in books if not key[1].startswith(WHOLE_LANE)))
    for account in accounts.values():
        account.queued = 0
    for chunk_id, counts in shelf.db.execute(_COUNTS):
        if (name := shelf.lane(lane_number(chunk_id)).plan.name) != QUARANTINE:
            for device, records in counts_of(counts).items():
                accounts.setdefault((device, name), Account()).queued += records
    if any(account.balance() for account in accounts.values()):
        raise BufferDamaged("chunks are not in the books, or not there", where=shelf.path)
    return accounts


def _by_account(shelf: Shelf, books: Iterable[tuple[Key, Book]]) -> dict[tuple[str, str], Account]:
    """By device and lane: a device may have been in several routes in its life."""
    by_account: defaultdict[tuple[str, str], list[Book]] = defaultdict(list)
    for (number, device), book in books:
        by_account[device, shelf.lane(number).plan.name].append(book)
    return {key: total(several) for key, several in by_account.items()}


def read_chunks(shelf: Shelf, after: int, most: int, *, quarantine: bool) -> tuple[list[StoredChunk], list[Damaged]]:
    """See `Store.read_chunks`.

    Returns:
        The chunks; and those of them that are damaged and not in the quarantine yet.
    """
    apart = shelf.quarantine
    spans = [(apart * NUMBERS, (apart + 1) * NUMBERS - 1)]
    if not quarantine:
        spans = [(0, apart * NUMBERS - 1), ((apart + 1) * NUMBERS, shelf.next_number * NUMBERS - 1)]
    rows: list[tuple[Any, ...]] = []
    for first, last in spans:
        rows += shelf.db.execute(_SOME_CHUNKS, (max(after, first - 1), last, most - len(rows))).fetchall()
    found: list[StoredChunk] = []
    damaged: list[Damaged] = []
    for row in rows:
        chunk, sealed = opened(row, shelf.sealer)
        payload = shelf.documents_of(chunk) if sealed is None else None
        if sealed is not None and not quarantine:
            damaged.append((chunk, sealed))
        name, route = shelf.lane(chunk.message if quarantine else lane_number(chunk.id)).place
        counts = counts_of(chunk.counts)
        found.append(StoredChunk(chunk.id, name, chunk.message, chunk.records, counts, payload, route))
    return found, damaged


def ledger_rows(shelf: Shelf, after: int, most: int) -> list[LedgerRow]:
    """Rows of the ledger by number, from behind `after`."""
    return [LedgerRow(*row) for row in shelf.db.execute(_LEDGER_AFTER, (after, most))]


def check_pages(shelf: Shelf) -> None:
    """Have every page of the file looked at.

    Raises:
        BufferDamaged: one is not as SQLite wrote it.
    """
    fault = shelf.db.execute("PRAGMA integrity_check(1)").get
    if fault != "ok":
        raise BufferDamaged(str(fault), where=shelf.path)


def stats(shelf: Shelf, state: str) -> dict[str, Any]:
    """What the store holds and takes, as JSON can say it.

    Args:
        shelf: of the store.
        state: see `Store.state`.
    """
    lanes = []
    for plan in shelf.plans.values():
        whole = shelf.sums.by_name[plan.name]
        account = {name: getattr(whole.account(), name) for name in ACCOUNT_COLUMNS}
        lanes.append(
            {
                "name": plan.name,
                "bytes": whole.bytes,
                "max_bytes": plan.max_bytes,
                "when_full": plan.when_full,
                "ttl_s": plan.ttl_s,
                **account,
            }
        )
    return {
        "path": shelf.path,
        "id": shelf.id,
        "state": state,
        "lanes": lanes,
        "quarantine_bytes": shelf.whole(shelf.quarantine).bytes,
        "disk": {
            "database_bytes": shelf.space.file_pages() * PAGE_BYTES,
            "free_bytes": shelf.space.free_pages() * PAGE_BYTES,
            "max_bytes": shelf.settings.max_disk_bytes,
        },
        "key": shelf.sealer.key_id,
        "ledger_rows_to": shelf.ledger_number,
    }
