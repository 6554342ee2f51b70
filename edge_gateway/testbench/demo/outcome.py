"""The exact account: what sensors sent, what the gateway kept and delivered, and what the hub has, held together.

Three books are kept by three parties that do not know each other: the sensors' ledgers, the gateway's store, and the
hub's. `judge` compares them for every device. Each line that does not add up becomes a sentence:

- sent = received + lost on the wire; every frame that did not arrive has a known reason
- broken = rejected + quarantined
- received = delivered + queued + expired + evicted + rejected + quarantined, in the gateway's own books
- delivered = at the hub, without repeats, for readings and for events
- the numbers a device's records have are complete and in order; nothing is left in the queue
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from edge_gateway.buffer import Account
from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.frame_ledger import FrameLedger
from edge_gateway.testbench.receiver import DeliveryAccount, ReceivedMessage

_LATENCIES_KEPT: Final = 100_000


class HubBook:
    """What arrived at the hub. Hand `add` to the hub as `on_message`.

    Args:
        ledgers: each sensor's, by device; told of every reading that arrives.
    """

    def __init__(self, ledgers: Mapping[str, FrameLedger]) -> None:
        self.delivery = DeliveryAccount(first_seq=1)
        self.events: Counter[str] = Counter()
        """Events by kind."""
        self.command_results: Counter[str] = Counter()
        """Outcomes of commands that rules sent, by status."""
        self.latencies_s: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        """From a reading's time to its arrival; the newest ones."""
        self.strangers: set[str] = set()
        """Devices the hub heard of that are no sensors of the bench."""
        self._ledgers = ledgers

    @property
    def readings(self) -> int:
        """Readings at the hub, without repeats."""
        return sum(count for (_, lane), count in self.delivery.records.items() if lane == "normal")

    def add(self, message: ReceivedMessage) -> None:
        """Take one message; one that repeats counts as such. Never raises: what is wrong becomes a fault."""
        known = self.delivery.unique_messages
        self.delivery.add(message)
        if self.delivery.unique_messages == known:
            return
        try:
            records = orjson.loads(message.body)
        except orjson.JSONDecodeError:
            return  # the delivery account has told it
        for record in records if isinstance(records, list) else ():
            self._add_record(record, message.enqueued_ns)

    def latency_ms(self, share: float) -> float | None:
        """The latency that this share of the readings stayed within; None before the first one."""
        if not self.latencies_s:
            return None
        ordered = sorted(self.latencies_s)
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    def _add_record(self, record: Any, arrived_ns: int) -> None:
        match record:
            case {"device": str(device), "seq": int(seq), "time": str(time), "profile": str(), "values": dict(values)}:
                ledger = self._ledgers.get(device)
                if ledger is None:
                    self.strangers.add(device)
                else:
                    ledger.arrive(seq, values)
                self.latencies_s.append(arrived_ns / NS_PER_S - datetime.fromisoformat(time).timestamp())
            case {"device": str(), "event": str(kind), "source": str(), "values": dict(values)}:
                self.events[kind] += 1
                if kind == "command-result":
                    self.command_results[str(values.get("status"))] += 1


class DeviceOutcome(NamedTuple):
    """One line of the account: the frames of one device."""

    profile: str
    sent: int
    """Frames the sensor made, broken ones included."""
    broken: int
    lost_on_wire: int
    received: int
    """Whole frames the gateway read and has on its books, rejected ones included."""
    rejected: int
    delivered: int
    queued: int
    expired: int
    evicted: int
    at_hub: int
    """Readings that arrived, without repeats."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the run came to."""

    devices: Mapping[str, DeviceOutcome]
    total: DeviceOutcome
    lost: Mapping[str, int]
    """Frames lost on the wire, by reason."""
    events: Mapping[str, int]
    """Alerts and outcomes of commands: received and delivered by the gateway, and at the hub."""
    repeats: int
    """Messages that came to the hub more than once and were dropped there."""
    messages: int
    imbalances: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether everything adds up."""
        return not self.imbalances

    def document(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "balanced": self.balanced,
            "imbalances": self.imbalances,
            "total": {key: value for key, value in self.total._asdict().items() if key != "profile"},
            "devices": {name: each._asdict() for name, each in self.devices.items()},
            "lost": dict(self.lost),
            "events": dict(self.events),
            "messages": self.messages,
            "repeats": self.repeats,
        }


class SensorEntry(NamedTuple):
    """A sensor as the account knows it."""

    profile: str
    link: str
    """The gateway's link; it counts what it rejects under this name."""
    ledger: FrameLedger


