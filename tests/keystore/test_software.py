"""Keys in encrypted files: who may read them, what they hold, what a crash leaves, and how they end."""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench.memory_scan import find_secrets

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
        store.put("k", Secret(KEY))
    finally:
        os.umask(before)
    assert mode(directory) == 0o700
    assert mode(directory / "k.key") == 0o600


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_file_others_can_read_is_not_used(store: SoftwareKeyStore, directory: Path, loose: int) -> None:
    """A key that may have been read by others signs nothing until somebody looked at it."""
    store.put("k", Secret(KEY))
    (directory / "k.key").chmod(loose)
    with pytest.raises(
        KeyStoreError, match=rf"k.key: can be read by others \(mode {loose:04o}\). chmod go-rwx .*k.key"
    ):
        store.sign("k", b"")


@pytest.mark.parametrize("loose", [0o750, 0o705, 0o770, 0o755])
def test_a_directory_others_can_enter_is_not_used(store: SoftwareKeyStore, directory: Path, loose: int) -> None:
    """Neither are keys read from it nor is one put there."""
    store.put("k", Secret(KEY))
    directory.chmod(loose)
    with pytest.raises(KeyStoreError, match=rf"keys: can be read by others \(mode {loose:04o}\)"):
        store.sign("k", b"")
    with pytest.raises(KeyStoreError, match=rf"keys: can be read by others \(mode {loose:04o}\)"):
        store.put("other", Secret(KEY))
    assert store.names() == ["k"]


def test_what_a_crash_left_is_no_key(store: SoftwareKeyStore, directory: Path) -> None:
    """A file half written when the power went is neither listed nor in the way."""
    store.put("k", Secret(KEY))
    (directory / ".k.key.new").write_bytes(KEY[:5])
    assert store.names() == ["k"]
    store.put("k", Secret(KEY[::-1]))
    assert sorted(path.name for path in directory.iterdir()) == ["k.key", "wrapping-key"]


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """Where a file stands in the way, the error names the path."""
    (tmp_path / "file").write_text("")
    store = SoftwareKeyStore(tmp_path / "file" / "keys")
    with pytest.raises(
        KeyStoreError, match=r"keys/wrapping-key: cannot be written: Not a directory. Check the directory's owner"
    ):
        store.put("k", Secret(KEY))
    with pytest.raises(KeyStoreError, match="cannot be read: Not a directory"):
        store.sign("k", b"")


def test_a_directory_in_a_keys_place_says_so(store: SoftwareKeyStore, directory: Path) -> None:
    """What is no file cannot be a key."""
    store.put("k", Secret(KEY))
    (directory / "d.key").mkdir(0o700)
    with pytest.raises(KeyStoreError, match=r"d.key: cannot be read: Is a directory. Run as the user"):
        store.sign("d", b"")


# --- encrypted --------------------------------------------------------------------------------------------------------


RECORDED = bytes.fromhex(
    "45475701 202122232425262728292a2b d23ba473689d1c09127548c5cd15faf6c058fe8f939575f974ef760955974016"
    "ed1826279b9fe9b6cac1c9cf9763c0e9"
)
"""The key file of `gateway`: mark and version, nonce, encrypted key, tag. Its wrapping key is the bytes 0 to 31."""


def test_a_key_file_is_like_this_for_ever(directory: Path) -> None:
    """What an earlier version wrote is read, and its parts are where the module says."""
    numbers = iter(range(1000))
    store = SoftwareKeyStore(directory, random_bytes=lambda size: bytes(next(numbers) for _ in range(size)))
    store.put("gateway", Secret(KEY))
    assert (directory / "wrapping-key").read_bytes() == bytes(range(32))
    assert (directory / "gateway.key").read_bytes() == RECORDED
    assert store.sign("gateway", b"x") == hmac.digest(KEY, b"x", "sha256")
    by_hand = AESGCM(bytes(range(32))).decrypt(RECORDED[4:16], RECORDED[16:], RECORDED[:4] + b"identity key gateway")
    assert by_hand == KEY


