"""Interval arithmetic never promises too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.cel import STANDARD, Function
from edge_gateway.cel.bounds import result_bounds
from edge_gateway.cel.types import INT, LIMITS, UINT

WHOLE = [
    function
    for name in ("_+_", "_-_", "_*_", "_/_", "_%_", "-_", "math.abs", "math.bitAnd", "int", "uint")
    for function in STANDARD.named(name, is_method=False)
    if set(function.parameters) <= {INT, UINT} and function.result in (INT, UINT)
]


@given(st.sampled_from(WHOLE), st.data())
def test_results_lie_within(chosen: Function, data: st.DataObject) -> None:
    """What a function gives lies within the bounds computed from those of its operands."""
    bounds: list[tuple[int, int]] = []
    operands: list[int] = []
    for kind in chosen.parameters:
        low, high = LIMITS[kind]
        edges = st.sampled_from([low, high, 0, 1, max(low, -1), 2, 7, 65535]) | st.integers(low, high)
        ends = sorted([data.draw(edges), data.draw(edges)])
        bounds.append((ends[0], ends[1]))
        operands.append(data.draw(st.integers(ends[0], ends[1]) | st.sampled_from(ends)))
    found = result_bounds(chosen, bounds)
    if found is None or (chosen.name in ("_/_", "_%_") and operands[1] == 0):
        return
    assert found[0] <= chosen.call(*operands) <= found[1]


def test_bounds_are_close() -> None:
    """Two 16-bit fields, a divisor, a mask: what people write is known to fit."""
    by_name = {function.name: function for function in WHOLE if set(function.parameters) == {INT}}
    u16 = (0, 65535)
    assert result_bounds(by_name["_+_"], [u16, u16]) == (0, 131070)
    assert result_bounds(by_name["_-_"], [u16, u16]) == (-65535, 65535)
    assert result_bounds(by_name["_*_"], [u16, (-2, 3)]) == (-131070, 196605)
    assert result_bounds(by_name["_/_"], [u16, (10, 10)]) == (0, 6553)
    assert result_bounds(by_name["_%_"], [u16, (10, 10)]) == (0, 9)
    assert result_bounds(by_name["_%_"], [(-3, 65535), (10, 10)]) == (-3, 9)
    assert result_bounds(by_name["-_"], [u16]) == (-65535, 0)
    assert result_bounds(by_name["math.abs"], [(-7, 3)]) == (0, 7)
    assert result_bounds(by_name["math.bitAnd"], [u16, (15, 15)]) == (0, 15)
