"""Who a device is at the hub, and the token by which it proves it.

A token (SAS, shared access signature) names a resource and an end in Unix seconds, and is signed with the device's key:
`SharedAccessSignature sr={resource}&sig={signature}&se={end}`, parts in any order, percent-encoded. The signature is
over the resource *as it is written in the token*, because clients encode it differently or not at all.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from edge_gateway.errors import BenchError

_SCHEME = "SharedAccessSignature "
_DEVICE_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@$']{1,128}")


class AccessDenied(BenchError):
    """A device may not connect. The text is for the bench's log; a client hears only that it is not authorised."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """An entry of the hub's identity registry."""

    device_id: str
    primary_key: str = field(repr=False)
    """Base64, 16 to 64 bytes. A token signed with either key is valid, so that keys can be changed one at a time."""
    secondary_key: str = field(repr=False)
    generation_id: str
    """Tells a device from a later one of the same id."""
    enabled: bool = True

    def __post_init__(self) -> None:
        if not _DEVICE_ID.fullmatch(self.device_id):
            raise BenchError(
                "not a device id",
                where=repr(self.device_id),
                remedy="Use 1 to 128 ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ $ '",
            )
        for key in (self.primary_key, self.secondary_key):
            if not 16 <= len(_key_bytes(key, self.device_id)) <= 64:
                raise _unusable_key(self.device_id)


def sas_token(resource: str, key: str, expires_s: int) -> str:
    """Make a token as a device does.

    Args:
        resource: `{hub}/devices/{device}`.
        key: base64.
        expires_s: Unix time of its end.
    """
    resource = quote(resource, safe="")
    signature = quote(base64.b64encode(_signature(key, resource, str(expires_s))), safe="")
    return f"{_SCHEME}sr={resource}&sig={signature}&se={expires_s}"


def check_token(token: str, identity: DeviceIdentity, host_name: str, now_s: float) -> int:
    """Check that a token lets a device in; return the Unix second it ends at.

    Raises:
        AccessDenied: it does not, with the reason.
    """
    scheme, _, fields = token.partition(" ")
    parts = dict(part.partition("=")[::2] for part in fields.split("&"))
    if scheme != _SCHEME.strip() or not {"sr", "sig", "se"} <= parts.keys():
        raise _denied(identity, "the password is not a shared access signature")
    if not _covers(parts["sr"], f"{host_name}/devices/{identity.device_id}"):
        raise _denied(identity, "the token is for another resource")
    try:
        signature = base64.b64decode(unquote(parts["sig"]), validate=True)
        expires_s = int(parts["se"])
    except ValueError:
        raise _denied(identity, "the token's signature or end cannot be read") from None
    keys = (identity.primary_key, identity.secondary_key)
    if not any(hmac.compare_digest(signature, _signature(key, parts["sr"], parts["se"])) for key in keys):
        raise _denied(identity, "the token is signed with another key")
    if expires_s <= now_s:
        raise _denied(identity, "the token has expired")
    return expires_s


def _covers(raw_resource: str, wanted: str) -> bool:
    """Whether a token's resource is `wanted` or a part of its path, by whole segments.

    Upper and lower case are one: some clients write the whole resource in lower case.
    """
    segments = unquote(raw_resource).lower().split("/")
    if segments[-1].startswith("api-version="):
        segments.pop()  # old tools put it there
    return bool(segments) and segments == wanted.lower().split("/")[: len(segments)]


def _signature(key: str, raw_resource: str, end: str) -> bytes:
    return hmac.digest(base64.b64decode(key), f"{raw_resource}\n{end}".encode(), hashlib.sha256)


def _key_bytes(key: str, device_id: str) -> bytes:
    try:
        return base64.b64decode(key, validate=True)
    except binascii.Error:
        raise _unusable_key(device_id) from None


def _unusable_key(device_id: str) -> BenchError:
    return BenchError("not a device key", where=device_id, remedy="Use 16 to 64 bytes in base64")


def _denied(identity: DeviceIdentity, what: str) -> AccessDenied:
    return AccessDenied(what, where=identity.device_id)
