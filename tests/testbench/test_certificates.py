"""The bench's own authority: what TLS makes of its certificates, and what others read in them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl (apt-get install openssl) is missing"
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class ClockOf2020(SystemClock):
    def now_ns(self) -> int:
        return int(LONG_AGO.timestamp()) * NS_PER_S


def names_of(certificate: x509.Certificate) -> str:
    return ", ".join(str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """Connect once; the TLS version the two agreed on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        version: str | None = writer.get_extra_info("ssl_object").version()
        writer.transport.abort()
        return version


@pytest.mark.parametrize("name", ["hub.example", "127.0.0.1"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_names_and_versions(authority: LocalAuthority, name: str, version: ssl.TLSVersion) -> None:
    """A client accepts each name and address, with TLS 1.2 and with TLS 1.3."""
    client = authority.client_context()
    client.minimum_version = client.maximum_version = version
    agreed = await handshake(authority.server_context(["hub.example", "127.0.0.1"]), client, name)
    assert agreed == version.name.replace("_", ".")


async def test_strict_verification(authority: LocalAuthority) -> None:
    """The certificates stand up to RFC 5280 to the letter, as newer Pythons check by default."""
    client = authority.client_context()
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert await handshake(authority.server_context(["127.0.0.1"]), client, "127.0.0.1")


async def test_wrong_name(authority: LocalAuthority) -> None:
    """A certificate for somebody else is refused."""
    server = authority.server_context(["other.example"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await handshake(server, authority.client_context(), "hub.example")


async def test_expired(authority: LocalAuthority) -> None:
    """A certificate that has ended is refused."""
    server = authority.server_context(["hub.example"], expired=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await handshake(server, authority.client_context(), "hub.example")


async def test_other_authority(authority: LocalAuthority) -> None:
    """A certificate of another authority is refused: each is its own."""
    server = LocalAuthority().server_context(["hub.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server, authority.client_context(), "hub.example")


def test_kept_in_a_directory(tmp_path: Path) -> None:
    """An authority is the same at the next start, and only its owner can read its key."""
    first = LocalAuthority(tmp_path / "ca")
    assert LocalAuthority(tmp_path / "ca").ca_pem == first.ca_pem
    keys = [path for path in (tmp_path / "ca").iterdir() if "PRIVATE" in path.read_text()]
    assert [path.stat().st_mode & 0o777 for path in keys] == [0o600]


def test_damaged_directory(tmp_path: Path) -> None:
    """A directory that holds something else is an error that names it, not a new authority."""
    LocalAuthority(tmp_path)
    (tmp_path / "bench-ca.pem").write_text("nonsense")
    with pytest.raises(BenchError, match=str(tmp_path)):
        LocalAuthority(tmp_path)


def test_repr_hides_the_key(authority: LocalAuthority) -> None:
    """A private key does not show when a certificate is printed."""
    assert "PRIVATE" not in repr(authority.server_certificate(["hub.example"]))
    assert "PRIVATE" not in repr(authority.device_certificate("dev"))


# Authorities below the root


@pytest.mark.parametrize("levels", [1, 2])
async def test_certificates_of_an_intermediate(authority: LocalAuthority, levels: int) -> None:
    """Who trusts the root trusts a server and a device of an authority below it, by RFC 5280 to the letter."""
    signer = authority
    for level in range(levels):
        signer = signer.intermediate(f"level {level}")
    server = signer.server_context(["hub.example"])
    server.load_verify_locations(cadata=authority.ca_pem)
    server.verify_mode = ssl.CERT_REQUIRED
    client = signer.client_context(signer.device_certificate("dev"))
    assert signer.ca_pem == authority.ca_pem
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # in which a client hears in its handshake that it is refused
    assert await handshake(server, client, "hub.example")


def test_what_an_intermediate_is(authority: LocalAuthority) -> None:
    """An authority below the root has the name it was given, and its chain is what leads to the root."""
    line = authority.intermediate("factory").intermediate("line 2")
    assert [names_of(certificate) for certificate in line.chain] == ["line 2", "factory"]
    assert line.chain[0] == line.certificate
    assert line.certificate.public_key() == line.key.public_key()
    assert authority.chain == ()


def test_intermediate_of_a_kept_authority(tmp_path: Path) -> None:
    """An authority from a directory signs others, at the next start as well."""
    for _ in range(2):
        kept = LocalAuthority(tmp_path)
        kept.intermediate("factory").certificate.verify_directly_issued_by(kept.certificate)


def test_kept_by_an_older_version(tmp_path: Path) -> None:
    """An authority that may not sign others says so, and how to get one that may."""
    new = LocalAuthority(tmp_path)
    old = (
        x509.CertificateBuilder(
            new.certificate.subject, new.certificate.subject, new.key.public_key(), 1, LONG_AGO, datetime.now(UTC)
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(new.key, hashes.SHA256())
    )
    (tmp_path / "bench-ca.pem").write_bytes(old.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(BenchError, match=r"bench-ca\.pem"):
        LocalAuthority(tmp_path).intermediate("factory")


# Devices


async def test_shown_to_a_server(authority: LocalAuthority) -> None:
    """A server that trusts the authority lets its devices in, and nobody else."""
    server = authority.server_context(["hub.example"])
    server.load_verify_locations(cadata=authority.ca_pem)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # in which a client hears in its handshake that it is refused
    good = authority.device_certificate("dev")
    assert await handshake(server, authority.client_context(good), "hub.example")
    for bad in (authority.device_certificate("dev", expired=True), self_signed_certificate("dev"), None):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await handshake(server, authority.client_context(bad), "hub.example")


def test_self_signed() -> None:
    """A self-signed certificate is signed with its own key, for its own name."""
    certificate = self_signed_certificate("dev").certificate
    certificate.verify_directly_issued_by(certificate)
    assert names_of(certificate) == "dev"


def test_dates() -> None:
    """A certificate lasts a year by the clock given, or has ended an hour ago."""
    authority = LocalAuthority(clock=ClockOf2020())
    for certificate in (authority.device_certificate("dev"), self_signed_certificate("dev", clock=ClockOf2020())):
        assert certificate.certificate.not_valid_after_utc == LONG_AGO + timedelta(days=365)
    for certificate in (
        authority.device_certificate("dev", expired=True),
        self_signed_certificate("dev", expired=True, clock=ClockOf2020()),
    ):
        assert certificate.certificate.not_valid_after_utc == LONG_AGO - timedelta(hours=1)
    assert authority.intermediate("factory").certificate.not_valid_before_utc == LONG_AGO - timedelta(days=1)


@needs_openssl
def test_thumbprints(authority: LocalAuthority, tmp_path: Path) -> None:
    """Thumbprints are those OpenSSL tells of the certificate's file, without colons: those of the device's own."""
    certificate = authority.intermediate("factory").device_certificate("dev")
    certificate_file, _ = certificate.write(tmp_path)
    for algorithm, thumbprint in (("sha1", certificate.sha1_thumbprint), ("sha256", certificate.sha256_thumbprint)):
        command = ["openssl", "x509", "-in", str(certificate_file), "-noout", "-fingerprint", f"-{algorithm}"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        assert told.strip().partition("=")[2].replace(":", "") == thumbprint


def test_written_to_files(authority: LocalAuthority, tmp_path: Path) -> None:
    """Certificate and key go to files of which only the owner can read the key's; writing twice changes nothing."""
    certificate = authority.device_certificate("dev")
    for _ in range(2):
        certificate_file, key_file = certificate.write(tmp_path)
    assert DeviceCertificate(certificate_file.read_text(), key_file.read_text()) == certificate
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == sorted([certificate_file, key_file])
