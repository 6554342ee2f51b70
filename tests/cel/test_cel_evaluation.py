"""What expressions give, above all where CEL and Python do not agree."""

from __future__ import annotations

import math
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.cel import (
    BOOL,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STANDARD,
    STRING,
    TIMESTAMP,
    UINT,
    Duration,
    EvaluationError,
    Function,
    Timestamp,
    Uint,
    compile_expression,
    compile_positional,
    list_of,
    map_of,
    nullable,
)
from edge_gateway.cel.times import (
    duration_of_text,
    text_of_duration,
    text_of_timestamp,
    timestamp_of_text,
)
from edge_gateway.cel.types import LIMITS
from edge_gateway.cel.values import MAX_ELEMENTS, MAX_LETTERS
from tests.cel.conformance import is_same

VARIABLES = {
    "i": INT,
    "j": INT,
    "w": UINT,
    "x": DOUBLE,
    "y": nullable(DOUBLE),
    "z": nullable(DOUBLE),
    "b": BOOL,
    "s": STRING,
    "at": TIMESTAMP,
    "age": DURATION,
    "l": list_of(INT),
    "q": list_of(DOUBLE),
    "m": map_of(STRING, INT),
    "d": DYN,
    "n": DYN,
}
VALUES: dict[str, Any] = {
    "i": 7,
    "j": -2,
    "w": 3,
    "x": 2.5,
    "y": None,
    "z": 1.5,
    "b": True,
    "s": "añ\U0001f600",
    "at": 1_777_638_600_250_000_000,
    "age": -1_500_000_000,
    "l": [1, 2, 3],
    "q": [math.nan, 1.0],
    "m": {"a": 1},
    "d": {"a": [1, True, Uint(2), 2.0, None], "b": {"c": "x"}},
    "n": 1,
}
MOST = 2**63 - 1


