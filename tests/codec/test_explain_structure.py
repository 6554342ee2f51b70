"""Explaining frames of no fixed length: every field has its place, and nothing hides what is wrong."""

from __future__ import annotations

from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.rows import Row

KEYS = same_payload_keys({"bindkey": bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")})
SEALED = "54 48 e6 8f 80 a5 d2 fc 41 a4 72 66 c9 5f 73 00 11 22 33 78 23 72 14"


def explained(codec: Codec, frame: str) -> dict[str, Row]:
    return {row.field: row for row in codec.explain(bytes.fromhex(frame)) if row.field}


def test_groups_lists_and_items_have_their_place_in_the_name() -> None:
    """A field of a group or a list is named with it, and an item by the name its value gets."""
    rows = explained(compile_profile(load_profile("cayenne-lpp")), "01 67 ff d7 06 71 04 d2 fb 2e 00 00")
    assert rows["temperature_1"] == Row(2, 4, "ff d7", "temperature_1", -4.1, "Cel", "")
    assert rows["acceleration_6.y"] == Row(8, 10, "fb 2e", "acceleration_6.y", -1.234, None, "")
    rows = explained(compile_profile(load_profile("gatt-sensors")), "a1 b2 c3 d4 e5 f6 37 2a 10 5a 00 08 00 10")
    assert rows["beat_intervals[0]"].value == 2.0
    assert (rows["beat_intervals[1]"].start, rows["beat_intervals[1]"].end) == (12, 14)


def test_an_item_that_comes_again_has_its_number() -> None:
    """The second of two temperatures is told as the one it becomes."""
    rows = explained(compile_profile(load_profile("bthome-v2")), "54 48 e6 8f 80 a5 d2 fc 40 02 2e 09 02 2f 09")
    assert rows["temperature"].value == 23.5
    assert rows["temperature_2"].value == 23.51


def test_what_was_opened_is_marked_and_the_rest_is_in_order() -> None:
    """Decrypted fields count in what was opened; those of the frame go from its first byte to its last."""
    rows = compile_profile(load_profile("bthome-v2"), KEYS).explain(bytes.fromhex(SEALED))
    opened = [row for row in rows if row.seals]
    assert [(row.start, row.end, row.field) for row in opened if row.value == 25.06] == [(1, 3, "temperature")]
    starts = [row.start for row in rows if not row.seals]
    assert starts == sorted(starts)
    assert rows[-1].field == "message_check"


def test_a_broken_frame_is_told_as_far_as_it_goes() -> None:
    """A list that is cut short is told up to where it ends, and what stands behind it as well."""
    rows = explained(compile_profile(load_profile("gatt-sensors")), "a1 b2 c3 d4 e5 f6 37 2a 10 5a 00 08 00")
    assert rows["heart-rate-measurement"].note == "rejected: length"
    assert rows["beat_intervals[1]"].note == "missing: 1 of 2 bytes"
    rows = explained(compile_profile(load_profile("bthome-v2"), KEYS), SEALED.replace("a4 72", "a4 73"))
    assert rows["objects"].note == "rejected: decryption"
    assert rows["message_check"].hex == "78 23 72 14"


def test_a_check_within_the_frame_is_told_once() -> None:
    """The field that holds it is the row that says whether it is right."""
    rows = compile_profile(load_profile("sds011")).explain(bytes.fromhex("aac0d4043a0aa1601eab"))
    assert [(row.field, row.note) for row in rows if row.start == 8] == [("check_sum", "sum-8, wrong: 1d expected")]
