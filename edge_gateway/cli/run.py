"""`edge-gateway run`: the gateway itself, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_gateway.cli.gateway_process import run_gateway


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")],
    capture: Annotated[
        Path | None, typer.Option(help="Record what the links read into this file, up to 1 GiB, for replay.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write log events as JSON lines.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    run_gateway(config, capture, json=json)
