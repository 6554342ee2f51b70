"""From settings to the framer they declare."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from edge_gateway.config.link import FramingSettings
from edge_gateway.errors import CodecError, ConfigError
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
        ({"kind": "block", "start": "2f", "end": "0a21", "tail_until": "0d"}, "00 2f 07 0a 21 0b 0d", "2f 07 0a 21 0b"),
        ({"kind": "block", "end": "0a21", "tail_bytes": 2}, "07 0a 21 0b 0c", "07 0a 21 0b 0c"),
        ({"kind": "hex-text", "start": "3a", "end": "0d0a"}, "08 3a 30 37 0d 0a", "07"),
        ({"kind": "hex-text", "strip": "20"}, "61 42 20 0a", "ab"),
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
    assert framer_for(kind="block", end="21", max_frame_bytes=77).max_frame_bytes == 77
    assert framer_for(kind="hex-text", max_frame_bytes=77).max_frame_bytes == 77
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
    with pytest.raises(ConfigError, match=r"framing\.end"):
        framer_for(kind="block", end="")
    with pytest.raises(ConfigError, match=r"framing\.end"):
        framer_for(kind="hex-text", end="")
    with pytest.raises(ConfigError, match=r"framing\.tail_bytes"):
        framer_for(kind="block", end="21", tail_bytes=1, tail_until="0a")
    with pytest.raises(ConfigError, match=r"framing\.max_frame_bytes"):
        framer_for(kind="block", end="0d0a21", tail_bytes=4, max_frame_bytes=6)


@pytest.mark.parametrize(
    "declared",
    [
        {"kind": "fixed", "frame_bytes": 10, "sync": "aa", "sends": "as-is"},
        {"kind": "length-prefixed", "sync": "42 4d", "length_offset": 2, "sends": "as-is"},
    ],
)
def test_requests_may_have_a_shape_of_their_own(declared: dict[str, object]) -> None:
    """A device may hear frames of another length and start than it sends; only an empty one is refused."""
    framer = framer_for(**declared)
    assert framer.encode(b"\x5a\x04\x11") == b"\x5a\x04\x11"
    with pytest.raises(CodecError):
        framer.encode(b"")
