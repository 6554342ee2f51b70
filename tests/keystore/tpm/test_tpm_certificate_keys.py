"""Keys for certificates: made in the TPM, kept like every other, and of no use as an identity's symmetric key."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import KeyMissing, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import destroy_before, newest_generation, next_generation
from edge_gateway.keystore.tpm import CertificateKey, TpmKeyStore
from edge_gateway.keystore.tpm.public_areas import certificate_key_template, point_of, sized
from tests.keystore.tpm.backend import BlockingTpm, tpm_key_store, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TpmKeyStore]:
    with tpm_key_store(tmp_path) as store:
        yield store


def test_a_key_signs_as_its_public_part_says(store: TpmKeyStore) -> None:
    """By SHA-256, and by longer digests, of which ECDSA on P-256 takes the first 32 bytes."""
    key = store.create_certificate_key("tls")
    key.public_key().verify(key.sign(b"data", ECDSA), b"data", ECDSA)
    for longer in (hashes.SHA384(), hashes.SHA512()):
        digest = hashlib.new(longer.name, b"data").digest()
        key.public_key().verify(key.sign_digest(digest), digest, ec.ECDSA(Prehashed(longer)))


def test_a_key_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """It is a wrapped file, so the TPM need not remember it."""
    with tpm_key_store(tmp_path) as store:
        before = store.create_certificate_key("tls")
    with tpm_key_store(tmp_path) as store:
        key = store.certificate_key("tls")
        assert key.point == before.point
        before.public_key().verify(key.sign(b"x", ECDSA), b"x", ECDSA)
        assert (store.names(), store.certificate_key_names()) == ([], ["tls"])
        store.remove("tls")
        with pytest.raises(KeyMissing):
            key.sign(b"x", ECDSA)
        with pytest.raises(KeyMissing):
            store.certificate_key("tls")


def test_a_copy_beside_another_tpm_signs_nothing(tmp_path: Path) -> None:
    """The file opens in its own TPM only."""
    with tpm_key_store(tmp_path / "one") as store:
        store.create_certificate_key("tls")
    with BlockingTpm() as other:
        thief = TpmKeyStore(tmp_path / "one" / "keys", tcti=other.tcti)
        with pytest.raises(KeyStoreError, match="belong to another TPM"):
            thief.certificate_key("tls").sign(b"x", ECDSA)
        thief.close()


def test_the_two_kinds_of_keys_are_not_taken_for_each_other(store: TpmKeyStore) -> None:
    """The key to a certificate signs no tokens, and a token's key no certificates; both errors say what to name."""
    store.create_certificate_key("tls")
    store.put("token", Secret(b"k" * 32))
    with pytest.raises(
        KeyStoreError, match=r"key 'tls': is the key to a certificate.*Name the identity's symmetric key"
    ):
        store.sign("tls", b"x")
    with pytest.raises(KeyStoreError, match="key 'token': is not the key to a certificate"):
        store.certificate_key("token")


def test_no_identitys_key_takes_a_certificates_keys_place(store: TpmKeyStore) -> None:
    """Neither brought, made nor rotated: the key stays, the error says so, and no list of identities' keys has it."""
    before = store.create_certificate_key("tls")
    with pytest.raises(KeyStoreError, match="key 'tls': is the key to a certificate"):
        store.put("tls", Secret(b"k" * 32))
    with pytest.raises(KeyStoreError, match="key 'tls': is the key to a certificate"):
        store.create("tls")
    assert newest_generation(store, "tls") == next_generation(store, "tls") == "tls"
    assert destroy_before(store, "tls", keep=0) == []
    assert store.certificate_key("tls").point == before.point
    with pytest.raises(KeyStoreError, match="is there already"):
        store.create_certificate_key("tls")
    store.create("token")
    with pytest.raises(KeyStoreError, match="is there already"):
        store.create_certificate_key("token")


def test_a_key_that_was_replaced_does_not_sign_for_its_certificate(store: TpmKeyStore) -> None:
    """The signature would be worth nothing; the error says so before the other side does."""
    key = store.create_certificate_key("tls")
    with pytest.raises(KeyStoreError, match="is there already, and would be lost"):
        store.create_certificate_key("tls")
    store.remove("tls")
    store.create_certificate_key("tls")
    with pytest.raises(KeyStoreError, match="no longer the one it was"):
        key.sign(b"x", ECDSA)


def test_a_request_can_be_certified(store: TpmKeyStore) -> None:
    """It carries the name and the key, and is signed with the key."""
    key = store.create_certificate_key("tls")
    request = key.request("gw-17")
    assert request.is_signature_valid
    assert [each.value for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["gw-17"]
    form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.public_bytes(*form) == key.point


def test_a_tpm_that_signs_otherwise_certifies_nothing() -> None:
    """A request is checked before it goes out."""
    software = ec.generate_private_key(ec.SECP256R1())
    form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    wrong = ec.generate_private_key(ec.SECP256R1())
    key = CertificateKey(
        "odd",
        software.public_key().public_bytes(*form),
        lambda digest: wrong.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))),
    )
    with pytest.raises(KeyStoreError, match="signs otherwise than it should"):
        key.request("gw-17")


NEVER: list[Callable[[CertificateKey], object]] = [
    lambda key: key.private_numbers(),
    lambda key: key.private_bytes(),
    lambda key: key.exchange(),
]


@pytest.mark.parametrize("call", NEVER)
def test_the_private_part_is_not_given(call: Callable[[CertificateKey], object]) -> None:
    """What the library may ask of a private key beside signing is refused; copies are the same key."""
    key = CertificateKey("k", b"", lambda digest: digest)
    with pytest.raises(TypeError):
        call(key)
    assert copy.copy(key) is copy.deepcopy(key) is key
    assert key.key_size == 256
    assert repr(key) == "CertificateKey('k')"


def test_a_short_digest_is_not_signed() -> None:
    """SHA-1 has had its day, and other hashes than SHA-256 are not for certificates' own signatures here."""
    key = CertificateKey("k", b"", lambda digest: digest)
    with pytest.raises(KeyStoreError, match="a digest of 20 bytes is not signed"):
        key.sign_digest(bytes(20))
    with pytest.raises(ValueError, match="signs by SHA-256"):
        key.sign(b"", ec.ECDSA(hashes.SHA384()))


@given(x=st.binary(max_size=34), y=st.binary(max_size=34), rest=st.binary(max_size=3))
def test_any_point_is_read_whole_or_not_at_all(x: bytes, y: bytes, rest: bytes) -> None:
    """A coordinate of fewer bytes has its leading zeros left out; a longer one, or bytes behind, make it none."""
    head = certificate_key_template()[2:-4]
    found = point_of(sized(head + sized(x) + sized(y) + rest))
    if max(len(x), len(y)) > 32 or rest:
        assert found is None
    else:
        assert found == b"\x04" + x.rjust(32, b"\0") + y.rjust(32, b"\0")


@given(public=st.binary(max_size=600))
def test_any_bytes_are_a_point_or_none(public: bytes) -> None:
    """Nothing is raised, whatever a file holds."""
    head = certificate_key_template()[:-4]
    for each in (public, head + public):
        assert point_of(each) is None or len(point_of(each) or b"") == 65
