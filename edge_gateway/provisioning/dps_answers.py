"""What the provisioning service answers: bytes in, one of a few small types out, or an error. Pure.

Read strictly where we act on it, and not at all where we do not: other versions of the service say more.

Source: Azure REST API specifications, deviceprovisioningservices data plane, device/models.tsp, api-version 2021-06-01.
"""

from __future__ import annotations

import binascii
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from edge_gateway.provisioning.errors import ProvisioningUnavailable
from edge_gateway.provisioning.identities import is_device_id, is_host_name

MOST_BODY_BYTES: Final = 64 * 1024
"""A custom allocation may return a payload of some KB; the rest is less than 4 KB."""
_MOST_ID_CHARACTERS: Final = 256
_MOST_KEY_CHARACTERS: Final = 16 * 1024
"""Of an authentication key in base64; one for RSA-2048 has 1,060."""
_MOST_TEXT_CHARACTERS: Final = 200


class Assigning(NamedTuple):
    """The service is not done yet."""

    operation_id: str


class Assigned(NamedTuple):
    """The device has a hub."""

    host_name: str
    device_id: str
    authentication_key: bytes = b""
    """With a TPM: the device's key at the hub, which only that TPM can open."""


class Failed(NamedTuple):
    """The service could not find a hub for the device."""

    error_code: int
    message: str


class Disabled(NamedTuple):
    """The device's enrolment is disabled."""


Status: TypeAlias = Assigning | Assigned | Failed | Disabled


class Refusal(NamedTuple):
    """The service's own words for an answer other than 2xx; empty where it has none."""

    error_code: int = 0
    message: str = ""
    tracking_id: str = ""
    """By which Azure's support finds the request."""


def read_status(body: bytes, *, where: str) -> Status:
    """Read how a registration goes (RegistrationOperationStatus).

    Args:
        body: JSON.
        where: the service and the device, for the error.

    Raises:
        ProvisioningUnavailable: it cannot be understood.
    """
    document = _object(body)
    if document is None:
        raise not_understood("it is no JSON object", where)
    state = document.get("registrationState")
    if not isinstance(state, dict):
        state = {}
    match document.get("status"):
        case "assigning" | "unassigned":
            operation_id = document.get("operationId")
            if not (isinstance(operation_id, str) and _is_id(operation_id)):
                raise not_understood("it names no operation", where)
            return Assigning(operation_id)
        case "assigned":
            host_name, device_id = state.get("assignedHub"), state.get("deviceId")
            if not (isinstance(host_name, str) and is_host_name(host_name)):
                raise not_understood("it names no hub", where)
            if not (isinstance(device_id, str) and is_device_id(device_id)):
                raise not_understood("it names no device", where)
            tpm = state.get("tpm")
            return Assigned(host_name, device_id, _authentication_key(tpm if isinstance(tpm, dict) else {}))
        case "failed":
            return Failed(_number(state.get("errorCode")), _text(state.get("errorMessage")))
        case "disabled":
            return Disabled()
    raise not_understood("it has no status", where)


def read_challenge(body: bytes, *, where: str) -> bytes | None:
    """Read the key that a TPM shall prove itself with, from an answer 401; None if the answer is a plain no.

    Raises:
        ProvisioningUnavailable: there is such a key and it cannot be read.
    """
    document = _object(body)
    if document is None or "authenticationKey" not in document:
        return None
    key = _authentication_key(document)
    if not key:
        raise not_understood("its authenticationKey is not base64", where)
    return key


def read_refusal(body: bytes) -> Refusal:
    """Read what the service says with an answer other than 2xx (ProvisioningServiceErrorDetails). Never raises."""
    document = _object(body) or {}
    code = document.get("errorCode", document.get("code"))
    return Refusal(_number(code), _text(document.get("message")), _text(document.get("trackingId")))


def not_understood(why: str, where: str) -> ProvisioningUnavailable:
    """The error for an answer that is none."""
    return ProvisioningUnavailable(
        f"the answer cannot be understood: {why}",
        where=where,
        remedy="Check the service's host name, and that no proxy or log-in page of the network answers in its place",
    )


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _MOST_ID_CHARACTERS and text.isascii() and text.isprintable()


def _authentication_key(tpm: dict[str, Any]) -> bytes:
    text = tpm.get("authenticationKey")
    if not isinstance(text, str) or len(text) > _MOST_KEY_CHARACTERS:
        return b""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii's and Unicode's errors are ones, too
        return b""


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: object) -> str:
    """A text to show to a person: no longer than it may be, and nothing that moves a terminal's cursor."""
    text = value[:_MOST_TEXT_CHARACTERS] if isinstance(value, str) else ""
    return "".join(each if each.isprintable() else " " for each in text).strip()