def evaluate(text: str, **values: Any) -> Any:
    return compile_expression(text, VARIABLES)(VALUES | values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Whole numbers
        ("i / j", -3),
        ("i % j", 1),
        ("-i / -j", -3),
        ("-i % 2", -1),
        ("-i % 3 + 0", -1),
        ("j / 3", 0),
        ("9223372036854775806 + 1", MOST),
        ("i - i + 9223372036854775807", MOST),
        ("w * 2u", 6),
        ("w - 3u", 0),
        ("math.abs(j)", 2),
        ("math.bitNot(0u)", 2**64 - 1),
        ("math.bitShiftLeft(1, 63)", -(2**63)),
        ("math.bitShiftRight(-1, 60)", 15),
        ("math.bitShiftRight(-1, 0)", -1),
        ("math.sign(j)", -1),
        # Doubles
        ("x / 0.0", math.inf),
        ("-x / 0.0", -math.inf),
        ("x / -0.0", -math.inf),
        ("0.0 / 0.0", math.nan),
        ("(x - x) / (x - x)", math.nan),
        ("1e308 * 10.0", math.inf),
        ("x == x", True),
        ("q[0] == q[0]", False),
        ("q[0] != q[0]", True),
        ("q == q", False),
        ("q[0] in q", False),
        ("1.0 in q", True),
        ("math.round(-2.5)", -3.0),
        ("math.round(2.5)", 3.0),
        ("math.round(0.49999999999999994)", 0.0),
        ("math.floor(-0.5)", -1.0),
        ("math.ceil(-0.5)", -0.0),
        ("math.trunc(-2.7)", -2.0),
        ("math.round(1.0 / 0.0)", math.inf),
        ("math.isNaN(math.sqrt(-1.0))", True),
        ("math.sqrt(16)", 4.0),
        # Numbers of different types
        ("x > i", False),
        ("w < 4", True),
        ("dyn(w) == 3", True),
        ("dyn(3.0) == 3u", True),
        ("9223372036854775807 < 9223372036854775808.0", False),
        ("9223372036854775807 >= 9223372036854775808.0", True),
        ("double(9223372036854775807)", 2.0**63),
        ("int(-2.9)", -2),
        ("uint(2.9)", 2),
        ("int(w)", 3),
        ("string(w)", "3"),
        ("string(-0.0)", "-0.0"),
        ("double('1e3')", 1000.0),
        ("double('-Infinity')", -math.inf),
        ("dyn(9007199254740993) == 9007199254740992.0", True),
        ("type(dyn(w) + dyn(w)) == uint", True),
        # Bool is no number
        ("dyn(true) == 1", False),
        ("1 in [dyn(true)]", False),
        ("dyn(true) in {1: 'a'}", False),
        ("dyn(1.0) in {1: 'a'}", True),
        ("d.a == [1, true, 2, 2.0, null]", True),
        ("d.a == [true, 1, 2, 2.0, null]", False),
        ("{'a': 1} == {'a': dyn(true)}", False),
        ("{true: 1, 2: 5}[dyn(true)]", 1),
        ("type(d.a[1]) == bool && type(d.a[2]) == uint", True),
        # Text
        ("size(s)", 3),
        ("size(bytes(s))", 7),
        ("s.contains('ñ')", True),
        ("'b' > 'a' && 'Z' < 'a' && 'a' < 'ä'", True),
        ("string(b'\\xc3\\xb1')", "ñ"),
        ("s.endsWith('')", True),
        # Null
        ("y", None),
        ("y == z", False),
        ("y == null && z != null", True),
        ("y != null && y > 1.0", False),
        ("y > 1.0 && y != null", False),
        ("y == null || y > 1.0", True),
        ("y > 1.0 || y == null", True),
        ("y != null ? y : x", 2.5),
        ("y > 1.0 && z > 2.0", False),
        ("z > 2.0 && y > 1.0", False),
        ("y > 1.0 || z > 1.0", True),
        ("z > 1.0 || y > 1.0", True),
        ("[y, z]", [None, 1.5]),
        ("b ? y : 1.0", None),
        ("type(y) == type(null)", True),
        ("y > 1.0 && !(y == null)", False),
        # Errors that a side absorbs
        ("size(l.map(e, 6 / (e - 2))) > 0 || b", True),
        ("size(l.filter(e, 6 / (e - 2) > 0)) > 0 || b", True),
        ("1 / 0 > 1 && false", False),
        ("false && 1 / 0 > 1", False),
        ("1 / 0 > 1 || b", True),
        ("i / (i - 7) > 1 && i % (i - 7) > 1 && x > 3.0", False),
        ("i / (i - 7) > 1 || i % (i - 7) > 1 || x > 1.0", True),
        ("i / (i - 7) > 1 || l[2] == 3", True),
        ("l.exists(e, 6 / (2 - e) == 6)", True),
        ("l.all(e, 6 / (2 - e) == 6)", False),
        ("b || d.nothing", True),
        ("b ? i : 1 / 0", 7),
        # Lists and maps
        ("l.map(e, e * i)", [7, 14, 21]),
        ("l.map(e, e > 1, [e, w])", [[2, Uint(3)], [3, Uint(3)]]),
        ("l.filter(e, l.exists(o, o == e + 1))", [1, 2]),
        ("m.map(key, m[key] + 1)", [2]),
        ("l + [w == 3u ? 4 : 5]", [1, 2, 3, 4]),
        ("{'a': i, 'b': j}", {"a": 7, "b": -2}),
        ("{s: 1, 'a': 2}['a']", 2),
        ("[1].exists(i, .i == 7)", True),
        ("has(m.a) && !has(m.b) && has(d.b.c)", True),
        ("d.b.c + '!'", "x!"),
        ("d['a'][dyn(0u)]", 1),
        ("d.a.exists(e, e == null)", True),
        ("[[1, 2], [3]][0][1]", 2),
        ("dyn([1]) + dyn([2])", [1, 2]),
        ("d.b.c.matches('^x$') && !d.b.c.matches('y')", True),
        # Times
        ("at.getHours()", 12),
        ("at.getHours('Asia/Kathmandu')", 18),
        ("at.getMilliseconds()", 250),
        ("string(at)", "2026-05-01T12:30:00.25Z"),
        ("string(age)", "-1.5s"),
        ("age.getSeconds()", -1),
        ("age.getMilliseconds()", -500),
        ("at + age < at", True),
        ("(at - (at - duration('90m'))).getHours()", 1),
        ("int(at)", 1_777_638_600),
        ("dyn(at) == timestamp('2026-05-01T14:30:00.250+02:00')", True),
        ("dyn(at) == 1777638600250000000", False),
        ("dyn(at) in {1777638600250000000: 1}", False),
        ("[at, age]", [Timestamp(VALUES["at"]), Duration(VALUES["age"])]),
    ],
)
def test_values(text: str, expected: Any) -> None:
    """An expression gives what CEL says, not what Python would."""
    assert is_same(evaluate(text), expected)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("9223372036854775807 + i", "does not fit in int", "column 21"),
        ("i * 4611686018427387904", "does not fit in int", "column 3"),
        ("-(i - 7 - 9223372036854775807 - 1)", "does not fit in int", "column 1"),
        ("(i - 7 - 9223372036854775807 - 1) / (i - 8)", "does not fit in int", "column 35"),
        ("math.abs(i - 7 - 9223372036854775807 - 1)", "does not fit in int", "column 6"),
        ("(i > 7 ? 1 : 9223372036854775807) + 1", "does not fit in int", "column 35"),
        ("[1, 9223372036854775807][1] + 1", "does not fit in int", "column 29"),
        ("n + 9223372036854775807", "does not fit in int", "column 3"),
        ("w - 4u", "does not fit in uint", "column 3"),
        ("w\n * 9223372036854775807u", "does not fit in uint", "line 2, column 2"),
        ("uint(j)", "does not fit in uint", "column 1"),
        ("int(x * 1e300)", "does not fit in int", ""),
        ("int(0.0 / 0.0)", "does not fit in int", ""),
        ("int(9223372036854775808.0)", "does not fit in int", ""),
        ("int(-9223372036854775808.0)", "does not fit in int", ""),
        ("int('99999999999999999999')", "does not fit in int", ""),
        ("int(' 1')", "no whole number", ""),
        ("int('1_000')", "no whole number", ""),
        ("double('0x1')", "no number", ""),
        ("bool('yes')", "neither", ""),
        ("string(b'\\xff')", "not UTF-8", ""),
        ("i / (i - 7)", "division by zero", "column 3"),
        ("i % (i - 7)", "modulus by zero", "column 3"),
        ("1 / 0", "division by zero", "column 3"),
        ("l[3]", "index 3 in a list of 3", "column 2"),
        ("l[-1]", "index -1", "column 2"),
        ("l[j]", "index -2", "column 2"),
        ("[1][dyn(0.5)]", "0.5 is no index", ""),
        ("[1][dyn(true)]", "True is no index", ""),
        ("m.b", "no key 'b'", "column 3"),
        ("m[s]", "no key", "column 2"),
        ("d.b.c.d", "string has no fields", "column 7"),
        ("has(d.a.b)", "list has no fields", ""),
        ("{s: 1, s: 2}", "is there twice", "column 1"),
        ("{1: 'a', 1u: 'b'}", "is there twice", "column 1"),
        ("{1: 'a', true: 'b'}", "is there twice", "column 1"),
        ("{'a': 1, 'a': 2}", "is there twice", "column 1"),
        ("{n: 1, dyn(1.5): 2}", "a key of double", ""),
        ("y + 1.0", "`y` is null", "column 1"),
        ("1.0 + x * y", "`y` is null", "column 11"),
        ("y > 1.0 && z > 1.0", "`y` is null", "column 1"),
        ("z > 1.0 && y > 1.0", "`y` is null", "column 12"),
        ("z > 2.0 || y > 1.0", "`y` is null", "column 12"),
        ("b && y > 1.0", "`y` is null", "column 6"),
        ("y > 1.0 ? 1 : 2", "`y` is null", "column 1"),
        ("(b ? y : 1.0) + 1.0", "the value is null", "column 4"),
        ("[1.0, null].map(e, e + 1.0)", "`e` is null", "column 20"),
        ("i / (i - 7) > 1 && l[2] == 3", "division by zero", "column 3"),
        ("i / (i - 7) > 1 || l[2] == 4", "division by zero", "column 3"),
        ("l.exists(e, 6 / (2 - e) == 7)", "division by zero", "column 15"),
        ("l.exists_one(e, 6 / (2 - e) == 6)", "division by zero", ""),
        ("n + 1.0", "`+` does not take int, double", "column 3"),
        ("n && b", "int where a bool is needed", "column 1"),
        ("b && n", "int where a bool is needed", "column 6"),
        ("!n", "int where a bool is needed", ""),
        ("n ? 1 : 2", "int where a bool is needed", ""),
        ("n.map(e, e)", "int where a list or map is needed", "column 3"),
        ("1 in n", "looks into a list or map", "column 3"),
        ("n.startsWith('a')", "does not take int, string", ""),
        ("n < 'a'", "does not take int, string", ""),
        ("-d", "does not take map", ""),
        ("math.greatest(dyn('a'), 1)", "string among numbers", ""),
        ("math.least([])", "empty list", ""),
        ("math.bitShiftLeft(1, j)", "a shift by -2", ""),
        ("timestamp('2026-13-01T00:00:00Z')", "is no timestamp", ""),
        ("timestamp('yesterday')", "is no timestamp", ""),
        ("timestamp(999999999999)", "beyond the range", ""),
        ("duration('1 hour')", "is no duration", ""),
        ("duration('9999999h')", "beyond the range", ""),
        ("at.getHours('Mars/Olympus')", "no time zone", "column 4"),
        ("at.getHours('../../etc/passwd')", "no time zone", ""),
        ("timestamp('0001-01-01T00:00:00Z').getHours('-01:00')", "outside of the years", ""),
        (
            "at - timestamp('0001-01-01T00:00:00Z')",
            "does not fit in google.protobuf.Duration",
            "column 4",
        ),
    ],
)
def test_errors(text: str, what: str, where: str) -> None:
    """Where there is no value, the error says what is wrong and where."""
    with pytest.raises(EvaluationError) as failed:
        evaluate(text)
    assert what in failed.value.what
    assert where in failed.value.where


