"""The whole `gateway.yaml`, declared once: type, default, unit and meaning of every setting stand together.

What belongs to one room is in a file of its own beside this one. The same model as JSON Schema is printed by
`edge-gateway schema`. Secrets are never in it: it names keys in the key store, or files that only the gateway may read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from edge_gateway.clock import ClockTrust
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.devices import LinkSettings, PathPort, ReplayPort, UsbPort
from edge_gateway.config.key_store import KeyStoreSettings
from edge_gateway.config.names import Name, repeated
from edge_gateway.config.rules import ThresholdRule
from edge_gateway.config.settings import Settings
from edge_gateway.config.tamper import TamperSettings
from edge_gateway.config.uplink import DeliverySettings, MqttUplink, UplinkSettings


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
            for name in repeated(values):
                raise ValueError(f"two {what} have the name {name!r}; each needs its own")
            if what == "devices" and self.gateway.name in values:
                raise ValueError(
                    f"a device is called {self.gateway.name!r}, as the gateway itself, which has commands of its own; "
                    "it needs another name"
                )
        return self

    @model_validator(mode="after")
    def _hears_no_echo(self) -> Self:
        if isinstance(self.uplink, MqttUplink):
            self.uplink.check_hears_no_echo(self.gateway.name, [lane.name for lane in self.buffer.lanes])
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
