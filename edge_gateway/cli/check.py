"""`edge-gateway check`: says whether a configuration would run, without running it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import orjson
import typer

from edge_gateway.assembly import check_parts, payload_key_store
from edge_gateway.clock import SystemClock
from edge_gateway.config.devices import PathPort, ReplayPort
from edge_gateway.config.load import load_config
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.device_keys import missing_keys
from edge_gateway.keystore.generations import Generations
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities
from edge_gateway.transport.capture import read_capture


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")],
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Check a configuration, its profiles and its rules. Exits 0 if the gateway would start with it."""
    settings = load_config(config)
    parts = check_parts(settings, clock=SystemClock(settings.gateway.clock_trust))
    notes = [
        f"links: {link.name}: there is no {link.port.path} now; the gateway starts and waits for it"
        for link in settings.links
        if isinstance(link.port, PathPort) and not Path(link.port.path).exists()
    ]
    for link in settings.links:
        if isinstance(link.port, ReplayPort):
            with closing(read_capture(link.port.replay)) as lines:
                next(lines, None)
    payload_keys = payload_key_store(settings, parts.keys).names()
    if isinstance(settings.uplink, IotHubUplink):
        notes += _lacks_identity(
            settings.uplink, Identities(settings.gateway.data_directory / IDENTITIES_FILE), parts.keys
        )
    for link in settings.links:
        lacks = missing_keys(link, parts.codecs[link.profile].profile.key_names, payload_keys)
        # Not every sensor of a family encrypts, so a name that nobody gives is no mistake.
        notes += [f"links: {link.name}: {lack}" for lack in lacks]
    if json:
        document = {
            "ok": True,
            "gateway": settings.gateway.name,
            "links": len(settings.links),
            "profiles": sorted(codec.profile.name for codec in parts.codecs.values()),
            "rules": len(settings.rules),
            "uplink": parts.uplink.endpoint,
            "notes": notes,
        }
        typer.echo(orjson.dumps(document))
        return
    typer.echo(f"{config}: good. {len(settings.links)} links, {len(settings.rules)} rules, to {parts.uplink.endpoint}")
    for note in notes:
        typer.echo(f"note: {note}")


def _lacks_identity(uplink: IotHubUplink, identities: Identities, keys: KeyStore) -> list[str]:
    """What is missing for the gateway to prove who it is, in a sentence; nothing if nothing is."""
    if uplink.certificate_file is not None:
        return []
    key = uplink.key
    if uplink.host_name is None:
        identity = identities.own
        if identity is None:
            return ["uplink: the gateway has not been provisioned yet: edge-gateway provision --help"]
        key = identity.key
    if key and Generations(keys.names()).newest(key) is None:
        return [f"uplink: there is no key {key!r} yet; import it: edge-gateway keys import {key}"]
    return []