def test_a_file_holds_nothing_of_its_key(store: SoftwareKeyStore, directory: Path) -> None:
    """Not in any form; and the same key put twice is not seen to be the same."""
    key = os.urandom(32)
    store.put("a", Secret(key))
    store.put("b", Secret(key))
    assert find_secrets(directory, [key]).findings == ()
    assert (directory / "a.key").read_bytes()[16:] != (directory / "b.key").read_bytes()[16:]


def test_files_cannot_be_swapped(store: SoftwareKeyStore, directory: Path) -> None:
    """A key under another's name signs nothing; neither does one put back from before its key was wiped."""
    store.put("gateway", Secret(KEY))
    store.put("leaf", Secret(KEY[::-1]))
    content = (directory / "leaf.key").read_bytes()
    (directory / "gateway.key").write_bytes(content)
    with pytest.raises(KeyStoreError, match=r"gateway.key: was changed, is not where it was put, or the wrapping key"):
        store.sign("gateway", b"")
    store.wipe()
    store.create("new")
    (directory / "leaf.key").write_bytes(content)
    (directory / "leaf.key").chmod(0o600)
    with pytest.raises(KeyStoreError, match=r"leaf.key: was changed"):
        store.sign("leaf", b"")


def test_an_identity_key_cannot_be_opened(store: SoftwareKeyStore, directory: Path) -> None:
    """What unseals opens no key file, and what was sealed does not sign as a key."""
    store.put("gateway", Secret(KEY))
    with pytest.raises(KeyStoreError, match="was changed, is not where it was put"):
        store.unseal((directory / "gateway.key").read_bytes())
    (directory / "gateway.key").write_bytes(store.seal(Secret(KEY)))
    with pytest.raises(KeyStoreError, match="was changed, is not where it was put"):
        store.sign("gateway", b"")