def test_a_variable_without_a_value() -> None:
    """A variable that is missing is an error of the evaluation, named; one that the expression does not use is none."""
    compiled = compile_expression("x > 1.0", VARIABLES)
    assert compiled({"x": 2.0}) is True
    with pytest.raises(EvaluationError, match="`x` has no value"):
        compiled({"i": 1})


def test_python_keywords_are_names() -> None:
    """A variable may have any name CEL allows, whatever Python or the generated code means by it."""
    names = ["class", "lambda", "None_", "values", "missing", "cel_refuse_null", "cel_1", "def.a", "evaluate", "size"]
    text = " + ".join(names)
    variables = dict.fromkeys(names, nullable(INT))
    numbers = {name: 10**at for at, name in enumerate(names)}
    assert compile_expression(text, variables)(numbers) == 1_111_111_111
    assert compile_positional(text, variables)(*numbers.values()) == 1_111_111_111
    with pytest.raises(EvaluationError, match=r"`def\.a` is null"):
        compile_expression(text, variables)(numbers | {"def.a": None})


def test_maps_and_sequences_of_other_kinds() -> None:
    """A list or map may be any sequence or mapping of Python."""
    types = {"m": map_of(STRING, INT), "l": list_of(INT), "d": DYN}
    given_values: dict[str, Any] = {"m": MappingProxyType({"a": 1}), "l": (1, 2), "d": MappingProxyType({"l": (1, 2)})}
    text = (
        "m.a + l[1] + size(d.l) + [1, 2].filter(e, e in l)[0] == 6 && d.l == l && l == [1, 2] && l + [3] == [1, 2, 3]"
    )
    assert compile_expression(text, types)(given_values) is True


