"""The chain of hourly accounts: whatever is changed is named, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.buffer import Account
from edge_gateway.buffer.ledger import (
    COLUMNS,
    GENESIS,
    LedgerCheck,
    LedgerFault,
    LedgerHead,
    LedgerRow,
    close_hour,
    digest,
    verify_rows,
)

START = LedgerHead()

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
COUNTS = st.integers(0, 1 << 53)


def chain(count: int, *, devices: int = 3) -> list[LedgerRow]:
    """Hours of a gateway whose devices all deliver one record more each hour."""
    rows: list[LedgerRow] = []
    hour = 0
    while len(rows) < count:
        hour += 1
        accounts = [
            ("normal", f"device-{number}", Account(received=hour + number, delivered=hour, queued=number))
            for number in range(devices)
        ]
        last = head_of(rows)
        rows += close_hour(hour * 3600, accounts, last.number, last.digest)
    return rows[:count]


def head_of(rows: Sequence[LedgerRow]) -> LedgerHead:
    return LedgerHead(rows[-1].number, rows[-1].digest) if rows else START


def named(faults: Sequence[LedgerFault], kind: str) -> list[int]:
    return [fault.number for fault in faults if fault.kind == kind]


def other_digest(row: LedgerRow) -> bytes:
    return bytes([row.digest[0] ^ 1]) + row.digest[1:]


# --- the digest ----------------------------------------------------------------------------------------------------


def test_the_digest_of_the_worked_example_is_the_one_the_module_names() -> None:
    """The test vector holds, so somebody can write the same in another language."""
    row = LedgerRow(1, 1_798_761_600, "normal", "boiler-3", 12, 9, 2, 0, 1, 0, 0, b"")
    assert digest(GENESIS, row).hex() == "5c1311a5e734a2a379482d81edd1683c12a13294ab4ad8086834491c0f7cd4a4"


@given(st.tuples(COUNTS, COUNTS, NAMES, NAMES, *[COUNTS] * 7), st.binary(min_size=32, max_size=32))
def test_the_digest_can_be_recomputed_with_a_json_writer_and_sha_256(content: tuple[Any, ...], previous: bytes) -> None:
    """The two lines of the module's description give the same digest for whatever a row may hold."""
    content_bytes = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    assert digest(previous, LedgerRow._make((*content, b""))) == hashlib.sha256(previous + content_bytes).digest()


def test_a_letter_that_moves_from_lane_to_device_changes_the_digest() -> None:
    """The content is told apart field by field."""
    rows = [
        LedgerRow._make((1, 0, lane, device, *[0] * 7, b""))
        for lane, device in (("a", "bc"), ("ab", "c"), ('a","b', "c"))
    ]
    assert len({digest(GENESIS, row) for row in rows}) == 3


# --- closing an hour -----------------------------------------------------------------------------------------------


def test_an_hour_has_a_row_for_each_account_in_a_fixed_order() -> None:
    """Rows stand by lane and device, numbered on from the last, whatever the order of the accounts."""
    accounts = [("normal", "b", Account()), ("alert", "b", Account()), ("normal", "a", Account())]
    rows = close_hour(7200, accounts, 41, b"\1" * 32)
    assert [(row.number, row.hour_s, row.lane, row.device) for row in rows] == [
        (42, 7200, "alert", "b"),
        (43, 7200, "normal", "a"),
        (44, 7200, "normal", "b"),
    ]
    assert close_hour(7200, reversed(accounts), 41, b"\1" * 32) == rows
    assert list(verify_rows(rows, LedgerHead(41, b"\1" * 32))) == []


def test_an_hour_without_changes_has_no_rows() -> None:
    """Nothing changed, nothing entered."""
    assert close_hour(7200, []) == []


# --- a whole chain -------------------------------------------------------------------------------------------------


class Books:
    """An account that moves as the buffer's may, and no other way."""

    def __init__(self) -> None:
        self.account = Account()
        self.frames = 0
        """Of what is in quarantine, the frames; the others are damaged records, which are never replayed."""

    def move(self, step: str, count: int) -> None:
        account = self.account
        if step in ("appended", "refused", "turned away", "bad"):
            account.received += count
        match step:
            case "appended":
                account.queued += count
            case "refused":
                account.rejected += count
            case "turned away":
                account.evicted += count
            case "bad":
                account.quarantined += count
                self.frames += count
            case "replayed":
                count = min(count, self.frames)
                self.frames -= count
                account.quarantined -= count
                account.received -= count
            case "given up":
                count = min(count, account.quarantined)
                account.quarantined -= count
                account.rejected += count
                self.frames = min(self.frames, account.quarantined)
            case "delivered" | "expired" | "evicted" | "quarantined":
                count = min(count, account.queued)
                account.queued -= count
                setattr(account, step, getattr(account, step) + count)


