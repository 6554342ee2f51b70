"""The quarantine: frames that could not become readings, and what the disk has damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest

from edge_gateway.buffer import Account, BadFrame, Batch, StoredChunk
from edge_gateway.buffer.documents import bad_frames
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable
from edge_gateway.records import Message
from edge_gateway.testbench.bench_store import MemoryDataKeys, open_bench_store
from edge_gateway.testbench.failing_disk import Answer, Call, Fault, failing_disk

from . import incompressible
from .conftest import NOW_NS, HandClock, OpenStore, reading, writes

RNG = random.Random(9)


def frame(size: int = 20, *, link: str = "bus", trusted: bool = True) -> BadFrame:
    return BadFrame(link, "checksum", RNG.randbytes(size), NOW_NS, trusted)


def frames_in(store: Store) -> list[BadFrame]:
    """What can be read of the quarantine, in order."""
    chunks = store.read_chunks(0, 1000, quarantine=True)
    return [each for chunk in chunks if chunk.payload is not None for each in bad_frames(chunk.payload)]


def readings_in(store: Store) -> list[object]:
    """The `x` of all that is given out, in order."""
    values = []
    while isinstance(message := store.take(wait_for_more=False), Message):
        values += [each["values"]["x"] for each in orjson.loads(message.body)]
    return values


def balances(store: Store) -> bool:
    """Whether every account does, in memory and on disk, and whether both say the same."""
    on_disk = {key: account for key, account in store.accounts().items() if account != Account()}
    in_memory = {key: account for key, account in store.known_accounts().items() if account != Account()}
    return on_disk == in_memory and all(account.balance() == 0 for account in on_disk.values())


# --- bad frames -----------------------------------------------------------------------------------------------------


def test_a_bad_frame_is_kept_with_its_bytes_reason_and_time(open_store: OpenStore) -> None:
    """It is in the account of its link, is never given out, and is there after a restart."""
    frames = [frame(), frame(link="radio", trusted=False)]
    store = open_store()
    store.write(writes(bad=frames))
    assert store.take() is None
    store.close()
    store = open_store()
    assert frames_in(store) == frames
    assert store.accounts() == {
        ("bus", "normal"): Account(received=1, quarantined=1),
        ("radio", "normal"): Account(received=1, quarantined=1),
    }


def test_a_full_quarantine_gives_up_its_oldest_frames_which_are_then_rejected(open_store: OpenStore) -> None:
    """Its bytes stay within their limit, its frames are the newest, and no frame leaves the account."""
    store = open_store(quarantine_bytes=10_000)
    frames = [frame(300, link=RNG.choice(["bus", "radio"])) for _ in range(100)]
    for each in frames:
        store.write(writes(bad=[each]))
        assert store.stats()["quarantine_bytes"] <= 10_000
    kept = frames_in(store)
    assert 10 < len(kept) < 40
    assert kept == frames[-len(kept) :]
    for link in ("bus", "radio"):
        count = sum(each.source == link for each in frames)
        quarantined = sum(each.source == link for each in kept)
        assert store.accounts()[link, "normal"] == Account(
            received=count, quarantined=quarantined, rejected=count - quarantined
        )


@pytest.mark.parametrize("quarantine_bytes", [0, 500])
def test_a_frame_larger_than_the_quarantine_is_rejected(open_store: OpenStore, quarantine_bytes: int) -> None:
    """There is nothing to keep it in, and it is counted all the same."""
    store = open_store(quarantine_bytes=quarantine_bytes)
    store.write(writes(bad=[frame(2000)]))
    assert frames_in(store) == []
    assert store.accounts() == {("bus", "normal"): Account(received=1, rejected=1)}
    assert balances(store)


def test_frames_tried_again_leave_the_account_and_come_in_anew(open_store: OpenStore) -> None:
    """In one transaction a chunk of the quarantine is gone, and what became of its frames is there."""
    store = open_store()
    store.write(writes(bad=[frame(), frame(), frame()]))
    (chunk,) = store.read_chunks(0, 10, quarantine=True)
    still_bad = frames_in(store)[2]
    store.write(Writes([Batch([reading("a"), reading("a")], bad=[still_bad], replays=[chunk.id])]))
    assert frames_in(store) == [still_bad]
    assert store.accounts() == {
        ("a", "normal"): Account(received=2, queued=2),
        ("bus", "normal"): Account(received=1, quarantined=1),
    }


def test_a_replay_of_what_is_gone_changes_nothing(open_store: OpenStore) -> None:
    """Neither twice, nor of a chunk that holds readings."""
    store = open_store()
    store.write(writes([reading()], bad=[frame()]))
    (bad,) = store.read_chunks(0, 10, quarantine=True)
    (good,) = store.read_chunks(0, 10)
    store.write(Writes([Batch(replays=[bad.id, bad.id, good.id, 7])]))
    store.write(Writes([Batch(replays=[bad.id])]))
    assert store.accounts()["a", "normal"] == Account(received=1, queued=1)
    assert balances(store)


# --- what the disk has damaged --------------------------------------------------------------------------------------


@pytest.fixture
def rot(tmp_path: Path) -> Callable[..., None]:
    """Changes a column of the n-th chunk while nobody has the store open."""

    def change(nth: int, column: str, value: bytes | None = None) -> None:
        with closing(apsw.Connection(str(tmp_path / "buffer.db"))) as db:
            found: Any
            [(chunk_id, found)] = db.execute(f"SELECT id, {column} FROM chunk ORDER BY id LIMIT 1 OFFSET ?", (nth,))
            if value is None:
                middle = len(found) // 2
                value = found[:middle] + bytes([found[middle] ^ 4]) + found[middle + 1 :]
            db.execute(f"UPDATE chunk SET {column} = ? WHERE id = ?", (value, chunk_id))

    return change


Rot = Callable[..., None]


def filled(open_store: OpenStore, **settings: object) -> Store:
    """Five chunks of one message, each of another device."""
    store = open_store(**settings)
    for value, device in enumerate("abcde"):
        store.write(writes([reading(device, value)]))
    return store


@pytest.mark.parametrize("nth", range(5))
def test_a_damaged_payload_is_set_aside_and_the_rest_of_its_message_goes(
    open_store: OpenStore, rot: Rot, nth: int
) -> None:
    """Wherever it is in the message, it costs its own records, which are counted, and no others."""
    filled(open_store).close()
    rot(nth, "payload")
    store = open_store()
    assert readings_in(store) == [value for value in range(5) if value != nth]
    assert store.accounts()["abcde"[nth], "normal"] == Account(received=1, quarantined=1)
    assert balances(store)
    (chunk,) = store.read_chunks(0, 10, quarantine=True)
    assert chunk == StoredChunk(chunk.id, "normal", chunk.message, 1, {"abcde"[nth]: 1}, None)


def test_a_lane_that_is_all_damage_gives_out_nothing_and_goes_on(open_store: OpenStore, rot: Rot) -> None:
    """What comes in afterwards is given out."""
    filled(open_store).close()
    for nth in range(5):
        rot(nth, "payload")
    store = open_store()
    assert readings_in(store) == []
    store.write(writes([reading("f", 5)]))
    assert readings_in(store) == [5]
    assert store.totals() == Account(received=6, queued=1, quarantined=5)
    assert balances(store)


def test_a_look_at_everything_finds_damage_before_it_is_to_be_sent(open_store: OpenStore, rot: Rot) -> None:
    """Reading the chunks, as `buffer verify` does, sets aside what does not open and says so once."""
    filled(open_store).close()
    rot(2, "payload")
    store = open_store()
    assert [chunk.payload is None for chunk in store.read_chunks(0, 10)] == [False, False, True, False, False]
    assert [chunk.payload is None for chunk in store.read_chunks(0, 10)] == [False] * 4
    assert balances(store)


@pytest.mark.parametrize("counts", [b'{"b":1}', b'{"z":1}', b'{"a":7}', b"{}", b"\xff", b"7"])
@pytest.mark.parametrize("found_by", ["taking", "expiring", "evicting", "thinning"])
def test_a_chunk_that_lies_about_its_records_cannot_unbalance_the_account(
    open_store: OpenStore, clock: HandClock, rot: Rot, counts: bytes, found_by: str
) -> None:
    """Whose records were lost is what the books miss, however the store comes upon it."""
    when_full = "thin" if found_by == "thinning" else "drop-oldest"
    lanes = [
        {"name": "alert"},
        {"name": "normal", "ttl_s": 3600, "max_bytes": 64 * 1024, "when_full": when_full},
    ]
    filled(open_store, lanes=lanes).close()
    rot(0, "counts", counts)
    store = open_store(lanes=lanes)
    if found_by == "taking":
        assert readings_in(store) == [1, 2, 3, 4]
    elif found_by == "expiring":
        clock.uptime_s = 3601
        assert store.take() is None
    else:
        while not store.totals().evicted:
            store.write(writes([reading("f", incompressible.text(9000, seed=1))]))
    assert store.accounts()["a", "normal"] == Account(received=1, quarantined=1)
    assert balances(store)


def test_damage_that_fits_no_quarantine_is_rejected(open_store: OpenStore, rot: Rot) -> None:
    """It is counted, as lost for good."""
    filled(open_store, quarantine_bytes=0).close()
    rot(0, "payload")
    store = open_store(quarantine_bytes=0)
    assert readings_in(store) == [1, 2, 3, 4]
    assert store.accounts()["a", "normal"] == Account(received=1, rejected=1)
    assert balances(store)


def test_damage_takes_room_among_bad_frames_and_gives_it_up_like_them(open_store: OpenStore, rot: Rot) -> None:
    """What was set aside is rejected when the quarantine needs the room, in the account it came from."""
    filled(open_store, quarantine_bytes=3000).close()
    rot(0, "payload")
    store = open_store(quarantine_bytes=3000)
    assert readings_in(store) == [1, 2, 3, 4]
    for _ in range(20):
        store.write(writes(bad=[frame(300)]))
    assert store.accounts()["a", "normal"] == Account(received=1, rejected=1)
    assert balances(store)


def test_a_message_with_damage_is_not_given_out_before_that_is_on_the_disk(open_store: OpenStore, rot: Rot) -> None:
    """On a disk that takes no writes, what is lost could not be counted when the message is confirmed; so it waits."""
    filled(open_store, max_records_per_message=3).close()
    rot(1, "payload")
    with failing_disk("read-only") as disk:
        store = open_store(vfs=disk.name, max_records_per_message=3)
        disk.faults = [Fault({Call.WRITE}, Answer.IO_ERROR)]
        with pytest.raises(BufferUnavailable):
            store.take()
        disk.mend()
        message = store.take()
        assert isinstance(message, Message)
        store.write(writes(settled=[message]))
        assert readings_in(store) == [3, 4]
        assert balances(store)
        store.close()


def test_a_key_that_is_gone_for_ever_costs_what_was_sealed_with_it(clock: HandClock, tmp_path: Path) -> None:
    """Those records are set aside like damaged ones, and a lane that thins itself does not stop at them."""
    lanes = [{"name": "alert"}, {"name": "normal", "max_bytes": 64 * 1024, "when_full": "thin"}]
    settings = BufferSettings.model_validate({"lanes": lanes, "max_message_age_s": 0.0})
    keys = MemoryDataKeys()
    store = open_bench_store(tmp_path / "buffer.db", settings, clock=clock, keys=keys)
    for seed in range(5):
        store.write(writes([reading("a", incompressible.text(9000, seed=seed))]))
    store.rotate_key()
    store.write(writes([reading("b", 1)]))
    store.close()
    keys.destroy(1)
    store = open_bench_store(tmp_path / "buffer.db", settings, clock=clock, keys=keys)
    for seed in range(20):
        store.write(writes([reading("c", incompressible.text(9000, seed=seed))]))
    assert store.totals().evicted > 0
    assert balances(store)
    readings_in(store)
    account = store.accounts()["a", "normal"]
    assert account.evicted + account.quarantined == account.received == 5
    assert balances(store)
