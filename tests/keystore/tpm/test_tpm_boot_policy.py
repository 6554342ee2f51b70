"""What is sealed opens only in a box that was started as its maker has approved. The registers are swtpm's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import BootPolicy, TpmKeyStore
from edge_gateway.keystore.tpm.boot_policy import pcr_policy
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.stranger import Stranger

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

PCRS = (0, 7)
BEFORE = {0: bytes(32), 7: bytes(32)}
"""Of a simulator that nobody has measured anything into."""
UPDATED = {0: bytes(32), 7: hashlib.sha256(bytes(32) + hashlib.sha256(b"new kernel").digest()).digest()}

Release = ec.EllipticCurvePrivateKey


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def release() -> Release:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def policy(release: Release, tmp_path: Path) -> BootPolicy:
    return BootPolicy.read(pem(release.public_key(), tmp_path), tmp_path / "approvals.json", PCRS)


@pytest.fixture
def store(tpm: BlockingTpm, policy: BootPolicy, tmp_path: Path) -> Iterator[TpmKeyStore]:
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, boot_policy=policy)
    yield store
    store.close()


def pem(key: Any, directory: Path) -> Path:
    path = directory / "release.pem"
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def approve(policy: BootPolicy, key: Release, *releases: dict[int, bytes]) -> None:
    """What a maker's release server does; it needs no TPM."""
    approvals = [
        {"policy": pcr_policy(values).hex(), "signature": key.sign(pcr_policy(values), ec.ECDSA(SHA256())).hex()}
        for values in releases
    ]
    policy.approvals.write_text(json.dumps(approvals))


def test_an_approved_boot_opens_what_is_sealed(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """Also after a restart; sealing itself needs no approval."""
    sealed = store.seal(Secret(b"s" * 32))
    approve(policy, release, BEFORE)
    assert store.unseal(sealed).reveal() == b"s" * 32
    tpm.restart()
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_signed_update_opens_what_was_sealed_before(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """An update changes what is measured; with its approval beside the old one, the box is not locked out."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    with Stranger(tpm) as boot:
        boot.measure(7, b"new kernel")
    with pytest.raises(KeyStoreError, match=rf"not started as any approved release.*{pcr_policy(UPDATED).hex()}"):
        store.unseal(sealed)
    approve(policy, release, BEFORE, UPDATED)
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_tampered_boot_opens_nothing(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm, tmp_path: Path
) -> None:
    """Neither approvals signed by somebody else, nor another policy, nor none, nor a password gets at the secret."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    with Stranger(tpm) as boot:
        boot.measure(7, b"new kernel")
    thief = ec.generate_private_key(ec.SECP256R1())
    approve(policy, thief, BEFORE, UPDATED)
    with pytest.raises(KeyStoreError, match="not signed with the release key"):
        store.unseal(sealed)
    approve(policy, release, UPDATED)
    own = BootPolicy.read(pem(thief.public_key(), tmp_path), tmp_path / "own.json", PCRS)
    approve(own, thief, UPDATED)
    for other in (own, None):
        tool = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, boot_policy=other)
        with pytest.raises(KeyStoreError, match="sealed secret: the TPM does not open it: the box was not started"):
            tool.unseal(sealed)
        tool.close()
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_keys_sign_however_the_box_was_started(store: TpmKeyStore) -> None:
    """The policy is about what is sealed: a box that cannot read its buffer can still say so to its hub."""
    store.put("k", Secret(b"k" * 32))
    assert len(store.sign("k", b"x")) == 32


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        "[{}]",
        '[{"policy": "zz", "signature": ""}]',
        '[{"policy": "", "signature": "3000"}]',
        "[" * 9,
    ],
)
def test_damaged_approvals_are_told(store: TpmKeyStore, policy: BootPolicy, content: str) -> None:
    """The error names the file and what has to be in it; nothing opens."""
    sealed = store.seal(Secret(b"s" * 32))
    with pytest.raises(KeyStoreError, match=r"approvals\.json: cannot be read: No such file"):
        store.unseal(sealed)
    policy.approvals.write_text(content)
    with pytest.raises(KeyStoreError, match=r"approvals\.json: these are no approvals. It has to be"):
        store.unseal(sealed)


@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["policy", "signature"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
    .map(json.dumps)
    .map(str.encode)
)
def test_any_bytes_are_approvals_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever lies in the file, no boot is approved by it, and no other error comes of it."""
    path = tmp_path_factory.getbasetemp() / "any-approvals.json"
    path.write_bytes(content)
    with pytest.raises(KeyStoreError):
        BootPolicy(PCRS, b"", path).approval_of(bytes(32))


def test_a_release_key_that_is_none_is_refused(tmp_path: Path) -> None:
    """Absent, no key, RSA, or on another curve: the error says which file, and how to make one."""
    path = tmp_path / "release.pem"
    with pytest.raises(ConfigError, match=r"release\.pem: cannot be read"):
        BootPolicy.read(path, tmp_path / "a")
    path.write_bytes(b"no key")
    for key in (None, rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        if key is not None:
            pem(key.public_key(), tmp_path)
        with pytest.raises(ConfigError, match=r"release\.pem: it is no public key on P-256"):
            BootPolicy.read(path, tmp_path / "a")


@pytest.mark.parametrize("pcrs", [(), (24,), (-1, 0)])
def test_registers_that_no_tpm_has_are_refused(tmp_path: Path, pcrs: tuple[int, ...]) -> None:
    """The error gives some that would do."""
    with pytest.raises(ConfigError, match=r"not registers of a TPM. Give some of 0 to 23"):
        BootPolicy.read(tmp_path / "k", tmp_path / "a", pcrs)
