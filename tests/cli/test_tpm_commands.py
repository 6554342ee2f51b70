"""What `edge-gateway keys` does that takes a TPM, or is for one: approving boots, showing this one, certificates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import CliRunner, Result

from edge_gateway.cli import boot_policy, certificate_request, keys
from edge_gateway.errors import ConfigError, GatewayError, KeyStoreError
from edge_gateway.keystore.tpm import BootPolicy
from edge_gateway.keystore.tpm.boot_approvals import pcr_policy, read_approvals
from tests.keystore.tpm.backend import BlockingTpm, why_not

needs_tpm = pytest.mark.skipif(bool(why_not()), reason=why_not())

V1, V2 = {0: bytes(32), 7: b"\x01" * 32}, {0: bytes(32), 7: b"\x02" * 32}


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def release_key(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "release.key"
    path.write_bytes(pem(key))
    return path


@pytest.fixture
def public_key(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "release.pem"
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(*form))
    return path


def run(*words: str) -> Result:
    app = typer.Typer()
    app.add_typer(boot_policy.app, name="boot")
    app.command("csr")(certificate_request.command)
    return CliRunner().invoke(app, words)


def approve(release_key: Path, values: dict[int, bytes], *words: str) -> Result:
    pcrs = [word for number, value in values.items() for word in ("--pcr", f"{number}={value.hex()}")]
    return run("boot", "approve", "--release-key", str(release_key), *pcrs, *words)


# --- the maker's side ----------------------------------------------------------------------------------------------


def test_an_approval_is_printed(release_key: Path, public_key: Path, tmp_path: Path) -> None:
    """Without a file to add it to, a file of its own, which a gateway takes."""
    result = approve(release_key, V1)
    assert result.exit_code == 0
    (tmp_path / "a.json").write_text(result.stdout)
    signature = BootPolicy.read(public_key, tmp_path / "a.json", (0, 7)).approval_of(pcr_policy(V1))
    assert len(signature) == 72


def test_an_approval_is_added_to_the_older_ones(release_key: Path, tmp_path: Path) -> None:
    """Each boot once, however often it is approved; the file can be read by the gateway's user."""
    path = tmp_path / "approvals.json"
    for values in (V1, V2, V1):
        result = approve(release_key, values, "--approvals", str(path))
        assert (result.exit_code, result.output) == (
            0,
            f"policy {pcr_policy(values).hex()} is approved in {path}\n",
        )
    assert [each.policy for each in read_approvals(path)] == [pcr_policy(V1), pcr_policy(V2)]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_is_there_and_no_approvals_is_not_written_over(release_key: Path, tmp_path: Path) -> None:
    """A wrong path does not cost a file."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir")
    result = approve(release_key, V1, "--approvals", str(path))
    assert isinstance(result.exception, GatewayError)
    assert path.read_text() == "Dear Sir"


@pytest.mark.parametrize("pcr", ["7", "7=", "7=00", "x=" + "00" * 32, "24=" + "00" * 32, "-1=" + "00" * 32, "=", ""])
def test_a_register_that_is_none_is_refused(release_key: Path, pcr: str) -> None:
    """A policy of other values than were meant would lock boxes out."""
    result = run("boot", "approve", "--release-key", str(release_key), "--pcr", pcr)
    assert isinstance(result.exception, ConfigError)
    assert "64 hexadecimal digits" in str(result.exception)


def test_a_register_counts_once(release_key: Path) -> None:
    """Two values for one register are a mistake of somebody's."""
    values = [f"7={value.hex()}" for value in (V1[7], V2[7])]
    result = run("boot", "approve", "--release-key", str(release_key), "--pcr", values[0], "--pcr", values[1])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"none", "it is no private key on P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "it is no private key on P-256"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "it is no private key on P-256"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "it has a password"),
    ],
)
def test_a_release_key_that_cannot_be_used_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    """By its path and what to do, and nothing is approved."""
    path = tmp_path / "own.key"
    if content is not None:
        path.write_bytes(content)
    result = approve(path, V1)
    assert isinstance(result.exception, GatewayError)
    assert told in str(result.exception)
    assert str(path) in str(result.exception)


# --- on the box ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


