"""The whole `gateway.yaml`, declared once: type, default, unit and meaning of every setting stand together.

The same model as JSON Schema is printed by `edge-gateway schema`. Secrets are never in it: it names keys in the key
store, or files that only the gateway may read.
"""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edge_gateway.clock import ClockTrust
from edge_gateway.config.key_store import KeyStoreSettings
from edge_gateway.config.link import FramingSettings, SerialLine, UsbMatch
from edge_gateway.config.settings import Settings
from edge_gateway.config.tamper import TamperSettings

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _name(text: str) -> str:
    if not re.match(_NAME, text) or text.endswith("\n"):
        raise ValueError("not a name; at most 64 letters, digits, `.`, `_` and `-` would do, for instance boiler-room")
    return text


Name: TypeAlias = Annotated[
    str, AfterValidator(_name), Field(examples=["boiler-room"], json_schema_extra={"pattern": _NAME})
]


_HOST: Final = r"^(?:[^\s:/=;,?#@\\]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)$"
"""A name, an IPv4 address, or an IPv6 address, which has two colons at least."""


def _host(text: str) -> str:
    if not re.match(_HOST, text) or text.endswith("\n"):
        raise ValueError("not the name of a host; the name alone would do, without scheme, port and path")
    return text


HostName: TypeAlias = Annotated[str, AfterValidator(_host), Field(json_schema_extra={"pattern": _HOST})]


_MAY_BE_A_KEY: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){12,}")
"""What an app shows as a key would do as a name, too."""


def _key_name(text: str) -> str:
    if _MAY_BE_A_KEY.fullmatch(text):
        raise ValueError(
            "hexadecimal digits like those of a key, and keys stand in the key store; a name would do, for instance "
            "kitchen, with the key under it: edge-gateway keys import kitchen --payload"
        )
    return _name(text)


def _key_name_for_address(text: str) -> str:
    _key_name(text.replace("{address}", "0"))
    return text


# Not shown in errors: whoever misreads the word puts the secret itself here.
PayloadKeyNames: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_key_name)]],
    Field(repr=False, examples=[{"bindkey": "kitchen-bindkey"}]),
]
"""Names in the key store, by what the profile calls the keys."""
PayloadKeyNamesForAddress: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_key_name_for_address)]],
    Field(repr=False, examples=[{"bindkey": "bindkey-{address}"}]),
]
"""The same; `{address}` stands for the device's."""


_MAC = re.compile("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def _number_or_text(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not an address; a number or text would do, for instance 7")
    # Hardware addresses are printed in either case, and the codec says them in the lower one.
    return value.lower() if isinstance(value, str) and _MAC.fullmatch(value) else value


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("not a plain value; a number, true, false or text would do")
    return value


Address: TypeAlias = Annotated[int | str, BeforeValidator(_number_or_text)]
Argument: TypeAlias = Annotated[bool | int | float | str, BeforeValidator(_plain)]


class GatewaySettings(Settings):
    """The box itself."""

    name: Name = Field(description="Names this gateway in topics, status and logs.", examples=["plant-3"])
    data_directory: Path = Field(
        default=Path("/var/lib/edge-gateway"),
        description="Holds the buffer, the key store and the control socket. A relative path starts at the "
        "configuration file.",
    )
    profile_directories: tuple[Path, ...] = Field(
        default=(), description="Searched for device profiles before the ones in the package."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log events written to standard error."
    )
    clock_trust: ClockTrust = Field(
        default="plausible",
        description="When the box's clock is believed. `plausible`: when it shows 2026 or later. `synchronized`: once "
        "a time service has set it, as `timedatectl` says. A box without a battery for its clock starts at the date of "
        "its last shutdown, which is plausible and wrong: with systemd-timesyncd, chrony or ntpd on it, choose "
        "`synchronized`; not with BusyBox's ntpd, which does not tell the kernel, so that nothing would ever be "
        "believed. What is read before is corrected once the clock is believed, or marked.",
    )


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


