"""The receiving end: a mosquitto of the benchmark's own, for a program that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_gateway.errors import BenchError
from edge_gateway.testbench.broker import MosquittoBroker
from edge_gateway.testbench.certificates import LocalAuthority


class Broker(NamedTuple):
    """Where a running broker listens on this machine, and whom its clients trust."""

    port: int
    ca_file: Path


@contextmanager
def running_broker() -> Iterator[Broker]:
    """Start mosquitto, watched by an event loop in a thread of its own; leaving stops it.

    Raises:
        SystemExit: it is not installed, or does not start.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()
    mosquitto = MosquittoBroker(authority=LocalAuthority(), names=["localhost"])
    try:
        asyncio.run_coroutine_threadsafe(mosquitto.__aenter__(), loop).result()
        try:
            yield Broker(mosquitto.port, mosquitto.ca_file)
        finally:
            asyncio.run_coroutine_threadsafe(mosquitto.__aexit__(None, None, None), loop).result()
    except BenchError as error:
        raise SystemExit(str(error)) from None
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
