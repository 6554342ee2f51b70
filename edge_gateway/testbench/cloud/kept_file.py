"""A file that follows something which changes, a moment behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import structlog

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import BenchError

_log = structlog.get_logger()

_SETTLE_S = 0.5
"""Changes come in swarms; one writing serves them all."""


class KeptFile:
    """Writes a file on entering, a moment after each change, and on leaving. Only its owner can read it.

    Args:
        path: the file.
        content: what it has to hold now.
        change: waits for the next moment at which that may be something else.
        restore: called on entering with the JSON document of a file that is there already, and where it is from.

    Raises:
        BenchError: on entering, it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        content: Callable[[], bytes],
        change: Callable[[], Awaitable[None]],
        restore: Callable[[Any, str], None] | None = None,
    ) -> None:
        self.path = path
        self._content = content
        self._change = change
        self._restore = restore
        self._written: bytes | None = None

    async def __aenter__(self) -> Self:
        if self._restore is not None:
            self._read(self._restore)
        try:
            self._write()
        except OSError as error:
            raise BenchError(
                f"cannot be written: {error}", where=str(self.path), remedy="Name a directory that can be written"
            ) from error
        self._following = asyncio.create_task(self._follow(), name=f"testbench-kept-file {self.path.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._following.cancel()
        await asyncio.wait([self._following])
        self._try_to_write()

    def _read(self, restore: Callable[[Any, str], None]) -> None:
        try:
            document = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, orjson.JSONDecodeError) as error:
            raise BenchError(
                f"cannot be read: {error}", where=str(self.path), remedy="Remove it, or name another directory"
            ) from error
        restore(document, str(self.path))

    def save(self) -> None:
        """Write it now, for who is about to say that it is there."""
        self._try_to_write()

    async def _follow(self) -> None:
        while True:
            self._try_to_write()
            await self._change()
            await asyncio.sleep(_SETTLE_S)

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.warning("testbench.file.not_kept", path=str(self.path), cause=str(error))

    def _write(self) -> None:
        content = self._content()
        if content != self._written:
            replace_durably(self.path, content)
            self._written = content
