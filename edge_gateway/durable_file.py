"""Replaces a small file so that a power cut leaves either the old content or the new, and never a mixture."""

from __future__ import annotations

import os
from pathlib import Path


def replace_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write aside, sync, rename, sync the directory, in this order.

    Args:
        path: the file to replace or make; its directory must exist.
        content: the whole new content.
        mode: permissions of the new file, from its first byte on.

    Raises:
        OSError: it could not be done; the old content is still there.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(file, "wb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(file)
    aside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
