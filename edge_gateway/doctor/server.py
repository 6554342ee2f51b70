"""What the hub's server shows before anybody logs in: its clock and its certificate.

Certificates are always verified as the gateway verifies them. Where that fails, and for the server's clock, a second
connection looks at what the server shows without believing it: it carries no secret, and is read only to explain.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.network import HTTPS_PORT, Endpoint, connection
from edge_gateway.doctor.site import Site
from edge_gateway.uplink.tls import client_context

_SET_THE_CLOCK: Final = (
    "Set the clock (`sudo timedatectl set-time 'YYYY-MM-DD hh:mm'`) or let a time service do it (`sudo timedatectl "
    "set-ntp true`)"
)
CLOCK_WRONG: Final = Fault(
    "clock.wrong",
    "the box's clock is {off} {way}",
    _SET_THE_CLOCK,
)
TOKEN_ENDED: Final = Fault(
    "hub.token-expired",
    "the tokens by which the gateway proves itself have expired before the hub sees them: this box's clock "
    "is {off} {way}",
    _SET_THE_CLOCK,
)
NOT_TLS: Final = Fault(
    "tls.not-spoken",
    "port {port} of {host} does not speak TLS as the gateway does ({reason})",
    "Check the port: MQTT over TLS is on 8883; a server that only knows TLS 1.1 or older has to be renewed",
)
CUT: Final = Fault(
    "tls.cut",
    "the connection to {host}, port {port}, is cut in the middle of the TLS handshake",
    "A firewall that looks into connections does so: have {host}, port {port}, exempted from inspection",
)
NO_AUTHORITIES: Final = Fault(
    "tls.no-authorities",
    "this box trusts no certificate authority at all",
    "`sudo apt install ca-certificates`, or set ca_file",
)
UNKNOWN_AUTHORITY: Final = Fault(
    "tls.unknown-authority",
    "{host} shows a certificate of {issuer}, whom {trust}",
    "If the hub is your own, set ca_file to its authority's certificate; if not, `sudo apt install --only-upgrade "
    "ca-certificates`, and take out a ca_file that is out of date",
)
INTERCEPTED: Final = Fault(
    "tls.intercepted",
    "somebody between this box and {host} opens TLS: the certificate shown is of {issuer}, not of Azure's authorities",
    "Have {host} exempted from TLS inspection; do not trust that authority instead, as it could read and change all",
)
EXPIRED: Final = Fault(
    "tls.certificate-expired",
    "the certificate of {host} has expired on {end}",
    "Whoever runs {host} has to renew it",
)
NOT_YET_VALID: Final = Fault(
    "tls.certificate-not-yet-valid",
    "the certificate of {host} is valid from {begin} on, so this box's clock is behind, or the certificate was made by "
    "one that is ahead",
    "Set the clock: `sudo timedatectl set-ntp true`",
)
OTHER_NAME: Final = Fault(
    "tls.wrong-name",
    "the certificate shown is for {names} and not for {host}",
    "Correct the host name in the configuration; if it is right, this network leads its connections elsewhere (a login "
    "page, a proxy): ask its operator",
)
UNTRUSTED: Final = Fault(
    "tls.untrusted", "the certificate of {host} cannot be trusted: {reason}", "Check the host name and ca_file"
)

_MOST_HEAD_BYTES: Final = 16 * 1024
_CLOCK_TOLERANCE_S: Final = 300.0
"""What IoT Hub and TLS bear in practice; a server's Date is in whole seconds and may be a cached one."""
_AZURE: Final = (".azure-devices.net", ".azure-devices-provisioning.net", ".azure-devices.us", ".azure-devices.cn")
_AUTHORITIES_OF_AZURE: Final = ("microsoft", "digicert", "baltimore")
_X509_V_ERR_CERT_NOT_YET_VALID, _X509_V_ERR_CERT_HAS_EXPIRED = 9, 10
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, ...SELF_SIGNED..., ...UNABLE_TO_VERIFY_LEAF_SIGNATURE (openssl-verify(1))."""
_OTHER_NAME: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and ...IP_ADDRESS_MISMATCH."""
_MOST_NAMES: Final = 5
_SHAKES_WITHIN_S: Final = 6.0


class Shown(NamedTuple):
    """What a server's certificate says, unverified."""

    issuer: str
    names: str
    begin: str
    end: str


async def check_server_clock(site: Site) -> Findings:
    """How far the box's clock is off the server's. Only where the server tells: on port 443 of a hub."""
    endpoint = Endpoint.of(site)
    date_s = await _server_date_s(site, endpoint.host)
    if date_s is None:
        return []
    now_ns = site.clock.now_ns()
    off_s = now_ns / NS_PER_S - date_s
    if abs(off_s) <= _CLOCK_TOLERANCE_S:
        return []
    uplink = site.config.uplink
    ended = isinstance(uplink, IotHubUplink) and -off_s >= uplink.token_lifetime_s
    evidence = f"the box says {rfc3339(now_ns)}, {endpoint.host} says {rfc3339(int(date_s) * NS_PER_S)}"
    fault = TOKEN_ENDED if ended else CLOCK_WRONG
    return [fault.found(evidence, off=_duration(abs(off_s)), way="ahead" if off_s > 0 else "behind")]


