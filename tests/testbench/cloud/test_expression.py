"""The condition language: what expressions are worth, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.conditions.expression import MAX_CHARACTERS, ExpressionRefused, unescaped
from edge_gateway.testbench.cloud.conditions.values import UNDEFINED, Outcome
from edge_gateway.testbench.cloud.edge.routes import RoutedMessage, parse_route
from edge_gateway.testbench.cloud.service.query import parse_condition

PROPERTIES = {"level": "3", "name": "pump7", "Site": "Ulm"}


def value(text: str) -> Outcome:
    """What an expression of the routes' language is worth for a message with `PROPERTIES`."""
    route = parse_route(f"FROM /messages WHERE {text} INTO $upstream")
    return route.condition.evaluate(RoutedMessage(PROPERTIES, {}, b""))


def chosen(text: str, document: Mapping[str, Value]) -> Outcome:
    return parse_condition(text).term.evaluate(document)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("7 % 4", 3),
        ("-7 % 4", -3),
        ("3 / 4", 0.75),
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("1 % 0", UNDEFINED),
        ("0 / 0", UNDEFINED),
        ("0x1F + .5", 31.5),
        ("1e3 = 1000", True),
        ("1 < 2 = true", True),
        ("true OR true AND false", True),
        ("(true OR true) AND false", False),
        ("not false and true", True),
        ("'a' || 'b' || 'c' = 'abc'", True),
        ("nothing ?? 'x' || 'y'", "xy"),
        ("nothing ?? none ?? 'x'", "x"),
        ("'it\\'s' = \"it's\"", True),
        ("'\\u0041'", "A"),
        ("level = '3' /*three*/ AND site = 'Ulm'", True),
    ],
)
def test_operators(text: str, outcome: Outcome) -> None:
    """Operators bind and group as in edgeHub's grammar, and arithmetic is that of doubles."""
    assert value(text) == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("nothing = 'x'", UNDEFINED),
        ("nothing != 'x'", UNDEFINED),
        ("NOT (nothing = 'x')", UNDEFINED),
        ("nothing = 'x' OR true", True),
        ("nothing = 'x' OR false", UNDEFINED),
        ("nothing = 'x' AND false", False),
        ("nothing = 'x' AND true", UNDEFINED),
        ("true AND true AND nothing = 'x' AND false", False),
        ("AS_NUMBER(nothing) + 1", UNDEFINED),
        ("undefined", UNDEFINED),
        ("null", None),
        ("null = null", True),
        ("null != null", False),
        ("not null", True),
        ("null or true", True),
        ("null or false", False),
        ("(null and true) = null", True),
        ("(null or null) = null", True),
    ],
)
def test_undefined_and_null(text: str, outcome: Outcome) -> None:
    """What is made of something undefined is undefined, unless the rest decides; null is a value, and not true."""
    result = value(text)
    assert result is outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("ABS(-2.5)", 2.5),
        ("EXP(0)", 1),
        ("EXP(4000)", math.inf),
        ("POWER(2, 10)", 1024),
        ("POWER(10, 4000)", math.inf),
        ("POWER(-10, 4001)", -math.inf),
        ("POWER(0, -1)", math.inf),
        ("POWER(-8, 0.5)", UNDEFINED),
        ("SQUARE(-3)", 9),
        ("CEILING(2.1)", 3),
        ("CEILING(1 / 0)", math.inf),
        ("FLOOR(-2.1)", -3),
        ("SIGN(-2)", -1),
        ("SIGN(0)", 0),
        ("SQRT(9)", 3),
        ("SQRT(-1)", UNDEFINED),
        ("AS_NUMBER(level) + 1", 4),
        ("AS_NUMBER(' 1,000.5 ')", 1000.5),
        ("AS_NUMBER('10e1000')", math.inf),
        ("AS_NUMBER('1_000')", UNDEFINED),
        ("AS_NUMBER(name)", UNDEFINED),
        ("AS_NUMBER(5)", 5),
        ("IS_BOOL(true)", True),
        ("IS_BOOL(name)", False),
        ("IS_DEFINED(name)", True),
        ("IS_DEFINED(nothing)", False),
        ("IS_DEFINED(null)", True),
        ("IS_DEFINED(undefined)", False),
        ("IS_NULL(null)", True),
        ("IS_NULL(name)", False),
        ("IS_NUMBER(1)", True),
        ("IS_NUMBER(1 / 0)", False),
        ("IS_NUMBER(name)", False),
        ("IS_STRING(name)", True),
        ("IS_STRING(nothing)", False),
        ("CONCAT('a', name, 'z')", "apump7z"),
        ("CONCAT('a', nothing)", UNDEFINED),
        ("LENGTH(name)", 5),
        ("LOWER(Site)", "ulm"),
        ("UPPER(Site)", "ULM"),
        ("SUBSTRING(name, 4)", "7"),
        ("SUBSTRING(name, 5)", ""),
        ("SUBSTRING(name, 6)", UNDEFINED),
        ("SUBSTRING(name, 1, 2)", "um"),
        ("SUBSTRING(name, 1, 9)", UNDEFINED),
        ("INDEX_OF(name, 'mp')", 2),
        ("INDEX_OF(name, 'x')", -1),
        ("STARTS_WITH(name, 'pu')", True),
        ("ENDS_WITH(name, 'pu')", False),
        ("CONTAINS(name, 'ump')", True),
        ("contains(nothing, 'ump')", UNDEFINED),
    ],
)
def test_functions(text: str, outcome: Outcome) -> None:
    """Each function's value, and undefined where it has none."""
    assert value(text) == outcome


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("", 16),
        ("(1 = 1", 22),
        ("1 = 1)", 20),
        ("1 = = 1", 19),
        ("1 = @ 1", 19),
        ("'open", 15),
        ('x = "', 19),
        ("name > 5", 20),
        ("name AND true", 20),
        ("1 + 'a'", 17),
        ("'a' || 5", 19),
        ("name ?? 5", 20),
        ("-(name)", 15),
        ("NOT name = 'x'", 15),
        ("1 + undefined", 17),
        ("NOPE(1)", 15),
        ("ABS(name)", 15),
        ("ABS(1, 2)", 15),
        ("CONCAT('a')", 15),
        ("SUBSTRING('a')", 15),
        ("STARTSWITH(name, 'a')", 15),
        ("name = from", 22),
        ("name[0] = 'a'", 15),
        ("name IN ['a']", 20),
        ("{name} = 'a'", 15),
    ],
)
def test_refused_with_the_place(text: str, character: int) -> None:
    """What cannot work is refused when it is read; the error has the place, and the route's name."""
    with pytest.raises(ExpressionRefused) as refused:
        parse_route(f"FROM /* WHERE {text} INTO $upstream", "hot")
    assert f"route hot, character {character}" in str(refused.value)
    assert refused.value.position == character - 1


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000,
        "(" * 200 + "true" + ")" * 200,
        "NOT " * 2000 + "true",
        "- " * 2000 + "(1)",
        "ABS(" * 200 + "1" + ")" * 200 + " > 0",
        "1 = " + "1 + " * 1000 + "1",
        "true" + " = true" * 1000,
        "/*" * 4000,
        "'\"" * 4000,
        "x" * MAX_CHARACTERS,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_text(text: str) -> None:
    """Text that nests or goes on without end is refused like any other, whatever the language."""
    with pytest.raises(ExpressionRefused):
        parse_route(f"FROM /* WHERE {text} INTO $upstream")
    with pytest.raises(ExpressionRefused):
        parse_condition(f"({text}")


