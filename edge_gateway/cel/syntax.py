"""The tree that a text becomes.

Operators are calls of functions, named as in the specification and as no name can be written: `_+_`, `@in`. `&&`, `||`
and `?:` are nodes of their own since they do not always need all of their operands, and macros are since they bind a
name.

Nodes are equal only to themselves, so that what is found out about one can be kept in a dictionary beside the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from edge_gateway.cel.types import Type


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A part of an expression."""

    position: int
    """Of the character that names it in errors, from 0: an operator, the first letter of a name, a bracket."""

    @property
    def children(self) -> Iterator[Node]:
        """The parts it is made of, in the order of its fields."""
        waiting: list[object] = [getattr(self, part.name) for part in reversed(fields(self))]
        while waiting:
            match waiting.pop():
                case Node() as child:
                    yield child
                case tuple() as several:
                    waiting.extend(reversed(several))


@dataclass(frozen=True, slots=True, eq=False)
class Literal(Node):
    """A value that stands in the text. A double is finite, an int or uint in its range."""

    value: bool | int | float | str | bytes | None
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Name(Node):
    """A variable or a type; or the first part of a dotted name."""

    name: str
    is_rooted: bool = False
    """Written `.name`: never the variable of a macro."""


@dataclass(frozen=True, slots=True, eq=False)
class Select(Node):
    """`operand.field`, or `has(operand.field)`."""

    operand: Node
    field: str
    is_test: bool = False
    """Whether it is `has()`."""


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """A function, or an operator, of its arguments; with a target it was written `target.function()`."""

    function: str
    target: Node | None
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Logic(Node):
    """Operands joined by `&&` or by `||`, at least two."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Conditional(Node):
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True, eq=False)
class ListLiteral(Node):
    """`[a, b]`."""

    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MapLiteral(Node):
    """`{key: value}`."""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Macro(Node):
    """`items.all(variable, condition)` and its kin; `map` has a transform, and perhaps a condition before it."""

    name: str
    items: Node
    variable: str
    condition: Node | None
    transform: Node | None


@dataclass(frozen=True, slots=True)
class Expression:
    """A text that has been parsed."""

    text: str
    root: Node
