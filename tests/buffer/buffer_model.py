"""What the buffer promises, as lists and counters in memory.

The model is told what was asked of a store, and then shown what the store holds. Where a promise leaves no choice it
knows what has to be there. Where a policy may choose it judges whether the choice was a legal one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import orjson

from edge_gateway.buffer import Account, BadFrame, StoredChunk
from edge_gateway.buffer.documents import bad_frames
from edge_gateway.buffer.lanes import LanePlan
from edge_gateway.clock import rfc3339
from edge_gateway.records import Event, Message, Reading

Document: TypeAlias = dict[str, Any]

Place: TypeAlias = tuple[str, str]
"""A lane and a route: a queue with an order of its own."""

SEAL_BYTES = 64
"""More than sealing adds to a chunk."""


@dataclass(slots=True, eq=False)
class Kept:
    """A record that is on the store."""

    document: Document
    """As it was written."""
    corrected: Document | None
    """The same with its right time, if it was stamped by a clock that nobody trusted."""
    boot: str
    uptime_s: float
    at_s: float
    """When it was appended, by a clock that no reboot stops."""
    life: int
    """Which process appended it."""
    is_told: bool = False
    """Whether it may have been given out before its right time was known."""
    is_offered: bool = False
    """Whether the store has to take it for given out, so that it stays in its message as it is."""
    chunk: int = 0
    message: int = 0

    @property
    def device(self) -> str:
        return str(self.document["device"])

    @property
    def key(self) -> tuple[str, int]:
        return key_of(self.document)


class Seen(NamedTuple):
    """What a store shows of itself."""

    chunks: Mapping[Place, Sequence[StoredChunk]]
    quarantine: Sequence[StoredChunk]
    accounts: Mapping[tuple[str, str], Account]
    bytes: Mapping[str, int]
    """By lane."""


@dataclass(slots=True)
class Apart:
    """A chunk of the quarantine."""

    lane: str
    """In whose account it is."""
    counts: Counter[str]
    frames: list[BadFrame]


@dataclass(slots=True)
class Offer:
    """What a transaction brings, as far as the store took it."""

    records: dict[Place, list[Kept]] = field(default_factory=dict)
    frames: list[BadFrame] = field(default_factory=list)


class Model:
    """A buffer without a disk, and its judge."""

    def __init__(self) -> None:
        self.plans: dict[str, LanePlan] = {}
        """In order of priority."""
        self.reading_lane = ""
        self.most_message_bytes = 0
        self.queued: defaultdict[Place, list[Kept]] = defaultdict(list)
        self.accounts: defaultdict[tuple[str, str], Account] = defaultdict(Account)
        self.apart: dict[int, Apart] = {}
        """The quarantine, by chunk."""
        self.seqs: Counter[str] = Counter()
        self.in_flight: dict[tuple[Place, int], list[Kept]] = {}
        """What was given out and not settled, by place and number of the message."""
        self.given: dict[tuple[Place, int], Message] = {}
        """Every message ever given out, unless damaged since."""
        self.damaged: set[int] = set()
        """Chunks that do not open any more."""
        self.now_s = 0.0
        self.boot = ""
        self.uptime_s = 0.0
        self.life = 0
        self.routes = {""}
        """To which anything was ever appended."""
        self.giving: set[str] = set()
        """Routes whose messages are being taken."""
        self.set_boots: set[str] = set()
        """Boots whose clock was set, so that the store may know their time."""
        self.known_boots: set[str] = set()
        """Boots whose clock was set when the store wrote something, so that it has to know their time."""

    # --- what is asked of the store ---------------------------------------------------------------------------------

    def append(self, lane: str, records: Sequence[Reading | Event], boot_ns: int) -> list[Kept]:
        """Number and write records of one route that a lane takes, and return those that fit a message.

        Args:
            lane: its name.
            records: in order.
            boot_ns: when this boot was, truly, nanoseconds since 1970.
        """
        kept = []
        for record in records:
            self.seqs[record.device] += 1
            document = written(record, self.seqs[record.device], self.boot)
            if len(orjson.dumps(document)) + 2 > self.most_message_bytes:
                self.count(lane, record.device, "received", "rejected")
                continue
            corrected = None if record.uptime_ns is None else put_right(document, boot_ns + record.uptime_ns)
            self.count(lane, record.device, "received", "queued")
            kept.append(Kept(document, corrected, self.boot, self.uptime_s, self.now_s, self.life))
        return kept

    def settle(self, message: Message) -> None:
        """The hub has a message. Only one that is in flight counts."""
        place = message.lane, message.route
        for each in self.in_flight.pop((place, message.number), []):
            self.queued[place].remove(each)
            self._move(message.lane, [each], "delivered")

    def replay(self, chunk_id: int) -> None:
        """The frames of a chunk of the quarantine are tried again."""
        apart = self.apart.pop(chunk_id)
        for source, count in apart.counts.items():
            self.count(apart.lane, source, "received", "quarantined", by=-count)

    def forget_taken(self, route: str | None = None) -> None:
        """After a rewind of a route everything in it is given out again; after a restart everything there is."""
        for key in [key for key in self.in_flight if route in (None, key[0][1])]:
            del self.in_flight[key]
        self.giving = set() if route is None else self.giving - {route}

    def places(self) -> list[Place]:
        """All there may be, the most urgent first."""
        return [(lane, route) for lane in self.plans for route in sorted(self.routes)]

    def queued_in(self, lane: str) -> int:
        """Records of all routes."""
        return sum(len(self.queued[place]) for place in self.places() if place[0] == lane)

    def count(self, lane: str, device: str, *columns: str, by: int = 1) -> None:
        """Enter records in an account."""
        account = self.accounts[device, lane]
        for column in columns:
            setattr(account, column, getattr(account, column) + by)

    def untaken(self, place: Place) -> list[Kept]:
        """What may be given out, in order."""
        taken = {each for (of, _), records in self.in_flight.items() if of == place for each in records}
        return [each for each in self.queued[place] if each not in taken]

    def may_wait_s(self, place: Place) -> float:
        """How long what is left of a lane of a route may wait for company, seconds."""
        untaken = self.untaken(place)
        if len({each.message for each in untaken}) != 1 or untaken[0].life != self.life:
            return 0.0
        return max(0.0, self.plans[place[0]].wait_s - (self.now_s - untaken[0].at_s))

    # --- what the store shows then ----------------------------------------------------------------------------------

    def wrote(self, seen: Seen, offer: Offer, bytes_before: Mapping[str, int]) -> None:
        """A transaction is over. `bytes_before` were stored by lane."""
        self.known_boots |= self.set_boots & {self.boot}
        self._mark_told([*self._all(), *chain.from_iterable(offer.records.values())])
        for (lane, _), added in offer.records.items():
            plan = self.plans[lane]
            assert not added or plan.max_bytes is None or seen.bytes[lane] <= plan.max_bytes, "over its limit"
        self.looked(seen, offer, bytes_before)
        for each in self._all():
            each.is_offered |= route_of(each.device) in self.giving
        self._check_nothing_is_stale()

    def looked(self, seen: Seen, offer: Offer | None = None, bytes_before: Mapping[str, int] | None = None) -> None:
        """Something was done that may have let records expire, or come upon damage."""
        offer = offer or Offer()
        set_aside: dict[Place, list[Kept]] = {}
        most_bytes = Counter(bytes_before or {})
        for (lane, _), added in offer.records.items():
            most_bytes[lane] += sum(len(orjson.dumps(each.document)) + 1 + SEAL_BYTES for each in added)
        assert seen.chunks.keys() <= set(self.places())
        coming = {place for place, added in offer.records.items() if added}
        for place in self.places():
            is_alone = not any(lane == place[0] for lane, _ in coming - {place})
            self._compare(place, seen, offer.records.get(place, []), most_bytes[place[0]], set_aside, is_alone=is_alone)
        self._compare_quarantine(seen, offer.frames, set_aside)
        for account in seen.accounts.values():
            assert account.balance() == 0
        assert without_empty(seen.accounts) == without_empty(self.accounts)

    def asked_for_message(self, routes: Iterable[str]) -> None:
        """From now on what is on the store of these routes may be with the hub."""
        self.giving |= set(routes)
        self._mark_told(self._all())

    def gave(self, message: Message) -> None:
        """The store has given out a message."""
        place = message.lane, message.route
        documents = orjson.loads(message.body)
        untaken = self.untaken(place)
        given, rest = untaken[: len(documents)], untaken[len(documents) :]
        assert [each.key for each in given] == [key_of(each) for each in documents], "not the oldest, in order"
        assert {each.message for each in given} == {message.number}
        assert all(each.message != message.number for each in rest), "a message was given out in part"
        assert message.records == len(documents) <= self.plans[message.lane].most_records
        assert {route_of(each.device) for each in given} == {message.route}
        key = place, message.number
        assert self.given.setdefault(key, message) == message, "other bytes, or another id, than before"
        for each, document in zip(given, documents, strict=True):
            self._check_time(each, document)
            each.is_offered = True
        self.in_flight[key] = given
        self._check_nothing_is_stale()

    # --- what may be gone -------------------------------------------------------------------------------------------

    def _compare(
        self,
        place: Place,
        seen: Seen,
        added: list[Kept],
        most_bytes: int,
        set_aside: dict[Place, list[Kept]],
        *,
        is_alone: bool,
    ) -> None:
        """A lane of a route holds what it has to, in order; what is gone has left by the lane's policy.

        `is_alone` says that nothing came into the lane by another route.
        """
        lane, _ = place
        there = {
            key_of(document): (chunk, document)
            for chunk in seen.chunks.get(place, [])
            for document in orjson.loads(b"[%b]" % (chunk.payload or b""))
        }
        before = self.queued[place]
        after = [each for each in (*before, *added) if each.key in there]
        assert [each.key for each in after] == list(there), "not in order, or never appended"
        for each in after:
            chunk, document = there[each.key]
            each.chunk, each.message = chunk.id, chunk.message
            self._check_time(each, document)

        gone = [each for each in (*before, *added) if each.key not in there]
        damaged = [each for each in gone if each.chunk in self.damaged]
        dropped = [each for each in gone if each not in damaged]
        in_flight = {each for records in self.in_flight.values() for each in records}
        assert in_flight.isdisjoint(dropped), "what is on its way was dropped"
        count = _expired(place, seen.accounts) - _expired(place, self.accounts)
        expired, evicted = dropped[:count], dropped[count:]
        self._check_expiry(lane, expired)
        choice = [each for each in before if not (each in in_flight or each in expired or each in damaged)]
        self._check_eviction(place, choice, added, evicted, most_bytes, is_alone=is_alone)

        self.queued[place] = after
        self._move(lane, expired, "expired")
        self._move(lane, evicted, "evicted")
        self._move(lane, damaged, "quarantined")
        self._check_messages_are_whole(place, {each.message for each in damaged})
        if damaged:
            set_aside[place] = damaged

    def _check_expiry(self, lane: str, expired: list[Kept]) -> None:
        ttl_s = self.plans[lane].ttl_s
        for each in expired:
            assert ttl_s is not None, "expired where nothing does"
            assert self.now_s - each.at_s > ttl_s, "expired before its time"

    def _check_eviction(
        self,
        place: Place,
        choice: list[Kept],
        added: list[Kept],
        evicted: list[Kept],
        most_bytes: int,
        *,
        is_alone: bool,
    ) -> None:
        """The policy was kept to: `choice` was there and not on its way, `added` came in."""
        if not evicted:
            return
        plan = self.plans[place[0]]
        assert plan.max_bytes is not None, "evicted from a lane without a limit"
        assert most_bytes > plan.max_bytes, "evicted though there was room"
        match plan.when_full:
            case "drop-oldest":
                assert evicted == [*choice, *added][: len(evicted)], "evicted others than the oldest"
            case "drop-newest":
                # In one transaction another route may first have pushed out what was there, and left room for more.
                were_there = [each for each in evicted if each in choice]
                came_in = [each for each in evicted if each not in choice]
                assert evicted == were_there + came_in, "evicted out of order"
                assert were_there == choice[len(choice) - len(were_there) :], "evicted others than the newest"
                assert came_in == added[len(added) - len(came_in) :], "evicted others than the newest"
                assert not (were_there and is_alone), "what was there went, and nothing came in elsewhere"
            case "thin":
                offered = [each for each in choice if each.is_offered]
                whole = [each for each in evicted if each.is_offered and each in choice]
                new = [each for each in evicted if each in added]
                assert whole == offered[: len(whole)], "thinned what the hub may have seen"
                assert new == added[: len(new)]
                assert not new or set(choice) <= set(evicted), "evicted what came in before what waited"
            case "refuse":
                raise AssertionError("evicted from a lane that refuses")

    def _check_messages_are_whole(self, place: Place, damaged: set[int]) -> None:
        """A message that was given out once is there as it was, or not at all."""
        members: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        for each in self.queued[place]:
            members[each.message].append(each.key)
        for key, message in [*self.given.items()]:
            of, number = key
            if of == place and number in damaged:
                del self.given[key]
            elif of == place and number in members:
                assert members[number] == [key_of(each) for each in orjson.loads(message.body)]

    def _check_nothing_is_stale(self) -> None:
        """What is surely too old for its lane is gone."""
        for place in self.places():
            plan, untaken = self.plans[place[0]], self.untaken(place)
            if plan.ttl_s is not None and untaken:
                ages_s = [self._sure_age_s(each) for each in untaken if each.message == untaken[0].message]
                assert min(ages_s) <= plan.ttl_s, "still there, and too old"

    def _sure_age_s(self, kept: Kept) -> float:
        if kept.boot == self.boot:
            return self.uptime_s - kept.uptime_s
        return self.now_s - kept.at_s if {kept.boot, self.boot} <= self.known_boots else self.uptime_s

    def _check_time(self, kept: Kept, document: Document) -> None:
        """A document says the right time, or that it does not know it."""
        if kept.corrected is not None and document == kept.corrected:
            assert kept.boot in self.set_boots, "corrected before anybody could know the time"
            return
        assert document == kept.document
        assert kept.corrected is None or kept.is_told or kept.boot not in self.known_boots, "could be corrected"

    # --- the quarantine ---------------------------------------------------------------------------------------------

    def _compare_quarantine(self, seen: Seen, frames: list[BadFrame], set_aside: dict[Place, list[Kept]]) -> None:
        """The quarantine holds what came last; what it gave up, the oldest first, is rejected."""
        there = {chunk.id: chunk for chunk in seen.quarantine}
        given_up = [each for each in self.apart if each not in there]
        assert given_up == [*self.apart][: len(given_up)], "gave up others than the oldest"
        for chunk_id in given_up:
            apart = self.apart.pop(chunk_id)
            for source, count in apart.counts.items():
                self.count(apart.lane, source, "quarantined", by=-count)
                self.count(apart.lane, source, "rejected", by=count)
        not_kept = Counter(frames)
        for chunk_id, chunk in there.items():
            found = bad_frames(chunk.payload) if chunk.payload is not None else []
            if chunk_id in self.apart:
                assert chunk.payload is None or self.apart[chunk_id].frames == found
            elif chunk.payload is None:
                assert set_aside, "damaged, and nobody knows whence"
                counts = Counter(each.device for each in set_aside.pop((chunk.lane, chunk.route)))
                assert chunk.records == counts.total()
                self.apart[chunk_id] = Apart(chunk.lane, counts, [])
            else:
                counts = Counter(frame.source for frame in found)
                assert chunk.counts == counts
                assert Counter(found) <= not_kept, "frames that never came"
                not_kept -= Counter(found)
                self.apart[chunk_id] = Apart(chunk.lane, counts, found)
        assert [*self.apart] == [*there]
        for frame in frames:
            self.count(self.reading_lane, frame.source, "received", "quarantined")
        for frame, count in not_kept.items():
            self.count(self.reading_lane, frame.source, "quarantined", by=-count)
            self.count(self.reading_lane, frame.source, "rejected", by=count)
        for (lane, _), records in set_aside.items():  # too large for the quarantine
            for each in records:
                self.count(lane, each.device, "quarantined", by=-1)
                self.count(lane, each.device, "rejected")

    def _mark_told(self, records: Iterable[Kept]) -> None:
        """From now on those of routes that are taken may leave at once, with whatever time they have."""
        for each in records:
            each.is_told |= route_of(each.device) in self.giving and each.boot not in self.known_boots

    def _move(self, lane: str, records: list[Kept], column: str) -> None:
        for each in records:
            self.count(lane, each.device, "queued", by=-1)
            self.count(lane, each.device, column)

    def _all(self) -> Iterator[Kept]:
        return chain.from_iterable(self.queued.values())


def route_of(device: str) -> str:
    """Two of the sensors have identities of their own."""
    return device if device in ("door", "pump") else ""


def _expired(place: Place, accounts: Mapping[tuple[str, str], Account]) -> int:
    lane, route = place
    return sum(
        account.expired for (device, name), account in accounts.items() if name == lane and route_of(device) == route
    )


def written(record: Reading | Event, seq: int, boot: str) -> Document:
    """A record as the hub gets it, as docs and buffer/corrections.py say."""
    if isinstance(record, Reading):
        document: Document = {"device": record.device, "profile": record.profile}
    else:
        document = {"device": record.device, "event": record.kind, "source": record.source}
    document |= {"seq": seq, "time": rfc3339(record.time_ns), "values": dict(record.values)}
    if not record.time_trusted:
        document["time_trusted"] = False
    if record.uptime_ns is not None:
        document |= {"boot": boot, "uptime_s": record.uptime_ns / 1e9}
    return document


def put_right(document: Document, time_ns: int) -> Document:
    """The same with its right time."""
    plain = {key: value for key, value in document.items() if key not in ("time_trusted", "boot", "uptime_s")}
    return plain | {"time": rfc3339(time_ns), "time_corrected": True}


def key_of(document: Document) -> tuple[str, int]:
    """What no two records have in common."""
    return document["device"], document["seq"]


def without_empty(accounts: Mapping[tuple[str, str], Account]) -> dict[tuple[str, str], Account]:
    """Accounts in which something was ever counted."""
    return {key: account for key, account in accounts.items() if account != Account()}
