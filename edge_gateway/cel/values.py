"""Values while an expression runs, and the operations on them that must look at what they are.

| CEL | Python |
| --- | --- |
| int, double, bool, string, bytes, null | int, float, bool, str, bytes, None |
| uint, timestamp, duration | int; `Uint`, `Timestamp`, `Duration` where the type must be seen on the value |
| list, map | any sequence, any mapping; an expression makes lists and dictionaries |
| type | `Type` |

Timestamps are nanoseconds since 1970-01-01T00:00:00Z, durations nanoseconds. The three subclasses of int are needed for
elements of lists and maps and for dynamic values only: what the checker knows to be a uint may as well be an int.

Where Python has another opinion than CEL, this file is the place: True is not 1, NaN is in no list, -1 is no index.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from edge_gateway.cel.errors import EvaluationError
from edge_gateway.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    INT,
    KEYS,
    NULL,
    NUMBERS,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    Type,
)

CelValue: TypeAlias = bool | int | float | str | bytes | Type | Sequence["CelValue"] | Mapping[Any, "CelValue"] | None

MAX_LETTERS = 65_536
"""Of a string or bytes that `+` makes: in a chain of macros each could double what the last one made."""
MAX_ELEMENTS = 4096
"""Of a list that `+` makes, for the same reason."""


class Uint(int):
    """A uint among values of other types."""

    __slots__ = ()


class Timestamp(int):
    """A timestamp among values of other types; nanoseconds since 1970."""

    __slots__ = ()


class Duration(int):
    """A duration among values of other types; nanoseconds."""

    __slots__ = ()


BOXES: Mapping[Type, Callable[[int], int]] = {UINT: Uint, TIMESTAMP: Timestamp, DURATION: Duration}
"""What makes the type of a whole number visible on it."""

_LIST, _MAP = Type("list"), Type("map")
_TYPES: Mapping[type, Type] = {
    int: INT,
    float: DOUBLE,
    bool: BOOL,
    str: STRING,
    bytes: BYTES,
    type(None): NULL,
    Uint: UINT,
    Timestamp: TIMESTAMP,
    Duration: DURATION,
    list: _LIST,
    dict: _MAP,
    Type: TYPE,
}


def type_of(value: object) -> Type:
    """The type of a value, without parameters.

    Raises:
        ValueError: it is none that CEL knows.
    """
    found = _TYPES.get(type(value))
    if found is not None:
        return found
    if isinstance(value, Mapping):
        return _MAP
    if isinstance(value, Sequence):
        return _LIST
    raise ValueError(f"a value of Python's {type(value).__name__}")


def equal(one: Any, other: Any) -> bool:
    """Equality of any two values: numbers by their place on the number line, other types apart."""
    kind, other_kind = type_of(one), type_of(other)
    if kind != other_kind:
        if kind not in NUMBERS or other_kind not in NUMBERS:
            return False
        return _equal_doubles(one, other) if DOUBLE in (kind, other_kind) else bool(one == other)
    if kind == _LIST:
        return len(one) == len(other) and all(map(equal, one, other))
    if kind == _MAP:
        return len(one) == len(other) and all(
            has_key(other, key) and equal(value, other[key]) for key, value in one.items()
        )
    return bool(one == other)


def as_doubles(compare: Callable[[float, float], bool]) -> Callable[[float, float], bool]:
    """A comparison of numbers as the doubles nearest to them."""
    return lambda one, other: compare(float(one), float(other))


_equal_doubles = as_doubles(operator.eq)


def unequal(one: Any, other: Any) -> bool:
    """`!=`, of any two values."""
    return not equal(one, other)


def contained(wanted: Any, container: Any) -> bool:
    """`in`, for any list or map.

    Raises:
        ValueError: the container is neither.
    """
    kind = type_of(container)
    if kind == _LIST:
        return any(equal(wanted, element) for element in container)
    if kind == _MAP:
        return has_key(container, wanted)
    raise ValueError(f"`in` looks into a list or map, and this is {kind}")


def has_key(container: Mapping[Any, Any], key: Any) -> bool:
    """Whether a map has a key. To Python True and 1 are one key, so these few are looked at one by one."""
    if type_of(key) not in (*KEYS, DOUBLE) or key not in container:
        return False
    return key not in (0, 1) or any(equal(key, each) for each in container)


def item(container: Any, key: Any) -> Any:
    """`container[key]`.

    Raises:
        ValueError: no such element.
    """
    kind = type_of(container)
    if kind == _MAP:
        if not has_key(container, key):
            raise ValueError(f"the map has no key {key!r:.80}")
        return container[key]
    if kind != _LIST:
        raise ValueError(f"{kind} has no elements")
    if type_of(key) not in NUMBERS or key != key // 1:
        raise ValueError(f"{key!r:.80} is no index")
    if not 0 <= key < len(container):
        raise ValueError(f"index {key} in a list of {len(container)}")
    return container[int(key)]


def field(container: Any, name: str) -> Any:
    """`container.name`.

    Raises:
        ValueError: no such key, or no map.
    """
    if type_of(container) != _MAP:
        raise ValueError(f"{type_of(container)} has no fields")
    return item(container, name)


def has_field(container: Any, name: str) -> bool:
    """`has(container.name)`.

    Raises:
        ValueError: it is no map.
    """
    if type_of(container) != _MAP:
        raise ValueError(f"{type_of(container)} has no fields")
    return name in container


def mapping(*entries: tuple[Any, Any]) -> dict[Any, Any]:
    """A map of keys and values.

    Raises:
        ValueError: a key is there twice, or cannot be one.
    """
    made: dict[Any, Any] = {}
    for key, value in entries:
        if type_of(key) not in KEYS:
            raise ValueError(f"a key of {type_of(key)}")
        if key in made:
            raise ValueError(f"the key {key!r:.80} is there twice")
        made[key] = value
    return made


def joined(one: Any, other: Any) -> Any:
    """`+` of two strings, bytes or lists.

    Raises:
        ValueError: the result is too long.
    """
    most = MAX_LETTERS if isinstance(one, str | bytes) else MAX_ELEMENTS
    if len(one) + len(other) > most:
        raise ValueError(f"`+` makes more than {most} elements")
    return one + other if isinstance(one, str | bytes) else [*one, *other]


# Errors. Operations raise ValueError since they do not know where in the text they stand; these two do.


def attempt(operation: Callable[..., Any], where: str, *arguments: Any) -> Any:
    """The result of an operation.

    Raises:
        EvaluationError: the operation raised ValueError.
    """
    try:
        return operation(*arguments)
    except ValueError as error:
        raise EvaluationError(str(error), where=where) from error


def refuse(what: str, where: str) -> Any:
    """No result; an expression wants a function to raise.

    Raises:
        EvaluationError: always.
    """
    raise EvaluationError(what, where=where)


def refuse_null(*needs: tuple[Any, str, str]) -> Any:
    """No result, since the first of these values that is null is needed. Each with its name and where.

    Raises:
        EvaluationError: always.
    """
    name, where = next((name, where) for value, name, where in needs if value is None)
    raise EvaluationError(f"`{name}` is null", where=where)


# What does not need all of its operands.


def all_of(*operands: Callable[[], bool]) -> bool:
    """`&&`: false if any operand is, whatever fails."""
    return _decided(operands, operator.call, by=False)


def any_of(*operands: Callable[[], bool]) -> bool:
    """`||`: true if any operand is, whatever fails."""
    return _decided(operands, operator.call, by=True)


def all_hold(items: Iterable[Any], condition: Callable[[Any], bool]) -> bool:
    """`all`: false if any is, whatever fails."""
    return _decided(items, condition, by=False)


def any_holds(items: Iterable[Any], condition: Callable[[Any], bool]) -> bool:
    """`exists`: true if any is, whatever fails."""
    return _decided(items, condition, by=True)


def _decided(items: Iterable[Any], condition: Callable[[Any], bool], *, by: bool) -> bool:
    failure = None
    for each in items:
        try:
            if condition(each) is by:
                return by
        except EvaluationError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return not by


def one_holds(items: Iterable[Any], condition: Callable[[Any], bool]) -> bool:
    """`exists_one`."""
    return sum(map(condition, items)) == 1


def mapped(items: Iterable[Any], transform: Callable[[Any], Any]) -> list[Any]:
    """`map`."""
    return list(map(transform, items))


def filtered(items: Iterable[Any], condition: Callable[[Any], bool]) -> list[Any]:
    """`filter`."""
    return list(filter(condition, items))


def truth(value: Any) -> bool:
    """A dynamic value where a bool is needed.

    Raises:
        ValueError: it is none.
    """
    if value is True or value is False:
        return bool(value)
    raise ValueError(f"{type_of(value)} where a bool is needed")


def items_of(value: Any) -> Iterable[Any]:
    """A dynamic value where a list or map is needed, to go through.

    Raises:
        ValueError: it is neither.
    """
    if type_of(value) not in (_LIST, _MAP):
        raise ValueError(f"{type_of(value)} where a list or map is needed")
    return value  # type: ignore[no-any-return]  # type_of() has looked
