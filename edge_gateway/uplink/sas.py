"""Shared access signatures: what a device shows IoT Hub in place of its key, and by which of its keys.

A device's key may be in the store in several generations, because hub and gateway are not changed at the same moment.
What the hub refuses is followed by the next one at once, so that a session comes up if any of them is right.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

import structlog

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable, UplinkError, UplinkLost, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import generation_name
from edge_gateway.keystore.keyring import KeyInUse

_log = structlog.get_logger()
_SessionT = TypeVar("_SessionT")


class CredentialRefused(UplinkRefused):
    """The hub refuses the device or this key of it, or the store cannot sign with it. Another key may do."""


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


@asynccontextmanager
async def by_newest_key(
    key: KeyInUse, connect: Callable[[str], AbstractAsyncContextManager[_SessionT]], *, endpoint: str
) -> AsyncIterator[_SessionT]:
    """Open a session by the newest generation of a key that the hub takes.

    Args:
        key: the device's.
        connect: opens a session by the generation of this name in the store.
        endpoint: for the log.

    Raises:
        CredentialRefused: on entering, the hub takes none of them; the error is that of the first.
        UplinkError: on entering, as `connect` raises it.
    """
    try:
        numbers = await key.to_try()
    except KeyStoreError as error:
        raise unsigned(error) from error
    refusals: list[CredentialRefused] = []
    async with AsyncExitStack() as resources:
        for number in numbers:
            stored = generation_name(key.name, number)
            try:
                session = await resources.enter_async_context(connect(stored))
            except CredentialRefused as refusal:
                key.note_refused(number)
                refusals.append(refusal)
                if len(numbers) > 1:
                    _log.warning("uplink.key_refused", endpoint=endpoint, key=stored, reason=refusal.what)
            else:
                await key.note_accepted(number)
                break
        else:
            raise refusals[0]
        yield session


def unsigned(error: KeyStoreError) -> UplinkError:
    """What it means for a session that the key store does not sign.

    Not the end of the gateway: what the links bring is kept until the key can be used.
    """
    kind = UplinkLost if isinstance(error, KeyStoreUnavailable) else CredentialRefused
    return kind(error.what, where=error.where, remedy=error.remedy)
