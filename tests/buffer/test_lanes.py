"""Lanes: who goes first, who never starves, and what gives way when one is full."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer import Account, Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.lanes import Turns
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.offload import run_inline
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.virtual_time import run_virtual

from . import incompressible
from .conftest import HandClock, OpenStore, alert, reading, writes

CAP_BYTES = 64 * 1024
HOUR_S = 3600.0
ALERT = {"name": "alert", "max_records_per_message": 1}


def lane(**more: object) -> list[dict[str, object]]:
    """Alerts, and one lane of readings."""
    return [ALERT, {"name": "normal", **more}]


def full_lane(when_full: str, **more: object) -> list[dict[str, object]]:
    return lane(when_full=when_full, max_bytes=CAP_BYTES, **more)


def noisy(device: str = "a", *, seed: int, size: int = 6000) -> Reading:
    """A reading that compression does not make much smaller."""
    return reading(device, incompressible.text(size, seed=seed))


def messages(store: Store) -> list[Message]:
    """Everything that can be taken."""
    taken = []
    while isinstance(message := store.take(wait_for_more=False), Message):
        taken.append(message)
    return taken


def seqs(store: Store, device: str = "a") -> list[int]:
    """Of what is left of a device, in the order in which it is given out."""
    return [
        each["seq"] for message in messages(store) for each in orjson.loads(message.body) if each["device"] == device
    ]


# --- whose turn it is -----------------------------------------------------------------------------------------------


@given(st.lists(st.sets(st.integers(0, 15), min_size=1), min_size=1, max_size=200))
def test_nobody_waits_for_more_than_eight_and_the_others_that_wait(rounds: list[set[int]]) -> None:
    """Whoever has something to give, again and again, is let pass by at most 8 + the number of lanes."""
    turns = Turns()
    passed_by = Counter[str]()
    for waiting in rounds:
        names = [f"lane-{number}" for number in sorted(waiting)]
        chosen = turns.next(names)
        assert chosen in names
        passed_by.update(names)
        passed_by[chosen] = 0
        assert all(passed_by[name] <= 8 + 16 for name in names)


def test_the_most_urgent_goes_first_and_the_others_have_one_turn_in_ten() -> None:
    """Of three lanes that always have something, the two less urgent get a tenth of all messages each."""
    turns = Turns()
    given_out = Counter(turns.next(["alert", "normal", "bulk"]) for _ in range(1000))
    assert given_out["normal"] == pytest.approx(100, abs=20)
    assert given_out["bulk"] == pytest.approx(100, abs=20)


def test_with_all_lanes_full_of_work_each_has_its_share() -> None:
    """However much the urgent lanes bring, one message in ten comes from each of the others."""

    async def main() -> None:
        store = open_bench_store(
            ":memory:",
            BufferSettings(max_records_per_message=1, max_message_age_s=0.0),
            clock=HandClock(),
        )
        async with DurableBuffer(store, settle_within_s=1, commit_within_s=0, offload=run_inline) as buffer:
            share = Counter[str]()
            for _ in range(30):
                await buffer.append(Batch([alert() for _ in range(10)]))
                await buffer.append(Batch([reading() for _ in range(10)]))
                await buffer.append(Batch([reading() for _ in range(10)], "bulk"))
                for _ in range(10):
                    message = await buffer.take()
                    share[message.lane] += 1
                    buffer.settle(message)
        assert share.total() == 300
        assert share["normal"] >= 24
        assert share["bulk"] >= 24
        assert share["alert"] >= 200

    run_virtual(main())


def test_an_alert_waits_for_two_messages_at_most() -> None:
    """With a backlog in both other lanes, an alert is given out at once, or after their overdue turns."""

    async def main() -> None:
        store = open_bench_store(
            ":memory:", BufferSettings(max_records_per_message=5, max_message_age_s=0.0), clock=HandClock()
        )
        async with DurableBuffer(store, settle_within_s=1, commit_within_s=0, offload=run_inline) as buffer:
            await buffer.append(Batch([reading() for _ in range(2000)]))
            await buffer.append(Batch([reading() for _ in range(2000)], "bulk"))
            for round_number in range(20):
                for _ in range(round_number):
                    await buffer.take()
                await buffer.append(Batch([alert()]))
                assert "alert" in [(await buffer.take()).lane for _ in range(3)]

    run_virtual(main())


# --- time to live ---------------------------------------------------------------------------------------------------


def test_what_is_too_old_is_gone_before_anything_is_given_out(open_store: OpenStore, clock: HandClock) -> None:
    """After its time to live a reading is not sent any more but counted as expired; an alert has none here."""
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(writes([reading(value=1), alert()]))
    clock.uptime_s = HOUR_S / 2
    store.write(writes([reading(value=2)]))
    clock.uptime_s = HOUR_S + 1
    assert [message.lane for message in messages(store)] == ["alert", "normal"]
    assert store.accounts()["a", "normal"] == Account(received=2, expired=1, queued=1)


def test_exactly_at_its_time_to_live_a_record_is_still_sent(open_store: OpenStore, clock: HandClock) -> None:
    """Not a second early."""
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(writes([reading()]))
    clock.uptime_s = HOUR_S
    assert seqs(store) == [1]


def test_what_is_on_its_way_does_not_expire(open_store: OpenStore, clock: HandClock) -> None:
    """A message given out in time counts as delivered when the hub confirms it late."""
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(writes([reading()]))
    (message,) = messages(store)
    clock.uptime_s = 2 * HOUR_S
    store.write(Writes())
    store.write(writes(settled=[message]))
    assert store.accounts()["a", "normal"] == Account(received=1, delivered=1)


def test_what_grew_too_old_on_its_way_expires_when_the_session_is_lost(open_store: OpenStore, clock: HandClock) -> None:
    """Nobody confirmed it in time; so it is not sent again."""
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(writes([reading()]))
    messages(store)
    clock.uptime_s = 2 * HOUR_S
    store.write(Writes())
    store.rewind()
    assert messages(store) == []
    assert store.accounts()["a", "normal"] == Account(received=1, expired=1)


def test_time_without_power_counts_once_the_clock_is_known(open_store: OpenStore, clock: HandClock) -> None:
    """What was appended before the box lay in a drawer is too old as soon as the clock says how long that was."""
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(writes([reading()]))
    store.close()
    clock.reboot("boot-2")
    clock.trusted, clock.offset_ns = False, 0
    store = open_store(lanes=lane(ttl_s=HOUR_S))
    store.write(Writes())
    assert store.queued()["normal"] == 1
    clock.trusted, clock.offset_ns = True, HandClock().offset_ns + 10**9 * 7 * 86_400
    store.write(Writes())
    assert store.accounts()["a", "normal"] == Account(received=1, expired=1)


# --- full lanes -----------------------------------------------------------------------------------------------------


def test_drop_oldest_keeps_the_newest_without_a_gap(open_store: OpenStore) -> None:
    """What is left is the end of what came in."""
    store = open_store(lanes=full_lane("drop-oldest"), max_records_per_message=1)
    for seed in range(40):
        store.write(writes([noisy(seed=seed)]))
    left = seqs(store)
    assert left == list(range(41 - len(left), 41))
    assert store.accounts()["a", "normal"] == Account(received=40, queued=len(left), evicted=40 - len(left))


def test_drop_newest_keeps_what_came_first(open_store: OpenStore) -> None:
    """What is left is the beginning of what came in, and there is room again when some of it was delivered."""
    store = open_store(lanes=full_lane("drop-newest"), max_records_per_message=1)
    for seed in range(40):
        store.write(writes([noisy(seed=seed)]))
    taken = messages(store)
    left = [orjson.loads(message.body)[0]["seq"] for message in taken]
    assert left == list(range(1, len(left) + 1))
    assert store.accounts()["a", "normal"] == Account(received=40, queued=len(left), evicted=40 - len(left))
    store.write(writes([noisy(seed=41)], settled=taken[:1]))
    assert seqs(store) == [41]


def test_refuse_takes_nothing_and_gives_no_number_away(open_store: OpenStore) -> None:
    """A refused reading is in no account and has no seq; alerts and counts of the same batch are taken."""
    store = open_store(lanes=full_lane("refuse"), max_records_per_message=1)
    seed = 0
    while store.write(writes([noisy(seed=seed)])) == [None]:
        seed += 1
    (error,) = store.write(writes([noisy(seed=seed), alert("door")], rejected=[("port", 2)]))
    assert isinstance(error, LaneFull)
    assert "normal" in str(error)
    assert store.accounts() == {
        ("a", "normal"): Account(received=seed, queued=seed),
        ("door", "alert"): Account(received=1, queued=1),
        ("port", "normal"): Account(received=2, rejected=2),
    }
    door, first, *_ = messages(store)
    assert store.write(writes([noisy(seed=seed)], settled=[door, first])) == [None]
    assert seqs(store) == [seed + 1]


def test_a_batch_for_another_lane_is_taken_beside_one_that_is_refused(open_store: OpenStore) -> None:
    """In one transaction the answer is each batch's own."""
    store = open_store(lanes=[*full_lane("refuse"), {"name": "bulk"}])
    batches = [Batch([noisy(seed=seed) for seed in range(40)]), Batch([reading("b")], "bulk")]
    refused, taken = store.write(Writes(batches))
    assert isinstance(refused, LaneFull)
    assert taken is None
    assert store.queued() == {"alert": 0, "normal": 0, "bulk": 1}