async def check_certificate(site: Site) -> Findings:
    """Whether the hub's certificate is one the gateway trusts."""
    host, port = Endpoint.of(site)
    ca_file = site.config.uplink.ca_file
    context = client_context(ca_file, None, None)
    places: dict[str, object] = {"host": host, "port": port}
    try:
        async with asyncio.timeout(_SHAKES_WITHIN_S), connection(site, host, port, context):
            return []
    except ssl.SSLCertVerificationError as error:
        return [await _explain(site, error, ca_file, context)]
    except ssl.SSLError as error:
        return [
            NOT_TLS.found(str(error.reason), reason=(error.reason or "broken off").lower().replace("_", " "), **places)
        ]
    except TimeoutError:
        return [NOT_TLS.found(f"no handshake within {_SHAKES_WITHIN_S:g} s", reason="it is silent", **places)]
    except OSError as error:  # a reset, or the end of the connection
        return [CUT.found(str(error), **places)]


async def _server_date_s(site: Site, host: str) -> float | None:
    """What a web server on port 443 says the time is, Unix seconds; None if none does."""
    with suppress(OSError, EOFError, KeyError, ValueError, TypeError, asyncio.LimitOverrunError):
        async with (
            asyncio.timeout(_SHAKES_WITHIN_S),
            connection(site, host, HTTPS_PORT, _unverified()) as (reader, writer),
        ):
            writer.write(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.partition(b":")[::2] for line in head[:_MOST_HEAD_BYTES].lower().split(b"\r\n"))
            return parsedate_to_datetime(fields[b"date"].decode("ascii").strip()).astimezone(UTC).timestamp()
    return None


async def _explain(
    site: Site, error: ssl.SSLCertVerificationError, ca_file: Path | None, context: ssl.SSLContext
) -> Finding:
    host, port = Endpoint.of(site)
    shown = await _shown(site, host, port)
    places = {"host": host, **shown._asdict()}
    evidence = f"{error.verify_message}; issuer {shown.issuer}, valid from {shown.begin} to {shown.end}"
    match error.verify_code:
        case code if code == _X509_V_ERR_CERT_HAS_EXPIRED:
            return EXPIRED.found(evidence, **places)
        case code if code == _X509_V_ERR_CERT_NOT_YET_VALID:
            return NOT_YET_VALID.found(evidence, **places)
        case code if code in _OTHER_NAME:
            return OTHER_NAME.found(evidence, **places)
        case code if code in _UNKNOWN_AUTHORITY:
            return _unknown_authority(evidence, places, ca_file, context)
        case _:
            return UNTRUSTED.found(evidence, reason=error.verify_message, **places)


def _unknown_authority(evidence: str, places: dict[str, str], ca_file: Path | None, context: ssl.SSLContext) -> Finding:
    if ca_file is not None:
        return UNKNOWN_AUTHORITY.found(evidence, trust=f"ca_file ({ca_file}) does not vouch for", **places)
    if not context.get_ca_certs() and not _has_authorities_in_directory():
        return NO_AUTHORITIES.found(evidence)
    is_azures = any(name in places["issuer"].lower() for name in _AUTHORITIES_OF_AZURE)
    if places["host"].endswith(_AZURE) and not is_azures:
        return INTERCEPTED.found(evidence, **places)
    return UNKNOWN_AUTHORITY.found(evidence, trust="this box does not know", **places)


def _has_authorities_in_directory() -> bool:
    """OpenSSL looks authorities up one by one in this directory, so a context does not list them."""
    return any(Path(ssl.get_default_verify_paths().capath or os.devnull).glob("*.0"))


async def _shown(site: Site, host: str, port: int) -> Shown:
    with suppress(OSError, ValueError):
        async with (
            asyncio.timeout(_SHAKES_WITHIN_S),
            connection(site, host, port, _unverified()) as (_, writer),
        ):
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return _read(x509.load_der_x509_certificate(der))
    return Shown("an unknown issuer", "other names", "unknown", "unknown")


def _read(certificate: x509.Certificate) -> Shown:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = ", ".join(str(each.value) for each in list(alternatives)[:_MOST_NAMES])
    except x509.ExtensionNotFound:
        names = certificate.subject.rfc4514_string()
    issuer = certificate.issuer
    parts = [
        *issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME),
        *issuer.get_attributes_for_oid(NameOID.COMMON_NAME),
    ]
    return Shown(
        ", ".join(str(part.value) for part in parts) or issuer.rfc4514_string(),
        names or "no name",
        certificate.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC"),
        certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC"),
    )


def _unverified() -> ssl.SSLContext:
    """For looking only; nothing that came this way is believed, and nothing secret goes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _duration(seconds: float) -> str:
    for name, size_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {name}"
    return f"{seconds:.0f} seconds"
