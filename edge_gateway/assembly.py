"""From a configuration to a gateway: makes every part and hands it what it needs.

The rooms know nothing of each other and nothing of the configuration as a whole; this is where the two meet.
`check_parts` does all of it that needs no port, no hub and no disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import orjson
import structlog

from edge_gateway.arrivals import Arrivals
from edge_gateway.buffer.database import reserve_bytes
from edge_gateway.buffer.durable import DurableBuffer, Offload
from edge_gateway.buffer.reserve import ReserveFile
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store
from edge_gateway.buffer.worker import Worker
from edge_gateway.clock import Clock
from edge_gateway.codec import Codec, Profile, compile_profile, load_profile
from edge_gateway.config.link import SerialLine
from edge_gateway.config.model import GatewayConfig, IotHubUplink, LinkSettings, MqttUplink, PathPort, UsbPort
from edge_gateway.config.model import ReplayPort as ReplaySettings
from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import CodecError, CommandInvalid, ConfigError
from edge_gateway.framing import Framer, make_framer
from edge_gateway.keystore.data_keys import SoftwareDataKeys
from edge_gateway.keystore.device_keys import DeviceKeys, key_names, own_keys
from edge_gateway.keystore.software import SoftwareKeyStore, SoftwarePayloadKeys
from edge_gateway.pipeline import Gateway, Link
from edge_gateway.replay_ledger import ReplayLedger
from edge_gateway.rules.rule_set import RuleSet, Vocabulary
from edge_gateway.transport import Transport
from edge_gateway.transport.capture import CaptureWriter, Capturing
from edge_gateway.transport.replay import ReplayPort
from edge_gateway.transport.serial_port import SerialPort
from edge_gateway.uplink import Uplink
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.mqtt import MqttBroker

if TYPE_CHECKING:
    from edge_gateway.polling import PolledLine

_log = structlog.get_logger()

BUFFER_FILE = "buffer.db"
RESERVE_FILE = "buffer.reserve"
DATA_KEYS_DIRECTORY = "data-keys"
COUNTERS_FILE = "counters.json"
DESIRED_FILE = "desired.json"
KEYS_DIRECTORY = "keys"
PAYLOAD_KEYS_DIRECTORY = "payload-keys"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a configuration declares, loaded and compiled, before anything is opened."""

    config: GatewayConfig
    codecs: dict[str, Codec]
    """By the profile's name or path as the links give it."""
    uplink: Uplink


def check_parts(config: GatewayConfig, *, clock: Clock) -> Parts:
    """Load profiles, compile them, and try everything in the configuration that can be tried without opening anything.

    Raises:
        ConfigError: a setting contradicts another, or names what does not exist.
        ProfileError: a profile is wrong.
    """
    codecs = {
        name: compile_profile(load_profile(name, config.gateway.profile_directories))
        for name in {link.profile for link in config.links}
    }
    for link in config.links:
        framer = make_framer(link.framing or codecs[link.profile].profile.line_framing)
        _check_polled(link, codecs[link.profile], framer)
        _check_keys(link, codecs[link.profile].profile)
    RuleSet(config.rules, _vocabulary(codecs.values()))
    for rule in config.rules:
        codec = next(each for each in codecs.values() if each.profile.name == rule.profile)
        for command in (rule.on_raise, rule.on_clear):
            if command is not None:
                try:
                    codec.encode_command(command.name, command.arguments, 0)
                except CommandInvalid as error:
                    raise ConfigError(str(error), where=f"rules: {rule.name}") from error
    return Parts(config, codecs, _make_uplink(config, clock))


@asynccontextmanager
async def open_gateway(
    parts: Parts,
    *,
    clock: Clock,
    rng: random.Random,
    capture: Path | None = None,
    make_transport: Callable[[LinkSettings, Profile], Transport] | None = None,
    uplink: Uplink | None = None,
    offload: Offload | None = None,
) -> AsyncIterator[Gateway]:
    """Open the store and make a gateway that is ready to run; leaving closes the store.

    Args:
        parts: from `check_parts`.
        clock: stamps readings.
        rng: jitter and ids.
        capture: a file to record what the links read.
        make_transport: makes a link's transport instead of the configured one; for a bench without ports.
        uplink: used instead of the configured one; for a bench without a hub.
        offload: where the store's blocking calls run; a thread of its own if left out.

    Raises:
        ConfigError: the data directory cannot be used.
        BufferInUse: another gateway runs on it.
        BufferUnavailable: the store cannot be opened.
        TransportError: the capture file cannot be written.
    """
    config = parts.config
    directory = config.gateway.data_directory
    make_data_directory(directory)
    desired_file = directory / DESIRED_FILE
    rules = RuleSet(
        config.rules,
        _vocabulary(parts.codecs.values()),
        desired=_load_desired(desired_file),
        save_desired=lambda desired: replace_durably(desired_file, orjson.dumps({"rules": desired})),
    )
    with ExitStack() as resources:
        writer = resources.enter_context(CaptureWriter(capture, clock=clock)) if capture is not None else None
        if offload is None:
            offload = resources.enter_context(Worker("buffer"))
        ledger = ReplayLedger(directory / COUNTERS_FILE, offload)
        links = [_make_link(link, parts, make_transport or _make_transport, writer, ledger) for link in config.links]
        async with open_buffer(config, clock=clock, rng=rng, offload=offload) as buffer:
            yield Gateway(
                config.gateway.name,
                links,
                rules,
                buffer=buffer,
                uplink=uplink or parts.uplink,
                delivery=config.delivery,
                buffer_settings=config.buffer,
                clock=clock,
                rng=rng,
            )
            await ledger.close()


