"""Shared access signatures: what a device shows IoT Hub in place of its key."""

from __future__ import annotations

import base64
import urllib.parse

from edge_gateway.keystore import KeyStore


def sas_token(key_store: KeyStore, key: str, resource: str, expiry_s: int) -> str:
    """A shared access signature, signed by the key store. Blocks while that signs.

    Args:
        key_store: holds the device's symmetric key.
        key: its name there.
        resource: `{host}/devices/{device}`.
        expiry_s: seconds since 1970-01-01T00:00:00Z.

    Raises:
        KeyStoreError: the key is missing or cannot be used.

    Source: https://learn.microsoft.com/azure/iot-hub/iot-hub-dev-guide-sas#sas-token-structure
    """
    encoded = urllib.parse.quote(resource, safe="")
    signature = key_store.sign(key, f"{encoded}\n{expiry_s}".encode())
    text = urllib.parse.quote(base64.b64encode(signature), safe="")
    return f"SharedAccessSignature sr={encoded}&sig={text}&se={expiry_s}"
