"""Authentication key blobs, taken in by a real TPM; and what is refused as a TPM's public key.

The device's side is `TpmDevice`, on swtpm. The TSS's own library (tpm2-pytss) takes a blob in as well, where it is
installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import (
    LONGEST_PUBLIC_BYTES,
    EndorsementKey,
    StorageRootKey,
    TpmKeyRefused,
    authentication_key_blob,
    make_credential,
    registration_id,
    wrap_hmac_key,
)
from edge_gateway.testbench.virtual_tpm import VirtualTpm

from .tpm_device import (
    EK_ATTRIBUTES,
    EK_HANDLE,
    EK_POLICY,
    G_X,
    G_Y,
    SRK_ATTRIBUTES,
    SRK_HANDLE,
    CommandRefused,
    TpmDevice,
    ecc_public,
    needs_swtpm,
    parts,
    rsa_public,
    sized,
)


@pytest.fixture
async def tpm() -> AsyncIterator[VirtualTpm]:
    async with VirtualTpm() as tpm:
        yield tpm


@pytest.fixture
async def device(tpm: VirtualTpm) -> TpmDevice:
    """A device with keys on P-256, which a TPM makes fast."""
    device = TpmDevice(tpm)
    await device.create_parents(ecc_endorsement=True, ecc_storage=True)
    return device


def blob_for(device: TpmDevice, key: bytes) -> bytes:
    endorsement_key = EndorsementKey.parse(device.endorsement_key)
    return authentication_key_blob(endorsement_key, StorageRootKey.parse(device.storage_root_key), key)


@needs_swtpm
@pytest.mark.parametrize(
    ("ecc_endorsement", "ecc_storage"), [(False, False), (False, True), (True, True)], ids=["RSA", "mixed", "ECC"]
)
async def test_the_tpm_signs_with_the_key_it_was_sent(
    tpm: VirtualTpm, ecc_endorsement: bool, ecc_storage: bool
) -> None:
    """A TPM with RSA or ECC keys takes the blob in, signs as the hub would, and goes on doing so after a reboot."""
    device = TpmDevice(tpm)
    await device.create_parents(ecc_endorsement=ecc_endorsement, ecc_storage=ecc_storage)
    key = os.urandom(32)
    await device.take_in(blob_for(device, key))
    assert await device.sign(b"0ne%2Fregistrations%2Fd\n1") == hmac.digest(key, b"0ne%2Fregistrations%2Fd\n1", "sha256")
    await tpm.restart()
    assert await device.sign(b"x") == hmac.digest(key, b"x", "sha256")


@needs_swtpm
@pytest.mark.parametrize("size_bytes", [1, 16, 32, 63, 64])
async def test_keys_of_any_length_a_hub_has(device: TpmDevice, size_bytes: int) -> None:
    """Up to SHA-256's block of 64 bytes a key is taken in, each in place of the one before."""
    for key in (os.urandom(size_bytes), os.urandom(size_bytes)):
        await device.take_in(blob_for(device, key))
        assert await device.sign(b"data") == hmac.digest(key, b"data", "sha256")


@needs_swtpm
@pytest.mark.parametrize("size_bytes", [65, 128])
async def test_a_longer_key_is_refused_because_a_tpm_would(device: TpmDevice, size_bytes: int) -> None:
    """The text names the limit; a blob made all the same is refused by TPM2_Import: key size, its third parameter."""
    with pytest.raises(BenchError, match=f"a key of {size_bytes} bytes cannot be used by a TPM. Give 1 to 64 bytes"):
        blob_for(device, bytes(size_bytes))
    inner_key = bytes(16)
    wrapped = wrap_hmac_key(StorageRootKey.parse(device.storage_root_key), bytes(size_bytes), inner_key)
    with pytest.raises(CommandRefused) as refused:
        await device.import_key(inner_key, *wrapped)
    assert refused.value.code == 0x3C7


@needs_swtpm
@pytest.mark.parametrize("ecc", [False, True], ids=["RSA", "ECC"])
async def test_a_blob_for_another_endorsement_key(tpm: VirtualTpm, ecc: bool) -> None:
    """Only the TPM with the endorsement key gets at the inner key."""
    device = TpmDevice(tpm)
    await device.create_parents(ecc_endorsement=ecc, ecc_storage=True)
    async with VirtualTpm() as other:
        other_device = TpmDevice(other)
        await other_device.create_parents(ecc_endorsement=ecc, ecc_storage=True)
        device.endorsement_key = other_device.endorsement_key
    with pytest.raises(CommandRefused):
        await device.take_in(blob_for(device, os.urandom(32)))


