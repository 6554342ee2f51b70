"""The far end of the uplink, and the verdict: is what was sent, what was acknowledged and what arrived the same?

A record is acknowledged when the gateway's ledger counts it as received: from then on it must survive whatever happens.
`verdict` holds four books against each other, each kept by somebody else:

- the sensors: which frame was written to the line, and when;
- the gateway's absences: when nobody read the lines;
- the ledger in the gateway's store;
- the receiver: what arrived, after dropping repeats by message id.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from edge_gateway.buffer import Account
from edge_gateway.testbench import DeliveryAccount, ReceivedMessage

from .feeder import Sensor, sample_values
from .gateway_process import PATIENCE_S, Absence


class Receiver:
    """What arrived at a hub or broker."""

    def __init__(self) -> None:
        self.account = DeliveryAccount(first_seq=1)
        self.events: list[dict[str, Any]] = []
        """Records of the alert lane, repeats dropped."""
        self.frames: defaultdict[str, list[int]] = defaultdict(list)
        """For each device the numbers of its frames, in the order of the gateway's own `seq`."""
        self.senders: defaultdict[str, set[str]] = defaultdict(set)
        """For each device the identities at the hub that its records came under."""
        self._faults: list[str] = []
        self._bodies: dict[str | None, bytes] = {}
        self._arrived = asyncio.Event()

    def add(self, message: ReceivedMessage) -> None:
        """Take one message; fits `LocalHub(on_message=...)`."""
        self.account.add(message)
        if message.message_id in self._bodies:
            # A receiver drops the second one unread, so whatever it says more is lost.
            if self._bodies[message.message_id] != message.body:
                self._faults.append(f"message {message.message_id} came again with other bytes")
            return
        self._bodies[message.message_id] = message.body
        for record in orjson.loads(message.body):
            self.senders[record["device"]].add(message.device_id)
            if "event" in record:
                self.events.append(record)
                continue
            number = record["values"]["uptime_ms"]
            if record["values"] != sample_values(number):
                self._faults.append(f"{record['device']}: frame {number} arrived as {record['values']}")
            if self.frames[record["device"]] and self.frames[record["device"]][-1] >= number:
                self._faults.append(
                    f"{record['device']}: frame {number} came after {self.frames[record['device']][-1]}"
                )
            self.frames[record["device"]].append(number)
        self._arrived.set()

    def faults(self, given_up: Mapping[str, int] | None = None) -> list[str]:
        return self.account.faults(given_up) + self._faults

    @property
    def records(self) -> int:
        """Unique records of both lanes."""
        return sum(self.account.records.values())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what arrived holds; it is judged again at each message."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"only {self.records} records arrived; faults so far: {self.faults()}") from None

    async def grows(self, records: int) -> None:
        """Wait until so many records more have arrived."""
        goal = self.records + records
        await self.until(lambda: self.records >= goal)


def verdict(
    receiver: Receiver,
    ledger: Mapping[tuple[str, str], Account],
    sensors: Sequence[Sensor] = (),
    absences: Sequence[Absence] = (),
) -> list[str]:
    """Everything that is wrong with a run that has ended, in words; empty if the promise was kept.

    Args:
        receiver: what arrived.
        ledger: the store's accounts after the last stop.
        sensors: what was sent, one to a link, under the names the gateway uses. Frames the gateway rejected for want of
            room are the ledger's business: a sensor of which it counts any may lack as many frames.
        absences: when nobody read the lines.
    """
    given_up: Counter[str] = Counter()
    for (device, _), books in ledger.items():
        given_up[device] += books.evicted
    return [
        *receiver.faults(given_up),
        *_ledger_faults(receiver, ledger),
        *(fault for sensor in sensors for fault in _line_faults(sensor, receiver, ledger, absences)),
    ]


def _ledger_faults(receiver: Receiver, ledger: Mapping[tuple[str, str], Account]) -> list[str]:
    arrived = receiver.account.records
    faults = []
    for device, lane in sorted(ledger.keys() | arrived.keys()):
        books = ledger.get((device, lane), Account())
        if books.quarantined:
            faults.append(f"{device} {lane}: {books.quarantined} records are not in the store any more: {books}")
        if books.balance():
            faults.append(f"{device} {lane}: {books.balance()} records were received and are nowhere: {books}")
        # What arrived may have been dropped before the gateway could note that it had.
        if not books.delivered <= arrived.get((device, lane), 0) <= books.delivered + books.evicted:
            faults.append(
                f"{device} {lane}: {books.delivered} delivered by the ledger, {arrived.get((device, lane), 0)} arrived"
            )
    return faults


def _line_faults(
    sensor: Sensor,
    receiver: Receiver,
    ledger: Mapping[tuple[str, str], Account],
    absences: Sequence[Absence],
) -> list[str]:
    """Frames that were sent while the gateway read the line, and never arrived."""
    arrived = set(receiver.frames[sensor.name])
    link = sensor.name
    missing = [
        number
        for number, at_s in enumerate(sensor.sent_at_s)
        if number not in arrived
        and not any(
            absence.from_s - absence.in_hand_s <= at_s <= absence.to_s.get(link, float("inf")) for absence in absences
        )
    ]
    books = ledger.get((sensor.name, "normal"), Account())
    if len(missing) > books.rejected + books.evicted + books.queued:
        return [f"{sensor.name}: frames {missing} were sent while the gateway was there, and never arrived"]
    return []
