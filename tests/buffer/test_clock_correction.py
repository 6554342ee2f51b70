"""Times stamped before the clock was set: put right while nobody has seen them, marked for ever when somebody has."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from edge_gateway.buffer.store import Store, Writes
from edge_gateway.clock import NS_PER_S, rfc3339, stamp
from edge_gateway.records import Event, Message, Reading

from .conftest import NOW_NS, HandClock, OpenStore, writes

Document = dict[str, Any]


@pytest.fixture
def clock() -> HandClock:
    """A box without a battery for its clock, just started."""
    return HandClock(trusted=False, offset_ns=0)


def set_right(clock: HandClock, offset_ns: int = NOW_NS) -> None:
    """The box finds its time server."""
    clock.offset_ns, clock.trusted = offset_ns, True


def stamped(clock: HandClock, device: str = "a") -> Reading:
    time_ns, time_trusted, uptime_ns = stamp(clock)
    return Reading(device, "climate", time_ns, {}, time_trusted, uptime_ns)


def taken(store: Store) -> Message:
    message = store.take(wait_for_more=False)
    assert isinstance(message, Message)
    return message


def document(message: Message) -> Document:
    [only] = orjson.loads(message.body)
    assert isinstance(only, dict)
    return only


def times(store: Store) -> list[tuple[str, str]]:
    """What all that is given out says of its times."""
    told = []
    while isinstance(message := store.take(wait_for_more=False), Message):
        for each in orjson.loads(message.body):
            mark = "corrected" if "time_corrected" in each else "marked" if "time_trusted" in each else "plain"
            told.append((each["time"], mark))
    return told


def at(seconds: float, offset_ns: int = NOW_NS) -> str:
    return rfc3339(offset_ns + round(seconds * NS_PER_S))


def test_what_was_stamped_before_the_clock_was_set_is_put_right(open_store: OpenStore, clock: HandClock) -> None:
    """It leaves with the time at which it came, and says that it was corrected; what comes later is plain."""
    store = open_store()
    clock.uptime_s = 12.5
    store.write(writes([stamped(clock)]))
    clock.uptime_s = 100
    set_right(clock)
    store.write(writes([stamped(clock)]))
    assert times(store) == [(at(12.5), "corrected"), (at(100), "plain")]


def test_the_first_to_ask_after_the_clock_was_set_already_gets_it_right(
    open_store: OpenStore, clock: HandClock
) -> None:
    """Without any write in between."""
    store = open_store()
    store.write(writes([stamped(clock)]))
    set_right(clock)
    assert times(store) == [(at(0), "corrected")]


def test_what_was_given_out_before_the_time_was_known_stays_as_it_was(open_store: OpenStore, clock: HandClock) -> None:
    """The hub may have it; so it comes again with the same bytes and its marks, also after a restart."""
    store = open_store()
    clock.uptime_s = 7
    store.write(writes([stamped(clock)]))
    first = taken(store)
    assert document(first) == {
        "device": "a",
        "profile": "climate",
        "seq": 1,
        "time": "1970-01-01T00:00:07.000000Z",
        "values": {},
        "time_trusted": False,
        "boot": "boot-1",
        "uptime_s": 7.0,
    }
    set_right(clock)
    store.write(Writes())
    store.rewind()
    assert taken(store) == first
    store.close()
    store = open_store()
    assert taken(store) == first


def test_of_one_backlog_only_what_may_have_left_stays_marked(open_store: OpenStore, clock: HandClock) -> None:
    """What came after the session was lost is corrected, though its clock was wrong too."""
    store = open_store(max_records_per_message=1)
    store.write(writes([stamped(clock)]))
    taken(store)
    store.rewind()
    clock.uptime_s = 60
    store.write(writes([stamped(clock)]))
    set_right(clock)
    store.write(Writes())
    assert times(store) == [("1970-01-01T00:00:00.000000Z", "marked"), (at(60), "corrected")]


def test_a_corrected_message_is_the_same_whenever_it_is_asked_for(open_store: OpenStore, clock: HandClock) -> None:
    """The first offset of a boot is for ever, whatever the clock does afterwards."""
    store = open_store()
    store.write(writes([stamped(clock)]))
    set_right(clock)
    first = taken(store)
    set_right(clock, NOW_NS + 3600 * NS_PER_S)
    store.write(Writes())
    store.rewind()
    assert taken(store) == first
    store.close()
    store = open_store()
    assert taken(store) == first


def test_each_boot_has_its_own_offset_and_one_that_never_learnt_the_time_stays_marked(
    open_store: OpenStore, clock: HandClock
) -> None:
    """Of three boots without power in between, the second never had the time: nobody can know it."""
    store = open_store()
    clock.uptime_s = 10
    store.write(writes([stamped(clock)]))
    set_right(clock)
    store.write(Writes())
    for boot in ("boot-2", "boot-3"):
        store.close()
        clock.reboot(boot)
        clock.trusted, clock.offset_ns = False, 0
        store = open_store()
        clock.uptime_s = 20
        store.write(writes([stamped(clock)]))
    set_right(clock, NOW_NS + 2000 * NS_PER_S)
    store.write(Writes())
    assert times(store) == [
        (at(10), "corrected"),
        ("1970-01-01T00:00:20.000000Z", "marked"),
        (at(2020), "corrected"),
    ]


def test_a_restart_of_the_process_within_the_boot_changes_nothing(open_store: OpenStore, clock: HandClock) -> None:
    """What one process stamped, the next one corrects."""
    store = open_store()
    clock.uptime_s = 3
    store.write(writes([stamped(clock)]))
    store.close()
    store = open_store()
    set_right(clock)
    store.write(Writes())
    store.close()
    store = open_store()
    assert times(store) == [(at(3), "corrected")]


def test_an_event_and_a_batch_are_corrected_record_by_record(open_store: OpenStore, clock: HandClock) -> None:
    """In one message there are right times, corrected ones, and ones that only the device knows."""
    store = open_store()
    early = stamped(clock)
    clock.uptime_s = 30
    time_ns, time_trusted, uptime_ns = stamp(clock)
    alert = Event("a", "hot", "alert-raised", time_ns, {}, time_trusted, uptime_ns)
    unbelieved = Reading("b", "climate", 5 * NS_PER_S, {}, time_trusted=False)
    set_right(clock)
    store.write(writes([alert, early, unbelieved, stamped(clock)]))
    assert times(store) == [
        (at(30), "corrected"),
        (at(0), "corrected"),
        ("1970-01-01T00:00:05.000000Z", "marked"),
        (at(30), "plain"),
    ]


def test_what_can_be_looked_at_is_what_would_be_sent(open_store: OpenStore, clock: HandClock) -> None:
    """An export shows corrected times too."""
    store = open_store()
    store.write(writes([stamped(clock)]))
    set_right(clock)
    store.write(Writes())
    (chunk,) = store.read_chunks(0, 10)
    assert orjson.loads(chunk.payload or b"")["time"] == at(0)
