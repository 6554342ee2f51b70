"""Whatever rots in a store's files: it goes on by itself, loses what stood on the damage and no more, and counts it.

A store is made as a gateway leaves it, its files are damaged at places drawn from a seed, and it lives on with the
product's code. What has to come out is known from SQLite itself, which tells on which pages each row stands.

`python -m tests.buffer.test_damage 1000 --seed 1` judges as many damages as it is told.

What nature allows, because the disk has nothing left that would tell:

- Damage in the last transaction of the log, or to the mark that ends the one before, looks like a transaction torn by a
  power cut: then the state before it counts, and the numbers given out in it may come again.
- Where the store's id is lost, messages have a new one. Where books are lost, so is the account they were.
- A version number in the file's header that is damaged into one that there may be one day: the store is left alone.
- The first page, which names the roots, and a root swapped for another page of its tree: what that does not lead to
  may have been deleted.
- Of rows that may have been deleted as many come back as the books miss, the newest first. If the hub confirmed
  messages out of order, these may be others.
- The list of free pages naming a page that is not free: it is overwritten before anybody can notice.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import apsw
import orjson
import pytest
from structlog.testing import capture_logs

from edge_gateway.buffer import Account, BadFrame, Batch
from edge_gateway.buffer.chunks import payload_of
from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.ledger import LedgerRow, verify_rows
from edge_gateway.buffer.rebuild import TABLES
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable, DiskFull, DiskReadOnly
from edge_gateway.records import Event, Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys, open_bench_store

from .conftest import HandClock
from .test_salvage import Damaged, Image, damage, damaged_pages, pages_of, transactions_of

LANES: Final = ("alert", "normal", "bulk")
ROOTS: Final = {table.root for table in TABLES}
SHARE: Final = 60
"""Seeds that run with the other tests."""


# --- a store as a gateway leaves it ----------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """A row of `chunk` before the damage."""

    lane: str
    message: str
    """Its message's id without the store's."""
    payload: bytes
    counts: Mapping[str, int]
    pages: set[int]


@dataclass
class Truth:
    """What a store held when it was damaged."""

    chunks: dict[int, Chunk]
    accounts: dict[tuple[str, str], Account]
    book_pages: dict[tuple[str, str], set[int]]
    store_pages: set[int]
    ledger: dict[int, tuple[LedgerRow, set[int]]]


class Gateway:
    """A gateway around a store: what comes in, what the hub gets, and all that must stay true of it.

    Args:
        folder: for the store's files.
        seed: of all that happens.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.path = folder / "buffer.db"
        self.clock = HandClock()
        self.keys = MemoryDataKeys()
        lanes: list[dict[str, object]] = [{"name": "alert", "max_records_per_message": 1}, {"name": "normal"}]
        bulk: dict[str, object] = {"name": "bulk", "max_records_per_message": 40}
        if self.rng.random() < 0.4:
            bulk |= {"when_full": "thin", "max_bytes": 65_536}
        self.settings = BufferSettings.model_validate(
            {
                "lanes": [*lanes, bulk],
                "max_message_age_s": 0,
                "max_records_per_message": 60,
                "quarantine_bytes": 20_000,
                "max_disk_bytes": self.rng.choice((4 << 20, 8 << 20, 1 << 30)),
            }
        )
        self.devices = [f"device-{number}" for number in range(self.rng.randint(5, 30))]
        self.sent: dict[str, set[bytes]] = {}
        """Bodies by message id, ever."""
        self.next = 0
        self.store = self.open()

    def open(self) -> Store:
        return open_bench_store(self.path, self.settings, clock=self.clock, keys=self.keys, rng=self.rng)

    def live(self, steps: int) -> None:
        """Append, take, settle, rotate the key, and let time pass."""
        for _ in range(steps):
            settled = self.take(self.rng.randint(0, 3)) if self.rng.random() < 0.6 else []
            if self.rng.random() < 0.2:
                settled = []
            self.store.write(Writes([self.batch()], settled))
            self.clock.uptime_s += self.rng.choice((1, 60, 1800))
        if self.rng.random() < 0.5:
            self.store.rotate_key()

    def batch(self, lane: str = "") -> Batch:
        rng = self.rng
        lane = lane or rng.choice(("normal", "normal", "bulk"))
        records: list[Reading | Event] = [self.reading() for _ in range(rng.choice((1, 3, 20, 50)))]
        if rng.random() < 0.3:
            records.append(
                Event(rng.choice(self.devices), "hot", "alert-raised", self.clock.now_ns(), {"n": self.number()})
            )
        bad = [BadFrame("bus", "checksum", rng.randbytes(30), self.clock.now_ns())] if rng.random() < 0.3 else []
        notes = {"frames": str(self.next)} if rng.random() < 0.2 else {}
        return Batch(records, lane, bad, [("bus", 2)] if rng.random() < 0.1 else [], notes=notes)

    def reading(self) -> Reading:
        size = self.rng.choice((0, 0, 0, 40, 3000)) if self.rng.random() < 0.3 else 0
        text = self.rng.randbytes(size).hex() if self.rng.random() < 0.7 else "warm " * size
        return Reading(
            self.rng.choice(self.devices), "climate", self.clock.now_ns(), {"n": self.number(), "text": text}
        )

    def number(self) -> int:
        self.next += 1
        return self.next

    def take(self, most: int) -> list[Message]:
        """What the hub gets."""
        taken: list[Message] = []
        while len(taken) < most and isinstance(message := self.store.take(wait_for_more=False), Message):
            taken.append(message)
            self.sent.setdefault(message.id, set()).add(message.body)
        return taken

    def truth(self, files: Path) -> Truth:
        """What the files hold, as SQLite says; `files` is a copy, as being read changes them."""
        db = apsw.Connection(str(files))
        db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        pages = dict(pages_of(db, TABLES))
        names = {row[0]: row[1][1:] for row in db.execute("SELECT lane, device FROM book WHERE device LIKE '=%'")}
        sealer = Sealer(self.keys)
        chunks = {}
        for row in db.execute("SELECT * FROM chunk"):
            lane = row[0] >> 48
            if names[lane] != "(quarantine)":
                counts = orjson.loads(row[6])
                message = f"{lane}-{row[1]}"
                chunks[row[0]] = Chunk(names[lane], message, payload_of(row, sealer), counts, pages["chunk", (row[0],)])
        accounts = {}
        book_pages = {}
        for row in db.execute("SELECT * FROM book"):
            lane, device, _, _, _, _, _, received, delivered, expired, evicted, rejected, quarantined, _, _ = row
            gone = delivered + expired + evicted + rejected + quarantined
            account = Account(received, delivered, received - gone, expired, evicted, rejected, quarantined)
            book_pages[device, names[lane]] = pages["book", (lane, device)]
            if not device.startswith("="):
                accounts[device, names[lane]] = account
        ledger = {row[0]: (LedgerRow(*row), pages["ledger", (row[0],)]) for row in db.execute("SELECT * FROM ledger")}
        store_pages = {page for (table, _), on in pages.items() if table == "store" for page in on}
        db.close()
        return Truth(chunks, accounts, book_pages, store_pages, ledger)

    def numbers_to(self, files: Path) -> tuple[dict[str, int], dict[str, int]]:
        """The last number of each device, and of the messages of each lane."""
        db = apsw.Connection(str(files))
        seqs: dict[str, int] = {}
        messages: dict[str, int] = {}
        for lane, device, last in db.execute("SELECT lane, device, last FROM book"):
            if device.startswith("="):
                messages[str(lane)] = last
            else:
                seqs[device] = max(last, seqs.get(device, 0))
        db.close()
        return seqs, messages


