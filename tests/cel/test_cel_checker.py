"""Types: what is accepted, what it is, and what the error says would do."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_gateway.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STANDARD,
    STRING,
    TIMESTAMP,
    UINT,
    EvaluationError,
    ExpressionError,
    Function,
    check,
    compile_expression,
    list_of,
    map_of,
    nullable,
    parse,
)

VARIABLES = {
    "temperature": DOUBLE,
    "humidity": nullable(DOUBLE),
    "battery": nullable(DOUBLE),
    "counter": INT,
    "ticks": UINT,
    "name": STRING,
    "raw": BYTES,
    "open": BOOL,
    "at": TIMESTAMP,
    "age": DURATION,
    "samples": list_of(DOUBLE),
    "limits": map_of(STRING, DOUBLE),
    "gaps": list_of(nullable(INT)),
    "anything": DYN,
    "device.address": INT,
    "device.name.short": STRING,
}


def type_of(text: str) -> str:
    return str(check(parse(text), VARIABLES).type)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature * 2.0 > 3.0 && open", "bool"),
        ("temperature > counter", "bool"),
        ("counter + 1", "int"),
        ("ticks % 2u", "uint"),
        ("name + 'x'", "string"),
        ("raw + b'x'", "bytes"),
        ("at - at", "google.protobuf.Duration"),
        ("at + age", "google.protobuf.Timestamp"),
        ("[1, 2]", "list(int)"),
        ("[1, 'a']", "list(dyn)"),
        ("[]", "list(dyn)"),
        ("[] + [1]", "list(int)"),
        ("[null, 1.0]", "list(double or null)"),
        ("[[], [1]]", "list(list(int))"),
        ("{'a': 1}", "map(string, int)"),
        ("{}", "map(dyn, dyn)"),
        ("samples[0]", "double"),
        ("[][0]", "dyn"),
        ("[].map(x, x)[0].a.b", "dyn"),
        ("limits.low", "double"),
        ("limits['low']", "double"),
        ("humidity", "double or null"),
        ("humidity + 1.0", "double"),
        ("humidity == battery", "bool"),
        ("open ? humidity : 1.0", "double or null"),
        ("open ? null : 1.0", "double or null"),
        ("samples.map(x, x > 1.0)", "list(bool)"),
        ("samples.filter(x, x > 1.0)", "list(double)"),
        ("limits.map(k, k)", "list(string)"),
        ("gaps[0] + 1", "int"),
        ("anything", "dyn"),
        ("anything + 1", "int"),
        ("anything + anything", "dyn"),
        ("anything.a.b[0] > 1", "bool"),
        ("size(anything)", "int"),
        ("type(counter) == int", "bool"),
        ("device.address + 1", "int"),
        ("device.name.short.size()", "int"),
        ("math.greatest(1, 2, 3)", "int"),
        ("math.greatest(temperature, humidity)", "double"),
        ("math.greatest(1, 2.0)", "dyn"),
        ("math.least(samples)", "double"),
        ("math.least([1, 2u])", "dyn"),
        ("at.getHours('UTC')", "int"),
        # Beside a question for null a value is there.
        ("humidity != null ? humidity : 0.0", "double"),
        ("humidity == null ? 0.0 : humidity", "double"),
        ("null != humidity ? humidity : 0.0", "double"),
        ("!(humidity == null) ? humidity : 0.0", "double"),
        ("humidity != null && battery != null ? humidity - battery : 0.0", "double"),
        ("humidity == null || open ? 0.0 : humidity", "double"),
        ("humidity == null && open ? 0.0 : humidity", "double or null"),
        ("humidity != null || open ? humidity : 0.0", "double or null"),
        ("gaps.map(x, x != null, x)", "list(int)"),
        ("gaps.exists(x, x != null && x > 1)", "bool"),
        ("humidity != null && humidity != null", "bool"),
    ],
)
def test_types(text: str, expected: str) -> None:
    """An expression has the type the specification gives it."""
    assert type_of(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "what", "remedy"),
    [
        ("temprature > 1.0", 1, "there is no `temprature`", "Did you mean `temperature`?"),
        ("qqq", 1, "there is no `qqq`", "There are"),
        ("device", 1, "there is no `device`", "`device.address`"),
        ("device.adress", 1, "there is no `device`", "`device.address`"),
        ("samples.all(x, y > x)", 16, "there is no `y`", ""),
        ("sise(name)", 1, "no function `sise`", "`size`"),
        ("name.startWith('a')", 6, "no function `startWith`", "`startsWith`"),
        ("abs(counter)", 1, "no function `abs`", "`math.abs`"),
        ("startsWith(name, 'a')", 1, "called in another way", "`string.startsWith(string)`"),
        ("name.int()", 6, "called in another way", "`int("),
        ("temperature * 2", 13, "`*` does not take double, int", "Write `2.0` for `2`"),
        ("2 * temperature", 3, "`*` does not take int, double", "Write `2.0` for `2`"),
        ("-3 + temperature", 4, "does not take", "Write `-3.0` for `-3`"),
        ("counter + 2u", 9, "`+` does not take int, uint", "Write `2` for `2u`"),
        ("ticks + 2", 7, "`+` does not take uint, int", "Write `2u` for `2`"),
        ("temperature + counter", 13, "`+` does not take double, int", "`double(counter)`"),
        ("counter + ticks", 9, "`+` does not take int, uint", "`int(ticks)`"),
        ("humidity * 2", 10, "does not take double or null, int", "Write `2.0` for `2`"),
        ("7.5 % 2.0", 5, "`%` does not take double, double", "`int % int`"),
        ("temperature == 2", 13, "compares double with int", "Write `2.0` for `2`"),
        ("name == 2", 6, "compares string with int", "never equal"),
        ("counter == null", 9, "int is never null", ""),
        ("counter in samples", 9, "looks for int in list(double)", "elements are double"),
        ("counter in name", 9, "looks into a list or map", ""),
        ("temperature && open", 1, "takes bool, and this is double", "x > 0.0"),
        ("!counter", 2, "takes bool, and this is int", "x != 0"),
        ("counter ? 1 : 2", 1, "takes bool", "x != 0"),
        ("open ? 1 : 2.0", 6, "int for true and double for false", "Write `1.0` for `1`"),
        ("open ? 1 : 'a'", 6, "int for true and string for false", ""),
        ("name.low", 6, "string has no field `low`", "map"),
        ("name[0]", 5, "`[ ]` does not take string, int", ""),
        ("samples['a']", 8, "`[ ]` does not take list(double), string", ""),
        ("limits[1]", 7, "does not take map(string, double), int", ""),
        ("has(name.a)", 1, "string has no field", ""),
        ("counter.map(x, x)", 9, "goes through a list or map", ""),
        ("samples.all(x, x)", 16, "takes bool, and this is double", ""),
        ("{1.5: 1}", 2, "double cannot be a key", "int, uint, bool or string"),
        ("size(1)", 1, "`size` does not take int", "`size(string)`"),
        ("name.matches(name)", 14, "needs a constant", "in quotes"),
        ("name.matches('(')", 14, "`(` without its `)`", ""),
        ("gaps.map(x, x * 2.0)", 15, "`*` does not take int or null, double", ""),
        ("math.sqrt('a')", 6, "`math.sqrt` does not take string", "`math.sqrt(double)`"),
        ("null + 1", 6, "does not take null_type, int", ""),
    ],
)
def test_errors(text: str, column: int, what: str, remedy: str) -> None:
    """A mistake is told where it is, with what would do instead."""
    with pytest.raises(ExpressionError) as refused:
        check(parse(text), VARIABLES)
    error = refused.value
    assert error.column == column, error
    assert what in error.what, error
    assert remedy in error.remedy, error


def test_names() -> None:
    """Variables used are reported with their types; a macro's element hides one, unless it is written with a dot."""
    checked = check(parse("samples.exists(counter, counter > 1.0) && .counter > 1 && device.address > 1"), VARIABLES)
    assert list(checked.variables) == ["samples", "counter", "device.address"]
    assert checked.variables["counter"] == INT


