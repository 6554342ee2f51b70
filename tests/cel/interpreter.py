"""CEL evaluated node by node, as slowly and plainly as the specification reads; what compiled code is held against.

It knows no static types, nulls or bounds. Every value carries its type: `("int", 5)`. A list is
`("list", [value, ...])` and a map `("map", [(key, value), ...])`, so that none of Python's own equalities is at work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeAlias

from edge_gateway.cel.syntax import (
    Call,
    Conditional,
    ListLiteral,
    Literal,
    Logic,
    Macro,
    MapLiteral,
    Name,
    Node,
    Select,
)
from edge_gateway.cel.values import Uint

Tagged: TypeAlias = tuple[str, Any]

NUMBERS = ("int", "uint", "double")
RANGES = {"int": (-(2**63), 2**63 - 1), "uint": (0, 2**64 - 1)}


class Failure(Exception):
    """There is no value."""


def tag(value: Any) -> Tagged:
    """A value as the gateway has it, with its type."""
    match value:
        case None:
            return "null_type", None
        case bool():
            return "bool", value
        case Uint():
            return "uint", int(value)
        case int():
            return "int", value
        case float():
            return "double", value
        case str():
            return "string", value
        case bytes():
            return "bytes", value
        case list():
            return "list", [tag(each) for each in value]
        case dict():
            return "map", [(tag(key), tag(each)) for key, each in value.items()]
    raise TypeError(value)


def untag(value: Tagged) -> Any:
    """The reverse."""
    match value:
        case "uint", number:
            return Uint(number)
        case "list", elements:
            return [untag(each) for each in elements]
        case "map", entries:
            return {untag(key): untag(each) for key, each in entries}
    return value[1]


def evaluate(node: Node, variables: Mapping[str, Tagged]) -> Tagged:
    """The value of a node.

    Raises:
        Failure: there is none.
    """
    match node:
        case Literal(_, value, kind):
            return kind.name, value
        case Name(_, name, _):
            return variables[name]
        case Select(_, operand, field, is_test):
            entries = entries_of(evaluate(operand, variables))
            found = [each for key, each in entries if key == ("string", field)]
            if is_test:
                return "bool", bool(found)
            return found[0] if found else fail(f"no field {field}")
        case Logic(_, operator, operands):
            return decided(operator == "||", [partial(evaluate, each, variables) for each in operands])
        case Conditional(_, condition, then, otherwise):
            return evaluate(then if truth(evaluate(condition, variables)) else otherwise, variables)
        case ListLiteral(_, elements):
            return "list", [evaluate(each, variables) for each in elements]
        case MapLiteral(_, pairs):
            made = [(evaluate(key, variables), evaluate(each, variables)) for key, each in pairs]
            if any(equal(one[0], other[0]) for at, one in enumerate(made) for other in made[:at]):
                fail("a key twice")
            return "map", made
        case Macro():
            return macro(node, variables)
        case Call(_, function, target, arguments):
            qualified = f"{target.name}.{function}" if isinstance(target, Name) and target.name == "math" else function
            operands = arguments if target is None or "." in qualified else (target, *arguments)
            return FUNCTIONS[qualified](*(evaluate(each, variables) for each in operands))
    raise TypeError(node)


def macro(node: Macro, variables: Mapping[str, Tagged]) -> Tagged:
    kind, content = evaluate(node.items, variables)
    items = [key for key, _ in content] if kind == "map" else content if kind == "list" else fail("no items")
    scopes = [{**variables, node.variable: each} for each in items]
    condition, transform = node.condition, node.transform
    if node.name in ("all", "exists"):
        assert condition is not None
        return decided(node.name == "exists", [partial(evaluate, condition, scope) for scope in scopes])
    held = [scope for scope in scopes if condition is None or truth(evaluate(condition, scope))]
    if node.name == "exists_one":
        return "bool", len(held) == 1
    return "list", [scope[node.variable] if transform is None else evaluate(transform, scope) for scope in held]


def decided(by: bool, operands: list[Callable[[], Tagged]]) -> Tagged:
    failures = 0
    for operand in operands:
        try:
            if truth(operand()) is by:
                return "bool", by
        except Failure:
            failures += 1
    return fail("undecided") if failures else ("bool", not by)


def fail(what: str) -> NoReturn:
    raise Failure(what)


def truth(value: Tagged) -> bool:
    return bool(value[1]) if value[0] == "bool" else fail("no bool")


def entries_of(value: Tagged) -> list[tuple[Tagged, Tagged]]:
    return value[1] if value[0] == "map" else fail("no map")  # type: ignore[no-any-return]  # what tag() makes


def equal(one: Tagged, other: Tagged) -> bool:
    if one[0] in NUMBERS and other[0] in NUMBERS:
        return compare(one, other, lambda a, b: a == b)
    if one[0] != other[0]:
        return False
    if one[0] == "list":
        return len(one[1]) == len(other[1]) and all(map(equal, one[1], other[1]))
    if one[0] == "map":
        return len(one[1]) == len(other[1]) and all(
            any(equal(key, each) and equal(value, found) for each, found in other[1]) for key, value in one[1]
        )
    return bool(one[1] == other[1])


def compare(one: Tagged, other: Tagged, how: Callable[[Any, Any], bool]) -> bool:
    mixed = one[0] != other[0]
    if one[0] in NUMBERS and other[0] in NUMBERS:
        return (
            how(float(one[1]), float(other[1])) if mixed and "double" in (one[0], other[0]) else how(one[1], other[1])
        )
    if mixed or one[0] not in ("string", "bytes", "bool"):
        fail("not to be ordered")
    return how(one[1], other[1])


def whole(kind: str, number: int) -> Tagged:
    low, high = RANGES[kind]
    return (kind, number) if low <= number <= high else fail("overflow")


def arithmetic(symbol: str) -> Callable[[Tagged, Tagged], Tagged]:
    def apply(one: Tagged, other: Tagged) -> Tagged:
        (kind, a), (other_kind, b) = one, other
        if kind != other_kind:
            fail("two types")
        match symbol, kind:
            case "+", "string" | "bytes" | "list":
                return kind, a + b
            case "+", "int" | "uint":
                return whole(kind, a + b)
            case "-", "int" | "uint":
                return whole(kind, a - b)
            case "*", "int" | "uint":
                return whole(kind, a * b)
            case "/", "int" | "uint":
                return whole(kind, truncated(a, b)) if b else fail("division by zero")
            case "%", "int" | "uint":
                return whole(kind, a - truncated(a, b) * b) if b else fail("modulus by zero")
            case "+", "double":
                return kind, a + b
            case "-", "double":
                return kind, a - b
            case "*", "double":
                return kind, a * b
            case "/", "double":
                return kind, divided(a, b)
        fail("no numbers")

    return apply


def truncated(a: int, b: int) -> int:
    magnitude = abs(a) // abs(b)
    return -magnitude if (a < 0) != (b < 0) else magnitude


def divided(a: float, b: float) -> float:
    try:
        return a / b
    except ZeroDivisionError:
        if a == 0 or math.isnan(a):
            return math.nan
        return math.inf if (math.copysign(1, a) > 0) == (math.copysign(1, b) > 0) else -math.inf


def negated(one: Tagged) -> Tagged:
    match one:
        case "int", number:
            return whole("int", -number)
        case "double", number:
            return "double", -number
    fail("no number")


def element(container: Tagged, key: Tagged) -> Tagged:
    if container[0] == "map":
        found: list[Tagged] = [each for at, each in container[1] if equal(at, key)]
        return found[0] if found else fail("no key")
    if container[0] != "list" or key[0] not in NUMBERS or not math.isfinite(key[1]) or key[1] != int(key[1]):
        fail("no index")
    elements: list[Tagged] = container[1]
    return elements[int(key[1])] if 0 <= key[1] < len(elements) else fail("out of range")


def within(wanted: Tagged, container: Tagged) -> Tagged:
    if container[0] == "map":
        return "bool", any(equal(wanted, key) for key, _ in container[1])
    return ("bool", any(equal(wanted, each) for each in container[1])) if container[0] == "list" else fail("no list")


def of(kinds: tuple[str, ...] | str, result: Callable[..., Tagged]) -> Callable[..., Tagged]:
    """A function of values of these types."""

    def apply(*values: Tagged) -> Tagged:
        allowed = (kinds,) if isinstance(kinds, str) else kinds
        if any(kind not in allowed for kind, _ in values):
            fail("no such overload")
        return result(*values)

    return apply


def to_whole(target: str) -> Callable[[Tagged], Tagged]:
    def apply(value: Tagged) -> Tagged:
        match value:
            case "int" | "uint", number:
                return whole(target, number)
            case "double", number:
                low = -(2**63) if target == "int" else -1
                if not math.isfinite(number) or not low < number or (target == "uint" and number < 0):
                    fail("range")
                return (
                    whole(target, int(number)) if number < (2.0**63 if target == "int" else 2.0**64) else fail("range")
                )
            case "string", text:
                try:
                    return whole(target, int(text))
                except ValueError:
                    fail("no number")
        fail("no number")

    return apply


def extreme(choose: Callable[[Any], Any]) -> Callable[..., Tagged]:
    def apply(*values: Tagged) -> Tagged:
        if any(kind not in NUMBERS for kind, _ in values):
            fail("no numbers")
        best = values[0]
        for each in values[1:]:
            if choose((best[1], each[1])) != best[1]:
                best = each
        return best

    return apply


FUNCTIONS: dict[str, Callable[..., Tagged]] = {
    **{f"_{symbol}_": arithmetic(symbol) for symbol in "+-*/%"},
    "-_": negated,
    "!_": lambda value: ("bool", not truth(value)),
    "_==_": lambda a, b: ("bool", equal(a, b)),
    "_!=_": lambda a, b: ("bool", not equal(a, b)),
    "_<_": lambda a, b: ("bool", compare(a, b, lambda x, y: x < y)),
    "_<=_": lambda a, b: ("bool", compare(a, b, lambda x, y: x <= y)),
    "_>_": lambda a, b: ("bool", compare(a, b, lambda x, y: x > y)),
    "_>=_": lambda a, b: ("bool", compare(a, b, lambda x, y: x >= y)),
    "@in": within,
    "_[_]": element,
    "size": of(("string", "bytes", "list", "map"), lambda value: ("int", len(value[1]))),
    "contains": of("string", lambda text, part: ("bool", part[1] in text[1])),
    "startsWith": of("string", lambda text, part: ("bool", text[1][: len(part[1])] == part[1])),
    "endsWith": of(
        "string",
        lambda text, part: (
            ("bool", text[1][len(text[1]) - len(part[1]) :] == part[1])
            if len(part[1]) <= len(text[1])
            else ("bool", False)
        ),
    ),
    "int": to_whole("int"),
    "uint": to_whole("uint"),
    "double": of(("int", "uint", "double"), lambda value: ("double", float(value[1]))),
    "string": of(("int", "uint", "string"), lambda value: ("string", str(value[1]))),
    "dyn": lambda value: value,
    "math.abs": of(NUMBERS, lambda n: whole(n[0], abs(n[1])) if n[0] != "double" else ("double", abs(n[1]))),
    "math.greatest": extreme(max),
    "math.least": extreme(min),
    "math.bitAnd": of("int", lambda a, b: ("int", a[1] & b[1])),
    "math.floor": of(
        "double",
        lambda n: ("double", n[1] - math.fmod(n[1], 1.0) - (math.fmod(n[1], 1.0) < 0) if math.isfinite(n[1]) else n[1]),
    ),
    "math.isNaN": of("double", lambda n: ("bool", n[1] != n[1])),
}
