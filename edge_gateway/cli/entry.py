"""Where every command begins, and where errors become sentences and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import orjson

from edge_gateway.cli.lean import PlainRun, import_lean, plain_run
from edge_gateway.errors import CodecError, ConfigError, GatewayError, KeyStoreError
from edge_gateway.hardening import harden_process

_WITH_KEYS: Final = ("doctor", "buffer", "ledger", "quarantine", "keys", "provision")
"""Commands that have keys in memory for a moment. `run` sees to itself."""


def main() -> None:
    """Run the command line; exits with one of the codes named in `edge_gateway.cli`."""
    arguments = sys.argv[1:]
    run = plain_run(arguments)
    try:
        if run is not None:
            _run(run)
        else:
            _call(arguments)
    except GatewayError as error:
        if "--json" in sys.argv:
            document = {"error": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError | CodecError | KeyStoreError) else 3)


def _run(run: PlainRun) -> None:
    import_lean()  # first: most of what comes now, comes lean then
    from edge_gateway.cli.gateway_process import run_gateway

    _log_to_standard_error()
    run_gateway(run.config, run.capture, json=run.json)


def _call(arguments: Sequence[str]) -> None:
    from edge_gateway.cli.app import collect  # and with it what parses any call

    called = arguments[0] if arguments else ""
    if called in _WITH_KEYS:
        harden_process()
    app = collect(called)
    _log_to_standard_error()
    app()


def _log_to_standard_error() -> None:
    """What a command opens may log, but only if something is wrong."""
    from edge_gateway.observability.log import configure_log  # after what `run` imports in a way of its own

    configure_log("warning", as_json=False)
