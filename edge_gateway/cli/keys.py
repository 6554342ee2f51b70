"""`edge-gateway keys`: puts keys into the gateway's key stores, names them, and removes them; it never prints one."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Final, cast

import orjson
import typer

from edge_gateway.assembly import key_store, payload_key_store
from edge_gateway.config.load import load_config
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore, PayloadKeyStore, Secret
from edge_gateway.keystore.key_files import LONGEST_KEY_BYTES

app = typer.Typer(
    help="The keys this gateway proves identities with, and with --payload those of sensors that encrypt.",
    no_args_is_help=True,
)

_Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")]
_Name = Annotated[str, typer.Argument(help="The name the configuration uses.")]
_Payload = Annotated[bool, typer.Option("--payload", help="A key of encrypted sensor payloads, not of an identity.")]
_Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

_MOST_BYTES: Final = 4 * LONGEST_KEY_BYTES
_LOOKS_LIKE_HEX: Final = re.compile(rb"\s*(?:[0-9A-Fa-f]{16}){2,4}\s*")


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
    try:
        with _stores(config) as (identities, payloads):
            if payload:
                with _from_hex(name, text) as key:
                    payloads.put(name, key.reveal())
            else:
                with _from_base64(name, text) as key:
                    identities.put(name, key)
    finally:
        text[:] = bytes(len(text))
    typer.echo(f"key {name!r} is kept")


@app.command("create")
def create_key(name: _Name, config: _Config) -> None:
    """Make a random key under NAME that nobody ever sees, to sign with here and nowhere else."""
    with _stores(config) as (identities, _):
        if name in identities.names():
            raise KeyStoreError(
                "is there already, and would be lost",
                where=f"key {name!r}",
                remedy=f"Choose another name, or remove it first: edge-gateway keys remove {name}",
            )
        identities.create(name)
    typer.echo(f"key {name!r} is made")


@app.command("list")
def list_keys(config: _Config, payload: _Payload = False, json: _Json = False) -> None:
    """List the names of the keys kept."""
    with _stores(config) as (identities, payloads):
        names = (payloads if payload else identities).names()
    typer.echo(orjson.dumps(names) if json else "\n".join(names))


@app.command("remove")
def remove_key(name: _Name, config: _Config, payload: _Payload = False) -> None:
    """Forget the key NAME. A running gateway that has used it forgets it with its next start."""
    with _stores(config) as (identities, payloads):
        (payloads if payload else identities).remove(name)
    typer.echo(f"key {name!r} is removed")


@app.command("status")
def show_status(config: _Config, json: _Json = False) -> None:
    """Tell where keys are, how safe they are there, and whether they can be used now; if not, the exit code is 1."""
    answer: dict[str, object] = {}
    with _stores(config) as (identities, payloads):
        answer |= {"kind": identities.kind, "weakness": identities.weakness, "fault": ""}
        try:
            identities.check()
            answer |= {"identity_keys": len(identities.names()), "payload_keys": len(payloads.names())}
        except KeyStoreError as error:
            answer["fault"] = str(error)
    if json:
        typer.echo(orjson.dumps(answer))
    else:
        typer.echo("\n".join(f"{name.replace('_', ' '):<14}{value}" for name, value in answer.items() if value != ""))
    if answer["fault"]:
        raise typer.Exit(1)


@contextmanager
def _stores(config: Path) -> Iterator[tuple[KeyStore, PayloadKeyStore]]:
    """Where identities are, and where the keys of payloads are."""
    settings = load_config(config)
    with closing(key_store(settings)) as identities:
        yield identities, payload_key_store(settings, identities)


def _read(from_file: str) -> memoryview:
    """What was given; what is too long is no key, and is told by whoever makes one of it."""
    # Longer than a reader's own buffer, which then keeps no copy.
    given = bytearray(2 * io.DEFAULT_BUFFER_SIZE)
    if from_file == "-":
        size_bytes = cast("io.BufferedReader", sys.stdin.buffer).readinto(given)  # typed as what can be anything
    else:
        try:
            with Path(from_file).open("rb", buffering=0) as file:
                size_bytes = file.readinto(given)
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=from_file, remedy="Name a file with the key, or `-`"
            ) from error
    return memoryview(given)[: min(size_bytes, _MOST_BYTES)]


def _from_base64(name: str, text: memoryview) -> Secret:
    try:
        if _LOOKS_LIKE_HEX.fullmatch(text):
            raise ValueError("a sensor's key, which would do as base64 only by chance")
        return Secret.from_base64(text)
    except ValueError:
        raise KeyStoreError(
            "what was given is not base64",
            where=f"key {name!r}",
            remedy="Paste the key and nothing else; the key of a sensor's payloads needs --payload",
        ) from None


def _from_hex(name: str, text: memoryview) -> Secret:
    try:
        return Secret.from_hex(text)
    except ValueError:
        raise KeyStoreError(
            "what was given is not hexadecimal digits", where=f"key {name!r}", remedy="Paste the key and nothing else"
        ) from None
