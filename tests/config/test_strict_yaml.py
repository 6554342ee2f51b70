"""The YAML that people type: no surprises, no bombs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ConfigError


def parse(text: str) -> Any:
    return parse_yaml(text, where="f", error_type=ConfigError)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "2026-01-01", "12:30", "010", "1_000", ".nan", ".inf"])
def test_words_that_look_like_something_else_to_old_yaml_stay_text(word: str) -> None:
    """`arguments: {on: 1}` has a key `on`, and a date or a time of day is the text it looks like."""
    assert parse(f"{{{word}: [{word}]}}") == {word: [word]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-17", -17),
        ("0x1F", 31),
        ("1e3", 1000.0),
        (".5", 0.5),
    ],
)
def test_plain_values_are_what_they_say(text: str, value: object) -> None:
    """Booleans, null and numbers are read as YAML 1.2's core schema says."""
    assert parse(text) == value


def test_a_few_lines_do_not_unfold_into_gigabytes() -> None:
    """Nested aliases are refused at the first, before anything is unfolded."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ConfigError, match=r"f:2: the alias \*a"):
        parse(bomb)


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    """Brackets without end are refused."""
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse("[" * 10_000)


_plain = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
# YAML wants DEL escaped, which JSON does not; half a character (Cs) is no text.
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
_json = st.recursive(
    _plain | _texts,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(_texts, each, max_size=3),
    max_leaves=8,
)


@given(_json)
def test_json_reads_as_json(document: Any) -> None:
    """What a twin sends is YAML, too, and means the same."""
    assert parse(json.dumps(document)) == document


def test_half_a_character_is_refused() -> None:
    """Two escapes that make one character are joined; one alone, which no encoding can carry, is an error."""
    assert parse('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    with pytest.raises(ConfigError, match=r"f:2: half a character"):
        parse('- a\n- "\\ud83d"')


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@?#, \n\t0.~\x00é"), max_size=40))
def test_any_text_gives_a_value_or_an_error(text: str) -> None:
    """Whatever a file holds, reading it ends in a value or in the one error, which says where."""
    try:
        parse(text)
    except ConfigError as error:
        told = error
    else:
        return
    assert told.where.startswith("f")
    assert told.remedy
