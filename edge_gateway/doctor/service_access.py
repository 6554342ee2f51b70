"""The right to look into a service's registry, from the connection string of one of its policies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

from edge_gateway.errors import ConfigError
from edge_gateway.keystore import KeyStore, Secret


class ServiceAccess(NamedTuple):
    """Where a service is, and a token that opens it. Secret."""

    host: str
    token: str


def service_access(connection_string: Secret, expiry_s: int) -> ServiceAccess:
    """Make a token of a policy.

    Args:
        connection_string: `HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`.
        expiry_s: the token's end, seconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: it is none.
    """
    text = connection_string.reveal().decode("ascii", errors="replace").strip()
    parts = dict(part.partition("=")[::2] for part in text.split(";"))
    try:
        host, policy = parts["HostName"], parts["SharedAccessKeyName"]
        key = base64.b64decode(parts["SharedAccessKey"], validate=True)
    except (KeyError, binascii.Error):
        # Without the cause, which would show what was given.
        raise ConfigError(
            "not the connection string of a service's policy",
            where="--registry or --enrolments",
            remedy="Copy it from the portal: HostName=...;SharedAccessKeyName=registryRead;SharedAccessKey=...",
        ) from None
    resource = quote(host, safe="")
    signature = base64.b64encode(hmac.digest(key, f"{resource}\n{expiry_s}".encode(), hashlib.sha256))
    fields = {"sr": resource, "sig": quote(signature, safe=""), "se": expiry_s, "skn": quote(policy, safe="")}
    return ServiceAccess(host, "SharedAccessSignature " + "&".join(f"{name}={value}" for name, value in fields.items()))


def is_among(store: KeyStore, name: str, keys: Iterable[str], nonce: bytes) -> bool:
    """Whether a key of the store is one of these, in base64. Signatures are compared, as the store's key stays there.

    Raises:
        KeyStoreError: the store's key cannot be used.
    """
    ours = store.sign(name, nonce)
    return any(hmac.compare_digest(ours, hmac.digest(base64.b64decode(key), nonce, hashlib.sha256)) for key in keys)
