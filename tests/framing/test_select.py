"""From settings to the framer they declare."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from edge_gateway.config.link import FramingSettings
from edge_gateway.errors import ConfigError
from edge_gateway.framing import Framer, make_framer
from edge_gateway.framing.length_prefixed import STALLED_AFTER_S
from edge_gateway.records import Chunk

SETTINGS: TypeAdapter[FramingSettings] = TypeAdapter(FramingSettings)


def framer_for(**declared: object) -> Framer:
    return make_framer(SETTINGS.validate_python(declared))


@pytest.mark.parametrize(
    ("declared", "wire", "frame"),
    [
        ({"kind": "cobs"}, "02 07 01 00", "07 00"),
        ({"kind": "slip"}, "c0 07 db dc c0", "07 c0"),
        ({"kind": "delimiter"}, "07 08 0d 0a", "07 08"),
        ({"kind": "delimiter", "delimiter": "0d0a", "start": "24", "strip": "20"}, "08 24 07 20 0d 0a", "24 07"),
        (
            {
                "kind": "length-prefixed",
                "sync": "42 4d",
                "length_offset": 3,
                "length_bytes": 2,
                "endian": "little",
                "length_adds": 1,
            },
            "42 4d 09 01 00 07 08",
            "42 4d 09 01 00 07 08",
        ),
        ({"kind": "fixed", "frame_bytes": 3, "sync": "59"}, "00 59 07 08", "59 07 08"),
        ({"kind": "idle-gap"}, "07 08", "07 08"),
    ],
)
def test_each_kind_gives_the_framer_with_its_settings(declared: dict[str, object], wire: str, frame: str) -> None:
    """What the settings declare is what the framer does."""
    framer = framer_for(**declared)
    assert framer.feed([Chunk(1.0, bytes.fromhex(wire))]) + framer.flush(1.006) == [bytes.fromhex(frame)]


def test_limits_and_silences_are_handed_on() -> None:
    """The largest frame is the one declared, and only framings that mean something by silence ask for a flush."""
    assert framer_for(kind="cobs", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="slip", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="delimiter", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="length-prefixed", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="fixed", frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="idle-gap", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="cobs").silence_s is None
    assert framer_for(kind="fixed", frame_bytes=3).silence_s is None
    assert framer_for(kind="fixed", frame_bytes=3, silence_s=0.5).silence_s == 0.5
    assert framer_for(kind="idle-gap", silence_s=0.25).silence_s == 0.25
    assert framer_for(kind="length-prefixed").silence_s == STALLED_AFTER_S


def test_settings_that_contradict_each_other_are_refused() -> None:
    """Each setting may be fine alone and the whole impossible; the error names the key."""
    with pytest.raises(ConfigError, match=r"framing\.length_offset"):
        framer_for(kind="length-prefixed", sync="42 4d")
    with pytest.raises(ConfigError, match=r"framing\.delimiter"):
        framer_for(kind="delimiter", delimiter="")
