"""The durable queue, one call at a time."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import orjson
import pytest

from edge_gateway.buffer import Account
from edge_gateway.buffer.store import Store
from edge_gateway.errors import BufferInUse, BufferUnavailable
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import open_bench_store

from .conftest import HandClock, OpenStore, alert, reading, writes

SMALL = [{"name": "alert", "max_records_per_message": 1}, {"name": "normal", "max_bytes": 256 * 1024}]
"""Lanes of which one is soon full."""

RNG = random.Random(5)


def noise(size: int) -> str:
    """Text that does not shrink when it is compressed."""
    return RNG.randbytes(size // 2).hex()


def take(store: Store) -> Message:
    message = store.take()
    assert isinstance(message, Message)
    return message


def append(store: Store, *records: Reading) -> None:
    store.write(writes(list(records)))


def settle(store: Store, *messages: Message) -> None:
    store.write(writes(settled=list(messages)))


def test_a_reading_comes_out_as_the_documented_json(open_store: OpenStore) -> None:
    """A reading leaves with device, profile, seq, RFC 3339 time and values, in a JSON array."""
    store = open_store()
    append(store, Reading("boiler", "climate", 1_790_000_000_250_000_000, {"temperature": 21.5}))
    assert orjson.loads(take(store).body) == [
        {
            "device": "boiler",
            "profile": "climate",
            "seq": 1,
            "time": "2026-09-21T14:13:20.250000Z",
            "values": {"temperature": 21.5},
        }
    ]


def test_a_time_nobody_trusts_is_marked(open_store: OpenStore) -> None:
    """What was stamped before the clock was set says so at the hub."""
    store = open_store()
    append(store, Reading("a", "p", 0, {}, time_trusted=False), reading())
    first, second = orjson.loads(take(store).body)
    assert first["time_trusted"] is False
    assert "time_trusted" not in second


def test_seq_grows_by_one_over_both_lanes_and_restarts(open_store: OpenStore) -> None:
    """A device's seq has no gap and no repeat, whatever the lane, also after the store was opened anew."""
    store = open_store()
    store.write(writes([reading("a"), alert("a"), reading("b")]))
    store.close()
    store = open_store()
    append(store, reading("a"))
    records = []
    while isinstance(message := store.take(), Message):
        records += orjson.loads(message.body)
    assert sorted(each["seq"] for each in records if each["device"] == "a") == [1, 2, 3]
    assert [each["seq"] for each in records if each["device"] == "b"] == [1]


def test_alerts_travel_alone_and_first(open_store: OpenStore) -> None:
    """An alert overtakes every reading, and no message holds more than one."""
    store = open_store()
    store.write(writes([reading(), alert(), alert()]))
    lanes = [take(store).lane for _ in range(3)]
    assert lanes == ["alert", "alert", "normal"]


def test_a_message_sent_again_after_a_restart_has_the_same_bytes_and_id(open_store: OpenStore) -> None:
    """What was taken and not settled comes out identical, though more was appended before and after the restart."""
    store = open_store()
    append(store, reading(value=1))
    first = take(store)
    append(store, reading(value=2))
    store.close()
    store = open_store()
    append(store, reading(value=3))
    assert take(store) == first
    assert [orjson.loads(take(store).body)[0]["values"]["x"] for _ in range(2)] == [2, 3]


def test_what_waits_gathers_into_full_messages(open_store: OpenStore) -> None:
    """While nobody takes, single readings gather into messages of the largest size and no larger."""
    store = open_store(max_records_per_message=10)
    for value in range(25):
        append(store, reading(value=value))
    assert [take(store).records for _ in range(3)] == [10, 10, 5]


def test_messages_stay_within_their_byte_limit(open_store: OpenStore) -> None:
    """Large values make small messages."""
    store = open_store(max_message_bytes=2048)
    append(store, *[reading(value="x" * 500) for _ in range(20)])
    records = 0
    while isinstance(message := store.take(), Message):
        assert len(message.body) <= 2048
        records += message.records
    assert records == 20


def test_a_record_that_never_fits_is_rejected_and_counted(open_store: OpenStore) -> None:
    """One record too large for any message, or no JSON at all, costs nobody else anything and is in the account."""
    store = open_store(max_message_bytes=1024)
    append(store, reading(value="x" * 5000), reading(value=object()), reading(value=3))
    assert [each["values"]["x"] for each in orjson.loads(take(store).body)] == [3]
    assert store.accounts()["a", "normal"] == Account(received=3, queued=1, rejected=2)


def test_a_young_message_waits_for_more_and_then_goes(open_store: OpenStore, clock: HandClock) -> None:
    """With a message age, readings wait for company until it has passed; the alert does not."""
    store = open_store(max_message_age_s=1.0)
    store.write(writes([reading(), alert()]))
    assert take(store).lane == "alert"
    clock.uptime_s = 0.5
    assert store.take() == 0.5
    clock.uptime_s = 0.9
    append(store, reading())
    clock.uptime_s = 1.0
    assert take(store).records == 2


