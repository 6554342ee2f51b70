"""The decimal floats of medical devices (IEEE 11073-20601): mantissa times a power of ten, both two's complement.

The 16-bit form (SFLOAT) has 4 bits of exponent and 12 of mantissa, the 32-bit form (FLOAT) 8 and 24. Bluetooth's health
services use both and call them medfloat16 and medfloat32. Five mantissas with exponent 0 are no numbers: NaN, "not at
this resolution", the infinities, and one that is reserved.
"""

from __future__ import annotations

import math
from decimal import Decimal


def medfloat16(word: int) -> float:
    """The number in 16 bits, given as an unsigned integer; NaN for what is no number."""
    return _number(word, 12, 4)


def medfloat32(word: int) -> float:
    """The number in 32 bits, given as an unsigned integer; NaN for what is no number."""
    return _number(word, 24, 8)


def to_medfloat(number: float, size_bytes: int) -> int:
    """The bits of the nearest decimal float; NaN and the infinities give NaN.

    Args:
        number: what to say. The decimal its shortest text says is meant.
        size_bytes: 2 or 4.

    Raises:
        OverflowError: it is too large.
    """
    mantissa_bits, exponent_bits = (12, 4) if size_bytes == 2 else (24, 8)
    if not math.isfinite(number):
        return (1 << mantissa_bits - 1) - 1
    sign, digits, power = Decimal(repr(number)).as_tuple()
    mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
    exponent = int(power)
    highest = (1 << exponent_bits - 1) - 1
    while mantissa and mantissa % 10 == 0:
        mantissa, exponent = mantissa // 10, exponent + 1
    while exponent > highest and mantissa and _is_number(mantissa * 10, highest, mantissa_bits):
        mantissa, exponent = mantissa * 10, exponent - 1
    if exponent < -highest - 1 or not _is_number(mantissa, exponent, mantissa_bits):
        mantissa, exponent = _rounded(mantissa, exponent, mantissa_bits, -highest - 1)
    if not mantissa:
        exponent = 0
    if exponent > highest:
        raise OverflowError(f"{number!r} is too large")
    return (exponent & (1 << exponent_bits) - 1) << mantissa_bits | mantissa & (1 << mantissa_bits) - 1


def _rounded(mantissa: int, exponent: int, mantissa_bits: int, lowest: int) -> tuple[int, int]:
    """Fewer digits: as many as must go, all at once, so that nothing is rounded twice."""
    dropped = max(0, lowest - exponent)
    while not _is_number(nearest := round(Decimal(mantissa).scaleb(-dropped)), exponent + dropped, mantissa_bits):
        dropped += 1
    return nearest, exponent + dropped


def _is_number(mantissa: int, exponent: int, mantissa_bits: int) -> bool:
    half = 1 << mantissa_bits - 1
    if exponent == 0 and (mantissa >= half - 2 or mantissa <= -half + 2):
        return False
    return -half <= mantissa < half


def _number(word: int, mantissa_bits: int, exponent_bits: int) -> float:
    half = 1 << mantissa_bits - 1
    mantissa = ((word & 2 * half - 1) ^ half) - half
    sign = 1 << exponent_bits - 1
    exponent = (word >> mantissa_bits ^ sign) - sign
    if not _is_number(mantissa, exponent, mantissa_bits):
        return math.nan
    # Whole numbers divide to the nearest float, so 365 and -1 give 36.5 and no neighbour of it.
    return float(mantissa * 10**exponent) if exponent >= 0 else mantissa / 10**-exponent