@settings(max_examples=20, deadline=None)
@given(
    keep_every=st.integers(2, 4),
    per_write=st.integers(1, 4),
    devices=st.lists(st.sampled_from("abc"), min_size=60, max_size=60),
)
def test_thin_leaves_a_coarser_curve_of_every_device_without_a_hole(
    keep_every: int, per_write: int, devices: list[str]
) -> None:
    """The further back, the coarser; nowhere is it coarser than one round more of thinning makes it than before."""
    store = open_bench_store(
        ":memory:",
        BufferSettings.model_validate(
            {"lanes": full_lane("thin", keep_every=keep_every), "max_message_age_s": 0.0, "max_records_per_message": 4}
        ),
        clock=HandClock(),
    )
    for start in range(0, len(devices), per_write):
        records = [noisy(device, seed=start + n) for n, device in enumerate(devices[start : start + per_write])]
        store.write(writes(records))
        whole = store.stats()["lanes"][1]
        assert whole["bytes"] <= CAP_BYTES
    for device, received in Counter(devices).items():
        left = seqs(store, device)
        store.rewind()
        account = store.accounts()[device, "normal"]
        assert account == Account(received=received, queued=len(left), evicted=received - len(left))
        gaps = [after - before for before, after in pairwise(left)]
        assert all(newer <= keep_every * older for older, newer in combinations(gaps, 2)), (device, left)


