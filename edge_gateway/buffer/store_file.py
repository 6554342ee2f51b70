"""The store's file: how it is opened so that nothing in it is overlooked, and made anew when the disk has damaged it.

What the disk has done to a file shows in different places, and in any of them it must not pass for less than it is:

- there is a log and no database: SQLite would throw the log away;
- the log holds more than SQLite has read of it: it drops, without a word, what stands behind damage;
- the header is damaged: SQLite may take the database for read-only;
- the tables, or what the store has to know at its start, are not as they were written (`loading`).

Other damage shows when it is read. Whenever it does, the file is closed and rebuilt from what is whole (`rebuild`).
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import apsw

from edge_gateway.buffer.chunks import is_whole
from edge_gateway.buffer.database import PAGE_BYTES, open_database, sqlite_errors
from edge_gateway.buffer.loading import load_shelf
from edge_gateway.buffer.rebuild import finish, has_sound_header, lacks_database, rebuild
from edge_gateway.buffer.reserve import DiskRoom
from edge_gateway.buffer.salvage import FileContent, lost_frames
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.shelf import Shelf
from edge_gateway.clock import Clock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferDamaged, DiskReadOnly


class StoreFile:
    """Where a store lives.

    Args:
        path: the database file; `:memory:` for one that lives as long as the process.
        settings: lanes and limits.
        sealer: tells which chunks are whole.
        clock: says which boot this is.
        rng: makes the store's id.
        vfs: name of an apsw VFS to use instead of the system's.
    """

    def __init__(
        self,
        path: Path | str,
        settings: BufferSettings,
        *,
        sealer: Sealer,
        clock: Clock,
        rng: random.Random,
        vfs: str | None,
    ) -> None:
        self.path = str(path)
        self.can_be_rebuilt = self.path != ":memory:" and vfs is None
        """Whether it is a file of the system's."""
        self._settings = settings
        self._sealer = sealer
        self._clock = clock
        self._rng = rng
        self._vfs = vfs

    def open(self) -> Shelf:
        """Open the file, or make it. If that fails it is closed, and as it was.

        Raises:
            BufferUnavailable: it cannot be opened.
        """
        path = Path(self.path)
        with sqlite_errors(self.path):
            if self.can_be_rebuilt:
                finish(path)
                if lacks_database(path):
                    raise BufferDamaged("there is a log and no database", where=self.path)
                path.touch(mode=0o600)  # for the gateway's user only; SQLite gives the log the same mode
            db = open_database(self.path, self._settings, self._vfs)
            try:
                return self._load(db)
            except BaseException as error:
                db.close()
                if isinstance(error, DiskReadOnly) and self.can_be_rebuilt and not has_sound_header(path):
                    raise BufferDamaged("its header is damaged", where=self.path) from error
                raise

    def _load(self, db: apsw.Connection) -> Shelf:
        """Make sure that SQLite has found all that is there, and read what belongs in memory."""
        with sqlite_errors(self.path):
            [(_, recovered, _)] = db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            log = Path(f"{self.path}-wal")
            if self.can_be_rebuilt and recovered >= 0 and log.exists():
                with log.open("rb") as file:
                    if lost := lost_frames(FileContent(file.fileno()), recovered, page_bytes=PAGE_BYTES):
                        raise BufferDamaged(f"{lost} frames of the log are damaged", where=str(log))
            return load_shelf(db, self._settings, sealer=self._sealer, clock=self._clock, rng=self._rng, path=self.path)

    def rebuild(self, room: DiskRoom) -> None:
        """Put what is whole into a new database; nobody has the file open.

        Args:
            room: whose reserve is given up if the disk has no room for two.

        Raises:
            BufferUnavailable: it cannot be done now; what is in the file is as it was.
        """
        path = Path(self.path)
        put_in_place = partial(rebuild, path, partial(is_whole, sealer=self._sealer))
        with sqlite_errors(self.path):
            if finish(path):
                return
            try:
                put_in_place()
            except (apsw.FullError, OSError):
                if not room.give_up_reserve():
                    raise
                if not finish(path):
                    put_in_place()
