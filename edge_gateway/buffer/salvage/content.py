"""What a file holds, as far as the disk gives it."""

from __future__ import annotations

import os
from typing import Protocol


class Content(Protocol):
    """The bytes of a file: `bytes`, or whatever else knows its length and can be cut."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class FileContent:
    """The bytes of a file, read when they are asked for.

    Not a `mmap`: there the process would be killed by a sector that cannot be read, and all that was read would count
    as its memory. Here such a part is zeros, which are neither a page nor a frame.

    Args:
        descriptor: of the file, open for reading; it stays the caller's to close.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._length = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._length)
        length = max(0, stop - start)
        try:
            return os.pread(self._descriptor, length, start)
        except OSError:
            return bytes(length)