def test_a_type_name_may_be_a_variable() -> None:
    """`int` and the like are types where no variable has the name."""
    assert str(check(parse("int"), {}).type) == "type"
    assert check(parse("int"), {"int": DOUBLE}).type == DOUBLE


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("near(1.0)", True),
        ("near(1.0, 2.0)", True),
        ("near(humidity, 2.0, 3.0)", True),
        ("near()", False),
        ("near(1)", False),
        ("near(anything)", True),
        ("name.near('x')", True),
        ("name.near(1)", False),
        ("site()", True),
        ("site(1)", False),
        ("mean(samples)", True),
        ("mean([1.0, humidity])", False),
        ("mean([])", True),
        ("mean([anything])", False),
        ("mean(anything)", True),
        ("first(gaps) == null", True),
        ("plant.load(1.0) > 2.0", True),
    ],
)
def test_functions_of_the_host(text: str, fits: bool) -> None:
    """A host's functions are checked as ours are. What is in a list has to be known to fit."""
    functions = STANDARD.including(
        Function("near", (DOUBLE, DOUBLE), BOOL, lambda *numbers: len(numbers) > 1, is_variadic=True),
        Function("near", (STRING, STRING), BOOL, str.startswith, is_method=True),
        Function("site", (), STRING, lambda: "north"),
        Function("mean", (list_of(DOUBLE),), DOUBLE, lambda numbers: sum(numbers) / len(numbers)),
        Function("first", (list_of(nullable(INT)),), nullable(INT), lambda numbers: numbers[0]),
        Function("plant.load", (DOUBLE,), DOUBLE, abs),
    )
    if fits:
        check(parse(text), VARIABLES, functions)
    else:
        with pytest.raises(ExpressionError):
            check(parse(text), VARIABLES, functions)


WORDS = (*VARIABLES, "x", "int", "type", "true", "null", "1", "2u", "1.5", "'a'", "b'a'", "{}", "[]")
SIGNS = (*"((()))[]{},,..:?!-+*/%<", "==", "!=", "&&", "||", "in")
CALLS = (".map(x,", ".all(x,", ".exists(x,", ".filter(x,", ".matches(", ".getHours(", "has(", "size(", "dyn(", "_in_(")


@given(st.lists(st.sampled_from([*WORDS, *SIGNS, *CALLS]), max_size=25).map(" ".join))
@example("_in_(1)")
@example("[][0] + [][0]")
def test_any_tree(text: str) -> None:
    """Whatever parses is checked, compiled and evaluated, or refused with errors of ours."""
    values = dict.fromkeys(VARIABLES)
    with suppress(ExpressionError, EvaluationError):
        compile_expression(text, dict.fromkeys(VARIABLES, DYN))(values)
    with suppress(ExpressionError):
        compile_expression(text, VARIABLES)