def _repeated(values: Iterable[object]) -> list[object]:
    """What stands more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


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
        for address in _repeated(device.address for device in self.devices):
            if address is None:
                raise ValueError("two devices have no address; only one that is alone on its link can do without")
            raise ValueError(f"two devices have the address {address!r}; each needs its own")
        return self


class CommandOnAlert(Settings):
    """A command a rule sends down, to the device it is about or to another one."""

    name: str = Field(examples=["set-relay"])
    device: Name | None = Field(
        default=None,
        description="Another device, or this gateway by its own name; the device of the reading if left out.",
        examples=["boiler-room"],
    )
    arguments: dict[str, Argument] = Field(default_factory=dict, examples=[{"state": 1}])
    """What the command needs to know, as the profile declares it."""


class ThresholdRule(Settings):
    """Raises an alert when a value crosses a limit, and clears it when the value is well back.

    The distance between the two limits is the hysteresis: a value that trembles at the limit raises one alert.
    """

    name: Name
    """The rule's name; alerts carry it as their `source`."""
    kind: Literal["threshold"] = "threshold"
    profile: str = Field(description="Which devices: those of this profile.", examples=["reference-climate"])
    devices: tuple[Name, ...] = Field(default=(), description="Only these devices; all of the profile if empty.")
    value: str = Field(description="Which value of the profile.", examples=["temperature"])
    raise_above: float | None = Field(
        default=None, description="Raise when the value is greater than this.", examples=[30]
    )
    clear_below: float | None = Field(
        default=None, description="With `raise_above`: clear when it is less.", examples=[28]
    )
    raise_below: float | None = Field(default=None, description="Raise when the value is less than this.", examples=[5])
    clear_above: float | None = Field(
        default=None, description="With `raise_below`: clear when it is greater.", examples=[7]
    )
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
            raise ValueError(
                f"clear_below ({self.clear_below:g}) is above raise_above ({self.raise_above:g}); "
                f"{self.raise_above:g} or less would do"
            )
        if self.raise_below is not None and self.clear_above is not None and self.clear_above < self.raise_below:
            raise ValueError(
                f"clear_above ({self.clear_above:g}) is below raise_below ({self.raise_below:g}); "
                f"{self.raise_below:g} or more would do"
            )
        return self


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
        for name in _repeated(names):
            raise ValueError(f"two lanes have the name {name!r}; each needs its own")
        for what in ("event_lane", "reading_lane"):
            if getattr(self, what) not in names:
                raise ValueError(f"{what} {getattr(self, what)!r} is no lane; {', '.join(names)} would do")
        if any(lane.name == self.event_lane and lane.when_full == "refuse" for lane in self.lanes):
            raise ValueError("the lane of events cannot refuse, as nobody would hear of it; drop-oldest would do")
        return self


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


class SensorSessionSettings(Settings):
    """Sessions of sensors with identities of their own, which `edge-gateway provision leaves` makes."""

    hold: bool = Field(
        default=True,
        description="Keep each connected, so that commands reach it. Otherwise each connects when it has something to "
        "send, and commands wait for that.",
    )
    most_sessions: int = Field(default=1000, ge=1, le=10_000, description="Connected at once, at most.")
    connects_per_s: float = Field(
        default=20.0,
        gt=0,
        le=1000,
        description="Connect no faster than this. IoT Hub takes 100 a second in its small tiers, of all its devices.",
    )
    idle_s: float = Field(
        default=60.0, ge=1, le=86_400, description="Without `hold`, a session ends after so long with nothing to do."
    )


# Not shown in errors: whoever misreads the word puts the key itself here.
CertificateKeyName: TypeAlias = Annotated[
    Name | None,
    Field(
        default=None,
        description="The name of that key where it stays in the TPM, in place of a file; `edge-gateway keys csr` makes "
        "it. Needs `key_store: {kind: tpm}`.",
        examples=["gateway-tls"],
        repr=False,
    ),
]


def _check_certificate(certificate_file: Path | None, private_key_file: Path | None, key: str | None) -> None:
    """Refuse a key without its certificate, and two keys to one."""
    for name, value in (("private_key_file", private_key_file), ("certificate_key", key)):
        if value is not None and certificate_file is None:
            raise ValueError(f"`{name}` needs a `certificate_file`, the certificate the key belongs to")
    if private_key_file is not None and key is not None:
        raise ValueError(
            "`private_key_file` and `certificate_key` are two keys to one certificate; keep the one it was made for"
        )


