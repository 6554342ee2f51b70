"""Whenever the power is cut, nothing acknowledged is lost; and the machine that says so can say otherwise."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer import Account, StoredChunk
from edge_gateway.buffer.ledger import close_hour
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Writes
from edge_gateway.buffer.transaction import Transaction
from edge_gateway.errors import LaneFull
from edge_gateway.records import Message
from edge_gateway.testbench.power_cut import Conditions, Problem, WitnessedStore, cut_everywhere, replay
from edge_gateway.testbench.power_cut.contents import Contents
from edge_gateway.testbench.power_cut.disk_model import SECTOR_BYTES, Platter
from edge_gateway.testbench.power_cut.keys import Nonces, NotedKeys, WatchedSealer
from edge_gateway.testbench.power_cut.look import Seen
from edge_gateway.testbench.power_cut.memory_disk import (
    CHARACTERISTICS,
    SECTOR_SIZE,
    Created,
    Deleted,
    DirectorySynced,
    Given,
    KeysAre,
    Synced,
    Truncated,
    Written,
    memory_disk,
)
from edge_gateway.testbench.power_cut.settings import LANES, ROUTES
from edge_gateway.testbench.power_cut.state import NEVER, State
from edge_gateway.testbench.power_cut.verdict import judge
from edge_gateway.testbench.power_cut.workload import Beginning, live

# --- the promise -----------------------------------------------------------------------------------------------------


def test_no_cut_breaks_a_promise() -> None:
    """Of 5,000 different disks that power cuts may leave, every one opens and holds what was promised."""
    outcome = cut_everywhere(5_000, seed=2)
    assert outcome.images >= 5_000
    assert not outcome.first


def test_the_workload_comes_to_all_the_disk_can_be_asked_for() -> None:
    """A few lives ask the disk for all it can do, and come to every policy, to new keys, and to times put right."""
    operations: set[type] = set()
    routes: set[str] = set()
    columns: Counter[tuple[str, str]] = Counter()
    corrected = 0
    for life_number in range(6):
        with memory_disk(f"power-cut-coverage-{life_number}") as disk:
            life = live(disk, Beginning(), f"coverage-{life_number}", conditions=Conditions())
        operations |= set(map(type, life.log))
        routes |= {entry.route for entry in life.log if isinstance(entry, Given)}
        last = life.states[-1].contents
        for (_, lane), account in last.accounts.items():
            columns.update({(lane, what): getattr(account, what) for what in Account.__dataclass_fields__})
        corrected += sum(b"time_corrected" in (chunk.payload or b"") for chunk in last.chunks)
        columns["any", "ledger rows"] += len(last.ledger)
        assert not any(state.wrong for state in life.states)
    assert {Created, Deleted, Written, Truncated, Synced, DirectorySynced, Given, KeysAre} <= operations
    assert {lane for lane, what in +columns if what == "delivered"} == set(LANES)
    assert routes == set(ROUTES)
    assert {lane for lane, what in +columns if what == "evicted"} >= {"alert", "normal", "bulk", "trend"}
    for wanted in (("live", "expired"), ("normal", "quarantined"), ("normal", "rejected"), ("any", "ledger rows")):
        assert columns[wanted], wanted
    assert corrected


# --- the machine can fail --------------------------------------------------------------------------------------------


class DeletesBeforeTheHubConfirms(WitnessedStore):
    """Drops a message as soon as it is taken, as a queue does that promises at most once."""

    def take(
        self, *, wait_for_more: bool = True, lanes: Collection[tuple[str, str]] | None = None
    ) -> Message | float | None:
        taken = super().take(wait_for_more=wait_for_more, lanes=lanes)
        if isinstance(taken, Message):
            with self.unheard():
                self.write(Writes(settled=[taken]))
        return taken


class SettlesInMemoryOnly(WitnessedStore):
    """Says that removals are written, and does not write them."""

    def write(self, writes: Writes) -> list[LaneFull | None]:
        return self.heard(writes, lambda: super(SettlesInMemoryOnly, self).write(replace(writes, settled=[])))


class RemovesInATransactionOfItsOwn(WitnessedStore):
    """Does in two steps what is promised to happen at once."""

    def write(self, writes: Writes) -> list[LaneFull | None]:
        def in_two() -> list[LaneFull | None]:
            super(RemovesInATransactionOfItsOwn, self).write(Writes(settled=writes.settled))
            return super(RemovesInATransactionOfItsOwn, self).write(replace(writes, settled=[]))

        return self.heard(writes, in_two)


class ClosesTheHourInATransactionOfItsOwn(WitnessedStore):
    """Writes the ledger's rows of an hour that is over, and then what has come in the next."""

    def write(self, writes: Writes) -> list[LaneFull | None]:
        def in_two() -> list[LaneFull | None]:
            self._transact(lambda _: [])
            return super(ClosesTheHourInATransactionOfItsOwn, self).write(writes)

        return self.heard(writes, in_two)


