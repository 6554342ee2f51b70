"""Writes down what a link said, and reads it back.

A capture is a text file of JSON lines: a header, then one line for each chunk, with the seconds since it began.

```
{"capture": 1, "started": "2026-05-01T12:00:00.000000Z"}
{"t": 0.250113, "link": "rs485-1", "hex": "0107a20d00"}
```

It is made in the field and read on a bench, so it can be cut, joined and written by hand. A capture that was being
written when the power went ends in half a line, and is good up to there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, NoReturn, Self

import orjson
import structlog

from edge_gateway.clock import Clock, SystemClock, rfc3339
from edge_gateway.errors import TransportError
from edge_gateway.records import Chunk
from edge_gateway.transport import LinkCounters, Transport

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_CAPTURE_VERSION = 1

_FLUSH_AFTER_S = 1.0

_MAX_LINE_BYTES = 1_048_576
"""A chunk is at most 65,536 bytes, so a line is at most about 131,200. The rest is for links with longer messages; a
file without line ends shall not be loaded into memory."""


class CapturedChunk(NamedTuple):
    """One line of a capture."""

    at_s: float
    """Seconds since the capture began."""
    link: str
    data: bytes


class CaptureWriter:
    """A capture being written, by any number of links. Use it as a context manager, with the event loop running.

    What goes wrong after the start, a full disk say, ends the capture and not the links.

    Args:
        path: the file to make; it must not exist, for a capture is never written over.
        max_bytes: where the file ends at the latest; None for no bound.
        clock: stamps the start; the system's if None.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()
        self._file: BinaryIO | None = None
        self._written_bytes = 0
        self._flush_timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Make the file.

        Raises:
            TransportError: it exists, or cannot be made.
        """
        self._loop = asyncio.get_running_loop()
        header = {"capture": _CAPTURE_VERSION, "started": rfc3339(self._clock.now_ns())}
        try:
            self._file = self._path.open("xb")
            self._put(f"{json.dumps(header)}\n".encode())
            self._file.flush()
        except FileExistsError as error:
            raise TransportError(
                "the file exists", where=str(self._path), remedy="Remove it, or give another name"
            ) from error
        except OSError as error:
            self._close()
            raise TransportError(
                f"the capture cannot be written: {error.strerror}",
                where=str(self._path),
                remedy="Give a name in a directory that the gateway may write to",
            ) from error
        self._started_s = self._loop.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, link: str, chunks: list[Chunk]) -> None:
        """Add what one read of a link returned. Does nothing once the capture has ended."""
        for chunk in chunks:
            if self._file is None:
                return
            # What was read before the start has waited to be fetched, and counts as read at the start.
            t_s = max(0.0, chunk.at_s - self._started_s)
            line = f'{{"t": {t_s:.6f}, "link": {json.dumps(link)}, "hex": "{chunk.data.hex()}"}}\n'.encode()
            if self._max_bytes is not None and self._written_bytes + len(line) > self._max_bytes:
                self._close()
                _log.warning("capture.full", path=str(self._path), max_bytes=self._max_bytes)
                return
            try:
                self._put(line)
            except OSError as error:
                self._fail(error)
                return
            if self._flush_timer is None:
                self._flush_timer = self._loop.call_later(_FLUSH_AFTER_S, self._flush)

    def _put(self, line: bytes) -> None:
        if self._file is not None:
            self._file.write(line)
            self._written_bytes += len(line)

    def _flush(self) -> None:
        self._flush_timer = None
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        _log.error("capture.failed", path=str(self._path), error=error.strerror)
        with contextlib.suppress(OSError):  # what could not be written still cannot
            self._close_file()

    def _close(self) -> None:
        try:
            self._close_file()
        except OSError as error:
            _log.error("capture.failed", path=str(self._path), error=error.strerror)

    def _close_file(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class Capturing:
    """A transport whose chunks are written down as they are read; otherwise the transport it wraps.

    Args:
        transport: the link; entered and left with this one.
        writer: where its chunks go, under its name. Opened and closed by the caller, for several links may share it.
    """

    def __init__(self, transport: Transport, writer: CaptureWriter) -> None:
        self._transport = transport
        self._writer = writer

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._transport.name

    @property
    def is_up(self) -> bool:
        """See `Transport.is_up`."""
        return self._transport.is_up

    @property
    def fault(self) -> str:
        """See `Transport.fault`."""
        return self._transport.fault

    @property
    def counters(self) -> LinkCounters:
        """See `Transport.counters`."""
        return self._transport.counters

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def read(self) -> list[Chunk]:
        """See `Transport.read`."""
        chunks = await self._transport.read()
        self._writer.write(self._transport.name, chunks)
        return chunks

    async def write(self, data: bytes) -> None:
        """See `Transport.write`. What is written to a device is not in the capture."""
        await self._transport.write(data)


def read_capture(path: str | Path) -> Generator[CapturedChunk, None, None]:
    """Iterate over a capture line by line, in the order of the file, which stays open until the end or `close()`.

    A last line without its end is given up if it is incomplete.

    Raises:
        TransportError: the file cannot be read, is no capture, or a line of it is wrong; names the file and the line.
    """
    try:
        with Path(path).open("rb") as file:
            _check_header(path, file.readline(_MAX_LINE_BYTES))
            number = 1
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                is_torn = not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES
                try:
                    chunk = _parse_line(line)
                except ValueError as error:
                    if is_torn:
                        return
                    _refuse(path, number, str(error), '{"t": 0.25, "link": "a", "hex": "0107"}', error)
                yield chunk
    except OSError as error:
        raise TransportError(
            f"the capture cannot be read: {error.strerror}",
            where=str(path),
            remedy="Give the path of a capture file that the gateway may read",
        ) from error


def _check_header(path: str | Path, line: bytes) -> None:
    example = f'{{"capture": {_CAPTURE_VERSION}, "started": "2026-05-01T12:00:00Z"}}'
    try:
        header = orjson.loads(line)
    except ValueError as error:
        _refuse(path, 1, "this is not the header of a capture", example, error)
    if not isinstance(header, dict) or "capture" not in header:
        _refuse(path, 1, "this is not the header of a capture", example)
    if header["capture"] != _CAPTURE_VERSION:
        _refuse(path, 1, f"this version reads captures of format {_CAPTURE_VERSION} only", example)


def _parse_line(line: bytes) -> CapturedChunk:
    """One line after the header.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        entry = orjson.loads(line)
    except ValueError:
        raise ValueError("the line is not JSON") from None
    match entry:
        case {"t": int() | float() as t_s, "link": str() as link, "hex": str() as digits} if not isinstance(t_s, bool):
            try:
                return CapturedChunk(float(t_s), link, bytes.fromhex(digits))
            except ValueError:
                raise ValueError("hex holds something else than pairs of hexadecimal digits") from None
        case _:
            raise ValueError("the line needs t (a number), link and hex (texts)")


def _refuse(path: str | Path, number: int, what: str, example: str, cause: Exception | None = None) -> NoReturn:
    raise TransportError(what, where=f"{path}, line {number}", remedy=f"A good line is {example}") from cause