def judge(
    sensors: Mapping[str, SensorEntry], store: Mapping[tuple[str, str], Account], hub: HubBook, faults: Iterable[str]
) -> Outcome:
    """Hold the three books together. The sensors' ledgers are settled: call it when nothing more will arrive.

    Args:
        sensors: by device.
        store: the gateway's account of every device and lane, read from its store after it stopped.
        hub: what arrived.
        faults: what else went wrong, in sentences.
    """
    imbalances = list(faults)
    devices = {}
    for name, sensor in sensors.items():
        sensor.ledger.settle()
        devices[name] = _judge_device(name, sensor, store, hub, imbalances)
    events = _judge_events(sensors, store, hub, imbalances)
    known = {*sensors, *(sensor.link for sensor in sensors.values())}
    strangers = sorted({device for device, _ in store if device not in known} | hub.strangers)
    imbalances += [f"{device}: is none of the sensors, and has records" for device in strangers]
    imbalances += hub.delivery.faults()
    ledgers = [sensor.ledger for sensor in sensors.values()]
    total = DeviceOutcome("", *(sum(column) for column in zip(*(each[1:] for each in devices.values()), strict=True)))
    return Outcome(
        devices,
        total,
        {
            "port_closed": sum(ledger.lost_closed for ledger in ledgers),
            "not_read": sum(ledger.lost_unread for ledger in ledgers),
            "cut_off": sum(ledger.lost_cut_off for ledger in ledgers) + total.broken - total.rejected,
        },
        events,
        hub.delivery.repeated_messages,
        hub.delivery.unique_messages,
        imbalances,
    )


def _judge_device(
    name: str,
    sensor: SensorEntry,
    store: Mapping[tuple[str, str], Account],
    hub: HubBook,
    imbalances: list[str],
) -> DeviceOutcome:
    ledger = sensor.ledger
    readings, rejects = _books(store, name, "normal"), _books(store, sensor.link, "normal")
    rejected = sum(each.rejected + each.quarantined for each in (readings, rejects))
    received = readings.received + rejects.received
    lost = ledger.lost_good + ledger.broken - rejected
    at_hub = hub.delivery.records.get((name, "normal"), 0)

    imbalances += ledger.faults
    if not ledger.broken_read <= rejected <= ledger.broken_read + ledger.broken_cut_off:
        most = f" to {ledger.broken_read + ledger.broken_cut_off}" if ledger.broken_cut_off else ""
        imbalances.append(f"{name}: {ledger.broken_read}{most} broken frames were read and {rejected} rejected")
    if ledger.sent != received + lost:
        imbalances.append(f"{name}: {ledger.sent} sent, but {received} received and {lost} lost on the wire")
    for account in (readings, rejects):
        if account.balance():
            imbalances.append(f"{name}: the gateway's own account is {account.balance()} off: {asdict(account)}")
    if readings.delivered != at_hub:
        imbalances.append(f"{name}: {readings.delivered} readings delivered, but {at_hub} at the hub")
    if readings.queued:
        imbalances.append(f"{name}: {readings.queued} readings are still queued")
    return DeviceOutcome(
        profile=sensor.profile,
        sent=ledger.sent,
        broken=ledger.broken,
        lost_on_wire=lost,
        received=received,
        rejected=rejected,
        delivered=readings.delivered,
        queued=readings.queued,
        expired=readings.expired,
        evicted=readings.evicted,
        at_hub=at_hub,
    )


def _judge_events(
    sensors: Mapping[str, SensorEntry],
    store: Mapping[tuple[str, str], Account],
    hub: HubBook,
    imbalances: list[str],
) -> dict[str, int]:
    total = {"received": 0, "delivered": 0, "at_hub": 0}
    for name in sensors:
        account = _books(store, name, "alert")
        at_hub = hub.delivery.records.get((name, "alert"), 0)
        if account.balance() or account.rejected:
            imbalances.append(f"{name}: the gateway's account of events is off: {asdict(account)}")
        if account.delivered != at_hub:
            imbalances.append(f"{name}: {account.delivered} events delivered, but {at_hub} at the hub")
        if account.queued:
            imbalances.append(f"{name}: {account.queued} events are still queued")
        total["received"] += account.received
        total["delivered"] += account.delivered
        total["at_hub"] += at_hub
    return total


def _books(store: Mapping[tuple[str, str], Account], device: str, lane: str) -> Account:
    return store.get((device, lane), Account())