class LetsMessagesGrow(WitnessedStore):
    """Puts later readings into a message that has been taken already."""

    def take(
        self, *, wait_for_more: bool = True, lanes: Collection[tuple[str, str]] | None = None
    ) -> Message | float | None:
        open_records = {number: lane.open_records for number, lane in self._shelf.lanes.items()}
        taken = super().take(wait_for_more=wait_for_more, lanes=lanes)
        if isinstance(taken, Message):
            number = self._shelf.numbers[taken.lane, taken.route]
            self._shelf.lanes[number].open_records = open_records[number]
        return taken


class RemembersInMemoryWhatWasGiven(WitnessedStore):
    """Never writes that a message has been given out, so that it is thinned after a restart."""

    def _transact(self, steps: Callable[[Transaction], list[LaneFull | None]]) -> list[LaneFull | None]:
        giving, self._shelf.giving = self._shelf.giving, set()
        try:
            return super()._transact(steps)
        finally:
            self._shelf.giving = giving


class RepeatsItsSalt(WitnessedStore):
    """Begins each time with the same salt, and so with the same nonces."""

    @staticmethod
    def make_sealer(keys: NotedKeys, rng: random.Random, nonces: Nonces) -> Sealer:
        return WatchedSealer(keys, random_bytes=bytes, nonces=nonces)


class SealsNothing(WatchedSealer):
    """Stores payloads as they are."""

    def seal(self, payload: bytes, context: bytes) -> bytes:
        return payload

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return sealed


class StoresInTheOpen(WitnessedStore):
    """Writes what anybody can read."""

    @staticmethod
    def make_sealer(keys: NotedKeys, rng: random.Random, nonces: Nonces) -> Sealer:
        return SealsNothing(keys, random_bytes=rng.randbytes, nonces=nonces)


class DestroysTheOldKey(WitnessedStore):
    """Makes a new key and destroys the one before, which what is stored still needs."""

    def rotate_key(self) -> int:
        new = super().rotate_key()
        for key_id in self._keys.ids()[:-1]:
            self._keys.destroy(key_id)
        return new


@pytest.mark.parametrize(
    ("conditions", "kind", "seed"),
    [
        (Conditions(synchronous="NORMAL"), "lost", 1),
        (Conditions(synchronous="OFF"), "lost", 1),
        (Conditions(store=DeletesBeforeTheHubConfirms), "lost", 1),
        (Conditions(store=SettlesInMemoryOnly), "came-back", 1),
        (Conditions(store=RemovesInATransactionOfItsOwn), "half-done", 1),
        (Conditions(store=ClosesTheHourInATransactionOfItsOwn), "ledger", 1),
        (Conditions(store=LetsMessagesGrow), "id-reused", 1),
        (Conditions(store=RemembersInMemoryWhatWasGiven), "id-reused", 1),
        (Conditions(store=RepeatsItsSalt), "nonce-reused", 1),
        (Conditions(store=StoresInTheOpen), "readable", 1),
        (Conditions(store=DestroysTheOldKey), "lost", 3),
    ],
    ids=[
        "synchronous-normal",
        "synchronous-off",
        "delete-before-acknowledge",
        "unwritten-settle",
        "two-transactions",
        "ledger-apart",
        "growing-messages",
        "unwritten-given",
        "repeated-salt",
        "not-sealed",
        "old-key-destroyed",
    ],
)
def test_a_store_that_breaks_the_promise_is_found_out(conditions: Conditions, kind: str, seed: int) -> None:
    """The machine says what is lost, not removed, half done or changed under its id, and finds the image again."""
    outcome = cut_everywhere(5_000, seed=seed, conditions=conditions, until_broken=True)
    finding = outcome.first[kind]
    assert replay(finding.place, conditions=conditions).problems == finding.problems


