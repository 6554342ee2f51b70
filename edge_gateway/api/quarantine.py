"""What can be asked of the quarantine: which frames could not become readings, and to try them again.

| Request | Lines, besides `progress` |
| --- | --- |
| `quarantine.list` | `frames`: some, in order; `set_aside`: a chunk that the disk has damaged |
| `quarantine.replay` | `replayed` |
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from edge_gateway.api.control import Answer
from edge_gateway.api.records import OpenBuffer, documents, outline, pages


async def list_quarantine(buffer: OpenBuffer, *, link: str | None = None) -> AsyncGenerator[Answer, None]:
    """Show each frame: link, reason, time, and the bytes in hexadecimal digits.

    Args:
        buffer: any.
        link: only what came over this one.
    """
    async for chunks in pages(buffer, quarantine=True):
        for chunk in chunks:
            if chunk.payload is None:
                yield {"set_aside": outline(chunk)}
            elif frames := [each for each in documents(chunk.payload) if link in (None, each["link"])]:
                yield {"frames": frames}


async def replay_quarantine(
    replay: Callable[[str | None], AsyncIterator[Answer]], *, link: str | None = None
) -> AsyncGenerator[Answer, None]:
    """Decode the frames once more, with the profiles as they are now, and keep what becomes readings.

    Args:
        replay: of a gateway; takes the link.
        link: only what came over this one.
    """
    async for answer in replay(link):
        yield answer
