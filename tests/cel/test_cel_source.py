"""The generated Python: what one would write by hand, and nothing a text could have chosen."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings

from edge_gateway.cel import (
    BOOL,
    DOUBLE,
    DYN,
    INT,
    STRING,
    UINT,
    EvaluationError,
    ExpressionError,
    check,
    compile_expression,
    map_of,
    nullable,
    parse,
    python_source,
)
from edge_gateway.cel.parser import MAX_HEIGHT
from tests.cel.generator import TYPES, expressions

VARIABLES = {
    "t": DOUBLE,
    "h": DOUBLE,
    "y": nullable(DOUBLE),
    "z": nullable(DOUBLE),
    "u": INT.within(0, 65535),
    "v": INT.within(0, 65535),
    "i": INT,
    "k": nullable(INT),
    "w": UINT,
    "b": BOOL,
    "c": nullable(BOOL),
    "s": STRING,
    "m": map_of(STRING, INT),
    "d": DYN,
}


def source(text: str) -> str:
    checked = check(parse(text), VARIABLES)
    return python_source(checked, {name: name for name in checked.variables})[0]


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("t > 30.0 && h < 40.0", "((t > 30.0) and (h < 40.0))"),
        ("t * 1.8 + 32.0", "((t * 1.8) + 32.0)"),
        ("t / 10.0", "(t / 10.0)"),
        ("t > 30", "(t > 30 + 0.0)"),
        # Bounds
        ("u * 256 + v", "((u * 256) + v)"),
        ("u / 10 % 6", "((u // 10) % 6)"),
        ("u - v", "(u - v)"),
        ("double(u) * 0.1", "((u + 0.0) * 0.1)"),
        ("math.bitAnd(u, 15) == 3", "((u & 15) == 3)"),
        # Null
        ("y * 2.0", "((y * 2.0) if y is not None else cel_refuse_null((y, 'y', 'line 1, column 1')))"),
        ("y != null && y > 1.0", "((y is not None) and (y > 1.0))"),
        ("y > 1.0 && y != null", "((y is not None) and (y > 1.0))"),
        ("y == null ? 0.0 : y", "(0.0 if (y is None) else y)"),
        (
            "1.0 < y && y < 2.0",
            "(((1.0 < y) and (y < 2.0)) if y is not None else cel_refuse_null((y, 'y', 'line 1, column 7')))",
        ),
        (
            "y > 1.0 || z > 1.0",
            "((y is not None and (y > 1.0)) or (z is not None and (z > 1.0)) or ((y is None or z is None) and"
            " cel_refuse_null((y, 'y', 'line 1, column 1'), (z, 'z', 'line 1, column 12'))))",
        ),
        # What cannot fail goes first
        (
            "m.a == 1 && b && t > 1.0",
            "(b and (t > 1.0) and (cel_attempt(cel_field, 'line 1, column 3', m, 'a') == 1))",
        ),
        # Constants
        ("duration('2m') > duration('90s')", "(120000000000 > 90000000000)"),
        ("u in [1, 2, 3]", "(u in [1, 2, 3])"),
        ("s.startsWith('a') && s.contains('b')", "(s.startswith('a') and ('b' in s))"),
    ],
)
def test_as_by_hand(text: str, python: str) -> None:
    """What everybody writes becomes what everybody would write."""
    assert source(text) == python


def test_in_a_namespace() -> None:
    """Sources with prefixes of their own live in one namespace, in a function, a comprehension or a lambda."""
    texts = {
        "hot": "t / h > 3.0 && d > 1",
        "sum": "i + i",
        "match": "s.matches('a')",
        "other": "s.matches('b') || d < 2",
    }
    namespace: dict[str, object] = {}
    lines = []
    for name, text in texts.items():
        checked = check(parse(text), VARIABLES)
        code, needed = python_source(checked, {each: f"raw_{each}" for each in checked.variables}, prefix=f"of_{name}")
        assert all(each.startswith(f"of_{name}") for each in needed)
        namespace |= needed
        lines.append(f"{name!r}: {code}")
    body = f"return [{{{', '.join(lines)}}} for raw_i in numbers]"
    exec(f"def decode(numbers, raw_t, raw_h, raw_d, raw_s):\n    {body}", namespace)
    decode = namespace["decode"]
    assert callable(decode)
    assert decode([1, 2], 8.0, 2.0, 5, "xb") == [
        {"hot": True, "sum": 2, "match": False, "other": True},
        {"hot": True, "sum": 4, "match": False, "other": True},
    ]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "1a", "__import__('os')", "a)", "lambda", "cel_1"])
def test_names_are_identifiers(name: str) -> None:
    """What is no name of Python, or a name the source uses itself, cannot enter it; nor can such a prefix."""
    checked = check(parse("t"), VARIABLES)
    with pytest.raises(ValueError, match="no Python name"):
        python_source(checked, {"t": name})
    if name != "cel_1":
        with pytest.raises(ValueError, match="no prefix"):
            python_source(checked, {"t": "t"}, prefix=name)


def test_a_name_is_missing() -> None:
    """Every variable that the expression uses needs a name."""
    with pytest.raises(ValueError, match="no Python name"):
        python_source(check(parse("t"), VARIABLES), {})


@pytest.mark.parametrize(
    "text", ["'\\'); import os; (\\''", "'''\n\"\"\"'''", "'\\u2028\\x00{}{0}%s'", "'{d}{0}'", "b'{0}'"]
)
def test_text_stays_text(text: str) -> None:
    """Quotes, braces and line ends in a literal stay in it."""
    compiled = compile_expression(f"{text} == {text} && size({text}) > 0", {})
    assert compiled({}) in (True, False)
    assert isinstance(compile_expression(f"[{text}]", {})({}), list)


FORMS = [
    "({} + i)",
    "i - {}",
    "(i / {})",
    "({} % k)",
    "-({})",
    "math.abs({})",
    "math.greatest(k, {})",
    "(b ? i : {})",
    "(c ? {} : k)",
    "[{}][0]",
    "{{i: {}}}[i]",
    "int(t / double({}))",
    "int(double({}) / t)",
    "int(uint({}))",
    "(i / i > 3 && ({}) > k && c ? 1 : 2)",
    "(k > 3 || i / i > {} || c ? k : 2)",
    "size([1].map(x, {}))",
    "int(d + {})",
    "(d ? {} : d)",
    "size(string({}) + s)",
    "(({}) in [1, i] ? 1 : 2)",
]


@pytest.mark.parametrize("form", FORMS)
def test_high_trees_compile(form: str) -> None:
    """However a tree is nested up to the limit, Python compiles its source: it takes 200 brackets in each other."""
    text = form.format("i")
    check(parse(text), VARIABLES)
    with suppress(ExpressionError):
        for _ in range(MAX_HEIGHT):
            code = source(text)
            compile(code, "<test>", "eval")
            assert _brackets(code) <= 4 * MAX_HEIGHT
            text = form.format(text)


def _brackets(code: str) -> int:
    depth = most = 0
    for sign in re.findall(r"[(\[{]|[)\]}]", re.sub(r"'[^']*'", "", code)):
        depth += 1 if sign in "([{" else -1
        most = max(most, depth)
    return most


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(expressions())
def test_the_same_each_time(text: str) -> None:
    """The same text gives the same source, so that a generated decoder can be compared and kept."""
    checked = [check(parse(text), TYPES) for _ in range(2)]
    names = {name: name for name in TYPES}
    assert python_source(checked[0], names)[0] == python_source(checked[1], names)[0]


def test_a_row_of_a_thousand() -> None:
    """A row of `&&` as long as the text may be is compiled, and its errors are absorbed one and all."""
    row = " && ".join(["1/i>0"] * 400)
    assert compile_expression(f"b && {row}", VARIABLES)({"b": False, "i": 0}) is False
    with pytest.raises(EvaluationError, match="division by zero"):
        compile_expression(f"b && {row}", VARIABLES)({"b": True, "i": 0})
