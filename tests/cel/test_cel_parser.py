"""Texts as people and attackers write them: a tree, or an error that helps."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_gateway.cel import ExpressionError, parse
from edge_gateway.cel.lexer import MAX_CHARACTERS
from edge_gateway.cel.parser import MAX_HEIGHT
from edge_gateway.cel.syntax import Literal, Node


def shape(node: Node) -> Any:
    """A tree as nested tuples, without positions."""
    if isinstance(node, Literal):
        return node.value
    plain = [getattr(node, name) for name in type(node).__slots__]
    return (type(node).__name__, *(_shape_of(part) for part in plain))


def _shape_of(part: Any) -> Any:
    if isinstance(part, Node):
        return shape(part)
    return tuple(map(_shape_of, part)) if isinstance(part, tuple) else part


def literal(text: str) -> Any:
    root = parse(text).root
    assert isinstance(root, Literal)
    return root.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("007", 7),
        ("-9223372036854775808", -(2**63)),
        ("- 7", -7),
        ("0xFf", 255),
        ("-0x10", -16),
        ("18446744073709551615u", 2**64 - 1),
        ("0xFFu", 255),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.5E-2", 0.015),
        ("-2.5", -2.5),
        ("true", True),
        ("null", None),
        (r"'a\n\t\\\'\x41\u00e9\U0001F600\101'", "a\n\t\\'Aé\U0001f600A"),
        ('"it\'s"', "it's"),
        ("r'\\d+'", r"\d+"),
        ("'''two\nlines 'quoted' '''", "two\nlines 'quoted' "),
        ('r"""\\"""', "\\"),
        ("b'\\xff\\377\\n'", b"\xff\xff\n"),
        ("b'ÿ'", "ÿ".encode()),
        ("B'''a\nb'''", b"a\nb"),
        ("bR'\\x'", b"\\x"),
        ("7 // a comment", 7),
        ("// first\n7", 7),
    ],
)
def test_literals(text: str, value: Any) -> None:
    """A literal is the value the specification says."""
    assert literal(text) == value
    assert type(literal(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a * b / c % d", "((a * b) / c) % d"),
        ("a < b == c", "(a < b) == c"),
        ("a + b < c in d", "((a + b) < c) in d"),
        ("a || b && c", "a || (b && c)"),
        ("a && b < c", "a && (b < c)"),
        ("a ? b : c ? d : e", "a ? b : (c ? d : e)"),
        ("a || b ? c : d", "(a || b) ? c : d"),
        ("!a.b", "!(a.b)"),
        ("-a[0]", "-(a[0])"),
        ("--a", "-(-a)"),
        ("-1.5.f()", "(-1.5).f()"),
        ("a.b.c(d)[e]", "(((a).b).c(d))[e]"),
        ("[a, b,]", "[a, b]"),
        ("{a: b, c: d,}", "{a: b, c: d}"),
        ("a.`b`", "a.b"),
        ("a.in_", "(a).in_"),
        ("m.while", "(m).while"),
    ],
)
def test_grouping(text: str, same: str) -> None:
    """Operators bind as the specification's table says."""
    assert shape(parse(text).root) == shape(parse(same).root)


def test_logic_is_flat() -> None:
    """Operands in a row are beside each other, so that hundreds of them are no deep tree."""
    root = parse(" && ".join(["a"] * 500)).root
    assert len(list(root.children)) == 500


