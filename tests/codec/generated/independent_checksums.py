"""Checksums written a second time, bit by bit from their catalogue entries, to hold the gateway's library against.

Slow where it may be and plain everywhere. A profile whose checksum is not here fails the mutation test until somebody
adds it from its source: https://reveng.sourceforge.io/crc-catalogue/.
"""

from __future__ import annotations

import functools
from typing import NamedTuple


class Crc(NamedTuple):
    """A catalogue entry; `check` is the CRC of the nine digits "123456789"."""

    width: int
    poly: int
    init: int
    is_reflected: bool
    """Both ways: the catalogue has next to none that reflect one side only."""
    xor_out: int
    check: int


CRCS = {
    "crc-8/maxim-dow": Crc(8, 0x31, 0x00, True, 0x00, 0xA1),
    "crc-8/nrsc-5": Crc(8, 0x31, 0xFF, False, 0x00, 0xF7),
    "crc-8/smbus": Crc(8, 0x07, 0x00, False, 0x00, 0xF4),
    "crc-16/arc": Crc(16, 0x8005, 0x0000, True, 0x0000, 0xBB3D),
    "crc-16/ibm-3740": Crc(16, 0x1021, 0xFFFF, False, 0x0000, 0x29B1),
    "crc-16/ibm-sdlc": Crc(16, 0x1021, 0xFFFF, True, 0xFFFF, 0x906E),
    "crc-16/kermit": Crc(16, 0x1021, 0x0000, True, 0x0000, 0x2189),
    "crc-16/modbus": Crc(16, 0x8005, 0xFFFF, True, 0x0000, 0x4B37),
    "crc-16/xmodem": Crc(16, 0x1021, 0x0000, False, 0x0000, 0x31C3),
    "crc-32/iso-hdlc": Crc(32, 0x04C11DB7, 0xFFFFFFFF, True, 0xFFFFFFFF, 0xCBF43926),
    "crc-64/xz": Crc(64, 0x42F0E1EBA9EA3693, (1 << 64) - 1, True, (1 << 64) - 1, 0x995DC9BBDF1939FA),
}


def _reversed_bits(number: int, width: int) -> int:
    return int(f"{number:0{width}b}"[::-1], 2)


@functools.cache
def _step_table(crc: Crc) -> tuple[int, ...]:
    """What each leading byte of the register becomes in eight steps of the polynomial's division."""
    top, mask = 1 << crc.width - 1, (1 << crc.width) - 1
    table = []
    for byte in range(256):
        register = byte << crc.width - 8
        for _ in range(8):
            register = (register << 1 ^ crc.poly) & mask if register & top else register << 1 & mask
        table.append(register)
    return tuple(table)


_REVERSED_BYTES = bytes(_reversed_bits(byte, 8) for byte in range(256))


def crc_of(crc: Crc, data: bytes) -> int:
    """The CRC, always dividing from the highest bit; reflection turns what goes in and comes out around."""
    table, shift, mask = _step_table(crc), crc.width - 8, (1 << crc.width) - 1
    register = crc.init
    for byte in data.translate(_REVERSED_BYTES) if crc.is_reflected else data:
        register = (register << 8 & mask) ^ table[register >> shift ^ byte]
    return (_reversed_bits(register, crc.width) if crc.is_reflected else register) ^ crc.xor_out


def independent_checksum(name: str, data: bytes) -> int:
    """The checksum of that catalogue name.

    Raises:
        KeyError: it is not written a second time yet.
    """
    if name.startswith("sum-"):
        width, _, form = name[4:].partition("/")
        span = 1 << int(width)
        total = sum(data) % span
        return {"": total, "inverted": span - 1 - total, "negated": (span - total) % span}[form]
    if name == "fletcher-16":
        low = high = 0
        for byte in data:
            low = (low + byte) % 255
            high = (high + low) % 255
        return high << 8 | low
    if name == "xor-8":
        held = 0
        for byte in data:
            held ^= byte
        return held
    return crc_of(CRCS[name], data)
