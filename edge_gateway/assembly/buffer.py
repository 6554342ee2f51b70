"""The buffer of a gateway, where its configuration puts it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from edge_gateway.assembly.keys import data_keys, make_key_store
from edge_gateway.buffer.database import reserve_bytes
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.reserve import ReserveFile
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store
from edge_gateway.clock import Clock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import KeyStore
from edge_gateway.offload import Offload, Worker

BUFFER_FILE: Final = "buffer.db"
RESERVE_FILE: Final = "buffer.reserve"


def make_data_directory(directory: Path) -> None:
    """Make the directory that holds everything a gateway keeps, if there is none.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot be made: {error.strerror}",
            where=f"data_directory {directory}",
            remedy="Choose another, or make it",
        ) from error


def open_store(config: GatewayConfig, *, clock: Clock, rng: random.Random, keys: KeyStore) -> Store:
    """Open the store of a gateway, or make it.

    Raises:
        BufferInUse: a gateway runs on it.
        BufferUnavailable: it cannot be opened.
    """
    directory = config.gateway.data_directory
    return Store(
        directory / BUFFER_FILE,
        config.buffer,
        sealer=Sealer(data_keys(config, keys)),
        clock=clock,
        rng=rng,
        reserve=ReserveFile(directory / RESERVE_FILE, reserve_bytes(config.buffer)),
    )


@asynccontextmanager
async def open_buffer(
    config: GatewayConfig,
    *,
    clock: Clock,
    rng: random.Random,
    offload: Offload | None = None,
    keys: KeyStore | None = None,
) -> AsyncIterator[DurableBuffer]:
    """Open the buffer of a gateway; leaving closes it.

    Args:
        config: whose.
        clock: tells how old records are.
        rng: makes the store's id.
        offload: where the store's blocking calls run; a thread of its own if left out.
        keys: seals the store's keys; left out, as configured.

    Raises:
        ConfigError: the data directory cannot be made.
        BufferInUse: a gateway runs on it.
        BufferUnavailable: it cannot be opened.
    """
    make_data_directory(config.gateway.data_directory)
    with ExitStack() as resources:
        if offload is None:
            offload = resources.enter_context(Worker("buffer"))
        store = open_store(config, clock=clock, rng=rng, keys=make_key_store(config) if keys is None else keys)
        async with DurableBuffer(
            store,
            settle_within_s=config.buffer.settle_within_s,
            commit_within_s=config.buffer.commit_within_s,
            offload=offload,
        ) as buffer:
            yield buffer
