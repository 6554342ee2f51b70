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

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import BootPolicy, TpmKeyStore
from edge_gateway.keystore.tpm.boot_approvals import pcr_policy
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.stranger import Stranger

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

PCRS = (0, 7)
BEFORE = {0: bytes(32), 7: bytes(32)}
"""Of a simulator that nobody has measured anything into."""

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


def approve(policy: BootPolicy, key: Release, *boots: dict[int, bytes]) -> None:
    """What a maker's release server does, with its own tools and no TPM: see `boot_approvals`."""
    policies = [pcr_policy(values) for values in boots]
    approvals = [{"policy": each.hex(), "signature": key.sign(each, ec.ECDSA(SHA256())).hex()} for each in policies]
    policy.approvals.write_text(json.dumps(approvals))


def booted(tpm: BlockingTpm, kernel: bytes) -> None:
    """The box is started anew, and measures its kernel."""
    tpm.restart()
    with Stranger(tpm) as boot:
        boot.measure(7, kernel)


def after(kernel: bytes) -> dict[int, bytes]:
    """What such a boot leaves in the registers."""
    return {0: bytes(32), 7: hashlib.sha256(bytes(32) + hashlib.sha256(kernel).digest()).digest()}


def test_an_approved_boot_opens_what_is_sealed(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """Also after a restart."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    assert store.unseal(sealed).reveal() == b"s" * 32
    tpm.restart()
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_signed_update_opens_what_was_sealed_before(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """An update changes what is measured; its approval comes before the restart, and the box is not locked out.

    With both approvals there, going back to the older release opens too; with only the new one, it does not.
    """
    booted(tpm, b"v1")
    approve(policy, release, after(b"v1"))
    sealed = store.seal(Secret(b"s" * 32))
    approve(policy, release, after(b"v1"), after(b"v2"))
    for kernel in (b"v2", b"v1", b"v2"):
        booted(tpm, kernel)
        assert store.unseal(sealed).reveal() == b"s" * 32
    approve(policy, release, after(b"v2"))
    booted(tpm, b"v1")
    with pytest.raises(KeyStoreUnavailable, match="not started as any approved release"):
        store.unseal(sealed)


def test_an_update_without_its_approval_is_told_with_what_to_approve(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """The error has the policy the maker has to sign; with that, all opens, though the box was locked out for a while.

    It is an error that may pass: nobody may answer it with a new key in the place of the one that does not open.
    """
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    booted(tpm, b"v2")
    needed = rf"approvals\.json: .*not started as any approved release.*{pcr_policy(after(b'v2')).hex()}"
    for call in (store.check, store.check_boot, lambda: store.unseal(sealed), lambda: store.seal(Secret(b"x"))):
        with pytest.raises(KeyStoreUnavailable, match=needed):
            call()
    approve(policy, release, BEFORE, after(b"v2"))
    store.check()
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_tampered_boot_opens_nothing(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm, tmp_path: Path
) -> None:
    """Neither approvals signed by somebody else, nor another policy, nor none, nor a password gets at the secret."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    booted(tpm, b"tampered")
    thief = ec.generate_private_key(ec.SECP256R1())
    approve(policy, thief, BEFORE, after(b"tampered"))
    with pytest.raises(KeyStoreUnavailable, match="not signed with the release key"):
        store.unseal(sealed)
    own = BootPolicy.read(pem(thief.public_key(), tmp_path), tmp_path / "own.json", PCRS)
    approve(own, thief, after(b"tampered"))
    for other in (own, None):
        tool = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, boot_policy=other)
        with pytest.raises(KeyStoreUnavailable, match="sealed secret: the TPM does not open it: the box was not start"):
            tool.unseal(sealed)
        tool.close()
    tpm.restart()
    approve(policy, release, BEFORE)
    assert store.unseal(sealed).reveal() == b"s" * 32


def test_a_boot_that_goes_on_measuring_closes_what_was_open(
    store: TpmKeyStore, policy: BootPolicy, release: Release, tpm: BlockingTpm
) -> None:
    """Registers only grow: a stage that extends them when it has its secrets keeps later ones from opening them."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    with Stranger(tpm) as boot:
        boot.measure(7, b"later")
    with pytest.raises(KeyStoreUnavailable, match="not started as any approved release"):
        store.unseal(sealed)


def test_registers_are_read_as_they_are(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """Each with its number, more than the TPM gives at once; what a boot has measured is in them."""
    booted(tpm, b"v1")
    values = store.registers(range(16))
    assert set(values) == set(range(16))
    assert {number: values[number] for number in PCRS} == after(b"v1")
    assert store.registers([]) == {}


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
        "[]" + " " * 65536,
    ],
)
def test_damaged_approvals_are_told(store: TpmKeyStore, policy: BootPolicy, release: Release, content: str) -> None:
    """The error names the file and what has to be in it; nothing opens until it is put right."""
    approve(policy, release, BEFORE)
    sealed = store.seal(Secret(b"s" * 32))
    policy.approvals.unlink()
    with pytest.raises(KeyStoreUnavailable, match=r"approvals\.json: cannot be read: No such file"):
        store.unseal(sealed)
    policy.approvals.write_text(content)
    with pytest.raises(KeyStoreUnavailable, match=r"approvals\.json: these are no approvals. It has to be"):
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
