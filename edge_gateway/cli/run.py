"""`edge-gateway run`: the gateway itself, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_gateway.assembly import Parts, check_parts, open_gateway
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.observability.log import configure_log
from edge_gateway.observability.status import serve_status


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")],
    capture: Annotated[Path | None, typer.Option(help="Record what the links read into this file, for replay.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write log events as JSON lines.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    settings = load_config(config)
    configure_log(settings.gateway.log_level, as_json=json)
    parts = check_parts(settings, clock=SystemClock())
    asyncio.run(_run(parts, capture))


async def _run(parts: Parts, capture: Path | None) -> NoReturn:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # What was imported and compiled stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    async with (
        open_gateway(parts, clock=SystemClock(), rng=random.SystemRandom(), capture=capture) as gateway,
        serve_status(parts.config.gateway.data_directory, gateway.status),
    ):
        await gateway.run(stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is durable and closed by now. What may be left are threads of client libraries inside a connection
    # attempt to a silent hub, for which the closing of the event loop, and Python after it, would wait up to a minute.
    os._exit(0)
