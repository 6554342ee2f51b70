"""Patterns of `matches`: Python's answers, in linear time."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.cel.pattern import MAX_CACHED, MAX_PATTERN, compile_pattern

atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "[a-c]", r"\d", r"\w", r"\W", r"\.", "^", "$", r"\n", r"\x61", "[]a]", r"[\d-]"]
)
repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,1}", "{1,}", "*?", "+?", "??"])
patterns = st.recursive(
    st.tuples(atoms, repeats).map(lambda pair: pair[0] + (pair[1] if pair[0] not in "^$" else "")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join).map(lambda each: f"({each})"),
        st.tuples(inner, repeats).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=8,
)


@given(patterns, st.lists(st.text("abc1.\né", max_size=12), max_size=4))
def test_same_as_python(pattern: str, texts: list[str]) -> None:
    """A pattern of the common subset occurs where Python says; `$` is the end, never a line's."""
    search = compile_pattern(pattern)
    theirs = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
    for text in (*texts, ""):
        assert search(text) is (theirs.search(text) is not None), text


@given(st.text(max_size=40) | st.text(r"ab()[]{}|*+?.^$\d-,1:", max_size=40))
def test_arbitrary_pattern(pattern: str) -> None:
    """Any text is a pattern, which answers, or is refused with ValueError."""
    with suppress(ValueError):
        assert compile_pattern(pattern)("aaa") in (True, False)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "^(a|a)*$", "(a|aa)+$", "(.*)*b$", "a?" * 30 + "a" * 30 + "$", "(((a*)*)*)*b", "(a{1,30}){1,9}b"],
)
def test_linear_time(pattern: str) -> None:
    """Patterns over which Python's engine would outlive us take a moment."""
    search = compile_pattern(pattern)
    started = time.perf_counter()
    assert search("a" * 5000 + "c") is False
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("pattern", ["^$", "$^", "", "a*", "(^|b)($|c)"])
def test_nothing(pattern: str) -> None:
    """An empty text begins and ends at once."""
    assert compile_pattern(pattern)("")


def test_many_letters() -> None:
    """More letters than are remembered make no difference but in time."""
    search = compile_pattern("^[^x]*y$")
    text = "".join(chr(0x4E00 + at) for at in range(MAX_CACHED + 500))
    assert search(text + "y")
    assert not search(text)
    assert search("y")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(", "without its `)`"),
        (")", "without its `(`"),
        ("a)", "without its `(`"),
        ("*", "not understood"),
        ("a**", "repetition of a repetition"),
        ("a{2}{3}", "repetition of a repetition"),
        ("[a", "not understood"),
        ("[b-a]", "bad character range"),
        ("[[:alpha:]]", "not understood"),
        ("[a&&b]", "doubled"),
        (r"\b", "not understood"),
        (r"\1", "not understood"),
        (r"\pL", "not understood"),
        ("(?i)a", "only `(?:`"),
        ("(?=a)", "only `(?:`"),
        ("(?P<n>a)", "only `(?:`"),
        ("a{3,2}", "from 3 to 2"),
        ("{", "not understood"),
        ("a{1000}{2}", "repetition"),
        ("a{2000}", "repeats too much"),
        ("((){1000}){1000}", "repeats too much"),
        ("(((a{10}){10}){10}){10}", "repeats too much"),
        ("(" * 30 + ")" * 30, "groups in each other"),
        ("a" * (MAX_PATTERN + 1), f"at most {MAX_PATTERN}"),
    ],
)
def test_errors(pattern: str, what: str) -> None:
    """What is not understood is refused, with a reason."""
    with pytest.raises(ValueError, match=re.escape(what)):
        compile_pattern(pattern)
