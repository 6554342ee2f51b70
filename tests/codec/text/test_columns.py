"""What each kind of column makes of a cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec.text.numbers import scaled_decimal
from edge_gateway.codec.text.places import degrees_of
from edge_gateway.codec.text.writing import write_text
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

from .examples import line, read, value

DECIMAL: dict[str, Any] = {"type": "decimal"}
INTEGER: dict[str, Any] = {"type": "integer"}
TEXT: dict[str, Any] = {"type": "text"}
DSMR_TIME: dict[str, Any] = {"type": "timestamp", "zones": {"W": "+01:00", "S": "+02:00"}}


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        (DECIMAL, "23.45", 23.45),
        (DECIMAL, "+.5", 0.5),
        (DECIMAL, "-5.", -5.0),
        (DECIMAL, "000004.426", 4.426),
        ({**DECIMAL, "scale": 1.852}, "000.5", 0.926),
        ({**DECIMAL, "scale": 0.1, "offset": -40}, "655.35", 25.535),
        ({**DECIMAL, "sentinel": 99.9}, "99.90", None),
        ({**DECIMAL, "valid": {"maximum": 85}}, "85.1", "value"),
        ({**DECIMAL, "valid": {"maximum": 85, "otherwise": "null"}}, "85.1", None),
        (DECIMAL, "1e5", "value"),
        (DECIMAL, "nan", "value"),
        (DECIMAL, "1_000", "value"),
        (DECIMAL, ".", "value"),
        (DECIMAL, "1" * 16, "value"),
        (INTEGER, "-0042", -42),
        (INTEGER, "4.2", "value"),
        ({**INTEGER, "scale": 0.001}, "12530", 12.53),
        ({**INTEGER, "base": 16, "digits": 4}, "a042", 0xA042),
        ({**INTEGER, "base": 16, "digits": 4}, "a04", "value"),
        ({**INTEGER, "base": 16}, "-1", "value"),
        ({**INTEGER, "sentinel": -1}, "-1", None),
        ({**INTEGER, "enum": {0: "off", 3: "bulk"}}, "3", "bulk"),
        ({**INTEGER, "enum": {0: "off", 3: "bulk"}}, "245", "245"),
        (TEXT, "HQ1411MYIKN", "HQ1411MYIKN"),
        (TEXT, "a" * 65, "value"),
        (TEXT, "é", "value"),
        ({**TEXT, "encoding": "utf-8"}, "é", "é"),
        ({**TEXT, "enum": {"E": "east", "W": "west"}}, "W", "west"),
        ({**TEXT, "enum": {"E": "east", "W": "west"}}, "N", "N"),
        ({"type": "flag", "on": "ON", "off": "OFF"}, "ON", True),
        ({"type": "flag", "on": "ON", "off": "OFF"}, "On", "value"),
        ({"type": "clock"}, "184353.07", "18:43:53.07Z"),
        ({"type": "clock"}, "246060", None),
        ({"type": "clock"}, "1843", "value"),
        ({"type": "date"}, "191194", "1994-11-19"),
        ({"type": "date"}, "300268", None),
        ({"type": "date", "format": "yyyymmdd"}, "20680229", "2068-02-29"),
        (DSMR_TIME, "170102192002W", "2017-01-02T18:20:02Z"),
        (DSMR_TIME, "210702192002S", "2021-07-02T17:20:02Z"),
        (DSMR_TIME, "632525252525S", None),
        (DSMR_TIME, "170102192002X", "value"),
        ({"type": "timestamp", "zone": "-03:30", "format": "yyyymmddhhmmss"}, "20191231233000", "2020-01-01T03:00:00Z"),
    ],
)
def test_what_a_cell_says(column: dict[str, Any], cell: str, said: Value) -> None:
    """A cell is the number, word or time it is written as; what it cannot be rejects the line."""
    assert value(column, cell) == said
    assert type(value(column, cell)) is type(said)


@pytest.mark.parametrize(
    "column",
    [DECIMAL, INTEGER, TEXT, {"type": "flag", "on": "1", "off": "0"}, {"type": "clock"}, {"type": "date"}, DSMR_TIME],
)
def test_an_empty_cell_is_null(column: dict[str, Any]) -> None:
    """Nothing between the separators is no value, unless something must be there."""
    frame = line({"name": "a", **INTEGER}, {"name": "x", **column})
    assert read(frame, b"1,") == {"a": 1, "x": None}
    assert value({**column, "required": True}, "") == "value"


def test_affixes_padding_and_words_for_nothing() -> None:
    """What stands around a value is taken off, and what a device writes for no value is null."""
    frame = line(
        {"name": "t", "type": "decimal", "prefix": "T=", "suffix": "C"},
        {"name": "h", "type": "integer", "suffix": "%"},
        padding=" ",
        empty=["---", "n/a"],
    )
    assert read(frame, b"T= 23.4 C ,  50%") == {"t": 23.4, "h": 50}
    assert read(frame, b"T=---C, n/a") == {"t": None, "h": None}
    assert read(frame, b"T=C,") == {"t": None, "h": None}
    assert read(frame, b"23.4C,50%") == "value"
    assert read(frame, b"T=23.4,50%") == "value"


def test_degrees_have_the_sign_of_their_hemisphere() -> None:
    """Degrees and minutes are signed degrees; a missing half is null, and minutes or degrees beyond all reject."""
    frame = line({"name": "lat", "type": "latitude"}, {"name": "lon", "type": "longitude"})
    assert read(frame, b"4807.038,N,01131.000,E") == {"lat": 48.1173, "lon": 11.516666666666667}
    assert read(frame, b"1929.045,S,12311.12,W") == {"lat": -19.484083333333334, "lon": -123.18533333333333}
    assert read(frame, b",,4807.038,") == {"lat": None, "lon": None}
    assert read(frame, b"9000.001,N,,") == "value"
    assert read(frame, b"4860.0,N,,") == "value"
    assert read(frame, b"4807.0,E,,") == "value"


def test_a_clock_takes_its_day_from_another_column() -> None:
    """Time of day and date make a point in time; without one of them there is none."""
    frame = line({"name": "at", "type": "clock", "date": "day"}, {"name": "day", "type": "date", "emit": False})
    assert read(frame, b"225446,191194") == {"at": "1994-11-19T22:54:46Z"}
    assert read(frame, b"225446,") == {"at": None}
    assert read(frame, b",191194") == {"at": None}
    assert write_text(frame, {"at": "1994-11-19T22:54:46Z"}) == b"225446,191194"


def test_lists_of_cells_and_of_groups() -> None:
    """The same again is a list: of values, or of mappings; empty ones can be left out."""
    used = {"name": "used", "type": "array", "count": 3, "skip_empty": True, "of": {"name": "id", "type": "integer"}}
    seen = {
        "name": "seen",
        "type": "array",
        "until": "end",
        "most": 2,
        "of": {"name": "one", "type": "group", "columns": [{"name": "id", **INTEGER}, {"name": "snr", **INTEGER}]},
    }
    frame = line(used, seen, {"name": "signal", "type": "text", "optional": True})
    assert read(frame, b"7,,9") == {"used": [7, 9], "seen": [], "signal": None}
    assert read(frame, b"7,8,9,1,,3,4,B") == {
        "used": [7, 8, 9],
        "seen": [{"id": 1, "snr": None}, {"id": 3, "snr": 4}],
        "signal": "B",
    }
    assert read(frame, b"7,8,9,1,2,3,4,5,6") == "length"
    assert read(frame, b"7,8") == "length"
    assert read(frame, b"7,8,9,1,x") == "value"


def test_a_choice_gives_the_way_that_fits() -> None:
    """One cell written in several ways: what fits first counts, in its unit or under its name."""
    frame = line(
        {"name": "n", **INTEGER},
        {
            "type": "choice",
            "of": [
                {"name": "energy", "type": "decimal", "suffix": "*kWh", "unit": "kWh"},
                {"name": "energy", "type": "decimal", "suffix": "*Wh", "scale": 0.001, "unit": "kWh"},
                {"name": "volume", "type": "decimal", "suffix": "*m3", "unit": "m3"},
            ],
        },
    )
    assert read(frame, b"1,000004.426*kWh") == {"n": 1, "energy": 4.426}
    assert read(frame, b"1,4426*Wh") == {"n": 1, "energy": 4.426}
    assert read(frame, b"1,1.5*m3") == {"n": 1, "volume": 1.5}
    assert read(frame, b"1,") == {"n": 1}
    assert read(frame, b"1,1.5") == "value"
    assert write_text(frame, {"n": 1, "volume": 1.5}) == b"1,1.5*m3"


@given(
    whole=st.integers(0, 10**15 - 1),
    part=st.text("0123456789", max_size=15),
    scale=st.decimals("-100", "100", places=4).filter(bool),
)
def test_a_scaled_decimal_is_the_nearest_float(whole: int, part: str, scale: Any) -> None:
    """Number times scale is rounded once, from the exact product."""
    from fractions import Fraction

    ratio = Fraction(scale)
    exact = Fraction(f"{whole}.{part}0") * ratio
    assert scaled_decimal(f"{whole}.{part}".encode(), ratio.numerator, 0, ratio.denominator) == float(exact)


@given(st.integers(0, 89), st.integers(0, 59), st.text("0123456789", max_size=10), st.booleans())
def test_a_place_that_was_read_is_written_as_the_same_place(degrees: int, minutes: int, part: str, north: bool) -> None:
    """Degrees that came from minutes go back to minutes that give the same degrees."""
    number = f"{degrees:02d}{minutes:02d}.{part}".encode()
    said = degrees_of(number, b"N" if north else b"S")
    frame = line({"name": "x", "type": "latitude"})
    assert read(frame, write_text(frame, {"x": said})) == {"x": said}


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (DECIMAL, "1"),
        (DECIMAL, True),
        (DECIMAL, 1e300),
        ({**DECIMAL, "valid": {"maximum": 85}}, 86),
        ({**INTEGER, "digits": 2}, 100),
        (TEXT, "é"),
        (TEXT, "a,b"),
        ({"type": "flag", "on": "A", "off": "V"}, 1),
        ({"type": "clock"}, "25:00:00Z"),
        ({"type": "date"}, "2070-01-01"),
        (DSMR_TIME, "soon"),
        ({"type": "latitude"}, 91),
    ],
)
def test_what_no_cell_says_is_refused(column: dict[str, Any], wrong: Value) -> None:
    """A value that has no text is refused by the name of its column, with what would do."""
    with pytest.raises(CodecError) as refusal:
        write_text(line({"name": "x", **column}), {"x": wrong})
    assert refusal.value.where == "x"
    assert refusal.value.remedy