def test_a_later_version_is_told_as_such(store: SoftwareKeyStore, directory: Path) -> None:
    """After going back to an older gateway the error says what to do."""
    store.put("gateway", Secret(KEY))
    content = bytearray((directory / "gateway.key").read_bytes())
    content[3] = 2
    (directory / "gateway.key").write_bytes(content)
    with pytest.raises(
        KeyStoreError, match=r"gateway.key: is of version 2, which is not known here. Use the edge-gateway"
    ):
        store.sign("gateway", b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(content=st.binary(max_size=120) | st.binary(max_size=120).map(lambda rest: b"EGW\x01" + rest))
def test_any_bytes_for_a_key_file_are_an_error(store: SoftwareKeyStore, directory: Path, content: bytes) -> None:
    """Whatever stands in a key's file, or is to be unsealed, nothing but a key store's error comes of it."""
    store.put("k", Secret(KEY))
    (directory / "k.key").write_bytes(content)
    with pytest.raises(KeyStoreError):
        store.sign("k", b"")
    with pytest.raises(KeyStoreError):
        store.unseal(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(content=st.binary(max_size=70))
def test_any_bytes_for_a_wrapping_key_are_an_error(store: SoftwareKeyStore, directory: Path, content: bytes) -> None:
    """No other bytes open the keys; `check` takes 32 random ones for a key, and nothing else."""
    (directory / "wrapping-key").unlink(missing_ok=True)
    (directory / "k.key").unlink(missing_ok=True)
    store.put("k", Secret(KEY))
    (directory / "wrapping-key").write_bytes(content)
    with pytest.raises(KeyStoreError):
        store.sign("k", b"")
    if len(content) != 32 and len(content.strip()) != 44:
        with pytest.raises(KeyStoreError, match="holds no wrapping key"):
            store.check()


def test_threads_and_processes_that_begin_at_once_agree(directory: Path) -> None:
    """The first keys of sixteen stores on one new directory are all there, under one wrapping key."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: SoftwareKeyStore(directory).put(f"k{number}", Secret(KEY)), range(16)))
    store = SoftwareKeyStore(directory)
    assert {store.sign(name, b"x") for name in store.names()} == {hmac.digest(KEY, b"x", "sha256")}
    assert len(store.names()) == 16


SIGNER = """
import sys
from pathlib import Path
from edge_gateway.keystore.software import SoftwareKeyStore
store = SoftwareKeyStore(Path(sys.argv[1]))
for name in store.names():
    store.sign(name, b"x")
    store.unseal(store.seal(store.unseal(Path(sys.argv[2]).read_bytes())))
print("ready", flush=True)
sys.stdin.readline()
"""


def test_keys_do_not_stay_in_memory(store: SoftwareKeyStore, directory: Path, tmp_path: Path) -> None:
    """A process that has signed with a hundred keys holds nothing of them, nor of any other secret."""
    keys = [os.urandom(32) for _ in range(100)]
    for number, key in enumerate(keys):
        store.put(f"k{number}", Secret(key))
    keys += [os.urandom(32)]
    (tmp_path / "sealed").write_bytes(store.seal(Secret(keys[-1])))
    keys += [(directory / "wrapping-key").read_bytes()]
    arguments = [sys.executable, "-c", SIGNER, str(directory), str(tmp_path / "sealed")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        scan = find_secrets(process.pid, keys)
        process.communicate(b"\n")
    assert scan.findings == ()
    assert scan.scanned_bytes > 1_000_000


# --- the wrapping key -------------------------------------------------------------------------------------------------


@pytest.fixture
def given_file(tmp_path: Path) -> Path:
    path = tmp_path / "stick"
    path.write_bytes(base64.b64encode(KEY) + b"\n")
    path.chmod(0o400)
    return path


@pytest.fixture
def wrapped(directory: Path, given_file: Path) -> SoftwareKeyStore:
    store = SoftwareKeyStore(directory, wrapping_key_file=given_file)
    store.put("gateway", Secret(KEY))
    return store


def test_a_wrapping_key_may_be_given_as_bytes_or_text(wrapped: SoftwareKeyStore, given_file: Path) -> None:
    """The same 32 bytes, raw or in base64, with a line's end or without, open the same keys."""
    signature = wrapped.sign("gateway", b"x")
    for content in (KEY, base64.b64encode(KEY), b" " + base64.b64encode(KEY) + b"\r\n"):
        given_file.chmod(0o600)
        given_file.write_bytes(content)
        assert wrapped.sign("gateway", b"x") == signature


def test_a_copied_directory_is_worth_nothing_without_the_stick(wrapped: SoftwareKeyStore, directory: Path) -> None:
    """Where the wrapping key is not, nobody signs; and none is made for keys that are there."""
    assert [path.name for path in directory.iterdir()] == ["gateway.key"]
    thief = SoftwareKeyStore(directory)
    for call in (lambda: thief.sign("gateway", b""), lambda: thief.put("x", Secret(KEY)), thief.check):
        with pytest.raises(
            KeyStoreError, match="the wrapping key is missing, without which no key here opens"
        ) as caught:
            call()
        assert not isinstance(caught.value, KeyStoreUnavailable)
    assert [path.name for path in directory.iterdir()] == ["gateway.key"]


def test_a_stick_may_come_later(wrapped: SoftwareKeyStore, given_file: Path) -> None:
    """While it is away the store is unavailable, which names the file; when it is back all is as it was."""
    signature, sealed = wrapped.sign("gateway", b"x"), wrapped.seal(Secret(KEY))
    away = given_file.rename(given_file.with_name("away"))
    calls: list[Callable[[], object]] = [
        lambda: wrapped.sign("gateway", b"x"),
        lambda: wrapped.put("other", Secret(KEY)),
        lambda: wrapped.create("other"),
        lambda: wrapped.seal(Secret(KEY)),
        lambda: wrapped.unseal(sealed),
        wrapped.check,
    ]
    for call in calls:
        with pytest.raises(KeyStoreUnavailable, match=r"stick: the wrapping key is not there. Plug in what holds it"):
            call()
    assert wrapped.names() == ["gateway"]
    away.rename(given_file)
    wrapped.check()
    assert wrapped.sign("gateway", b"x") == signature


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o640, 0o644, 0o777])
def test_a_wrapping_key_that_others_can_read_is_not_used(
    wrapped: SoftwareKeyStore, given_file: Path, mode: int
) -> None:
    """The store says which file and what to do."""
    given_file.chmod(mode)
    with pytest.raises(KeyStoreError, match=rf"stick: can be read by others \(mode {mode:04o}\). chmod go-rwx"):
        wrapped.sign("gateway", b"")
    with pytest.raises(KeyStoreError, match="can be read by others"):
        wrapped.check()


