"""The store against a plain model: whatever is done in whatever order, both say the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_gateway.buffer import BadFrame, Batch, StoredChunk
from edge_gateway.buffer.lanes import plans
from edge_gateway.buffer.ledger import verify_rows
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.clock import NS_PER_S, stamp
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.records import Event, Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys, open_bench_store
from edge_gateway.testbench.failing_disk import failing_disk

from . import incompressible
from .buffer_model import SEAL_BYTES, Model, Offer, Place, Seen, route_of
from .conftest import NOW_NS, HandClock

CAP_BYTES = 64 * 1024
QUARANTINE_BYTES = 4096

SETTINGS = {
    name: BufferSettings.model_validate(
        {
            "lanes": lanes,
            "event_lane": "alert",
            "reading_lane": "oldest",
            "quarantine_bytes": QUARANTINE_BYTES,
            "max_records_per_message": 5,
            "max_message_bytes": 32 * 1024,
            "max_message_age_s": 2.0,
        }
    )
    for name, lanes in {
        "every policy": [
            {"name": "alert", "max_records_per_message": 1, "max_message_age_s": 0},
            {"name": "oldest", "when_full": "drop-oldest", "max_bytes": CAP_BYTES, "ttl_s": 3600},
            {"name": "newest", "when_full": "drop-newest", "max_bytes": CAP_BYTES},
            {"name": "firm", "when_full": "refuse", "max_bytes": CAP_BYTES, "ttl_s": 12 * 3600},
            {"name": "thin", "when_full": "thin", "max_bytes": CAP_BYTES, "max_message_age_s": 60},
        ],
        "fewer lanes": [
            {"name": "thin", "when_full": "thin", "keep_every": 3, "max_bytes": CAP_BYTES, "ttl_s": 12 * 3600},
            {"name": "alert", "max_records_per_message": 1},
            {"name": "oldest"},
        ],
    }.items()
}

devices = st.sampled_from(["boiler", "valve", "door", "pump"])
"""The last two have routes of their own."""
routes = st.sampled_from(["", "door", "pump"])
links = st.sampled_from(["bus", "radio"])
sizes = st.sampled_from([0, 10, 10, 3000, 20_000, 40_000])
"""Of a record's values: up to more than a message may hold."""
lanes = st.integers(0, 4)
"""To be taken modulo the number of those configured."""


class StartAnew(Enum):
    """What ends, and begins anew."""

    SESSION = "session"
    PROCESS = "process"
    MACHINE = "machine"


