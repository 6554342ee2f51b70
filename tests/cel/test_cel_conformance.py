"""The specification's own conformance vectors, run from a checkout of google/cel-spec named by CEL_SPEC."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.cel import EvaluationError, ExpressionError, check, compile_expression, parse
from edge_gateway.cel.values import BOXES
from edge_gateway.errors import GatewayError
from tests.cel.conformance import Unsupported, Vector, is_same, vectors

CHECKOUT = os.environ.get("CEL_SPEC", "")


def _parameters() -> Iterable[Any]:
    if not CHECKOUT:
        reason = "set CEL_SPEC to a checkout of github.com/google/cel-spec (Apache-2.0) to run its vectors"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="cel-spec")]
    return [pytest.param(vector, id=vector.id) for vector in vectors(Path(CHECKOUT))]


@pytest.mark.parametrize("vector", _parameters())
def test_conformance(vector: Vector) -> None:
    """An expression gives the value, error and type that the specification's suite asks for.

    An error that we find when an expression is loaded is as good as one when it is evaluated.
    """
    try:
        outcome = _outcome(vector)
    except Unsupported as reason:
        pytest.skip(f"{reason} are not supported")
    if vector.wants_error:
        assert isinstance(outcome, GatewayError)
    elif isinstance(outcome, GatewayError):
        pytest.fail(str(outcome))
    elif not vector.is_only_checked:
        assert is_same(outcome, vector.value())


def _outcome(vector: Vector) -> Any:
    """The value, or the error of any step."""
    variables, values, wanted_type = vector.variables(), vector.bindings(), vector.type()
    try:
        checked = check(parse(vector.text), variables)
        if wanted_type is not None:
            assert str(checked.type) == str(wanted_type)
        result = None if vector.is_only_checked else compile_expression(vector.text, variables)(values)
    except ExpressionError as error:
        if "message types" in error.what:
            raise Unsupported("protocol buffer messages") from error
        if vector.is_unchecked and not vector.wants_error:
            raise Unsupported("expressions that are not type-checked") from error
        return error
    except EvaluationError as error:
        return error
    box = BOXES.get(checked.type.present)
    return box(result) if box is not None and isinstance(result, int) else result
