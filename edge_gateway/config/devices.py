"""Links: the port of each, what is spoken there, and the devices behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from edge_gateway.config.link import FramingSettings, SerialLine, UsbMatch
from edge_gateway.config.names import Address, Name, PayloadKeyNames, PayloadKeyNamesForAddress, repeated
from edge_gateway.config.settings import Settings


class PathPort(Settings):
    """A serial port by path; `/dev/serial/by-id/...` stays the same when the port is renumbered."""

    path: str = Field(min_length=1, examples=["/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0"])


class UsbPort(Settings):
    """A USB serial adapter by what it says it is."""

    usb: UsbMatch


class ReplayPort(Settings):
    """A capture file instead of a port."""

    replay: Path = Field(description="A file written by `edge-gateway run --capture`.", examples=["night.capture"])
    captured_link: str | None = Field(
        default=None,
        description="Which link of the capture to play; this link's own name if left out.",
        examples=["boiler-room"],
    )
    speed: float | None = Field(default=1.0, gt=0, description="1 plays at true speed; null as fast as it can be read.")


def _port_kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else value.model_fields_set if isinstance(value, Settings) else ()
    return next((kind for kind in ("path", "usb", "replay") if kind in keys), None)


PortSettings: TypeAlias = Annotated[
    Annotated[PathPort, Tag("path")] | Annotated[UsbPort, Tag("usb")] | Annotated[ReplayPort, Tag("replay")],
    Discriminator(
        _port_kind,
        custom_error_type="port_kind",
        custom_error_message="a port is given by `path`, by `usb` or by `replay`, for instance {path: /dev/ttyUSB0}",
    ),
]


class DeviceSettings(Settings):
    """One device behind a link."""

    name: Name
    """The device's name in every reading, alert and command."""
    address: Address | None = Field(
        default=None,
        description="What the profile's identity field holds for this device; left out where the link carries one "
        "device and frames name nobody.",
        examples=[7],
    )
    keys: PayloadKeyNames = Field(
        default={},
        description="What the keys of its encrypted payloads are called in the key store, by the profile's names for "
        "them; `edge-gateway keys import NAME --payload` puts them there.",
    )
    lane: Name | None = Field(
        default=None, description="The buffer's lane for its readings, where it differs from the link's."
    )


class LinkSettings(Settings):
    """One serial port, or a capture played in its place, with the devices behind it."""

    name: Name
    """The link's name in status, logs and captures."""
    port: PortSettings
    """Which port, or which capture in its place."""
    profile: str = Field(
        min_length=1,
        description="The device profile spoken here: a name, or a path to a YAML file.",
        examples=["reference-climate"],
    )
    line: SerialLine | None = Field(
        default=None, description="Serial parameters, where they differ from the profile's."
    )
    framing: FramingSettings | None = Field(default=None, description="Framing, where it differs from the profile's.")
    devices: tuple[DeviceSettings, ...] = ()
    """The devices behind this link, to give them names."""
    keys: PayloadKeyNamesForAddress = Field(
        default={},
        description="As `keys` of a device, for all devices that name none. `{address}` is filled in, without colons, "
        "so that each device can have its own.",
    )
    unknown_devices: Literal["accept", "reject"] = Field(
        default="accept",
        description="What to do with a frame from an address that is not listed: accept it under the name "
        "LINK-ADDRESS, or reject and count it.",
    )
    poll_every_s: float | None = Field(
        default=None,
        ge=0.01,
        le=86_400,
        description="Seconds from one request to the next for devices that are polled, where it differs from the "
        "profile's.",
        examples=[60],
    )
    answer_timeout_s: float = Field(
        default=2.0, gt=0, le=60, description="How long a device may take to answer a command."
    )
    lane: Name | None = Field(
        default=None, description="The buffer's lane for readings from here, where it differs from `reading_lane`."
    )

    @model_validator(mode="after")
    def _devices_differ(self) -> Self:
        for address in repeated(device.address for device in self.devices):
            if address is None:
                raise ValueError("two devices have no address; only one that is alone on its link can do without")
            raise ValueError(f"two devices have the address {address!r}; each needs its own")
        return self
