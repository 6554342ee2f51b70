"""Compiled code gives what a plain interpreter gives, for expressions nobody thought of."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, event, given, settings

from edge_gateway.cel import UINT, EvaluationError, Uint, check, compile_expression, compile_positional, parse
from edge_gateway.cel.values import BOXES
from tests.cel.conformance import is_same
from tests.cel.generator import TYPES, expressions, sums, values
from tests.cel.interpreter import Failure, evaluate, tag, untag


def outcome(text: str, given_values: dict[str, Any]) -> Any:
    """What compiled code gives, by both ways of calling it; `EvaluationError` if nothing."""
    kind = check(parse(text), TYPES).type
    try:
        result: Any = compile_expression(text, TYPES)(given_values)
    except EvaluationError:
        result = EvaluationError
    try:
        other: Any = compile_positional(text, TYPES)(*(given_values[name] for name in TYPES))
    except EvaluationError:
        other = EvaluationError
    assert result is other or is_same(result, other)
    box = BOXES.get(kind.present)
    return box(result) if box is not None and isinstance(result, int) else result


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(expressions() | sums(), values)
def test_same_as_interpreted(text: str, given_values: dict[str, Any]) -> None:
    """A value is the interpreter's, with its type; an error is where the interpreter fails."""
    assume(len(text) <= 4096)
    expression = parse(text)
    tagged = {name: tag(Uint(value) if TYPES[name] == UINT else value) for name, value in given_values.items()}
    try:
        expected: Any = untag(evaluate(expression.root, tagged))
    except Failure:
        expected = EvaluationError
    event("fails" if expected is EvaluationError else "has a value")
    result = outcome(text, given_values)
    if expected is EvaluationError or result is EvaluationError:
        assert result is expected
    else:
        assert is_same(result, expected)
