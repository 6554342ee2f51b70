"""Disk space kept for the day when others have filled the disk.

A full disk must not keep what was delivered on the store: taking it off needs a little room in SQLite's log. So a file
of a few megabytes lies beside the database, and is emptied when the disk is full.
"""

from __future__ import annotations

import os
from pathlib import Path


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
