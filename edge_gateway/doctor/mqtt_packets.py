"""The three packets of MQTT 3.1.1 that it takes to hear whether a client is let in (OASIS MQTT 3.1.1, section 3)."""

from __future__ import annotations

import struct
from typing import Final

from edge_gateway.errors import UplinkRefused

CONNACK_BYTES: Final = 4
DISCONNECT: Final = b"\xe0\x00"

_CONNECT: Final = 0x10
_CONNACK: Final = b"\x20\x02"
_LONGEST_FIELD_BYTES: Final = 0xFFFF
_USER_NAME, _PASSWORD, _CLEAN_SESSION = 0x80, 0x40, 0x02


def connect_packet(client_id: str, username: str | None, password: bytes | None, *, keep_alive_s: int = 30) -> bytes:
    """A CONNECT with a clean session, so that nothing that waits for the device is sent to whoever only asks.

    Raises:
        UplinkRefused: a field is longer than 65,535 bytes.
    """
    flags = _CLEAN_SESSION | (_USER_NAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    fields = [client_id.encode()]
    fields += [each for each in (username.encode() if username is not None else None, password) if each is not None]
    body = _field(b"MQTT") + struct.pack(">BBH", 4, flags, keep_alive_s) + b"".join(map(_field, fields))
    return bytes([_CONNECT]) + _length(len(body)) + body


def connack_code(packet: bytes) -> int | None:
    """The return code of a CONNACK; None if these bytes are none."""
    if len(packet) != CONNACK_BYTES or packet[:2] != _CONNACK or packet[2] > 1:
        return None
    return packet[3]


def _field(content: bytes) -> bytes:
    if len(content) > _LONGEST_FIELD_BYTES:
        raise UplinkRefused("a user name or password is too long", where="MQTT CONNECT", remedy="Shorten it")
    return struct.pack(">H", len(content)) + content


def _length(size_bytes: int) -> bytes:
    """A remaining length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while size_bytes > 0x7F:
        encoded.append(0x80 | size_bytes & 0x7F)
        size_bytes >>= 7
    return bytes([*encoded, size_bytes])