def test_thin_halves_each_device_by_itself(open_store: OpenStore) -> None:
    """One round of thinning keeps every second record of each device, however they were mixed."""
    store = open_store(lanes=full_lane("thin", keep_every=2), max_records_per_message=4)
    for seed in range(0, 24, 4):
        store.write(writes([noisy(device, seed=seed + n, size=5000) for n, device in enumerate("aabb")]))
        if store.totals().evicted:
            break
    left = {device: store.accounts()[device, "normal"] for device in "ab"}
    assert left["a"].evicted == left["b"].evicted > 0
    thinned = seqs(store)[: left["a"].evicted]
    assert thinned == list(range(1, 2 * len(thinned), 2))


def test_thin_never_changes_what_may_have_been_given_out(open_store: OpenStore) -> None:
    """Messages taken before a restart come again as they were, while what came after them gets thinner."""
    lanes = full_lane("thin", keep_every=2)
    store = open_store(lanes=lanes, max_records_per_message=2)
    store.write(writes([noisy(seed=1), noisy(seed=2), noisy(seed=3), noisy(seed=4)]))
    given_out = messages(store)
    store.close()
    store = open_store(lanes=lanes, max_records_per_message=2)
    for seed in range(5, 60):
        store.write(writes([noisy(seed=seed)]))
    assert store.totals().evicted > 0
    assert messages(store)[:2] == given_out


def test_thin_drops_whole_messages_when_there_is_nothing_left_to_thin(open_store: OpenStore) -> None:
    """If all of a full lane may have been given out, its oldest messages go."""
    store = open_store(lanes=full_lane("thin"), max_records_per_message=2)
    for seed in range(0, 20, 2):
        store.write(writes([noisy(seed=seed), noisy(seed=seed + 1)]))
    given_out = messages(store)
    store.rewind()
    store.write(writes([noisy(seed=20), noisy(seed=21)]))
    again = messages(store)
    assert again[0] in given_out[1:]
    assert again[:-1] == given_out[given_out.index(again[0]) :]


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin"])
def test_what_is_on_its_way_is_not_dropped(open_store: OpenStore, when_full: str) -> None:
    """With all of a full lane on its way to the hub, it is the newcomer that finds no room."""
    store = open_store(lanes=full_lane(when_full), max_records_per_message=1)
    in_flight: list[Message] = []
    for seed in range(20):
        store.write(writes([noisy(seed=seed)]))
        in_flight += messages(store)
    assert store.accounts()["a", "normal"] == Account(received=20, queued=len(in_flight), evicted=20 - len(in_flight))
    assert [orjson.loads(message.body)[0]["seq"] for message in in_flight] == list(range(1, len(in_flight) + 1))
    store.rewind()
    assert messages(store) == in_flight


# --- lanes that come and go -----------------------------------------------------------------------------------------


def test_a_lane_taken_out_of_the_configuration_is_delivered_until_it_is_empty(open_store: OpenStore) -> None:
    """Its records go after those of the configured lanes, and its account stays."""
    store = open_store(lanes=[ALERT, {"name": "old"}, {"name": "normal"}])
    store.write(Writes([Batch([reading("b")], "old"), Batch([reading("a")], "normal")]))
    store.close()
    store = open_store(lanes=lane())
    assert store.lanes == ["alert", "normal", "old"]
    taken = messages(store)
    assert [message.lane for message in taken] == ["normal", "old"]
    store.write(writes(settled=taken))
    assert store.accounts()["b", "old"] == Account(received=1, delivered=1)


def test_a_lane_that_comes_back_goes_on_with_its_numbers(open_store: OpenStore) -> None:
    """No message id is used twice, whatever was configured in between."""
    ids = []
    for names in (["alert", "normal", "bulk"], ["alert", "normal"], ["new", "alert", "normal", "bulk"]):
        store = open_store(lanes=[{"name": name} for name in names])
        store.write(Writes([Batch([reading()], name) for name in names]))
        taken = messages(store)
        ids += [message.id for message in taken]
        store.write(writes(settled=taken))
        store.close()
    assert len(set(ids)) == len(ids) == 9
