"""The hourly account of each device and lane, as a chain in which a changed row shows.

When an hour ends, every account that has changed gets a row with its counters. Each row carries a digest over its own
content and the digest of the row before:

    digest = SHA-256(digest of the row before + content)

`+` joins bytes. Before the first row stand 32 zero bytes. The content is the JSON array

    [number, hour_s, lane, device, received, delivered, queued, expired, evicted, rejected, quarantined]

in UTF-8, written as RFC 8785 says: no blanks, numbers in decimal, in texts nothing escaped that need not be. That is
what `JSON.stringify(row)` gives, and `json.dumps(row, separators=(",", ":"), ensure_ascii=False)`. So

    [1,1798761600,"normal","boiler-3",12,9,2,0,1,0,0]

as the first row has the digest `5c1311a5e734a2a379482d81edd1683c12a13294ab4ad8086834491c0f7cd4a4`.

What a chain shows, and what it does not: who changes a row must change every digest after it as well, or the row is
named. Who changes them all is found out by a digest that lies elsewhere, and so the latest is told upstream each day.

How counters may move from one row of an account to the next, which `LedgerCheck` checks:

- `received` is always the sum of the others, and nothing is below 0.
- `delivered`, `expired`, `evicted` and `rejected` only grow: no way leads out of them.
- `quarantined` may fall, as the quarantine makes room (`rejected`) or a frame is replayed, which then leaves its link's
  account: `received` falls with it. `queued` moves freely, but what leaves it stands in another column.
- So `received` falls by no more than `quarantined` was. A record that is gone from all columns shows by this.

The hour is what the clock said. It may repeat or go back when the clock is set, and means nothing for the order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final, Literal, NamedTuple, TypeAlias

import orjson

from edge_gateway.buffer import Account

GENESIS: Final = bytes(32)
"""What stands in for a digest before the first row."""

_MOST_CANDIDATES: Final = 64
"""After so many changed rows in a row, a row may be named that only follows them."""


class LedgerRow(NamedTuple):
    """The account of one device and lane at the end of an hour. Counters are cumulative."""

    number: int
    """Grows by one, from 1."""
    hour_s: int
    """Start of the hour as the clock said, seconds since 1970-01-01T00:00:00Z."""
    lane: str
    device: str
    """A device, or a link for frames that never became a device's reading."""
    received: int
    delivered: int
    queued: int
    expired: int
    evicted: int
    rejected: int
    quarantined: int
    digest: bytes
    """32 bytes."""


COLUMNS: Final = LedgerRow._fields[:-1]
"""What the digest covers, in order."""

_ONLY_GROW: Final = ("delivered", "expired", "evicted", "rejected")


class LedgerHead(NamedTuple):
    """A place in the chain: the number and the digest of a row. Without arguments, the place before the first."""

    number: int = 0
    digest: bytes = GENESIS


FaultKind: TypeAlias = Literal["changed", "missing", "order", "unbalanced", "backwards", "head"]


class LedgerFault(NamedTuple):
    """Something that does not fit."""

    kind: FaultKind
    """`changed`: its digest does not fit; `missing`: rows are gone; `order`: a number that came before; `unbalanced`:
    the counters are no account; `backwards`: they cannot come after those before; `head`: the end is not the one
    remembered."""
    number: int
    """Of the row, or of the first one missing."""
    last_number: int
    """Of the last one missing; else the same as `number`."""
    hour_s: int | None
    """As the row says; None where there is no row."""
    lane: str | None
    device: str | None
    what: str
    """A sentence without its full stop."""


def digest(previous: bytes, row: LedgerRow) -> bytes:
    """The digest of a row, whatever the row itself says it is.

    Args:
        previous: digest of the row before; `GENESIS` for the first.
        row: its content counts, not its `digest`.

    Raises:
        TypeError: the row holds what a row cannot, such as bytes for a name.
    """
    return hashlib.sha256(previous + orjson.dumps(row[:-1])).digest()


def is_readable(row: LedgerRow) -> bool:
    """Whether a row is made of what rows are made of; a damaged database holds anything in any column."""
    return _has_content(row) and _is_digest(row.digest)


def close_hour(
    hour_s: int, accounts: Iterable[tuple[str, str, Account]], number: int = 0, previous: bytes = GENESIS
) -> list[LedgerRow]:
    """Make the rows of an hour that has ended.

    Args:
        hour_s: start of the hour, seconds since 1970-01-01T00:00:00Z.
        accounts: lane, device and account of all that have changed since their last row.
        number: of the last row there is; 0 if there is none.
        previous: its digest.

    Returns:
        A row for each account, in order of lane and device, chained to the last.
    """
    rows = []
    for lane, device, account in sorted(accounts, key=itemgetter(0, 1)):
        number += 1
        row = LedgerRow(
            number,
            hour_s,
            lane,
            device,
            account.received,
            account.delivered,
            account.queued,
            account.expired,
            account.evicted,
            account.rejected,
            account.quarantined,
            digest=b"",
        )
        previous = digest(previous, row)
        rows.append(row._replace(digest=previous))
    return rows


