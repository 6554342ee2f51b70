"""The demonstration's account must be able to fail: every way of losing a record is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import pytest

from edge_gateway.buffer import Account
from edge_gateway.errors import ConfigError
from edge_gateway.testbench import ReceivedMessage
from edge_gateway.testbench.demo.outcome import HubBook, Outcome, SensorEntry, judge
from edge_gateway.testbench.demo.script import Action, Step, parse_faults
from edge_gateway.testbench.frame_ledger import FrameLedger

DEVICE, LINK = "sensor", "sensor-port"
TIME = "2026-05-01T12:00:00.000000Z"
ARRIVED_NS = 1_777_636_800_250_000_000
"""A quarter of a second after `TIME`."""


def reading(seq: int, device: str = DEVICE) -> dict[str, object]:
    return {"device": device, "profile": "tfmini", "seq": seq, "time": TIME, "values": {"number": seq}}


@dataclass
class Run:
    """Three frames and a broken one sent, all of it received and delivered in one message each."""

    ledger: FrameLedger = field(default_factory=lambda: FrameLedger(DEVICE))
    messages: list[tuple[str, bytes]] = field(
        default_factory=lambda: [(f"m{seq}", orjson.dumps([reading(seq)])) for seq in (1, 2, 3)]
    )
    store: dict[tuple[str, str], Account] = field(
        default_factory=lambda: {
            (DEVICE, "normal"): Account(received=3, delivered=3),
            (LINK, "normal"): Account(received=1, rejected=1),
        }
    )

    def __post_init__(self) -> None:
        for number in (1, 2, 3):
            self.ledger.wrote(1, 0.0, {"number": number}, broken_before=int(number == 2))

    def judged(self) -> Outcome:
        self.book = HubBook({DEVICE: self.ledger})
        for message_id, body in self.messages:
            self.book.add(ReceivedMessage("gw", message_id, {}, {}, body, 0.0, ARRIVED_NS))
        return judge({DEVICE: SensorEntry("tfmini", LINK, self.ledger)}, self.store, self.book, [])

    @property
    def readings(self) -> Account:
        return self.store[DEVICE, "normal"]


def test_a_run_in_which_nothing_was_lost_balances() -> None:
    """Sent, received, delivered and arrived agree, and repeats are no fault."""
    run = Run()
    run.messages.append(run.messages[0])
    outcome = run.judged()
    assert outcome.balanced
    assert outcome.repeats == 1
    assert outcome.total[1:] == (4, 1, 0, 4, 1, 3, 0, 0, 0, 3)
    assert run.book.latency_ms(0.5) == run.book.latency_ms(0.99) == 250.0


def drop_last_message(run: Run) -> None:
    del run.messages[2]


def drop_first_message(run: Run) -> None:
    del run.messages[0]


def swap_messages(run: Run) -> None:
    run.messages.reverse()


def alter_reading(run: Run) -> None:
    run.messages[1] = ("m2", orjson.dumps([reading(2) | {"values": {"number": 99}}]))


def repeat_under_new_id(run: Run) -> None:
    run.messages.append(("m4", orjson.dumps([reading(3)])))


def garble_message(run: Run) -> None:
    run.messages[1] = ("m2", b"{not json")


def add_stranger(run: Run) -> None:
    run.messages.append(("m4", orjson.dumps([reading(1, "stranger")])))


def forget_receiving(run: Run) -> None:
    run.readings.received = run.readings.delivered = 2


def leave_queued(run: Run) -> None:
    run.readings.delivered, run.readings.queued = 2, 1


def lose_in_the_store(run: Run) -> None:
    run.readings.received += 1


def reject_too_little(run: Run) -> None:
    run.store[LINK, "normal"] = Account()


def reject_too_much(run: Run) -> None:
    run.store[LINK, "normal"] = Account(received=2, rejected=2)


def lose_event(run: Run) -> None:
    run.store[DEVICE, "alert"] = Account(received=1, delivered=1)


def queue_event(run: Run) -> None:
    run.store[DEVICE, "alert"] = Account(received=1, queued=1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (drop_last_message, "sensor: 3 readings delivered, but 2 at the hub"),
        (drop_last_message, "sensor: a frame sent at 0.000 s never came, though the port stayed open"),
        (drop_first_message, "sensor: seq 1 to 1 missing"),
        (swap_messages, "sensor: seq 2 came after 3 in lane normal"),
        (alter_reading, "sensor: seq 2 is none of the frames on their way"),
        (repeat_under_new_id, "sensor: seq 3 came in two messages"),
        (garble_message, "gw: message m2 is not a JSON array"),
        (add_stranger, "stranger: is none of the sensors, and has records"),
        (forget_receiving, "sensor: 4 sent, but 3 received and 0 lost on the wire"),
        (leave_queued, "sensor: 1 readings are still queued"),
        (lose_in_the_store, "sensor: the gateway's own account is 1 off"),
        (reject_too_little, "sensor: 1 broken frames were read and 0 rejected"),
        (reject_too_much, "sensor: 1 broken frames were read and 2 rejected"),
        (lose_event, "sensor: 1 events delivered, but 0 at the hub"),
        (queue_event, "sensor: 1 events are still queued"),
    ],
)
def test_every_way_of_losing_something_is_told(spoil: Callable[[Run], None], sentence: str) -> None:
    """Each spoiled book makes the run unbalanced, and a sentence names the device and what is wrong."""
    run = Run()
    spoil(run)
    outcome = run.judged()
    assert not outcome.balanced
    assert any(imbalance.startswith(sentence) for imbalance in outcome.imbalances), outcome.imbalances
    assert outcome.document()["balanced"] is False


def test_what_went_wrong_beside_the_books_is_an_imbalance() -> None:
    """A gateway that crashed has failed, however well the numbers agree."""
    run = Run()
    book = HubBook({DEVICE: run.ledger})
    outcome = judge({DEVICE: SensorEntry("tfmini", LINK, run.ledger)}, run.store, book, ["the gateway ended"])
    assert outcome.imbalances[0] == "the gateway ended"


def test_faults_are_read_in_the_order_of_time() -> None:
    """Spans become a beginning and an end, moments one step, and all are sorted."""
    assert parse_faults("kill@8, unplug@10-12.5,cut@3-6,command@4") == [
        Step(3, Action.CUT),
        Step(4, Action.COMMAND),
        Step(6, Action.RESTORE),
        Step(8, Action.KILL),
        Step(10, Action.UNPLUG),
        Step(12.5, Action.PLUG_IN),
    ]
    assert parse_faults("") == []
    assert [step.action for step in parse_faults("cut@1-2,cut@2-3")] == [Action.CUT, Action.RESTORE] * 2


@pytest.mark.parametrize(
    "text",
    [
        *("cut", "cut@", "cut@3", "cut@6-3", "cut@3-3", "kill@3-4", "kill@-1", "kill@nan", "kill@inf", "cut@0-nan"),
        *("restore@3", "plug-in@3-4", "burn@3", "cut@1-3,cut@2-4", "@3"),
    ],
)
def test_a_fault_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    """The error names the part and shows what would do."""
    with pytest.raises(ConfigError) as caught:
        parse_faults(text)
    assert caught.value.where == "--faults"
    assert caught.value.remedy