@pytest.mark.parametrize(
    ("text", "line", "column", "what", "remedy"),
    [
        ("", 1, 1, "the end where a value", ""),
        ("1 +", 1, 4, "the end where a value", ""),
        ("(1", 1, 3, "the end", "`)`"),
        ("1 2", 1, 3, "`2` after the end", "operator may be missing"),
        ("a and b", 1, 3, "`and`", "`&&`"),
        ("a = b", 1, 3, "`=`", "`==`"),
        ("a &\n& b", 1, 3, "`&`", "`&&`"),
        ("a\n  | b", 2, 3, "`|`", "`||`"),
        ("a ? b", 1, 6, "the end", "`:`"),
        ("'abc", 1, 1, "without its closing '", "three quotes"),
        ("'a\nb'", 1, 1, "without its closing '", "three quotes"),
        (r"'a\sb'", 1, 3, r"`\s` is not an escape", "r before"),
        (r"'\ud800'", 1, 2, "is not a code point", ""),
        (r"b'\u0041'", 1, 3, "is not an escape", ""),
        ("9223372036854775808", 1, 1, "does not fit in int", "9223372036854775807"),
        ("-9223372036854775809", 1, 2, "does not fit in int", ""),
        ("18446744073709551616u", 1, 1, "does not fit in uint", ""),
        ("1e999", 1, 1, "beyond the greatest double", ""),
        ("if", 1, 1, "`if` is reserved", "another name"),
        ("in", 1, 1, "`in` where a value", ""),
        ("a.1", 1, 2, "`.1` after the end", ""),
        ("a.true", 1, 3, "`true` where the name of a field", ""),
        ("[1 2]", 1, 4, "`2`", "`,` or `]`"),
        ("{1}", 1, 3, "`}`", "`:`"),
        ("f(a,)", 1, 5, "`)` where a value", ""),
        ("T{a: 1}", 1, 2, "no message types", "{'key': value}"),
        ("has(a)", 1, 1, "`has` takes one field", "variable != null"),
        ("l.map(1, x)", 1, 7, "name for an element", "map(x, ...)"),
        ("!-a", 1, 2, "`-` after `!`", "parentheses"),
        ("a.b = c", 1, 5, "`=`", "`==`"),
        ("a.`b`()", 1, 6, "`(` after the end", ""),
    ],
)
def test_errors(text: str, line: int, column: int, what: str, remedy: str) -> None:
    """An error names line and column, what was found, and what would do."""
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    error = refused.value
    assert (error.line, error.column) == (line, column)
    assert error.where == f"line {line}, column {column}"
    assert what in error.what
    assert remedy in error.remedy


PIECES = [
    *["a", "b", "_", "in", "true", "null", "has", "if", "1", "-7", "2u", "1.5", ".5", "0x1f", "1e9", "1e999", "9" * 20],
    *[
        "'a'",
        '"b"',
        "b'c'",
        r"r'\d'",
        "''" + "'",
        '"""',
        "'",
        "\\",
        "`",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        ":",
        "?",
    ],
    *["!", "-", "+", "*", "/", "%", "<", "<=", ">=", ">", "==", "!=", "&&", "||", "&", "|", "=", "@"],
    *[".map(", ".all(", ".exists(", "has(", "//", "\n", "é", "\U0001f600", "\0"],
]


@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join))
@example("\ud800")
@example("b'\ud800'")
def test_arbitrary_text(text: str) -> None:
    """Any text is a tree or an ExpressionError that points into it."""
    error = refusal(text)
    if error is not None:
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(text) + 1
        assert error.what


def refusal(text: str) -> ExpressionError | None:
    try:
        parse(text)
    except ExpressionError as error:
        return error
    return None


BOMBS = [
    "(",
    "[",
    "{",
    "{1:",
    "!",
    "-",
    "--",
    "-(",
    "f(",
    "a.f(",
    "a[",
    "a?",
    "a?b:",
    "[a,",
    "a.all(x,",
    "has(",
    "'",
    "b'",
    "'''",
    "a.",
    "a+",
    "a==",
    "a&&",
    "a||",
    "a.b.",
    "a[0]",
    "a()",
    "//",
    "1",
    "`",
    "\\",
    "a?a:a?",
    "(a)+(",
    "x in ",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_depth_bombs(bomb: str) -> None:
    """Text that goes on for ever is refused, or read, in bounded depth."""
    for end in ("", "a", ")", "]"):
        with suppress(ExpressionError):
            parse((bomb * MAX_CHARACTERS)[: MAX_CHARACTERS - 1] + end)


def test_length_is_bounded() -> None:
    """Longer text is not even looked at."""
    with pytest.raises(ExpressionError, match=f"At most {MAX_CHARACTERS}"):
        parse(" " * MAX_CHARACTERS + "1")


@pytest.mark.parametrize(
    "form",
    ["({})", "[{}]", "{{1: {}}}", "-({})", "f({})", "{}.f()", "{}[0]", "{}.a", "{} + a", "{} == a", "a ? b : {}"],
)
def test_height_is_bounded(form: str) -> None:
    """The specification's 32 levels of any kind are read; MAX_HEIGHT and more are not."""
    text = "a"
    for _ in range(32):
        text = form.format(text)
    parse(text)
    for _ in range(MAX_HEIGHT):
        text = form.format(text)
    with pytest.raises(ExpressionError, match=r"[Aa]t most"):
        parse(text)


def test_macros_in_macros_are_bounded() -> None:
    """Each macro in another multiplies the work, so there are two at most; one after another are no such thing."""
    parse("l.all(x, l.all(y, x < y))")
    parse("l.map(x, x).filter(x, x > 1).map(x, x).all(x, true)")
    with pytest.raises(ExpressionError, match="macros in each other"):
        parse("l.all(x, l.all(y, l.all(z, true)))")