def verify_rows(
    rows: Iterable[LedgerRow], previous: LedgerHead | None = None, head: LedgerHead | None = None
) -> Iterator[LedgerFault]:
    """Check a chain, or its later part; see `LedgerCheck`.

    Args:
        rows: by number.
        previous: the row before the first of these; None if nobody knows it.
        head: the last row as remembered elsewhere; None to take the end for what it is.
    """
    check = LedgerCheck(previous)
    yield from check.rows(rows)
    if head is not None:
        yield from check.end(head)


class LedgerCheck:
    """Checks a chain as it is read, page by page. Its memory grows with the accounts and not with the rows.

    Every changed row is named, and no other, except where nothing in the chain can tell:

    - The first row, if it is not number 1 and `previous` is not given, and the first one after a gap, follow a digest
      nobody has. Of those only the counters are checked.
    - A row whose content and digest were changed to fit each other is not named; the one after it is. If they do not
      fit each other, both are.

    Args:
        previous: the row before the first; None if nobody knows it, because the oldest rows were dropped.
    """

    def __init__(self, previous: LedgerHead | None = None) -> None:
        self._last = LedgerHead() if previous is None else previous
        self._may_begin_anywhere = previous is None
        self._candidates = deque([self._last.digest], _MOST_CANDIDATES)
        """What the digest of the row before may have been. After a row that does not fit there are several: the one it
        has, if its content was changed, and the ones it should have, if that was changed itself."""
        self._accounts: dict[tuple[str, str], LedgerRow] = {}
        """The last row of each account that did not show as changed."""

    def rows(self, rows: Iterable[LedgerRow]) -> Iterator[LedgerFault]:
        """Check the next rows.

        Args:
            rows: by number. In all other columns they may hold anything, as a damaged disk gives.
        """
        for row in rows:
            yield from self._row(row)

    def end(self, head: LedgerHead) -> Iterator[LedgerFault]:
        """Check that the chain ends where it should.

        Args:
            head: the last row as remembered elsewhere.
        """
        last = self._last
        if last.number < head.number:
            yield _missing(last.number + 1, head.number)
        elif last.number > head.number:
            what = f"the chain ends with row {last.number}; the last one remembered is {head.number}"
            yield LedgerFault("head", last.number, last.number, None, None, None, what)
        elif last.digest != head.digest:
            what = f"the digest of row {last.number} is not the one remembered"
            yield LedgerFault("head", last.number, last.number, None, None, None, what)

    def _row(self, row: LedgerRow) -> Iterator[LedgerFault]:
        if row.number <= self._last.number:
            yield _fault("order", row, f"it comes after row {self._last.number}")
            return
        expected = self._last.number + 1
        if row.number > expected:
            self._candidates.clear()
            if not self._may_begin_anywhere:
                yield _missing(expected, row.number - 1)
        self._may_begin_anywhere = False
        self._last = LedgerHead(row.number, row.digest)
        if self._follows(row):
            yield from self._account(row)
            self._accounts[row.lane, row.device] = row
            return
        yield _fault("changed", row, f"its digest does not fit its content after row {row.number - 1}")
        if _has_content(row):
            # What else is wrong with it may tell what was changed. The rows after it are not judged by it.
            yield from self._account(row)

    def _follows(self, row: LedgerRow) -> bool:
        """Whether a row follows the one before, as far as can be told; and what the next one may follow."""
        try:
            computed = [digest(each, row) for each in self._candidates]
        except TypeError:
            computed = []
        follows = row.digest in computed if self._candidates else is_readable(row)
        self._candidates.clear()
        if not follows:
            self._candidates.extend(computed)
        if _is_digest(row.digest):
            self._candidates.append(row.digest)
        return follows

    def _account(self, row: LedgerRow) -> Iterator[LedgerFault]:
        """Whether the counters are an account, and one that can come after the last."""
        others = (row.delivered, row.queued, row.expired, row.evicted, row.rejected, row.quarantined)
        if row.received != sum(others):
            yield _fault("unbalanced", row, f"received is {row.received}, and the others are {sum(others)}")
        if min(others) < 0:
            yield _fault("unbalanced", row, "a counter is below 0")
        before = self._accounts.get((row.lane, row.device))
        if before is None:
            return
        for name in _ONLY_GROW:
            now, then = getattr(row, name), getattr(before, name)
            if now < then:
                yield _fault("backwards", row, f"{name} is {now}, and was {then} in row {before.number}")
        if row.received < before.received - before.quarantined:
            what = (
                f"received is {row.received}, and was {before.received} in row {before.number}, "
                f"of which {before.quarantined} in quarantine"
            )
            yield _fault("backwards", row, what)


def _has_content(row: LedgerRow) -> bool:
    names, numbers = row[2:4], (row.hour_s, *row[4:-1])
    return all(map(_is_text, names)) and all(map(_is_number, numbers))


def _is_digest(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == len(GENESIS)


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written in UTF-8; one with half a surrogate pair cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fault(kind: FaultKind, row: LedgerRow, what: str) -> LedgerFault:
    return LedgerFault(
        kind,
        row.number,
        row.number,
        row.hour_s if _is_number(row.hour_s) else None,
        row.lane if _is_text(row.lane) else None,
        row.device if _is_text(row.device) else None,
        what,
    )


def _missing(first: int, last: int) -> LedgerFault:
    which = f"row {first} is" if first == last else f"rows {first} to {last} are"
    return LedgerFault("missing", first, last, None, None, None, f"{which} not there")
