"""The links of a gateway: transport, framing, codec, and who asks and who judges what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from typing import TYPE_CHECKING, assert_never

from edge_gateway.arrivals import Arrivals
from edge_gateway.codec import Codec, Profile, compile_profile
from edge_gateway.config.devices import LinkSettings, PathPort, UsbPort
from edge_gateway.config.devices import ReplayPort as ReplaySettings
from edge_gateway.config.link import SerialLine
from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import Framer, make_framer
from edge_gateway.keystore import PayloadKeyStore
from edge_gateway.keystore.device_keys import DeviceKeys, key_names, meant_names, own_keys
from edge_gateway.link import Link
from edge_gateway.offload import Offload
from edge_gateway.replay_ledger import ReplayLedger
from edge_gateway.transport import Transport
from edge_gateway.transport.replay import ReplayPort
from edge_gateway.transport.serial_port import SerialPort

if TYPE_CHECKING:
    from edge_gateway.polling import PolledLine


def check_link(settings: LinkSettings, codec: Codec) -> None:
    """Try everything in a link's settings that can be tried without opening it.

    Raises:
        ConfigError: a setting contradicts the profile.
    """
    framer = make_framer(settings.framing or codec.profile.line_framing)
    _check_polled(settings, codec, framer)
    _check_keys(settings, codec.profile)


def make_link(
    settings: LinkSettings,
    codec: Codec,
    payload_keys: PayloadKeyStore,
    transport: Transport,
    ledger: ReplayLedger,
    routes: Container[str],
    offload: Offload,
) -> Link:
    """Put a link together.

    Args:
        settings: of the link.
        codec: compiled from its profile.
        payload_keys: for payloads that are encrypted.
        transport: the bytes.
        ledger: remembers counters over restarts.
        routes: names of the devices that have an identity of their own.
        offload: where payload keys are opened.
    """
    keys_opened: Callable[[], Awaitable[None]] | None = None
    if codec.profile.key_names:
        now_s = asyncio.get_running_loop().time
        keys = DeviceKeys(
            payload_keys,
            key_names(settings),
            now_s,
            own_keys(settings),
            meant=meant_names(settings),
            offload=offload,
        )
        codec = compile_profile(codec.profile, keys)
        keys.open_ahead()
        keys_opened = keys.opened
    framer = make_framer(settings.framing or codec.profile.line_framing)
    polled = _make_polled(settings, codec, framer, transport.write)
    arrivals = _make_arrivals(settings, codec.profile, ledger)
    return Link(settings, transport, framer, codec, polled, arrivals, routes, keys_opened)


def make_transport(settings: LinkSettings, profile: Profile) -> Transport:
    """The port, or the capture in its place."""
    line = settings.line or profile.line or SerialLine()
    match settings.port:
        case PathPort():
            return SerialPort(settings.name, line=line, path=settings.port.path)
        case UsbPort():
            return SerialPort(settings.name, line=line, usb=settings.port.usb)
        case ReplaySettings():
            return ReplayPort(
                settings.name,
                settings.port.replay,
                link=settings.port.captured_link or settings.name,
                speed=settings.port.speed,
            )
        case _:
            assert_never(settings.port)


def _make_arrivals(settings: LinkSettings, profile: Profile, ledger: ReplayLedger) -> Arrivals | None:
    """Who judges a link's counters and clocks; nobody where the profile declares none."""
    if not profile.replay and profile.time is None:
        return None
    # A capture is a recording played back on purpose, each time from the beginning.
    return Arrivals(settings.name, profile, None if isinstance(settings.port, ReplaySettings) else ledger)


def _make_polled(
    settings: LinkSettings, codec: Codec, framer: Framer, write: Callable[[bytes], Awaitable[None]]
) -> PolledLine | None:
    """Who asks the devices of a link; nobody where they speak by themselves, and in a capture, which answers nobody."""
    profile = codec.profile
    if not profile.polls or isinstance(settings.port, ReplaySettings):
        return None
    from edge_gateway.polling import LineTiming, PolledLine

    return PolledLine(
        settings.name,
        codec,
        framer,
        write,
        {device.address: device.name for device in settings.devices},
        timing=LineTiming.of(settings.line or profile.line or SerialLine(), settings.framing or profile.line_framing),
        every_s=settings.poll_every_s,
    )


def _check_keys(settings: LinkSettings, profile: Profile) -> None:
    """Raises ConfigError if keys are named that the link's profile does not know."""
    for where, keys in [("", settings.keys), *((f" {device.name}", device.keys) for device in settings.devices)]:
        for key in keys:
            if key not in profile.key_names:
                known = ", ".join(sorted(profile.key_names))
                raise ConfigError(
                    f"{profile.name} has no key {key!r}",
                    where=f"links: {settings.name}{where}",
                    remedy=f"Keys: {known}" if known else "Its payloads are not encrypted: leave out `keys`",
                )


async def _write_nowhere(_: bytes) -> None:
    """Nothing is written while a configuration is checked."""


def _check_polled(settings: LinkSettings, codec: Codec, framer: Framer) -> None:
    """Say what a link of polled devices lacks, or has too much.

    Raises:
        ConfigError: no device is listed, one has no address or cannot have it, nothing is polled that has an interval,
            or the framing cannot carry a request.
    """
    where = f"links: {settings.name}"
    profile = codec.profile
    if not profile.polls:
        if settings.poll_every_s is not None:
            raise ConfigError(f"{profile.name} polls nothing", where=where, remedy="Leave out `poll_every_s`")
        return
    if not settings.devices:
        address = "" if profile.identity is None else ", address: 1"
        raise ConfigError(
            f"{profile.name} answers only when asked, and no device is listed",
            where=where,
            remedy=f"Add its devices, for instance devices: [{{name: {settings.name}-1{address}}}]",
        )
    for device in settings.devices:
        if device.address is None and profile.identity is not None:
            raise ConfigError(
                f"the device {device.name!r} has no address", where=where, remedy="Give it the one it is set to"
            )
    try:
        polled = _make_polled(settings, codec, framer, _write_nowhere)
    except CodecError as error:
        raise ConfigError(str(error), where=f"{where} devices", remedy="Give each the address it is set to") from error
    try:
        for request in [] if polled is None else polled.requests():
            framer.encode(request)
    except CodecError as error:
        raise ConfigError(error.what, where=f"{where} framing", remedy=error.remedy) from error
