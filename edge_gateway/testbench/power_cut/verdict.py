"""Opens an image with the product's own code, looks at everything, and says whether a promise is broken.

Looking is done once for each different image; judging as often as the image comes up, because what it has to hold grows
with what was promised before the cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import orjson

from edge_gateway.buffer import Account
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.errors import GatewayError
from edge_gateway.records import Lane, Message, Reading
from edge_gateway.testbench.power_cut.disk_model import Files
from edge_gateway.testbench.power_cut.memory_disk import MemoryDisk
from edge_gateway.testbench.power_cut.witness import NEVER, SETTINGS, STORE_PATH, Entry, Key, State
from edge_gateway.testbench.power_cut.workload import DEVICES
from edge_gateway.testbench.virtual_time import START_NS

_FIRST_PROBE: Final = 1_000_000
"""Numbers of the records appended after the cut; the workload's are smaller."""


@dataclass(frozen=True)
class Seen:
    """What was found in an image."""

    refused: str = ""
    """Why the store did not open or could not be used; all else is then empty."""
    faults: tuple[str, ...] = ()
    """What is wrong in itself, whatever went before."""
    queued: tuple[tuple[Lane, tuple[Entry, ...]], ...] = ()
    accounts: tuple[tuple[Key, Account], ...] = ()
    messages: tuple[tuple[str, bytes], ...] = ()
    """Id and body of each message taken, also of those appended after the cut."""
    next_seqs: tuple[tuple[str, int], ...] = ()
    """By device: the seq of the first record after the cut."""


@dataclass(frozen=True)
class Problem:
    """A promise that an image breaks."""

    kind: str
    """A fixed word: `refused`, `unsound`, `lost`, `came-back`, `repeated`, `out-of-order`, `half-done`, `unbalanced`,
    `never-written`, `id-reused` or `seq-reused`."""
    detail: str


