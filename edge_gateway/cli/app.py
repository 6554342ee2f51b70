"""Collects the subcommands and turns errors into sentences and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Annotated

import orjson
import typer

from edge_gateway import __version__
from edge_gateway.errors import CodecError, ConfigError, GatewayError, KeyStoreError
from edge_gateway.hardening import harden_process

_COMMANDS = (
    *("demo", "run", "check", "doctor", "status", "buffer", "ledger", "quarantine"),
    *("decode", "profiles", "schema", "keys", "provision", "hub"),
)
_WITH_KEYS = ("doctor", "buffer", "ledger", "quarantine", "keys", "provision")
"""Those that have keys in memory for a moment. `run` sees to itself."""


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
        _import_lean()
    for name in [called] if called in _COMMANDS else _COMMANDS:
        module = import_module(f"edge_gateway.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _import_lean() -> None:
    """Import three libraries without what they take along for work that a gateway never does: 6 MiB in all."""
    # To draw tracebacks.
    _import_without("structlog", "rich")
    # To ask every installed package whether it extends pydantic; which of the two functions it calls, varies.
    _import_without("pydantic.plugin._loader", "importlib.metadata", entry_points=_nothing, distributions=_nothing)
    # To read from the environment which proxy leads to the broker, if it names one.
    if "mqtt_proxy" not in map(str.lower, os.environ):
        _import_without("paho.mqtt.client", "urllib.request", proxy_bypass=_is_needless)


def _import_without(module: str, unused: str, **answers: Callable[..., object]) -> None:
    """Import a module while another seems not to be there, or, given answers, to consist of no more than these."""
    if module in sys.modules or unused in sys.modules:
        return
    stand_in = None  # how Python is told that there is no such module
    if answers:
        stand_in = ModuleType(unused)
        vars(stand_in).update(answers)
    sys.modules[unused] = stand_in  # type: ignore[assignment]  # as above
    try:
        # A version that asks for more fails here, and gets all there is when it is first needed.
        with contextlib.suppress(ImportError):
            import_module(module)
    finally:
        del sys.modules[unused]


def _nothing(**_: str) -> tuple[()]:
    return ()


def _is_needless(_: str) -> bool:
    return True


def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; exits with one of the codes named in `edge_gateway.cli`."""
    called = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if called in _WITH_KEYS:
            harden_process()
        app = collect(called)
        # After what `run` imports, as it does it in a way of its own.
        from edge_gateway.observability.log import configure_log

        # What a command opens may log: that is for standard error, and only if something is wrong.
        configure_log("warning", as_json=False)
        app()
    except GatewayError as error:
        if "--json" in sys.argv:
            document = {"error": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError | CodecError | KeyStoreError) else 3)