@needs_swtpm
async def test_a_blob_for_another_storage_root_key(device: TpmDevice) -> None:
    """Not even the TPM with the endorsement key gets at the inner key, unless it holds the named key as well."""
    own = device.storage_root_key
    device.storage_root_key = sized(ecc_public(SRK_ATTRIBUTES, b"", G_X, G_Y))
    with pytest.raises(CommandRefused) as refused:
        await device.take_in(blob_for(device, os.urandom(32)))
    assert refused.value.code == 0x1DF  # integrity, first parameter
    # With the right name in the credential, importing fails for want of the storage root key.
    wrapped = wrap_hmac_key(StorageRootKey.parse(device.storage_root_key), os.urandom(32), inner_key := os.urandom(16))
    credential = make_credential(
        EndorsementKey.parse(device.endorsement_key), StorageRootKey.parse(own).name, inner_key
    )
    assert await device.activate_credential(*credential) == inner_key
    with pytest.raises(CommandRefused):
        await device.import_key(inner_key, *wrapped)


@needs_swtpm
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("ecc", [False, True], ids=["RSA", "ECC"])
async def test_a_flipped_bit_is_noticed(tpm: VirtualTpm, ecc: bool, part: int) -> None:
    """The TPM refuses a blob of which any of its five parts was changed, and then takes in the true one."""
    device = TpmDevice(tpm)
    await device.create_parents(ecc_endorsement=ecc, ecc_storage=ecc)
    blob = parts(blob_for(device, key := os.urandom(32)))
    for position in {0, 1, 2, 33, 34, 35, len(blob[part]) // 2, len(blob[part]) - 1}:
        changed = bytearray(blob[part])
        changed[position] ^= 0x01
        with pytest.raises(CommandRefused):
            await device.take_in(b"".join(map(sized, [*blob[:part], bytes(changed), *blob[part + 1 :]])))
    await device.take_in(b"".join(map(sized, blob)))
    assert await device.sign(b"data") == hmac.digest(key, b"data", "sha256")


@needs_swtpm
async def test_the_tss_takes_it_in_as_well(tpm: VirtualTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    """tpm2-pytss, which shares no code with us or with `TpmDevice`, imports the key and signs with it."""
    monkeypatch.setenv("TSS2_LOG", "all+NONE")  # it would print what it cannot find on this machine
    tss = pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edge-gateway[tpm]")
    device = TpmDevice(tpm)
    await device.create_parents()
    key = os.urandom(32)
    blob = blob_for(device, key)
    assert await asyncio.to_thread(take_in_by_tss, tss, tpm.tcti, blob, b"data") == hmac.digest(key, b"data", "sha256")


def take_in_by_tss(tss: Any, tcti: str, blob: bytes, data: bytes) -> bytes:
    """The device's steps through ESAPI; returns the MAC over `data`."""
    id_object, credential_seed, duplicate, import_seed, public_area = parts(blob)[:5]
    aes = tss.TPMT_SYM_DEF_OBJECT(algorithm=tss.TPM2_ALG.AES)
    aes.keyBits.aes = 128
    aes.mode.aes = tss.TPM2_ALG.CFB
    with tss.ESAPI(tcti) as tpm:
        endorsement_key, storage_root_key = tpm.tr_from_tpmpublic(EK_HANDLE), tpm.tr_from_tpmpublic(SRK_HANDLE)
        no_symmetric = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
        policy = tpm.start_auth_session(
            tpm_key=tss.ESYS_TR.NONE,
            bind=tss.ESYS_TR.NONE,
            session_type=tss.TPM2_SE.POLICY,
            symmetric=no_symmetric,
            auth_hash=tss.TPM2_ALG.SHA256,
        )
        tpm.policy_secret(
            auth_handle=tss.ESYS_TR.ENDORSEMENT,
            policy_session=policy,
            nonce_tpm=tss.TPM2B_NONCE(),
            cp_hash_a=tss.TPM2B_DIGEST(),
            policy_ref=tss.TPM2B_NONCE(),
            expiration=0,
        )
        inner_key = tpm.activate_credential(
            activate_handle=storage_root_key,
            key_handle=endorsement_key,
            credential_blob=tss.TPM2B_ID_OBJECT(id_object),
            secret=tss.TPM2B_ENCRYPTED_SECRET(credential_seed),
            session1=tss.ESYS_TR.PASSWORD,
            session2=policy,
        )
        public, _ = tss.TPM2B_PUBLIC.unmarshal(sized(public_area))
        private = tpm.import_(
            parent_handle=storage_root_key,
            encryption_key=tss.TPM2B_DATA(bytes(inner_key)),
            object_public=public,
            duplicate=tss.TPM2B_PRIVATE(duplicate),
            in_sym_seed=tss.TPM2B_ENCRYPTED_SECRET(import_seed),
            symmetric_alg=aes,
        )
        handle = tpm.load(parent_handle=storage_root_key, in_private=private, in_public=public)
        return bytes(tpm.hmac(handle=handle, buffer=data, hash_alg=tss.TPM2_ALG.SHA256))


RSA_MODULUS = b"\x80" + random.Random(1).randbytes(254) + b"\x01"
RSA_EK = sized(rsa_public(EK_ATTRIBUTES, EK_POLICY, RSA_MODULUS))
RSA_SRK = sized(rsa_public(SRK_ATTRIBUTES, b"", RSA_MODULUS))
ECC_EK = sized(ecc_public(EK_ATTRIBUTES, EK_POLICY, G_X, G_Y))
ECC_SRK = sized(ecc_public(SRK_ATTRIBUTES, b"", G_X, G_Y))


@pytest.mark.parametrize(
    ("endorsement_key", "storage_root_key", "sizes_bytes"),
    [(RSA_EK, RSA_SRK, [52, 256, 142, 256, 48, 3]), (ECC_EK, ECC_SRK, [52, 68, 142, 68, 48, 3])],
    ids=["RSA", "ECC"],
)
def test_the_layout(endorsement_key: bytes, storage_root_key: bytes, sizes_bytes: list[int]) -> None:
    """Six fields, each after its size, the last with the given URI; the key itself is nowhere to be seen."""
    key = os.urandom(32)
    blob = authentication_key_blob(
        EndorsementKey.parse(endorsement_key), StorageRootKey.parse(storage_root_key), key, encrypted_uri=b"uri"
    )
    assert [len(part) for part in parts(blob)] == sizes_bytes
    assert blob.endswith(b"\0\3uri")
    assert key not in blob


def test_no_blob_twice() -> None:
    """Each blob has its own seeds and inner key: no field of two for the same TPM and key is the same, but the URI."""
    endorsement_key, storage_root_key = EndorsementKey.parse(ECC_EK), StorageRootKey.parse(ECC_SRK)
    one, two = (parts(authentication_key_blob(endorsement_key, storage_root_key, b"key")) for _ in range(2))
    assert [a == b for a, b in zip(one, two, strict=True)] == [False] * 5 + [True]


@pytest.mark.parametrize(("key", "uri"), [(b"", b""), (b"key", bytes(65536))])
def test_what_does_not_fit_is_refused(key: bytes, uri: bytes) -> None:
    """No key, or a URI of more than 65,535 bytes, ends in an error with the limit."""
    with pytest.raises(BenchError, match=r"authentication key: .*Give "):
        authentication_key_blob(EndorsementKey.parse(ECC_EK), StorageRootKey.parse(ECC_SRK), key, encrypted_uri=uri)


def test_the_registration_id() -> None:
    """It is the base32 of the SHA-256 over all 124 bytes, as coreutils compute it, in lower case and not padded."""
    assert len(ECC_EK) == 124
    assert registration_id(EndorsementKey.parse(ECC_EK)) == "hmrnryhaiexiiuxpi6iui6u74qxaqhkwz2wgpuq4pe2e7vw2dz3a"


def test_keys_are_equal_by_their_bytes() -> None:
    """An enrolment finds its TPM by comparing; the kinds are never equal, and `repr` shows public bytes only."""
    assert EndorsementKey.parse(RSA_EK) == EndorsementKey.parse(RSA_EK)
    assert len({EndorsementKey.parse(RSA_EK), EndorsementKey.parse(RSA_EK), EndorsementKey.parse(ECC_EK)}) == 2
    kinds: list[object] = [EndorsementKey.parse(RSA_SRK), StorageRootKey.parse(RSA_SRK)]
    assert kinds[0] != kinds[1]
    assert repr(StorageRootKey.parse(ECC_SRK)) == f"StorageRootKey(public={ECC_SRK!r})"


def changed(public: bytes, position: int, *replacement: int) -> bytes:
    return public[:position] + bytes(replacement) + public[position + len(replacement) :]


@pytest.mark.parametrize(
    ("public", "what"),
    [
        (b"", "it ends within its size"),
        (RSA_SRK + b"\0", "its size is not that of its content"),
        (RSA_SRK[:-1], "its size is not that of its content"),
        (sized(RSA_SRK[2:-1]), "it ends within the modulus"),
        (sized(RSA_SRK[2:] + b"\0"), "1 bytes too many"),
        (sized(bytes(LONGEST_PUBLIC_BYTES)), "514 bytes, 512 are allowed"),
        (changed(RSA_SRK, 2, 0x00, 0x08), "the type is 0x0008, neither RSA nor ECC"),
        (changed(RSA_SRK, 4, 0x00, 0x0C), "the name's hash algorithm is 0x000c in place of 0x000b"),
        (sized(rsa_public(SRK_ATTRIBUTES & ~0x02, b"", RSA_MODULUS)), "the attributes 0x00030470 are not"),
        (sized(rsa_public(SRK_ATTRIBUTES & ~0x10, b"", RSA_MODULUS)), "the attributes 0x00030462 are not"),
        (sized(rsa_public(SRK_ATTRIBUTES & ~0x10000, b"", RSA_MODULUS)), "the attributes 0x00020472 are not"),
        (sized(rsa_public(SRK_ATTRIBUTES & ~0x20000, b"", RSA_MODULUS)), "the attributes 0x00010472 are not"),
        (sized(rsa_public(SRK_ATTRIBUTES | 0x40000, b"", RSA_MODULUS)), "the attributes 0x00070472 are not"),
        (sized(rsa_public(SRK_ATTRIBUTES, b"policy", RSA_MODULUS)), "the policy is not a SHA-256"),
        (changed(RSA_SRK, 12, 0x00, 0x10), "the symmetric algorithm is 0x0010 in place of 0x0006"),
        (changed(RSA_SRK, 14, 0x01, 0x00), "the symmetric key's size in bits is 0x0100 in place of 0x0080"),
        (changed(RSA_SRK, 16, 0x00, 0x42), "the symmetric mode is 0x0042 in place of 0x0043"),
        (changed(RSA_SRK, 18, 0x00, 0x14), "the scheme is 0x0014 in place of 0x0010"),
        (changed(RSA_SRK, 20, 0x0C, 0x00), "the key's size in bits is 0x0c00 in place of 0x0800"),
        (changed(RSA_SRK, 22, 0, 0, 0, 3), "the exponent is 3"),
        (changed(RSA_SRK, 28, 0x7F), "the modulus is not that of an RSA-2048 key"),
        (changed(RSA_SRK, 283, 0x02), "the modulus is not that of an RSA-2048 key"),
        (sized(rsa_public(SRK_ATTRIBUTES, b"", RSA_MODULUS[:128])), "the modulus is not that of an RSA-2048 key"),
        (changed(ECC_SRK, 20, 0x00, 0x04), "the curve is 0x0004 in place of 0x0003"),
        (changed(ECC_SRK, 22, 0x00, 0x20), "the key derivation scheme is 0x0020 in place of 0x0010"),
        (sized(ecc_public(SRK_ATTRIBUTES, b"", b"\0" + G_X, G_Y)), "a coordinate has not 32 bytes"),
        (sized(ecc_public(SRK_ATTRIBUTES, b"", G_X, G_Y[1:])), "a coordinate has not 32 bytes"),
        (changed(ECC_SRK, 91, 0x00), "the point is not on the curve P-256"),
        (sized(ecc_public(SRK_ATTRIBUTES, b"")), "the point is not on the curve P-256"),
    ],
)
@pytest.mark.parametrize("kind", [EndorsementKey, StorageRootKey])
def test_what_is_no_parent_key_is_refused(
    kind: type[EndorsementKey] | type[StorageRootKey], public: bytes, what: str
) -> None:
    """The error says which key, which member of it is wrong, and what would do."""
    with pytest.raises(TpmKeyRefused) as refused:
        kind.parse(public)
    name = "endorsement key" if kind is EndorsementKey else "storage root key"
    assert refused.value.what.startswith(f"not a usable {name}: {what}")
    assert "RSA-2048 or P-256" in refused.value.remedy


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_refused(public: bytes) -> None:
    """Any bytes are read or refused, never another error."""
    with contextlib.suppress(TpmKeyRefused):
        EndorsementKey.parse(public)
    with contextlib.suppress(TpmKeyRefused):
        StorageRootKey.parse(sized(public))


@st.composite
def damaged_keys(draw: st.DrawFn) -> bytes:
    """A sound key with some bytes changed, and a piece cut out or put in, under the right size or not."""
    public = bytearray(draw(st.sampled_from([RSA_EK, RSA_SRK, ECC_EK, ECC_SRK])))
    for position in draw(st.lists(st.integers(0, len(public) - 1), max_size=4)):
        public[position] = draw(st.integers(0, 255))
    start = draw(st.integers(0, len(public)))
    public[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return sized(bytes(public[2:])) if draw(st.booleans()) else bytes(public)


@settings(max_examples=300)
@given(damaged_keys())
def test_damaged_keys_are_refused_or_can_be_used(public: bytes) -> None:
    """What is still read as a key can have a blob made for it; all else is refused, never with another error."""
    try:
        endorsement_key, storage_root_key = EndorsementKey.parse(public), StorageRootKey.parse(public)
    except TpmKeyRefused:
        return
    blob = authentication_key_blob(endorsement_key, storage_root_key, b"key")
    assert len(parts(blob)) == 6
    assert len(registration_id(endorsement_key)) == 52