MOVES = ("appended", "refused", "turned away", "bad", "replayed", "given up", "delivered", "expired", "evicted")
STEPS = st.tuples(st.sampled_from([*MOVES, "quarantined", "hour"]), st.sampled_from(["a", "b"]), st.integers(1, 9))


@given(st.lists(STEPS, max_size=60), st.lists(st.integers(-5, 500_000), min_size=60, max_size=60))
def test_no_way_a_record_can_go_is_a_fault(steps: list[tuple[str, str, int]], hours: list[int]) -> None:
    """Whatever happens between two closings, and whatever the clock says then, the chain is in order."""
    books = {"a": Books(), "b": Books()}
    rows: list[LedgerRow] = []
    for (step, name, count), hour in zip([*steps, ("hour", "a", 1)], hours, strict=False):
        books[name].move(step, count)
        if step == "hour":
            last = head_of(rows)
            accounts = [("normal", device, each.account) for device, each in books.items()]
            rows += close_hour(hour * 3600, accounts, last.number, last.digest)
    assert list(verify_rows(rows, head=head_of(rows))) == []


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (Account(received=5, quarantined=5), Account()),
        (Account(received=5, quarantined=5), Account(received=5, rejected=5)),
        (Account(received=5, queued=5), Account(received=5, quarantined=5)),
        (Account(received=7, queued=2, quarantined=5), Account(received=2, delivered=2)),
    ],
)
def test_the_quarantine_may_be_emptied_between_two_rows(then: Account, now: Account) -> None:
    """Replayed frames leave the account, others become rejected, and damaged records may come in."""
    rows = close_hour(0, [("normal", "bus", then)])
    rows += close_hour(3600, [("normal", "bus", now)], *head_of(rows))
    assert list(verify_rows(rows)) == []


def test_the_oldest_rows_may_be_gone() -> None:
    """A chain that begins anywhere is in order, alone and with the row before its first."""
    rows = chain(12)
    assert list(verify_rows(rows[5:])) == []
    assert list(verify_rows(rows[5:], head_of(rows[:5]), head_of(rows))) == []


def test_pages_are_checked_as_one_chain() -> None:
    """What is read page by page is judged like what is read at once."""
    rows = chain(12)
    rows[4] = rows[4]._replace(delivered=99)
    check = LedgerCheck()
    faults = [fault for start in range(0, 12, 3) for fault in check.rows(rows[start : start + 3])]
    assert faults == list(verify_rows(rows))


# --- what was changed ----------------------------------------------------------------------------------------------


@given(st.data())
def test_every_changed_row_is_named_and_no_other(data: st.DataObject) -> None:
    """Some rows with another content, some with another digest, in any mixture: the faults name exactly those."""
    rows = chain(20)
    changed: dict[int, LedgerRow] = {}
    for index in data.draw(st.sets(st.integers(0, 19))):
        column = data.draw(st.sampled_from(LedgerRow._fields[1:]))
        row = rows[index]
        value: Any
        match getattr(row, column):
            case int(count):
                value = count + data.draw(st.integers(-3, 3).filter(bool))
            case str(name):
                value = name + "x"
            case _:
                value = other_digest(row)
        changed[row.number] = rows[index] = row._replace(**{column: value})
    faults = list(verify_rows(rows))
    assert named(faults, "changed") == sorted(changed)
    for fault in faults:
        row = changed[fault.number]
        assert (fault.hour_s, fault.lane, fault.device) == (row.hour_s, row.lane, row.device)


def test_a_changed_counter_is_told_with_what_does_not_fit() -> None:
    """The text says which counters disagree, so an operator sees what was done."""
    rows = chain(12)
    rows[7] = rows[7]._replace(delivered=1)
    assert [(fault.kind, fault.what) for fault in verify_rows(rows)] == [
        ("changed", "its digest does not fit its content after row 7"),
        ("unbalanced", "received is 4, and the others are 2"),
        ("backwards", "delivered is 1, and was 2 in row 5"),
    ]


def test_a_forged_row_with_a_digest_to_fit_shows_in_the_next_one() -> None:
    """A digest can be made for any content, but then the next row does not follow."""
    rows = chain(12)
    forged = rows[6]._replace(device="another")
    rows[6] = forged._replace(digest=digest(rows[5].digest, forged))
    assert named(list(verify_rows(rows)), "changed") == [8]


def test_a_chain_forged_to_its_end_shows_by_the_head_that_is_remembered() -> None:
    """Who makes all later digests anew is found out by the one that lies elsewhere."""
    rows = chain(12)
    head = head_of(rows)
    forged = close_hour(0, [("normal", row.device, Account()) for row in rows[6:9]], 6, rows[5].digest)
    forged += close_hour(0, [("normal", row.device, Account()) for row in rows[9:]], 9, forged[-1].digest)
    without_head = list(verify_rows([*rows[:6], *forged]))
    assert {fault.kind for fault in without_head} == {"backwards"}
    assert named(list(verify_rows([*rows[:6], *forged], head=head)), "head") == [12]


