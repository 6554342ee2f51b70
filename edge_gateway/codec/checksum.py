"""Checksums by name, so that a profile states the one its manual prints and nobody writes CRC code.

CRCs carry the names of the public CRC catalogue (https://reveng.sourceforge.io/crc-catalogue/), in lower case and with
their width in front: `crc-16/ibm-3740`. `fastcrc` computes them. Manuals use other names for some; those that mean one
algorithm only are accepted as well, and a name that means several (`crc-ccitt`) is not. The plain sums and the
exclusive or have no catalogue; their number is the width in bits. Of a sum, manuals also send the complement:
`inverted` is the one with every bit turned, and `negated` that plus one, which added to the sum gives 0.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import operator
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import fastcrc

from edge_gateway.errors import CodecError

ChecksumFunction: TypeAlias = Callable[[bytes], int]


class ChecksumAlgorithm(NamedTuple):
    """One way to check a frame."""

    name: str
    """The name in the catalogue, never an alias."""
    size_bytes: int
    compute: ChecksumFunction


def sum_8(data: bytes) -> int:
    """The low 8 bits of the sum of all bytes."""
    return sum(data) & 0xFF


def sum_16(data: bytes) -> int:
    """The low 16 bits of the sum of all bytes."""
    return sum(data) & 0xFFFF


def xor_8(data: bytes) -> int:
    """All bytes combined by exclusive or; the longitudinal redundancy check of many manuals."""
    return functools.reduce(operator.xor, data, 0)


def fletcher_16(data: bytes) -> int:
    """Two sums modulo 255: the one of all bytes in the low byte, the one of all its stages in the high byte."""
    return sum(itertools.accumulate(data)) % 255 << 8 | sum(data) % 255


_PLAIN = {
    name: ChecksumAlgorithm(name, size_bytes, compute)
    for name, size_bytes, compute in (
        ("sum-8", 1, sum_8),
        ("sum-8/inverted", 1, lambda data: ~sum(data) & 0xFF),
        ("sum-8/negated", 1, lambda data: -sum(data) & 0xFF),
        ("sum-16", 2, sum_16),
        ("sum-16/inverted", 2, lambda data: ~sum(data) & 0xFFFF),
        ("sum-16/negated", 2, lambda data: -sum(data) & 0xFFFF),
        ("xor-8", 1, xor_8),
        ("fletcher-16", 2, fletcher_16),
    )
}

_CRC_FAMILIES = (
    ("crc-8", 1, fastcrc.crc8),
    ("crc-16", 2, fastcrc.crc16),
    ("crc-32", 4, fastcrc.crc32),
    ("crc-64", 8, fastcrc.crc64),
)

_CATALOGUE = _PLAIN | {
    f"{family}/{function.replace('_', '-')}": ChecksumAlgorithm(
        f"{family}/{function.replace('_', '-')}", size_bytes, getattr(module, function)
    )
    for family, size_bytes, module in _CRC_FAMILIES
    for function in sorted(module.algorithms_available)
}

_ALIASES = {
    "crc-8": "crc-8/smbus",
    "crc-8/maxim": "crc-8/maxim-dow",
    "crc-16": "crc-16/arc",
    "crc-16/ibm": "crc-16/arc",
    "crc-16/ccitt-false": "crc-16/ibm-3740",
    "crc-16/ccitt-true": "crc-16/kermit",
    "crc-16/x-25": "crc-16/ibm-sdlc",
    "crc-16/zmodem": "crc-16/xmodem",
    "crc-32": "crc-32/iso-hdlc",
    "crc-32/ieee": "crc-32/iso-hdlc",
    "crc-32c": "crc-32/iscsi",
    "bcc": "xor-8",
    "fletcher": "fletcher-16",
    "lrc": "sum-8/negated",
    "modbus": "crc-16/modbus",
    "xmodem": "crc-16/xmodem",
}


def checksum_names() -> list[str]:
    """The catalogue names of all checksums, sorted, without aliases."""
    return sorted(_CATALOGUE)


def find_checksum(name: str) -> ChecksumAlgorithm:
    """Find a checksum by its catalogue name or a common alias; upper case and `_` are accepted.

    Raises:
        CodecError: there is none of that name; the remedy names the nearest.
    """
    key = name.strip().lower().replace("_", "-")
    key = _ALIASES.get(key, key)
    if key in _CATALOGUE:
        return _CATALOGUE[key]
    known = sorted({*_CATALOGUE, *_ALIASES})
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or ["crc-16/modbus", "sum-8"]
    raise CodecError(f"no checksum is called {name!r}", remedy=f"Names that would do: {', '.join(near)}")
