"""What every key store does. A new backend joins by one more entry in `BACKENDS`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.software import SoftwareKeyStore

OpenStore = Callable[[Path], KeyStore]

BACKENDS: dict[str, OpenStore] = {
    "software": lambda directory: SoftwareKeyStore(directory / "keys"),
}
"""Each makes a store on a directory; twice on the same directory is the same store after a restart."""

KEY = bytes(range(32))


@pytest.fixture(params=BACKENDS)
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    return BACKENDS[request.param]


@pytest.fixture
def store(open_store: OpenStore, tmp_path: Path) -> KeyStore:
    return open_store(tmp_path)


def test_a_new_store_is_empty(store: KeyStore) -> None:
    """Before the first key there are none, and asking is no error."""
    assert store.names() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(key=st.binary(min_size=16, max_size=64), data=st.binary(max_size=300))
def test_a_signature_is_the_hmac(store: KeyStore, key: bytes, data: bytes) -> None:
    """For any key and any data, signing gives HMAC-SHA256."""
    store.put("k", key)
    assert store.sign("k", data) == hmac.digest(key, data, hashlib.sha256)


def test_a_known_signature(store: KeyStore) -> None:
    """The example of RFC 4231, section 4.2, comes out as printed there."""
    store.put("rfc", b"\x0b" * 20)
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert store.sign("rfc", b"Hi There").hex() == expected


def test_keys_are_kept_over_a_restart(open_store: OpenStore, tmp_path: Path) -> None:
    """A key that was put is there when the store is opened again."""
    open_store(tmp_path).put("gateway", KEY)
    again = open_store(tmp_path)
    assert again.names() == ["gateway"]
    assert again.sign("gateway", b"x") == hmac.digest(KEY, b"x", "sha256")


def test_a_key_can_be_replaced(store: KeyStore) -> None:
    """The newest key under a name is the one that signs."""
    store.put("gateway", KEY)
    store.put("gateway", KEY[::-1])
    assert store.names() == ["gateway"]
    assert store.sign("gateway", b"x") == hmac.digest(KEY[::-1], b"x", "sha256")


def test_names_are_sorted_and_told_apart(store: KeyStore) -> None:
    """Several keys live side by side, whatever order they came in, dots and all."""
    for number, name in enumerate(["zeta", "alpha", "a.b", "a", "a.key", "A_1-x"]):
        store.put(name, bytes([number]) * 16)
    assert store.names() == ["A_1-x", "a", "a.b", "a.key", "alpha", "zeta"]
    assert store.sign("a.b", b"") == hmac.digest(bytes([2]) * 16, b"", "sha256")
    assert store.sign("a.key", b"") == hmac.digest(bytes([4]) * 16, b"", "sha256")


@pytest.mark.parametrize("size_bytes", [16, 32, 64])
def test_sizes_that_a_hub_gives_are_taken(store: KeyStore, size_bytes: int) -> None:
    """16 to 64 bytes can be stored."""
    store.put("k", bytes(size_bytes))
    assert store.names() == ["k"]


@pytest.mark.parametrize("size_bytes", [0, 15, 65, 10_000])
def test_other_sizes_are_refused(store: KeyStore, size_bytes: int) -> None:
    """A key too short to be one, or too long, is refused with its size, and nothing is stored."""
    with pytest.raises(KeyStoreError, match=rf"key 'k': a key of {size_bytes} bytes .* Give 16 to 64 bytes"):
        store.put("k", bytes(size_bytes))
    assert store.names() == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../k", "a/b", "a b", "a\x00", "a\n", "é", "x" * 65, "-a"])
def test_names_that_could_lead_elsewhere_are_refused(store: KeyStore, name: str) -> None:
    """A name is letters, digits, `.`, `_` and `-`; nothing else gets near the storage, to write or to read."""
    with pytest.raises(KeyStoreError, match=r"cannot be a key's name. Use letters, digits"):
        store.put(name, KEY)
    with pytest.raises(KeyStoreError, match="cannot be a key's name"):
        store.sign(name, b"")
    assert store.names() == []


def test_a_key_that_is_not_there_says_how_to_import_it(store: KeyStore) -> None:
    """Signing with an unknown key names the key and the command that would bring it."""
    with pytest.raises(KeyStoreError, match=r"key 'gateway'.*there is no such key.*edge-gateway keys import gateway"):
        store.sign("gateway", b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    key=st.binary(min_size=8, max_size=100).filter(lambda key: len(set(key)) > 4),
    name=st.sampled_from(["k", "../k", "", "x" * 65]),
)
def test_nothing_of_a_key_is_told(store: KeyStore, key: bytes, name: str) -> None:
    """Whatever goes wrong, neither an error nor the store's repr holds the key, as bytes, hex or base64."""
    told = []
    try:
        store.put(name, key)
        store.sign(name, b"")
        store.sign("other", b"")
    except KeyStoreError as error:
        told += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    told += [repr(store), str(store), repr(vars(store))]
    for text in told:
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
