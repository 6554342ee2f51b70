"""Groups, lists, and text and bytes whose length the frame says."""

from __future__ import annotations

import pytest

from edge_gateway.errors import CodecError

from .planned import frame_of, read, written


def test_a_group_is_a_mapping() -> None:
    """The fields of a group become one value, a mapping of theirs, and go back as one."""
    codec = frame_of("""
        - {name: kind, type: u8, const: 7}
        - {name: pos, type: group, fields: [{name: x, type: i8}, {name: y, type: i8}]}
        - {name: level, type: u8}
    """)
    assert read(codec, "07 ff 02 03") == {"pos": {"x": -1, "y": 2}, "level": 3}
    assert written(codec, {"pos": {"x": -1, "y": 2}, "level": 3}) == "07 ff 02 03"
    assert read(codec, "07 ff 02") == "length"
    assert read(codec, "08 ff 02 03") == "unknown-frame"


def test_a_name_in_a_group_is_not_that_of_the_frame() -> None:
    """Two groups may use the same names, and the device's address is no field of a group."""
    codec = frame_of(
        """
        - {name: who, type: u8}
        - {name: left, type: group, fields: [{name: load, type: u8}]}
        - {name: right, type: group, fields: [{name: load, type: u8}]}
        - {name: planned, type: computed, value: "true", emit: false}
        """,
        profile="{identity: who}",
    )
    (sample,) = codec.decode([bytes([9, 1, 2])]).samples
    assert sample == (9, None, {"left": {"load": 1}, "right": {"load": 2}})


def test_a_list_has_as_many_elements_as_declared() -> None:
    """`count: 3` takes three, no more and no less."""
    codec = frame_of("- {name: axes, type: array, count: 3, of: {name: axis, type: i16, scale: 0.001, unit: V}}")
    assert read(codec, "03e8 fc18 0000") == {"axes": [1.0, -1.0, 0.0]}
    assert read(codec, "03e8 fc18") == "length"
    assert read(codec, "03e8 fc18 0000 0000") == "length"
    assert written(codec, {"axes": [1, -1, 0]}) == "03 e8 fc 18 00 00"
    with pytest.raises(CodecError, match="2 elements are given for 3"):
        written(codec, {"axes": [1, 2]})


def test_a_list_has_as_many_elements_as_the_frame_says() -> None:
    """A count is a field; encoding works it out, so that nobody has to give it."""
    codec = frame_of("""
        - {name: number, type: u8, emit: false}
        - {name: rr, type: array, count: number, of: {name: interval, type: u16}}
        - {name: last, type: u8}
    """)
    assert read(codec, "02 0001 0002 09") == {"rr": [1, 2], "last": 9}
    assert read(codec, "00 09") == {"rr": [], "last": 9}
    assert read(codec, "03 0001 0002 09") == "length"
    assert written(codec, {"rr": [1, 2], "last": 9}) == "02 00 01 00 02 09"


def test_a_list_to_the_end_may_be_empty() -> None:
    """It takes what is left in whole elements, which can be none."""
    codec = frame_of("""
        - {name: kind, type: u8}
        - {name: rr, type: array, until: end, of: {name: interval, type: u16}}
    """)
    assert read(codec, "01 0001 0002") == {"kind": 1, "rr": [1, 2]}
    assert read(codec, "01") == {"kind": 1, "rr": []}
    assert read(codec, "01 0001 00") == "length"


def test_a_list_until_a_mark_takes_the_mark() -> None:
    """The mark stands only where an element would begin, and is taken; without it the frame is cut short."""
    codec = frame_of("""
        - name: rows
          type: array
          until: "0d0a"
          of: {name: row, type: group, fields: [{name: id, type: u8}, {name: value, type: u8}]}
        - {name: last, type: u8}
    """)
    assert read(codec, "01 0d 0a 05 0d 0a 09") == {
        "rows": [{"id": 1, "value": 13}, {"id": 10, "value": 5}],
        "last": 9,
    }
    assert read(codec, "0d0a 09") == {"rows": [], "last": 9}
    assert read(codec, "01 02 09") == "length"
    assert written(codec, {"rows": [{"id": 1, "value": 2}], "last": 9}) == "01 02 0d 0a 09"


def test_each_element_has_its_own_length() -> None:
    """What an element says about itself holds for it alone, when reading and when writing."""
    codec = frame_of("""
        - name: rows
          type: array
          until: end
          of:
            name: row
            type: group
            fields:
              - {name: size, type: u8, emit: false}
              - {name: label, type: text, length_bytes: size}
              - {name: flag, type: u8}
              - {name: more, type: u8, if: flag == 1}
    """)
    rows = {"rows": [{"label": "abc", "flag": 1, "more": 5}, {"label": "", "flag": 0}, {"label": "z", "flag": 0}]}
    assert read(codec, "03 616263 01 05 00 00 01 7a 00") == rows
    assert written(codec, rows) == "03 61 62 63 01 05 00 00 01 7a 00"


def test_text_and_bytes_are_as_long_as_the_frame_says() -> None:
    """A length is a field before; one beyond the end, or below 0, rejects the frame."""
    codec = frame_of("""
        - {name: size, type: i8, emit: false}
        - {name: label, type: text, length_bytes: size, encoding: utf-8}
        - {name: rest, type: bytes, length_bytes: end}
    """)
    assert read(codec, "02 c3a4 beef") == {"label": "ä", "rest": "beef"}
    assert read(codec, "00") == {"label": "", "rest": ""}
    assert read(codec, "03 c3a4") == "length"
    assert read(codec, "ff c3a4") == "length"
    assert read(codec, "01 c3") == "value"
    assert written(codec, {"label": "ä", "rest": "be ef"}) == "02 c3 a4 be ef"


def test_fields_stand_behind_what_goes_to_the_end() -> None:
    """What goes to the end ends where the fixed fields behind it begin, and these are known before it."""
    codec = frame_of("""
        - {name: kind, type: u8}
        - {name: body, type: bytes, length_bytes: end}
        - {name: counter, type: u16}
        - {name: tail, type: u8, const: 0xab}
    """)
    assert read(codec, "01 beef 0007 ab") == {"kind": 1, "body": "beef", "counter": 7}
    assert read(codec, "01 0007 ab") == {"kind": 1, "body": "", "counter": 7}
    assert read(codec, "01 07 ab") == "length"
    assert read(codec, "01 beef 0007 ac") == "value"
    assert written(codec, {"kind": 1, "body": "beef", "counter": 7}) == "01 be ef 00 07 ab"


def test_a_group_ends_where_the_fields_behind_it_begin() -> None:
    """A group that goes to the end holds a list to the end, each with a tail of its own."""
    codec = frame_of("""
        - name: report
          type: group
          fields:
            - {name: points, type: array, until: end, of: {name: point, type: u8}}
            - {name: sum, type: u8}
        - {name: battery, type: u8}
    """)
    assert read(codec, "01 02 03 64") == {"report": {"points": [1, 2], "sum": 3}, "battery": 100}
    assert read(codec, "03 64") == {"report": {"points": [], "sum": 3}, "battery": 100}
    assert read(codec, "64") == "length"


def test_what_no_field_takes_rejects_the_frame() -> None:
    """The bytes of a frame are used up exactly."""
    codec = frame_of("- {name: a, type: group, fields: [{name: x, type: u8}]}")
    assert read(codec, "01") == {"a": {"x": 1}}
    assert read(codec, "0102") == "length"
    assert read(codec, "") == "length"
