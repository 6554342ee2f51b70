"""Pieces of generated Python, with what must be known to put one together with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_gateway.cel.bounds import UNKNOWN, Bounds


class Need(NamedTuple):
    """A variable that must not be null."""

    python: str
    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of source, and what must be known to put it somewhere."""

    code: str
    """An expression in brackets, a literal or a name."""
    needs: tuple[Need, ...] = ()
    """Variables that the source takes for not null. Whoever uses it asks for them, or needs them in turn."""
    fails: bool = False
    """Whether it can raise EvaluationError where its needs are met."""
    bounds: Bounds = UNKNOWN
    """Of a whole number."""

    @property
    def is_sure(self) -> bool:
        """Whether it has a value in any case."""
        return not (self.fails or self.needs)

    @property
    def needed(self) -> set[str]:
        """Names of the variables it needs."""
        return {need.python for need in self.needs}


CONSTANTS = (bool, int, float, str, bytes, type(None))


def constant(value: object) -> Fragment:
    """A value that stands in the source.

    Raises:
        TypeError: it is none of `CONSTANTS`, which alone may.
    """
    if type(value) not in CONSTANTS:
        raise TypeError(f"{value!r} cannot be a literal in source code")
    code = repr(value)
    bounds = (value, value) if isinstance(value, int) else UNKNOWN
    return Fragment(f"({code})" if code.startswith("-") else code, bounds=bounds)


def strict(code: str, operands: Sequence[Fragment], *, fails: bool = False, bounds: Bounds = UNKNOWN) -> Fragment:
    """Source that needs all of its operands."""
    needs = tuple(need for operand in operands for need in operand.needs)
    return Fragment(code, needs, fails or any(operand.fails for operand in operands), bounds)


def chain(word: str, operands: Sequence[Fragment]) -> str:
    """Source of operands with `and` or `or` between."""
    return operands[0].code if len(operands) == 1 else f"({f' {word} '.join(each.code for each in operands)})"
