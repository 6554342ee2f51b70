"""The profile's page: every byte, command and vector in its place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from edge_gateway.codec import load_profile, parse_profile, profile_names
from edge_gateway.codec.generated import profile_markdown
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.load import PACKAGED
from edge_gateway.codec.profile import Profile
from tests.codec.declarations import profiles
from tests.codec.structure.drawn import Structure, structures


def section(page: str, title: str) -> list[str]:
    """The rows of the last table below a heading, before the next one."""
    tables: list[list[str]] = []
    for line in page.partition(f"## {title}\n")[2].splitlines():
        if line.startswith("#"):
            break
        if not line.startswith("|"):
            tables.append([])
        else:
            tables[-1].append(line)
    return [table for table in tables if table][-1][2:]


def test_the_layout_table_is_the_documented_one() -> None:
    """The reference sample's bytes stand where the reference documentation has them."""
    rows = section(profile_markdown(load_profile("reference-climate")), "Frame `sample`")
    assert rows == [
        "| 0 | u8 | `kind` |  | always `01` |",
        "| 1-2 | u16 | `address` |  | the device's address |",
        "| 3-4 | u16 | `sequence` |  | Wraps from 65535 to 0; counts frames |",
        "| 5-8 | u32 | `uptime_ms` | ms | Since the sensor started; wraps after 49.7 days |",
        "| 9-10 | i16 | `temperature` | Cel | raw x 0.01; -32768: no value |",
        "| 11-12 | u16 | `humidity` | %RH | raw x 0.01; 65535: no value |",
        "| 13-14 | u16 | `battery` | V | raw x 0.001 |",
        "| 15 | u8 | `flags` |  |  |",
        "| 15 | bit 0 | `door_open` |  |  |",
        "| 15 | bit 1 | `low_battery` |  |  |",
        "| 15 | bits 2-3 | `mode` |  | 0 `idle`, 1 `measure`, 2 `fault` |",
        "| 16-17 | u16 | checksum |  | crc-16/ibm-3740 |",
    ]


def test_commands_stand_with_their_arguments() -> None:
    """A command's row says what it does, what the asker may choose and what is set."""
    rows = section(profile_markdown(load_profile("reference-climate")), "Commands")
    assert rows[0] == (
        "| `set-period` | How often the sensor sends a sample. | `period_ms` integer from 50 to 60000 ms "
        "| `command`: `code` = set-period, `argument` = argument `period_ms` | `answer` |"
    )
    assert len(rows) == 3


def test_vectors_stand_with_their_bytes_and_source() -> None:
    """Each vector is shown with its bytes, values and where they are from."""
    page = profile_markdown(load_profile("tfmini"))
    assert "59 59 ff ff 0c 00 07 00 c3\ndistance = null\nstrength = 12\n" in page
    assert "a signal too weak to be relied on:" in page


@pytest.mark.parametrize("name", profile_names())
def test_every_byte_of_every_frame_has_a_row(name: str) -> None:
    """The rows of a frame go from its first byte to its last without a gap."""
    profile = load_profile(name)
    page = profile_markdown(profile)
    for frame, layout in profile.layouts.items():
        if not isinstance(layout, Layout):
            continue
        places = [row.split("|")[1].strip() for row in section(page, f"Frame `{frame}`")]
        spans = [(int(place.partition("-")[0]), int(place.rpartition("-")[2])) for place in places]
        assert {byte for start, end in spans for byte in range(start, end + 1)} == set(range(layout.length_bytes))
        assert spans == sorted(spans)


@given(profiles())
@settings(max_examples=40, deadline=None)
def test_any_profile_has_a_page_of_whole_tables(profile: Profile) -> None:
    """Whatever a profile declares, each row of a table has as many cells as its head."""
    assert_whole_tables(profile_markdown(profile))


@given(structures())
@settings(max_examples=40, deadline=None)
def test_any_structure_has_a_page_of_whole_tables(structure: Structure) -> None:
    """So it is for frames of no fixed length, and every name of a value is on the page."""
    profile = structure.codec.profile
    page = profile_markdown(profile)
    assert_whole_tables(page)
    assert all(f"`{name}`" in page for name in profile.values_of("only"))


@pytest.mark.parametrize("name", profile_names())
def test_packaged_profiles_have_pages_of_whole_tables(name: str) -> None:
    """The page of each packaged profile is whole, the same each time, and names every value and every source."""
    profile = load_profile(name)
    page = profile_markdown(profile)
    assert_whole_tables(page)
    assert profile_markdown(load_profile(name)) == page
    for frame in profile.frames:
        assert f"\n## Frame `{frame}`\n" in page
        assert all(f"{value}`" in page for value in profile.values_of(frame))
    assert page.count("```text") == len(profile.vectors)
    # Whatever a row refers to stands further down.
    for line in page.splitlines():
        for title in re.findall(r"see ((?:Group|List|Each|Choice|Items|Under|In clear|Part)\b[^;|]*) below", line):
            assert re.search(rf"^###? {re.escape(title)}$", page, re.MULTILINE), title