def test_functions_of_the_host() -> None:
    """A host's function gets its arguments as they are, and its ValueError is an EvaluationError with a place."""

    def load(watts: float, nominal: float) -> float:
        if nominal <= 0.0:
            raise ValueError("a nominal power of 0")
        return watts / nominal

    functions = STANDARD.including(Function("load", (DOUBLE, DOUBLE), DOUBLE, load))
    variables = {"p": nullable(DOUBLE), "d": DYN}
    compiled = compile_expression("1.0 + load(p, 100.0)", variables, functions)
    assert compiled({"p": 50.0}) == 1.5
    with pytest.raises(EvaluationError, match="line 1, column 12: `p` is null"):
        compiled({"p": None})
    with pytest.raises(EvaluationError, match="line 1, column 1: a nominal power of 0"):
        compile_expression("load(p, 0.0)", variables, functions)({"p": 1.0})
    with pytest.raises(EvaluationError, match="`load` does not take int, double"):
        compile_expression("load(d, 1.0)", variables, functions)({"d": 1})


def test_functions_that_take_and_give_null() -> None:
    """A host's function may take null for an argument, and give it."""
    functions = STANDARD.including(
        Function("orElse", (nullable(DOUBLE), DOUBLE), DOUBLE, lambda one, other: other if one is None else one),
        Function("below", (UINT, UINT), nullable(UINT), lambda one, most: one if one < most else None),
    )
    types = {"y": nullable(DOUBLE), "d": DYN, "w": UINT}
    text = "[orElse(y, 1.0), orElse(null, 2.0), orElse(d, 3.0), orElse(4.0, 0.0), below(w, 5u), below(dyn(w), 9u)]"
    compiled = compile_expression(text, types, functions)
    assert is_same(compiled({"y": None, "d": None, "w": 7}), [1.0, 2.0, 3.0, 4.0, None, Uint(7)])
    assert is_same(compiled({"y": 1.5, "d": 2.5, "w": 3}), [1.5, 2.0, 2.5, 4.0, Uint(3), Uint(3)])


