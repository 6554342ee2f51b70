"""Sync sequences that arrive in two reads."""

from __future__ import annotations


def sync_begun_bytes(data: bytes, sync: bytes, start: int) -> int:
    """How many bytes at the end of `data[start:]` may be the beginning of a `sync` whose rest has not come yet.

    The longest candidate counts, so no frame is missed. Never all of `sync`, and 0 for an empty one.
    """
    for begun_bytes in range(min(len(sync) - 1, len(data) - start), 0, -1):
        if data.endswith(sync[:begun_bytes]):
            return begun_bytes
    return 0
