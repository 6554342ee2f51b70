"""What a function is: a name, a signature, and the Python that does it. Operators are functions too.

An implementation gets values of the types it declares and raises ValueError, with a sentence, where it has no result.
Those of the specification are in `standard`; a host adds its own to them:

```python
STANDARD.including(Function("dewPoint", (DOUBLE, DOUBLE), DOUBLE, dew_point))
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edge_gateway.cel import values
from edge_gateway.cel.types import DYN, LIMITS, NULL, Type


@dataclass(frozen=True, slots=True)
class Function:
    """One signature of a function; several may share a name.

    Args:
        name: as it is called, dots included: `math.abs`. An operator's is the specification's: `_+_`.
        parameters: their types.
        result: its type. With bounds if values are known to lie within some.
        call: does it. Raises ValueError if there is no result.
        is_method: called as `first.name(second)`.
        is_variadic: the last parameter may come more often, or not at all.
        fails: whether `call` may raise.
        inline: Python that does the same and never fails, with `{0}`, `{1}` for operands; each stands there once.
        is_unlimited: the result is a whole number as Python computes it, and has to be held against its type's range.
        prepare: for a function whose last argument must be constant: makes what takes the others, at load time.
    """

    name: str
    parameters: tuple[Type, ...]
    result: Type
    call: Callable[..., Any]
    is_method: bool = False
    is_variadic: bool = False
    fails: bool = True
    inline: str = ""
    is_unlimited: bool = False
    prepare: Callable[[Any], Callable[..., Any]] | None = None

    def parameter_types(self, count: int) -> tuple[Type, ...] | None:
        """The parameters for so many arguments, None if it does not take as many."""
        if not self.is_variadic:
            return self.parameters if count == len(self.parameters) else None
        missing = count - len(self.parameters) + 1
        return (*self.parameters[:-1], *(self.parameters[-1:] * missing)) if missing >= 0 else None

    def __str__(self) -> str:
        types = [str(parameter) for parameter in self.parameters]
        if self.is_variadic:
            types[-1] += ", ..."
        if self.is_method:
            return f"{types[0]}.{self.name}({', '.join(types[1:])})"
        if match := _OPERATOR.fullmatch(self.name):
            return f"{types[0]} {match[1]} {types[1]}"
        if self.name.endswith("_") and not self.name[0].isalpha():
            return f"{self.name[:-1]}{types[0]}"
        return f"{self.name}({', '.join(types)})"


_OPERATOR = re.compile(r"_([^_\[]+)_")


def written(name: str) -> str:
    """A function's name as it is written: `+` for `_+_`."""
    return "`[ ]`" if name == "_[_]" else f"`{name.strip('_@')}`"


class Functions:
    """Functions by name.

    Args:
        functions: where several fit, the first one is taken.
    """

    def __init__(self, functions: Iterable[Function]) -> None:
        self._functions = tuple(functions)
        self._by_name: dict[tuple[str, bool], tuple[Function, ...]] = {}
        for each in self._functions:
            key = (each.name, each.is_method)
            self._by_name[key] = (*self._by_name.get(key, ()), each)

    def including(self, *functions: Function) -> Functions:
        """These and more."""
        return Functions((*self._functions, *functions))

    def named(self, name: str, *, is_method: bool) -> tuple[Function, ...]:
        """All signatures of a name, empty if there is none."""
        return self._by_name.get((name, is_method), ())

    def names(self, *, is_method: bool) -> list[str]:
        """Names that can be written, without operators."""
        return [name for name, method in self._by_name if method is is_method and name[0].isalpha()]


def choosing(functions: Iterable[Function]) -> Callable[..., Any]:
    """One function that looks at its arguments' values and calls the one of `functions` that takes them.

    Its results show their types (`Uint`), as dynamic values do. It raises ValueError if none fits.
    """
    candidates = tuple(functions)

    def call(*arguments: Any) -> Any:
        types = [values.type_of(argument) for argument in arguments]
        for each in candidates:
            wanted = each.parameter_types(len(types))
            if wanted is not None and all(map(_takes, wanted, types)):
                result = each.call(*arguments)
                if each.is_unlimited:
                    limited(result, each.result)
                box = values.BOXES.get(each.result.present)
                return box(result) if box is not None and result is not None else result
        raise ValueError(f"{written(candidates[0].name)} does not take {', '.join(map(str, types))}")

    return call


def _takes(wanted: Type, actual: Type) -> bool:
    if wanted.is_nullable and actual == NULL:
        return True
    return wanted == DYN or wanted.is_variable or wanted.present.name == actual.name


def limited(number: int, kind: Type) -> int:
    """A whole number that fits its type.

    Raises:
        ValueError: it does not.
    """
    low, high = LIMITS[kind]
    if not low <= number <= high:
        raise ValueError(f"{number} does not fit in {kind}")
    return number