class StoreAgainstModel(RuleBasedStateMachine):
    """Does to a store what a gateway does to it in years, and tells the model."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.disk = self.resources.enter_context(failing_disk("store-model"))  # sound here, but its syncs cost nothing
        self.directory = Path(self.resources.enter_context(TemporaryDirectory(prefix="store-model-")))
        self.clock = HandClock()
        self.keys = MemoryDataKeys()
        self.model = Model()
        self.boots = 1
        self.boot_ns = NOW_NS
        """When this boot was, truly."""
        self.taken: list[Message] = []
        """Messages given out of late: some are settled already, some were given out before a rewind."""
        self.notes: dict[str, str] = {}

    @initialize(configuration=st.sampled_from(sorted(SETTINGS)), trusted=st.booleans())
    def begin(self, configuration: str, trusted: bool) -> None:
        if not trusted:
            self.clock.trusted, self.clock.offset_ns = False, 0
        self.configuration = configuration
        self.start()

    def teardown(self) -> None:
        with self.resources:
            if hasattr(self, "store"):
                self.store.close()

    # --- records ----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), lane=lanes, also_in=lanes, settling=st.booleans())
    def append(self, data: st.DataObject, lane: int, also_in: int, settling: bool) -> None:
        batches = [
            batch
            for number in (lane, also_in)
            for batch in by_route(
                [
                    self.record(device, size, is_event=is_event)
                    for device, size, is_event in data.draw(
                        st.lists(st.tuples(devices, sizes, st.booleans()), max_size=9)
                    )
                ],
                self.lane_name(number),
                [self.frame(*each) for each in data.draw(st.lists(st.tuples(links, st.integers(0, 900)), max_size=2))],
                data.draw(st.lists(st.tuples(links, st.integers(1, 3)), max_size=1)),
                data.draw(st.dictionaries(st.sampled_from("xy"), st.sampled_from(["1", "2"]), max_size=1)),
            )
        ]
        settled = [data.draw(st.sampled_from(self.taken))] if settling and self.taken else []
        self.write(Writes(batches, settled))

    @rule(lane=lanes, sized=st.lists(st.tuples(devices, st.integers(5000, 25_000)), min_size=2, max_size=6))
    def flood(self, lane: int, sized: list[tuple[str, int]]) -> None:
        """Much comes in, so that a lane is soon full."""
        records = [self.record(device, size, is_event=False) for device, size in sized]
        self.write(Writes(by_route(records, self.lane_name(lane))))

    @precondition(lambda self: any(apart.frames for apart in self.model.apart.values()))
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Frames of the quarantine become readings, all but one of them."""
        chunk_id = data.draw(st.sampled_from([each for each, apart in self.model.apart.items() if apart.frames]))
        frames = self.model.apart[chunk_id].frames
        readings = [self.record(frame.source, 10, is_event=False) for frame in frames[1:]]
        self.write(Writes([Batch(readings, bad=frames[:1], replays=[chunk_id])]))

    @rule(how_many=st.integers(1, 4), wait_for_more=st.booleans(), lane=st.none() | lanes, route=st.none() | routes)
    def take(self, how_many: int, wait_for_more: bool, lane: int | None, route: str | None) -> None:
        """Of all lanes or one, of all routes or one."""
        names = list(self.model.plans)
        for _ in range(how_many):
            places = [
                (name, each)
                for name in (names if lane is None else [names[lane % len(names)]])
                for each in (sorted(self.model.routes) if route is None else [route])
            ]
            self.model.asked_for_message({each for _, each in places})
            answer = self.store.take(wait_for_more=wait_for_more, lanes=places)
            self.model.looked(self.look())
            waiting = {place: self.model.may_wait_s(place) for place in places if self.model.untaken(place)}
            if isinstance(answer, Message):
                more_urgent = names[: names.index(answer.lane)]
                waiting = {place: wait_s for place, wait_s in waiting.items() if place[0] in more_urgent}
                self.model.gave(answer)
                self.taken = [*self.taken[-5:], answer]
            else:
                assert answer == (pytest.approx(min(waiting.values())) if waiting else None)
            assert not waiting or wait_for_more, "was told not to wait"
            assert all(waiting.values()), "a more urgent lane had something to give"

    @precondition(lambda self: self.taken)
    @rule(which=st.lists(st.integers(0, 5), min_size=1, max_size=4))
    def settle(self, which: list[int]) -> None:
        """Some messages are confirmed, in any order, and perhaps for the second time."""
        self.write(Writes(settled=[self.taken[-1 - each % len(self.taken)] for each in which]))

    @rule(how_many=st.integers(1, 6))
    def deliver(self, how_many: int) -> None:
        """The hub takes and confirms."""
        for _ in range(how_many):
            self.take(1, wait_for_more=False, lane=None, route=None)
            if self.model.in_flight:
                self.write(Writes(settled=self.taken[-1:]))

    # --- time and restarts ------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 1, 60, 1800, 4 * 3600, 13 * 3600]))
    def wait(self, seconds: int) -> None:
        self.clock.uptime_s += seconds
        self.tell_time(seconds)

    @precondition(lambda self: not self.clock.trusted)
    @rule()
    def set_the_clock(self) -> None:
        self.clock.offset_ns, self.clock.trusted = self.boot_ns, True
        self.tell_time(0)

    @rule(
        how=st.sampled_from([StartAnew.SESSION, StartAnew.SESSION, StartAnew.PROCESS, StartAnew.MACHINE]),
        configuration=st.sampled_from(sorted(SETTINGS)),
        off_s=st.sampled_from([5, 5000, 50_000]),
        has_battery=st.booleans(),
        route=st.none() | routes,
    )
    def start_anew(self, how: StartAnew, configuration: str, off_s: int, has_battery: bool, route: str | None) -> None:
        """A session with the hub is lost, or all are; the process restarts, or the machine does, some time later."""
        if how is StartAnew.SESSION:
            self.store.rewind(route)
            self.model.forget_taken(route)
            return
        self.store.close()
        self.configuration = configuration
        if how is StartAnew.MACHINE:
            self.boots += 1
            self.boot_ns += round(self.clock.uptime_s + off_s) * NS_PER_S
            self.clock.reboot(f"boot-{self.boots}")
            self.clock.trusted = self.clock.trusted and has_battery
            self.clock.offset_ns = self.boot_ns if self.clock.trusted else 0
            self.tell_time(off_s)
        self.start()

    # --- keys and damage --------------------------------------------------------------------------------------------

    @rule(rotates=st.booleans())
    def tidy(self, rotates: bool) -> None:
        """A new key is made, perhaps, and those that nothing needs any more are destroyed."""
        if rotates:
            self.store.rotate_key()
        self.store.tidy()
        self.model.looked(self.look())

    @rule(data=st.data(), takes_before=st.integers(0, 3), takes=st.integers(0, 3))
    def damage(self, data: st.DataObject, takes_before: int, takes: int) -> None:
        """A payload rots while the gateway is down; it is come upon by taking, or by looking.

        One that fits a page: a larger one costs a rebuilding of the database, which has tests of its own.
        """
        self.write(Writes())  # so that nothing is to expire now
        self.take(takes_before, wait_for_more=False, lane=None, route=None)
        self.store.close()
        with closing(apsw.Connection(str(self.directory / "buffer.db"))) as db:
            chunks = db.execute("SELECT id, payload FROM chunk WHERE length(payload) < 800 ORDER BY id").fetchall()
            if chunks:
                chunk_id, payload = data.draw(st.sampled_from(chunks))
                rotten = bytearray(payload)
                rotten[data.draw(st.integers(0, len(rotten) - 1))] ^= 1 << data.draw(st.integers(0, 7))
                db.execute("UPDATE chunk SET payload = ? WHERE id = ?", (bytes(rotten), chunk_id))
                self.model.damaged.add(chunk_id)
        self.start(look=False)
        for _ in range(takes):
            self.model.asked_for_message(self.model.routes)
            self.store.take(wait_for_more=False)
        self.model.looked(self.look())
        self.store.rewind()
        self.model.forget_taken()

    # --- what has to hold whenever ----------------------------------------------------------------------------------

    @invariant()
    def memory_and_disk_agree(self) -> None:
        if hasattr(self, "store"):
            in_memory = {key: account for key, account in self.store.known_accounts().items() if account.received}
            on_disk = {key: account for key, account in self.store.accounts().items() if account.received}
            assert in_memory == on_disk
            assert self.store.totals().balance() == 0
            assert self.store.totals().received == sum(each.received for each in on_disk.values())
            assert self.store.queued() == {lane: self.model.queued_in(lane) for lane in self.model.plans}
            assert {name: self.store.note(name) for name in self.notes} == self.notes

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        if hasattr(self, "store"):
            for lane, route in self.model.places():
                assert self.store.may_give(route) or not self.model.untaken((lane, route))
                assert self.store.queued_of(route) or not self.model.queued[lane, route]

    @invariant()
    def the_ledger_is_sound(self) -> None:
        if hasattr(self, "store"):
            assert not list(verify_rows(self.store.ledger_rows(0, 10_000), head=self.store.ledger_head))

    # --- how --------------------------------------------------------------------------------------------------------

    def start(self, *, look: bool = True) -> None:
        chosen = SETTINGS[self.configuration]
        self.store = self.open_store()
        self.model.plans = {plan.name: plan for plan in plans(chosen, list(self.model.plans))}
        self.model.plans = {name: self.model.plans[name] for name in self.store.lanes}
        self.model.reading_lane, self.model.most_message_bytes = chosen.reading_lane, chosen.max_message_bytes
        self.model.life += 1
        self.model.forget_taken()
        self.tell_time(0)
        if look:
            self.model.looked(self.look())

    def lane_name(self, number: int) -> str:
        configured = SETTINGS[self.configuration].lanes
        return configured[number % len(configured)].name

    def open_store(self) -> Store:
        path, chosen = self.directory / "buffer.db", SETTINGS[self.configuration]
        return open_bench_store(path, chosen, clock=self.clock, keys=self.keys, vfs=self.disk.name)

    def tell_time(self, seconds: int) -> None:
        model = self.model
        model.now_s += seconds
        model.boot, model.uptime_s = self.clock.boot_id, self.clock.uptime_s
        if self.clock.trusted:
            model.set_boots.add(model.boot)

    def record(self, device: str, size: int, *, is_event: bool) -> Reading | Event:
        values = {"x": incompressible.text(size, seed=self.model.seqs.total() + size)}
        if is_event:
            return Event(device, "hot", "alert-raised", *self.stamped(values))
        return Reading(device, "climate", *self.stamped(values))

    def stamped(self, values: dict[str, str]) -> tuple[int, dict[str, str], bool, int | None]:
        time_ns, is_trusted, uptime_ns = stamp(self.clock)
        return time_ns, values, is_trusted, uptime_ns

    def frame(self, link: str, size: int) -> BadFrame:
        return BadFrame(link, "checksum", incompressible.text(size, seed=size).encode(), *stamp(self.clock)[:2])

    def write(self, writes: Writes) -> None:
        """Let the store and the model do the same."""
        bytes_before = self.stored_bytes()
        refused = self.store.write(writes)
        model, offer = self.model, Offer()
        for message in writes.settled:
            model.settle(message)
        for chunk_id in (each for batch in writes.batches for each in batch.replays):
            model.replay(chunk_id)
        records: defaultdict[Place, list[Reading | Event]] = defaultdict(list)
        for batch, error in zip(writes.batches, refused, strict=True):
            for record in sorted(batch.records, key=lambda each: isinstance(each, Reading)):
                lane = "alert" if isinstance(record, Event) else batch.lane or model.reading_lane
                records[lane, batch.route].append(record)
                model.routes.add(batch.route)
            offer.frames += batch.bad
            for source, count in batch.rejected:
                model.count(model.reading_lane, source, "received", "rejected", by=count)
            self.notes.update(batch.notes if error is None else {})
        places_refused = {
            (batch.lane or model.reading_lane, batch.route)
            for batch, error in zip(writes.batches, refused, strict=True)
            if error is not None
        }
        for place in sorted(records, key=lambda place: list(model.plans).index(place[0])):
            lane, _ = place
            if place in places_refused:
                brought = [each for (name, _), several in records.items() if name == lane for each in several]
                self.check_refusal(lane, brought, bytes_before[lane])
            else:
                offer.records[place] = model.append(lane, records[place], self.boot_ns)
        model.wrote(self.look(), offer, bytes_before)

    def check_refusal(self, lane: str, records: list[Reading | Event], bytes_before: int) -> None:
        plan = self.model.plans[lane]
        assert plan.when_full == "refuse"
        assert plan.max_bytes is not None
        most_bytes = sum(len(orjson.dumps(record.values)) + 200 + SEAL_BYTES for record in records)
        assert bytes_before + most_bytes > plan.max_bytes, "refused though there was room"

    def stored_bytes(self) -> dict[str, int]:
        return {lane["name"]: lane["bytes"] for lane in self.store.stats()["lanes"]}

    def look(self) -> Seen:
        chunks: defaultdict[Place, list[StoredChunk]] = defaultdict(list)
        for chunk in self.chunks(quarantine=False):
            if chunk.payload is not None:
                chunks[chunk.lane, chunk.route].append(chunk)
        assert self.store.stats()["quarantine_bytes"] <= QUARANTINE_BYTES
        return Seen(chunks, self.chunks(quarantine=True), self.store.accounts(), self.stored_bytes())

    def chunks(self, *, quarantine: bool) -> list[StoredChunk]:
        found: list[StoredChunk] = []
        while page := self.store.read_chunks(found[-1].id if found else 0, 7, quarantine=quarantine):
            found += page
        return found


def by_route(
    records: Sequence[Reading | Event],
    lane: str,
    bad: Sequence[BadFrame] = (),
    rejected: Sequence[tuple[str, int]] = (),
    notes: Mapping[str, str] | None = None,
) -> list[Batch]:
    """A batch for each route; what belongs to none goes with the first."""
    routes = list(dict.fromkeys(route_of(record.device) for record in records)) or [""]
    batches = [
        Batch([record for record in records if route_of(record.device) == route], lane, route=route) for route in routes
    ]
    return [batches[0]._replace(bad=bad, rejected=rejected, notes=notes or {}), *batches[1:]]


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