class IotHubUplink(Settings):
    """Azure IoT Hub under the gateway's own device identity, and each sensor's that has one."""

    kind: Literal["iot-hub"] = "iot-hub"
    # Not shown in errors: whoever misreads the word puts the connection string with its key here.
    host_name: HostName | None = Field(
        default=None,
        description="The hub. Left out together with `device_id`, both are what `edge-gateway provision` has found.",
        examples=["plant.azure-devices.net"],
        repr=False,
    )
    device_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9\-.%_*?!(),=@$':]+$",
        description="This gateway's name at the hub; without `+` and `#`, for which MQTT has no topic.",
        examples=["gw-17"],
    )
    # Not shown in errors: whoever misreads the word puts the secret itself here.
    key: Name = Field(
        default="gateway",
        description="Name of the device's symmetric key in the key store; `edge-gateway keys import` puts it there.",
        examples=["gateway"],
        repr=False,
    )
    certificate_file: Path | None = Field(
        default=None,
        description="Certificate chain (PEM) to prove the identity by, in place of the symmetric key.",
        examples=["gateway.pem"],
    )
    private_key_file: Path | None = Field(
        default=None, description="The key to that certificate (PEM).", examples=["gateway.key"]
    )
    certificate_key: CertificateKeyName = None
    gateway_host_name: HostName | None = Field(
        default=None,
        description="The IoT Edge device to go through as its parent, in place of the hub itself.",
        examples=["edge.plant.example.com"],
    )
    ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) to trust instead of the system's, for a hub of one's own.",
        examples=["hub-ca.pem"],
    )
    token_lifetime_s: int = Field(default=3600, ge=300, le=86_400, description="How long a SAS token lives.")
    sensors: SensorSessionSettings = SensorSessionSettings.model_construct()
    """Sensors with identities of their own."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.host_name is None) != (self.device_id is None):
            raise ValueError(
                "give both `host_name` and `device_id`, or neither, to take what `edge-gateway provision` has found"
            )
        _check_certificate(self.certificate_file, self.private_key_file, self.certificate_key)
        if self.certificate_file is not None and self.private_key_file is None and self.certificate_key is None:
            raise ValueError("`certificate_file` needs its key; give `private_key_file`, or `certificate_key` in a TPM")
        if self.host_name is None and self.certificate_file is not None:
            raise ValueError(
                "`certificate_file` needs `host_name` and `device_id`; `edge-gateway provision` remembers its own"
            )
        return self


_PLACES_IN: Final = {
    "topic": ("gateway", "lane", "message_id"),
    "command_topic": ("gateway",),
    "answer_topic": ("gateway", "request"),
}
"""What is filled in, by setting."""


def _is_topic_filter(text: str) -> bool:
    """OASIS MQTT 3.1.1, section 4.7.1."""
    levels = text.split("/")
    return all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels) and "#" not in levels[:-1]


_ANYTHING: Final = "\0"
"""In a topic, for what is filled in when a message is sent; no topic has it otherwise."""


def _takes_in(topic_filter: str, topic: str) -> bool:
    """Whether a subscription may bring what goes to a topic. OASIS MQTT 3.1.1, section 4.7.1."""
    for wanted, level in itertools.zip_longest(topic_filter.split("/"), topic.split("/")):
        if wanted == "#":
            return True
        if wanted is None or level is None or (wanted not in ("+", level) and _ANYTHING not in level):
            return False
    return True


class MqttUplink(Settings):
    """Any MQTT 3.1.1 broker over TLS."""

    kind: Literal["mqtt"] = "mqtt"
    host: HostName = Field(examples=["broker.example.com"])
    port: int = Field(default=8883, ge=1, le=65_535)
    """A port that speaks TLS; there is no other way to a broker."""
    client_id: str | None = Field(default=None, description="The gateway's name if left out.", examples=["plant-3"])
    topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/{lane}/{message_id}",
        description="Where messages go. `{gateway}`, `{lane}` and `{message_id}` are filled in; the message id lets a "
        "receiver drop repeats.",
    )
    command_topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/commands/+",
        description="Where commands come from; `{gateway}` is filled in, and the last level is echoed in the answer.",
    )
    answer_topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/answers/{request}",
        description="Where answers go. `{gateway}` is filled in, and `{request}` with the command topic's last level.",
    )
    username: str | None = Field(default=None, examples=["plant-3"])
    password_file: Path | None = Field(
        default=None, description="File with the password, readable by the gateway only.", examples=["password.txt"]
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust instead of the system's.", examples=["broker-ca.pem"]
    )
    certificate_file: Path | None = Field(
        default=None, description="Client certificate chain (PEM).", examples=["gateway.pem"]
    )
    private_key_file: Path | None = Field(
        default=None, description="The client certificate's key (PEM).", examples=["gateway.key"]
    )
    certificate_key: CertificateKeyName = None

    @field_validator(*_PLACES_IN)
    @classmethod
    def _fillable(cls, template: str, info: ValidationInfo) -> str:
        places = _PLACES_IN[str(info.field_name)]
        would_do = f"{cls.model_fields[str(info.field_name)].default!r} would do"
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"cannot be filled in ({error}); {would_do}") from error
        for _, place, form, conversion in parts:
            if place is not None and (place not in places or form or conversion):
                raise ValueError(f"nothing fills in {{{place}}}; {would_do}")
        if info.field_name == "command_topic":
            if not _is_topic_filter(template):
                raise ValueError(f"not a topic filter: `+` is a whole level and `#` the last; {would_do}")
        elif "+" in template or "#" in template:
            raise ValueError(f"a message cannot go to a topic with wildcards; {would_do}")
        return template

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if self.password_file is not None and self.username is None:
            raise ValueError("`password_file` needs a `username`: MQTT 3.1.1 has no password without one")
        _check_certificate(self.certificate_file, self.private_key_file, self.certificate_key)
        return self


UplinkSettings: TypeAlias = Annotated[IotHubUplink | MqttUplink, Field(discriminator="kind")]


class GatewayConfig(Settings):
    """Everything a gateway needs to know."""

    gateway: GatewaySettings
    """The box itself."""
    links: tuple[LinkSettings, ...] = Field(min_length=1)
    """Where sensors are."""
    uplink: UplinkSettings
    """Where readings go; `kind` says which sort of hub."""
    key_store: KeyStoreSettings = KeyStoreSettings.model_construct()
    """Where keys are."""
    tamper: TamperSettings = TamperSettings.model_construct()
    """When to destroy them."""
    rules: tuple[ThresholdRule, ...] = ()
    """What to watch for. The twin's desired property `rules` replaces this list."""
    buffer: BufferSettings = BufferSettings.model_construct()
    """How readings are kept until they are delivered."""
    delivery: DeliverySettings = DeliverySettings.model_construct()
    """How they are delivered."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, values in (
            ("links", [link.name for link in self.links]),
            ("devices", [device.name for link in self.links for device in link.devices]),
            ("rules", [rule.name for rule in self.rules]),
        ):
            for name in _repeated(values):
                raise ValueError(f"two {what} have the name {name!r}; each needs its own")
            if what == "devices" and self.gateway.name in values:
                raise ValueError(
                    f"a device is called {self.gateway.name!r}, as the gateway itself, which has commands of its own; "
                    "it needs another name"
                )
        return self

    @model_validator(mode="after")
    def _hears_no_echo(self) -> Self:
        if not isinstance(self.uplink, MqttUplink):
            return self
        uplink, name = self.uplink, self.gateway.name
        sent = [
            ("topic", uplink.topic.format(gateway=name, lane=lane.name, message_id=_ANYTHING))
            for lane in self.buffer.lanes
        ]
        for key, topic in [*sent, ("answer_topic", uplink.answer_topic.format(gateway=name, request=_ANYTHING))]:
            if _takes_in(uplink.command_topic.format(gateway=name), topic):
                would_do = MqttUplink.model_fields["command_topic"].default
                raise ValueError(
                    f"`uplink.command_topic` takes in what `uplink.{key}` sends, so the gateway would answer itself "
                    f"without an end; {would_do!r} would do"
                )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        taken: dict[PathPort | UsbPort, str] = {}
        for link in self.links:
            if not isinstance(link.port, ReplayPort) and taken.setdefault(link.port, link.name) != link.name:
                raise ValueError(
                    f"the links {taken[link.port]!r} and {link.name!r} have the same port; a port serves one link, "
                    "with all devices behind it"
                )
        return self

    @model_validator(mode="after")
    def _lanes_are_there(self) -> Self:
        lanes = [lane.name for lane in self.buffer.lanes]
        wanted = {link.name: link.lane for link in self.links}
        wanted |= {device.name: device.lane for link in self.links for device in link.devices if device.lane}
        for name, lane in wanted.items():
            if lane is not None and lane not in lanes:
                raise ValueError(
                    f"{name} goes to the lane {lane!r}, which is not among the buffer's; {', '.join(lanes)} would do"
                )
        return self
