"""Collects the subcommands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from edge_gateway import __version__
from edge_gateway.cli.lean import import_lean

_COMMANDS = (
    *("demo", "run", "check", "doctor", "status", "buffer", "ledger", "quarantine"),
    *("decode", "profiles", "schema", "keys", "provision", "hub"),
)


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
        import_lean()
    for name in [called] if called in _COMMANDS else _COMMANDS:
        module = import_module(f"edge_gateway.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
