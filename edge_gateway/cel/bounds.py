"""What whole numbers are known to lie within, so that arithmetic which cannot leave its type's range is not checked.

This is interval arithmetic: the sum of two 16-bit fields lies from 0 to 131070, whatever is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from edge_gateway.cel.functions import Function
from edge_gateway.cel.types import LIMITS, Type

Bounds: TypeAlias = tuple[int, int]

UNKNOWN: Bounds = (-(2**200), 2**200)
"""Of a number nothing is known about; beyond all ranges, so that it never saves a check."""


def bounds_of(kind: Type) -> Bounds:
    """What a value lies within, null aside, as far as its type says."""
    return kind.present.bounds or LIMITS.get(kind.present, UNKNOWN)


def result_bounds(function: Function, bounds: Sequence[Bounds]) -> Bounds | None:
    """What a function's whole number lies within, before it is held against its type's range.

    Args:
        function: the function.
        bounds: of its operands.

    Returns:
        The bounds, or None if there is no more to say than its result's type does.
    """
    if function.result not in LIMITS:
        return None
    match function.name, list(bounds):
        case "_+_", [(a, b), (c, d)]:
            return a + c, b + d
        case "_-_", [(a, b), (c, d)]:
            return a - d, b - c
        case "_*_", [(a, b), (c, d)]:
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
        case "_/_", [(a, b), (c, d)]:
            least = max(1, min(abs(c), abs(d))) if c * d > 0 else 1
            most = max(abs(a), abs(b)) // least
            # A divisor above zero keeps the sign; the least int divided by -1 is the only one that leaves the range.
            return (min(-(-a // least), 0), max(b // least, 0)) if c >= 0 else (-most, most)
        case "_%_", [(a, b), (c, d)]:
            most = max(abs(c), abs(d), 1) - 1
            return max(-most, min(a, 0)), min(most, max(b, 0))
        case "-_", [(a, b)]:
            return -b, -a
        case "math.abs", [(a, b)]:
            return (0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
        case "int" | "uint", [(a, b)]:
            return a, b
        case "math.bitAnd", [(a, b), (c, d)] if a >= 0 and c >= 0:
            return 0, min(b, d)
    return None
