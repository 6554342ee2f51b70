"""A key store in a TPM: what it promises beyond the contract of all key stores. The TPM is swtpm."""

from __future__ import annotations

import hmac
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_gateway.errors import KeyMissing, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from tests.keystore.tpm.backend import BlockingTpm, tpm_key_store, why_not
from tests.log_events import log_events

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

KEY = bytes(range(100, 132))


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys"


@pytest.fixture
def store(tpm: BlockingTpm, directory: Path) -> Iterator[TpmKeyStore]:
    store = TpmKeyStore(directory, tcti=tpm.tcti)
    yield store
    store.close()


def test_a_known_signature(store: TpmKeyStore) -> None:
    """The example of RFC 4231, section 4.2, comes out as printed there."""
    store.put("rfc", Secret(b"\x0b" * 20))
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert store.sign("rfc", b"Hi There").hex() == expected


@pytest.mark.parametrize("size_bytes", [0, 1, 1023, 1024, 1025, 2048, 2049, 10_000])
def test_data_of_any_length_is_signed(store: TpmKeyStore, size_bytes: int) -> None:
    """A TPM takes 1,024 bytes at once; longer data goes in parts and gives the same."""
    store.put("k", Secret(KEY))
    data = os.urandom(size_bytes)
    assert store.sign("k", data) == mac(KEY, data)


def test_keys_are_kept_over_a_restart_of_both(tmp_path: Path) -> None:
    """What was put is there when gateway and TPM start again."""
    with tpm_key_store(tmp_path) as store:
        store.put("k", Secret(KEY))
        sealed = store.seal(Secret(b"s" * 32))
    with tpm_key_store(tmp_path) as store:
        assert store.sign("k", b"x") == mac(KEY, b"x")
        assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_key_made_inside_signs_alike_and_like_no_other(store: TpmKeyStore) -> None:
    """A key that nobody has seen signs the same data the same way; two of them differ."""
    store.create("one")
    store.create("two")
    assert store.sign("one", b"x") == store.sign("one", b"x")
    assert store.sign("one", b"x") != store.sign("two", b"x")
    assert len(store.sign("one", b"x")) == 32


def test_a_hundred_keys_go_through_three_places(store: TpmKeyStore) -> None:
    """A TPM with room for three objects serves any number of keys, in any order."""
    keys = {f"leaf.{number}": bytes([number]) * 32 for number in range(100)}
    for name, key in keys.items():
        store.put(name, Secret(key))
    assert store.names() == sorted(keys)
    for name, key in reversed(keys.items()):
        assert store.sign(name, b"x") == mac(key, b"x")


def test_files_are_the_owners_alone_and_hold_no_key(store: TpmKeyStore, directory: Path) -> None:
    """Directory and files shut out everybody else, whatever the umask; the key is in none of them."""
    before = os.umask(0)
    try:
        store.put("k", Secret(KEY))
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == {"k.tpm", "srk.name"}
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert KEY[:8] not in path.read_bytes()


@pytest.mark.parametrize("name", ["k.tpm", "srk.name", ""])
def test_what_others_can_read_is_not_used(store: TpmKeyStore, directory: Path, name: str) -> None:
    """A file or directory that others could open stops the store until somebody looked at it; `check` finds it, too."""
    store.put("k", Secret(KEY))
    store.check()
    path = directory / name
    path.chmod(0o755)
    with pytest.raises(KeyStoreError, match=r"can be read by others \(mode 0755\). chmod go-rwx"):
        TpmKeyStore(directory, tcti="swtpm:path=/nowhere").sign("k", b"") if name == "k.tpm" else store.check()


def test_a_changed_byte_is_refused(store: TpmKeyStore, directory: Path) -> None:
    """A key file of which any byte is changed signs nothing, and the error says which file."""
    store.put("k", Secret(KEY))
    path = directory / "k.tpm"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(KeyStoreError, match=r"k\.tpm: "):
            store.sign("k", b"x")
    path.write_bytes(whole)
    assert store.sign("k", b"x") == mac(KEY, b"x")