def look(disk: MemoryDisk, files: Files) -> Seen:
    """Open an image as after a restart, take all, append and take a record more of each device, settle, close, reopen.

    Args:
        disk: a disk to do it on; what is on it is replaced.
        files: the image.
    """
    disk.load(files, 0)
    try:
        store = _open(disk)
        try:
            seen = _use(store)
        finally:
            store.close()
        reopened = _open(disk)
        try:
            left = reopened.accounts()
        finally:
            reopened.close()
        with_sqlite = apsw.Connection(STORE_PATH, vfs=disk.name, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            with_sqlite.execute("PRAGMA locking_mode = EXCLUSIVE")
            check = str(with_sqlite.execute("PRAGMA integrity_check").get)
        finally:
            with_sqlite.close()
    except (GatewayError, apsw.Error, ValueError, KeyError) as error:
        return Seen(refused=f"{type(error).__name__}: {error}")
    faults = [*seen.faults, *_account_faults(left)]
    faults += [f"{key[0]} still has {account.queued} queued" for key, account in left.items() if account.queued]
    if check != "ok":
        faults.append(f"integrity_check: {check}")
    return Seen("", tuple(faults), seen.queued, seen.accounts, seen.messages, seen.next_seqs)


def _open(disk: MemoryDisk) -> Store:
    return Store(STORE_PATH, SETTINGS, rng=random.Random(0), vfs=disk.name)  # noqa: S311  # repeatable on purpose


def _use(store: Store) -> Seen:
    accounts = store.accounts()
    faults = _account_faults(accounts)
    in_memory = store.queued()
    messages = _take_all(store)
    queued = {lane: _entries(each for each in messages if each.lane is lane) for lane in Lane}
    for lane, entries in queued.items():
        by_account = sum(account.queued for key, account in accounts.items() if key[1] is lane)
        if not len(entries) == by_account == in_memory[lane]:
            faults.append(f"{lane.label}: {len(entries)} given, {by_account} counted, {in_memory[lane]} in memory")
    probes = [
        Reading(device, "climate", START_NS, {"n": number}) for number, device in enumerate(DEVICES, _FIRST_PROBE)
    ]
    # Settled in the same transaction, or a full store would have to evict what is new.
    store.write(Writes(records=list(probes), settled=messages), 0.0)
    later = _take_all(store)
    probed = _entries(later)
    if [entry.number for entry in probed] != [probe.values["n"] for probe in probes]:
        faults.append("a record appended after the cut did not come out")
    store.write(Writes(settled=later), 0.0)
    return Seen(
        "",
        tuple(faults),
        tuple(queued.items()),
        tuple((key, account) for key, account in sorted(accounts.items()) if account != Account()),
        tuple((message.id, message.body) for message in (*messages, *later)),
        tuple((entry.device, entry.seq) for entry in probed),
    )


def _take_all(store: Store) -> list[Message]:
    messages = []
    while isinstance(message := store.take(0.0, wait_for_more=False), Message):
        messages.append(message)
    return messages


def _entries(messages: Iterable[Message]) -> tuple[Entry, ...]:
    return tuple(
        Entry(each["device"], each["seq"], each["values"]["n"])
        for message in messages
        for each in orjson.loads(message.body)
    )


def _account_faults(accounts: Mapping[Key, Account]) -> list[str]:
    return [
        f"{key[0]} {key[1].label}: off by {account.balance()}" for key, account in accounts.items() if account.balance()
    ]


def judge(
    seen: Seen, states: Sequence[State], promised: int, begun: int, given: Mapping[str, bytes]
) -> tuple[list[Problem], State | None]:
    """Hold what was found against what was promised.

    Args:
        seen: what was found.
        states: what the store may hold, by transaction.
        promised: the last transaction somebody was told is safe.
        begun: the last that had begun.
        given: messages that had left the store at any time before the cut, by id.

    Returns:
        The promises broken, and the state the store is in if it is one it may be in.
    """
    if seen.refused:
        return [Problem("refused", seen.refused)], None
    problems = [Problem("unsound", fault) for fault in seen.faults]
    bodies = dict(given)
    for message_id, body in seen.messages:
        if bodies.setdefault(message_id, body) != body:
            problems.append(Problem("id-reused", f"message {message_id} has other bytes than when it was taken before"))
    if promised == NEVER:
        return [*problems, Problem("never-written", "something was acknowledged that was in no transaction")], None
    queued, accounts = dict(seen.queued), dict(seen.accounts)
    # A transaction that changes nothing is promised without the disk having done anything since it began.
    allowed = states[promised : max(begun, promised) + 1]
    state = next((each for each in allowed if each.queued == queued and each.accounts == accounts), None)
    if state is None:
        return [*problems, *_differences(queued, accounts, allowed, states[promised])], None
    for device, seq in seen.next_seqs:
        if seq != state.last_seq.get(device, 0) + 1:
            problems.append(Problem("seq-reused", f"{device} goes on with {seq} after {state.last_seq.get(device, 0)}"))
    return problems, state


def _differences(
    queued: dict[Lane, tuple[Entry, ...]], accounts: dict[Key, Account], allowed: Sequence[State], promised: State
) -> list[Problem]:
    """Say in terms of the promise in what an image differs from all the states it may be in."""
    problems = []
    for lane in Lane:
        found = [entry.number for entry in queued[lane]]
        possible: list[set[int]] = [{entry.number for entry in state.queued[lane]} for state in allowed]
        if lost := sorted(possible[0].intersection(*possible) - set(found)):
            problems.append(Problem("lost", f"{lane.label}: records {lost} were acknowledged and are gone"))
        if back := sorted(set(found) - set[int]().union(*possible)):
            problems.append(Problem("came-back", f"{lane.label}: records {back} should not be there"))
        if len(set(found)) < len(found):
            problems.append(
                Problem("repeated", f"{lane.label}: {len(found) - len(set(found))} records are there twice")
            )
        for device in DEVICES:
            seqs = [entry.seq for entry in queued[lane] if entry.device == device]
            if seqs != sorted(set(seqs)):
                problems.append(Problem("out-of-order", f"{lane.label}, {device}: {seqs}"))
    if problems:
        return problems
    if any(state.queued == queued for state in allowed):
        return [Problem("unbalanced", f"accounts are {accounts}, promised were {promised.accounts}")]
    return [Problem("half-done", "the queue is neither as before nor as after the transaction under way")]
