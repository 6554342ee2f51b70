"""The store against a plain model: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_gateway.buffer import Account
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.model import BufferSettings
from edge_gateway.records import Event, Lane, Message, Reading

DEVICES = st.sampled_from(["a", "b", "c"])
RECORDS = st.one_of(
    st.builds(lambda device: Reading(device, "p", 0, {}), DEVICES),
    st.builds(lambda device: Event(device, "r", "alert-raised", 0, {}), DEVICES),
)
SETTINGS = BufferSettings(max_message_age_s=2.0, max_records_per_message=5)


class StoreAgainstModel(RuleBasedStateMachine):
    """Appends, takes, settles, rewinds, restarts and lets time pass.

    The model keeps, for each lane, what is queued in order as (device, seq), and remembers every message it ever saw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.store = self.open()
        self.now_s = 0.0
        self.queued: dict[Lane, list[tuple[str, int]]] = {lane: [] for lane in Lane}
        self.last_seq: Counter[str] = Counter()
        self.received: Counter[tuple[str, Lane]] = Counter()
        self.delivered: Counter[tuple[str, Lane]] = Counter()
        self.rejected: Counter[tuple[str, Lane]] = Counter()
        self.seen: dict[str, bytes] = {}
        self.taken: list[Message] = []
        self.given_to: dict[Lane, int] = dict.fromkeys(Lane, 0)

    def open(self) -> Store:
        return Store(self.directory / "buffer.db", SETTINGS, rng=random.Random(1))

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(records=st.lists(RECORDS, max_size=12), rejected=st.lists(st.tuples(DEVICES, st.integers(1, 3)), max_size=2))
    def append(self, records: list[Reading | Event], rejected: list[tuple[str, int]]) -> None:
        self.store.write(Writes(records=list(records), rejected=rejected), self.now_s)
        for lane, kind in ((Lane.ALERT, Event), (Lane.NORMAL, Reading)):
            for record in records:
                if isinstance(record, kind):
                    self.last_seq[record.device] += 1
                    self.queued[lane].append((record.device, self.last_seq[record.device]))
                    self.received[record.device, lane] += 1
        for device, count in rejected:
            self.received[device, Lane.NORMAL] += count
            self.rejected[device, Lane.NORMAL] += count

    @rule()
    def take(self) -> None:
        message = self.store.take(self.now_s)
        if not isinstance(message, Message):
            return
        records = [(each["device"], each["seq"]) for each in orjson.loads(message.body)]
        expected = self.queued[message.lane][self.given_to[message.lane] :][: len(records)]
        assert records == expected, "a message holds the next records in order"
        assert self.seen.setdefault(message.id, message.body) == message.body, (
            "an id stands for the same bytes for ever"
        )
        assert message.records == len(records) <= (1 if message.lane is Lane.ALERT else 5)
        if message.lane is Lane.NORMAL:
            assert self.given_to[Lane.ALERT] == len(self.queued[Lane.ALERT]), "alerts go first"
        self.given_to[message.lane] += len(records)
        self.taken.append(message)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.taken))
        self.taken.remove(message)
        self.store.write(Writes(settled=[message]), self.now_s)
        records = {(each["device"], each["seq"]) for each in orjson.loads(message.body)}
        self.queued[message.lane] = [each for each in self.queued[message.lane] if each not in records]
        self.given_to[message.lane] -= len(records)
        for device, _ in records:
            self.delivered[device, message.lane] += 1

    @rule()
    def rewind(self) -> None:
        self.store.rewind()
        self.forget_taken()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()
        self.forget_taken()

    @rule(seconds=st.floats(0.1, 5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def forget_taken(self) -> None:
        self.taken.clear()
        self.given_to = dict.fromkeys(Lane, 0)

    @invariant()
    def the_books_agree(self) -> None:
        accounts = self.store.accounts()
        for key in {*self.received, *accounts}:
            device, lane = key
            assert accounts.get(key, Account()) == Account(
                received=self.received[key],
                delivered=self.delivered[key],
                queued=sum(each[0] == device for each in self.queued[lane]),
                rejected=self.rejected[key],
            )
        assert self.store.queued() == {lane: len(records) for lane, records in self.queued.items()}

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        waiting = self.given_to != {lane: len(records) for lane, records in self.queued.items()}
        assert self.store.may_give or not waiting


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
