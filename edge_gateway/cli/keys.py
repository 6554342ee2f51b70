"""`edge-gateway keys`: puts keys into the gateway's key store."""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from edge_gateway.assembly import key_store
from edge_gateway.config.load import load_config
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.software import LONGEST_KEY_BYTES

app = typer.Typer(help="The keys this gateway proves identities with.", no_args_is_help=True)

_Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")]


@app.command("import")
def import_key(
    name: Annotated[str, typer.Argument(help="The name the configuration uses.")],
    config: _Config,
) -> None:
    """Read a key in base64 from standard input, as the portal shows it, and keep it under NAME.

    From standard input, because arguments are seen by every user of the machine.
    """
    text = sys.stdin.read(4 * LONGEST_KEY_BYTES).strip()
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyStoreError(
            "what came on standard input is not base64", where=f"key {name!r}", remedy="Paste the key and nothing else"
        ) from None
    key_store(load_config(config)).put(name, key)
    typer.echo(f"key {name!r} is kept")


@app.command("list")
def list_keys(config: _Config, json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False) -> None:
    """List the names of the keys kept."""
    names = key_store(load_config(config)).names()
    typer.echo(orjson.dumps(names) if json else "\n".join(names))