def test_functions_of_nothing_are_called_each_time() -> None:
    """A function without arguments is not taken for a constant."""
    ticks = iter(range(10))
    functions = STANDARD.including(Function("tick", (), INT, lambda: next(ticks)))
    compiled = compile_expression("tick() + tick()", {}, functions)
    assert [compiled({}), compiled({})] == [1, 5]


@pytest.mark.parametrize("text", ["[s, s, s, s].map(e, e + e + e + e)", "dyn(s) + s + s + s + s"])
def test_texts_are_bounded(text: str) -> None:
    """`+` makes no text that is longer than the limit, so a chain of macros cannot eat the memory."""
    with pytest.raises(EvaluationError, match=f"more than {MAX_LETTERS}"):
        evaluate(text, s="x" * (MAX_LETTERS // 3))


def test_lists_are_bounded() -> None:
    """Neither does `+` make longer lists."""
    assert len(evaluate("l + l", l=[0] * (MAX_ELEMENTS // 2))) == MAX_ELEMENTS
    with pytest.raises(EvaluationError, match=f"more than {MAX_ELEMENTS}"):
        evaluate("l + l", l=[0] * MAX_ELEMENTS)


@given(st.integers(*LIMITS[TIMESTAMP]))
def test_timestamps_as_text(time_ns: int) -> None:
    """Every timestamp is read back from its text, to the nanosecond."""
    assert timestamp_of_text(text_of_timestamp(time_ns)) == time_ns


@given(st.integers(*LIMITS[DURATION]))
def test_durations_as_text(duration_ns: int) -> None:
    """Every duration is read back from its text, to the nanosecond."""
    assert duration_of_text(text_of_duration(duration_ns)) == duration_ns


@given(st.text(max_size=30) | st.text("0123456789-+:.TZhmsun", max_size=30))
def test_arbitrary_times(text: str) -> None:
    """Any text is a timestamp or duration in range, or refused with ValueError."""
    for read, kind in ((timestamp_of_text, TIMESTAMP), (duration_of_text, DURATION)):
        low, high = LIMITS[kind]
        with suppress(ValueError):
            assert low <= read(text) <= high
