"""Every device of the gateway by its name: those configured, and those that came by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from edge_gateway.link import Device, Link

_log = structlog.get_logger()

MOST_UNKNOWN_DEVICES: Final = 1_000
"""Devices a link may bring that the configuration does not list; a bus full of noise must not fill the memory."""


class Roster:
    """The devices behind all links.

    Args:
        links: with the devices that the configuration lists.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._devices = {device.name: device for link in links for device in link.devices.values()}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def get(self, name: str) -> Device | None:
        """The device of that name, if it was ever heard of."""
        return self._devices.get(name)

    def admit(self, link: Link, address: int | str | None) -> Device | None:
        """Take in a device the configuration does not list, or say that it is not wanted."""
        reason = ""
        if link.settings.unknown_devices == "reject":
            reason = "unknown-device"
        elif len(link.devices) - len(link.settings.devices) >= MOST_UNKNOWN_DEVICES:
            reason = "too-many-devices"
        if reason:
            if not link.rejects[reason]:
                _log.warning("device.rejected", link=link.name, address=address, reason=reason)
            link.rejects[reason] += 1
            return None
        name = link.name if address is None else f"{link.name}-{address}"
        while name in self._devices:
            name += "-2"
        device = self._devices[name] = link.add(name, address, link.lane)
        _log.info("device.arrived", device=name, link=link.name, profile=link.codec.profile.name)
        return device
