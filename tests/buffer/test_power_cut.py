"""Whenever the power is cut, nothing acknowledged is lost; and the machine that says so can say otherwise."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer import Account
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.records import Lane, Message
from edge_gateway.testbench.power_cut import Conditions, WitnessedStore, cut_everywhere, replay
from edge_gateway.testbench.power_cut.disk_model import SECTOR_BYTES, Platter
from edge_gateway.testbench.power_cut.memory_disk import (
    CHARACTERISTICS,
    SECTOR_SIZE,
    Created,
    Deleted,
    DirectorySynced,
    Synced,
    Truncated,
    Written,
    memory_disk,
)
from edge_gateway.testbench.power_cut.verdict import Seen, judge
from edge_gateway.testbench.power_cut.witness import NEVER, Entry, State
from edge_gateway.testbench.power_cut.workload import live

# --- the promise -----------------------------------------------------------------------------------------------------


def test_no_cut_breaks_a_promise() -> None:
    """Of 5,000 different disks that power cuts may leave, every one opens and holds what was promised."""
    outcome = cut_everywhere(5_000, seed=2)
    assert outcome.images >= 5_000
    assert not outcome.first


def test_the_workload_comes_to_all_the_disk_can_be_asked_for() -> None:
    """One life writes, syncs, truncates, creates and deletes, delivers, evicts, rejects and has things under way."""
    with memory_disk("power-cut-coverage") as disk:
        life = live(disk, {}, State(), "coverage", first_number=0, conditions=Conditions())
    assert {Created, Deleted, Written, Truncated, Synced, DirectorySynced} <= set(map(type, life.log))
    last = life.states[-1].accounts.values()
    for what in ("delivered", "evicted", "rejected"):
        assert any(getattr(account, what) for account in last), what


# --- the machine can fail --------------------------------------------------------------------------------------------


class DeletesBeforeTheHubConfirms(WitnessedStore):
    """Drops a message as soon as it is taken, as a queue does that promises at most once."""

    def take(self, now_s: float, *, wait_for_more: bool = True) -> Message | float | None:
        taken = super().take(now_s, wait_for_more=wait_for_more)
        if isinstance(taken, Message):
            Store.write(self, Writes(settled=[taken]), now_s)
        return taken


class SettlesInMemoryOnly(WitnessedStore):
    """Says that removals are written, and does not write them."""

    def write(self, writes: Writes, now_s: float) -> None:
        self._witness.begins(writes)
        Store.write(self, replace(writes, settled=[]), now_s)
        self._witness.returned(writes, self.accounts())


class RemovesInATransactionOfItsOwn(WitnessedStore):
    """Does in two steps what is promised to happen at once."""

    def write(self, writes: Writes, now_s: float) -> None:
        self._witness.begins(writes)
        Store.write(self, Writes(settled=writes.settled), now_s)
        Store.write(self, replace(writes, settled=[]), now_s)
        self._witness.returned(writes, self.accounts())


class LetsMessagesGrow(WitnessedStore):
    """Puts later readings into a message that has been taken already."""

    def take(self, now_s: float, *, wait_for_more: bool = True) -> Message | float | None:
        open_records = self._queues[Lane.NORMAL].open_records
        taken = super().take(now_s, wait_for_more=wait_for_more)
        if isinstance(taken, Message) and taken.lane is Lane.NORMAL:
            self._queues[Lane.NORMAL].open_records = open_records
        return taken


@pytest.mark.parametrize(
    ("conditions", "kind"),
    [
        (Conditions(synchronous="NORMAL"), "lost"),
        (Conditions(synchronous="OFF"), "lost"),
        (Conditions(store=DeletesBeforeTheHubConfirms), "lost"),
        (Conditions(store=SettlesInMemoryOnly), "half-done"),  # first seen within the transaction that removes
        (Conditions(store=RemovesInATransactionOfItsOwn), "half-done"),
        (Conditions(store=LetsMessagesGrow), "id-reused"),
    ],
    ids=[
        "synchronous-normal",
        "synchronous-off",
        "delete-before-acknowledge",
        "unwritten-settle",
        "two-transactions",
        "growing-messages",
    ],
)
def test_a_store_that_breaks_the_promise_is_found_out(conditions: Conditions, kind: str) -> None:
    """The machine says what is lost, not removed, half done or changed under its id, and finds the image again."""
    outcome = cut_everywhere(5_000, seed=1, conditions=conditions, until_broken=True)
    finding = outcome.first[kind]
    assert replay(finding.place, conditions=conditions).problems == finding.problems


ENTRY = Entry("door", 1, 7)
ACCOUNT = Account(received=2, queued=2)
HELD = State({Lane.ALERT: (), Lane.NORMAL: (ENTRY, Entry("door", 2, 8))}, {("door", Lane.NORMAL): ACCOUNT}, {"door": 2})
GOOD = Seen(
    queued=tuple(HELD.queued.items()),
    accounts=tuple(HELD.accounts.items()),
    messages=(("s-n1", b"[7,8]"), ("s-n2", b"[9]")),
    next_seqs=(("door", 3),),
)


def queue(*entries: Entry) -> tuple[tuple[Lane, tuple[Entry, ...]], ...]:
    return ((Lane.ALERT, ()), (Lane.NORMAL, entries))


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("refused", Seen(refused="malformed")),
        ("unsound", replace(GOOD, faults=("off by 1",))),
        ("lost", replace(GOOD, queued=queue(ENTRY))),
        ("came-back", replace(GOOD, queued=queue(*HELD.queued[Lane.NORMAL], Entry("door", 3, 6)))),
        ("repeated", replace(GOOD, queued=queue(*HELD.queued[Lane.NORMAL], Entry("door", 3, 8)))),
        ("out-of-order", replace(GOOD, queued=queue(*reversed(HELD.queued[Lane.NORMAL])))),
        ("half-done", replace(GOOD, queued=queue(Entry("door", 1, 7), Entry("door", 3, 8)))),
        ("unbalanced", replace(GOOD, accounts=())),
        ("id-reused", replace(GOOD, messages=(("s-n1", b"[7]"),))),
        ("seq-reused", replace(GOOD, next_seqs=(("door", 2),))),
    ],
)
def test_each_kind_of_problem_is_named(kind: str, seen: Seen) -> None:
    """An image that is as promised passes; one that differs in one point is reported by that point's name."""
    given_before = {"s-n1": b"[7,8]"}
    assert judge(GOOD, [HELD], 0, 0, given_before) == ([], HELD)
    problems, _ = judge(seen, [HELD], 0, 0, given_before)
    assert {problem.kind for problem in problems} == {kind}


def test_an_acknowledgement_of_what_was_never_written_is_found_out() -> None:
    """Records said to be durable that were in no transaction are a problem of every image."""
    problems, _ = judge(GOOD, [HELD], NEVER, 0, {})
    assert [problem.kind for problem in problems] == ["never-written"]


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
            logs.append(live(disk, {}, State(), "same", first_number=0, conditions=Conditions()).log)
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
