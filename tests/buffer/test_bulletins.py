"""What the gateway says upstream about its own books: everything, once, in pieces that fit, whenever it can."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.buffer import Account, Batch
from edge_gateway.buffer.bulletins import Bulletins
from edge_gateway.buffer.bulletins.dropped import Announced, Losses
from edge_gateway.buffer.bulletins.publication import place_of_text, text_of_place
from edge_gateway.buffer.bulletins.sender import Sender
from edge_gateway.buffer.ledger import GENESIS, LedgerHead, LedgerRow, close_hour
from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.records import Event
from edge_gateway.testbench.virtual_time import START_NS, VirtualClock, run_virtual
from tests.log_events import log_events

GATEWAY = "plant-3"
HOUR_S = 3600
DAY_S = 86_400


class MemoryBooks:
    """The buffer's books in memory. It outlives the bulletins, as the disk does."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.accounts: dict[tuple[str, str], Account] = {}
        self._entered: dict[tuple[str, str], Account] = {}
        self.rows: list[LedgerRow] = []
        self.notes: dict[str, str] = {}
        self.events: list[Event] = []
        self.appended_at_s: list[float] = []
        self.error: Exception | None = None
        self.most_events: int | None = None
        """The disk fails when there are so many."""
        self.tries = 0
        self._told: Callable[[str], None] | None = None
        self.state = "ok"

    def account(self, device: str, lane: str = "normal") -> Account:
        return self.accounts.setdefault((device, lane), Account())

    async def append(self, batch: Batch) -> None:
        self.tries += 1
        await asyncio.sleep(0.001)
        if self.error is not None:
            raise self.error
        if len(self.events) == self.most_events:
            raise unavailable()
        for event in batch.records:
            assert isinstance(event, Event)
            self.events.append(event)
            self.appended_at_s.append(self._loop.time())
            account = self.account(event.device, "alert")
            account.received += 1
            account.delivered += 1
        self.notes.update(batch.notes)

    def note(self, name: str) -> str | None:
        return self.notes.get(name)

    async def ledger_rows(self, after: int = 0, *, most: int = 1000) -> list[LedgerRow]:
        if isinstance(self.error, BufferUnavailable):
            raise self.error
        return [row for row in self.rows if row.number > after][:most]

    def accounts_now(self) -> dict[tuple[str, str], Account]:
        return self.accounts

    def on_state(self, told: Callable[[str], None]) -> None:
        self._told = told
        told(self.state)

    def set_state(self, state: str) -> None:
        self.state = state
        if self._told is not None:
            self._told(state)

    def close_hour(self) -> None:
        """As the store does when the clock shows another hour: a row for each account that has changed."""
        hour_s = (self._clock.now_ns() // NS_PER_S - 1) // HOUR_S * HOUR_S
        changed = {key: account for key, account in self.accounts.items() if account != self._entered.get(key)}
        entries = [(lane, device, account) for (device, lane), account in changed.items()]
        self.rows += close_hour(hour_s, entries, *(self.head if self.rows else LedgerHead()))
        self._entered.update({key: Account(*_counters(account)) for key, account in changed.items()})

    @property
    def head(self) -> LedgerHead:
        return LedgerHead(self.rows[-1].number, self.rows[-1].digest)

    def values(self, kind: str) -> list[Any]:
        """What the hub gets, as JSON."""
        return [orjson.loads(orjson.dumps(event.values)) for event in self.events if event.kind == kind]


def _counters(account: Account) -> tuple[int, ...]:
    return tuple(getattr(account, name) for name in account.__slots__)


class Hub:
    """A receiver of `ledger` events that knows nothing but JSON and SHA-256."""

    def __init__(self) -> None:
        self.number = 0
        self.digest = bytes(32).hex()
        self.rows: list[list[Any]] = []

    def receive(self, values: dict[str, Any]) -> None:
        assert values["after"] == {"number": self.number, "digest": self.digest}
        digest = bytes.fromhex(values["after"]["digest"])
        for row in values["rows"]:
            content = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
            digest = hashlib.sha256(digest + content).digest()
        assert values["head"]["digest"] == digest.hex()
        self.number, self.digest = values["head"]["number"], digest.hex()
        self.rows += values["rows"]


def rows_of_hours(hours: int, devices: int = 2) -> list[LedgerRow]:
    rows: list[LedgerRow] = []
    for hour in range(hours):
        entries = [("normal", f"device-{each}", Account(received=hour, delivered=hour)) for each in range(devices)]
        rows += close_hour(hour * HOUR_S, entries, *((rows[-1].number, rows[-1].digest) if rows else (0, GENESIS)))
    return rows


@asynccontextmanager
async def running(bulletins: Bulletins) -> AsyncIterator[Bulletins]:
    task = asyncio.create_task(bulletins.run())
    await asyncio.sleep(0.01)
    try:
        yield bulletins
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def bulletins_of(books: MemoryBooks, clock: VirtualClock, **options: Any) -> Bulletins:
    return Bulletins(GATEWAY, books, clock, **options)


def simulated(
    test: Callable[[MemoryBooks, VirtualClock], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run a test in virtual time, with books and a clock that starts at midnight."""

    def run() -> None:
        async def main() -> None:
            clock = VirtualClock(asyncio.get_running_loop())
            await test(MemoryBooks(clock), clock)

        run_virtual(main())

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


async def work(books: MemoryBooks, hours: int, devices: Sequence[str] = ("a", "b")) -> None:
    """Hours in which each device delivers a record, and each of which the store closes."""
    for _ in range(hours):
        await asyncio.sleep(HOUR_S)
        for device in devices:
            account = books.account(device)
            account.received += 1
            account.delivered += 1
        books.close_hour()


def unavailable() -> BufferUnavailable:
    return BufferUnavailable("the disk is full", where="buffer.db")


# --- the ledger ----------------------------------------------------------------------------------------------------


@simulated
async def test_the_ledger_is_told_every_day_soon_after_midnight(books: MemoryBooks, clock: VirtualClock) -> None:
    """A receiver that hashes the rows itself comes to each head, and has every row of the days that are over."""
    async with running(bulletins_of(books, clock)):
        await work(books, 3 * 24)
        await asyncio.sleep(180)
    hub = Hub()
    for values in books.values("ledger"):
        hub.receive(values)
    assert hub.rows == [list(row[:-1]) for row in books.rows]
    times_s = [(event.time_ns - START_NS) / NS_PER_S for event in books.events]
    assert len(times_s) == 3
    assert [time_s // DAY_S for time_s in times_s] == [1, 2, 3]
    assert all(60 <= time_s % DAY_S <= 180 for time_s in times_s)


@simulated
async def test_an_event_says_who_speaks_and_when(books: MemoryBooks, clock: VirtualClock) -> None:
    """It stands under the gateway's name, from the buffer, with the clock's time."""
    books.rows = rows_of_hours(1)
    await bulletins_of(books, clock).publish_ledger()
    (event,) = books.events
    assert (event.device, event.source, event.kind) == (GATEWAY, "buffer", "ledger")
    assert (event.time_ns, event.time_trusted, event.uptime_ns) == (START_NS, True, None)


@simulated
async def test_the_ledger_can_be_asked_for(books: MemoryBooks, clock: VirtualClock) -> None:
    """The answer is how many rows were told; asking again tells the head alone."""
    books.rows = rows_of_hours(5)
    bulletins = bulletins_of(books, clock)
    assert await bulletins.publish_ledger() == 10
    assert await bulletins.publish_ledger() == 0
    hub = Hub()
    for values in books.values("ledger"):
        hub.receive(values)
    assert (hub.number, hub.digest) == (10, books.head.digest.hex())


@simulated
async def test_an_empty_ledger_can_be_asked_for(books: MemoryBooks, clock: VirtualClock) -> None:
    """Before the first row the head is the beginning."""
    assert await bulletins_of(books, clock).publish_ledger() == 0
    (values,) = books.values("ledger")
    assert values["head"] == values["after"] == {"number": 0, "digest": "00" * 32}


@given(
    st.integers(1024, 4096),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=40, unique=True),
    st.booleans(),
)
def test_no_event_is_larger_than_a_message_may_be(most_bytes: int, devices: list[str], trusted: bool) -> None:
    """Rows of any names are split over events that each fit with all that stands around them, and none is left out."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop(), trusted=trusted)
        books = MemoryBooks(clock)
        books.rows = close_hour(0, [("normal", device, Account(received=1 << 40)) for device in devices])
        await bulletins_of(books, clock, most_bytes=most_bytes).publish_ledger()
        hub = Hub()
        for event in books.events:
            document = {
                "device": event.device,
                "event": event.kind,
                "source": event.source,
                "seq": 1 << 53,
                "time": "2026-05-01T12:00:00.250000Z",
                "values": event.values,
                "time_trusted": False,
                "boot": "5b3d4b1c-6f53-4d0e-9d83-3c1f2d9c8d11",
                "uptime_s": 12345678.123456,
            }
            assert len(orjson.dumps([document])) <= most_bytes
        for values in books.values("ledger"):
            hub.receive(values)
        assert [row[3] for row in hub.rows] == sorted(devices)
        assert [values["more"] for values in books.values("ledger")] == [True] * (len(books.events) - 1) + [False]

    run_virtual(main())


@simulated
async def test_a_row_that_fits_no_message_stops_no_other(books: MemoryBooks, clock: VirtualClock) -> None:
    """It is handed to the buffer alone, which rejects and counts it; the parts still say truly what follows."""
    books.rows = close_hour(0, [("normal", name, Account()) for name in ("a", "b" * 2000, "c")])
    await bulletins_of(books, clock, most_bytes=1024).publish_ledger()
    told = books.values("ledger")
    assert [[row[0] for row in values["rows"]] for values in told] == [[1], [2], [3]]
    assert [values["more"] for values in told] == [True, True, False]


@simulated
async def test_parts_leave_room_for_alerts(books: MemoryBooks, clock: VirtualClock) -> None:
    """A long publication is no burst: a second lies between its parts."""
    books.rows = rows_of_hours(50)
    await bulletins_of(books, clock, most_bytes=1024).publish_ledger()
    gaps_s = [later - earlier for earlier, later in zip(books.appended_at_s, books.appended_at_s[1:], strict=False)]
    assert len(gaps_s) > 5
    assert min(gaps_s) >= 1.0


@pytest.mark.parametrize("parts_before", [0, 1, 3])
def test_a_publication_that_broke_off_goes_on_where_it_was(parts_before: int) -> None:
    """Whatever the crash or the disk left, the next process tells the rest: none is left out and none comes twice."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        books = MemoryBooks(clock)
        books.rows = rows_of_hours(50)
        books.most_events = parts_before
        with pytest.raises(BufferUnavailable):
            await bulletins_of(books, clock, most_bytes=1024).publish_ledger()
        books.most_events = None
        await bulletins_of(books, clock, most_bytes=2048).publish_ledger()
        hub = Hub()
        for values in books.values("ledger"):
            hub.receive(values)
        assert [row[0] for row in hub.rows] == list(range(1, 101))

    run_virtual(main())


@simulated
async def test_two_who_ask_at_once_are_told_one_after_the_other(books: MemoryBooks, clock: VirtualClock) -> None:
    """No row is told twice, however many ask."""
    books.rows = rows_of_hours(50)
    bulletins = bulletins_of(books, clock, most_bytes=1024)
    told = await asyncio.gather(bulletins.publish_ledger(), bulletins.publish_ledger())
    assert list(told) == [100, 0]


@simulated
async def test_a_full_disk_at_midnight_delays_the_ledger(books: MemoryBooks, clock: VirtualClock) -> None:
    """It is told as soon as the buffer takes it, and why it waited is logged once."""
    async with running(bulletins_of(books, clock)):
        await work(books, 23)
        with log_events() as events:
            books.error = unavailable()
            await work(books, 2)
            books.error = None
            await asyncio.sleep(20)
        (values,) = books.values("ledger")
    assert values["head"]["number"] == books.rows[-1].number
    assert [event["event"] for event in events] == ["bulletins.waiting", "ledger.published"]


@simulated
async def test_a_gateway_that_sleeps_at_midnight_tells_the_ledger_when_it_wakes(
    books: MemoryBooks, clock: VirtualClock
) -> None:
    """One that runs by day only tells each day the rows of the day before."""
    for _ in range(3):
        async with running(bulletins_of(books, clock)):
            await work(books, 8)
        await asyncio.sleep(16 * HOUR_S)
    assert len(books.events) == 2


@simulated
async def test_a_clock_that_was_never_set_counts_days_from_the_start(books: MemoryBooks, clock: VirtualClock) -> None:
    """Without a date the ledger is told every 24 hours of running, marked as of no trusted time."""
    clock.trusted = False
    async with running(bulletins_of(books, clock)):
        await work(books, 50)
    assert len(books.events) == 2
    assert all(not event.time_trusted and event.uptime_ns is not None for event in books.events)


@simulated
async def test_a_clock_that_is_set_brings_out_the_rows_of_wrong_hours(books: MemoryBooks, clock: VirtualClock) -> None:
    """Rows of 1970 are of another day, so they need not wait for the next midnight."""
    clock.trusted = False
    clock.step(-START_NS / NS_PER_S)
    async with running(bulletins_of(books, clock)):
        await work(books, 3)
        clock.step(START_NS / NS_PER_S)
        clock.trusted = True
        await asyncio.sleep(120)
    assert [values["head"]["number"] for values in books.values("ledger")] == [6]


@simulated
async def test_a_clock_set_back_by_years_silences_nothing(books: MemoryBooks, clock: VirtualClock) -> None:
    """A gateway that once believed in 2036 tells its ledger every day all the same."""
    clock.step(10 * 365 * DAY_S)
    async with running(bulletins_of(books, clock)):
        await work(books, 30)
        clock.step(-10 * 365 * DAY_S)
        await work(books, 3 * 24)
    assert 4 <= len(books.events) <= 5
    assert books.values("ledger")[-1]["head"]["number"] >= books.rows[-1].number - 24 * 3


@simulated
async def test_rows_that_were_dropped_before_they_were_told_show(books: MemoryBooks, clock: VirtualClock) -> None:
    """The digest before them is not known any more, and the numbers say how many are missing."""
    books.rows = rows_of_hours(10)
    bulletins = bulletins_of(books, clock)
    await bulletins.publish_ledger()
    books.rows = rows_of_hours(30)[40:]
    await bulletins.publish_ledger()
    values = books.values("ledger")[-1]
    assert values["after"] == {"number": 40, "digest": None}
    assert [row[0] for row in values["rows"]] == list(range(41, 61))


@pytest.mark.parametrize("rows", [4, 20])
def test_a_ledger_made_anew_is_told_from_its_beginning(rows: int) -> None:
    """After the store was lost the new chain begins at its own number 1, whether it is shorter or longer by now."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        books = MemoryBooks(clock)
        books.rows = rows_of_hours(5)
        bulletins = bulletins_of(books, clock)
        await bulletins.publish_ledger()
        books.rows = rows_of_hours(rows, devices=1)
        with log_events() as events:
            await bulletins.publish_ledger()
        Hub().receive(books.values("ledger")[-1])
        assert [event["event"] for event in events] == ["ledger.told_anew", "ledger.published"]

    run_virtual(main())


@simulated
async def test_rows_damaged_beyond_reading_are_a_gap(books: MemoryBooks, clock: VirtualClock) -> None:
    """They stop neither the daily publication nor the rows behind them."""
    async with running(bulletins_of(books, clock)):
        await work(books, 20)
        books.rows[0] = books.rows[0]._replace(device=b"\xff")  # type: ignore[arg-type]  # what a damaged page can hold
        books.rows[5] = books.rows[5]._replace(digest=None)  # type: ignore[arg-type]  # the same
        await work(books, 5)
    (values,) = books.values("ledger")
    assert [row[0] for row in values["rows"]] == [2, 3, 4, 5, *range(7, 49)]
    assert values["after"] == {"number": 1, "digest": None}


@given(st.integers(0, 10**18 - 1), st.binary(min_size=32, max_size=32))
def test_a_place_is_read_as_it_was_noted(number: int, digest: bytes) -> None:
    """Writing and reading a note gives the same place."""
    assert place_of_text(text_of_place(LedgerHead(number, digest))) == LedgerHead(number, digest)


@given(st.none() | st.text() | st.from_regex(r"[0-9]{1,30} [0-9a-f]{60,70}"))
def test_a_note_of_anything_is_a_place(text: str | None) -> None:
    """What cannot be read is the beginning, and never an error."""
    assert len(place_of_text(text).digest) == 32


# --- dropped records -----------------------------------------------------------------------------------------------


def drop(books: MemoryBooks, device: str, policy: str, count: int = 1, lane: str = "normal") -> None:
    account = books.account(device, lane)
    account.received += count
    setattr(account, policy, getattr(account, policy) + count)


@simulated
async def test_lost_records_are_told_within_a_minute(books: MemoryBooks, clock: VirtualClock) -> None:
    """By lane, policy and device, with the time since which they were lost."""
    async with running(bulletins_of(books, clock)):
        await asyncio.sleep(70)
        drop(books, "a", "evicted", 5)
        drop(books, "a", "expired", 2)
        drop(books, "b", "rejected")
        drop(books, "b", "expired", 3, lane="bulk")
        await asyncio.sleep(60)
    normal, bulk = books.values("records-dropped")
    assert normal == {
        "lane": "normal",
        "since": "2026-04-11T00:01:00.000000Z",
        "over_s": 60.0,
        "records": {"evicted": 5, "expired": 2, "rejected": 1},
        "devices": {"a": {"evicted": 5, "expired": 2}, "b": {"rejected": 1}},
        "others": {},
    }
    assert (bulk["lane"], bulk["records"]) == ("bulk", {"expired": 3})


@simulated
async def test_a_quiet_gateway_says_nothing(books: MemoryBooks, clock: VirtualClock) -> None:
    """Delivering is no news."""
    async with running(bulletins_of(books, clock)):
        for _ in range(20):
            await asyncio.sleep(HOUR_S)
            books.account("a").received += 1
            books.account("a").delivered += 1
    assert books.events == []


@pytest.mark.parametrize("every_s", [10, 60, 130, 1000])
def test_an_outage_of_a_day_is_told_in_a_few_dozen_events(every_s: int) -> None:
    """While records go on being lost, however slowly, the pauses grow to an hour; and nothing is lost from the sum."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        books = MemoryBooks(clock)
        async with running(bulletins_of(books, clock)):
            for _ in range(DAY_S // every_s):
                await asyncio.sleep(every_s)
                drop(books, "a", "evicted")
            await asyncio.sleep(2 * HOUR_S)
        told = books.values("records-dropped")
        assert sum(values["records"]["evicted"] for values in told) == DAY_S // every_s
        assert 24 <= len(told) <= 32
        gaps_s = [later - earlier for earlier, later in zip(books.appended_at_s, books.appended_at_s[1:], strict=False)]
        assert min(gaps_s) >= 60
        assert max(gaps_s) <= HOUR_S + every_s + 60

    run_virtual(main())


@simulated
async def test_after_a_quiet_time_losses_are_told_at_once_again(books: MemoryBooks, clock: VirtualClock) -> None:
    """The pause is as short as at the beginning."""
    async with running(bulletins_of(books, clock)):
        for _ in range(10):
            drop(books, "a", "evicted")
            await asyncio.sleep(60)
        await asyncio.sleep(3 * HOUR_S)
        before = len(books.events)
        drop(books, "a", "evicted")
        await asyncio.sleep(61)
        assert len(books.events) == before + 1


@simulated
async def test_what_was_lost_before_a_restart_is_told_after_it(books: MemoryBooks, clock: VirtualClock) -> None:
    """Of losses nobody was told of the sum is known, and since when; what was told is not told again."""
    async with running(bulletins_of(books, clock)):
        drop(books, "a", "evicted", 5)
        await asyncio.sleep(61)
        drop(books, "a", "evicted", 7)
    async with running(bulletins_of(books, clock)):
        drop(books, "b", "evicted", 2)
        await asyncio.sleep(61)
    async with running(bulletins_of(books, clock)):
        await asyncio.sleep(61)
    first, second = books.values("records-dropped")
    assert first["records"] == {"evicted": 5}
    assert second["records"] == {"evicted": 9}
    assert (second["devices"], second["others"]) == ({"b": {"evicted": 2}}, {"evicted": 7})
    assert (second["since"], second["over_s"]) == ("2026-04-11T00:01:00.000000Z", None)


@simulated
async def test_bad_frames_are_told_when_they_are_given_up(books: MemoryBooks, clock: VirtualClock) -> None:
    """A frame in quarantine is kept; one that had to make room is lost, and so is what the disk has damaged."""
    async with running(bulletins_of(books, clock, links=["bus"])):
        bus = books.account("bus")
        bus.received = bus.quarantined = 9
        await asyncio.sleep(61)
        assert books.events == []
        bus.quarantined -= 4
        bus.rejected += 4
        drop(books, "a", "quarantined", 3)
        await asyncio.sleep(61)
        (values,) = books.values("records-dropped")
        assert values["devices"] == {"bus": {"rejected": 4}, "a": {"damaged": 3}}
        books.account("a").quarantined = 0
        books.account("a").rejected = 3
        await asyncio.sleep(HOUR_S)
    assert len(books.events) == 1


@simulated
async def test_those_that_lost_most_are_named(books: MemoryBooks, clock: VirtualClock) -> None:
    """Fifty devices of a hundred, and the sum of the rest; nothing is missing."""
    async with running(bulletins_of(books, clock)):
        for number in range(100):
            drop(books, f"device-{number}", "evicted", number + 1)
        await asyncio.sleep(61)
    (values,) = books.values("records-dropped")
    assert set(values["devices"]) == {f"device-{number}" for number in range(50, 100)}
    assert values["others"] == {"evicted": 50 * 51 // 2}
    assert values["records"] == {"evicted": 100 * 101 // 2}


@simulated
async def test_fewer_are_named_where_messages_are_small(books: MemoryBooks, clock: VirtualClock) -> None:
    """An event that does not fit a message would be lost itself."""
    async with running(bulletins_of(books, clock, most_bytes=1024)):
        for number in range(100):
            drop(books, f"a-device-with-a-rather-long-name-{number}", "evicted")
        await asyncio.sleep(61)
    (values,) = books.values("records-dropped")
    assert len(orjson.dumps(values)) <= Sender(GATEWAY, books, clock, 1024).room_bytes
    assert 0 < len(values["devices"]) < 50
    assert values["records"] == {"evicted": 100}


@simulated
async def test_losses_while_the_buffer_takes_nothing_are_told_later(books: MemoryBooks, clock: VirtualClock) -> None:
    """Counted over the whole time, whichever way the buffer refuses."""
    async with running(bulletins_of(books, clock)):
        for error in (unavailable(), LaneFull("the lane alert is full and refuses more")):
            books.error = error
            for _ in range(10):
                drop(books, "a", "rejected")
                await asyncio.sleep(60)
        books.error = None
        await asyncio.sleep(20)
    (values,) = books.values("records-dropped")
    assert values["records"] == {"rejected": 20}
    assert values["over_s"] == pytest.approx(1200, abs=61)


@simulated
async def test_a_store_made_anew_counts_from_its_own_beginning(books: MemoryBooks, clock: VirtualClock) -> None:
    """Counters that are lower than what was told hide nothing that comes after."""
    async with running(bulletins_of(books, clock)):
        drop(books, "a", "evicted", 100)
        await asyncio.sleep(61)
        books.accounts.clear()
        await asyncio.sleep(HOUR_S)
        drop(books, "a", "evicted", 1)
        drop(books, "b", "evicted", 5)
        await asyncio.sleep(HOUR_S)
    before, after = books.values("records-dropped")
    assert before["records"] == {"evicted": 100}
    assert (after["devices"], after["others"]) == ({"a": {"evicted": 1}, "b": {"evicted": 5}}, {})


@simulated
async def test_a_note_from_before_the_store_was_made_anew_is_passed_over(
    books: MemoryBooks, clock: VirtualClock
) -> None:
    """What was told of other books hides nothing of these."""
    books.notes["dropped normal"] = Announced(Losses(evicted=100), None).text()
    drop(books, "a", "evicted", 3)
    async with running(bulletins_of(books, clock)):
        await asyncio.sleep(61)
        drop(books, "b", "evicted", 5)
        await asyncio.sleep(61)
    (values,) = books.values("records-dropped")
    assert (values["devices"], values["others"]) == ({"b": {"evicted": 5}}, {})


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["evicted", "expired", "rejected", "quarantined", "given up"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 9),
    ),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 500)),
    st.tuples(st.sampled_from(["restart", "fail", "mend"]), st.just(""), st.just(0)),
)


@given(st.lists(STEPS, max_size=40))
def test_everything_lost_is_told_once(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is lost, and whenever the disk fails or the process restarts, the events add up to the accounts."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        books = MemoryBooks(clock)
        remaining = [*steps, ("mend", "", 0), ("wait", "", 2 * HOUR_S)]
        while remaining:
            async with running(bulletins_of(books, clock)):
                while remaining:
                    step, device, count = remaining.pop(0)
                    if step == "restart":
                        break
                    if step == "wait":
                        await asyncio.sleep(count)
                    elif step in ("fail", "mend"):
                        books.error = unavailable() if step == "fail" else None
                    elif step == "given up":
                        account = books.account(device)
                        count = min(count, account.quarantined)
                        account.quarantined -= count
                        account.rejected += count
                    else:
                        drop(books, device, step, count)
        told = sum(sum(values["records"].values()) for values in books.values("records-dropped"))
        accounts = [account for (device, _), account in books.accounts.items() if device != GATEWAY]
        assert told == sum(account.received for account in accounts)
        for values in books.values("records-dropped"):
            parts = Counter(values["others"])
            for losses in values["devices"].values():
                parts.update(losses)
            assert dict(parts) == values["records"]

    run_virtual(main())


@given(st.builds(Losses, *[st.integers(0, 1 << 60)] * 4), st.none() | st.text(st.characters(codec="utf-8")))
def test_what_was_announced_is_read_as_it_was_noted(losses: Losses, time: str | None) -> None:
    """Writing and reading a note gives the same."""
    assert Announced.parse(Announced(losses, time).text()) == Announced(losses, time)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Losses._fields, "time"]), inner),
)


@given(st.none() | st.text() | JSON.map(json.dumps))
def test_a_note_of_anything_can_be_read(text: str | None) -> None:
    """What makes no sense says that nothing was told, and is never an error."""
    losses, time = Announced.parse(text)
    assert all(isinstance(count, int) for count in losses)
    assert time is None or isinstance(time, str)


# --- faults --------------------------------------------------------------------------------------------------------


@simulated
async def test_a_fault_is_told_when_it_begins_and_when_it_ends(books: MemoryBooks, clock: VirtualClock) -> None:
    """Where the buffer still takes events, both come at once."""
    async with running(bulletins_of(books, clock)):
        await asyncio.sleep(9.99)
        books.set_state("damaged")
        await asyncio.sleep(90)
        books.set_state("ok")
        await asyncio.sleep(1)
    began, ended = books.values("buffer-fault")
    since = "2026-04-11T00:00:10.000000Z"
    assert began == {"state": "damaged", "since": since, "until": None, "lasted_s": 0.0, "times": 1}
    until = "2026-04-11T00:01:40.000000Z"
    assert ended == {"state": "damaged", "since": since, "until": until, "lasted_s": 90.0, "times": 1}
    assert books.appended_at_s == pytest.approx([10, 100], abs=0.01)


@simulated
async def test_a_disk_that_takes_nothing_is_told_of_when_it_is_back(books: MemoryBooks, clock: VirtualClock) -> None:
    """One event with both times, however long it lasted; and no try each second meanwhile."""
    async with running(bulletins_of(books, clock)):
        books.error = unavailable()
        books.set_state("disk-full")
        await asyncio.sleep(HOUR_S)
        assert books.tries <= HOUR_S / 10 + 1
        books.error = None
        books.set_state("ok")
        await asyncio.sleep(1)
    (values,) = books.values("buffer-fault")
    assert values["lasted_s"] == HOUR_S
    assert (values["since"], values["until"]) == ("2026-04-11T00:00:00.010000Z", "2026-04-11T01:00:00.010000Z")


@simulated
async def test_a_fault_that_lasts_is_told_as_soon_as_events_are_taken(books: MemoryBooks, clock: VirtualClock) -> None:
    """Not only when it is over: some room is enough to say that the disk is full."""
    async with running(bulletins_of(books, clock)):
        books.error = unavailable()
        books.set_state("disk-full")
        await asyncio.sleep(60)
        books.error = None
        await asyncio.sleep(11)
        (values,) = books.values("buffer-fault")
    assert (values["until"], values["times"]) == (None, 1)
    assert 60 <= values["lasted_s"] <= 71


@simulated
async def test_a_fault_that_comes_back_while_its_end_is_being_told_in_vain(
    books: MemoryBooks, clock: VirtualClock
) -> None:
    """The two become one, from the first beginning to the last end."""
    async with running(bulletins_of(books, clock)):
        books.error = unavailable()
        books.set_state("disk-full")
        await asyncio.sleep(5)
        books.set_state("ok")
        await asyncio.sleep(0.0005)  # half of what the stand-in takes to append
        books.set_state("disk-full")
        await asyncio.sleep(4.9995)
        books.error = None
        books.set_state("ok")
        await asyncio.sleep(1)
    (values,) = books.values("buffer-fault")
    assert (values["times"], values["lasted_s"]) == (2, 10.0)


@simulated
async def test_a_fault_that_becomes_another_is_two(books: MemoryBooks, clock: VirtualClock) -> None:
    """The first ends where the second begins."""
    async with running(bulletins_of(books, clock)):
        books.error = unavailable()
        books.set_state("disk-full")
        await asyncio.sleep(30)
        books.set_state("read-only")
        await asyncio.sleep(12)
        books.error = None
        books.set_state("ok")
        await asyncio.sleep(1)
    full, read_only = books.values("buffer-fault")
    assert (full["state"], full["lasted_s"]) == ("disk-full", 30.0)
    assert (read_only["state"], read_only["lasted_s"]) == ("read-only", 12.0)
    assert full["until"] == read_only["since"]


@simulated
async def test_a_disk_that_flickers_while_nothing_can_be_told_is_one_event(
    books: MemoryBooks, clock: VirtualClock
) -> None:
    """What is remembered does not grow with the number of times."""
    async with running(bulletins_of(books, clock)):
        books.error = unavailable()
        for _ in range(1000):
            books.set_state("io-error")
            await asyncio.sleep(1)
            books.set_state("ok")
            await asyncio.sleep(1)
        books.error = None
        await asyncio.sleep(11)
    (values,) = books.values("buffer-fault")
    assert (values["times"], values["lasted_s"]) == (1000, 1999.0)


@simulated
async def test_a_fault_is_timed_without_a_clock(books: MemoryBooks, clock: VirtualClock) -> None:
    """While the date is not known only the duration is told, and a clock set meanwhile gives both times in its own."""
    clock.trusted = False
    async with running(bulletins_of(books, clock)):
        books.set_state("read-only")
        await asyncio.sleep(60)
        clock.step(DAY_S)
        clock.trusted = True
        books.set_state("ok")
        await asyncio.sleep(1)
    began, ended = books.values("buffer-fault")
    assert (began["since"], ended["lasted_s"]) == (None, 60.0)
    assert (ended["since"], ended["until"]) == ("2026-04-12T00:00:00.010000Z", "2026-04-12T00:01:00.010000Z")


@simulated
async def test_a_fault_there_already_at_the_start_is_told(books: MemoryBooks, clock: VirtualClock) -> None:
    """A store that was damaged when it was opened says so to the hub."""
    books.state = "damaged"
    async with running(bulletins_of(books, clock)):
        await asyncio.sleep(1)
    (values,) = books.values("buffer-fault")
    assert (values["state"], values["until"]) == ("damaged", None)


def test_the_virtual_clock_starts_at_midnight() -> None:
    """The times in these tests are reckoned from it."""
    assert (
        datetime.fromisoformat("2026-04-11T00:00:00+00:00").timestamp() * NS_PER_S == START_NS > EARLIEST_PLAUSIBLE_NS
    )
