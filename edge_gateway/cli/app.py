"""Collects the subcommands and turns errors into sentences and exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import orjson
import typer

from edge_gateway import __version__
from edge_gateway.errors import CodecError, ConfigError, GatewayError, KeyStoreError

_COMMANDS = ("demo", "run", "check", "status", "decode", "profiles", "schema", "keys", "hub")


def collect(called: str) -> typer.Typer:
    """The command line, with the subcommand that is called, or all of them to choose from.

    Only what is called is imported: a gateway that runs for years shall not carry what draws tables.
    """
    app = typer.Typer(
        name="edge-gateway",
        help="A field gateway: binary frames from sensors to Azure IoT Hub, with nothing acknowledged ever lost.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_options)
    if called == "run":
        _import_structlog_alone()
    for name in [called] if called in _COMMANDS else _COMMANDS:
        module = import_module(f"edge_gateway.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _import_structlog_alone() -> None:
    """Import structlog without rich, which it would take along to draw tracebacks: 4 MiB that a gateway never uses."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python is told that there is no such module
    try:
        import_module("structlog")
    finally:
        del sys.modules["rich"]


def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; exits with one of the codes named in `edge_gateway.cli`."""
    try:
        collect(sys.argv[1] if len(sys.argv) > 1 else "")()
    except GatewayError as error:
        if "--json" in sys.argv:
            document = {"error": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError | CodecError | KeyStoreError) else 3)
