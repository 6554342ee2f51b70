"""`edge-gateway keys`: puts keys into the gateway's key stores, names them, and removes them; it never prints one."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from edge_gateway.assembly import key_store, payload_key_store
from edge_gateway.config.load import load_config
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.software import LONGEST_KEY_BYTES, SoftwareKeyStore, SoftwarePayloadKeys

app = typer.Typer(
    help="The keys this gateway proves identities with, and with --payload those of sensors that encrypt.",
    no_args_is_help=True,
)

_Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")]
_Name = Annotated[str, typer.Argument(help="The name the configuration uses.")]
_Payload = Annotated[bool, typer.Option("--payload", help="A key of encrypted sensor payloads, not of an identity.")]

_MOST_BYTES = 4 * LONGEST_KEY_BYTES


@app.command("import")
def import_key(
    name: _Name,
    config: _Config,
    payload: _Payload = False,
    from_file: Annotated[
        str, typer.Option(help="A file with the key, and nothing else; `-` is standard input.", metavar="FILE")
    ] = "-",
) -> None:
    """Read a key from standard input or a file and keep it under NAME, in place of an older one.

    An identity's key is in base64, as the portal shows it; a payload's in hexadecimal digits, as apps show it. It is no
    argument, because arguments are seen by every user of the machine.
    """
    text = _read(from_file)
    key = _from_hex(name, text) if payload else _from_base64(name, text)
    _store(config, payload).put(name, key)
    typer.echo(f"key {name!r} is kept")


@app.command("list")
def list_keys(
    config: _Config,
    payload: _Payload = False,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List the names of the keys kept."""
    names = _store(config, payload).names()
    typer.echo(orjson.dumps(names) if json else "\n".join(names))


@app.command("remove")
def remove_key(name: _Name, config: _Config, payload: _Payload = False) -> None:
    """Forget the key NAME. A running gateway that has used it forgets it with its next start."""
    _store(config, payload).remove(name)
    typer.echo(f"key {name!r} is removed")


def _store(config: Path, payload: bool) -> SoftwareKeyStore | SoftwarePayloadKeys:
    settings = load_config(config)
    return payload_key_store(settings) if payload else key_store(settings)


def _read(from_file: str) -> str:
    """The text given; what is no text is no key either, and is told by whoever reads it."""
    if from_file == "-":
        given = sys.stdin.buffer.read(_MOST_BYTES)
    else:
        try:
            with Path(from_file).open("rb") as file:
                given = file.read(_MOST_BYTES)
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=from_file, remedy="Name a file with the key, or `-`"
            ) from error
    return given.decode("ascii", errors="replace").strip()


def _from_base64(name: str, text: str) -> bytes:
    try:
        if re.fullmatch(r"(?:[0-9A-Fa-f]{16}){2,4}", text):
            raise ValueError("a sensor's key, which would do as base64 only by chance")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyStoreError(
            "what was given is not base64",
            where=f"key {name!r}",
            remedy="Paste the key and nothing else; the key of a sensor's payloads needs --payload",
        ) from None


def _from_hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise KeyStoreError(
            "what was given is not hexadecimal digits", where=f"key {name!r}", remedy="Paste the key and nothing else"
        ) from None