def test_a_changed_byte_behind_a_right_checksum_is_refused_by_the_tpm(store: TpmKeyStore) -> None:
    """Who changes what was sealed and mends the checksum gets nowhere: the TPM notices."""
    import hashlib

    sealed = store.seal(Secret(KEY))
    for at in range(len(sealed) - 40, len(sealed) - 33):
        changed = bytearray(sealed[:-32])
        changed[at] ^= 1
        with pytest.raises(KeyStoreError, match="the TPM does not open it: it has been changed"):
            store.unseal(bytes(changed) + hashlib.sha256(changed).digest())
    assert store.unseal(sealed).reveal() == KEY


def test_a_key_under_another_name_is_refused(store: TpmKeyStore, directory: Path) -> None:
    """Two files that changed their names do not sign for each other."""
    store.put("a", Secret(KEY))
    store.put("b", Secret(KEY[::-1]))
    shutil.copy(directory / "a.tpm", directory / "b.tpm")
    with pytest.raises(KeyStoreError, match=r"b\.tpm: it was written for 'a'"):
        store.sign("b", b"")


def test_a_sealed_secret_is_no_key_and_a_key_does_not_unseal(store: TpmKeyStore, directory: Path) -> None:
    """What signs never comes out, and what comes out never signs."""
    store.put("k", Secret(KEY))
    with pytest.raises(KeyStoreError, match="sealed secret: it was written for 'k'"):
        store.unseal((directory / "k.tpm").read_bytes())
    (directory / "s.tpm").write_bytes(store.seal(Secret(KEY)))
    (directory / "s.tpm").chmod(0o600)
    with pytest.raises(KeyStoreError, match="it was written for ''"):
        store.sign("s", b"")


@pytest.mark.parametrize("size_bytes", [1, 16, 32, 64])
def test_a_secret_is_sealed_and_unsealed(store: TpmKeyStore, size_bytes: int) -> None:
    """Secrets of up to 64 bytes come back, and are in nothing that is kept."""
    secret = os.urandom(size_bytes)
    sealed = store.seal(Secret(secret))
    assert size_bytes == 1 or secret not in sealed
    assert store.unseal(sealed).reveal() == secret


@pytest.mark.parametrize("size_bytes", [0, 65])
def test_other_sizes_cannot_be_sealed(store: TpmKeyStore, size_bytes: int) -> None:
    """The error says how many bytes would do."""
    with pytest.raises(KeyStoreError, match=rf"a secret of {size_bytes} bytes cannot be sealed. Give 1 to 64 bytes"):
        store.seal(Secret(bytes(size_bytes)))


def test_the_directory_beside_another_tpm_is_worthless(store: TpmKeyStore, directory: Path, tmp_path: Path) -> None:
    """A copied disk neither signs nor unseals with another TPM, and leaves nothing in that."""
    store.put("k", Secret(KEY))
    sealed = store.seal(Secret(KEY))
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    with BlockingTpm() as other:
        thief = TpmKeyStore(copy, tcti=other.tcti)
        for attempt in (lambda: thief.sign("k", b"x"), lambda: thief.unseal(sealed), thief.check):
            with pytest.raises(KeyStoreError, match="belong to another TPM, or this one has been cleared"):
                attempt()
        (copy / "srk.name").unlink()
        with pytest.raises(KeyStoreError, match=r"srk\.name: it is missing, while there are keys"):
            thief.sign("k", b"x")
        (copy / "k.tpm").rename(tmp_path / "k.tpm")
        thief.check()  # as if new, with a root of its own
        (tmp_path / "k.tpm").rename(copy / "k.tpm")
        with pytest.raises(KeyStoreError, match="key 'k': the TPM does not open it"):
            thief.sign("k", b"x")
        with pytest.raises(KeyStoreError, match="the TPM does not open it"):
            thief.unseal(sealed)
        thief.close()
    assert store.sign("k", b"x") == mac(KEY, b"x")


