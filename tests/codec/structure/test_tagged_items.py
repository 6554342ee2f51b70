"""Tagged items: with and without a length, numbered, repeated, unknown, cut short."""

from __future__ import annotations

from .planned import frame_of, read, written

BY_FIELDS = """
    - type: tlv
      header: [{name: tag, type: u8}]
      tag: tag
      unknown: %s
      items:
        1: [{name: temperature, type: i16, scale: 0.1, unit: Cel}]
        2: [{name: battery, type: u8}]
        3: [{name: pos, type: group, fields: [{name: x, type: i8}, {name: y, type: i8}]}]
        4: [{name: size, type: u8, emit: false}, {name: label, type: text, length_bytes: size}]
        5: []
"""
BY_LENGTH = """
    - type: tlv
      header: [{name: tag, type: u8}, {name: size, type: u8}]
      tag: tag
      length: size
      unknown: %s
      items:
        1: [{name: temperature, type: i16, scale: 0.1, unit: Cel}]
        2: [{name: label, type: text, length_bytes: end}]
        3: [{name: level, type: u8}, {name: more, type: u8, if: size > 1}]
"""


def test_items_come_in_any_order_and_number() -> None:
    """Each item is known by its tag; a frame may have none of them."""
    codec = frame_of(BY_FIELDS % "reject")
    assert read(codec, "02 64 01 00d7") == {"battery": 100, "temperature": 21.5}
    assert read(codec, "03 0102 04 02 6869 05") == {"pos": {"x": 1, "y": 2}, "label": "hi"}
    assert read(codec, "05 05") == {}


def test_an_item_that_comes_again_gets_a_number() -> None:
    """The second is `_2`, whatever its tag, and numbers go back as they came."""
    codec = frame_of(BY_FIELDS % "reject")
    values = {"temperature": 21.5, "temperature_2": 22.5, "pos": {"x": 1, "y": 1}, "pos_2": {"x": 2, "y": 2}}
    assert read(codec, "01 00d7 01 00e1 03 0101 03 0202") == values
    assert written(codec, values) == "01 00 d7 01 00 e1 03 01 01 03 02 02"


def test_items_are_named_by_their_channel() -> None:
    """With `number`, every name has the number of its channel."""
    codec = frame_of("""
        - type: tlv
          header: [{name: channel, type: u8}, {name: tag, type: u8}]
          tag: tag
          number: channel
          items: {0x67: [{name: temperature, type: i16, scale: 0.1}], 0: [{name: input, type: u8}]}
    """)
    values = {"temperature_3": 27.2, "input_5": 1}
    assert read(codec, "03 67 0110 05 00 01") == values
    assert written(codec, values) == "03 67 01 10 05 00 01"


def test_an_unknown_item_rejects_the_frame() -> None:
    """Unless said otherwise: nobody knows where it ends."""
    codec = frame_of(BY_FIELDS % "reject")
    assert read(codec, "02 64 09 00") == "value"
    assert read(codec, "02 64 01 00") == "length"


def test_reading_stops_at_an_unknown_item() -> None:
    """With `stop`, what came before an item that is unknown or cut short stays, and the rest is dropped."""
    codec = frame_of(BY_FIELDS % "stop")
    assert read(codec, "02 64 09 00 02 63") == {"battery": 100}
    assert read(codec, "02 64 01 00") == {"battery": 100}
    assert read(codec, "02 64 04 05 61") == {"battery": 100}
    assert read(codec, "02") == {}


def test_an_unknown_item_is_skipped_by_its_length() -> None:
    """With `skip`, an item that is unknown, or whose bytes are not those of its fields, is left out."""
    codec = frame_of(BY_LENGTH % "skip")
    assert read(codec, "09 03 beefbe 01 02 00d7") == {"temperature": 21.5}
    assert read(codec, "01 03 00d700 02 02 6869") == {"label": "hi"}
    assert read(codec, "01 01 00 02 01 ff 02 02 6869") == {"label": "hi"}


def test_a_length_holds_the_fields_of_an_item_together() -> None:
    """What goes to the end goes to the end of the item; a length beyond the frame is no length."""
    codec = frame_of(BY_LENGTH % "reject")
    assert read(codec, "02 02 6869 01 02 00d7") == {"label": "hi", "temperature": 21.5}
    assert read(codec, "02 00") == {"label": ""}
    assert read(codec, "03 01 05 03 02 06 07") == {"level": 5, "level_2": 6, "more_2": 7}
    assert read(codec, "02 03 6869") == "length"
    assert read(codec, "01 03 00d700") == "length"
    assert read(codec, "02") == "length"
    assert written(codec, {"label": "hi", "temperature": 21.5}) == "02 02 68 69 01 02 00 d7"


def test_items_end_where_the_fields_behind_them_begin() -> None:
    """A counter behind the items is found before they are read."""
    codec = frame_of(BY_FIELDS % "stop" + "    - {name: counter, type: u8}")
    assert read(codec, "02 64 07") == {"battery": 100, "counter": 7}
    assert read(codec, "02 64 09 09 07") == {"battery": 100, "counter": 7}
    assert read(codec, "07") == {"counter": 7}


def test_items_in_items_count_their_names_together() -> None:
    """A name that comes again in another item's items does not take the place of the first."""
    codec = frame_of("""
        - type: tlv
          header: [{name: tag, type: u8}, {name: size, type: u8}]
          tag: tag
          length: size
          items:
            1: [{type: tlv, header: [{name: inner, type: u8}], tag: inner, items: {7: [{name: x, type: u8}]}}]
            2: [{name: x, type: u16}]
    """)
    assert read(codec, "01 02 07 05 01 04 07 06 07 07 02 02 0008") == {"x": 5, "x_2": 6, "x_3": 7, "x_4": 8}


def test_the_values_of_an_item_have_one_number() -> None:
    """What the first item is without is not in the place of the second's, in whatever order items come."""
    codec = frame_of("""
        - type: tlv
          header: [{name: tag, type: u8}]
          tag: tag
          items:
            1:
              - {name: command, type: u8}
              - {name: argument, type: u8, if: command > 1}
            2: [{name: argument, type: u8}]
    """)
    for frame, values in {
        "01 00 01 02 07": {"command": 0, "command_2": 2, "argument_2": 7},
        "01 02 07 01 00 01 03 08": {"command": 2, "argument": 7, "command_2": 0, "command_3": 3, "argument_3": 8},
        "01 00 02 05 02 06": {"command": 0, "argument_2": 5, "argument_3": 6},
        "02 05 01 00 02 06": {"argument": 5, "command": 0, "argument_3": 6},
    }.items():
        assert read(codec, frame) == values


def test_many_tags_are_told_apart() -> None:
    """Two hundred kinds of items are each found by their tag."""
    items = ", ".join(f"{tag}: [{{name: v{tag}q, type: u8}}]" for tag in range(0, 255, 2))
    codec = frame_of(f"[{{type: tlv, header: [{{name: tag, type: u8}}], tag: tag, items: {{{items}}}}}]")
    for tag in range(0, 255, 2):
        assert read(codec, f"{tag:02x} 07") == {f"v{tag}q": 7}
        assert read(codec, f"{tag + 1:02x} 07") == "value"
