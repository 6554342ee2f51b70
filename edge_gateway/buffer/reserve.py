"""Disk space kept for the day when others have filled the disk, and what is done on that day.

A full disk must not keep what was delivered on the store: taking it off needs a little room in SQLite's log. So a file
of a few megabytes lies beside the database, and is emptied when the disk is full. From then on the database does not
grow, and lanes give way, until there is room for the reserve again.

The reserve is not for records. It is the room that what is in the log needs in the database, so that the log can begin
anew in the room it has; were the reserve used up first, nothing could ever be written again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

import structlog

from edge_gateway.clock import NS_PER_S, Clock

_log = structlog.get_logger()

_KEEP_EVERY_S: Final = 10.0
"""After the reserve was given up, how often it is tried to take it again."""


class Reserve(Protocol):
    """Disk space to give up."""

    def keep(self) -> bool:
        """Take the space if it is not taken; False if there is none."""
        ...

    def give_up(self) -> bool:
        """Hand the space to the file system; False if none was kept."""
        ...


class DiskRoom:
    """Whether others have left a store any room on its disk.

    Args:
        reserve: disk space to give up when they have not; None if none is kept.
        clock: tells when to try to take it again.
        path: the database, for the log.
    """

    def __init__(self, reserve: Reserve | None, clock: Clock, path: str) -> None:
        self._reserve = reserve
        self._clock = clock
        self._path = path
        self.is_full = False
        """From when the disk was found full until there is room for the reserve again."""
        self.may_not_grow = False
        """The same for the database, if there is a reserve: without one nobody can tell but by trying."""
        self._keep_at_s = 0.0
        """Uptime at which to try again to take the reserve."""

    def keep_reserve(self) -> None:
        """At the start: take the reserve."""
        self.is_full = self._reserve is not None and not self._reserve.keep()

    def give_up_reserve(self) -> bool:
        """Hand the space to the file system; False if none was kept."""
        return self._reserve is not None and self._reserve.give_up()

    def found_full(self) -> None:
        """The disk is full: from now on the database does not grow."""
        if not self.is_full:
            self.is_full = True
            _log.error("buffer.disk_full", path=self._path)
        self.give_up_reserve()
        self.may_not_grow = self._reserve is not None

    def look(self) -> None:
        """Take the reserve again, if it is time to try; without one, that a transaction went through has to do."""
        if not self.is_full:
            return
        now_s = self._clock.uptime_ns() / NS_PER_S
        if now_s >= self._keep_at_s:
            self._keep_at_s = now_s + _KEEP_EVERY_S
            if self._reserve is None or self._reserve.keep():
                self.is_full = self.may_not_grow = False
                _log.info("buffer.disk_has_room", path=self._path)


class ReserveFile:
    """A file that only takes room.

    Args:
        path: where.
        size_bytes: how much room; none if 0.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def keep(self) -> bool:
        """Take the room if it is not taken; False if there is none to take.

        Some more has to be free than the reserve takes. Otherwise, on a full disk, what was given up would be taken
        again at once.
        """
        if self._kept_bytes() >= self._size_bytes:
            return True
        try:
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < self._size_bytes + self._size_bytes // 4:
                return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
            finally:
                os.close(descriptor)
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> bool:
        """Hand the room to the file system; False if none was taken, or it cannot be handed over."""
        if not self._kept_bytes():
            return False
        try:
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True

    def _kept_bytes(self) -> int:
        try:
            return self._path.stat().st_blocks * 512
        except OSError:
            return 0
