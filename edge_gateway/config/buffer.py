"""The buffer: how much is kept, how long, and what gives way."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edge_gateway.config.names import Name, repeated
from edge_gateway.config.settings import Settings


class LaneSettings(Settings):
    """A queue of the buffer with its own rank, lifetime and limit."""

    name: Name = Field(examples=["normal"])
    """The lane's name in topics, status and accounts."""
    ttl_s: float | None = Field(
        default=None,
        gt=0,
        le=10 * 366 * 86_400,
        description="How long a record is worth sending, from its arrival. Older ones are dropped and counted as "
        "expired. null keeps them for ever.",
        examples=[604_800],
    )
    max_bytes: int | None = Field(
        default=None,
        ge=64 * 1024,
        description="Bytes of this lane on disk at most, compressed and encrypted as they are there. null leaves it "
        "to the limit of the whole.",
        examples=[16 << 20],
    )
    when_full: Literal["drop-oldest", "drop-newest", "thin", "refuse"] = Field(
        default="drop-oldest",
        description="What gives way: `drop-oldest` what has waited longest; `drop-newest` what comes in; `thin` keeps "
        "every n-th of what waits, so that a long outage leaves a coarser curve without a hole; `refuse` takes nothing "
        "more. All of it is counted by device and told to the hub.",
    )
    keep_every: int = Field(
        default=2, ge=2, le=1000, description="With `thin`: of each device every so many-th record is kept."
    )
    max_records_per_message: int | None = Field(
        default=None, ge=1, le=10_000, description="Where it differs from the buffer's.", examples=[1]
    )
    max_message_age_s: float | None = Field(
        default=None, ge=0, le=3600, description="Where it differs from the buffer's.", examples=[0]
    )


class BufferSettings(Settings):
    """The store on disk."""

    lanes: tuple[LaneSettings, ...] = Field(
        default=(
            LaneSettings.model_construct(name="alert", max_records_per_message=1, max_message_age_s=0.0),
            LaneSettings.model_construct(name="normal"),
            LaneSettings.model_construct(name="bulk", max_message_age_s=10.0),
        ),
        min_length=1,
        max_length=16,
        description="The queues, the most urgent first. A lane that waits gets one message in ten however much the "
        "more urgent ones have to say. A lane that is taken out of this list is still delivered until it is empty.",
    )
    event_lane: Name = Field(default="alert", description="Where alerts and other events go.", examples=["alert"])
    reading_lane: Name = Field(
        default="normal",
        description="Where readings go, unless their link or device names another lane.",
        examples=["normal"],
    )
    max_disk_bytes: int = Field(
        default=1 << 30,
        ge=4 << 20,
        description="All that the buffer takes on disk at most: its database with free pages, its log and its reserve. "
        "Beyond it the least urgent lanes give way, each by its own `when_full`.",
    )
    reserve_bytes: int = Field(
        default=8 << 20,
        ge=0,
        le=1 << 30,
        description="Kept free on disk for the buffer, and given up when others have filled the disk, so that what was "
        "delivered can still be taken off the store. At most a quarter of `max_disk_bytes` is used.",
    )
    commit_within_s: float = Field(
        default=0.010,
        ge=0,
        le=1,
        description="How long records may wait for others to share a sync of the disk, when the last one is no longer "
        "ago than that. Alerts never wait. Longer spares flash memory.",
    )
    quarantine_bytes: int = Field(
        default=1 << 20,
        ge=0,
        le=1 << 30,
        description="Bytes kept of frames that could not become readings, with the reason, to be looked at and "
        "replayed once a profile is mended. The oldest go first and count as rejected.",
    )
    ledger_days: int = Field(
        default=31, ge=1, le=3660, description="How long the hourly account of each device is kept, days."
    )
    max_records_per_message: int = Field(
        default=500,
        ge=1,
        le=10_000,
        description="Readings put into one message at most. Alerts travel alone.",
    )
    max_message_bytes: int = Field(
        default=128 * 1024,
        ge=1024,
        le=256 * 1024 - 4096,
        description="Bytes of one message at most. IoT Hub takes 256 KiB with the properties.",
    )
    max_message_age_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="How long a reading may wait for others to share its message. 0 sends each as soon as it is "
        "durable; IoT Hub counts messages, so waiting saves quota. Alerts never wait.",
    )
    pending_records: int = Field(
        default=8_000,
        ge=100,
        description="Records held in memory while the disk is at work; beyond it the links wait, and while the disk "
        "fails, new frames are rejected and counted.",
    )
    settle_within_s: float = Field(
        default=0.25,
        ge=0,
        le=10,
        description="How long a delivered message may stay in the store before its removal is written. A crash within "
        "it sends those messages again under the same id.",
    )

    @model_validator(mode="after")
    def _lanes_are_there(self) -> Self:
        names = [lane.name for lane in self.lanes]
        for name in repeated(names):
            raise ValueError(f"two lanes have the name {name!r}; each needs its own")
        for what in ("event_lane", "reading_lane"):
            if getattr(self, what) not in names:
                raise ValueError(f"{what} {getattr(self, what)!r} is no lane; {', '.join(names)} would do")
        if any(lane.name == self.event_lane and lane.when_full == "refuse" for lane in self.lanes):
            raise ValueError("the lane of events cannot refuse, as nobody would hear of it; drop-oldest would do")
        return self
