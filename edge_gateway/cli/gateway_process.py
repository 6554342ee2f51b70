"""The process that runs for years, from its configuration to its end.

It carries nothing that it does not need for that: no command line, and no longer what read the configuration.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import structlog

from edge_gateway.api.control import serve_control
from edge_gateway.api.handlers import gateway_handlers
from edge_gateway.api.keys import key_handlers
from edge_gateway.assembly import Parts, check_parts, open_gateway
from edge_gateway.cli.leaving import leave
from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.config.settings import forget_validators
from edge_gateway.emergency.threads import in_thread
from edge_gateway.hardening import allow_many_files, check_modes, harden_process
from edge_gateway.observability.log import configure_log

_log = structlog.get_logger()

_KEYS_CLOSED_WITHIN_S: Final = 0.5


def run_gateway(config: Path, capture: Path | None = None, *, json: bool = False) -> NoReturn:
    """Run the gateway until SIGTERM or Ctrl-C; ends the process.

    Args:
        config: its configuration file.
        capture: a file to record in what the links read; None records nothing.
        json: write log events as JSON lines.

    Raises:
        GatewayError: it cannot be run.
    """
    harden_process()
    allow_many_files()
    settings = load_config(config)
    configure_log(settings.gateway.log_level, as_json=json)
    for problem in check_modes(settings.gateway.data_directory):
        _log.warning("file.exposed", path=str(problem.path), reason=problem.what, remedy=problem.remedy)
    clock = SystemClock(settings.gateway.clock_trust)
    parts = check_parts(settings, clock=clock)
    forget_validators()
    gc.collect()
    _give_memory_back()
    asyncio.run(_run(parts, clock, capture))


def _give_memory_back() -> None:
    """Hand to the system what is free: what read the configuration leaves holes, which glibc would keep for itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other libraries have no such call
        trim(0)


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
    # A TPM without a resource manager keeps the sessions that nobody ends; one that hangs is not waited for.
    with suppress(TimeoutError):
        async with asyncio.timeout(_KEYS_CLOSED_WITHIN_S):
            await in_thread(parts.key_store.close, name="keys")
    # One whose keys were wiped has nothing to be started again for.
    leave(0 if gateway.emergency.report is None else 2)