def make_data_directory(directory: Path) -> None:
    """Make the directory that holds everything a gateway keeps, if there is none.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot be made: {error.strerror}",
            where=f"data_directory {directory}",
            remedy="Choose another, or make it",
        ) from error


def open_store(config: GatewayConfig, *, clock: Clock, rng: random.Random) -> Store:
    """Open the store of a gateway, or make it.

    Raises:
        BufferInUse: a gateway runs on it.
        BufferUnavailable: it cannot be opened.
    """
    directory = config.gateway.data_directory
    return Store(
        directory / BUFFER_FILE,
        config.buffer,
        sealer=Sealer(SoftwareDataKeys(directory / DATA_KEYS_DIRECTORY)),
        clock=clock,
        rng=rng,
        reserve=ReserveFile(directory / RESERVE_FILE, reserve_bytes(config.buffer)),
    )


@asynccontextmanager
async def open_buffer(
    config: GatewayConfig, *, clock: Clock, rng: random.Random, offload: Offload | None = None
) -> AsyncIterator[DurableBuffer]:
    """Open the buffer of a gateway; leaving closes it.

    Args:
        config: whose.
        clock: tells how old records are.
        rng: makes the store's id.
        offload: where the store's blocking calls run; a thread of its own if left out.

    Raises:
        ConfigError: the data directory cannot be made.
        BufferInUse: a gateway runs on it.
        BufferUnavailable: it cannot be opened.
    """
    make_data_directory(config.gateway.data_directory)
    with ExitStack() as resources:
        if offload is None:
            offload = resources.enter_context(Worker("buffer"))
        store = open_store(config, clock=clock, rng=rng)
        async with DurableBuffer(
            store,
            settle_within_s=config.buffer.settle_within_s,
            commit_within_s=config.buffer.commit_within_s,
            offload=offload,
        ) as buffer:
            yield buffer


def key_store(config: GatewayConfig) -> SoftwareKeyStore:
    """The store that holds the keys a configuration names."""
    return SoftwareKeyStore(config.gateway.data_directory / KEYS_DIRECTORY)


def payload_key_store(config: GatewayConfig) -> SoftwarePayloadKeys:
    """The store that holds the keys of encrypted payloads."""
    return SoftwarePayloadKeys(config.gateway.data_directory / PAYLOAD_KEYS_DIRECTORY)


def _make_link(
    settings: LinkSettings,
    parts: Parts,
    make_transport: Callable[[LinkSettings, Profile], Transport],
    writer: CaptureWriter | None,
    ledger: ReplayLedger,
) -> Link:
    codec = parts.codecs[settings.profile]
    if codec.profile.key_names:
        keys = payload_key_store(parts.config)
        now_s = asyncio.get_running_loop().time
        codec = compile_profile(codec.profile, DeviceKeys(keys, key_names(settings), now_s, own_keys(settings)))
    transport = make_transport(settings, codec.profile)
    if writer is not None:
        transport = Capturing(transport, writer)
    framer = make_framer(settings.framing or codec.profile.line_framing)
    polled = _make_polled(settings, codec, framer, transport.write)
    return Link(settings, transport, framer, codec, polled, _make_arrivals(settings, codec.profile, ledger))


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
        ConfigError: no device is listed, one has no address or cannot have it, or nothing is polled that has an
            interval.
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
        _make_polled(settings, codec, framer, _write_nowhere)
    except CodecError as error:
        raise ConfigError(str(error), where=f"{where} devices", remedy="Give each the address it is set to") from error


def _make_transport(settings: LinkSettings, profile: Profile) -> Transport:
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


def _make_uplink(config: GatewayConfig, clock: Clock) -> Uplink:
    match config.uplink:
        case IotHubUplink():
            return IotHub(config.uplink, config.delivery, key_store=key_store(config), clock=clock)
        case MqttUplink():
            return MqttBroker(config.uplink, config.delivery, gateway=config.gateway.name)
        case _:
            assert_never(config.uplink)


def _vocabulary(codecs: Iterable[Codec]) -> dict[str, Vocabulary]:
    return {codec.profile.name: Vocabulary(codec.value_names, frozenset(codec.profile.commands)) for codec in codecs}


def _load_desired(path: Path) -> Sequence[Any] | None:
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        # The hub has the original and sends it again with the next connection.
        _log.warning("desired.unreadable", path=str(path), error=type(error).__name__)
        return None
    rules = document.get("rules") if isinstance(document, dict) else None
    return rules if isinstance(rules, list) else None
