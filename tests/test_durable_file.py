"""Replacing a file so that a power cut leaves the old content or the new."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_gateway.durable_file import replace_durably


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "desired.json"


@contextmanager
def files_at_most(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more, as a full disk does. Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_makes_and_replaces(path: Path) -> None:
    """The file has the whole new content, shorter or longer, and nothing is left beside it."""
    for content in (b"first", b"", b"a longer one than before" * 1000):
        replace_durably(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_file_has_the_mode_asked_for(path: Path, mode: int) -> None:
    """Permissions are the new file's own, not the old one's."""
    path.write_text("old")
    path.chmod(0o666)
    replace_durably(path, b"new", mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_a_crash_left_is_not_in_the_way(path: Path) -> None:
    """A file left aside by an earlier attempt is replaced, whatever its mode and content."""
    aside = path.with_name(".desired.json.new")
    aside.write_bytes(b"half")
    aside.chmod(0o666)
    replace_durably(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_old_content(path: Path) -> None:
    """Where the new content does not fit, the old one stays whole, and it works again when there is room."""
    replace_durably(path, b"old")
    with files_at_most(1000), pytest.raises(OSError, match="File too large"):
        replace_durably(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    replace_durably(path, b"x" * 5000)
    assert path.read_bytes() == b"x" * 5000


def test_everything_is_synced_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on disk before it takes the name, and the name is on disk before the call returns."""
    done = []
    sync, rename = os.fsync, os.rename

    def watched_sync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("sync directory" if is_directory else f"sync {os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_rename)
    replace_durably(path, b"content")
    assert done == ["sync 7 bytes", "rename", "sync directory"]


def test_a_missing_directory_is_the_callers_business(tmp_path: Path) -> None:
    """The directory must exist; making it would choose its permissions."""
    with pytest.raises(FileNotFoundError):
        replace_durably(tmp_path / "none" / "file", b"")
