"""A device's connection string, as the portal shows it: `HostName=...;DeviceId=...;SharedAccessKey=...`.

Read strictly: what is left over, double or not a device's is refused with the reason. No error has the text or the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.provisioning.identities import is_device_id, is_host_name
from edge_gateway.provisioning.symmetric_keys import read_key

MOST_CHARACTERS: Final = 1024
"""Two host names of 253, an id of 128, a key of 88, and the words."""

_REFUSED: Final = {
    "ModuleId": (
        "this is a module's, and a gateway needs a device's",
        "Copy that of the device; a gateway that is a module gets its identity from IoT Edge",
    ),
    "SharedAccessKeyName": (
        "this is a service's, which may do everything at the hub",
        "Copy that of one device, and renew this policy's key if the text has been seen by others",
    ),
    "SharedAccessSignature": (
        "this has a token, which ends, and no key",
        "Copy the connection string with the device's primary key",
    ),
    "x509": (
        "this device proves itself by certificate",
        "Use `edge-gateway provision dps --method x509`, or give the device symmetric keys",
    ),
}
"""What others use, why it does not do here, and what would."""

_AT_THE_END: Final = b"; \t\r\n"
_NEEDED: Final = ("HostName", "DeviceId", "SharedAccessKey")
_KNOWN: Final = frozenset((*_NEEDED, "GatewayHostName"))


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """What is in a device's connection string."""

    host_name: str
    device_id: str
    key: Secret = field(compare=False)
    gateway_host_name: str = ""
    """The IoT Edge device to go through, if any."""


def parse_connection_string(text: bytes | bytearray, *, where: str) -> ConnectionString:
    """Read a connection string; white space around it does not matter.

    Args:
        text: the whole text.
        where: the file or stream, for the error.

    Raises:
        ConfigError: it is none, or not that of a device with a symmetric key.
    """
    if len(text) > MOST_CHARACTERS:
        raise _refused(f"is longer than {MOST_CHARACTERS} characters", where)
    parts: dict[str, memoryview] = {}
    for start, end in _parts(text):
        name_end = text.find(b"=", start, end)
        # Not repeated if it is unknown: in a text that is no connection string it may be the key.
        word = text[start:name_end].strip().decode("ascii", errors="replace") if name_end >= 0 else ""
        if word in _REFUSED:
            why, remedy = _REFUSED[word]
            raise _refused(why, where, remedy)
        if word not in _KNOWN:
            raise _refused("is not a device's connection string", where)
        if word in parts:
            raise _refused(f"has {word} twice", where)
        # A view: the key is in no other place than the caller's, who can wipe it.
        parts[word] = memoryview(text)[name_end + 1 : end]
    missing = [word for word in _NEEDED if not parts.get(word)]
    if missing:
        raise _refused(f"lacks {', '.join(missing)}", where)
    host_name, device_id, gateway_host_name = (
        bytes(parts.get(word, b"")).strip().decode("ascii", errors="replace")
        for word in ("HostName", "DeviceId", "GatewayHostName")
    )
    if not is_host_name(host_name):
        raise _refused("its HostName cannot be a host's name", where)
    if not is_device_id(device_id):
        raise _refused(
            "its DeviceId cannot be a device's id, or has + or #, with which no device can connect by MQTT",
            where,
            "Make a device of another name at the hub, and paste its connection string",
        )
    if gateway_host_name and not is_host_name(gateway_host_name):
        raise _refused("its GatewayHostName cannot be a host's name", where)
    key = read_key(parts["SharedAccessKey"], where=f"SharedAccessKey in {where}")
    return ConnectionString(host_name, device_id, key, gateway_host_name)


def _parts(text: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends, empty ones at the very end aside."""
    start, length = 0, len(text)
    while length and text[length - 1] in _AT_THE_END:  # `rstrip` would copy the key
        length -= 1
    while start < length:
        end = text.find(b";", start, length)
        yield start, end if end >= 0 else length
        start = end + 1 if end >= 0 else length


def _refused(why: str, where: str, remedy: str = "") -> ConfigError:
    return ConfigError(
        why,
        where=where,
        remedy=remedy or "Paste it as the portal shows it: HostName=...;DeviceId=...;SharedAccessKey=...",
    )
