"""From a configuration to a gateway: makes every part and hands it what it needs.

The rooms know nothing of each other and nothing of the configuration as a whole; this is where the two meet.
`check_parts` does all of it that needs no port, no hub and no disk.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from edge_gateway.assembly.buffer import BUFFER_FILE, RESERVE_FILE, make_data_directory, open_buffer, open_store
from edge_gateway.assembly.emergencies import key_store, make_emergency
from edge_gateway.assembly.keys import (
    DATA_KEYS_DIRECTORY,
    KEYS_DIRECTORY,
    PAYLOAD_KEYS_DIRECTORY,
    payload_key_store,
)
from edge_gateway.assembly.links import check_link, make_link, make_transport
from edge_gateway.assembly.rotation import make_keyring, make_reregistration, make_rotation
from edge_gateway.assembly.sensors import make_sensor_uplinks, sensor_identities
from edge_gateway.assembly.uplinks import make_uplink
from edge_gateway.clock import Clock
from edge_gateway.codec import Codec, Profile, compile_profile, load_profile
from edge_gateway.config.devices import LinkSettings
from edge_gateway.config.model import GatewayConfig
from edge_gateway.durable_file import replace_durably
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import CommandInvalid, ConfigError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.offload import Offload, Worker
from edge_gateway.own_commands import OWN_COMMANDS
from edge_gateway.pipeline import Gateway, SensorUplinks
from edge_gateway.replay_ledger import ReplayLedger
from edge_gateway.rules.rule_set import RuleSet, Vocabulary
from edge_gateway.transport import Transport
from edge_gateway.transport.capture import CaptureWriter, Capturing
from edge_gateway.uplink import Uplink
from edge_gateway.uplink.reregistering import Reregistering

__all__ = [
    "BUFFER_FILE",
    "DATA_KEYS_DIRECTORY",
    "KEYS_DIRECTORY",
    "PAYLOAD_KEYS_DIRECTORY",
    "RESERVE_FILE",
    "Parts",
    "check_parts",
    "key_store",
    "make_data_directory",
    "open_buffer",
    "open_gateway",
    "open_store",
    "payload_key_store",
]

_log = structlog.get_logger()

COUNTERS_FILE: Final = "counters.json"
DESIRED_FILE: Final = "desired.json"
MOST_CAPTURE_BYTES: Final = 1 << 30
"""Hours of a busy site. A capture that was forgotten must not fill the disk that the buffer needs."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a configuration declares, loaded and compiled, before anything is opened."""

    config: GatewayConfig
    codecs: dict[str, Codec]
    """By the profile's name or path as the links give it."""
    key_store: KeyStore
    """Not opened yet."""
    keys: RevocableKeyStore
    """The same, until all keys are wiped."""
    keyring: Keyring
    """Which of them are in use."""
    uplink: Uplink


def check_parts(config: GatewayConfig, *, clock: Clock) -> Parts:
    """Load profiles, compile them, and try everything in the configuration that can be tried without opening anything.

    Raises:
        ConfigError: a setting contradicts another, or names what does not exist.
        KeyStoreError: there is no key of the name that `certificate_key` gives.
        ProfileError: a profile is wrong.
    """
    codecs = {
        name: compile_profile(load_profile(name, config.gateway.profile_directories))
        for name in {link.profile for link in config.links}
    }
    for link in config.links:
        check_link(link, codecs[link.profile])
    RuleSet(config.rules, _vocabulary(codecs.values()), obeys=_obeys(config, codecs))
    codec_of = {device.name: codecs[link.profile] for link in config.links for device in link.devices}
    for rule in config.rules:
        codec_of_rule = next(each for each in codecs.values() if each.profile.name == rule.profile)
        for command in (rule.on_raise, rule.on_clear):
            if command is not None and command.device != config.gateway.name:
                codec = codec_of_rule if command.device is None else codec_of[command.device]
                try:
                    codec.encode_command(command.name, command.arguments, 0)
                except CommandInvalid as error:
                    raise ConfigError(str(error), where=f"rules: {rule.name}") from error
    store = key_store(config)
    keys = RevocableKeyStore(store)
    keyring = make_keyring(config, keys, clock)
    uplink = make_uplink(config, store, keys, keyring, clock=clock, rng=random.SystemRandom())
    return Parts(config, codecs, store, keys, keyring, uplink)


