"""Why the provisioning service could not be reached or said no, and what to do about it.

The service tells a stranger little: an enrolment that is missing, a wrong key and a clock that is off all end in 401.
So the error names what we know besides: what the device proved itself by, and the service's time against ours.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import aiohttp

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.provisioning.dps_answers import Failed, read_refusal
from edge_gateway.provisioning.errors import ProvisioningError, ProvisioningRefused, ProvisioningUnavailable

_MOST_CLOCK_ERROR_S: Final = 300
"""How far off a clock may be before the service's refusal is put down to it."""

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)
"""X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL."""

_CUSTOM_ALLOCATION_FAILED: Final = 400_209


def connection_fault(error: BaseException, where: str) -> ProvisioningError:
    """Say why there was no answer, from whatever the client library wrapped around the cause."""
    # The service's own address has been checked: one that cannot be read is the proxy's.
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError | aiohttp.InvalidURL):
        status = f": it answers {error.status}" if isinstance(error, aiohttp.ClientHttpProxyError) else ""
        return ProvisioningUnavailable(
            f"the proxy that the environment names does not lead there{status}",
            where=where,
            remedy="Check HTTPS_PROXY and NO_PROXY",
        )
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return _certificate_fault(cause, where)
            case socket.gaierror() | UnicodeError():  # the latter for what cannot be a name at all
                return ProvisioningUnavailable(
                    "this name does not resolve", where=where, remedy="Check the service's host name and the DNS server"
                )
            case ConnectionRefusedError():
                return ProvisioningUnavailable(
                    "nothing listens there", where=where, remedy="Check the host name, and that port 443 is let through"
                )
            case ssl.SSLError():
                return ProvisioningUnavailable(
                    f"the TLS handshake failed ({getattr(cause, 'reason', None) or 'broken off'})",
                    where=where,
                    remedy="Check that the port speaks TLS, and that no firewall cuts it off",
                )
            case TimeoutError():
                return ProvisioningUnavailable(
                    "does not answer", where=where, remedy="Check the network, and that port 443 is let through"
                )
            case OSError() if cause.errno is not None:
                return ProvisioningUnavailable(
                    f"cannot be reached ({cause.strerror})", where=where, remedy="Check the network"
                )
    return ProvisioningUnavailable(
        f"the connection failed ({type(error).__name__})",
        where=where,
        remedy="Try again; if it stays, check the network",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors under the client library's own, which are of the same types and say less."""
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        seen.append(cause)
        if not isinstance(cause, aiohttp.ClientError):
            yield cause
        cause = cause.__cause__ or cause.__context__


def _certificate_fault(error: ssl.SSLCertVerificationError, where: str) -> ProvisioningRefused:
    if error.verify_code == _NOT_YET_VALID:
        remedy = "Set this box's clock: it is behind"
    elif error.verify_code == _EXPIRED:
        remedy = "Check this box's clock; if it is right, somebody answers in the service's place"
    elif error.verify_code in _OTHER_NAME:
        remedy = "Check the host name; a proxy or log-in page of the network may answer in its place"
    else:
        remedy = "Update the system's certificates; behind a proxy that opens TLS, or for a bench, give --ca-file"
    return ProvisioningRefused(
        f"shows a certificate that cannot be trusted: {error.verify_message}", where=where, remedy=remedy
    )


def refused(status: int, body: bytes, *, date: str, now_ns: int, proof_remedy: str, where: str) -> ProvisioningError:
    """Say why the service answered otherwise than with 2xx.

    Args:
        status: HTTP's.
        body: the answer's.
        date: its `Date` header; empty if it has none.
        now_ns: this box's wall time, Unix nanoseconds.
        proof_remedy: what to compare if the service does not accept what the device proved itself by.
        where: the service and the device.
    """
    said = read_refusal(body)
    words = f" ({said.error_code} {said.message}".rstrip() + ")" if said.error_code else ""
    tracking = f". To Azure's support it is {said.tracking_id}" if said.tracking_id else ""
    match status:
        case 401 | 403:
            theirs_ns = _time_ns(date)
            if theirs_ns is not None and abs(theirs_ns - now_ns) > _MOST_CLOCK_ERROR_S * NS_PER_S:
                return ProvisioningRefused(
                    f"the service does not accept this device's proof{words}, and this box's clock is wrong",
                    where=where,
                    remedy=f"Set the clock: here it is {rfc3339(now_ns)}, there {rfc3339(theirs_ns)}",
                )
            return ProvisioningRefused(
                f"the service knows no such enrolment, or does not accept this device's proof{words}",
                where=where,
                remedy=f"{proof_remedy}{tracking}",
            )
        case 404:
            return ProvisioningRefused(
                f"the service knows nothing of this kind{words}",
                where=where,
                remedy=f"Compare the id scope with the portal's, and see that the device is enrolled there{tracking}",
            )
        case 407:
            return ProvisioningUnavailable(
                "the proxy that the environment names wants a password", where=where, remedy="Put it into HTTPS_PROXY"
            )
        case 429:
            return ProvisioningUnavailable(
                f"the service is asked too much and has not relented{words}", where=where, remedy="Try again later"
            )
        case _ if status >= 500:
            return ProvisioningUnavailable(
                f"the service has a fault of its own ({status}){words}",
                where=where,
                remedy=f"Try again later{tracking}",
            )
    return ProvisioningRefused(
        f"the service does not take the request ({status}){words}",
        where=where,
        remedy=f"Check host name, id scope and registration id{tracking}",
    )


def failed(status: Failed, where: str) -> ProvisioningRefused:
    """Say why the service has no hub for a device it knows."""
    words = f"{status.error_code} {status.message}".strip()
    remedy = "Check in the enrolment that a hub is linked and may be chosen"
    if status.error_code == _CUSTOM_ALLOCATION_FAILED:
        remedy = "Look at the function that the enrolment's custom allocation calls"
    return ProvisioningRefused(
        f"the service knows the device and finds no hub for it ({words})", where=where, remedy=remedy
    )


def disabled(where: str) -> ProvisioningRefused:
    """Say that a device's enrolment is disabled."""
    return ProvisioningRefused(
        "the device's enrolment is disabled", where=where, remedy="Enable it in the provisioning service"
    )


def _time_ns(date: str) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(date).timestamp()) * NS_PER_S
    except (ValueError, OverflowError):
        return None
