"""The certificate authority of one edge device: it signs what its modules and its edge hub show to others.

Certificates are made as aziot-edged makes them, RSA-2048 keys included, because modules parse them with whatever
library they have. A certificate comes with the authority's own behind it: a client needs to trust the root only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import LocalAuthority

_LIFETIME = timedelta(days=30)
_CLOCK_SKEW = timedelta(days=1)
"""Certificates start this long ago: the clocks of modules need not agree to the second."""
_MAX_COMMON_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate with its private key, both PEM."""

    certificate_pem: str
    """The leaf, and the authorities behind it but for the root."""
    key_pem: str = field(repr=False)
    ends: datetime


class EdgeCa:
    """Signs certificates.

    Args:
        authority: in whose name it signs; an `intermediate` of the root that clients trust.
        clock: the time certificates start and end by.
    """

    def __init__(self, authority: LocalAuthority, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock

    @property
    def root_pem(self) -> str:
        """What a client has to trust, PEM."""
        return self._authority.ca_pem

    def server_certificate(self, common_name: str, module_id: str) -> IssuedCertificate:
        """For a module that serves TLS, under the name it asks for and its own.

        Raises:
            BenchError: the name cannot stand in a certificate.
        """
        names = [_general_name(common_name), x509.DNSName(module_id.lstrip("$"))]
        return self._issue(common_name, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def identity_certificate(self, module_id: str, uri: str) -> IssuedCertificate:
        """For a module that proves who it is.

        The URI stands in a DNS entry, with `URI: ` before it: that is what aziot-edged does.

        Raises:
            BenchError: a name cannot stand in a certificate.
        """
        return self._issue(module_id, [x509.DNSName(f"URI: {uri}")], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, common_name: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier
    ) -> IssuedCertificate:
        if not 1 <= len(common_name) <= _MAX_COMMON_NAME_CHARACTERS:
            raise _unusable(common_name)
        authority = self._authority
        now = datetime.fromtimestamp(self._clock.now_ns() // NS_PER_S, UTC)
        ends = min(now + _LIFETIME, authority.certificate.not_valid_after_utc)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public_key = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(authority.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(authority.key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        chain_pem = "".join(each.public_bytes(pem).decode() for each in (certificate, *authority.chain))
        return IssuedCertificate(chain_pem, key_pem.decode(), ends)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise _unusable(name) from None


def _unusable(name: str) -> BenchError:
    return BenchError(
        "not a name for a certificate",
        where=repr(name[:_MAX_COMMON_NAME_CHARACTERS]),
        remedy=f"Use 1 to {_MAX_COMMON_NAME_CHARACTERS} ASCII characters",
    )
