"""Collects the subcommands and turns errors into sentences and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import orjson
import typer

from edge_gateway import __version__
from edge_gateway.cli import check, decode, demo, keys, run, schema, status
from edge_gateway.errors import CodecError, ConfigError, GatewayError, KeyStoreError

app = typer.Typer(
    name="edge-gateway",
    help="A field gateway: binary frames from sensors to Azure IoT Hub, with nothing acknowledged ever lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (demo, run, check, status, decode, schema):
    app.command(module.NAME)(module.command)
app.add_typer(keys.app, name="keys")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; exits with one of the codes named in `edge_gateway.cli`."""
    try:
        app()
    except GatewayError as error:
        if "--json" in sys.argv:
            document = {"error": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError | CodecError | KeyStoreError) else 3)
