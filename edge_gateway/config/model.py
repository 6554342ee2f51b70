"""The whole `gateway.yaml`, declared once: type, default, unit and meaning of every setting stand together.

The same model as JSON Schema is printed by `edge-gateway schema`. Secrets are never in it: it names keys in the key
store, or files that only the gateway may read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from edge_gateway.config.link import FramingSettings, SerialLine, Settings, UsbMatch

Name: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="letters, digits, `.`, `_` and `-`, at most 64 characters",
        examples=["boiler-room"],
    ),
]
Address: TypeAlias = int | str


class GatewaySettings(Settings):
    """The box itself."""

    name: Name = Field(description="Names this gateway in topics, status and logs.", examples=["plant-3"])
    data_directory: Path = Field(
        default=Path("/var/lib/edge-gateway"),
        description="Holds the buffer, the key store and the status socket. A relative path starts at the "
        "configuration file.",
    )
    profile_directories: tuple[Path, ...] = Field(
        default=(), description="Searched for device profiles before the ones in the package."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log events written to standard error."
    )


class PathPort(Settings):
    """A serial port by path; `/dev/serial/by-id/...` stays the same when the port is renumbered."""

    path: str = Field(min_length=1, examples=["/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0"])


class UsbPort(Settings):
    """A USB serial adapter by what it says it is."""

    usb: UsbMatch


class ReplayPort(Settings):
    """A capture file instead of a port."""

    replay: Path = Field(description="A file written by `edge-gateway run --capture`.")
    captured_link: str | None = Field(
        default=None, description="Which link of the capture to play; this link's own name if left out."
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
    address: Address | None = Field(
        default=None,
        description="What the profile's identity field holds for this device; left out where the link carries one "
        "device and frames name nobody.",
    )


class LinkSettings(Settings):
    """One serial port, or a capture played in its place, with the devices behind it."""

    name: Name
    port: PortSettings
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
    unknown_devices: Literal["accept", "reject"] = Field(
        default="accept",
        description="What to do with a frame from an address that is not listed: accept it under the name "
        "LINK-ADDRESS, or reject and count it.",
    )
    answer_timeout_s: float = Field(
        default=2.0, gt=0, le=60, description="How long a device may take to answer a command."
    )

    @model_validator(mode="after")
    def _devices_differ(self) -> Self:
        for what, values in (
            ("name", [device.name for device in self.devices]),
            ("address", [device.address for device in self.devices]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"two devices of link {self.name!r} have the same {what}")
        return self


class CommandOnAlert(Settings):
    """A command a rule sends down to the device it is about."""

    name: str = Field(examples=["set-relay"])
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)


class ThresholdRule(Settings):
    """Raises an alert when a value crosses a limit, and clears it when the value is well back.

    The distance between the two limits is the hysteresis: a value that trembles at the limit raises one alert.
    """

    name: Name
    kind: Literal["threshold"] = "threshold"
    profile: str = Field(description="Which devices: those of this profile.")
    devices: tuple[Name, ...] = Field(default=(), description="Only these devices; all of the profile if empty.")
    value: str = Field(description="Which value of the profile.", examples=["temperature"])
    raise_above: float | None = Field(default=None, description="Raise when the value is greater than this.")
    clear_below: float | None = Field(default=None, description="With `raise_above`: clear when it is less.")
    raise_below: float | None = Field(default=None, description="Raise when the value is less than this.")
    clear_above: float | None = Field(default=None, description="With `raise_below`: clear when it is greater.")
    on_raise: CommandOnAlert | None = Field(default=None, description="Sent to the device when the alert is raised.")
    on_clear: CommandOnAlert | None = Field(default=None, description="Sent to the device when the alert is cleared.")

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        high = (self.raise_above, self.clear_below)
        low = (self.raise_below, self.clear_above)
        if (None in high) == (None in low) or (high != (None, None) and low != (None, None)):
            raise ValueError(
                "give either `raise_above` and `clear_below`, or `raise_below` and `clear_above`, "
                "for instance raise_above: 30 with clear_below: 28"
            )
        if self.raise_above is not None and self.clear_below is not None and self.clear_below > self.raise_above:
            raise ValueError(f"clear_below ({self.clear_below}) must not be above raise_above ({self.raise_above})")
        if self.raise_below is not None and self.clear_above is not None and self.clear_above < self.raise_below:
            raise ValueError(f"clear_above ({self.clear_above}) must not be below raise_below ({self.raise_below})")
        return self


class BufferSettings(Settings):
    """The store on disk."""

    max_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        description="Payload bytes kept; beyond it the oldest readings are dropped and counted as evicted.",
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


class DeliverySettings(Settings):
    """How messages are brought to the hub."""

    in_flight: int = Field(default=8, ge=1, le=100, description="Messages sent and not yet confirmed, at most.")
    confirm_timeout_s: float = Field(
        default=20.0,
        gt=0,
        le=600,
        description="A message not confirmed for so long means that the link is silent: connect anew.",
    )
    keep_alive_s: int = Field(default=15, ge=5, le=1177, description="MQTT keep-alive.")
    connect_timeout_s: float = Field(default=20.0, gt=0, le=300, description="For name, TCP, TLS and CONNACK together.")
    retry_first_s: float = Field(default=1.0, gt=0, description="First pause before connecting again.")
    retry_most_s: float = Field(
        default=60.0,
        gt=0,
        description="The pause doubles up to this; each is jittered between half and whole.",
    )


class IotHubUplink(Settings):
    """Azure IoT Hub under the gateway's own device identity."""

    kind: Literal["iot-hub"] = "iot-hub"
    host_name: str = Field(min_length=1, examples=["plant.azure-devices.net"])
    device_id: str = Field(
        min_length=1, max_length=128, pattern=r"^[A-Za-z0-9\-.+%_#*?!(),=@$':]+$", examples=["gw-17"]
    )
    key: Name = Field(default="gateway", description="Name of the device's symmetric key in the key store.")
    ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) to trust instead of the system's, for a hub of one's own.",
    )
    token_lifetime_s: int = Field(default=3600, ge=300, le=86_400, description="How long a SAS token lives.")


