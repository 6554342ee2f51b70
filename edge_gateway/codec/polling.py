"""Devices that speak when they are asked: what to ask, how often, and how to know the answer.

A poll is a request of the profile with its values and the sample frame that answers it. On a line of polled devices no
frame is ever recognised by its looks: it is decoded as what was asked for, because many answers, those of Modbus first
of all, do not say what they answer. So two polls may well be answered by frames that look the same.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_gateway.codec.fields import FieldName
from edge_gateway.codec.names import Name
from edge_gateway.config.settings import Settings
from edge_gateway.records import Scalar

IntervalS = Annotated[float, Field(ge=0.01, le=86_400)]
TimeoutS = Annotated[float, Field(gt=0, le=60)]
Retries = Annotated[int, Field(ge=0, le=10)]
GapS = Annotated[float, Field(ge=0, le=10)]

EVERY_S = 10.0
TIMEOUT_S = 0.5
RETRIES = 1


class NothingNew(Settings):
    """An answer that is none: the device is well and has measured nothing since it was last asked."""

    frame: Name
    match: dict[FieldName, Scalar] = Field(default_factory=dict)
    """What it carries then. With other values, the same frame is a refusal."""


class Poll(Settings):
    """Something a device of this family is asked again and again."""

    frame: Name
    """The request it is asked with."""
    set: dict[FieldName, Scalar] = Field(default_factory=dict)
    """A value for every field of the request that is neither constant nor the address."""
    answer: Name
    """The sample frame that answers it."""
    nothing_new: NothingNew | None = None
    """How the device says that it has nothing new, if it does."""
    refused_by: tuple[Name, ...] = ()
    """Answer frames that say no, for instance the exceptions of Modbus."""
    start: Name | None = None
    """A command without arguments that goes before the first poll, and again after the device was silent or refused."""
    every_s: IntervalS = EVERY_S
    """Seconds from one request to the next."""
    timeout_s: TimeoutS = TIMEOUT_S
    """How long the device may take to begin its answer, beside the time that bytes take on the line."""
    retries: Retries = RETRIES
    """How often it is asked again at once when no answer comes, or a damaged one."""
    gap_s: GapS = 0.0
    """How long the line must have been quiet before the request. Modbus RTU adds its 3.5 characters by itself."""
    description: str = ""
