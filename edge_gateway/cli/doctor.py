"""`edge-gateway doctor`: names the cause of what is wrong, and the fix."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer

from edge_gateway.cli.leaving import leave
from edge_gateway.clock import SystemClock
from edge_gateway.doctor import CHECKS, Enrolment, Site, as_json, as_text, examine
from edge_gateway.doctor.site import GLOBAL_PROVISIONING_HOST
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.observability.log import configure_log

USUAL_CONFIG_FILE = Path("/etc/edge-gateway/gateway.yaml")
_MOST_SECRET_BYTES = 4096


def command(
    config: Annotated[
        Path, typer.Option("--config", "-c", readable=False, help="The gateway's configuration file.")
    ] = USUAL_CONFIG_FILE,
    registry: Annotated[
        str, typer.Option(help="A file with a connection string of the hub that may read its registry.", metavar="FILE")
    ] = "",
    send: Annotated[bool, typer.Option("--send", help="Send the hub one message, to see whether it takes it.")] = False,
    id_scope: Annotated[
        str, typer.Option(help="Ask the provisioning service with this ID scope, by registering.", metavar="SCOPE")
    ] = "",
    registration_id: Annotated[str, typer.Option(help="With --id-scope: who registers.", metavar="ID")] = "",
    enrolment_key: Annotated[
        str, typer.Option(help="With --id-scope: its key's name in the key store.", metavar="NAME")
    ] = "gateway",
    provisioning_host: Annotated[
        str, typer.Option(help="With --id-scope: the provisioning service.", metavar="HOST")
    ] = GLOBAL_PROVISIONING_HOST,
    enrolments: Annotated[
        str,
        typer.Option(help="With --id-scope: a file with a connection string that may read enrolments.", metavar="FILE"),
    ] = "",
    by_tpm: Annotated[bool, typer.Option("--by-tpm", help="With --id-scope: it is enrolled by its TPM.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Find out what is wrong with a gateway, and how to mend it. Works on a running gateway and on a stopped one.

    Exits 0 if all is well or there are only warnings, 1 if something is wrong, 2 if the call is.
    """
    configure_log("error", as_json=False)
    if id_scope and not registration_id:
        raise ConfigError("--id-scope needs --registration-id", remedy="Give the registration id of the enrolment")
    enrolment = Enrolment(
        id_scope,
        registration_id,
        enrolment_key,
        provisioning_host,
        by_tpm=by_tpm,
        registry=_secret(enrolments) if enrolments else None,
    )
    site = Site(
        config,
        SystemClock(),
        enrolment=enrolment if id_scope else None,
        registry=_secret(registry) if registry else None,
        sends=send,
        environment=os.environ,
    )
    asyncio.run(_examine(site, json))


async def _examine(site: Site, json: bool) -> NoReturn:
    outcomes = await examine(site, CHECKS)
    document = as_json(outcomes)
    if json:
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        for line in as_text(outcomes):
            typer.echo(line)
    # A check that hangs on a disk or device has left a thread behind that cannot be ended.
    leave(0 if document["ok"] else 1)


def _secret(file: str) -> Secret:
    try:
        with Path(file).open("rb") as reader:
            return Secret(reader.read(_MOST_SECRET_BYTES))
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=file, remedy="Name a file with the connection string"
        ) from error
