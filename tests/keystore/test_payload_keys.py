"""Keys of encrypted payloads: kept apart from identity keys, opened by name, and told to nobody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import PayloadKeyStore, Secret
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore

KEY = bytes(range(16))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "payload-keys"


@pytest.fixture
def store(directory: Path) -> PayloadKeyStore:
    return SealedPayloadKeys(directory, SoftwareKeyStore(directory.parent / "keys"))


@pytest.mark.parametrize("size_bytes", [16, 24, 32])
def test_a_key_comes_back_as_it_went_in(store: PayloadKeyStore, directory: Path, size_bytes: int) -> None:
    """All sizes of AES, over a restart too."""
    key = bytes(range(size_bytes))
    store.put("kitchen", Secret(key))
    assert store.open_key("kitchen").reveal() == key
    assert SealedPayloadKeys(directory, SoftwareKeyStore(directory.parent / "keys")).open_key("kitchen").reveal() == key


@pytest.mark.parametrize("size_bytes", [0, 12, 15, 17, 33, 64])
def test_a_key_that_aes_does_not_take_is_refused(store: PayloadKeyStore, size_bytes: int) -> None:
    """It is refused with its size, and nothing is stored."""
    with pytest.raises(KeyStoreError, match=rf"a key of {size_bytes} bytes cannot be used. Give 16, 24 or 32 bytes"):
        store.put("kitchen", Secret(bytes(size_bytes)))
    assert store.names() == []


def test_files_are_the_owners_alone(store: PayloadKeyStore, directory: Path) -> None:
    """Mode 0600 in a directory of mode 0700, like identity keys; one that others can read is not opened."""
    store.put("kitchen", Secret(KEY))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "kitchen.key").stat().st_mode) == 0o600
    (directory / "kitchen.key").chmod(0o644)
    with pytest.raises(KeyStoreError, match=r"kitchen.key: can be read by others \(mode 0644\). chmod go-rwx"):
        store.open_key("kitchen")


def test_a_file_cut_short_is_no_key(store: PayloadKeyStore, directory: Path) -> None:
    """What a person broke is found when it is opened, and not by a cipher later."""
    store.put("kitchen", Secret(KEY))
    (directory / "kitchen.key").write_bytes(KEY[:9])
    with pytest.raises(
        KeyStoreError,
        match=r"kitchen.key: is no sealed key. Import it again: edge-gateway keys import kitchen --payload",
    ):
        store.open_key("kitchen")


def test_a_key_that_is_not_there_says_how_to_import_it(store: PayloadKeyStore) -> None:
    """The error names the key and the command."""
    with pytest.raises(KeyStoreError, match=r"key 'hall'.*no such key.*edge-gateway keys import hall --payload"):
        store.open_key("hall")


def test_a_removed_key_is_gone(store: PayloadKeyStore) -> None:
    """And removing one that is not there says which are."""
    store.put("hall", Secret(KEY))
    store.put("kitchen", Secret(KEY))
    store.remove("hall")
    assert store.names() == ["kitchen"]
    with pytest.raises(KeyStoreError, match=r"key 'hall' in .*: there is no such key. Keys there: kitchen"):
        store.remove("hall")


def test_an_identity_key_can_be_removed_too(tmp_path: Path) -> None:
    """From the store that only signs."""
    identity = SoftwareKeyStore(tmp_path / "keys")
    identity.put("gateway", Secret(KEY))
    identity.remove("gateway")
    assert identity.names() == []


def test_what_opens_payloads_has_no_way_to_an_identity(tmp_path: Path) -> None:
    """Under the same name each store has its own key, and no name leads from one to the other."""
    identity, payload = (
        SoftwareKeyStore(tmp_path / "keys"),
        SealedPayloadKeys(tmp_path / "payload-keys", SoftwareKeyStore(tmp_path / "keys")),
    )
    identity.put("gateway", Secret(KEY))
    for name in ("gateway", "../keys/gateway", "keys/gateway"):
        with pytest.raises(KeyStoreError):
            payload.open_key(name)
    assert payload.names() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(key=st.binary(min_size=8, max_size=40).filter(lambda key: len(set(key)) > 4))
def test_nothing_of_a_key_is_told(store: PayloadKeyStore, key: bytes) -> None:
    """Neither an error nor the store's or the secret's text holds it, as bytes, hex or base64."""
    told = []
    try:
        store.put("k", Secret(key))
        told += [str(store.open_key("k")), repr([store.open_key("k")])]
        store.open_key("other")
    except KeyStoreError as error:
        told += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    told += [repr(store), repr(vars(store))]
    for text in told:
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
