"""Sync sequences that arrive in two reads, and frames that have none because they go the other way."""

from __future__ import annotations

from edge_gateway.errors import CodecError


def sent_as_is(payload: bytes) -> bytes:
    """The payload, to a device that does not hear what it speaks.

    Raises:
        CodecError: it is empty.
    """
    if not payload:
        raise CodecError("a frame without a byte cannot be sent", remedy="send at least one")
    return payload


def sync_begun_bytes(data: bytes, sync: bytes, start: int) -> int:
    """How many bytes at the end of `data[start:]` may be the beginning of a `sync` whose rest has not come yet.

    The longest candidate counts, so no frame is missed. Never all of `sync`, and 0 for an empty one.
    """
    for begun_bytes in range(min(len(sync) - 1, len(data) - start), 0, -1):
        if data.endswith(sync[:begun_bytes]):
            return begun_bytes
    return 0