def test_a_full_message_does_not_wait(open_store: OpenStore) -> None:
    """There is no point in waiting for more when there is no room for more."""
    store = open_store(max_message_age_s=60.0, max_records_per_message=5)
    append(store, *[reading() for _ in range(7)])
    assert take(store).records == 5
    assert store.take() == 60.0


def test_settled_messages_are_gone_and_counted(open_store: OpenStore) -> None:
    """Delivered records leave the queue, also after a restart, and the account says where they went."""
    store = open_store()
    append(store, reading("a"), reading("b"))
    settle(store, take(store))
    append(store, reading("a"))
    store.close()
    store = open_store()
    assert store.accounts() == {
        ("a", "normal"): Account(received=2, delivered=1, queued=1),
        ("b", "normal"): Account(received=1, delivered=1),
    }
    assert take(store).records == 1
    assert store.take() is None


def test_settling_twice_counts_once(open_store: OpenStore) -> None:
    """A confirmation that comes twice does not unbalance the account."""
    store = open_store()
    append(store, reading())
    message = take(store)
    settle(store, message)
    settle(store, message)
    assert store.accounts()["a", "normal"] == Account(received=1, delivered=1)


def test_rewinding_gives_the_unsettled_again_in_order(open_store: OpenStore) -> None:
    """After a lost session the oldest unconfirmed message comes first, and confirmed ones do not come back."""
    store = open_store(max_records_per_message=1)
    for value in range(4):
        append(store, reading(value=value))
    messages = [take(store) for _ in range(4)]
    settle(store, messages[1])
    store.rewind()
    assert [take(store) for _ in range(3)] == [messages[0], messages[2], messages[3]]


def test_over_its_cap_the_oldest_readings_go_and_are_counted(open_store: OpenStore) -> None:
    """A store that is full drops the oldest readings, never alerts, and the account still balances."""
    store = open_store(lanes=SMALL, max_records_per_message=100)
    store.write(writes([alert()]))
    for _ in range(300):
        append(store, *[reading(value=noise(100)) for _ in range(50)])
    account = store.accounts()["a", "normal"]
    assert account.evicted > 0
    assert account.balance() == 0
    assert store.accounts()["a", "alert"] == Account(received=1, queued=1)
    assert take(store).lane == "alert"
    first = orjson.loads(take(store).body)[0]["seq"]
    assert first == account.evicted + 2


def test_one_append_larger_than_the_cap_keeps_its_end(open_store: OpenStore) -> None:
    """What is dropped in the transaction that brought it is not given out, and is counted."""
    store = open_store(lanes=SMALL, max_records_per_message=100)
    append(store, *[reading(value=noise(200)) for _ in range(6000)])
    account = store.accounts()["a", "normal"]
    assert account.evicted > 0
    seqs = []
    while isinstance(message := store.take(), Message):
        seqs += [each["seq"] for each in orjson.loads(message.body)]
    assert seqs == list(range(account.evicted + 1, 6001))


def test_small_appends_over_the_cap_give_out_only_what_is_kept(open_store: OpenStore) -> None:
    """With single appends, too, nothing that was dropped is given out from memory."""
    store = open_store(lanes=SMALL, max_records_per_message=1)
    for _ in range(3000):
        append(store, reading(value=noise(400)))
    evicted = store.accounts()["a", "normal"].evicted
    assert evicted > 0
    assert orjson.loads(take(store).body)[0]["seq"] == evicted + 1


def test_rejected_frames_are_in_the_account(open_store: OpenStore) -> None:
    """A frame that never became a reading is received and rejected."""
    store = open_store()
    store.write(writes(rejected=[("port-a", 3)]))
    assert store.accounts()["port-a", "normal"] == Account(received=3, rejected=3)


def test_the_account_from_memory_is_the_account_on_disk(open_store: OpenStore) -> None:
    """What status shows every second agrees with what is counted chunk by chunk."""
    store = open_store()
    rng = random.Random(3)
    for _ in range(50):
        append(store, *[reading(rng.choice("abc")) for _ in range(rng.randrange(5))])
        if rng.random() < 0.5 and isinstance(message := store.take(), Message):
            settle(store, message)
    on_disk = store.accounts().values()
    total = store.totals()
    assert total.received == sum(each.received for each in on_disk)
    assert total.delivered == sum(each.delivered for each in on_disk)
    assert total.queued == sum(each.queued for each in on_disk) == sum(store.queued().values())


def test_a_second_process_is_told_at_once(open_store: OpenStore, tmp_path: Path) -> None:
    """Two gateways on one data directory would send everything twice; the second says what to do."""
    with_first = open_store()
    with pytest.raises(BufferInUse, match="Stop the other gateway"):
        open_store()
    with_first.close()


def test_a_store_of_another_version_is_left_alone(open_store: OpenStore, tmp_path: Path) -> None:
    """A file this version does not know is neither read nor changed."""
    open_store().close()
    with sqlite3.connect(tmp_path / "buffer.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(BufferUnavailable, match="another version"):
        open_store()


def test_a_path_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(BufferUnavailable, match="nowhere"):
        open_bench_store(tmp_path / "nowhere" / "buffer.db")
