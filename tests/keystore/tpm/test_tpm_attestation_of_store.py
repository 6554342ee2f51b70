"""A key store proves which TPM it has, and takes the key that the provisioning service made for that TPM alone.

The service's side is the local cloud's, which computes challenges without a TPM and shares no code with the store.
"""

from __future__ import annotations

import contextlib
import hmac
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.keystore.tpm.challenge import Challenge
from edge_gateway.keystore.tpm.public_areas import EK_HANDLE, key_template, sized
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import (
    EndorsementKey,
    StorageRootKey,
    authentication_key_blob,
    registration_id,
)
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.stranger import Stranger

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

KEY = bytes(range(100, 132))

SERVICE_KEY = sized(struct.pack(">HHIHHHH", 8, 0xB, 0x40440, 0, 5, 0xB, 32) + bytes(32))
"""The TPM2B_PUBLIC of an HMAC key as services make it."""


@pytest.fixture(scope="module")
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def store(tpm: BlockingTpm, tmp_path: Path) -> Iterator[TpmKeyStore]:
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
    yield store
    store.close()


def keys_of(store: TpmKeyStore) -> tuple[EndorsementKey, StorageRootKey]:
    """What the service makes of what a store sends it."""
    return EndorsementKey.parse(store.endorsement_key()), StorageRootKey.parse(store.storage_root_key())


@pytest.mark.parametrize("srk", ["ecc", "rsa"])
@pytest.mark.parametrize("endorsement", ["ecc", "rsa"])
@pytest.mark.parametrize("key", [KEY, KEY * 2], ids=["32", "64"])
def test_a_challenge_becomes_a_key(
    tmp_path: Path, srk: Literal["ecc", "rsa"], endorsement: Literal["ecc", "rsa"], key: bytes
) -> None:
    """For each kind of parent the service's key is taken in and signs, also after a restart; the next replaces it."""
    with BlockingTpm() as tpm:
        store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, srk=srk, endorsement=endorsement)
        for each in (KEY[::-1], key):
            store.import_challenge("gateway", authentication_key_blob(*keys_of(store), each))
            assert store.sign("gateway", b"x") == hmac.digest(each, b"x", "sha256")
        tpm.restart()
        assert store.names() == ["gateway"]
        assert store.sign("gateway", b"x" * 3000) == hmac.digest(key, b"x" * 3000, "sha256")
        store.close()


def test_a_tpm_has_one_endorsement_key(tpm: BlockingTpm, tmp_path: Path) -> None:
    """Every store finds the same, whatever kind it would make, also after a wipe: the registration id hangs on it."""
    with BlockingTpm() as own:
        found = []
        for number, kind in enumerate(("rsa", "ecc")):
            store = TpmKeyStore(tmp_path / str(number), tcti=own.tcti, endorsement="rsa" if kind == "rsa" else "ecc")
            found.append(store.endorsement_key())
            store.close()
        assert found[0] == found[1]
        store = TpmKeyStore(tmp_path / "wiped", tcti=own.tcti)
        store.wipe()
        assert store.endorsement_key() == found[0]
        assert len(registration_id(EndorsementKey.parse(found[0]))) == 52
        store.close()


def test_a_challenge_for_another_tpm_is_refused(store: TpmKeyStore, tmp_path: Path) -> None:
    """Made for another endorsement key, or another storage root key, it is of no use, and the older key stays."""
    ours = keys_of(store)
    store.put("gateway", Secret(KEY))
    with BlockingTpm() as other:
        foreign = TpmKeyStore(tmp_path / "foreign", tcti=other.tcti)
        theirs = keys_of(foreign)
        foreign.close()
    for parents in ((theirs[0], ours[1]), (ours[0], theirs[1]), theirs):
        with pytest.raises(KeyStoreError, match=r"challenge: .*made for another TPM"):
            store.import_challenge("gateway", authentication_key_blob(*parents, KEY[::-1]))
    assert store.sign("gateway", b"x") == hmac.digest(KEY, b"x", "sha256")


def test_a_changed_challenge_is_refused(store: TpmKeyStore) -> None:
    """Whatever byte is changed on the way, no key comes of it."""
    challenge = authentication_key_blob(*keys_of(store), KEY)
    for at in range(0, len(challenge) - 2, 23):
        changed = challenge[:at] + bytes([challenge[at] ^ 0x10]) + challenge[at + 1 :]
        with pytest.raises(KeyStoreError, match="challenge"):
            store.import_challenge("gateway", changed)
    assert store.names() == []
    store.import_challenge("gateway", challenge)


def test_fields_as_long_as_they_may_be_reach_the_tpm(store: TpmKeyStore) -> None:
    """Garbage that keeps to the lengths is refused by the TPM, and not by the library."""
    fields = (bytes(128), bytes(256), bytes(512), bytes(256))
    with pytest.raises(KeyStoreError, match=r"challenge: .*made for another TPM"):
        store.import_challenge("gateway", b"".join(map(sized, fields)) + SERVICE_KEY)


def test_something_else_in_the_endorsement_keys_place_is_told(tmp_path: Path) -> None:
    """It is not sent for one, and the error says how to look at it."""
    with BlockingTpm() as tpm, Stranger(tpm) as stranger:
        stranger.persist(stranger.make(key_template(made_inside=True)), EK_HANDLE)
        store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
        with pytest.raises(KeyStoreError, match="something else is where the endorsement key belongs"):
            store.endorsement_key()
        store.close()


CHALLENGE = bytes.fromhex("0001aa 0001bb 0001cc 0001dd") + SERVICE_KEY + bytes(2)


def test_a_challenge_is_split() -> None:
    """Five fields, or six; the last one may be anything."""
    assert Challenge.parse(CHALLENGE) == Challenge(b"\xaa", b"\xbb", b"\xcc", b"\xdd", SERVICE_KEY)
    assert Challenge.parse(CHALLENGE[:-2]) == Challenge.parse(CHALLENGE) == Challenge.parse(CHALLENGE[:-2] + b"\0\1x")


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: CHALLENGE[:-2] + tail))
def test_any_bytes_are_a_challenge_or_refused(data: bytes) -> None:
    """Whatever a service sends, it is split or refused with an error of the key store's."""
    with contextlib.suppress(KeyStoreError):
        assert Challenge.parse(data).public == SERVICE_KEY


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not 5 or 6 fields"),
        (CHALLENGE[:-3], "ends within field 5"),
        (CHALLENGE + b"\0", "not 5 or 6 fields"),
        (sized(bytes(129)) + CHALLENGE[3:], "field 1 has 129 bytes"),
        (bytes(4097), "4097 bytes, 4096 are allowed"),
        (CHALLENGE.replace(bytes.fromhex("00040440"), bytes.fromhex("00060440")), "not one for HMAC-SHA256"),
        (CHALLENGE.replace(bytes.fromhex("00040440"), bytes.fromhex("00040400")), "not one for HMAC-SHA256"),
    ],
)
def test_what_is_wrong_with_a_challenge_is_told(data: bytes, told: str) -> None:
    """The error says it, and where to turn."""
    with pytest.raises(KeyStoreError, match=rf"challenge: not a usable challenge: .*{told}.*Ask the provisioning"):
        Challenge.parse(data)
