"""A certificate authority of one's own, so that TLS on the bench is real TLS.

Clients on the bench trust `LocalAuthority.ca_pem` and nothing else, as they trust the roots of a cloud in the field.
Devices get certificates too, from the authority, from one it has signed (`intermediate`), or signed by themselves. The
authority also signs what must be refused: certificates that have expired, or that are for another name. Kept in a
directory, an authority is the same one at the next start; otherwise it lives in memory and dies with the object.

Keys are drawn by the operating system: a seed for them would make every bench's authority the same one.

```python
root = LocalAuthority()
factory = root.intermediate("factory 7")
certificate_file, key_file = factory.device_certificate("sensor-1").write(directory)  # for a client
hub.trusted_cas.append(factory.certificate)
```
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

CA_FILE = "bench-ca.pem"
_CA_KEY_FILE = "bench-ca-key.pem"
_ROOT_NAME = "Edge Gateway bench authority"
_CA_LIFETIME = timedelta(days=3650)
_LEAF_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(days=1)
"""Certificates start this long ago: clients and bench need not agree on the time to the second."""
_EXPIRED_SINCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate with its private key, both PEM; behind the certificate the authorities below the root."""

    certificate_pem: str
    key_pem: str = field(repr=False)

    def context(self) -> ssl.SSLContext:
        """A server's TLS settings: TLS 1.2 and 1.3, because the device SDK speaks 1.2 only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load(context, self.certificate_pem, self.key_pem)
        return context


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A device's certificate with its private key, both PEM; behind the certificate the authorities below the root."""

    certificate_pem: str
    key_pem: str = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The device's own."""
        return x509.load_pem_x509_certificate(self.certificate_pem.encode())

    @property
    def sha1_thumbprint(self) -> str:
        """SHA-1 of the certificate's DER, upper-case hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - a name for it, as in Azure

    @property
    def sha256_thumbprint(self) -> str:
        """SHA-256 of the certificate's DER, upper-case hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex().upper()

    def show_in(self, context: ssl.SSLContext) -> None:
        """Let the clients of these TLS settings show it to a server that asks."""
        _load(context, self.certificate_pem, self.key_pem)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write certificate and key to files, as SDKs want them; only their owner can read the key's.

        Returns:
            The certificate's file and the key's, named after the certificate.
        """
        certificate_file = directory / f"{self.sha256_thumbprint[:16]}.pem"
        key_file = directory / f"{self.sha256_thumbprint[:16]}-key.pem"
        certificate_file.write_text(self.certificate_pem)
        _write_private(key_file, self.key_pem)
        return certificate_file, key_file


class LocalAuthority:
    """Signs certificates (EC P-256) that whoever trusts `ca_pem` accepts.

    Args:
        directory: where the authority's certificate and key are kept, and taken from if they are there; None keeps them
            in memory.
        clock: the time certificates start and end by.

    Attributes:
        certificate: its own; self-signed but for an intermediate.
        chain: what has to come behind a certificate it signs: nothing, or an intermediate's own certificate and those
            above it, the root left out.
        key: its private key, for signing what is not offered here.

    Raises:
        BenchError: the directory holds something else, or cannot be written.
    """

    def __init__(self, directory: Path | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self.key, self.certificate = self._new_root() if directory is None else self._kept_root(directory)
        self.chain: tuple[x509.Certificate, ...] = ()
        self._root = self.certificate

    @property
    def ca_pem(self) -> str:
        """What a client has to trust, PEM: the root, also of an intermediate."""
        return _pem(self._root)

    def intermediate(self, name: str) -> LocalAuthority:
        """Make another authority and sign its certificate.

        Args:
            name: its common name.

        Raises:
            BenchError: this authority may not sign others: kept in a directory since before authorities could.
        """
        if self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0:
            raise BenchError(
                "this certificate authority may not sign another one",
                where=_common_name(self.certificate),
                remedy=f"It was kept by an older version: remove its {CA_FILE} and {_CA_KEY_FILE} to get a new one",
            )
        signed = LocalAuthority(clock=self._clock)
        signed.certificate = (
            self._builder(name, signed.key.public_key(), _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        signed.chain = (signed.certificate, *self.chain)
        signed._root = self._root
        return signed

    def server_certificate(self, names: Iterable[str], *, expired: bool = False) -> ServerCertificate:
        """Make a key and sign a certificate for it.

        Args:
            names: host names and IP addresses the server is reached by; an address becomes an IP entry, which is what
                clients that connect to an address compare with. Others than these make one that clients must refuse.
            expired: end the certificate an hour ago, for clients that must refuse it.
        """
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        key, builder = self._leaf("Edge Gateway bench server", ExtendedKeyUsageOID.SERVER_AUTH, expired)
        certificate = builder.add_extension(alternatives, critical=False).sign(self.key, hashes.SHA256())
        return ServerCertificate(_pem(certificate, *self.chain), _key_pem(key))

    def device_certificate(self, common_name: str, *, expired: bool = False) -> DeviceCertificate:
        """Make a key and sign a certificate for it.

        Args:
            common_name: the device id at IoT Hub, the registration id at DPS.
            expired: end the certificate an hour ago, for servers that must refuse it.
        """
        key, builder = self._leaf(common_name, ExtendedKeyUsageOID.CLIENT_AUTH, expired)
        return DeviceCertificate(_pem(builder.sign(self.key, hashes.SHA256()), *self.chain), _key_pem(key))

    def server_context(self, names: Iterable[str], *, expired: bool = False) -> ssl.SSLContext:
        """TLS settings for a server with a new certificate; arguments as for `server_certificate`."""
        return self.server_certificate(names, expired=expired).context()

    def client_context(self, certificate: DeviceCertificate | None = None) -> ssl.SSLContext:
        """TLS settings for a client that trusts this authority only and checks the server's name.

        Args:
            certificate: what the client shows to a server that asks.
        """
        context = ssl.create_default_context(cadata=self.ca_pem)
        if certificate is not None:
            certificate.show_in(context)
        return context

    def _leaf(
        self, common_name: str, usage: x509.ObjectIdentifier, expired: bool
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateBuilder]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(common_name, key.public_key(), -_EXPIRED_SINCE if expired else _LEAF_LIFETIME)
        return key, _as_leaf(builder, usage)

    def _builder(
        self, name: str, public_key: ec.EllipticCurvePublicKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = _builder(_name(name), self.certificate.subject, public_key, self._clock, lifetime)
        return builder.add_extension(identifier, critical=False)

    def _new_root(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(_ROOT_NAME), _name(_ROOT_NAME), key.public_key(), self._clock, _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return key, certificate

    def _kept_root(self, directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            return _read_root(directory) or self._keep_root(directory)
        except (OSError, ValueError, TypeError) as error:
            raise BenchError(
                f"cannot keep the bench's certificate authority: {error}",
                where=str(directory),
                remedy=f"Remove {CA_FILE} and {_CA_KEY_FILE} there, or name a directory that can be written",
            ) from error

    def _keep_root(self, directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key, certificate = self._new_root()
        directory.mkdir(parents=True, exist_ok=True)
        _write_private(directory / _CA_KEY_FILE, _key_pem(key))
        (directory / CA_FILE).write_text(_pem(certificate))
        return key, certificate


def self_signed_certificate(
    common_name: str, *, expired: bool = False, clock: Clock | None = None
) -> DeviceCertificate:
    """Make a key and a certificate it signs itself, as devices have that are known by their thumbprint.

    Args:
        common_name: the device id at IoT Hub, the registration id at DPS.
        expired: end the certificate an hour ago, for servers that must refuse it.
        clock: the time the certificate starts and ends by.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    clock = clock if clock is not None else SystemClock()
    lifetime = -_EXPIRED_SINCE if expired else _LEAF_LIFETIME
    builder = _builder(_name(common_name), _name(common_name), key.public_key(), clock, lifetime)
    certificate = _as_leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH).sign(key, hashes.SHA256())
    return DeviceCertificate(_pem(certificate), _key_pem(key))


def _read_root(directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
    key_file, certificate_file = directory / _CA_KEY_FILE, directory / CA_FILE
    if not key_file.exists() or not certificate_file.exists():
        return None
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("key and certificate do not belong together")
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, clock: Clock, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(clock.now_ns() // NS_PER_S, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_leaf(builder: x509.CertificateBuilder, usage: x509.ObjectIdentifier) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


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


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _load(context: ssl.SSLContext, certificate_pem: str, key_pem: str) -> None:
    # OpenSSL takes a chain from a file only; this one lives as long as the call, in a directory of mode 0700.
    with tempfile.TemporaryDirectory(prefix="bench-tls-") as directory:
        chain = Path(directory, "chain.pem")
        _write_private(chain, key_pem + certificate_pem)
        context.load_cert_chain(chain)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read from its first byte on; one that is there is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
