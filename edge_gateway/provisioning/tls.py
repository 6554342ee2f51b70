"""TLS to the provisioning service: always verified, by the system's certificates or those of one file."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from edge_gateway.clock import NS_PER_S
from edge_gateway.errors import ConfigError


def tls_context(
    ca_file: Path | None = None, certificate_file: Path | None = None, private_key_file: Path | None = None
) -> ssl.SSLContext:
    """A context that checks the service's certificate and name.

    Args:
        ca_file: certificates to trust (PEM); None for the system's.
        certificate_file: the device's own certificate chain (PEM), if it proves itself by one.
        private_key_file: the key to it (PEM), without a password.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    for path in (ca_file, certificate_file, private_key_file):
        if path is not None and not path.is_file():
            raise ConfigError("there is no such file", where=str(path), remedy="Give the path of a PEM file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one, too
        raise ConfigError("has no certificates in PEM", where=str(ca_file), remedy="Give another file") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if private_key_file is not None and private_key_file.stat().st_mode & 0o077:
        raise ConfigError(
            "can be read by others", where=str(private_key_file), remedy=f"chmod go-rwx {private_key_file}"
        )
    if certificate_file is not None:
        try:
            # With a password asked for here, OpenSSL does not ask on the terminal for that of an encrypted key.
            context.load_cert_chain(certificate_file, private_key_file, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise ConfigError(
                "cannot be used together as certificate and private key",
                where=f"{certificate_file}, {private_key_file}",
                remedy="Give PEM files that belong together, the key without a password, both readable for this user",
            ) from error
    return context


def certificate_name(certificate_file: Path, *, now_ns: int) -> str:
    """The common name of a device's certificate, which is its registration id.

    Args:
        certificate_file: PEM, the device's own certificate first.
        now_ns: wall time, Unix nanoseconds.

    Raises:
        ConfigError: it cannot be read, has no name, or is not valid now.
    """
    where = str(certificate_file)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        names = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (OSError, ValueError) as error:
        raise ConfigError("is no certificate in PEM", where=where, remedy="Give the device's certificate") from error
    if len(names) != 1 or not isinstance(names[0], str):
        raise ConfigError(
            "has not one common name", where=where, remedy="The device's certificate comes first in the file"
        )
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins.timestamp() <= now_ns / NS_PER_S <= ends.timestamp():
        raise ConfigError(
            f"is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, and not now",
            where=where,
            remedy="Check this box's clock; if it is right, have the certificate renewed",
        )
    return names[0]