def test_many_operands() -> None:
    """A list of hundreds of devices joined by OR is no depth, and is evaluated."""
    condition = " OR ".join(f"deviceId = 'd{number}'" for number in range(300))
    assert chosen(condition, {"deviceId": "d299"}) is True


@pytest.mark.parametrize("text", ["1 = " + "1 + " * 150 + "1", "(" * 40 + "true" + ")" * 40])
def test_within_the_limits(text: str) -> None:
    """What is just within the limits is read and evaluated."""
    assert isinstance(value(text), bool)


@given(st.text(max_size=200))
def test_arbitrary_text(text: str) -> None:
    """Any text is read or refused, never another error."""
    with suppress(ExpressionRefused):
        parse_condition(text).holds({})
    with suppress(ExpressionRefused):
        value(text)


PIECES = (  # noqa: SIM905  # a list of literals would take a page
    "( ) [ ] { } , + - * / % = != <> < <= > >= || ?? AND OR NOT IN NIN true false null undefined "
    "1 -2 .5 0x1 1e3 'a' \"b\" level tags.x $body.a[0].b $contentType ABS( IS_DEFINED( CONCAT( [[a.b]]"
).split()


@given(st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join))
def test_arbitrary_pieces(text: str) -> None:
    """Any order of the language's own pieces is read and evaluated, or refused."""
    with suppress(ExpressionRefused):
        parse_condition(text).holds({"level": 1, "tags": {"x": "y"}})
    with suppress(ExpressionRefused):
        value(text)


comparable: st.SearchStrategy[bool | float | str] = (
    st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-99, 99) | st.text("ab", max_size=2)
)


@given(comparable, comparable)
def test_comparisons_agree(left: bool | float | str, right: bool | float | str) -> None:
    """Of values of one kind exactly one of `<`, `=` and `>` holds, as in Python; of two kinds they are not equal."""
    document = {"a": left, "b": right}
    outcomes = [chosen(f"a {comparison} b", document) for comparison in ("<", "=", ">")]
    if isinstance(left, bool) is isinstance(right, bool) and isinstance(left, str) is isinstance(right, str):
        assert outcomes == [left < right, left == right, left > right]  # type: ignore[operator]  # of one kind
    else:
        assert outcomes == [UNDEFINED, False, UNDEFINED]


@given(st.lists(st.sampled_from(["true", "false", "undefined"]), min_size=2, max_size=5))
def test_three_valued_logic(operands: Sequence[str]) -> None:
    """One true decides OR, one false decides AND; an undefined operand leaves undefined what is not decided."""
    conjunction = False if "false" in operands else UNDEFINED if "undefined" in operands else True
    disjunction = True if "true" in operands else UNDEFINED if "undefined" in operands else False
    assert value(" AND ".join(operands)) is conjunction
    assert value(" OR ".join(operands)) is disjunction


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=30))
def test_quoting(text: str) -> None:
    """Every text can be written in quotes and is read back."""
    escaped = "".join(f"\\u{ord(letter):04x}" if letter in "\\'\"" else letter for letter in text)
    assert unescaped(escaped) == text
    assert chosen(f"a = '{escaped}'", {"a": text}) is True