@asynccontextmanager
async def open_gateway(
    parts: Parts,
    *,
    clock: Clock,
    rng: random.Random,
    capture: Path | None = None,
    make_transport: Callable[[LinkSettings, Profile], Transport] = make_transport,
    uplink: Uplink | None = None,
    sensors: SensorUplinks | None = None,
    offload: Offload | None = None,
) -> AsyncIterator[Gateway]:
    """Open the store and make a gateway that is ready to run; leaving closes the store.

    Args:
        parts: from `check_parts`.
        clock: stamps readings.
        rng: jitter and ids.
        capture: a file to record what the links read.
        make_transport: makes a link's transport other than the configured one; for a bench without ports.
        uplink: used instead of the configured one; for a bench without a hub.
        sensors: the same for sensors with identities of their own.
        offload: where blocking calls of the store and the key store run; a thread for each of the two if left out.

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
        obeys=_obeys(config, parts.codecs),
        desired=_load_desired(desired_file),
        # Not by orjson, which knows less than a twin may hold: no numbers beyond 64 bits, no half characters.
        save_desired=lambda desired: replace_durably(desired_file, json.dumps({"rules": desired}).encode()),
    )
    reregistration = make_reregistration(config, parts.key_store, parts.keys, clock, rng)
    with ExitStack() as resources:
        writer = None
        if capture is not None:
            writer = resources.enter_context(CaptureWriter(capture, max_bytes=MOST_CAPTURE_BYTES, clock=clock))
        offload_keys = offload or resources.enter_context(Worker("keys"))
        keys = KeyStoreWatch(parts.keys, offload_keys)
        if offload is None:
            offload = resources.enter_context(Worker("buffer"))
        ledger = ReplayLedger(directory / COUNTERS_FILE, offload)
        payload_keys = payload_key_store(config, parts.keys)
        if sensors is None:
            sensors = make_sensor_uplinks(
                config,
                sensor_identities(config) if uplink is None else (),
                parts.codecs,
                keys=parts.keys,
                clock=clock,
                rng=rng,
                keyring=parts.keyring,
                resources=resources,
            )
        if uplink is None:
            uplink = Reregistering(parts.uplink, reregistration.register_if_possible)
        links = []
        for link in config.links:
            codec = parts.codecs[link.profile]
            transport = make_transport(link, codec.profile)
            if writer is not None:
                transport = Capturing(transport, writer)
            links.append(make_link(link, codec, payload_keys, transport, ledger, sensors.uplinks, offload_keys))
        async with open_buffer(config, clock=clock, rng=rng, offload=offload, keys=parts.keys) as buffer:
            yield Gateway(
                config.gateway.name,
                links,
                rules,
                buffer=buffer,
                uplink=uplink,
                sensors=sensors,
                delivery=config.delivery,
                buffer_settings=config.buffer,
                keys=keys,
                rotation=make_rotation(config, parts.keys, parts.keyring, buffer.rotate_key, reregistration, clock),
                emergency=make_emergency(config, parts.key_store, parts.keys, clock),
                clock=clock,
                rng=rng,
            )
            await ledger.close()


def _obeys(config: GatewayConfig, codecs: Mapping[str, Codec]) -> dict[str, frozenset[str]]:
    """What each listed device obeys, and the gateway itself."""
    of_devices = {
        device.name: frozenset(codecs[link.profile].profile.commands)
        for link in config.links
        for device in link.devices
    }
    return {**of_devices, config.gateway.name: frozenset(OWN_COMMANDS)}


def _vocabulary(codecs: Iterable[Codec]) -> dict[str, Vocabulary]:
    return {codec.profile.name: Vocabulary(codec.value_names, frozenset(codec.profile.commands)) for codec in codecs}


def _load_desired(path: Path) -> Sequence[Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        # The hub has the original and sends it again with the next connection.
        _log.warning("desired.unreadable", path=str(path), error=type(error).__name__)
        return None
    rules = document.get("rules") if isinstance(document, dict) else None
    return rules if isinstance(rules, list) else None
