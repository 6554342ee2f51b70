"""What a field's value can be, and that a kind of field nobody taught the generators yet does no harm."""

from __future__ import annotations

from typing import cast

import pytest

from edge_gateway.codec import load_profile
from edge_gateway.codec.fields import (
    BcdField,
    BitField,
    BytesField,
    FloatField,
    IntegerField,
    MacField,
    NamedField,
    TextField,
)
from edge_gateway.codec.generated.shapes import (
    ANY_TEXT,
    AnyShape,
    LabelShape,
    Meaning,
    NumberShape,
    OneValue,
    Shape,
    TextShape,
    TimeShape,
    TruthShape,
    can_be_null,
    meaning_of,
    shape_of,
    unit_of,
)
from edge_gateway.codec.generated.values_schema import meaning_schema
from edge_gateway.codec.profile import is_field
from edge_gateway.codec.text.numbers import DecimalColumn
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import TimestampColumn
from edge_gateway.codec.text.words import FlagColumn


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (IntegerField.model_validate({"name": "a", "type": "i8"}), NumberShape(True, -128, 127)),
        (IntegerField.model_validate({"name": "a", "type": "u8", "scale": "0.5"}), NumberShape(False, 0.0, 127.5)),
        (IntegerField.model_validate({"name": "a", "type": "u8", "scale": -2}), NumberShape(True, -510, 0)),
        (BitField.model_validate({"name": "a", "bit": 0}), TruthShape()),
        (BitField.model_validate({"name": "a", "bit": 0, "enum": {0: "n", 1: "y"}}), LabelShape(("n", "y"), True)),
        (BitField.model_validate({"name": "a", "bit": 0, "enum": {1: "y"}, "sentinel": 0}), LabelShape(("y",), True)),
        (BitField.model_validate({"name": "a", "bit": 0, "width": 2, "enum": {1: "y"}}), LabelShape(("y",), False)),
        (FloatField.model_validate({"name": "a", "type": "f32"}), NumberShape(False, None, None)),
        (
            FloatField.model_validate({"name": "a", "type": "f16", "valid": {"minimum": 0}}),
            NumberShape(False, 0.0, None),
        ),
        (BcdField.model_validate({"name": "a", "type": "bcd", "digits": 3}), NumberShape(True, 0, 999)),
        (IntegerField.model_validate({"name": "a", "type": "u32", "epoch": "unix-s"}), TimeShape()),
        (MacField.model_validate({"name": "a", "type": "mac"}), TextShape("^([0-9a-f]{2}:){5}[0-9a-f]{2}$")),
        (BytesField.model_validate({"name": "a", "type": "bytes", "length_bytes": 3}), TextShape("^[0-9a-f]{6}$")),
        (
            BytesField.model_validate({"name": "a", "type": "bytes", "length_bytes": "end"}),
            TextShape("^([0-9a-f]{2})*$"),
        ),
        (TextField.model_validate({"name": "a", "type": "text", "length_bytes": 3}), TextShape(r"^[\s\S]{0,3}$")),
        (TextField.model_validate({"name": "a", "type": "text", "length_bytes": "n"}), TextShape(ANY_TEXT)),
        (IntegerField.model_validate({"name": "a", "type": "bool"}), TruthShape()),
        (DecimalColumn.model_validate({"name": "a", "type": "decimal"}), NumberShape(False, None, None)),
        (FlagColumn.model_validate({"name": "a", "type": "flag", "on": "A", "off": "V"}), TruthShape()),
        (TimestampColumn.model_validate({"name": "a", "type": "timestamp", "zone": "Z"}), TimeShape()),
        (PlaceColumn.model_validate({"name": "a", "type": "latitude"}), NumberShape(False, -90, 90)),
    ],
)
def test_the_shape_of_each_kind(spec: OneValue, shape: Shape) -> None:
    """Each kind of field is told by what JSON makes of its value."""
    assert shape_of(spec) == shape


def test_null_and_unit() -> None:
    """A sentinel makes null possible, and so does a float; bytes are never null."""
    named = {name: spec for name, spec in load_profile("reference-climate").named("sample").items() if is_field(spec)}
    assert can_be_null(named["temperature"])
    assert not can_be_null(named["battery"])
    assert can_be_null(FloatField.model_validate({"name": "a", "type": "f64"}))
    assert not can_be_null(BytesField.model_validate({"name": "a", "type": "bytes", "length_bytes": 1}))
    assert unit_of(named["temperature"]) == "Cel"
    assert unit_of(named["door_open"]) is None


class Unheard:
    """A kind of field that came after the generators."""

    name = "riddle"
    description = "Who knows"


def test_an_unknown_kind_may_be_anything() -> None:
    """What is generated for a kind nobody taught is true and says less."""
    spec = cast("NamedField", Unheard())
    assert shape_of(spec) == AnyShape()
    assert can_be_null(spec)
    assert unit_of(spec) is None
    assert meaning_of(spec) == Meaning(AnyShape(), True, None, "Who knows")
    assert meaning_schema(meaning_of(spec)) == {"description": "Who knows"}