def config_file(directory: Path, key_store: dict[str, object]) -> str:
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
        "uplink": {"kind": "mqtt", "host": "unused"},
        "key_store": key_store,
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@needs_tpm
def test_what_a_box_shows_is_what_is_approved(
    tpm: BlockingTpm, release_key: Path, public_key: Path, tmp_path: Path
) -> None:
    """Not approved: the exit code is 1, with the reason. The lines it prints, given to `approve`, approve it."""
    boot = {
        "release_key_file": str(public_key),
        "approvals_file": str(tmp_path / "approvals.json"),
        "pcrs": [7, 0],
    }
    config = config_file(tmp_path, {"kind": "tpm", "tcti": tpm.tcti, "boot": boot})
    before = run("boot", "show", "--config", config)
    assert before.exit_code == 1
    assert "is not approved:" in before.output
    words = [word for line in before.output.splitlines() if line.startswith("--pcr") for word in line.split()]
    told = run("boot", "approve", "--release-key", str(release_key), *words, "--approvals", str(boot["approvals_file"]))
    assert told.exit_code == 0
    after = run("boot", "show", "--config", config)
    assert (after.exit_code, after.output.splitlines()[-1][-12:]) == (0, " is approved")
    shown = orjson.loads(run("boot", "show", "--config", config, "--json").output)
    assert shown["pcrs"] == {"0": "00" * 32, "7": "00" * 32}
    assert (shown["approved"], shown["fault"]) == (True, "")


@needs_tpm
def test_a_box_can_be_looked_at_before_anything_is_asked_of_it(tpm: BlockingTpm, tmp_path: Path) -> None:
    """Without `boot` the usual registers are shown, and nothing is wrong."""
    config = config_file(tmp_path, {"kind": "tpm", "tcti": tpm.tcti})
    shown = run("boot", "show", "--config", config)
    assert shown.exit_code == 0
    assert shown.output.count("--pcr") == 5
    assert "key_store.boot is not set" in shown.output


def test_a_store_without_a_tpm_says_so(tmp_path: Path) -> None:
    """Boots and certificate keys are a TPM's business."""
    config = config_file(tmp_path, {})
    for words in (("boot", "show"), ("csr", "tls")):
        result = run(*words, "--config", config)
        assert isinstance(result.exception, ConfigError)
        assert "say kind: tpm" in str(result.exception)


@needs_tpm
def test_the_doctor_knows_the_owners_password_from_its_file(tpm: BlockingTpm, tmp_path: Path) -> None:
    """Without the setting it finds that the owner has a password; with it, nothing is wrong with the TPM's owner."""
    # Imported here, as all else on this page goes without the library.
    from tpm2_pytss import ESYS_TR

    from tests.keystore.tpm.stranger import Stranger

    with Stranger(tpm) as stranger:
        stranger.set_password(ESYS_TR.OWNER, b"sesame")
    (tmp_path / "owner").touch(mode=0o600)
    (tmp_path / "owner").write_text("sesame\n")
    told = []
    for settings in ({}, {"owner_password_file": "owner"}):
        config = config_file(tmp_path, {"kind": "tpm", "tcti": tpm.tcti, **settings})
        program = [sys.executable, "-m", "edge_gateway", "doctor", "--config", config, "--json"]
        done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
        told.append("tpm.owner-password" in done.stdout)
        assert done.stdout, done.stderr
    assert told == [True, False]


# --- certificates --------------------------------------------------------------------------------------------------


@needs_tpm
def test_a_request_is_printed_and_can_be_had_again(tpm: BlockingTpm, tmp_path: Path) -> None:
    """The first makes the key, the next is for the same; the name is the gateway's unless told."""
    config = config_file(tmp_path, {"kind": "tpm", "tcti": tpm.tcti})
    requests = [
        x509.load_pem_x509_csr(run("csr", "tls", "--config", config, *words).stdout.encode())
        for words in ((), ("--common-name", "gw-17"))
    ]
    assert [each.subject.rfc4514_string() for each in requests] == ["CN=plant", "CN=gw-17"]
    assert requests[0].public_key() == requests[1].public_key()
    long = run("csr", "tls", "--config", config, "--common-name", "x" * 65)
    assert isinstance(long.exception, ConfigError)


@needs_tpm
def test_the_key_to_a_certificate_is_not_rotated(tpm: BlockingTpm, tmp_path: Path) -> None:
    """It is not said that there is none: another key takes another name, and another certificate."""
    config = config_file(tmp_path, {"kind": "tpm", "tcti": tpm.tcti})
    assert run("csr", "tls", "--config", config).exit_code == 0
    for option in ((), ("--drop-old",)):
        refused = CliRunner().invoke(keys.app, ["rotate", "tls", *option, "--config", config], input="AAAA")
        assert isinstance(refused.exception, KeyStoreError)
        assert "is the key to a certificate" in str(refused.exception)
        assert "edge-gateway keys csr tls-2" in refused.exception.remedy
