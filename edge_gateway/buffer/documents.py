"""Records as the hub gets them: JSON documents, in pieces that fit a message.

They are written once, when they are appended. From then on they are bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import orjson

from edge_gateway.buffer import BadFrame
from edge_gateway.buffer.corrections import mark
from edge_gateway.clock import rfc3339, time_ns_of
from edge_gateway.records import Event, Reading

Document: TypeAlias = dict[str, Any]

_device_of = itemgetter("device")
_link_of = itemgetter("link")


class Piece(NamedTuple):
    """Some records that stay together."""

    counts: Mapping[str, int]
    """By device."""
    payload: bytes
    """Documents joined by commas; empty if the one record here can never be sent."""
    is_sure: bool = True
    """Whether every record's time was right when it was stamped."""


def pieces_of_records(
    records: Sequence[Reading | Event],
    known_seqs: Mapping[str, int],
    seqs: dict[str, int],
    *,
    floor: int = 0,
    boot: str,
    most_records: int,
    most_bytes: int,
) -> Iterator[Piece]:
    """Number records and write them.

    Args:
        records: in order.
        known_seqs: the last seq of each device.
        seqs: the same, of devices that got one in this transaction; added to.
        floor: the last seq of a device that has none yet.
        boot: the running boot's name, for records that were stamped before the clock was right.
        most_records: in a piece.
        most_bytes: of a message made of one piece.
    """
    documents: list[Document] = []
    is_sure = True
    last_time_ns, time = -1, ""
    for record in records:
        device = record.device
        seq = seqs.get(device)
        seqs[device] = seq = (known_seqs.get(device, floor) if seq is None else seq) + 1
        if record.time_ns != last_time_ns:
            last_time_ns = record.time_ns
            time = rfc3339(last_time_ns)
        if isinstance(record, Reading):
            document: Document = {
                "device": device,
                "profile": record.profile,
                "seq": seq,
                "time": time,
                "values": record.values,
            }
        else:
            document = {
                "device": device,
                "event": record.kind,
                "source": record.source,
                "seq": seq,
                "time": time,
                "values": record.values,
            }
        if not record.time_trusted:
            document["time_trusted"] = False
            if record.uptime_ns is not None:
                mark(document, boot, record.uptime_ns)
                is_sure = False
        documents.append(document)
    for piece in _pieces(documents, most_records, most_bytes, by_device=True):
        yield piece if is_sure else piece._replace(is_sure=False)


def pieces_of_bad_frames(frames: Iterable[BadFrame], *, most_records: int, most_bytes: int) -> Iterator[Piece]:
    """Write frames for the quarantine."""
    documents: list[Document] = []
    for frame in frames:
        document: Document = {"link": frame.source, "reason": frame.reason, "time": rfc3339(frame.time_ns)}
        if not frame.time_trusted:
            document["time_trusted"] = False
        documents.append(document | {"frame": frame.data.hex()})
    return _pieces(documents, most_records, most_bytes, by_device=False)


def bad_frames(payload: bytes) -> list[BadFrame]:
    """Read what `pieces_of_bad_frames` wrote."""
    return [
        BadFrame(
            document["link"],
            document["reason"],
            bytes.fromhex(document["frame"]),
            time_ns_of(document["time"]),
            document.get("time_trusted", True),
        )
        for document in orjson.loads(b"[%b]" % payload)
    ]


def _pieces(documents: list[Document], most_records: int, most_bytes: int, *, by_device: bool) -> Iterator[Piece]:
    for start in range(0, len(documents), most_records):
        yield from _fit(documents[start : start + most_records], most_bytes, by_device=by_device)


def _fit(documents: list[Document], most_bytes: int, *, by_device: bool) -> Iterator[Piece]:
    """Split until every piece fits."""
    try:
        payload = orjson.dumps(documents)[1:-1]
        fits = len(payload) + 2 <= most_bytes
    except orjson.JSONEncodeError:
        fits = False
    if len(documents) > 1 and not fits:
        middle = len(documents) // 2
        yield from _fit(documents[:middle], most_bytes, by_device=by_device)
        yield from _fit(documents[middle:], most_bytes, by_device=by_device)
    else:
        yield Piece(_counts(documents, _device_of if by_device else _link_of), payload if fits else b"")


def _counts(documents: Sequence[Document], source_of: Callable[[Document], str]) -> dict[str, int]:
    if len(documents) == 1:  # a counter would cost more than all else here
        return {source_of(documents[0]): 1}
    return Counter(map(source_of, documents))


def thinned(payload: bytes, keep_every: int, seen: dict[str, int]) -> Piece:
    """Keep of each device every so many-th document.

    Args:
        payload: documents joined by commas.
        keep_every: 2 keeps half.
        seen: records of each device so far, over all payloads of a round; added to.

    Returns:
        What is kept, byte for byte as it was; no records if nothing is.
    """
    kept = []
    for document in orjson.loads(b"[%b]" % payload):
        device = document["device"]
        before = seen.get(device, 0)
        if before % keep_every == 0:
            kept.append(document)
        seen[device] = before + 1
    if not kept:
        return Piece({}, b"")
    return Piece(_counts(kept, _device_of), orjson.dumps(kept)[1:-1])
