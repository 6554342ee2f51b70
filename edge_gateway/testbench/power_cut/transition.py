"""What a transaction must make of what was there: a plain model that knows nothing of SQLite.

All follows from what was asked, but for the choice that a policy leaves to the store: which records had to go for want
of room or of time, and which bad frames. What is missing is therefore read from the store, counted here, and held
against what the policy allows (`policies`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge_gateway.buffer import Account, Batch
from edge_gateway.buffer.ledger import LedgerHead, verify_rows
from edge_gateway.buffer.store import Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.records import Event, Reading
from edge_gateway.testbench.power_cut.contents import (
    Contents,
    Entry,
    Frame,
    Key,
    MessageKey,
    documents_of,
    entries_of,
    frame_number,
    frames_of,
    queues_of,
)
from edge_gateway.testbench.power_cut.offers import Offers, fits_a_message, frame_fits_a_message, number_of
from edge_gateway.testbench.power_cut.policies import LaneChoice, RouteChoice, check_choice, check_evicted_frames
from edge_gateway.testbench.power_cut.state import Problem, State

_SECONDS_AN_HOUR = 3600
_HOURS_A_DAY = 24


@dataclass
class Asked:
    """A transaction as it was asked for, and what was going on."""

    writes: Writes
    refused: Sequence[LaneFull | None]
    settings: BufferSettings
    in_flight: dict[MessageKey, set[int]]
    """Numbers of the records in each message given out since the last rewind; settled ones go."""
    given: frozenset[MessageKey]
    """Messages given out ever."""
    true_ns: int
    shown_hour: int
    """What the clock said, hours since 1970."""
    is_trusted: bool


def after_transaction(before: State, asked: Asked, seen: Contents, offers: Offers) -> State:
    """The state that a transaction has led to.

    Args:
        before: what the store held.
        asked: what was asked of it.
        seen: what it holds now.
        offers: what is true of the records in it.
    """
    step = _Step(before, asked, seen)
    step.settle()
    step.replay()
    step.append()
    step.reject()
    step.quarantine()
    step.find_what_gave_way(offers)
    step.check_accounts()
    step.check_notes()
    touched, open_hour = step.check_ledger()
    step.problems += offers.untruths(seen, before.contents)
    return State(seen, step.last_seq, touched, open_hour, tuple(step.problems))


class _Step:
    """One transaction. The methods are called in the order in which they stand."""

    def __init__(self, before: State, asked: Asked, seen: Contents) -> None:
        self._before = before
        self._asked = asked
        self._seen = seen
        self._queues = queues_of(before.contents.chunks)
        self._frames = frames_of(before.contents.quarantine)
        self._new: set[int] = set()
        """Numbers of the records and frames that this transaction brings."""
        self._accounts = {key: Account(**asdict(account)) for key, account in before.contents.accounts.items()}
        self._touched: set[Key] = set()
        self.last_seq = Counter(before.last_seq)
        self.problems: list[Problem] = []

    def settle(self) -> None:
        """What was given out since the last rewind and is confirmed leaves."""
        for message in self._asked.writes.settled:
            place = message.lane, message.route
            numbers = self._asked.in_flight.pop((*place, message.number), set())
            for entry in self._queues.get(place, ()):
                if entry.number in numbers:
                    self._count((entry.device, message.lane), "delivered")
            self._queues[place] = [entry for entry in self._queues.get(place, ()) if entry.number not in numbers]

    def replay(self) -> None:
        """Frames that are tried again leave the account that they were in."""
        wanted = {chunk_id for batch in self._asked.writes.batches for chunk_id in batch.replays}
        for chunk in self._before.contents.quarantine:
            if chunk.id in wanted:
                for frame in frames_of([chunk]):
                    self._frames.remove(frame)
                    self._count((frame.link, frame.lane), "received", "quarantined", by=-1)

    def append(self) -> None:
        """Records come in, lane by lane and route by route, unless their lane refuses."""
        settings = self._asked.settings
        offered = {
            plan.name: [
                (batch.route, record)
                for batch, refused in zip(self._asked.writes.batches, self._asked.refused, strict=True)
                for record in batch.records
                if _lane_of(record, batch, settings) == plan.name and (refused is None or isinstance(record, Event))
            ]
            for plan in settings.lanes
        }
        for plan in settings.lanes:
            for route in dict.fromkeys(route for route, _ in offered[plan.name]):
                for record in (record for of_route, record in offered[plan.name] if of_route == route):
                    self.last_seq[record.device] += 1
                    self._new.add(number_of(record))
                    self._count((record.device, plan.name), "received")
                    if fits_a_message(record):
                        entry = Entry(record.device, self.last_seq[record.device], number_of(record))
                        self._queues.setdefault((plan.name, route), []).append(entry)
                    else:
                        self._count((record.device, plan.name), "rejected")
            self._check_refusal(plan.name, plan.when_full)

    def _check_refusal(self, lane: str, when_full: str) -> None:
        """Only a lane that refuses does, and then it takes nothing of that route."""
        refused: dict[str, set[bool]] = {}
        for batch, error in zip(self._asked.writes.batches, self._asked.refused, strict=True):
            if _readings_of(batch) and (batch.lane or self._asked.settings.reading_lane) == lane:
                refused.setdefault(batch.route, set()).add(error is not None)
        for route, answers in refused.items():
            if answers == {True, False} or (True in answers and when_full != "refuse"):
                what = f"{lane}, {route!r}: refused {sorted(answers)}, and is {when_full}"
                self.problems.append(Problem("against-policy", what))

    def reject(self) -> None:
        """Frames that are lost are counted."""
        for batch in self._asked.writes.batches:
            for source, count in batch.rejected:
                self._count((source, self._asked.settings.reading_lane), "received", "rejected", by=count)

    def quarantine(self) -> None:
        """Bad frames come in, and the oldest, or those too large for it, are given up."""
        lane = self._asked.settings.reading_lane
        before = list(self._frames)
        too_large = set()
        for batch in self._asked.writes.batches:
            for bad in batch.bad:
                frame = Frame(bad.source, lane, frame_number(bad.data))
                if not frame_fits_a_message(bad):
                    too_large.add(frame.number)
                self._frames.append(frame)
                self._new.add(frame.number)
                self._count((frame.link, lane), "received", "quarantined")
        kept = set(frames_of(self._seen.quarantine))
        gone = [frame for frame in self._frames if frame not in kept]
        for frame in gone:
            self._count((frame.link, frame.lane), "quarantined", by=-1)
            self._count((frame.link, frame.lane), "rejected")
        self._frames = [frame for frame in self._frames if frame in kept]
        if self._frames != frames_of(self._seen.quarantine):
            self.problems.append(Problem("came-back", "the quarantine holds frames that were not put there, or twice"))
        self.problems += check_evicted_frames(before, [frame for frame in gone if frame.number not in too_large])

    def find_what_gave_way(self, offers: Offers) -> None:
        """What is not there any more and was not delivered has expired or was evicted."""
        queues = queues_of(self._seen.chunks)
        messages = {
            number: (chunk.lane, chunk.route, chunk.message)
            for chunk in self._before.contents.chunks
            for _, _, number in entries_of(documents_of(chunk.payload))
        }
        in_flight = set[int]().union(*self._asked.in_flight.values())
        plans = {plan.name: plan for plan in self._asked.settings.lanes}
        places = sorted({*self._queues, *queues})
        for lane in dict.fromkeys(lane for lane, _ in places):
            routes = []
            for place in (place for place in places if place[0] == lane):
                wanted, found = self._queues.get(place, []), queues.get(place, [])
                there = set(found)
                if [entry for entry in wanted if entry in there] != found:
                    self.problems.append(_disorder(lane, wanted, found))
                routes.append(RouteChoice(wanted, [entry for entry in wanted if entry not in there]))
                self._queues[place] = [entry for entry in wanted if entry in there]
            choice = LaneChoice(
                lane, plans.get(lane), routes, self._grown("expired", lane), self._grown("evicted", lane)
            )
            for device, count in choice.expired.items():
                self._count((device, lane), "expired", by=count)
            for device, count in choice.evicted.items():
                self._count((device, lane), "evicted", by=count)
            gone = [entry for route in routes for entry in route.gone]
            if gone or choice.expired or choice.evicted:
                given = {number for number, message in messages.items() if message in self._asked.given}
                self.problems += check_choice(
                    choice,
                    in_flight=in_flight,
                    new=self._new,
                    given={number: messages[number] for number in given},
                    ages_s={
                        entry.number: (self._asked.true_ns - offers.records[entry.number].true_ns) / 1e9
                        for entry in gone
                    },
                )

    def _grown(self, column: str, lane: str) -> Counter[str]:
        """By how much the store says that a counter has grown, by device."""
        grown: Counter[str] = Counter()
        for (device, name), account in self._seen.accounts.items():
            before = self._before.contents.accounts.get((device, name), Account())
            if name == lane and (by := getattr(account, column) - getattr(before, column)):
                grown[device] = by
        return grown

    def check_accounts(self) -> None:
        """Every column of every account is as what was asked says."""
        for account in self._accounts.values():
            account.queued = 0
        for (lane, _), entries in self._queues.items():
            for entry in entries:
                self._accounts.setdefault((entry.device, lane), Account()).queued += 1
        expected = {key: account for key, account in self._accounts.items() if account != Account()}
        for key in sorted({*expected, *self._seen.accounts}):
            there, wanted = self._seen.accounts.get(key, Account()), expected.get(key, Account())
            if there != wanted:
                self.problems.append(
                    Problem("unbalanced", f"{key}: {there}, where {wanted} follows from what was asked")
                )

    def check_notes(self) -> None:
        """The last text under each name is there, but for batches that were refused."""
        notes = dict(self._before.contents.notes)
        for batch, refused in zip(self._asked.writes.batches, self._asked.refused, strict=True):
            if refused is None:
                notes.update(batch.notes)
        if notes != self._seen.notes:
            self.problems.append(Problem("lost", f"the notes are {self._seen.notes}, and should be {notes}"))

    def check_ledger(self) -> tuple[frozenset[Key], int]:
        """If an hour was over, its rows have come with this transaction; no others have.

        Returns:
            The accounts that the ledger does not have yet, and the hour of their changes.
        """
        before, asked = self._before, self._asked
        hour = asked.shown_hour if asked.is_trusted else before.open_hour or max(1, asked.shown_hour)
        rows: list[tuple[object, ...]] = [row[:-1] for row in before.contents.ledger]
        touched = set(before.touched)
        if touched and hour != before.open_hour:
            last = before.contents.ledger[-1].number if before.contents.ledger else 0
            for number, (lane, device) in enumerate(sorted((key[1], key[0]) for key in touched), last + 1):
                account = before.contents.accounts.get((device, lane), Account())
                rows.append((number, before.open_hour * _SECONDS_AN_HOUR, lane, device, *_columns(account)))
            touched.clear()
        pruned = [row[:-1] for row in self._seen.ledger]
        oldest_s = (hour - asked.settings.ledger_days * _HOURS_A_DAY) * _SECONDS_AN_HOUR
        left_out = rows[: len(rows) - len(pruned)]
        if rows[len(left_out) :] != pruned or any(row[1] >= oldest_s for row in left_out):  # type: ignore[operator]  # whole numbers
            self.problems.append(Problem("ledger", f"the rows are {pruned}, and should be {rows}"))
        head = before.contents.ledger[-1] if before.contents.ledger else LedgerHead()
        new = [row for row in self._seen.ledger if row.number > head.number]
        faults = list(verify_rows(new, LedgerHead(head.number, head.digest)))
        self.problems += [Problem("ledger", fault.what) for fault in faults]
        touched |= self._touched
        return frozenset(touched), hour if touched else 0

    def _count(self, key: Key, *columns: str, by: int = 1) -> None:
        account = self._accounts.setdefault(key, Account())
        for column in columns:
            setattr(account, column, getattr(account, column) + by)
        self._touched.add(key)


def _columns(account: Account) -> tuple[int, ...]:
    return (
        account.received,
        account.delivered,
        account.queued,
        account.expired,
        account.evicted,
        account.rejected,
        account.quarantined,
    )


def _lane_of(record: Reading | Event, batch: Batch, settings: BufferSettings) -> str:
    return settings.event_lane if isinstance(record, Event) else batch.lane or settings.reading_lane


def _readings_of(batch: Batch) -> bool:
    return any(not isinstance(record, Event) for record in batch.records)


def _disorder(lane: str, wanted: Sequence[Entry], found: Sequence[Entry]) -> Problem:
    if strangers := sorted(set(found) - set(wanted)):
        return Problem("came-back", f"{lane}: {strangers} should not be there")
    if len(set(found)) < len(found):
        return Problem("repeated", f"{lane}: records are there twice")
    return Problem("out-of-order", f"{lane}: {found}")