def assert_whole_tables(page: str) -> None:
    width = 0
    for line in page.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells in (width, 0) or width == 0
        width = cells


def test_structure_is_told_table_by_table() -> None:
    """A list of items has its own table, below the one that refers to it, with its condition and its places."""
    profile = parse_profile(
        "{name: one, version: 1, title: One, source: {document: d}, radio: {service_data: fcd2}, identity: address,"
        "parts: {more: [{name: rest, type: bytes, length_bytes: end}]}, frames: {"
        "only: {role: sample, endian: big, version: {field: edition, current: 2}, fields: ["
        "{name: address, type: mac}, {name: edition, type: u8}, {name: size, type: u8, emit: false},"
        "{name: spots, type: array, count: size,"
        "of: {name: spot, type: group, fields: [{name: x, type: i8, unit: m}]}},"
        "{name: late, type: u16, since: 2, if: size > 1 || size < 1},"
        "{type: switch, on: size, cases: {1: [], 2: [{type: part, part: more}]}, default: [{type: encrypted,"
        "algorithm: aes-ccm, key: bindkey, nonce: [{field: address, reversed: true}, {hex: d2fc}],"
        "tag_bytes: 4, tag: mac,"
        "fields: [{type: plain, key: other, fields: [{name: twice, type: computed, value: edition * 2}]}]},"
        "{name: mac, type: bytes, length_bytes: 4, emit: false}]}, {name: last, type: u16}]}}}",
        "one.yaml",
    )
    page = profile_markdown(profile)
    assert section(page, "Frame `only`")[2:] == [
        "| 7 | u8 | `size` |  | not reported |",
        "| 8- | list x `size` | `spots` |  | see Each of `spots` below |",
        r"| +2 | u16 | `late` |  | only if `size > 1 \|\| size < 1`, since version 2 |",
        "|  | choice by `size` |  |  | see Choice by `size` below |",
        "| -2 to -1 | u16 | `last` |  |  |",
    ]
    assert "\nThis is version 2 by `edition`; what a newer one adds is ignored.\n" in page
    assert section(page, "Each of `spots`") == ["| 0 | i8 | `x` | m |  |"]
    assert section(page, "Choice by `size`") == [
        "| `1` |  | nothing |  |  |  |",
        "| `2` | 0- | part |  |  | see part `more` below |",
        "| any other | 0- | aes-ccm |  |  | see Under the key `bindkey` below |",
        "| any other | -4 to -1 | bytes | `mac` |  | not reported |",
    ]
    assert "Nonce: `address` backwards, the bytes `d2fc`.\nThe tag has 4 bytes, in `mac`." in page
    assert section(page, "In clear, only from a device without the key `other`") == [
        "|  | computed | `twice` |  | `edition * 2` |"
    ]
    assert section(page, "Part `more`") == ["| 0- | bytes to the end | `rest` |  |  |"]


def test_tagged_items_are_told_by_their_tag() -> None:
    """Items stand in one table under their tags, below what stands before each of them."""
    page = profile_markdown(load_profile("cayenne-lpp"))
    rows = section(page, "Items by `kind`")
    assert "| 0x67 | 0-1 | i16 | `temperature` | Cel | raw x 0.1 |" in rows
    assert "| 0x71 | 0- | group | `acceleration` |  | In g; see Group `acceleration` below |" in rows
    assert "`channel` stands behind the names: `NAME_3`." in page


def test_text_is_told_cell_by_cell() -> None:
    """A line has a row for each cell, a block for each label."""
    page = profile_markdown(load_profile("nmea0183"))
    assert "A line of cells, separated by `,`, from `$` to `*`, and then xor-8 over what is between" in page
    assert "| 4 | latitude | `latitude` | lat |  |" in section(page, "Frame `rmc`")
    assert "|  | integer | `satellites[].satellite.id` |  |  |" in section(page, "Frame `gsv`")
    assert "| `V` | integer | `voltage` | V | raw x 0.001 |" in section(
        profile_markdown(load_profile("vedirect")), "Frame `block`"
    )


def test_polls_keys_and_code_are_on_the_page() -> None:
    """What a device is asked for, which keys it needs and which code decodes it stand where a reader looks for them."""
    polls = section(profile_markdown(load_profile("sdm120")), "Polls")
    assert polls[0].split(" | ")[2:4] == ["`read-input-0000`", "`input-0000`"]
    assert "| keys | `bindkey` |" in profile_markdown(load_profile("bthome-v2"))
    assert "| decoded by code | `senml`" in profile_markdown(load_profile("senml-json"))


def test_a_description_cannot_break_the_page() -> None:
    """Pipes, line breaks and tags in a profile's text stay text."""
    text = (PACKAGED / "tfmini.yaml").read_text("utf-8")
    page = profile_markdown(parse_profile(text.replace("Distance mode}", '"a|b\\n<script>"}'), "x"))
    assert r"a\|b &lt;script>; 2 `short`" in page
