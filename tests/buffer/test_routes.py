"""Routes: each sensor with an identity of its own has messages of its own, and holds up nobody."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType

import apsw
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.buffer import Account, Batch, Outlet
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.lanes import lane_and_route, name_on_disk
from edge_gateway.buffer.ranking import LargestFirst, Ranking
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.buffer.transaction import working_copy
from edge_gateway.clock import stamp
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.offload import Offload, run_inline
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from . import incompressible
from .conftest import HandClock, OpenStore, alert, reading

CAP_BYTES = 64 * 1024
ALERT = {"name": "alert", "max_records_per_message": 1}


def append(store: Store, device: str, *values: object, route: str | None = None, lane: str = "") -> LaneFull | None:
    """Readings of a device, in the route of its name or another."""
    batch = Batch([reading(device, value) for value in values], lane, route=device if route is None else route)
    return store.write(Writes([batch]))[0]


def append_bytes(store: Store, device: str, size_bytes: int, lane: str = "") -> list[int]:
    """Readings of about 6 kB each, in the route of the device; their first and last seq."""
    for number in range(size_bytes // 6000):
        append(store, device, incompressible.text(6000, seed=hash((device, number)) % 100_000), lane=lane)
    return seqs(store, device)


def messages(store: Store, route: str) -> list[Message]:
    """Everything that can be taken from a route."""
    places = [(lane, route) for lane in store.lanes]
    taken = []
    while isinstance(message := store.take(wait_for_more=False, lanes=places), Message):
        taken.append(message)
    return taken


def documents(message: Message) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(message.body)
    return found


def seqs(store: Store, device: str) -> list[int]:
    """What is stored of a device, in order, without taking it."""
    return [
        document["seq"]
        for chunk in store.read_chunks(0, 1 << 30)
        for document in orjson.loads(b"[%b]" % (chunk.payload or b""))
        if document["device"] == device
    ]


# --- apart from each other -------------------------------------------------------------------------------------------


def test_each_route_has_messages_of_its_own(open_store: OpenStore) -> None:
    """What came in together goes out apart, in each route in order, under ids that no other message has."""
    store = open_store()
    for value in range(3):
        append(store, "boiler", value)
        append(store, "door", value)
        append(store, "valve", value, route="")
    for route, device in (("boiler", "boiler"), ("door", "door"), ("", "valve")):
        [message] = messages(store, route)
        assert message.route == route
        assert [(each["device"], each["seq"]) for each in documents(message)] == [(device, seq) for seq in (1, 2, 3)]
    store.rewind()
    taken = [message for route in ("boiler", "door", "") for message in messages(store, route)]
    assert len({message.id for message in taken}) == len(taken) == 3


def test_events_go_by_the_route_too_and_bad_frames_stay_with_the_gateway(open_store: OpenStore) -> None:
    """An alert about a sensor leaves under the sensor's identity; rejects of its link are in the gateway's books."""
    store = open_store()
    store.write(Writes([Batch([alert("door"), reading("door")], rejected=[("bus", 2)], route="door")]))
    assert [(message.lane, message.route) for message in messages(store, "door")] == [
        ("alert", "door"),
        ("normal", "door"),
    ]
    assert store.accounts()["bus", "normal"].rejected == 2
    assert messages(store, "") == []


def test_to_the_outside_a_lane_is_one_whatever_the_routes(open_store: OpenStore, clock: HandClock) -> None:
    """Status, accounts and the ledger know lanes and devices; a device that changed its route has one account."""
    store = open_store()
    append(store, "door", 1, 2, route="")
    append(store, "door", 3, route="door")
    assert store.queued()["normal"] == 3
    assert store.accounts() == {("door", "normal"): Account(received=3, queued=3)} == store.known_accounts()
    [message] = messages(store, "")
    store.write(Writes(settled=[message]))
    clock.uptime_s += 3600
    append(store, "door", 4)
    [row] = store.ledger_rows(0, 10)
    assert (row.lane, row.device, row.received, row.delivered, row.queued) == ("normal", "door", 3, 2, 1)
    assert [lane["name"] for lane in store.stats()["lanes"]] == store.lanes


def test_a_route_outlives_a_restart_with_its_messages(open_store: OpenStore) -> None:
    """After a restart each route gives out the same bytes under the same ids, and goes on numbering."""
    store = open_store()
    for device in ("boiler", "door"):
        append(store, device, 1)
    before = [*messages(store, "boiler"), *messages(store, "door")]
    store.close()
    store = open_store()
    assert [*messages(store, "boiler"), *messages(store, "door")] == before
    append(store, "door", 2)
    [message] = messages(store, "door")
    assert message.id not in {each.id for each in before}
    assert documents(message)[0]["seq"] == 2


def test_a_rewind_of_one_route_leaves_the_others(open_store: OpenStore) -> None:
    """A session that ends gets its messages again; what is on its way elsewhere is not given out twice."""
    store = open_store()
    for device in ("boiler", "door"):
        append(store, device, 1)
    [boiler], [door] = messages(store, "boiler"), messages(store, "door")
    store.rewind("door")
    assert messages(store, "boiler") == []
    assert messages(store, "door") == [door]
    store.write(Writes(settled=[boiler]))
    assert store.queued()["normal"] == 1


@pytest.mark.parametrize("route", ["boiler", ""])
def test_what_nobody_takes_from_a_route_can_still_be_put_right(
    open_store: OpenStore, clock: HandClock, route: str
) -> None:
    """While others take, a route whose session is down is not marked as given: its times are corrected later."""
    clock.trusted, clock.offset_ns = False, 0
    store = open_store()
    append(store, "door", 1)
    assert messages(store, "door")
    time_ns, is_trusted, uptime_ns = stamp(clock)
    store.write(Writes([Batch([Reading("boiler", "climate", time_ns, {}, is_trusted, uptime_ns)], route=route)]))
    clock.trusted, clock.offset_ns = True, 1_790_000_000 * 10**9
    store.write(Writes())
    [message] = messages(store, route)
    assert documents(message)[0]["time_corrected"] is True


def test_what_nobody_takes_from_a_route_can_still_be_thinned(open_store: OpenStore) -> None:
    """While others take, a route whose session is down becomes coarser without losing its oldest part."""
    store = open_store(lanes=[ALERT, {"name": "normal", "when_full": "thin", "max_bytes": CAP_BYTES}])
    append(store, "door", 1)
    assert messages(store, "door")
    append_bytes(store, "boiler", CAP_BYTES + 24_000)
    left = seqs(store, "boiler")
    assert left[0] == 1
    assert left != list(range(1, len(left) + 1))


@given(st.from_regex(r"[a-z][a-z0-9._ -]{0,20}", fullmatch=True), st.from_regex(r"[a-z0-9._ -]{0,20}", fullmatch=True))
def test_a_name_on_disk_says_lane_and_route(lane: str, route: str) -> None:
    """What a lane is called on disk can be taken apart again."""
    assert lane_and_route(name_on_disk(lane, route)) == (lane, route)


# --- what gives way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest", "thin"])
def test_the_route_that_holds_most_gives_way(open_store: OpenStore, when_full: str) -> None:
    """A sensor that the hub refuses fills the lane; others that come and go lose nothing, and the limit holds."""
    store = open_store(lanes=[ALERT, {"name": "normal", "when_full": when_full, "max_bytes": CAP_BYTES}])
    append_bytes(store, "refused", 4 * CAP_BYTES)
    for device in ("boiler", "door", "pump"):
        assert append_bytes(store, device, 12_000) == [1, 2]
        [lane] = [lane for lane in store.stats()["lanes"] if lane["name"] == "normal"]
        assert lane["bytes"] <= CAP_BYTES
    accounts = store.accounts()
    assert {device for (device, _), account in accounts.items() if account.evicted} == {"refused"}
    assert accounts["refused", "normal"].queued >= 3
    left = seqs(store, "refused")
    assert left == sorted(left)
    assert (left[0] == 1) == (when_full == "drop-newest")


def test_a_lane_that_refuses_keeps_what_it_has_taken(open_store: OpenStore) -> None:
    """`refuse` gives nothing up, so once one route has filled the lane it refuses all; others are told by LaneFull."""
    store = open_store(lanes=[ALERT, {"name": "normal", "when_full": "refuse", "max_bytes": CAP_BYTES}])
    append_bytes(store, "refused", 2 * CAP_BYTES)
    assert isinstance(append(store, "door", incompressible.text(6000, seed=1)), LaneFull)
    assert not any(account.evicted for account in store.accounts().values())


def test_what_comes_in_gives_way_itself_where_it_is_most(open_store: OpenStore) -> None:
    """In one transaction a route brings more than the lane holds, and another a little: only the first loses."""
    store = open_store(lanes=[ALERT, {"name": "normal", "max_bytes": CAP_BYTES, "max_records_per_message": 1}])
    flood = Batch([reading("pump", incompressible.text(6000, seed=each)) for each in range(20)], route="pump")
    store.write(Writes([flood, Batch([reading("door", incompressible.text(6000, seed=99))], route="door")]))
    accounts = store.accounts()
    assert accounts["door", "normal"].evicted == 0
    assert accounts["pump", "normal"].evicted > 5
    assert seqs(store, "pump")[-1] == 20


def test_on_a_small_disk_the_largest_route_gives_way(open_store: OpenStore) -> None:
    """The limit of the whole makes the route that holds most of the least urgent lane give way."""
    store = open_store(max_disk_bytes=4 << 20)
    append_bytes(store, "refused", 4 << 20)
    append_bytes(store, "boiler", 300_000)
    append_bytes(store, "door", 300_000)
    accounts = store.accounts()
    assert accounts["refused", "normal"].evicted
    assert not accounts["boiler", "normal"].evicted + accounts["door", "normal"].evicted


def test_what_drop_newest_has_kept_gives_way_to_its_own_lane_only(open_store: OpenStore) -> None:
    """On a small disk a flood in a more urgent lane costs a lane that drops the newest nothing that it holds."""
    lanes = [ALERT, {"name": "normal"}, {"name": "trend", "when_full": "drop-newest"}]
    store = open_store(lanes=lanes, max_disk_bytes=4 << 20)
    append_bytes(store, "pump", 1 << 20, lane="trend")
    append_bytes(store, "boiler", 3 << 20)
    accounts = store.accounts()
    assert accounts["boiler", "normal"].evicted
    assert not accounts["pump", "trend"].evicted


def test_expiry_is_of_each_route_alike(open_store: OpenStore, clock: HandClock) -> None:
    """What is too old goes, also in routes that nobody takes from, and what is younger stays."""
    store = open_store(lanes=[ALERT, {"name": "normal", "ttl_s": 100}])
    append(store, "boiler", 1)
    clock.uptime_s = 60
    append(store, "door", 1)
    assert store.seconds_to_expiry() == pytest.approx(40)
    clock.uptime_s = 101
    store.write(Writes())
    assert {key: account.expired for key, account in store.accounts().items()} == {
        ("boiler", "normal"): 1,
        ("door", "normal"): 0,
    }
    assert store.seconds_to_expiry() == pytest.approx(59)


numbered_bytes = st.dictionaries(st.integers(0, 9), st.integers(0, 50))


@given(numbered_bytes, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.booleans())))
def test_the_largest_is_found_without_looking_at_all(
    before: dict[int, int], changes: list[tuple[int, int, bool]]
) -> None:
    """However lanes change and are passed over, the first is one of those that hold most."""
    ranking = Ranking()
    for number, size_bytes in before.items():
        if size_bytes:
            ranking.put(number, size_bytes)
    now = defaultdict(int, before)
    largest = LargestFirst(ranking.standing, now.__getitem__, [])
    passed_over: set[int] = set()
    for number, size_bytes, passes_over in changes:
        now[number] = size_bytes
        largest.note(number)
        passed_over.discard(number)
        left = {each: held for each, held in now.items() if held and each not in passed_over}
        first = largest.first()
        assert first is None if not left else first is not None and left[first] == max(left.values())
        if passes_over and first is not None:
            largest.pass_over(first)
            passed_over.add(first)


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 20))), st.integers(0, 20))
def test_a_ranking_is_always_in_order(puts: list[tuple[int, int | None]], figure: int) -> None:
    """Whatever is put and taken out, each lane stands once, by its last figure."""
    ranking, plain = Ranking(), dict[int, int | None]()
    for number, put in puts:
        ranking.put(number, put)
        plain[number] = put
    there = {number: put for number, put in plain.items() if put is not None}
    assert ranking.standing == sorted((put, number) for number, put in there.items())
    assert set(ranking.up_to(figure)) == {number for number, put in there.items() if put <= figure}


# --- many of them ----------------------------------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, a piece of work calls."""
    count = 0

    def note(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_transaction_costs_the_same_among_a_thousand_routes(open_store: OpenStore) -> None:
    """To append, take and settle for one sensor takes no more work when a thousand others have something queued."""
    lanes = [ALERT, {"name": "normal", "ttl_s": 3600, "max_bytes": 1 << 20}]
    store = open_store(lanes=lanes)

    def one_round() -> None:
        append(store, "door", incompressible.text(900, seed=store.totals().received))
        [message] = messages(store, "door")
        store.write(Writes(settled=[message]))
        store.rewind("door")

    def work() -> list[int]:
        one_round()
        return sorted(calls_of(one_round) for _ in range(3))

    few = work()
    store.write(Writes([Batch([reading(f"d{each}")], route=f"d{each}") for each in range(1000)]))
    assert work()[1] <= few[1] + 10
    assert store.totals().balance() == 0


def test_more_routes_than_there_are_numbers_go_by_the_gateways_own(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a store has no number left for another lane, nothing is lost: the gateway speaks for the sensor."""
    monkeypatch.setattr(working_copy, "MOST_LANES", 5)  # four are there from the start
    store = open_store()
    append(store, "boiler", 1)
    append(store, "door", 1)
    assert [message.route for message in messages(store, "boiler")] == ["boiler"]
    assert messages(store, "door") == []
    assert [documents(message)[0]["device"] for message in messages(store, "")] == ["door"]


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_lane_whose_book_is_lost_keeps_its_route(open_store: OpenStore, tmp_path: Path) -> None:
    """If the disk has damaged a lane's own book, its messages still go under the sensor's identity."""
    store = open_store()
    for device in ("boiler", "door"):
        append(store, device, 1, 2)
    [before] = messages(store, "door")
    store.close()
    with closing(apsw.Connection(str(tmp_path / "buffer.db"))) as db:
        db.execute("UPDATE book SET received = received + 1 WHERE device = '=normal/door'")
    store = open_store()
    assert store.state == "damaged"
    [message] = messages(store, "door")
    assert (message.id, message.body) == (before.id, before.body)
    assert [len(documents(each)) for each in messages(store, "boiler")] == [2]
    assert store.accounts()["door", "normal"] == Account(received=2, queued=2)


def test_damage_in_one_route_costs_the_others_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    """A payload that has rotted is set aside and counted for its device; the other routes go on."""
    store = open_store()
    for device in ("boiler", "door"):
        append(store, device, 1)
    store.close()
    with closing(apsw.Connection(str(tmp_path / "buffer.db"))) as db:
        db.execute("UPDATE chunk SET payload = zeroblob(length(payload)) WHERE CAST(counts AS TEXT) LIKE '%door%'")
    store = open_store()
    assert messages(store, "door") == []
    assert len(messages(store, "boiler")) == 1
    assert store.accounts()["door", "normal"] == Account(received=1, quarantined=1)
    [apart] = store.read_chunks(0, 10, quarantine=True)
    assert (apart.lane, apart.route, apart.payload) == ("normal", "door", None)


# --- as sessions use it ----------------------------------------------------------------------------------------------


def opened(offload: Offload = run_inline, **more: object) -> DurableBuffer:
    """A buffer in memory, in virtual time."""
    chosen = BufferSettings.model_validate({"max_message_age_s": 0.0, "max_records_per_message": 1} | more)
    store = open_bench_store(":memory:", chosen, clock=VirtualClock(asyncio.get_running_loop()))
    return DurableBuffer(store, settle_within_s=0.25, commit_within_s=0.01, offload=offload)


def batches(device: str, count: int) -> Iterator[Batch]:
    for value in range(count):
        yield Batch([reading(device, value)], route=device)


def test_a_route_that_nobody_takes_from_holds_up_no_other() -> None:
    """With a sensor's session down, the gateway and another sensor get and settle all of theirs."""

    async def main() -> None:
        async with opened() as buffer:
            for each in batches("refused", 500):
                await buffer.append(each)
            await buffer.append(Batch([reading("valve")]))
            await buffer.append(Batch([reading("door")], route="door"))
            for outlet in (buffer, buffer.route("door")):
                outlet.settle(await asyncio.wait_for(outlet.take(), 1))
            await buffer.flush()
            assert buffer.status().queued["normal"] == 500
            assert buffer.route("refused").has_queued
            assert not buffer.route("door").has_queued

    run_virtual(main())


def test_no_route_starves_another() -> None:
    """Of a hundred sessions most have a long backlog; those that have little get it at the same pace as all others."""

    async def main() -> None:
        async with opened() as buffer:
            backlog = {f"long-{number}": 40 for number in range(90)} | {f"short-{number}": 5 for number in range(10)}
            await asyncio.gather(
                *(buffer.append(each) for name, count in backlog.items() for each in batches(name, count))
            )
            taken = Counter[str]()
            when_done: list[int] = []
            """Of each short one, how many messages all had got by then."""

            async def session(name: str) -> None:
                outlet = buffer.route(name)
                while True:
                    message = await outlet.take()
                    taken[name] += 1
                    outlet.settle(message)
                    if taken[name] == backlog[name] == 5:
                        when_done.append(taken.total())

            sessions = [asyncio.create_task(session(name)) for name in backlog]
            await asyncio.sleep(5)
            for each in sessions:
                each.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
            assert taken == backlog
            assert max(when_done) < 3 * 5 * len(backlog)
            assert not any(buffer.status().queued.values())

    run_virtual(main())


def test_a_session_is_told_when_there_is_something_for_it() -> None:
    """`wait_queued` returns when the first record of its route is durable, and not for those of others."""

    async def main() -> None:
        async with opened() as buffer:
            waiting = asyncio.create_task(buffer.route("door").wait_queued())
            await buffer.append(Batch([reading("pump")], route="pump"))
            await asyncio.sleep(1)
            assert not waiting.done()
            await buffer.append(Batch([reading("door")], route="door"))
            await asyncio.wait_for(waiting, 0.001)
            assert buffer.route("door").has_queued
            await asyncio.wait_for(buffer.route("door").wait_queued(), 0.001)

    run_virtual(main())


def test_what_is_settled_is_not_queued_any_more() -> None:
    """A session that has nothing but settled messages may leave at once, and is told of the next record."""

    async def main() -> None:
        async with opened() as buffer:
            door = buffer.route("door")
            await buffer.append(Batch([reading("door")], route="door"))
            door.settle(await door.take())
            assert not door.has_queued
            waiting = asyncio.create_task(door.wait_queued())
            await buffer.flush()
            await asyncio.sleep(1)
            assert not waiting.done()
            await buffer.append(Batch([reading("door", 2)], route="door"))
            await asyncio.wait_for(waiting, 0.001)

    run_virtual(main())


def test_a_session_that_ends_rewinds_only_its_own() -> None:
    """After a rewind a route gives out the same messages again; another goes on where it was."""

    async def main() -> None:
        async with opened() as buffer:
            for device in ("boiler", "door"):
                for each in batches(device, 3):
                    await buffer.append(each)
            boiler, door = buffer.route("boiler"), buffer.route("door")
            first = [await boiler.take() for _ in range(2)]
            others = [await door.take() for _ in range(2)]
            boiler.rewind()
            assert [await boiler.take() for _ in range(2)] == first
            assert (await door.take()).number == others[-1].number + 1

    run_virtual(main())


def test_a_rewind_wakes_who_waits_already() -> None:
    """If a task still waits in `take` when its route is rewound, it gets what was given out before."""

    async def main() -> None:
        async with opened() as buffer:
            door = buffer.route("door")
            await buffer.append(Batch([reading("door")], route="door"))
            message = await door.take()
            waiting = asyncio.create_task(door.take())
            await asyncio.sleep(1)
            door.rewind()
            assert await asyncio.wait_for(waiting, 1) == message

    run_virtual(main())


@pytest.mark.parametrize("route", ["door", ""])
def test_who_comes_while_the_disk_is_at_work_gets_what_it_works_on(route: str) -> None:
    """A task that begins to wait after the transaction began is woken when it is over."""

    def slowly(call: Callable[[], None], done: Callable[[BaseException | None], None], /) -> None:
        asyncio.get_running_loop().call_later(1.0, run_inline, call, done)

    async def main() -> None:
        async with opened(slowly) as buffer:
            append = asyncio.create_task(buffer.append(Batch([reading("door")], route=route)))
            await asyncio.sleep(0.5)
            assert (await asyncio.wait_for(buffer.route(route).take(), 3)).route == route
            await append

    run_virtual(main())


def test_messages_of_each_lane_and_route_wait_their_own_time() -> None:
    """A message that may wait ten seconds for company delays none that may wait for one, in whatever route."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lanes = [ALERT, {"name": "normal", "max_message_age_s": 1}, {"name": "bulk", "max_message_age_s": 10}]
        async with opened(lanes=lanes, max_records_per_message=10) as buffer:
            came: dict[tuple[str, str], float] = {}

            async def session(name: str) -> None:
                while True:
                    message = await buffer.route(name).take()
                    came[message.lane, message.route] = loop.time()

            sessions = [asyncio.create_task(session(name)) for name in ("", "door")]
            await asyncio.sleep(0)
            began_s = loop.time()
            for name in ("", "door"):
                await buffer.append(Batch([reading()], "bulk", route=name))
                await buffer.append(Batch([reading()], "normal", route=name))
            await asyncio.sleep(20)
            for each in sessions:
                each.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
        assert {place: at_s - began_s for place, at_s in came.items()} == pytest.approx(
            {("normal", ""): 1, ("normal", "door"): 1, ("bulk", ""): 10, ("bulk", "door"): 10}, abs=0.1
        )

    run_virtual(main())


def test_a_young_message_holds_up_no_backlog_of_another_lane() -> None:
    """While a message of one lane waits for company, hundreds of another lane go out as fast as they are taken."""

    async def main() -> None:
        lanes = [ALERT, {"name": "normal", "max_records_per_message": 1}, {"name": "bulk", "max_message_age_s": 3600}]
        async with opened(lanes=lanes, max_records_per_message=10) as buffer:
            for lane, count in (("bulk", 1), ("normal", 300)):
                await buffer.append(Batch([reading("door", value) for value in range(count)], lane, route="door"))
            door = buffer.route("door")
            async with asyncio.timeout(1):
                assert [(await door.take()).lane for _ in range(300)] == ["normal"] * 300

    run_virtual(main())


def test_a_stopping_gateway_gives_out_young_messages_of_all_routes() -> None:
    """While draining nothing waits for company, and `emptied` is about all routes."""

    async def main() -> None:
        async with opened(max_message_age_s=3600, max_records_per_message=10) as buffer:
            outlets: list[Outlet] = [buffer, buffer.route("door")]
            takers = [asyncio.create_task(outlet.take()) for outlet in outlets]
            await buffer.append(Batch([reading()]))
            await buffer.append(Batch([reading("door")], route="door"))
            await asyncio.sleep(1)
            assert not any(taker.done() for taker in takers)
            buffer.drain()
            emptied = asyncio.create_task(buffer.emptied())
            buffer.settle(await takers[0])
            await asyncio.sleep(1)
            assert not emptied.done()
            buffer.settle(await takers[1])
            await asyncio.wait_for(emptied, 1)

    run_virtual(main())