def chunk(number: int, *numbers: int, first_seq: int = 1) -> StoredChunk:
    """What is stored of some readings of one device."""
    documents = [
        b'{"device":"door","seq":%d,"values":{"n":%d}}' % (seq, each) for seq, each in enumerate(numbers, first_seq)
    ]
    return StoredChunk(number, "normal", number, len(numbers), {"door": len(numbers)}, b",".join(documents))


def frame(number: int) -> StoredChunk:
    """A bad frame in quarantine."""
    payload = b'{"link":"bus","frame":"%s"}' % number.to_bytes(4, "big").hex().encode()
    return StoredChunk(number, "normal", 1, 1, {"bus": 1}, payload)


ACCOUNT = Account(received=2, queued=2)
HELD = State(
    Contents(
        (chunk(1, 7), chunk(2, 8, first_seq=2)),
        (frame(5),),
        {("door", "normal"): ACCOUNT},
        {"shift": "late"},
        tuple(close_hour(3600, [("normal", "door", ACCOUNT)])),
    ),
    last_seq={"door": 2},
)
GOOD = Seen(contents=HELD.contents, messages=(("s-1-1", b"[7,8]"), ("s-1-2", b"[9]")), next_seqs=(("door", 3),))
FAULT = Problem("readable", "a secret stands in buffer.db")


def holding(**parts: object) -> Seen:
    """What was found, if all is as it should be but for these parts."""
    return replace(GOOD, contents=replace(HELD.contents, **parts))  # type: ignore[arg-type]  # as each test says


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("refused", Seen(refused="malformed")),
        ("readable", replace(GOOD, faults=(FAULT,))),
        ("lost", holding(chunks=(chunk(1, 7),))),
        ("lost", holding(quarantine=())),
        ("came-back", holding(chunks=(*HELD.contents.chunks, chunk(3, 6, first_seq=3)))),
        ("came-back", holding(quarantine=(frame(4), frame(5)))),
        ("repeated", holding(chunks=(*HELD.contents.chunks, chunk(3, 8, first_seq=3)))),
        ("out-of-order", holding(chunks=HELD.contents.chunks[::-1])),
        ("half-done", holding(chunks=(chunk(1, 7, 8),))),
        ("half-done", holding(notes={})),
        ("unbalanced", holding(accounts={})),
        ("ledger", holding(ledger=())),
        ("id-reused", replace(GOOD, messages=(("s-1-1", b"[7]"),))),
        ("seq-reused", replace(GOOD, next_seqs=(("door", 2),))),
    ],
)
def test_each_kind_of_problem_is_named(kind: str, seen: Seen) -> None:
    """An image that is as promised passes; one that differs in one point is reported by that point's name."""
    given_before = {"s-1-1": Given("s-1-1", "normal", 1, b"[7,8]")}
    assert judge(GOOD, [HELD], 0, 0, given_before) == ([], HELD)
    problems, _ = judge(seen, [HELD], 0, 0, given_before)
    assert {problem.kind for problem in problems} == {kind}


def test_an_acknowledgement_of_what_was_never_written_is_found_out() -> None:
    """Records said to be durable that were in no transaction are a problem of every image."""
    problems, _ = judge(GOOD, [HELD], NEVER, 0, {})
    assert [problem.kind for problem in problems] == ["never-written"]


def test_what_a_transaction_did_wrong_is_a_problem_of_what_it_left() -> None:
    """A state that no promise allows is reported wherever it is found, also if the cut itself has harmed nothing."""
    wrong = replace(HELD, wrong=(Problem("against-policy", "normal: evicted what is on its way"),))
    assert judge(GOOD, [wrong], 0, 0, {})[0] == list(wrong.wrong)


# --- the disk --------------------------------------------------------------------------------------------------------


def test_the_disk_answers_sqlite_as_linux_does(tmp_path: Path) -> None:
    """Sector size and characteristics are those of SQLite's own VFS, which it adapts its writing to."""
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, 0]
    file = apsw.VFSFile("", str(tmp_path / "a.db"), flags)
    subpage_read = 0x8000  # newer SQLite says so, older does not know it
    assert file.xSectorSize() == SECTOR_SIZE
    assert file.xDeviceCharacteristics() | subpage_read == CHARACTERISTICS
    file.xClose()


def test_the_same_seed_writes_the_same_bytes() -> None:
    """A life can be lived again to the byte, SQLite's random numbers included; so a finding can be replayed."""
    logs = []
    for name in ("power-cut-once", "power-cut-again"):
        with memory_disk(name) as disk:
            logs.append(live(disk, Beginning(), "same", conditions=Conditions()).log)
    assert logs[0] == logs[1]


