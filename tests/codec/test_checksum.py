"""Checksums have the names and the values of the public catalogue."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec.checksum import checksum_names, find_checksum
from edge_gateway.errors import CodecError


@pytest.mark.parametrize(
    ("name", "check", "size_bytes"),
    [
        # `check` of the CRC catalogue: the checksum of the nine digits. The sums are arithmetic.
        ("crc-8/smbus", 0xF4, 1),
        ("crc-8/maxim-dow", 0xA1, 1),
        ("crc-16/arc", 0xBB3D, 2),
        ("crc-16/ibm-3740", 0x29B1, 2),
        ("crc-16/ibm-sdlc", 0x906E, 2),
        ("crc-16/kermit", 0x2189, 2),
        ("crc-16/modbus", 0x4B37, 2),
        ("crc-16/xmodem", 0x31C3, 2),
        ("crc-32/iso-hdlc", 0xCBF43926, 4),
        ("crc-32/iscsi", 0xE3069283, 4),
        ("crc-64/xz", 0x995DC9BBDF1939FA, 8),
        ("sum-8", 0xDD, 1),
        ("sum-16", 0x01DD, 2),
        ("xor-8", 0x31, 1),
        ("sum-8/inverted", 0x22, 1),
        ("sum-8/negated", 0x23, 1),
        ("sum-16/inverted", 0xFE22, 2),
        ("sum-16/negated", 0xFE23, 2),
        ("fletcher-16", 0x1EDE, 2),
    ],
)
def test_check_values(name: str, check: int, size_bytes: int) -> None:
    """Each algorithm gives the catalogue's check value and has its width."""
    algorithm = find_checksum(name)
    assert algorithm.name == name
    assert algorithm.compute(b"123456789") == check
    assert algorithm.size_bytes == size_bytes


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("crc-16/ccitt-false", "crc-16/ibm-3740"),
        ("CRC-16/CCITT-FALSE", "crc-16/ibm-3740"),
        ("crc_16/x_25", "crc-16/ibm-sdlc"),
        ("crc-8/maxim", "crc-8/maxim-dow"),
        ("crc-32", "crc-32/iso-hdlc"),
        ("crc-32c", "crc-32/iscsi"),
        ("modbus", "crc-16/modbus"),
        ("bcc", "xor-8"),
        ("LRC", "sum-8/negated"),
        ("fletcher", "fletcher-16"),
    ],
)
def test_common_names_are_understood(alias: str, name: str) -> None:
    """What manuals print is found, and reported under the catalogue's name."""
    assert find_checksum(alias).name == name


def test_a_name_of_several_algorithms_is_refused() -> None:
    """`crc-ccitt` means at least three algorithms; the error offers them instead of guessing."""
    with pytest.raises(CodecError, match=r"no checksum is called 'crc-ccitt'. Names that would do: .*ccitt-false"):
        find_checksum("crc-ccitt")


@pytest.mark.parametrize("name", checksum_names())
def test_every_checksum_fits_its_width(name: str) -> None:
    """No algorithm gives a number its field cannot carry, and all find themselves by name."""
    algorithm = find_checksum(name)
    assert algorithm.name == name
    for data in (b"", b"\0", b"\xff" * 300):
        assert 0 <= algorithm.compute(data) < 1 << 8 * algorithm.size_bytes


@given(st.binary())
def test_plain_sums(data: bytes) -> None:
    """The sums and the exclusive or are what their names say, over any bytes."""
    assert find_checksum("sum-8").compute(data) == sum(data) % 256
    assert find_checksum("sum-16").compute(data) == sum(data) % 65_536
    assert find_checksum("sum-8/negated").compute(data) == -sum(data) % 256
    assert find_checksum("sum-16/inverted").compute(data) == 65_535 - sum(data) % 65_536
    assert find_checksum("xor-8").compute(data) == functools.reduce(lambda one, other: one ^ other, data, 0)


@pytest.mark.parametrize(("text", "check"), [(b"abcde", 0xC8F0), (b"abcdef", 0x2057), (b"abcdefgh", 0x0627)])
def test_fletcher_16_has_its_published_values(text: bytes, check: int) -> None:
    """The two sums run modulo 255, the second in the high byte."""
    assert find_checksum("fletcher-16").compute(text) == check


@given(st.binary())
def test_fletcher_16_is_its_definition(data: bytes) -> None:
    """The short form gives what adding byte by byte gives."""
    low = high = 0
    for byte in data:
        low = (low + byte) % 255
        high = (high + low) % 255
    assert find_checksum("fletcher-16").compute(data) == high << 8 | low
