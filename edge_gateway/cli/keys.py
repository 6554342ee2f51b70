"""`edge-gateway keys`: puts keys into the gateway's key stores, names them, and removes them; it never prints one."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, cast

import orjson
import typer

from edge_gateway.api.control import NotRunning, ask
from edge_gateway.api.keys import WIPE_REASON
from edge_gateway.assembly import KEYS_DIRECTORY, key_store, payload_key_store
from edge_gateway.assembly.certificates import certificate_key_names
from edge_gateway.assembly.emergencies import make_wipe
from edge_gateway.assembly.keys import make_key_store
from edge_gateway.cli import boot_policy, certificate_request, key_rotation
from edge_gateway.cli.asking import check_owner
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.emergency import WipeReport
from edge_gateway.errors import ConfigError, GatewayError, KeyStoreError
from edge_gateway.keystore import KeyStore, PayloadKeyStore, Secret
from edge_gateway.keystore.generations import Generations, age_s, destroy_before, generation_name
from edge_gateway.keystore.key_files import LONGEST_KEY_BYTES
from edge_gateway.provisioning.dps import GLOBAL_HOST
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities
from edge_gateway.provisioning.secret_input import STANDARD_INPUT

app = typer.Typer(
    help="The keys this gateway proves identities with, and with --payload those of sensors that encrypt.",
    no_args_is_help=True,
)
app.add_typer(boot_policy.app, name="boot")
app.command("csr")(certificate_request.command)

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
        with _stores(config, bringing=True) as (identities, payloads):
            if payload:
                with _from_hex(name, text) as key:
                    payloads.put(name, key)
            else:
                with _from_base64(name, text) as key:
                    _check_not_rotated(identities, name)
                    identities.put(name, key)
    finally:
        text[:] = bytes(len(text))
    typer.echo(f"key {name!r} is kept")


@app.command("create")
def create_key(name: _Name, config: _Config) -> None:
    """Make a random key under NAME that nobody ever sees, to sign with here and nowhere else."""
    with _stores(config, bringing=True) as (identities, _):
        if Generations(identities.names()).of(name):
            raise KeyStoreError(
                "is there already, and would be lost",
                where=f"key {name!r}",
                remedy=f"Choose another name, or remove it first: edge-gateway keys remove {name}",
            )
        identities.create(name)
    typer.echo(f"key {name!r} is made")


@app.command("list")
def list_keys(
    config: _Config,
    payload: _Payload = False,
    generations: Annotated[
        bool, typer.Option("--generations", help="Each key as the store has it, the newest first, with its age.")
    ] = False,
    json: _Json = False,
) -> None:
    """List the names of the keys kept."""
    with _stores(config) as (identities, payloads):
        if payload:
            names = payloads.names()
        else:
            known = [each.key for each in Identities(_data_directory(config) / IDENTITIES_FILE)]
            keys = Generations(identities.names()).keys(known)
            names = list(keys)
            certificates = certificate_key_names(identities)
    if not payload and not generations:
        names = sorted([*names, *certificates])
    if payload or not generations:
        typer.echo(orjson.dumps(names) if json else "\n".join(names))
        return
    document = {name: _ages(config, name, numbers) for name, numbers in keys.items()}
    if json:
        typer.echo(orjson.dumps(document))
    else:
        lines = [f"{stored}  {_days(seconds)}" for ages in document.values() for stored, seconds in ages.items()]
        typer.echo("\n".join(lines))


@app.command("remove")
def remove_key(name: _Name, config: _Config, payload: _Payload = False) -> None:
    """Forget the key NAME and all its generations, or one by its full name. A session that is up goes on."""
    with _stores(config) as (identities, payloads):
        if payload:
            payloads.remove(name)
        elif not destroy_before(identities, name, keep=0):
            identities.remove(name)
    typer.echo(f"key {name!r} is removed")


@app.command("rotate")
def rotate_keys(
    config: _Config,
    name: Annotated[str, typer.Argument(help="The name the configuration uses; not with --all.")] = "",
    from_file: Annotated[
        str,
        typer.Option(
            help="A file with the new key in base64; `-` is standard input. Left out, it is read there, or comes from "
            "the provisioning service if the gateway's TPM proves it.",
            metavar="FILE",
        ),
    ] = "",
    keep_file: Annotated[bool, typer.Option("--keep-file", help="Do not erase the file that the key came in.")] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Bring no key, but destroy all of NAME except the newest, at once.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="The keys of all sensors that come by a group's key, from its new one.")
    ] = False,
    group_key: Annotated[
        str | None,
        typer.Option(help="For --all: a file with the group's new key in base64, or `-`.", metavar="FILE"),
    ] = None,
    id_scope: Annotated[str, typer.Option(help="For --all: the provisioning service's id scope.")] = "",
    host: Annotated[str, typer.Option(help="The provisioning service's host.")] = GLOBAL_HOST,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The provisioning service's port.")] = 443,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates (PEM) to trust in place of the system's.")] = None,
    json: _Json = False,
) -> None:
    """Bring a new key for NAME. A running gateway uses it within seconds if the hub takes it, and else the old one.

    The old one stays as long as the new one has not been taken, and then as its predecessor. So hub and gateway may
    get the new key in any order. The file it came in is erased.
    """
    if every == bool(name):
        raise ConfigError("which keys are to be rotated", where="keys rotate", remedy="Name one, or give --all")
    is_done = True
    with _stores(config, bringing=True) as (identities, _):
        if every:
            service = key_rotation.Service(id_scope, host, port, ca_file)
            settings = load_config(config)
            (document, lines), is_done = key_rotation.rotate_group(
                settings, identities, service, group_key, keep_file=keep_file
            )
        elif drop_old:
            document, lines = key_rotation.drop_old(load_config(config), identities, name)
        elif not from_file and key_rotation.registers_by_tpm(load_config(config), name):
            document, lines = key_rotation.register_again(load_config(config), identities)
        else:
            source = from_file or STANDARD_INPUT
            document, lines = key_rotation.rotate_one(identities, name, source, keep_file=keep_file)
    typer.echo(orjson.dumps(document) if json else "\n".join(filter(None, lines)))
    if not is_done:
        raise typer.Exit(1)


@app.command("status")
def show_status(config: _Config, json: _Json = False) -> None:
    """Tell where keys are, how safe they are there, and whether they can be used now; if not, the exit code is 1."""
    answer: dict[str, object] = {}
    with _stores(config) as (identities, payloads):
        answer |= {"kind": identities.kind, "weakness": identities.weakness, "fault": ""}
        try:
            identities.check()
            answer |= {
                "identity_keys": len(Generations(identities.names()).keys()),
                "payload_keys": len(payloads.names()),
            }
        except KeyStoreError as error:
            answer["fault"] = str(error)
    if json:
        typer.echo(orjson.dumps(answer))
    else:
        typer.echo("\n".join(f"{name.replace('_', ' '):<14}{value}" for name, value in answer.items() if value != ""))
    if answer["fault"]:
        raise typer.Exit(1)


@app.command("wipe")
def wipe_keys(
    config: _Config,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it cannot be undone.")] = False,
    json: _Json = False,
) -> None:
    """Destroy all keys of this gateway and its sensors for good, and what they protect; it runs no more after that.

    A running gateway tells its hub and stops. If something could not be destroyed, that is told and the exit code is 1.
    """
    settings = load_config(config)
    _confirm_wipe(settings, yes=yes)
    with closing(make_key_store(settings)) as identities:
        wipe = make_wipe(settings, identities, SystemClock(settings.gateway.clock_trust))
        try:
            asyncio.run(_ask_to_wipe(settings))
        except GatewayError as error:
            # One that does not answer must not keep the keys; what it has begun, it and we may both end.
            if not isinstance(error, NotRunning):
                typer.echo(f"the running gateway did not tell how its wipe ended: {error}", err=True)
            wipe.begin(WIPE_REASON)
        report = wipe.finish()
    typer.echo(orjson.dumps(asdict(report)) if json else _told(report))
    if report.left:
        raise typer.Exit(1)


def _confirm_wipe(settings: GatewayConfig, *, yes: bool) -> None:
    name = settings.gateway.name
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "destroys all keys for good, and there is nobody to ask", where="keys wipe", remedy="To mean it, give --yes"
        )
    typed = typer.prompt(
        f"All keys of {name} and of its sensors are destroyed for good. Type its name to go on", err=True
    )
    if typed != name:
        raise ConfigError(
            f"that is not {name!r}; nothing was done", where="keys wipe", remedy="Type the gateway's name"
        )


async def _ask_to_wipe(settings: GatewayConfig) -> None:
    """Have the gateway that runs do it, and wait until it has."""
    async for _ in ask(settings.gateway.data_directory, "keys.wipe"):
        pass


def _told(report: WipeReport) -> str:
    if not report.left:
        return "all keys are destroyed; disable the gateway and its sensors at the hub, too"
    left = "\n".join(f"  {each}" for each in report.left)
    return f"could not be destroyed, all else is:\n{left}"


@contextmanager
def _stores(config: Path, *, bringing: bool = False) -> Iterator[tuple[KeyStore, PayloadKeyStore]]:
    """Where identities are, and where the keys of payloads are.

    Args:
        config: the gateway's configuration file.
        bringing: a key is brought, which its gateway has to be able to read.
    """
    settings = load_config(config)
    if bringing:
        check_owner(settings.gateway.data_directory, "keys")
    with closing(key_store(settings)) as identities:
        yield identities, payload_key_store(settings, identities)


def _data_directory(config: Path) -> Path:
    return load_config(config).gateway.data_directory


def _ages(config: Path, name: str, numbers: list[int]) -> dict[str, float | None]:
    """Seconds since each generation came into the store."""
    settings = load_config(config)
    clock = SystemClock(settings.gateway.clock_trust)
    directory = settings.gateway.data_directory / KEYS_DIRECTORY
    return {stored: age_s(directory, stored, clock) for stored in (generation_name(name, each) for each in numbers)}


def _days(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 86_400:.0f} days"


def _check_not_rotated(store: KeyStore, name: str) -> None:
    """Refuse what would stand behind newer keys, where nobody would expect it."""
    if any(number > 1 for number in Generations(store.names()).of(name)):
        raise KeyStoreError(
            "has been rotated, so this would not be the newest key",
            where=f"key {name!r}",
            remedy=f"Bring it by `edge-gateway keys rotate {name}`",
        )


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
