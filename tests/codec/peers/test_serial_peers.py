"""Particle sensors on a serial line, read by us and by PyPMS.

`EXPLAINED` lists every difference there is. Frames have any content under a checksum that is right; what is damaged
has to be refused by both.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec.checksum import sum_8, sum_16
from edge_gateway.records import Value

from .agreement import Explained, Peer, Values, codec_of, differences, unexplained


def _decoded(sensor: str, frame: bytes) -> Any:
    """What PyPMS makes of a frame; None where it refuses it."""
    pms = pytest.importorskip("pms")
    try:
        return pytest.importorskip("pms.core").Sensor[sensor].decode(frame, time=0)
    except pms.SensorWarning:
        return None


def read_plantower(frame: bytes) -> Values:
    """PyPMS, whose counts are in 1 cm3 and not in 0.1 L."""
    found = _decoded("PMSx003", frame)
    names = {
        "raw01": "pm1_0_standard",
        "raw25": "pm2_5_standard",
        "raw10": "pm10_standard",
        "pm01": "pm1_0",
        "pm25": "pm2_5",
        "pm10": "pm10",
    }
    counts = {
        "n0_3": "particles_0_3um",
        "n0_5": "particles_0_5um",
        "n1_0": "particles_1_0um",
        "n2_5": "particles_2_5um",
        "n5_0": "particles_5_0um",
        "n10_0": "particles_10um",
    }
    values: dict[str, Value] = {ours: getattr(found, theirs, None) for theirs, ours in names.items()}
    return values | {ours: None if found is None else 100 * getattr(found, theirs) for theirs, ours in counts.items()}


def read_nova(frame: bytes) -> Values:
    """PyPMS, which does not tell the sensor's id."""
    found = _decoded("SDS01x", frame)
    return {"pm2_5": getattr(found, "pm25", None), "pm10": getattr(found, "pm10", None)}


def plantower(data: bytes) -> bytes:
    """A measurement frame around 26 bytes."""
    body = bytes.fromhex("424d001c") + data
    return body + sum_16(body).to_bytes(2, "big")


def nova(data: bytes) -> bytes:
    """A measurement frame around 6 bytes."""
    return bytes.fromhex("aac0") + data + bytes([sum_8(data), 0xAB])


def damaged(frames: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Such frames with one byte replaced; sometimes by itself."""
    return st.builds(
        lambda frame, at, byte: frame[: at % len(frame)] + bytes([byte]) + frame[at % len(frame) + 1 :],
        frames,
        st.integers(0, 31),
        st.integers(0, 255),
    )


_PLANTOWER: Final = st.binary(min_size=26, max_size=26).map(plantower)
_NOVA: Final = st.binary(min_size=6, max_size=6).map(nova)

PEERS: Final = (
    Peer("PyPMS", "pms", "pms5003", _PLANTOWER | damaged(_PLANTOWER), read_plantower),
    Peer("PyPMS", "pms", "pms7003", _PLANTOWER | damaged(_PLANTOWER), read_plantower),
    Peer("PyPMS", "pms", "sds011", _NOVA | damaged(_NOVA), read_nova),
)


def _they_have_none(ours: Value, theirs: Value) -> bool:
    return ours is not None and theirs is None


EXPLAINED: Final = (
    *(
        Explained(
            "PyPMS",
            profile,
            value,
            _they_have_none,
            "PyPMS refuses a frame without the smallest particles that has larger ones; both numbers are the sensor's",
            "424d001c 0000 0000 0000 0000 0000 0005 0000 0000 0000 0000 0000 0000 9700 0147",
        )
        for profile in ("pms5003", "pms7003")
        for value in (
            *("pm1_0_standard", "pm2_5_standard", "pm10_standard", "pm1_0", "pm2_5", "pm10"),
            *("particles_0_3um", "particles_0_5um", "particles_1_0um"),
            *("particles_2_5um", "particles_5_0um", "particles_10um"),
        )
    ),
    *(
        Explained(
            "PyPMS",
            "sds011",
            value,
            _they_have_none,
            "PyPMS takes two zeros for warming up; a sensor that tells its id is awake, and clean air is 0",
            "aac0 0000 0000 a160 01 ab",
        )
        for value in ("pm2_5", "pm10")
    ),
)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_serial_peer_reads_the_same(peer: Peer) -> None:
    """Whatever a frame holds, the peer takes and refuses the same and finds the same values, or the table says why."""
    pytest.importorskip(peer.module)

    @settings(max_examples=150, deadline=None)  # a peer's first call takes its time
    @given(peer.frames)
    def read(frame: bytes) -> None:
        assert unexplained(peer, frame, EXPLAINED) == {}, frame.hex(" ")

    read()


@pytest.mark.parametrize("explained", EXPLAINED, ids=lambda each: f"{each.profile}-{each.value}")
def test_an_explained_difference_is_there(explained: Explained) -> None:
    """The table holds no reason for a difference that is gone."""
    peer = next(each for each in PEERS if each.profile == explained.profile)
    pytest.importorskip(peer.module)
    found = differences(peer, bytes.fromhex(explained.shown_by))
    assert explained.when(*found[explained.value]), explained.why


@pytest.mark.parametrize(
    ("command", "arguments", "theirs"),
    [
        ("query", {}, "passive_read"),
        ("set-report-mode", {"mode": 1}, "passive_mode"),
        ("set-report-mode", {"mode": 0}, "active_mode"),
        ("sleep", {}, "sleep"),
        ("work", {}, "wake"),
    ],
)
def test_commands_are_the_same(command: str, arguments: dict[str, Value], theirs: str) -> None:
    """What we send to an SDS011 of any id is what PyPMS sends."""
    sensor = pytest.importorskip("pms.core").Sensor["SDS01x"]
    assert codec_of("sds011").encode_command(command, arguments, "ffff").payload == sensor.command(theirs).command
