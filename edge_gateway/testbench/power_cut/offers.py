"""What the workload offers the buffer: records and bad frames, each with a number and something secret in it.

It is remembered when and in which boot each was stamped, so that what the store makes of its time can be judged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, NamedTuple

from edge_gateway.buffer import BadFrame
from edge_gateway.clock import rfc3339, stamp
from edge_gateway.records import Event, Reading, Value
from edge_gateway.testbench.power_cut.contents import Contents, documents_of, frame_number
from edge_gateway.testbench.power_cut.settings import SETTINGS
from edge_gateway.testbench.power_cut.state import Problem
from edge_gateway.testbench.power_cut.world import WorldClock

DEVICES: Final = ("boiler", "door", "pump")
LINKS: Final = ("bus", "radio")

_TELLTALE: Final = "nobody-shall-read-this"
_SECRET_FRAME: Final = b"\x1bsecret frame\x1b"

SECRETS: Final = (_TELLTALE.encode(), _SECRET_FRAME, _SECRET_FRAME.hex().encode())
"""What must not be found in any file."""

_US_PER_S: Final = 1_000_000


class Offer(NamedTuple):
    """What is true of a record."""

    values: Mapping[str, Value]
    true_ns: int
    """When it was stamped."""
    shown_ns: int
    """What the clock showed then."""
    boot: str
    uptime_ns: int | None
    """None if the clock was trusted."""

    def is_told_truly(self, document: Mapping[str, Any]) -> bool:
        """Whether a document says of this record what is true, or that it does not know the time."""
        if document["values"] != self.values:
            return False
        if "time_trusted" in document:
            return self.uptime_ns is not None and (
                document["time_trusted"],
                document["time"],
                document["boot"],
                document["uptime_s"],
            ) == (False, rfc3339(self.shown_ns), self.boot, self.uptime_ns // 1000 / _US_PER_S)
        # A corrected time is cut to microseconds twice.
        times = [rfc3339(self.true_ns)] if self.uptime_ns is None else [rfc3339(self.true_ns - ns) for ns in (0, 1000)]
        return document["time"] in times and document.get("time_corrected", False) is (self.uptime_ns is not None)


class Offers:
    """Makes records and frames, over all lives of a chain."""

    def __init__(self) -> None:
        self.records: dict[int, Offer] = {}
        """By number."""
        self.frames: dict[int, BadFrame] = {}
        self._numbers = count(1)

    def record(self, clock: WorldClock, rng: random.Random, *, events: bool = True) -> Reading | Event:
        """A record of 100 bytes or some hundred; of all, one in a hundred too large for any message."""
        number = next(self._numbers)
        device = rng.choice(DEVICES)
        padding = rng.choices((0, rng.randint(0, 500), 2 * SETTINGS.max_message_bytes), (60, 39, 1))[0]
        values: dict[str, Value] = {"n": number, "text": _TELLTALE + rng.randbytes(padding // 2).hex()}
        stamped = stamp(clock)
        self.records[number] = Offer(values, clock.true_ns(), stamped.time_ns, clock.boot_id, stamped.uptime_ns)
        if events and rng.random() < 0.15:
            return Event(device, "hot", "alert-raised", stamped.time_ns, values, *stamped[1:])
        return Reading(device, "climate", stamped.time_ns, values, *stamped[1:])

    def frame(self, clock: WorldClock, rng: random.Random) -> BadFrame:
        """A bad frame; some are too large for the quarantine, and some for any message."""
        number = next(self._numbers)
        padding = rng.choices((0, rng.randint(0, 200), 700, SETTINGS.max_message_bytes), (50, 40, 8, 2))[0]
        data = number.to_bytes(4, "big") + _SECRET_FRAME + rng.randbytes(padding)
        self.frames[number] = frame = BadFrame(rng.choice(LINKS), "checksum", data, clock.now_ns(), clock.trusted)
        return frame

    def untruths(self, seen: Contents, before: Contents) -> list[Problem]:
        """What a store says of records and frames that is not so.

        Args:
            seen: what it holds.
            before: what it held when this was asked last; all that is still the same is passed over.
        """
        known = {chunk.id: chunk.payload for chunk in (*before.chunks, *before.quarantine)}
        problems = []
        for chunks, is_true in ((seen.chunks, self._is_record), (seen.quarantine, self._is_frame)):
            for chunk in chunks:
                if known.get(chunk.id) == chunk.payload:
                    continue
                documents = documents_of(chunk.payload)
                problems += [Problem("untrue", f"{document}") for document in documents if not is_true(document)]
                if len(documents) != chunk.records or sum(chunk.counts.values()) != chunk.records:
                    problems.append(Problem("untrue", f"chunk {chunk.id} does not hold what it says"))
        return problems

    def _is_record(self, document: Mapping[str, Any]) -> bool:
        offer = self.records.get(document["values"]["n"])
        return offer is not None and offer.is_told_truly(document)

    def _is_frame(self, document: Mapping[str, Any]) -> bool:
        data = bytes.fromhex(document["frame"])
        frame = self.frames.get(frame_number(data))
        if frame is None:
            return False
        told = {"link": frame.source, "reason": frame.reason, "time": rfc3339(frame.time_ns), "frame": data.hex()}
        return document == told | ({} if frame.time_trusted else {"time_trusted": False}) and data == frame.data


def fits_a_message(record: Reading | Event) -> bool:
    """The workload's records are either well below the limit or above it."""
    return len(str(record.values["text"])) < SETTINGS.max_message_bytes


def frame_fits_a_message(frame: BadFrame) -> bool:
    """The same of frames, which are written in hexadecimal."""
    return 2 * len(frame.data) < SETTINGS.max_message_bytes


def number_of(record: Reading | Event) -> int:
    """The number a record of the workload carries."""
    return int(str(record.values["n"]))