def platter(*pending: Written | Truncated | Created | Deleted) -> Platter:
    disk = Platter({"a": b"old" * 400})
    for operation in pending:
        disk.do(operation)
    return disk


def test_what_is_synced_stays_and_what_is_not_may_go() -> None:
    """A write is there or not until its file is synced, whatever other files do; then it is there."""
    disk = platter(Written(0, 0, b"NEW"), Synced(1))  # type: ignore[arg-type]  # a sync is no pending operation
    assert {disk.image(fates)["a"][:3] for fates in disk.fates(random.Random(0))} == {b"NEW", b"old"}
    disk.do(Synced(0))
    assert [disk.image(fates)["a"][:3] for fates in disk.fates(random.Random(0))] == [b"NEW"]


def test_a_name_is_durable_when_its_directory_is() -> None:
    """A new file may be missing with all it holds, and a deleted one be back, until the directory is synced."""
    disk = platter(Created("b", 1), Written(1, 0, b"B"), Deleted("a"))
    disk.do(Synced(1))
    names = {tuple(disk.image(fates)) for fates in disk.fates(random.Random(0))}
    assert names == {("a",), ("b",), ("a", "b"), ()}
    disk.do(DirectorySynced())
    assert [disk.image(fates) for fates in disk.fates(random.Random(0))] == [{"b": b"B"}]


WRITES = st.builds(Written, st.just(0), st.integers(0, 3000), st.binary(min_size=1, max_size=1500))
TRUNCATIONS = st.builds(Truncated, st.just(0), st.integers(0, 1200))


@settings(max_examples=30)
@given(operations=st.lists(st.one_of(WRITES, TRUNCATIONS), max_size=6), seed=st.integers(0, 1 << 16))
def test_an_image_holds_nothing_that_was_never_written(operations: list[Written | Truncated], seed: int) -> None:
    """Each byte of an image is the old one, one that a pending write put there, or a zero of a hole."""
    disk = platter(*operations)
    possible = [{0, *b"old"[at % 3 : at % 3 + (at < 1200)]} for at in range(4500)]
    for each in operations:
        if isinstance(each, Written):
            for at, byte in enumerate(each.data, each.offset):
                possible[at].add(byte)
    for fates in disk.fates(random.Random(seed)):
        image = disk.image(fates)["a"]
        assert all(map(set.__contains__, possible, image))


@given(write=WRITES, seed=st.integers(0, 1 << 16))
def test_a_write_is_torn_at_sectors_only(write: Written, seed: int) -> None:
    """Within a sector a torn write is there as a whole or not at all, and beyond its bytes nothing has changed."""
    old = bytes(5000)
    new = bytearray(old)
    new[write.offset : write.offset + len(write.data)] = write.data
    disk = Platter({"a": old})
    disk.do(write)
    for fates in disk.fates(random.Random(seed)):
        image = disk.image(fates)["a"]
        for start in range(0, len(old), SECTOR_BYTES):
            sector = slice(start, start + SECTOR_BYTES)
            assert image[sector] in (old[sector], bytes(new[sector]))


# --- the command -----------------------------------------------------------------------------------------------------

RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_command() -> RunCommand:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge_gateway.testbench.power_cut", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_command_names_an_image_that_it_finds_again(run_command: RunCommand, tmp_path: Path) -> None:
    """It ends with 1 and prints a command that shows the same image, says what was pending and keeps its files."""
    done = run_command("--synchronous", "NORMAL", "--until-broken")
    assert done.returncode == 1, done.stderr
    assert "were acknowledged and are gone" in done.stdout
    again = done.stdout.strip().splitlines()[-1].split("power_cut ", 1)[1].split()
    replayed = run_command(*again, "--keep", str(tmp_path))
    assert replayed.returncode == 1, replayed.stderr
    assert "not there" in replayed.stdout
    assert "were acknowledged and are gone" in replayed.stdout
    assert (tmp_path / "buffer.db").read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize(("place", "code"), [("1/0/0/20/0", 0), ("1/0/0/999999/0", 2), ("here", 2)])
def test_the_command_ends_with_what_it_found(run_command: RunCommand, place: str, code: int) -> None:
    """0 for an image that holds the promise, 2 where there is no such image."""
    assert run_command("--replay", place).returncode == code
