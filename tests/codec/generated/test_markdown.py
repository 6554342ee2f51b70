"""The profile's page: every byte, command and vector in its place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from edge_gateway.codec import load_profile, parse_profile, profile_names
from edge_gateway.codec.generated import profile_markdown
from edge_gateway.codec.load import PACKAGED
from edge_gateway.codec.profile import Profile
from tests.codec.declarations import profiles


def section(page: str, title: str) -> list[str]:
    """The table rows below a heading, cells stripped."""
    body = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [line for line in body.splitlines() if line.startswith("|")][2:]


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
        places = [row.split("|")[1].strip() for row in section(page, f"Frame `{frame}`")]
        spans = [(int(place.partition("-")[0]), int(place.rpartition("-")[2])) for place in places]
        assert {byte for start, end in spans for byte in range(start, end + 1)} == set(range(layout.length_bytes))
        assert spans == sorted(spans)


@given(profiles())
@settings(max_examples=40, deadline=None)
def test_any_profile_has_a_page_of_whole_tables(profile: Profile) -> None:
    """Whatever a profile declares, each row of a table has as many cells as its head."""
    width = 0
    for line in profile_markdown(profile).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells in (width, 0) or width == 0
        width = cells


def test_a_description_cannot_break_the_page() -> None:
    """Pipes, line breaks and tags in a profile's text stay text."""
    text = (PACKAGED / "tfmini.yaml").read_text("utf-8")
    page = profile_markdown(parse_profile(text.replace("Distance mode}", '"a|b\\n<script>"}'), "x"))
    assert r"a\|b &lt;script>; 2 `short`" in page
