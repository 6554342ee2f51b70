"""What is done while nothing is queued: disk space goes back to the file system, and old keys go for good."""

from __future__ import annotations

from typing import Final

import structlog

from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.sealing import key_id_of
from edge_gateway.buffer.shelf import Shelf
from edge_gateway.errors import KeyStoreError, PayloadDamaged

_log = structlog.get_logger()

_TIDY_BYTES: Final = 16 << 20
"""A database of more than this is made small again once it holds a quarter of it or less."""


def give_space_back(shelf: Shelf) -> None:
    """Make the database small if most of it holds nothing."""
    file_pages, free_pages = shelf.space.file_pages(), shelf.space.free_pages()
    if file_pages * PAGE_BYTES > _TIDY_BYTES and (file_pages - free_pages) * 4 <= file_pages:
        shelf.db.execute("VACUUM")


def retire_keys(shelf: Shelf) -> None:
    """Destroy the keys that nothing on the store needs any more. If they cannot be told from those in use, all stay."""
    sealer = shelf.sealer
    try:
        if len(sealer.key_ids()) < 2:
            return
        needed = {key_id_of(payload) for (payload,) in shelf.db.execute("SELECT payload FROM chunk")}
        for key_id in sealer.retire(min(needed, default=sealer.key_id)):
            _log.info("buffer.key_destroyed", key=key_id)
    except (KeyStoreError, PayloadDamaged) as error:
        _log.warning("buffer.keys_kept", reason=str(error))
