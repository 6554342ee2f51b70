"""Which of the things a radio hears belong to a profile: advertisements by company or service, or characteristics.

A frame heard by radio is the sender's address in printed order, 6 bytes, and behind it for each part its number as it
is on air, the low byte first, and its data: first the service data, then the manufacturer data. A part that was not
heard is left out. Of a characteristic the frame is the address, its UUID and its value. Of `advertisements: any` it is
the address and the advertising data as on air: each structure's length, type and data.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from edge_gateway.codec.fields import Misdeclared
from edge_gateway.config.settings import OneOrManySchema, Settings, one_or_many

CompanyId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4}$"), Field(examples=["0499"])]
"""A company identifier of the Bluetooth assigned numbers, as it is printed there."""
Uuid: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9a-f]{4}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$"),
    Field(examples=["fcd2", "f0cd1400-95da-4f4b-9ac8-aa55d312af0c"]),
]
"""A UUID of 16 or 128 bits, as it is printed."""


def _as_printed(value: Any) -> Any:
    """Let one number stand for a list of one, and capitals for small letters."""
    many = one_or_many(value)
    if any(isinstance(each, int) for each in many):
        raise Misdeclared(f"{value!r} is a number", remedy="Put the digits in quotes, as they are printed: '0499'")
    return [each.lower() if isinstance(each, str) else each for each in many]


CompanyIds: TypeAlias = Annotated[tuple[CompanyId, ...], BeforeValidator(_as_printed), OneOrManySchema()]
Uuids: TypeAlias = Annotated[tuple[Uuid, ...], BeforeValidator(_as_printed), OneOrManySchema()]


class Radio(Settings):
    """What to listen for."""

    advertisements: Literal["any"] | None = None
    """All advertisements, whole, for a decoder that sorts them itself."""
    manufacturer_data: CompanyIds | Literal["any"] = ()
    """Advertisements with manufacturer data under one of these, or whatever its company is."""
    service_data: Uuids = ()
    """Advertisements with data of one of these services."""
    characteristics: Uuids = ()
    """Values of these characteristics, read or notified over a connection."""
    local_name: str | None = Field(default=None, max_length=256, examples=["^GVH507[25]"])
    """If set, only of devices whose name matches this regular expression."""
    service_uuid: Uuid | None = None
    """If set, only of devices that advertise this service."""

    @field_validator("local_name")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise Misdeclared(
                f"{pattern!r} is no regular expression: {error}", remedy="For instance: ^GVH507"
            ) from error
        return pattern

    @model_validator(mode="after")
    def _check_what(self) -> Radio:
        if not (self.advertisements or self.manufacturer_data or self.service_data or self.characteristics):
            raise Misdeclared(
                "nothing says what to listen for", remedy="For instance: {manufacturer_data: '0499'}, in quotes"
            )
        if self.advertisements and (self.manufacturer_data or self.service_data or self.characteristics):
            raise Misdeclared(
                "who takes all advertisements takes no part of them", key="advertisements", remedy="Keep one of the two"
            )
        if self.manufacturer_data == "any" and self.local_name is None:
            raise Misdeclared(
                "any company is everybody", key="local_name", remedy="Say what the devices are called: ^sps"
            )
        return self
