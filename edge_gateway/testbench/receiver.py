"""The receiver's end: what arrived at the hub, and whether anything is missing, repeated or out of order.

The gateway sends at least once; the receiver drops repeats by message id. After that filter, `DeliveryAccount` checks
the promise record by record: each carries its device's `seq`, which grows by one over both lanes together. Alerts may
overtake readings, so order is judged within a lane and completeness over both.

```python
account = DeliveryAccount()
hub = LocalHub(..., on_message=account.add)
...
assert account.faults() == []
```
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson


class ReceivedMessage(NamedTuple):
    """One device-to-cloud message as it arrived, repeats included."""

    device_id: str
    """The identity that sent it; a gateway sends records of many devices under its own."""
    message_id: str | None
    properties: Mapping[str, str]
    """The application's."""
    system_properties: Mapping[str, str]
    """The sender's by their long names, e.g. `content-type`, and those the hub adds about the connection."""
    body: bytes
    received_s: float
    """Event loop time, seconds, for measuring."""
    enqueued_ns: int
    """Wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    module_id: str = ""
    """The module on the device that sent it; empty for the device itself."""


class SeqSet:
    """A set of integers that costs memory for its gaps and not for its members."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, seq: int) -> bool:
        """Add a number; False if it was there."""
        starts, ends = self._starts, self._ends
        place = bisect_right(starts, seq)
        if place and seq <= ends[place - 1]:
            return False
        joins_before = place > 0 and ends[place - 1] == seq - 1
        joins_after = place < len(starts) and starts[place] == seq + 1
        if joins_before and joins_after:
            ends[place - 1] = ends.pop(place)
            del starts[place]
        elif joins_before:
            ends[place - 1] = seq
        elif joins_after:
            starts[place] = seq
        else:
            starts.insert(place, seq)
            ends.insert(place, seq)
        return True

    def gaps(self, first: int | None = None) -> list[range]:
        """The numbers that are missing between `first`, or the lowest member, and the highest member."""
        gaps = [range(end + 1, start) for end, start in zip(self._ends, self._starts[1:], strict=False)]
        if first is not None and self._starts and self._starts[0] > first:
            gaps.insert(0, range(first, self._starts[0]))
        return gaps


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A record whose `seq` is not above the one before it in its device's lane."""

    device: str
    lane: str
    seq: int
    after: int


class DeliveryAccount:
    """Judges what a gateway delivered.

    Remembers every message id, so it grows with the number of messages: it is for tests and demonstrations.

    Args:
        first_seq: the number each device's records have to begin with; None accepts any.
    """

    def __init__(self, first_seq: int | None = None) -> None:
        self._first_seq = first_seq
        self._message_ids: set[tuple[str, str]] = set()
        self._seqs: defaultdict[str, SeqSet] = defaultdict(SeqSet)
        self._latest: dict[tuple[str, str], int] = {}
        self.unique_messages = 0
        self.repeated_messages = 0
        """Messages dropped because their id was known. At least once delivery may have them; they are no fault."""
        self.records: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Records of unique messages, by device and lane."""
        self.misplaced: list[Misplaced] = []
        self.repeated_records: list[tuple[str, int]] = []
        """Device and `seq` of records that came again in another message."""
        self.unreadable: list[str] = []
        """Why a message or record could not be judged, one sentence each."""

    def add(self, message: ReceivedMessage) -> None:
        """Take one message. Never raises: what cannot be read becomes a fault."""
        if message.message_id is None:
            self.unreadable.append(f"{message.device_id}: a message without message id")
        elif (identity := (message.device_id, message.message_id)) in self._message_ids:
            self.repeated_messages += 1
            return
        else:
            self._message_ids.add(identity)
        self.unique_messages += 1
        try:
            records = orjson.loads(message.body)
        except orjson.JSONDecodeError:
            records = None
        if not isinstance(records, list):
            self.unreadable.append(f"{message.device_id}: message {message.message_id} is not a JSON array")
            return
        for record in records:
            self._add_record(message, record)

    def missing(self) -> dict[str, list[range]]:
        """For each device with gaps, the `seq` that never came though later ones did."""
        gaps = {device: seqs.gaps(self._first_seq) for device, seqs in self._seqs.items()}
        return {device: missing for device, missing in gaps.items() if missing}

    def faults(self, given_up: Mapping[str, int] | None = None) -> list[str]:
        """Everything that breaks the promise, in words; empty if it was kept.

        Args:
            given_up: by device, how many records the gateway says it dropped; so many numbers may be missing.
        """
        lines = list(self.unreadable)
        lines += [f"{device}: seq {seq} came in two messages" for device, seq in self.repeated_records]
        lines += [
            f"{late.device}: seq {late.seq} came after {late.after} in lane {late.lane}" for late in self.misplaced
        ]
        lines += [
            f"{device}: seq {gap.start} to {gap.stop - 1} missing"
            for device, gaps in self.missing().items()
            if sum(map(len, gaps)) > (given_up or {}).get(device, 0)
            for gap in gaps
        ]
        return lines

    def _add_record(self, message: ReceivedMessage, record: Any) -> None:
        match record:
            case {"device": str(device), "seq": int(seq), "profile": str()}:
                lane = "normal"
            case {"device": str(device), "seq": int(seq), "event": str()}:
                lane = "alert"
            case _:
                self.unreadable.append(
                    f"{message.device_id}: message {message.message_id} has neither reading nor event"
                )
                return
        self.records[device, lane] += 1
        if not self._seqs[device].add(seq):
            self.repeated_records.append((device, seq))
            return
        latest = self._latest.get((device, lane))
        if latest is not None and seq <= latest:
            self.misplaced.append(Misplaced(device, lane, seq, latest))
        else:
            self._latest[device, lane] = seq
