"""Tries the frames of the quarantine once more, for instance after a profile was mended.

What becomes a reading keeps the time at which its frame came. Rules do not see it: an alert about the past would be
none. What is still bad goes back to the quarantine, with the reason it has now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_gateway.buffer import BadFrame, Batch, StoredChunk
from edge_gateway.buffer.documents import bad_frames
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.records import Reading

if TYPE_CHECKING:
    from edge_gateway.link import Device, Link

    _Admit: TypeAlias = Callable[[Link, int | str | None], Device | None]


async def replay(
    buffer: DurableBuffer, links: Mapping[str, Link], admit: _Admit, link: str | None
) -> AsyncIterator[dict[str, Any]]:
    """Decode the frames with the profiles as they are now, chunk by chunk.

    Args:
        buffer: whose quarantine.
        links: by name. A chunk with a frame of a link that is not among them stays as it is.
        admit: takes in a device that was not heard of before, or says that it is not wanted.
        link: only chunks of this link; None is all.

    Returns:
        Lines of `progress` and, at the end, `replayed`.

    Raises:
        BufferUnavailable: the buffer cannot be read or written now.
    """
    chunks: list[StoredChunk] = []
    while page := await buffer.read_chunks(chunks[-1].id if chunks else 0, quarantine=True):
        chunks += page
    done = Counter[str]()
    for index, chunk in enumerate(chunks):
        frames = [] if chunk.payload is None else bad_frames(chunk.payload)
        if not frames or any((link or frame.source) != frame.source or frame.source not in links for frame in frames):
            continue
        readings: dict[tuple[str, str], list[Reading]] = {}
        bad: list[BadFrame] = []
        for frame in frames:
            _try_again(links[frame.source], frame, admit, readings, bad)
        # What removes the frames comes last: a crash before it repeats readings, and loses none.
        *others, last = readings or [("", "")]
        for lane, route in others:
            await buffer.append(Batch(readings[lane, route], lane, route=route))
        lane, route = last
        await buffer.append(Batch(readings.get(last, ()), lane, bad, replays=[chunk.id], route=route))
        done.update(frames=len(frames), readings=sum(map(len, readings.values())), still_bad=len(bad))
        yield {"progress": {"done": index + 1, "of": len(chunks)}}
    yield {"replayed": {key: done[key] for key in ("frames", "readings", "still_bad")}}


def _try_again(
    link: Link, frame: BadFrame, admit: _Admit, readings: dict[tuple[str, str], list[Reading]], bad: list[BadFrame]
) -> None:
    """Decode one frame; what it says goes to `readings`, by lane and route, or to `bad`."""
    decoded = link.codec.decode([frame.data])
    bad.extend(frame._replace(reason=reject.reason) for reject in decoded.rejects)
    for address, _, values in decoded.samples:
        device = link.devices.get(address) or admit(link, address)
        if device is None:
            bad.append(frame._replace(reason="unknown-device"))
        elif values:
            name = link.codec.profile.name
            reading = Reading(device.name, name, frame.time_ns, values, frame.time_trusted)
            readings.setdefault((device.lane, device.route), []).append(reading)
