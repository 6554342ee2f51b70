"""Keys in files: who may read them, and what a crash leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.software import SoftwareKeyStore

KEY = bytes(range(32))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(directory: Path) -> SoftwareKeyStore:
    return SoftwareKeyStore(directory)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_the_owners_alone(store: SoftwareKeyStore, directory: Path) -> None:
    """Directory and file shut out everybody else, even if the process would let files be read by all."""
    before = os.umask(0)
    try:
        store.put("k", KEY)
    finally:
        os.umask(before)
    assert mode(directory) == 0o700
    assert mode(directory / "k.key") == 0o600


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_file_others_can_read_is_not_used(store: SoftwareKeyStore, directory: Path, loose: int) -> None:
    """A key that may have been read by others signs nothing until somebody looked at it."""
    store.put("k", KEY)
    (directory / "k.key").chmod(loose)
    with pytest.raises(
        KeyStoreError, match=rf"k.key: can be read by others \(mode {loose:04o}\). chmod go-rwx .*k.key"
    ):
        store.sign("k", b"")


@pytest.mark.parametrize("loose", [0o750, 0o705, 0o770, 0o755])
def test_a_directory_others_can_enter_is_not_used(store: SoftwareKeyStore, directory: Path, loose: int) -> None:
    """Neither are keys read from it nor is one put there."""
    store.put("k", KEY)
    directory.chmod(loose)
    with pytest.raises(KeyStoreError, match=rf"keys: can be read by others \(mode {loose:04o}\)"):
        store.sign("k", b"")
    with pytest.raises(KeyStoreError, match=rf"keys: can be read by others \(mode {loose:04o}\)"):
        store.put("other", KEY)
    assert store.names() == ["k"]


def test_what_a_crash_left_is_no_key(store: SoftwareKeyStore, directory: Path) -> None:
    """A file half written when the power went is neither listed nor in the way."""
    store.put("k", KEY)
    (directory / ".k.key.new").write_bytes(KEY[:5])
    assert store.names() == ["k"]
    store.put("k", KEY[::-1])
    assert [path.name for path in directory.iterdir()] == ["k.key"]


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """Where a file stands in the way, the error names the path."""
    (tmp_path / "file").write_text("")
    store = SoftwareKeyStore(tmp_path / "file" / "keys")
    with pytest.raises(KeyStoreError, match=r"k.key: cannot be written: Not a directory. Check the directory's owner"):
        store.put("k", KEY)
    with pytest.raises(KeyStoreError, match="cannot be read: Not a directory"):
        store.sign("k", b"")


def test_a_directory_in_a_keys_place_says_so(store: SoftwareKeyStore, directory: Path) -> None:
    """What is no file cannot be a key."""
    store.put("k", KEY)
    (directory / "d.key").mkdir(0o700)
    with pytest.raises(KeyStoreError, match=r"d.key: cannot be read: Is a directory. Run as the user"):
        store.sign("d", b"")
