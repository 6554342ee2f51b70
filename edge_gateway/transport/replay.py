"""Plays one link of a capture as if its devices were here.

The chunks come one by one from the file, at the pace they were recorded, a multiple of it, or as fast as they are asked
for. Their times keep the recorded distances at every pace, so framing that goes by silence finds the same frames.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_gateway.errors import ConfigError, LinkEnded, LinkUnavailable, TransportError
from edge_gateway.records import Chunk
from edge_gateway.transport import LinkCounters
from edge_gateway.transport.capture import CapturedChunk, read_capture

_BATCH_LINES = 256
"""Most lines of the file taken at once: a reader that is late, or asks without pause, gets it in pieces."""


class ReplayPort:
    """A link that plays a capture and ends. See `Transport` for what its methods promise.

    Entering raises TransportError if the file is no capture, and so does `read` where a line of it is wrong.

    Args:
        name: the link's name in the configuration.
        path: the capture.
        link: name of the link in the capture; None if the capture has only one.
        speed: recorded seconds played in one second; None to play as fast as `read` is called.

    Raises:
        ConfigError: `speed` is not above zero.
    """

    def __init__(self, name: str, path: str | Path, *, link: str | None = None, speed: float | None = 1.0) -> None:
        if speed is not None and not speed > 0:
            raise ConfigError(
                f"a capture cannot be played at speed {speed}", where=name, remedy="Give 1 for true speed, or more"
            )
        self._name = name
        self._path = path
        self._link = link
        self._must_be_only_link = link is None
        self._speed = speed
        self._is_up = False
        self._lines = read_capture(path)
        self._next: CapturedChunk | None = None
        """The next chunk to play, if it has been fetched."""
        self._ending: TransportError | None = None
        """What comes after `_next`, once the file has no more lines that can be played."""
        self._others: set[str] = set()
        """Links in the capture that are not played."""
        self._has_begun = False
        self._why_down = "the link has not been opened"
        self._counters = LinkCounters()

    @property
    def name(self) -> str:
        """The link's name in the configuration."""
        return self._name

    @property
    def is_up(self) -> bool:
        """Whether the capture is being played."""
        return self._is_up

    @property
    def fault(self) -> str:
        """Why nothing is played; empty while it is."""
        return "" if self._is_up else f"{self._name}: {self._why_down}"

    @property
    def counters(self) -> LinkCounters:
        """Counts since the object was made."""
        return self._counters

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._fetch()
        if self._ending is not None and not isinstance(self._ending, LinkEnded):
            raise self._ending
        self._started_s = self._loop.time()
        self._is_up = True
        self._counters.opened += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._next = None
        self._is_up = False
        self._why_down = "the link has been closed"

    async def read(self) -> list[Chunk]:
        """See `Transport.read`. Cancelling it loses nothing.

        Raises:
            LinkEnded: the capture has been played to its end.
            TransportError: a line of the capture is wrong, or the link to play is not in it or not the only one.
        """
        while self._next is None:
            if self._ending is not None:
                self._is_up = False
                self._why_down = self._ending.what
                raise self._ending
            for _ in range(_BATCH_LINES):
                if self._fetch() is not None:
                    break
            else:
                await asyncio.sleep(0)  # a long stretch of other links' lines shall not hold up the loop
        due_s = self._loop.time() if self._speed is None else self._started_s + self._next.at_s / self._speed
        await asyncio.sleep(max(0.0, due_s - self._loop.time()))
        played_s = math.inf if self._speed is None else (self._loop.time() - self._started_s) * self._speed
        chunks = [self._play(self._next)]
        while len(chunks) < _BATCH_LINES:
            upcoming = self._fetch()
            if upcoming is None or upcoming.at_s > played_s:
                break
            chunks.append(self._play(upcoming))
        return chunks

    async def write(self, data: bytes) -> None:
        """Count the bytes and discard them: a capture answers nobody.

        Raises:
            LinkUnavailable: the capture is not being played.
        """
        if not self._is_up:
            raise LinkUnavailable(self._why_down, where=self._name, remedy="Play the capture again")
        self._counters.bytes_written += len(data)

    def _play(self, chunk: CapturedChunk) -> Chunk:
        self._next = None
        self._counters.bytes_read += len(chunk.data)
        return Chunk(self._started_s + chunk.at_s, chunk.data)

    def _fetch(self) -> CapturedChunk | None:
        """Take one line of the file: it becomes `_next` and is returned, is another link's, or tells how it ends."""
        if self._ending is not None:
            return None
        try:
            chunk = next(self._lines)
        except StopIteration:
            self._ending = self._end()
            return None
        except TransportError as error:
            self._ending = error
            return None
        if self._link is None:
            self._link = chunk.link
        if chunk.link == self._link:
            self._next = chunk
            self._has_begun = True
        elif self._must_be_only_link:
            self._ending = TransportError(
                f"the capture has several links, {self._link} and {chunk.link} among them",
                where=str(self._path),
                remedy="Say which of them to play",
            )
        else:
            self._others.add(chunk.link)
        return self._next

    def _end(self) -> TransportError:
        if self._others and not self._has_begun:
            return TransportError(
                f"nothing of link {self._link} is in the capture",
                where=str(self._path),
                remedy=f"Play one that is: {', '.join(sorted(self._others))}",
            )
        return LinkEnded("the capture has been played to its end", where=str(self._path))