def image_of(files: Path, database: bytes, log: bytes) -> Image:
    """Which pages are what, for the damage; `files` is a copy."""
    db = apsw.Connection(str(files))
    db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    pages = dict(pages_of(db, TABLES))
    stat = list(db.execute("SELECT pageno, pagetype FROM dbstat"))
    db.close()
    transactions = list(transactions_of(log, PAGE_BYTES))
    newest = {page: frame for transaction in transactions for frame, page in transaction}
    count = max([*newest, len(database) // PAGE_BYTES])
    free = sorted({*range(1, len(database) // PAGE_BYTES + 1)} - {page for page, _ in stat})
    interior = [page for page, kind in stat if kind == "internal" and page <= len(database) // PAGE_BYTES]
    assert count
    return Image(PAGE_BYTES, TABLES, database, log, [], pages, newest, transactions, interior, free)


# --- the judge -------------------------------------------------------------------------------------------------------


class Ruling(NamedTuple):
    """What became of one damage."""

    what: str
    problems: list[str]
    lost: int
    """Records."""
    is_rebuilt: bool
    revived: int
    """Records that had been settled and came again, under their old id."""
    is_excused: bool
    """Whether rows are missing because the first page and a root are lost, or others came in their place."""


def judge(seed: int, folder: Path) -> Ruling:
    rng = random.Random(f"damage {seed}")
    gateway = Gateway(folder, seed)
    gateway.live(rng.choice((3, 15, 40)))
    gateway.store.close()
    gateway.clock.reboot("boot-2")
    gateway.store = gateway.open()
    gateway.live(rng.choice((0, 10, 40)))
    end = rng.choice(("closed", "killed", "killed", "running"))
    if end == "closed":
        gateway.store.close()
    log_path = Path(f"{gateway.path}-wal")
    database = gateway.path.read_bytes()
    log = log_path.read_bytes() if log_path.exists() else b""
    with TemporaryDirectory() as copies:
        whole = image_of(put(Path(copies, "a.db"), database, log), database, log)
        hurt = damage(whole, rng.getrandbits(32))
        bad, last = damaged_pages(whole, hurt)
        last = without_end_marks(whole, hurt, bad, last)
        if end == "running":
            # What SQLite knows to be in the database it does not look for in the log, and may write over there.
            bad |= changed_pages(database, hurt.database)
        truth = gateway.truth(put(Path(copies, "b.db"), database, log))
        is_torn = end != "running" and last < len(whole.transactions)
        cut = log
        if is_torn:
            cut = log[: 32 + (whole.transactions[last - 1][-1][0] if last else 0) * (PAGE_BYTES + 24)]
        numbers = gateway.numbers_to(put(Path(copies, "c.db"), database, cut))
    if end == "running":
        for path, before, after in ((gateway.path, database, hurt.database), (log_path, log, hurt.log)):
            write_beneath(path, before, after)
    else:
        gateway.store = None  # type: ignore[assignment]  # the process is gone
        gateway.path.write_bytes(hurt.database)
        log_path.unlink(missing_ok=True)
        if hurt.log:
            log_path.write_bytes(hurt.log)
    return live_on(gateway, Case(f"{seed} {end}: {hurt.what}", truth, bad, numbers, is_torn=is_torn, end=end))


def changed_pages(before: bytes, after: bytes) -> set[int]:
    """The pages of a database that are not as they were."""
    return {
        at // PAGE_BYTES + 1
        for at in range(0, len(before), PAGE_BYTES)
        if before[at : at + PAGE_BYTES] != after[at : at + PAGE_BYTES]
    }


def without_end_marks(whole: Image, hurt: Damaged, bad: set[int], last: int) -> int:
    """Without the frame that ends it, a transaction and the last one look like one that is torn.

    Returns:
        After which transaction the log may seem to end; `bad` gets the pages of those behind.
    """
    first = len(whole.transactions) - 1
    while first > 0:
        start = 32 + (whole.transactions[first - 1][-1][0] - 1) * (PAGE_BYTES + 24)
        part = slice(start, start + PAGE_BYTES + 24)
        if whole.log[part] == hurt.log[part]:
            break
        first -= 1
    if first < len(whole.transactions) - 1:
        last = min(last, first)
        bad |= {page for transaction in whole.transactions[first:] for _, page in transaction}
    return last


def put(path: Path, database: bytes, log: bytes) -> Path:
    path.write_bytes(database)
    if log:
        Path(f"{path}-wal").write_bytes(log)
    return path


def write_beneath(path: Path, before: bytes, after: bytes) -> None:
    """Change a file that somebody has open, where it has changed."""
    if before == after:
        return
    with path.open("r+b") as file:
        for at in range(0, len(after), 512):
            if before[at : at + 512] != after[at : at + 512]:
                file.seek(at)
                file.write(after[at : at + 512])
        file.truncate(len(after))


@dataclass
class Case:
    """One damage, and what was there before it."""

    what: str
    truth: Truth
    bad: set[int]
    """Pages whose newest version is damaged."""
    numbers: tuple[dict[str, int], dict[str, int]]
    is_torn: bool
    end: str
    appended: list[Batch] = field(default_factory=list)
    """What came in after it."""
    problems: list[str] = field(default_factory=list)

    def has_books(self) -> bool:
        return not any(pages & self.bad for pages in self.truth.book_pages.values())


def live_on(gateway: Gateway, case: Case) -> Ruling:
    """The store lives on, and everything it has comes out."""
    troubles: list[str] = []
    with capture_logs() as log:
        if case.end != "running":
            gateway.store = patiently(gateway, gateway.open, troubles)
        else:
            case.appended = [gateway.batch("normal") for _ in range(gateway.rng.choice((0, 5)))]
            for batch in case.appended:
                patiently(gateway, partial(gateway.store.write, Writes([batch], [])), troubles)
        gateway.store.rewind()
        first = patiently(gateway, lambda: gateway.take(10_000), troubles)
        gateway.store.rewind()
        out = patiently(gateway, lambda: gateway.take(10_000), troubles)
        ids = {message.id for message in out}
        if len(ids) < len(out):
            case.problems.append("a message came twice in one round")
        if ids != {message.id for message in first} and not logged(log):
            case.problems.append("two rounds differ")
        known = set(gateway.sent)
        patiently(gateway, lambda: gateway.store.write(Writes([], out)), troubles)
        new = [gateway.batch() for _ in range(6)]
        new += [Batch([gateway.reading()], lane) for lane in LANES]
        case.appended += new
        patiently(gateway, lambda: gateway.store.write(Writes(new, [])), troubles)
        later = patiently(gateway, lambda: gateway.take(10_000), troubles)
        patiently(gateway, lambda: gateway.store.write(Writes([], later)), troubles)
        patiently(gateway, gateway.store.check, troubles)
        rest = patiently(gateway, lambda: gateway.take(10_000), troubles)
        patiently(gateway, lambda: gateway.store.write(Writes([], rest)), troubles)
        accounts = patiently(gateway, gateway.store.accounts, troubles)
        in_memory = gateway.store.known_accounts()
        ledger = patiently(gateway, lambda: gateway.store.ledger_rows(0, 100_000), troubles)
        head = gateway.store.ledger_head
        patiently(gateway, lambda: gateway.store.read_chunks(0, 100_000, quarantine=True), troubles)
        patiently(gateway, gateway.store.close, troubles)
    if case.end == "running":  # what SQLite has had in its memory all the time is read from the disk only now
        gateway.store = gateway.open()
        gateway.store.check()
        accounts, in_memory = gateway.store.accounts(), gateway.store.known_accounts()
        gateway.store.close()
    with capture_logs() as second:
        gateway.store = gateway.open()
        again = gateway.take(10_000)
        gateway.store.check()
        if gateway.store.accounts() != accounts or accounts != in_memory:
            case.problems.append(f"the accounts changed: {accounts} {in_memory}")
        gateway.store.close()
    if again:
        case.problems.append(f"settled and back: {[message.id for message in again]}")
    if any(each["log_level"] == "error" for each in second):
        case.problems.append(f"the second opening is not quiet: {second}")
    db = apsw.Connection(str(gateway.path))
    if (fault := db.execute("PRAGMA integrity_check").get) != "ok":
        case.problems.append(f"integrity: {fault}")
    db.close()
    left = sorted(path.name for path in gateway.folder.iterdir())
    if set(left) - {"buffer.db", "damaged"}:
        case.problems.append(f"left behind: {left}")
    if logged(log) != ("damaged" in left) and case.end != "running":
        case.problems.append(f"rebuilt: {logged(log)}, but there are {left}")
    if troubles:
        case.problems.append(f"troubles: {troubles[:3]}")
    settled_problems = len(case.problems)
    lost, revived = judge_messages(case, gateway, out, later + rest, known)
    judge_accounts(case, accounts, out, later + rest)
    judge_ledger(case, ledger, head)
    is_excused = (1 in case.bad and bool(case.bad & ROOTS)) or revived > 0
    excused = case.problems[settled_problems:] if is_excused else []
    problems = case.problems[: len(case.problems) - len(excused)]
    return Ruling(case.what, problems, lost, logged(log), revived, bool(excused))


def patiently(gateway: Gateway, call: Callable[[], Any], troubles: list[str]) -> Any:
    """As a gateway does: what is unavailable is tried again."""
    for _ in range(3):
        try:
            return call()
        except BufferUnavailable as error:
            troubles.append(f"{type(error).__name__} {error}")
            gateway.clock.uptime_s += 11
    raise AssertionError(f"it does not go away: {troubles}")


def logged(log: list[Any]) -> bool:
    return any(each["event"] == "buffer.rebuilt" for each in log)


def place(message_id: str) -> str:
    """A message's id without the store's."""
    return message_id.partition("-")[2]


def judge_messages(
    case: Case, gateway: Gateway, out: list[Message], later: list[Message], known: set[str]
) -> tuple[int, int]:
    """What came out, held against what was there."""
    by_message: dict[str, list[Chunk]] = {}
    for chunk in case.truth.chunks.values():
        by_message.setdefault(chunk.message, []).append(chunk)
    bodies = {place(message.id): message.body for message in [*out, *later]}
    lost = sum(sum(chunk.counts.values()) for chunk in case.truth.chunks.values())
    for name, chunks in by_message.items():
        came = documents(bodies.get(name, b"[]"))
        lost -= sum(
            sum(chunk.counts.values()) for chunk in chunks if set(documents(b"[%b]" % chunk.payload)) <= set(came)
        )
        whole = [chunk for chunk in chunks if not chunk.pages & case.bad]
        if len(whole) == len(chunks):
            body = b"[" + b",".join(chunk.payload for chunk in chunks) + b"]"
            grown = bodies.get(name, b"").startswith(body[:-1] + b",") and case.end == "running"
            if bodies.get(name) != body and not grown:
                case.problems.append(
                    f"message {name} of {len(chunks)} whole chunks: {bodies.get(name, b'none')[:60]!r}"
                )
        for chunk in whole:
            if not set(documents(b"[%b]" % chunk.payload)) <= set(came):
                case.problems.append(f"a whole chunk of {name} is lost")
    revived = 0
    earlier = {place(name): bodies for name, bodies in gateway.sent.items() if name in known}
    for message in out:
        name = place(message.id)
        if name not in by_message and case.end != "running" and not case.is_torn:
            revived += message.records
            if name not in earlier:
                continue
            if not any(set(documents(message.body)) <= set(documents(body)) for body in earlier[name]):
                case.problems.append(f"{name} came with other bytes")
    seqs, messages = case.numbers
    given = {message.id: message.body for message in out}
    for message in later:
        if given.get(message.id) == message.body:
            continue  # the store was rebuilt before it was noted that the hub had it
        if message.id not in given and place(message.id) in by_message:
            continue  # it was taken for lost until the store was rebuilt
        lane, number = place(message.id).split("-")
        if message.id in known and not case.is_torn and case.end != "running":
            case.problems.append(f"{message.id} was used before")
        if int(number) <= messages.get(lane, 0) and not case.truth.store_pages & case.bad:
            case.problems.append(f"message {message.id} is not behind {messages.get(lane)}")
        for document in orjson.loads(message.body):
            if document["seq"] <= seqs.get(document["device"], 0):
                case.problems.append(f"seq {document['seq']} of {document['device']} again")
    return lost, revived


def documents(body: bytes) -> list[bytes]:
    return [orjson.dumps(document) for document in orjson.loads(body)]


def judge_accounts(
    case: Case, accounts: dict[tuple[str, str], Account], out: list[Message], later: list[Message]
) -> None:
    """All balances, and where the book is whole nothing is missing that is not counted."""
    for key, account in accounts.items():
        if account.balance() or account.queued or min(account.received, account.delivered, account.quarantined) < 0:
            case.problems.append(f"{key}: {account}")
    if case.is_torn:
        return
    appended = Counter(
        (record.device, "alert" if isinstance(record, Event) else batch.lane)
        for batch in case.appended
        for record in batch.records
    )
    delivered: Counter[tuple[str, str]] = Counter()
    for message in {message.id: message for message in [*out, *later]}.values():
        delivered.update((document["device"], message.lane) for document in orjson.loads(message.body))
    for key, before in case.truth.accounts.items():
        after = accounts.get(key, Account())
        if case.truth.book_pages[key] & case.bad:
            continue
        if after.received < before.received + appended[key]:
            case.problems.append(f"{key}: received {before.received} + {appended[key]}, now {after.received}")
        if after.delivered != before.delivered + delivered[key]:
            case.problems.append(f"{key}: delivered {before.delivered} + {delivered[key]}, now {after.delivered}")


def judge_ledger(case: Case, rows: list[LedgerRow], head: Any) -> None:
    """The chain holds, or what is named is damaged."""
    damaged = {number for number, (_, pages) in case.truth.ledger.items() if pages & case.bad}
    same = {row.number for row in rows if case.truth.ledger.get(row.number, (None,))[0] == row}
    for number in case.truth.ledger.keys() - damaged - same if not case.is_torn else ():
        case.problems.append(f"row {number} of the ledger is not what it was")
    books_are_lost = case.is_torn or not case.has_books()
    if damaged or books_are_lost or case.truth.store_pages & case.bad:
        near = damaged | {number + 1 for number in damaged}
        for fault in verify_rows(rows, None, head):
            is_near = not near.isdisjoint(range(fault.number, fault.last_number + 1))
            if not (is_near or case.is_torn or (fault.kind == "backwards" and books_are_lost)):
                case.problems.append(f"the ledger names what is whole: {fault}; damaged are {sorted(damaged)}")
    elif faults := list(verify_rows(rows, None, head)):
        case.problems.append(f"the ledger is broken: {faults[:2]}")


@pytest.mark.parametrize("seed", range(SHARE))
def test_damage_costs_what_stood_on_it_and_is_counted(seed: int, tmp_path: Path) -> None:
    """Wherever the files rot, closed, killed or running, everything else comes out once and the account balances."""
    ruling = judge(seed, tmp_path)
    assert not ruling.problems, ruling.what


# --- while it is being rebuilt ---------------------------------------------------------------------------------------


def damaged_gateway(folder: Path) -> tuple[Gateway, list[Message]]:
    """A gateway that was killed and whose log has rotted in the middle, and what a rebuilding brings out of it."""
    gateway = Gateway(folder, 7)
    gateway.live(30)
    database, log = gateway.path.read_bytes(), bytearray(Path(f"{gateway.path}-wal").read_bytes())
    gateway.store = None  # type: ignore[assignment]  # the process is gone
    log[len(log) // 3] ^= 1
    put(gateway.path, database, bytes(log))
    with TemporaryDirectory() as other:
        shutil.copytree(folder, other, dirs_exist_ok=True)
        return gateway, everything(gateway, Path(other))


def everything(gateway: Gateway, folder: Path) -> list[Message]:
    """Open the store in a folder, and take what is there."""
    gateway.path = folder / "buffer.db"
    store = gateway.store = gateway.open()
    with capture_logs() as log:
        messages = gateway.take(10_000)
        assert not any(account.balance() for account in store.accounts().values())
        store.check()
        store.close()
    assert not logged(log)
    return messages


def test_wherever_a_rebuilding_is_cut_the_next_opening_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each step on the files there is one store, with all that was whole, and nothing is left over."""
    folder = tmp_path / "store"
    folder.mkdir()
    gateway, expected = damaged_gateway(folder)
    images: list[dict[str, bytes]] = []

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            images.append(files_of(folder))
            done = step(*arguments, **options)
            images.append(files_of(folder))
            return done

        return do

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "mkdir", "fsync"):
            patch.setattr(os, name, watched(getattr(os, name)))
        assert everything(gateway, folder) == expected
    assert len(images) > 12
    building = "buffer.db.building"
    halves = [image | {building: image[building][:5000]} for image in images if building in image]
    assert halves
    for number, image in enumerate(images + halves):
        cut = tmp_path / str(number)
        cut.mkdir()
        for name, data in image.items():
            (cut / name).write_bytes(data)
        assert everything(gateway, cut) == expected, image.keys()
        assert {path.name for path in cut.iterdir()} >= {"buffer.db"}, image.keys()
        assert {path.name for path in cut.iterdir()} <= {"buffer.db", "damaged"}, image.keys()


class FullDisk(apsw.VFS):
    """The system's disk, on which a store that is being rebuilt finds no room."""

    def __init__(self) -> None:
        self.is_full = True
        super().__init__("full", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # apsw's name
        return FullFile(self, name, flags)


class FullFile(apsw.VFSFile):
    """A file on it."""

    def __init__(self, disk: FullDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._is_new = path.endswith(".building")
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # apsw's name
        if self._is_new and self._disk.is_full and offset > 4 * PAGE_BYTES:
            raise apsw.FullError("no room")
        super().xWrite(data, offset)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_full_disk_puts_a_rebuilding_off(tmp_path: Path) -> None:
    """The old files stay as they are, the error says what to do, and when there is room all is well."""
    gateway, expected = damaged_gateway(tmp_path)
    disk = FullDisk()
    try:
        for _ in range(2):
            before = files_of(tmp_path)["buffer.db-wal"]
            with pytest.raises(DiskFull, match="Free some space"):
                everything(gateway, tmp_path)
            assert files_of(tmp_path).keys() == {"buffer.db", "buffer.db-wal"}
            assert files_of(tmp_path)["buffer.db-wal"] == before
        disk.is_full = False
        assert everything(gateway, tmp_path) == expected
    finally:
        disk.unregister()


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        ("mkdir", errno.ENOSPC, DiskFull),
        ("replace", errno.EROFS, DiskReadOnly),
        ("fsync", errno.EIO, BufferUnavailable),
    ],
)
def test_a_disk_that_takes_no_names_puts_a_rebuilding_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, kind: type[BufferUnavailable]
) -> None:
    """No space for a folder, read-only, a failed sync: nothing is lost, and later it is done."""
    gateway, expected = damaged_gateway(tmp_path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        for _ in range(2):
            with pytest.raises(kind):
                everything(gateway, tmp_path)
    assert everything(gateway, tmp_path) == expected


def test_a_store_that_cannot_be_rebuilt_now_is_tried_again_and_not_all_the_time(tmp_path: Path) -> None:
    """While it runs: each call is refused with the reason, from memory; after some seconds it is tried once more."""
    gateway = Gateway(tmp_path, 7)
    gateway.live(30)
    gateway.store.close()
    gateway.store = gateway.open()
    known = gateway.store.known_accounts()
    disk = FullDisk()
    try:
        pages = gateway.path.stat().st_size // PAGE_BYTES
        with gateway.path.open("r+b") as file:
            file.seek(pages // 2 * PAGE_BYTES)
            file.write(bytes(pages // 4 * PAGE_BYTES))
        for call in (partial(gateway.take, 10_000), gateway.store.accounts, gateway.store.stats, gateway.store.check):
            with pytest.raises(DiskFull):
                call()
        disk.is_full = False
        with pytest.raises(DiskFull):
            gateway.store.accounts()
        assert gateway.store.known_accounts() == known
        gateway.clock.uptime_s += 11
        assert not any(account.balance() for account in gateway.store.accounts().values())
        assert gateway.store.state == "damaged"
        gateway.store.write(Writes([gateway.batch()]))
        gateway.store.close()
    finally:
        disk.unregister()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    total: Counter[str] = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.number):
        with TemporaryDirectory() as folder:
            try:
                ruling = judge(seed, Path(folder))
            except Exception:  # noqa: BLE001  # a crash is a finding, and the other seeds have theirs
                print(seed, traceback.format_exc(), sep="\n    ")
                total["broken"] += 1
                continue
        total["lost"] += ruling.lost
        total["rebuilt"] += ruling.is_rebuilt
        total["revived"] += ruling.revived
        total["excused"] += ruling.is_excused
        if ruling.problems:
            total["broken"] += 1
            print(ruling.what, len(ruling.problems), *(each[:400] for each in ruling.problems[:3]), sep="\n    ")
    print(f"{arguments.number} damages in {time.monotonic() - began:.0f} s: {dict(total)}")


if __name__ == "__main__":
    main()
