"""The packets by which the doctor logs in, against the bench's own MQTT."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.doctor.mqtt_packets import connack_code, connect_packet
from edge_gateway.errors import UplinkRefused

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300)


@given(st.binary(max_size=8))
def test_any_bytes_are_a_connack_or_none(packet: bytes) -> None:
    """Whatever a server answers is a return code or nothing, and never an error."""
    code = connack_code(packet)
    assert (code is not None) == (len(packet) == 4 and packet[:2] == b"\x20\x02" and packet[2] in (0, 1))


@given(texts, st.none() | texts, st.none() | st.binary(max_size=300))
def test_a_connect_says_how_long_it_is(client_id: str, username: str | None, password: bytes | None) -> None:
    """The remaining length of a CONNECT is that of what follows."""
    packet = connect_packet(client_id, username, password)
    length, place = 0, 1
    while True:
        length |= (packet[place] & 0x7F) << 7 * (place - 1)
        place += 1
        if packet[place - 1] < 0x80:
            break
    assert packet[0] == 0x10
    assert len(packet) == place + length
    assert packet[place : place + 7] == b"\0\4MQTT\4"


def test_a_password_too_long_is_refused() -> None:
    """A field of MQTT has 65,535 bytes at most."""
    with pytest.raises(UplinkRefused):
        connect_packet("gw", "user", bytes(65_536))
