"""A certificate authority of one's own, so that TLS on the bench is real TLS.

Clients on the bench trust `LocalAuthority.ca_pem` and nothing else, as they trust the roots of a cloud in the field.
The authority also signs what must be refused: certificates that have expired, or that are for another name. Kept in a
directory, an authority is the same one at the next start; otherwise it lives in memory and dies with the object.

Keys are drawn by the operating system: a seed for them would make every bench's authority the same one.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_gateway.clock import NS_PER_S, Clock, SystemClock
from edge_gateway.errors import BenchError

_CA_FILE = "bench-ca.pem"
_CA_KEY_FILE = "bench-ca-key.pem"
_CA_LIFETIME = timedelta(days=3650)
_SERVER_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(days=1)
"""Certificates start this long ago: clients and bench need not agree on the time to the second."""
_EXPIRED_SINCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate with its private key, both PEM."""

    certificate_pem: str
    key_pem: str = field(repr=False)

    def context(self) -> ssl.SSLContext:
        """A server's TLS settings: TLS 1.2 and 1.3, because the device SDK speaks 1.2 only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # OpenSSL takes a chain from a file only; this one lives as long as the call, in a directory of mode 0700.
        with tempfile.TemporaryDirectory(prefix="bench-tls-") as directory:
            chain = Path(directory, "chain.pem")
            _write_private(chain, self.key_pem + self.certificate_pem)
            context.load_cert_chain(chain)
        return context


class LocalAuthority:
    """Signs server certificates (EC P-256) that clients trusting `ca_pem` accept.

    Args:
        directory: where the authority's certificate and key are kept, and taken from if they are there; None keeps them
            in memory.
        clock: the time certificates start and end by.

    Raises:
        BenchError: the directory holds something else, or cannot be written.
    """

    def __init__(self, directory: Path | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        if directory is None:
            self._key, self._certificate = self._new_root()
            return
        try:
            self._key, self._certificate = self._load(directory) or self._create(directory)
        except (OSError, ValueError, TypeError) as error:
            raise BenchError(
                f"cannot keep the bench's certificate authority: {error}",
                where=str(directory),
                remedy=f"Remove {_CA_FILE} and {_CA_KEY_FILE} there, or name a directory that can be written",
            ) from error

    @property
    def ca_pem(self) -> str:
        """What a client has to trust, PEM."""
        return _pem(self._certificate)

    def server_certificate(self, names: Iterable[str], *, expired: bool = False) -> ServerCertificate:
        """Make a key and sign a certificate for it.

        Args:
            names: host names and IP addresses the server is reached by; an address becomes an IP entry, which is what
                clients that connect to an address compare with.
            expired: end the certificate an hour ago, for clients that must refuse it.
        """
        names = list(names)
        now = self._now()
        key = ec.generate_private_key(ec.SECP256R1())
        ends = now - _EXPIRED_SINCE if expired else now + _SERVER_LIFETIME
        certificate = (
            self._builder("Edge Gateway bench server", key.public_key(), now, ends)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return ServerCertificate(_pem(certificate), _key_pem(key))

    def server_context(self, names: Iterable[str], *, expired: bool = False) -> ssl.SSLContext:
        """TLS settings for a server with a new certificate; arguments as for `server_certificate`."""
        return self.server_certificate(names, expired=expired).context()

    def client_context(self) -> ssl.SSLContext:
        """TLS settings for a client that trusts this authority only and checks the server's name."""
        return ssl.create_default_context(cadata=self.ca_pem)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ns() // NS_PER_S, UTC)

    def _new_root(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        now = self._now()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder("Edge Gateway bench authority", key.public_key(), now, now + _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return key, certificate

    @staticmethod
    def _builder(
        name: str, public_key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("Edge Gateway bench authority"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    def _create(self, directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key, certificate = self._new_root()
        directory.mkdir(parents=True, exist_ok=True)
        _write_private(directory / _CA_KEY_FILE, _key_pem(key))
        (directory / _CA_FILE).write_text(_pem(certificate))
        return key, certificate

    @staticmethod
    def _load(directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        key_file, certificate_file = directory / _CA_KEY_FILE, directory / _CA_FILE
        if not key_file.exists() or not certificate_file.exists():
            return None
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("key and certificate do not belong together")
        return key, certificate


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read from its first byte on; one that is there is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
