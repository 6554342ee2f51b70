"""Who listens on the wire between the gateway and its TPM hears commands, and no key and no secret."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import (
    EndorsementKey,
    StorageRootKey,
    authentication_key_blob,
)
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.relay import Relay

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

pytss: Any = pytest.importorskip("tpm2_pytss")  # not imported above, where its absence would be an error

PUT, SEALED, ASSIGNED = (bytes(range(start, start + 32)) for start in (1, 65, 129))
PIECE_BYTES = 8
"""So short a piece of a key is found, and does not come by chance."""


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def relay(tpm: BlockingTpm, tmp_path: Path) -> Iterator[Relay]:
    with Relay(tmp_path / "r", tpm.tcti) as relay:
        yield relay


def pieces_of(secret: bytes, heard: bytes) -> list[bytes]:
    """Pieces of a secret that were heard."""
    pieces = (secret[start : start + PIECE_BYTES] for start in range(len(secret) - PIECE_BYTES + 1))
    return [piece for piece in pieces if piece in heard]


@pytest.mark.parametrize("srk", ["ecc", "rsa"])
def test_no_key_and_no_secret_crosses_in_clear(relay: Relay, tmp_path: Path, srk: Literal["ecc", "rsa"]) -> None:
    """Not one brought in, sealed, unsealed or assigned by a provisioning service, whichever root wraps them."""
    store = TpmKeyStore(tmp_path / "keys", tcti=relay.tcti, srk=srk)
    store.put("put", Secret(PUT))
    assert store.unseal(store.seal(Secret(SEALED))).reveal() == SEALED
    parents = EndorsementKey.parse(store.endorsement_key()), StorageRootKey.parse(store.storage_root_key())
    store.import_challenge("assigned", authentication_key_blob(*parents, ASSIGNED))
    store.check()
    signatures = [store.sign("put", b"what is signed is heard"), store.sign("assigned", b"x")]
    store.close()
    assert signatures[0] == hmac.digest(PUT, b"what is signed is heard", "sha256")
    assert signatures[1] == hmac.digest(ASSIGNED, b"x", "sha256")
    heard = relay.heard
    for secret in (PUT, SEALED, ASSIGNED):
        assert pieces_of(secret, heard) == []
    # The wire is the right one, and the ears are good.
    for public in (b"what is signed is heard", *signatures):
        assert public in heard


def test_a_key_in_clear_is_heard(relay: Relay, tpm: BlockingTpm) -> None:
    """The same wire and the same ears find a secret that goes there and back without an encrypted session."""
    esys = pytss.ESAPI(relay.tcti)
    sensitive = pytss.TPM2B_SENSITIVE_CREATE(pytss.TPMS_SENSITIVE_CREATE(data=pytss.TPM2B_SENSITIVE_DATA(SEALED)))
    public = pytss.TPM2B_PUBLIC.parse("keyedhash", objectAttributes="userwithauth|fixedtpm|fixedparent")
    sealed, *_ = esys.create_primary(sensitive, public)
    there = pieces_of(SEALED, relay.heard)
    assert bytes(esys.unseal(sealed)) == SEALED
    esys.close()
    assert len(there) == len(SEALED) - PIECE_BYTES + 1
    assert relay.heard.count(SEALED) == 2