@pytest.mark.parametrize("content", [b"", b"00" * 34, b"x" * 69, b"00" * 50 + b"\n"])
def test_a_damaged_pin_stops_the_store(store: TpmKeyStore, directory: Path, content: bytes) -> None:
    """Without knowing which root is ours, none is trusted."""
    store.check()
    store.close()
    (directory / "srk.name").write_bytes(content)
    again = TpmKeyStore(directory, tcti="swtpm:path=/nowhere")
    with pytest.raises(KeyStoreError, match=r"srk\.name: not what the key store wrote"):
        again.check()
    again.close()


def test_status_says_what_it_is(store: TpmKeyStore, directory: Path) -> None:
    """Kind and weakness are those of a TPM; the store prints where it is and no key."""
    assert (store.kind, store.weakness) == ("tpm", "")
    assert str(directory) in repr(store)


def test_a_key_that_is_not_there_needs_no_tpm_to_be_missed(directory: Path) -> None:
    """Signing with it or removing it says how to import it, or which keys there are."""
    store = TpmKeyStore(directory, tcti="swtpm:path=/nowhere")
    with pytest.raises(KeyMissing, match="edge-gateway keys import k"):
        store.sign("k", b"")
    with pytest.raises(KeyMissing, match="Keys there: none"):
        store.remove("k")
    assert store.names() == []
    store.close()


def test_a_removed_key_is_gone(store: TpmKeyStore, directory: Path) -> None:
    """Its file goes, and it signs no more."""
    store.put("k", Secret(KEY))
    store.remove("k")
    assert store.names() == []
    assert not (directory / "k.tpm").exists()
    with pytest.raises(KeyMissing):
        store.sign("k", b"")


def test_a_wipe_makes_copies_worthless(store: TpmKeyStore, directory: Path, tmp_path: Path) -> None:
    """After it the store is as new, and what was copied before opens in this TPM no more."""
    store.put("k", Secret(KEY))
    sealed = store.seal(Secret(KEY))
    shutil.copytree(directory, tmp_path / "copy")
    store.wipe()
    assert list(directory.iterdir()) == []
    copy = TpmKeyStore(tmp_path / "copy", tcti=str(store._tcti))
    with pytest.raises(KeyStoreError, match="this one has been cleared"):
        copy.sign("k", b"")
    copy.close()
    store.put("new", Secret(KEY))
    assert store.sign("new", b"x") == mac(KEY, b"x")
    with pytest.raises(KeyStoreError, match="the TPM does not open it"):
        store.unseal(sealed)


def test_an_empty_store_can_be_wiped_twice(store: TpmKeyStore) -> None:
    """There is no harm in it."""
    store.wipe()
    store.wipe()
    assert store.names() == []


def test_a_wipe_without_a_tpm_is_ended_later(
    store: TpmKeyStore, tpm: BlockingTpm, directory: Path, tmp_path: Path
) -> None:
    """The files go at once; until the TPM has been cleared, the store does nothing but wipe."""
    store.put("k", Secret(KEY))
    tpm.kill()
    with pytest.raises(KeyStoreUnavailable, match=r"the key files are gone; copies made before work until"):
        store.wipe()
    assert [path.name for path in directory.iterdir()] == ["wipe.begun"]
    tpm.restart()
    for refused in (store.check, lambda: store.put("k", Secret(KEY)), lambda: store.seal(Secret(KEY))):
        with pytest.raises(KeyStoreError, match="a wipe was begun and has not ended"):
            refused()
    store.wipe()
    assert list(directory.iterdir()) == []
    store.put("k", Secret(KEY))


def test_opening_is_logged_once(store: TpmKeyStore) -> None:
    """A log line says which TPM was opened and that a storage root key was made; signing says nothing."""
    with log_events() as events:
        store.put("k", Secret(KEY))
        store.sign("k", b"")
        store.check()
    assert [event["event"] for event in events] == ["keystore.tpm.opened", "keystore.tpm.storage_root_made"]
