"""The page for those who write expressions: every line of its examples is what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.cel import (
    DOUBLE,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    EvaluationError,
    ExpressionError,
    compile_expression,
    list_of,
    map_of,
    nullable,
)
from edge_gateway.cel.lexer import MAX_CHARACTERS
from edge_gateway.cel.parser import MAX_HEIGHT
from edge_gateway.cel.pattern import MAX_PATTERN
from edge_gateway.cel.values import MAX_ELEMENTS, MAX_LETTERS
from tests.cel.conformance import is_same

PAGE = (Path(__file__).parents[2] / "docs/reference/expressions.md").read_text()
TYPES = {
    "double": DOUBLE,
    "double or null": nullable(DOUBLE),
    "int": INT,
    "uint": UINT,
    "string": STRING,
    "list(double)": list_of(DOUBLE),
    "map(string, double)": map_of(STRING, DOUBLE),
    "timestamp": TIMESTAMP,
    "dyn": DYN,
}
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]+) \| `(.+)` \|$", PAGE.split("## Values and types")[0], re.MULTILINE)
VARIABLES = {name: TYPES[kind] for name, kind, _ in ROWS}
EXAMPLES = [
    (text.strip(), result)
    for block in re.findall(r"^```cel\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for text, result in re.findall(r"^(.+?) +// (.+)$", block, re.MULTILINE)
]


def value(text: str) -> Any:
    return compile_expression(text, {})({})


def test_there_are_examples() -> None:
    """The page is read as it is meant: no line of an example is passed over."""
    lines = [
        line
        for block in re.findall(r"^```cel\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert len(EXAMPLES) == len(lines) > 50
    assert len(VARIABLES) == 10


@pytest.mark.parametrize(("text", "result"), EXAMPLES, ids=[text for text, _ in EXAMPLES])
def test_example(text: str, result: str) -> None:
    """An expression gives the value beside it, or the error or refusal."""
    values = {name: value(shown) for name, _, shown in ROWS}
    if result.startswith("refused: "):
        with pytest.raises(ExpressionError, match=re.escape(result.removeprefix("refused: "))):
            compile_expression(text, VARIABLES)
    elif result.startswith("error: "):
        with pytest.raises(EvaluationError, match=re.escape(result.removeprefix("error: "))):
            compile_expression(text, VARIABLES)(values)
    else:
        assert is_same(compile_expression(text, VARIABLES)(values), value(result))


def test_limits_are_told() -> None:
    """The page has the limits of the code."""
    limits = PAGE.split("## Limits")[1]
    for limit in (MAX_CHARACTERS, MAX_HEIGHT, MAX_LETTERS, MAX_ELEMENTS, MAX_PATTERN):
        assert f" {limit} " in limits