class MqttUplink(Settings):
    """Any MQTT 3.1.1 broker over TLS."""

    kind: Literal["mqtt"] = "mqtt"
    host: str = Field(min_length=1, examples=["broker.example.com"])
    port: int = Field(default=8883, ge=1, le=65_535)
    client_id: str | None = Field(default=None, description="The gateway's name if left out.")
    topic: str = Field(
        default="edge-gateway/{gateway}/{lane}/{message_id}",
        description="Where messages go. `{gateway}`, `{lane}` and `{message_id}` are filled in; the message id lets a "
        "receiver drop repeats.",
    )
    command_topic: str = Field(
        default="edge-gateway/{gateway}/commands/+",
        description="Where commands come from; the last level is echoed in the answer.",
    )
    answer_topic: str = Field(default="edge-gateway/{gateway}/answers/{request}", description="Where answers go.")
    username: str | None = None
    password_file: Path | None = Field(
        default=None, description="File with the password, readable by the gateway only."
    )
    ca_file: Path | None = Field(default=None, description="Certificates (PEM) to trust instead of the system's.")
    certificate_file: Path | None = Field(default=None, description="Client certificate chain (PEM).")
    private_key_file: Path | None = Field(default=None, description="The client certificate's key (PEM).")

    @field_validator("topic", "command_topic", "answer_topic")
    @classmethod
    def _fillable(cls, template: str) -> str:
        try:
            template.format(gateway="g", lane="l", message_id="m", request="r")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"{template!r} has a place that nothing fills ({error}); {{gateway}}, {{lane}}, {{message_id}} would do"
            ) from error
        return template


UplinkSettings: TypeAlias = Annotated[IotHubUplink | MqttUplink, Field(discriminator="kind")]


class GatewayConfig(Settings):
    """Everything a gateway needs to know."""

    gateway: GatewaySettings
    links: tuple[LinkSettings, ...] = Field(min_length=1)
    uplink: UplinkSettings
    rules: tuple[ThresholdRule, ...] = ()
    buffer: BufferSettings = BufferSettings()
    delivery: DeliverySettings = DeliverySettings()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, values in (
            ("links", [link.name for link in self.links]),
            ("devices", [device.name for link in self.links for device in link.devices]),
            ("rules", [rule.name for rule in self.rules]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"two {what} have the name {twice[0]!r}; each needs its own")
        return self
