"""Items that are not always there: by a condition, a value that chooses, a version, a key, a requirement."""

from __future__ import annotations

import pytest

from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.vectors import failed_vectors
from edge_gateway.errors import CodecError

from .planned import frame_of, read, written

HEART_RATE = """
    - name: flags
      type: u8
      bits:
        - {name: is_wide, bit: 0, emit: false}
        - {name: has_energy, bit: 3, emit: false}
        - {name: has_rr, bit: 4, emit: false}
    - {type: switch, on: is_wide, cases: {false: [{name: rate, type: u8}], true: [{name: rate, type: u16}]}}
    - {name: energy, type: u16, if: has_energy}
    - {name: rr, type: array, until: end, if: has_rr, of: {name: interval, type: u16}}
"""


def test_flags_say_which_fields_are_there() -> None:
    """A field whose condition is false takes no bytes and gives no value."""
    codec = frame_of(HEART_RATE)
    assert read(codec, "00 48") == {"rate": 72}
    assert read(codec, "01 0048") == {"rate": 72}
    assert read(codec, "08 48 0005") == {"rate": 72, "energy": 5}
    assert read(codec, "18 48 0005 0001 0002") == {"rate": 72, "energy": 5, "rr": [1, 2]}
    assert read(codec, "10 48") == {"rate": 72, "rr": []}
    assert read(codec, "08 48 00") == "length"
    assert read(codec, "00 48 00") == "length"


def test_flags_are_worked_out_from_what_is_given() -> None:
    """Who encodes gives the values, and the flags follow."""
    codec = frame_of(HEART_RATE)
    assert written(codec, {"rate": 72, "rr": [1]}) == "10 48 00 01"
    assert written(codec, {"rate": 72, "energy": 5}) == "08 48 00 05"


def test_a_constant_behind_a_condition_is_looked_at() -> None:
    """Even where the conditional field is the first of its list."""
    codec = frame_of("[{name: kind, type: u8}, {name: mark, type: u8, const: 0x55, if: kind == 1}]")
    assert read(codec, "01 55") == {"kind": 1}
    assert read(codec, "01 56") == "value"
    assert read(codec, "00") == {"kind": 0}


def test_an_absent_field_is_null_to_others() -> None:
    """A condition may ask whether a field before it was there."""
    codec = frame_of("""
        - {name: kind, type: u8}
        - {name: limit, type: u8, if: kind == 1}
        - {name: more, type: u8, if: limit != null && limit > 3}
    """)
    assert read(codec, "00") == {"kind": 0}
    assert read(codec, "01 03") == {"kind": 1, "limit": 3}
    assert read(codec, "01 04 09") == {"kind": 1, "limit": 4, "more": 9}


def test_a_condition_without_a_result_rejects_the_frame() -> None:
    """Nobody knows what follows, so nothing is guessed."""
    codec = frame_of("[{name: size, type: u8}, {name: more, type: u8, if: 100 / size > 3}]")
    assert read(codec, "00 00") == "value"
    assert read(codec, "0a 09") == {"size": 10, "more": 9}


CASES = """
    - {name: kind, type: u8, enum: {1: climate, 2: door, 3: hello}}
    - type: switch
      on: kind
      cases:
        climate: [{name: temperature, type: i16, scale: 0.1, unit: Cel}]
        2: [{name: open, type: u8}, {name: times, type: u16}]
        "hello": []
        "9": [{name: secret, type: u8}]
"""


def test_a_value_chooses_what_follows() -> None:
    """Cases are values as they are decoded: names of codes, their numbers, or digits of a code without a name."""
    codec = frame_of(CASES)
    assert read(codec, "01 00d7") == {"kind": "climate", "temperature": 21.5}
    assert read(codec, "02 01 0005") == {"kind": "door", "open": 1, "times": 5}
    assert read(codec, "03") == {"kind": "hello"}
    assert read(codec, "09 07") == {"kind": "9", "secret": 7}
    assert read(codec, "03 00") == "length"
    assert read(codec, "04") == "value"
    assert written(codec, {"kind": "door", "open": 1, "times": 5}) == "02 01 00 05"
    with pytest.raises(CodecError, match="nothing is declared for '4'"):
        written(codec, {"kind": 4})


