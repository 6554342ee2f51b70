"""What a frame is made of beside fields of a fixed size: groups, lists, choices, tagged items, computed, sealed values.

Each is an item of `fields` like any other, and holds items itself. A group or a list gives one value with its name; a
choice, tagged items and what was sealed give theirs to the list they stand in.

What goes `to the end` goes to the end of whatever holds it, less the fields of a fixed size that stand behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from edge_gateway.codec.fields import (
    AnyField,
    BcdField,
    BytesField,
    FieldName,
    FieldSpec,
    FloatField,
    IntegerField,
    MacField,
    Misdeclared,
    TextField,
    Unit,
    UuidField,
    Valid,
)
from edge_gateway.codec.fields.wire import Named, Presence
from edge_gateway.config.link import HexBytes
from edge_gateway.config.settings import Settings


class Group(Named, Presence):
    """Fields that belong together; the value is a mapping of theirs."""

    type: Literal["group"]
    fields: tuple[Item, ...] = Field(min_length=1)


class Array(Named, Presence):
    """The same again and again; the value is a list."""

    type: Literal["array"]
    of: Item
    """What comes again: a field, or a group of them."""
    count: Annotated[int, Field(ge=1, le=65_536)] | FieldName | None = None
    """How many, or the field before it that says so."""
    until: HexBytes | Literal["end"] | None = None
    """`end`, or the bytes that stand behind the last."""

    @model_validator(mode="after")
    def _check_size(self) -> Array:
        if self.count is None and self.until is None:
            raise Misdeclared("nothing says how many", key="count", remedy="Give `count`, or `until: end`")
        if self.count is not None and self.until is not None:
            raise Misdeclared("two keys say how many", key="until", remedy="Keep `count` or `until`")
        if self.until == "":
            raise Misdeclared("no bytes are no mark", key="until", remedy="For instance: '0d0a', or end")
        if not isinstance(self.of, AnyField | Group):
            raise Misdeclared(f"a list of {self.of.type}", key="of.type", remedy="Put it in a group")
        if isinstance(self.of, IntegerField) and self.of.bits:
            raise Misdeclared("a list of bit fields", key="of.bits", remedy="Put the integer in a group")
        if not self.of.emit or self.of.is_constant:
            raise Misdeclared("the elements would be no values", key="of", remedy="Leave out `emit` and `const`")
        if self.of.is_conditional:
            raise Misdeclared("an element of a list is always there", key="of", remedy="Put the condition in a group")
        return self


class Switch(Presence):
    """One of several lists of items, chosen by a value before it."""

    type: Literal["switch"]
    on: FieldName
    """The field whose value chooses."""
    cases: dict[bool | int | str, tuple[Item, ...]] = Field(min_length=1)
    """What follows, by that value: a number, the name of a code, or true and false."""
    default: tuple[Item, ...] | None = None
    """What follows any other value; without it, such a frame is rejected."""


class Tlv(Presence):
    """Items, each behind a tag that says what it is, to the end.

    The names of an item that comes again get `_2`, `_3`.
    """

    type: Literal["tlv"]
    header: tuple[FieldSpec, ...] = Field(min_length=1)
    """What stands before every item, the tag among it. Its fields are no values."""
    tag: FieldName
    """The field of the header that says which item follows."""
    length: FieldName | None = None
    """The field of the header with the number of bytes that follow it; without it, the fields of the item say so."""
    number: FieldName | None = None
    """A field of the header that goes into the names: `temperature_3` for channel 3."""
    items: dict[int, tuple[Item, ...]] = Field(min_length=1)
    unknown: Literal["reject", "skip", "stop"] = "reject"
    """What becomes of an item that cannot be read, as nobody declared its tag or its bytes do not fit: `reject` the
    frame, `skip` the item, which needs a length, or `stop` there and keep what came before."""

    @model_validator(mode="after")
    def _check_unknown(self) -> Tlv:
        if self.unknown == "skip" and self.length is None:
            raise Misdeclared(
                "nobody knows how long an unknown item is", key="unknown", remedy="Name its `length`, or use stop"
            )
        return self


class Computed(Named, Presence):
    """A value worked out from others. It takes no bytes; where it cannot be worked out, it is null."""

    type: Literal["computed"]
    value: str = Field(max_length=4096, examples=["raw / 1000 * 0.1"])
    """A CEL expression over the values of fields before it."""
    unit: Unit | None = None
    valid: Valid | None = None
    """Which results can be true; another makes it null, or with `otherwise: reject` rejects the frame."""


class FieldBytes(Settings):
    """The bytes of a field as they are on the wire, or in the other order."""

    field: FieldName
    reversed: bool = False


class FixedBytes(Settings):
    """Bytes that are always the same."""

    hex: HexBytes


def _part_kind(part: Any) -> str:
    if isinstance(part, str):
        return "FieldName"
    return (
        "FixedBytes" if isinstance(part, FixedBytes) or (isinstance(part, Mapping) and "hex" in part) else "FieldBytes"
    )


Part: TypeAlias = Annotated[
    Annotated[FieldName, Tag("FieldName")]
    | Annotated[FieldBytes, Tag("FieldBytes")]
    | Annotated[FixedBytes, Tag("FixedBytes")],
    Discriminator(_part_kind),
]


def _key_name(text: str) -> str:
    if not _KEY_NAME.fullmatch(text) or _LIKE_A_KEY.fullmatch(text):
        # Without the text: it may be the key.
        raise Misdeclared(
            "this is no name for a key", remedy="For instance: bindkey. The key itself belongs into the key store"
        )
    return text


_KEY_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LIKE_A_KEY = re.compile(r"[0-9a-f]{32,}")

KeyName = Annotated[
    str, AfterValidator(_key_name), Field(examples=["bindkey"], json_schema_extra={"pattern": f"^{_KEY_NAME.pattern}$"})
]
"""What a profile calls a key: lower case letters, digits and `_`. Which key that is, the configuration says."""


class Encrypted(Presence):
    """Items under AES with an authentication tag (NIST SP 800-38C and 38D), to the end."""

    type: Literal["encrypted"]
    algorithm: Literal["aes-ccm", "aes-gcm"]
    key: KeyName
    """What the profile calls the key; which key that is for a device, the configuration says."""
    nonce: tuple[Part, ...] = Field(min_length=1)
    aad: tuple[Part, ...] = ()
    """What is authenticated and not encrypted."""
    tag_bytes: Literal[4, 6, 8, 10, 12, 14, 16] = 16
    tag: FieldName | None = None
    """The `bytes` field that holds the tag; unless given, it is the last of the encrypted bytes."""
    fields: tuple[Item, ...] = Field(min_length=1)


class Plain(Presence):
    """Items in clear that are believed only from a device without this key: one that has it is known to encrypt."""

    type: Literal["plain"]
    key: KeyName
    fields: tuple[Item, ...] = ()


class Require(Presence):
    """Something that is true of every frame; it takes no bytes, and a frame of which it is not true is rejected."""

    type: Literal["require"]
    that: str = Field(max_length=4096, examples=["pm2_5 <= pm10"])
    """A CEL expression over the values of fields before it."""


class PartOfProfile(Presence):
    """The items that the profile declares once under this name in `parts`, as if they stood here."""

    type: Literal["part"]
    part: str
    """Its name."""


Item: TypeAlias = Annotated[
    IntegerField
    | FloatField
    | BcdField
    | TextField
    | MacField
    | UuidField
    | BytesField
    | Group
    | Array
    | Switch
    | Tlv
    | Computed
    | Encrypted
    | Plain
    | Require
    | PartOfProfile,
    Field(discriminator="type"),
]
"""Whatever can stand in `fields`."""


def is_plain_field(item: Item) -> TypeGuard[AnyField]:
    """Whether an item is always there and always as long."""
    return (
        not isinstance(item, Group | Array | Switch | Tlv | Computed | Encrypted | Plain | Require | PartOfProfile)
        and item.is_sized
        and not item.is_conditional
    )