def test_many_digests_changed_in_a_row_are_named_and_the_row_behind_is_not() -> None:
    """A damaged page takes some dozen rows; the chain is picked up again behind it."""
    rows = chain(100)
    for index in range(20, 80):
        rows[index] = rows[index]._replace(digest=bytes(32))
    assert named(list(verify_rows(rows)), "changed") == list(range(21, 81))


# --- what is missing -----------------------------------------------------------------------------------------------


@given(st.sets(st.integers(2, 20)))
def test_missing_rows_are_named(gone: set[int]) -> None:
    """Whatever is taken out, at the end too, the faults give exactly those numbers."""
    rows = chain(20)
    faults = list(verify_rows([row for row in rows if row.number not in gone], head=head_of(rows)))
    missing = {number for fault in faults for number in range(fault.number, fault.last_number + 1)}
    assert missing == gone
    assert {fault.kind for fault in faults} <= {"missing"}


def test_a_removed_beginning_shows_by_the_row_before() -> None:
    """Given the row before the first, a gap after it is named."""
    rows = chain(12)
    (fault,) = verify_rows(rows[6:], head_of(rows[:4]))
    assert (fault.kind, fault.number, fault.last_number) == ("missing", 5, 6)


def test_rows_beyond_the_head_are_no_part_of_the_chain() -> None:
    """What was added behind the last row that is remembered is told."""
    rows = chain(12)
    (fault,) = verify_rows(rows, head=head_of(rows[:9]))
    assert (fault.kind, fault.number) == ("head", 12)


def test_a_row_that_comes_again_is_named_and_passed_over() -> None:
    """The chain goes on where it was."""
    rows = chain(12)
    faults = list(verify_rows([*rows[:6], rows[2], *rows[6:]]))
    assert [(fault.kind, fault.number) for fault in faults] == [("order", 3)]


# --- counters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now", "kind"),
    [
        (Account(), Account(received=3, delivered=2), "unbalanced"),
        (Account(), Account(received=0, delivered=1, queued=-1), "unbalanced"),
        (Account(received=5, delivered=5), Account(received=5, delivered=4, queued=1), "backwards"),
        (Account(received=5, expired=5), Account(received=5, expired=4, queued=1), "backwards"),
        (Account(received=5, evicted=5), Account(received=5, evicted=4, queued=1), "backwards"),
        (Account(received=5, rejected=5), Account(received=5, rejected=4, quarantined=1), "backwards"),
        (Account(received=5, queued=5), Account(received=4, queued=4), "backwards"),
        (Account(received=5, queued=3, quarantined=2), Account(received=2, queued=2), "backwards"),
    ],
)
def test_books_that_cannot_be_are_named_though_their_digests_fit(then: Account, now: Account, kind: str) -> None:
    """A gateway that reckons wrong cannot hide behind a chain that is whole."""
    rows = close_hour(0, [("normal", "a", then)])
    rows += close_hour(3600, [("normal", "a", now)], *head_of(rows))
    assert {(fault.kind, fault.number) for fault in verify_rows(rows)} == {(kind, 2)}


def test_accounts_are_judged_one_by_one() -> None:
    """The same device in another lane has other counters."""
    rows = close_hour(0, [("alert", "a", Account(received=5, delivered=5)), ("normal", "a", Account())])
    assert list(verify_rows(rows)) == []


# --- anything at all -----------------------------------------------------------------------------------------------

ANYTHING = st.none() | st.integers() | st.floats() | st.binary(max_size=33) | st.text(max_size=4)


def any_row(number: int, rest: Sequence[Any]) -> LedgerRow:
    return LedgerRow._make((number, *rest))


@given(st.lists(st.builds(any_row, st.integers(-2, 8), st.lists(ANYTHING, min_size=11, max_size=11)), max_size=8))
def test_rows_of_anything_are_judged_and_never_raise(rows: list[LedgerRow]) -> None:
    """A database holds anything in any column; the faults are made of numbers and texts all the same."""
    for fault in verify_rows(rows, head=LedgerHead(9, GENESIS)):
        json.dumps(fault, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row._replace(device=b"device-1"),
        lambda row: row._replace(lane="\ud800"),
        lambda row: row._replace(received=None),
        lambda row: row._replace(received=float(row.received)),
        lambda row: row._replace(digest=None),
        lambda row: row._replace(digest=row.digest[:31]),
    ],
)
@pytest.mark.parametrize("index", [0, 5])
def test_a_row_with_foreign_types_is_changed_and_the_rest_is_not(
    damage: Callable[[LedgerRow], LedgerRow], index: int
) -> None:
    """It is named at the beginning of a chain as well, where no digest comes before it."""
    rows = chain(14)[2:]
    rows[index] = damage(rows[index])
    assert named(list(verify_rows(rows)), "changed") == [index + 3]


def test_the_columns_of_the_digest_are_all_but_the_digest() -> None:
    """A column that is added later is under the digest as well."""
    assert (*COLUMNS, "digest") == LedgerRow._fields
