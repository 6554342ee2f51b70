"""`edge-gateway run`: the gateway itself, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer

from edge_gateway.api.control import serve_control
from edge_gateway.api.handlers import gateway_handlers
from edge_gateway.api.keys import key_handlers
from edge_gateway.assembly import Parts, check_parts, open_gateway
from edge_gateway.cli.leaving import leave
from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.hardening import allow_many_files, check_modes, harden_process
from edge_gateway.observability.log import configure_log

_log = structlog.get_logger()


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")],
    capture: Annotated[Path | None, typer.Option(help="Record what the links read into this file, for replay.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write log events as JSON lines.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    harden_process()
    allow_many_files()
    settings = load_config(config)
    configure_log(settings.gateway.log_level, as_json=json)
    for problem in check_modes(settings.gateway.data_directory):
        _log.warning("file.exposed", path=str(problem.path), reason=problem.what, remedy=problem.remedy)
    clock = SystemClock(settings.gateway.clock_trust)
    asyncio.run(_run(check_parts(settings, clock=clock), clock, capture))


async def _run(parts: Parts, clock: Clock, capture: Path | None) -> NoReturn:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # What was imported and compiled stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    async with open_gateway(parts, clock=clock, rng=random.SystemRandom(), capture=capture) as gateway:
        handlers = {**gateway_handlers(gateway), **key_handlers(gateway.emergency)}
        async with serve_control(parts.config.gateway.data_directory, handlers):
            await gateway.run(stop)
    # One whose keys were wiped has nothing to be started again for.
    leave(0 if gateway.emergency.report is None else 2)