def test_a_default_is_for_every_other_value() -> None:
    """`default: []` takes nothing, so that such a frame has to end there."""
    codec = frame_of(
        "[{name: kind, type: u8}, {type: switch, on: kind, cases: {1: [{name: x, type: u8}]}, default: []}]"
    )
    assert read(codec, "01 05") == {"kind": 1, "x": 5}
    assert read(codec, "02") == {"kind": 2}
    assert read(codec, "02 05") == "length"


def test_many_cases_are_told_apart() -> None:
    """A switch of any size and any kind of key finds the right case, and only that."""
    numbers = ", ".join(f"{number}: [{{name: x{number}, type: u8}}]" for number in range(0, 400, 2))
    codec = frame_of(f"[{{name: kind, type: u16}}, {{type: switch, on: kind, cases: {{{numbers}}}}}]")
    for number in range(0, 400, 2):
        assert read(codec, f"{number:04x} 07") == {"kind": number, f"x{number}": 7}
        assert read(codec, f"{number + 1:04x} 07") == "value"
    words = ", ".join(f"w{number}: [{{name: x{number}, type: u8}}]" for number in range(9))
    codec = frame_of(
        f"[{{name: kind, type: text, length_bytes: 2}}, {{type: switch, on: kind, cases: {{{words}}}, default: []}}]"
    )
    assert read(codec, "7738 07") == {"kind": "w8", "x8": 7}
    assert read(codec, "7739") == {"kind": "w9"}


def test_a_scaled_number_and_bytes_can_choose() -> None:
    """A case is the value in its unit; bytes are hexadecimal digits in any case."""
    codec = frame_of("[{name: v, type: u8, scale: 0.5}, {type: switch, on: v, cases: {2: [{name: x, type: u8}]}}]")
    assert read(codec, "04 07") == {"v": 2.0, "x": 7}
    codec = frame_of(
        "[{name: v, type: bytes, length_bytes: 2}, {type: switch, on: v, cases: {BEEF: [{name: x, type: u8}]}}]"
    )
    assert read(codec, "beef 07") == {"v": "beef", "x": 7}


def test_the_counter_may_stand_in_a_case() -> None:
    """A sequence that only some frames have is None in the others, and no value in any."""
    codec = frame_of(
        "[{name: kind, type: u8}, {type: switch, on: kind, cases: {1: [{name: count, type: u8}], 2: []}}]",
        profile="{sequence: count}",
    )
    decoded = codec.decode([bytes([1, 7]), bytes([2])])
    assert decoded.samples == [(None, 7, {"kind": 1}), (None, None, {"kind": 2})]


VERSIONS = """
    - {name: version, type: u8, emit: false}
    - {name: temperature, type: i8}
    - {name: old_flag, type: u8, until_version: 1}
    - {name: humidity, type: u8, since: 2}
    - {name: dew, type: u8, since: 2, if: humidity > 50}
"""


def test_versions_are_read_and_counted() -> None:
    """Older and newer frames are read as far as the declaration knows them, and counted; a newer one may be longer."""
    codec = frame_of(VERSIONS, frame="{version: {field: version, current: 2}}")
    decoded = codec.decode([bytes.fromhex(each) for each in ("01 15 01", "02 15 28", "02 15 3c 0a", "03 15 28 ffff")])
    assert [sample.values for sample in decoded.samples] == [
        {"temperature": 21, "old_flag": 1},
        {"temperature": 21, "humidity": 40},
        {"temperature": 21, "humidity": 60, "dew": 10},
        {"temperature": 21, "humidity": 40},
    ]
    assert (decoded.older, decoded.newer) == (1, 1)
    assert read(codec, "02 15 28 ff") == "length"
    assert read(codec, "01 15 01 ff") == "length"
    assert read(codec, "03 15") == "length"
    assert written(codec, {"temperature": 21, "humidity": 40}) == "02 15 28"


def test_the_check_of_a_newer_version_is_at_its_end() -> None:
    """What a newer frame has more stands before its check, which covers it."""
    codec = frame_of(VERSIONS, frame="{version: {field: version, current: 2}, checksum: {algorithm: sum-8}}")
    assert read(codec, "03 15 28 ff 3f") == {"temperature": 21, "humidity": 40}
    assert read(codec, "03 15 28 fe 3f") == "checksum"


