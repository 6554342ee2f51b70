"""What a frame is made of: one small model for each kind of field, with its bytes and its meaning.

Every kind with bytes of its own answers the same questions (`wire.WireField`), and a new kind joins by answering them:

- `size_bytes`: how much of the frame it takes,
- `pack`, `unpack`: raw value <-> bytes. Raw is what the wire says: an int, a float or bytes,
- `raw_of`, `value_of`: raw value <-> value. A value is what the reading says: scaled, named, or None for "no value",
- `flaw_of`: why a frame with this raw value is rejected, if it is.

The compiled decoder does not call these; `fixed_run.py` writes the same meaning as expressions, and the tests hold the
two against each other.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from edge_gateway.codec.fields.byte_strings import BytesField, MacField, TextField, UuidField
from edge_gateway.codec.fields.floats import FloatField
from edge_gateway.codec.fields.integers import BcdField, BitField, IntegerField
from edge_gateway.codec.fields.whole_numbers import RawRange, Valid, WholeNumber
from edge_gateway.codec.fields.wire import Endian, FieldName, Misdeclared, Unit

AnyField: TypeAlias = IntegerField | FloatField | BcdField | TextField | MacField | UuidField | BytesField
"""Whatever takes bytes of a frame."""

FieldSpec: TypeAlias = Annotated[AnyField, Field(discriminator="type")]
"""A field as it is declared; `type` says which kind."""

NamedField: TypeAlias = AnyField | BitField
"""Whatever has a name and a value in a frame."""

__all__ = [
    "AnyField",
    "BcdField",
    "BitField",
    "BytesField",
    "Endian",
    "FieldName",
    "FieldSpec",
    "FloatField",
    "IntegerField",
    "MacField",
    "Misdeclared",
    "NamedField",
    "RawRange",
    "TextField",
    "Unit",
    "UuidField",
    "Valid",
    "WholeNumber",
]
