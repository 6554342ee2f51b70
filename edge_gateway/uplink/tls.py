"""TLS to a hub or broker: always verified, and its failures told apart."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_gateway.errors import ConfigError, UplinkError, UplinkLost, UplinkRefused

if TYPE_CHECKING:
    from edge_gateway.uplink.tpm_tls import HeldKey


_CERTIFICATE_REMEDY: Final = "Check that it has not expired, and that the other side trusts who has signed it"


def client_context(
    ca_file: Path | None, certificate_file: Path | None, private_key: Path | HeldKey | None
) -> ssl.SSLContext:
    """A context that checks the server's certificate and name.

    Args:
        ca_file: certificates to trust (PEM); None for the system's.
        certificate_file: the client's own certificate chain, if it proves its identity by one.
        private_key: the key to it: a file, or a key that stays in the TPM; None if it stands beside the certificate.

    Raises:
        ConfigError: a file is missing or is not PEM, or the key cannot be used.
    """
    private_key_file = private_key if isinstance(private_key, Path) else None
    for path in (ca_file, certificate_file, private_key_file):
        if path is not None and not path.is_file():
            raise ConfigError("there is no such file", where=str(path), remedy="Give the path of a PEM file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate_file is not None and (private_key is None or private_key_file is not None):
            context.load_cert_chain(certificate_file, private_key_file)
    except OSError as error:  # ssl.SSLError is one, too
        # OpenSSL names neither the file nor what is wrong with it; it does not matter which of the two it was.
        files = ", ".join(str(path) for path in (ca_file, certificate_file, private_key_file) if path is not None)
        raise ConfigError("cannot be used as PEM certificate or key", where=files) from error
    if certificate_file is not None and private_key is not None and not isinstance(private_key, Path):
        from edge_gateway.uplink.tpm_tls import use_held_key  # only who has such a key takes the risk

        use_held_key(context, certificate_file, private_key)
    return context


def connection_error(error: BaseException, endpoint: str, *, shows_certificate: bool = False) -> UplinkError:
    """Say why a connection could not be made, from whatever the client library wrapped around the cause.

    Args:
        error: what it raised.
        endpoint: where to.
        shows_certificate: the client has one of its own. With TLS 1.3 the other side refuses it when the handshake is
            over, so that all that is left of the reason may be that the connection is closed.
    """
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        seen.append(cause)
        match cause:
            case ssl.SSLCertVerificationError():
                return UplinkRefused(
                    f"shows a certificate that cannot be trusted: {cause.verify_message.rstrip('.')}",
                    where=endpoint,
                    remedy="Check the host name, the clock, and ca_file",
                )
            case socket.gaierror() | UnicodeError():  # the latter for what cannot be a name at all
                return UplinkLost(
                    "this name does not resolve", where=endpoint, remedy="Check the host name and the DNS server"
                )
            case ConnectionRefusedError():
                return UplinkLost(
                    "nothing listens there", where=endpoint, remedy="Check the host and port, and the firewall"
                )
            case ssl.SSLError() if _is_about_certificate(cause):
                return UplinkRefused(
                    f"does not take this gateway's certificate ({cause.reason})",
                    where=endpoint,
                    remedy=_CERTIFICATE_REMEDY,
                )
            case ssl.SSLError():
                return UplinkLost(
                    f"the TLS handshake failed ({getattr(cause, 'reason', None) or 'broken off'})",
                    where=endpoint,
                    remedy="Check that this port speaks TLS",
                )
            case TimeoutError():
                return UplinkLost("does not answer", where=endpoint, remedy="Check the network and the firewall")
            case OSError() if cause.errno is not None:
                return UplinkLost(f"cannot be reached ({cause.strerror})", where=endpoint, remedy="Check the network")
        cause = cause.__cause__ or cause.__context__
    if shows_certificate:
        return UplinkLost(
            "the connection was closed before the gateway was let in; its certificate may not be taken",
            where=endpoint,
            remedy=_CERTIFICATE_REMEDY,
        )
    return UplinkLost(f"the connection failed ({type(error).__name__})", where=endpoint)


def _is_about_certificate(error: ssl.SSLError) -> bool:
    """Whether the other side has said that it does not want the certificate it was shown, or wants one.

    Source: alerts of RFC 8446, section 6.2, by OpenSSL's names; a signature that does not hold is a decrypt_error.
    """
    # Typed as a text, and None where the error is not OpenSSL's own.
    reason = getattr(error, "reason", None) or ""
    return "ALERT" in reason and any(each in reason for each in ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR"))