def test_each_store_says_how_weak_it_is(store: SoftwareKeyStore, wrapped: SoftwareKeyStore) -> None:
    """With the wrapping key beside the keys, that who copies the directory has them; else, what both together are."""
    assert "who copies the whole data directory has every key" in store.weakness
    assert "who has the data directory and the wrapping key has every key" in wrapped.weakness


# --- wiping -----------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """The box is off."""


class Cutter:
    """Counts the steps that change the disk, and cuts at one of them; a write is cut in its middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut_at = 0
        self.steps = 0
        for name in ("pwrite", "fsync", "unlink"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name), name))

    def _counting(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.steps += 1
            if self.steps == self.cut_at:
                if name == "pwrite":
                    file, content, offset = arguments
                    function(file, content[: len(content) // 2], offset)
                raise PowerCut
            return function(*arguments, **more)

        return counted


@pytest.mark.parametrize("is_given", [False, True])
def test_a_wipe_cut_at_any_step_ends_wiped(
    tmp_path: Path, given_file: Path, monkeypatch: pytest.MonkeyPatch, is_given: bool
) -> None:
    """Cut anywhere from the first byte written on, no key signs and nothing opens; wiped again, nothing is left."""
    template = tmp_path / "template"
    given_key = given_file.read_bytes()
    given_file.chmod(0o600)
    store = SoftwareKeyStore(template, wrapping_key_file=given_file if is_given else None)
    for name in ("a", "b", "c"):
        store.put(name, Secret(KEY))
    sealed = store.seal(Secret(KEY))
    (template / ".d.key.new").write_bytes(b"left by a crash")
    assert all(signs(store, name) for name in store.names())
    cutter = Cutter(monkeypatch)
    steps = 0
    for cut_at in range(1, 100):
        directory = tmp_path / str(cut_at)
        shutil.copytree(template, directory)
        given_file.write_bytes(given_key)
        given_file.chmod(0o600)
        store = SoftwareKeyStore(directory, wrapping_key_file=given_file if is_given else None)
        cutter.steps, cutter.cut_at = 0, cut_at
        try:
            store.wipe()
        except PowerCut:
            was_cut = True
        else:
            was_cut = False
        cutter.cut_at = 0
        alive = [signs(store, name) for name in store.names()]
        assert not any(alive)
        assert not opens(store, sealed)
        steps += 1
        store.wipe()
        assert list(directory.iterdir()) == []
        assert given_file.exists() != is_given
        assert not opens(store, sealed)
        if not was_cut:
            break
    assert steps > 10


def signs(store: SoftwareKeyStore, name: str) -> bool:
    try:
        store.sign(name, b"")
    except KeyStoreError:
        return False
    return True


def opens(store: SoftwareKeyStore, sealed: bytes) -> bool:
    try:
        store.unseal(sealed)
    except KeyStoreError:
        return False
    return True


def test_what_cannot_be_wiped_is_told_and_the_rest_is_wiped(store: SoftwareKeyStore, directory: Path) -> None:
    """A directory in a key's place stays and is named; the keys are gone; loose modes are no hindrance."""
    store.put("a", Secret(KEY))
    (directory / "b.key").mkdir()
    (directory / "note").write_text("not ours")
    directory.chmod(0o755)
    with pytest.raises(KeyStoreError, match=r"could not be destroyed: b.key \(Is a directory\).*rm -r"):
        store.wipe()
    assert sorted(path.name for path in directory.iterdir()) == ["b.key", "note"]


def test_a_wrapping_key_that_stays_is_told(directory: Path, tmp_path: Path) -> None:
    """One on a disk that takes no writes cannot be destroyed; the error says so, and the keys are gone all the same."""
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "key").mkdir()  # what cannot be overwritten, to root either
    store = SoftwareKeyStore(directory, wrapping_key_file=stick / "key")
    directory.mkdir(0o700)
    (directory / "a.key").write_bytes(bytes(64))
    with pytest.raises(
        KeyStoreError, match=r"the wrapping key could not be destroyed: Is a directory.*where it comes from"
    ):
        store.wipe()
    assert list(directory.iterdir()) == []
