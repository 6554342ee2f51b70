"""`edge-gateway check`: says whether a configuration would run, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from edge_gateway.assembly import check_parts, key_store, payload_key_store
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.config.model import IotHubUplink, PathPort
from edge_gateway.keystore.device_keys import missing_keys


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
    if isinstance(settings.uplink, IotHubUplink) and settings.uplink.key not in key_store(settings).names():
        key = settings.uplink.key
        notes.append(
            f"uplink: there is no key {key!r} yet; import it: edge-gateway keys import {key} --config {config}"
        )
    payload_keys = payload_key_store(settings).names()
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