def test_what_is_in_clear_is_not_believed_of_a_device_with_a_key() -> None:
    """A device that is known to encrypt is not heard when somebody speaks in its name without the key."""
    fields = "[{type: plain, key: bindkey, fields: [{name: level, type: u8}]}]"
    assert read(frame_of(fields), "05") == {"level": 5}
    assert read(frame_of(fields, keys=same_payload_keys({"other": bytes(16)})), "05") == {"level": 5}
    assert read(frame_of(fields, keys=same_payload_keys({"bindkey": bytes(16)})), "05") == "unsealed"


def test_what_cannot_be_true_together_is_rejected() -> None:
    """A frame of which a requirement does not hold, or has no result, is rejected."""
    codec = frame_of("""
        - {name: pm2_5, type: u8}
        - {name: pm10, type: u8, sentinel: 255}
        - {type: require, that: pm2_5 <= pm10}
    """)
    assert read(codec, "01 02") == {"pm2_5": 1, "pm10": 2}
    assert read(codec, "03 02") == "value"
    assert read(codec, "03 ff") == "value"
    with pytest.raises(CodecError, match="cannot be true"):
        written(codec, {"pm2_5": 3, "pm10": 2})


def test_parts_stand_where_they_are_used() -> None:
    """Items declared once are read in each place as if they stood there, also where they go to the end."""
    codec = frame_of(
        """
        - {name: kind, type: u8}
        - type: switch
          on: kind
          cases:
            1: [{type: part, part: climate}]
            2: [{name: door, type: u8}, {type: part, part: climate}]
        - {name: battery, type: u8}
        """,
        profile="""
        parts:
          climate: [{name: temperature, type: i8}, {type: part, part: rest}]
          rest: [{name: extra, type: bytes, length_bytes: end}]
        """,
    )
    assert read(codec, "01 15 beef 64") == {"kind": 1, "temperature": 21, "extra": "beef", "battery": 100}
    assert read(codec, "02 01 15 64") == {"kind": 2, "door": 1, "temperature": 21, "extra": "", "battery": 100}


def test_constants_tell_frames_of_any_length_apart() -> None:
    """Two kinds of frames with the same items but for a constant, each with expressions of its own, do not mix."""
    frame = (
        "role: sample, endian: big, fields: [{name: kind, type: u8, const: %s}, "
        "{name: word, type: text, length_bytes: 2}, {name: x, type: u8, if: 'word.matches(\"%s\")'}]"
    )
    codec = frame_of(
        "[{name: x, type: u8}]", profile=f"{{frames: {{one: {{{frame % (1, 'a.')}}}, two: {{{frame % (2, 'b.')}}}}}}}"
    )
    assert read(codec, "01 6178 05") == {"word": "ax", "x": 5}
    assert read(codec, "01 6278") == {"word": "bx"}
    assert read(codec, "02 6278 05") == {"word": "bx", "x": 5}
    assert read(codec, "02 6178") == {"word": "ax"}
    assert read(codec, "03 6178") == "unknown-frame"


def test_vectors_say_what_becomes_of_frames() -> None:
    """A vector gives nested values, or the word for the reject; one that is wrong says how."""
    codec = frame_of(
        "[{name: pos, type: group, fields: [{name: x, type: u8}]}, {name: more, type: u8},"
        " {type: require, that: more > 0}]",
        profile="""
        vectors:
          - {frame: only, hex: 01 07, values: {pos: {x: 1}, more: 7}, source: computed}
          - {frame: only, hex: "0100", reject: value, source: computed}
          - {frame: only, hex: "0107", values: {pos: {x: true}, more: 7}, source: wrong on purpose}
          - {frame: only, hex: "010702", reject: value, source: wrong on purpose}
          - {frame: only, hex: "0107", reject: value, source: wrong on purpose}
        """,
    )
    assert failed_vectors(codec) == [
        "vectors[2]: 'pos' is {'x': 1}, not {'x': True}",
        "vectors[3]: the frame is rejected: length, not value",
        "vectors[4]: the frame is taken, and the vector says 'value'",
    ]
