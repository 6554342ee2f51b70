"""Messages: sections in a row, each a described value (OASIS amqp-core-messaging-v1.0, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_gateway.testbench.cloud.amqp.composites import Properties, read, write
from edge_gateway.testbench.cloud.amqp.values import Described, Malformed, Ulong, Value, decode_first, encode

_HEADER, _DELIVERY_ANNOTATIONS, _ANNOTATIONS, _PROPERTIES = 0x70, 0x71, 0x72, 0x73
_APPLICATION_PROPERTIES, _DATA, _SEQUENCE, _VALUE, _FOOTER = 0x74, 0x75, 0x76, 0x77, 0x78


@dataclass(frozen=True, slots=True)
class Message:
    """A message without header and footer: how it is carried and checked is nothing a hub depends on."""

    data: bytes | None = None
    """The body if it is bytes, those of several sections together."""
    value: Value = field(default=None, repr=False)
    """The body if it is a value; may be a token."""
    properties: Properties = field(default_factory=Properties)
    application_properties: Mapping[str, Value] = field(default_factory=dict)
    annotations: Mapping[str, Value] = field(default_factory=dict)
    """Keys are symbols."""
    delivery_annotations: Mapping[str, Value] = field(default_factory=dict)
    """Keys are symbols."""

    def encode(self) -> bytes:
        """The message's bytes; empty sections are left out, but for properties and body."""
        before = {_DELIVERY_ANNOTATIONS: self.delivery_annotations, _ANNOTATIONS: self.annotations}
        body = _section(_VALUE, self.value) if self.data is None else _section(_DATA, self.data)
        application = self.application_properties
        return b"".join(
            (
                *(_section(code, dict(content)) for code, content in before.items() if content),
                write(self.properties),
                _section(_APPLICATION_PROPERTIES, dict(application)) if application else b"",
                body,
            )
        )


def decode_message(data: bytes) -> Message:
    """Read a message.

    Raises:
        Malformed: a section is unknown or of a wrong type.
    """
    maps: dict[int, Mapping[str, Value]] = {_DELIVERY_ANNOTATIONS: {}, _ANNOTATIONS: {}, _APPLICATION_PROPERTIES: {}}
    properties = Properties()
    parts: list[bytes] = []
    value: Value = None
    at = 0
    while at < len(data):
        section, at = decode_first(data, at)
        if not isinstance(section, Described) or not isinstance(section.descriptor, Ulong):
            raise Malformed("a part of a message that is no section")
        code, content = section.descriptor, section.value
        if code in maps and isinstance(content, dict) and all(isinstance(key, str) for key in content):
            maps[code] = content
        elif code == _PROPERTIES:
            properties = read(section)
        elif code == _DATA and isinstance(content, bytes):
            parts.append(content)
        elif code in (_SEQUENCE, _VALUE):
            value = content
        elif code not in (_HEADER, _FOOTER):
            raise Malformed(f"section 0x{code:02x} of a message is unknown or of a wrong type")
    return Message(
        b"".join(parts) if parts else None,
        value,
        properties,
        maps[_APPLICATION_PROPERTIES],
        maps[_ANNOTATIONS],
        maps[_DELIVERY_ANNOTATIONS],
    )


def _section(code: int, content: Value) -> bytes:
    return encode(Described(Ulong(code), content))
