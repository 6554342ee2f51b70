"""SAS tokens (shared access signatures), by which devices, modules and services prove who they are.

A token names a resource and an end in Unix seconds and is signed with a key:
`SharedAccessSignature sr={resource}&sig={signature}&se={end}[&skn={policy}]`, parts in any order, percent-encoded. The
signature is over the resource *as it is written in the token*, because clients encode it differently or not at all.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.refusals import AccessDenied

_SCHEME = "SharedAccessSignature"
_MAX_TOKEN_CHARACTERS = 4096
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 16, 64


class Right(enum.Flag):
    """What a policy's tokens may be used for."""

    REGISTRY_READ = enum.auto()
    REGISTRY_WRITE = enum.auto()
    SERVICE_CONNECT = enum.auto()
    """Messages to devices, methods, twins, and reading what devices sent."""
    DEVICE_CONNECT = enum.auto()
    """Acting as any device."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A hub's shared access policy: a name for a right, with two keys of its own."""

    name: str
    rights: Right
    primary_key: str = field(repr=False)
    secondary_key: str = field(repr=False)


POLICY_RIGHTS = {
    "iothubowner": Right.REGISTRY_READ | Right.REGISTRY_WRITE | Right.SERVICE_CONNECT | Right.DEVICE_CONNECT,
    "service": Right.SERVICE_CONNECT,
    "device": Right.DEVICE_CONNECT,
    "registryRead": Right.REGISTRY_READ,
    "registryReadWrite": Right.REGISTRY_READ | Right.REGISTRY_WRITE,
}
"""The policies every new hub has."""


class Token(NamedTuple):
    """A token's parts, as they are written in it but for the policy, which is decoded."""

    raw_resource: str
    raw_end: str
    signature: bytes
    expires_s: int
    policy: str
    """Empty for a device's own key."""


def sas_token(resource: str, key: str, expires_s: int, *, policy: str = "") -> str:
    """Make a token as a client does.

    Args:
        resource: e.g. `{hub}/devices/{device}`.
        key: base64.
        expires_s: Unix time of its end.
        policy: whose key it is; empty for a device's own.
    """
    resource = quote(resource, safe="")
    signature = quote(base64.b64encode(_signature(key, resource, str(expires_s))), safe="")
    name = f"&skn={quote(policy, safe='')}" if policy else ""
    return f"{_SCHEME} sr={resource}&sig={signature}&se={expires_s}{name}"


def parse(token: str, where: str = "") -> Token:
    """Read a token; nothing is checked but its form.

    Args:
        token: as the client sent it.
        where: the client, for the error.

    Raises:
        AccessDenied: it is no token.
    """
    scheme, _, fields = token[:_MAX_TOKEN_CHARACTERS].partition(" ")
    parts = dict(part.partition("=")[::2] for part in fields.split("&"))
    if scheme != _SCHEME or not {"sr", "sig", "se"} <= parts.keys():
        raise AccessDenied("the password is not a shared access signature", where=where)
    try:
        signature = base64.b64decode(unquote(parts["sig"]), validate=True)
        expires_s = int(parts["se"])
    except ValueError:
        raise AccessDenied("the token's signature or end cannot be read", where=where) from None
    return Token(parts["sr"], parts["se"], signature, expires_s, unquote(parts.get("skn", "")))


def check(token: str | Token, *, keys: Sequence[str], resource: str, now_s: float) -> int:
    """Check that a token is for a resource, signed with one of the keys, and not over.

    Args:
        token: as the client sent it, or parsed.
        keys: base64; either of a pair will do, so that keys can be changed one at a time.
        resource: what is asked for; a token for a part of its path covers it, by whole segments.
        now_s: Unix time.

    Returns:
        The Unix second it ends at.

    Raises:
        AccessDenied: it does not do, with the reason.
    """
    if isinstance(token, str):
        token = parse(token, resource)
    if not _covers(token.raw_resource, resource):
        raise AccessDenied("the token is for another resource", where=resource)
    signatures = [_signature(key, token.raw_resource, token.raw_end) for key in keys]
    if not any([hmac.compare_digest(token.signature, signature) for signature in signatures]):  # noqa: C419 - all of them, in constant time
        raise AccessDenied("the token is signed with another key", where=resource)
    if token.expires_s <= now_s:
        raise AccessDenied("the token has expired", where=resource)
    return token.expires_s


def derive_key(group_key: str, registration_id: str) -> str:
    """A device's own key from its enrolment group's: HMAC-SHA256 over the registration id; both base64."""
    return base64.b64encode(hmac.digest(base64.b64decode(group_key), registration_id.encode(), hashlib.sha256)).decode()


def check_key(key: str, where: str) -> None:
    """Check that a key is one a hub accepts.

    Raises:
        BenchError: it is not 16 to 64 bytes in base64.
    """
    try:
        size_bytes = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size_bytes = 0
    if not _MIN_KEY_BYTES <= size_bytes <= _MAX_KEY_BYTES:
        raise BenchError(
            "not a device key", where=where, remedy=f"Use {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes in base64"
        )


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
