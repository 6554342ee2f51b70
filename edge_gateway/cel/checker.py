"""What an expression means, found out once: the type of each node, and the variable or function behind each name.

Numbers do not mix: `temperature * 2` with a double is refused, and the error says `2.0`. Only `<` and its kin compare
any two numbers, as the specification has it.

A value that can be null (`nullable(double)`) may be used as a double; if it is null, that operation fails. Beside a
question it cannot be null, and is a double: `t != null && t > 3.0`, `t == null || t > 3.0`, `t != null ? t : 0.0`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edge_gateway.cel.errors import ExpressionError
from edge_gateway.cel.functions import Function, Functions, written
from edge_gateway.cel.standard import STANDARD
from edge_gateway.cel.syntax import (
    Call,
    Conditional,
    Expression,
    ListLiteral,
    Literal,
    Logic,
    Macro,
    MapLiteral,
    Name,
    Node,
    Select,
)
from edge_gateway.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    KEYS,
    LIST,
    MAP,
    NOTHING,
    NULL,
    NUMBERS,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    Fit,
    Type,
    fit,
    join,
    list_of,
    map_of,
    substituted,
)

Reference: TypeAlias = str | Macro | Type
"""What a name stands for: a variable, the element of a macro, or a type."""

_TYPE_NAMES = {each.name: each.erased for each in (BOOL, INT, UINT, DOUBLE, NULL, TYPE, STRING, BYTES, LIST, MAP)} | {
    each.name: each for each in (TIMESTAMP, DURATION)
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The function behind a call."""

    functions: tuple[Function, ...]
    """More than one where only the values can tell."""
    arguments: tuple[Node, ...]
    """The target first, if it is a method's."""
    prepared: Callable[..., Any] | None = None
    """What takes the arguments but the last, which was constant."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An expression whose types fit.

    Attributes:
        expression: what was checked.
        type: of its value.
        types: of each node's value.
        references: what names stand for, and selections that are parts of a dotted name.
        chosen: the function of each call but `==` and `in`.
        variables: names of the variables it uses, in order of appearance, with their declared types.
    """

    expression: Expression
    types: Mapping[Node, Type]
    references: Mapping[Node, Reference]
    chosen: Mapping[Node, Chosen]
    variables: Mapping[str, Type]

    @property
    def type(self) -> Type:
        """Of the value."""
        return self.types[self.expression.root]


def check(expression: Expression, variables: Mapping[str, Type], functions: Functions = STANDARD) -> Checked:
    """Find out what an expression means.

    Args:
        expression: parsed.
        variables: the variables there are, with their types; names may be dotted, `device.address`.
        functions: the functions there are.

    Raises:
        ExpressionError: its types do not fit, or it has an unknown name.
    """
    checker = _Checker(expression.text, variables, functions)
    checker.check(expression.root)
    return Checked(expression, checker.types, checker.references, checker.chosen, checker.used)


def null_test(node: Node) -> Node | None:
    """What `x != null` or `x == null` looks at; None if a node is neither."""
    match node:
        case Call(_, "_!=_" | "_==_", None, (asked, Literal(_, None)) | (Literal(_, None), asked)):
            return asked
    return None


@dataclass(slots=True)
class _Checker:
    text: str
    variables: Mapping[str, Type]
    functions: Functions
    types: dict[Node, Type] = field(default_factory=dict)
    references: dict[Node, Reference] = field(default_factory=dict)
    chosen: dict[Node, Chosen] = field(default_factory=dict)
    used: dict[str, Type] = field(default_factory=dict)
    locals: dict[str, tuple[Macro, Type]] = field(default_factory=dict)
    """Elements of the macros around, by name."""
    present: frozenset[Reference] = frozenset()
    """What is known not to be null here."""

    def check(self, node: Node) -> Type:
        found = self._type(node)
        self.types[node] = found
        return found

    def _type(self, node: Node) -> Type:
        match node:
            case Literal(_, value, kind):
                return kind.within(value, value) if kind in (INT, UINT) and isinstance(value, int) else kind
            case Name():
                return self._name(node)
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case Logic():
                return self._logic(node)
            case Conditional():
                return self._conditional(node)
            case ListLiteral(_, elements):
                return list_of(join(map(self.check, elements)))
            case MapLiteral():
                return self._map(node)
            case Macro():
                return self._macro(node)
        raise TypeError(f"unknown node {node!r}")

    def _refused(self, what: str, node: Node, remedy: str = "") -> ExpressionError:
        return ExpressionError(what, text=self.text, position=node.position, remedy=remedy)

    # Names

    def _name(self, node: Name) -> Type:
        if not node.is_rooted and node.name in self.locals:
            macro, kind = self.locals[node.name]
            return self._referring(node, macro, kind)
        if node.name in self.variables:
            return self._variable(node, node.name)
        if node.name in _TYPE_NAMES:
            self.references[node] = _TYPE_NAMES[node.name]
            return TYPE
        dotted = [name for name in self.variables if name.startswith(f"{node.name}.")]
        near = dotted[:3] or _near(node.name, (*self.locals, *self.variables))
        remedy = f"Did you mean {_listed(near)}?" if near else f"There are {_listed(sorted(self.variables)[:10])}"
        raise self._refused(f"there is no `{node.name}`", node, remedy if near or self.variables else "")

    def _variable(self, node: Node, name: str) -> Type:
        self.used[name] = self.variables[name]
        return self._referring(node, name, self.variables[name])

    def _referring(self, node: Node, reference: Reference, kind: Type) -> Type:
        self.references[node] = reference
        return kind.present if reference in self.present else kind

    def _dotted(self, node: Node) -> str | None:
        """`a.b.c` if a node is that, and does not start with an element of a macro."""
        match node:
            case Name(_, name, is_rooted) if is_rooted or name not in self.locals:
                return name
            case Select(_, operand, field, False) if (start := self._dotted(operand)) is not None:
                return f"{start}.{field}"
        return None

    def _select(self, node: Select) -> Type:
        dotted = self._dotted(node)
        if dotted is not None and dotted in self.variables:
            return self._variable(node, dotted)
        if dotted in _TYPE_NAMES:
            self.references[node] = _TYPE_NAMES[dotted]
            return TYPE
        operand = self.check(node.operand).present
        if operand == DYN:
            return BOOL if node.is_test else DYN
        if operand.name != "map" or not _is_comparable(STRING, operand.parameters[0]):
            raise self._refused(
                f"{operand} has no field `{node.field}`", node, "Only a map with strings for keys has fields"
            )
        return BOOL if node.is_test else _taken(operand.parameters[1])

    # Calls

    def _call(self, node: Call) -> Type:
        match node.function:
            case "_==_" | "_!=_":
                return self._equality(node)
            case "@in":
                return self._membership(node)
            case "!_":
                self._want_bool(node.arguments[0], "`!`")
                return BOOL
        name, target = node.function, node.target
        dotted = f"{self._dotted(target)}.{name}" if target is not None else ""
        if self.functions.named(dotted, is_method=False):
            name, target = dotted, None
        arguments = node.arguments if target is None else (target, *node.arguments)
        candidates = self.functions.named(name, is_method=target is not None)
        if not candidates:
            raise self._unknown_function(node, name, is_method=target is not None)
        return self._choose(node, candidates, arguments)

    def _unknown_function(self, node: Call, name: str, *, is_method: bool) -> ExpressionError:
        if self.functions.named(name, is_method=not is_method):
            other = self.functions.named(name, is_method=not is_method)[0]
            return self._refused(f"`{name}` is called in another way", node, f"For instance: `{other}`")
        names = self.functions.names(is_method=is_method)
        ends = [each for each in names if each.endswith(f".{name}")]
        near = ends or _near(name, names)
        return self._refused(f"there is no function `{name}`", node, f"Did you mean {_listed(near)}?" if near else "")

    def _choose(self, node: Call, candidates: tuple[Function, ...], arguments: tuple[Node, ...]) -> Type:
        actual = [self.check(argument) for argument in arguments]
        possible: list[tuple[Function, Type]] = []
        for each in candidates:
            wanted = each.parameter_types(len(actual))
            bound: dict[str, Type] = {}
            how = Fit.NO
            if wanted is not None:
                how = min((fit(*pair, bound) for pair in zip(actual, wanted, strict=True)), default=Fit.YES)
            if how is Fit.YES:
                possible = [(each, substituted(each.result, bound))]
                break
            if how is Fit.MAYBE:
                possible.append((each, substituted(each.result, bound)))
        if not possible:
            raise self._no_such(node, candidates, arguments, actual)
        functions = tuple(function for function, _ in possible)
        self.chosen[node] = Chosen(functions, arguments, self._prepared(functions[0], arguments))
        return _taken(join(result for _, result in possible))

    def _prepared(self, function: Function, arguments: tuple[Node, ...]) -> Callable[..., Any] | None:
        if function.prepare is None:
            return None
        constant = arguments[-1]
        if not isinstance(constant, Literal):
            raise self._refused(
                f"`{function.name}` needs a constant here", constant, "Write the text itself, in quotes"
            )
        try:
            return function.prepare(constant.value)
        except ValueError as error:
            raise self._refused(str(error), constant) from error

    def _no_such(
        self, node: Call, candidates: tuple[Function, ...], arguments: tuple[Node, ...], actual: list[Type]
    ) -> ExpressionError:
        remedy = _conversion(arguments, actual) if node.function.startswith(("_", "-")) else ""
        if not remedy:
            forms = list(dict.fromkeys(f"`{each}`" for each in candidates))
            remedy = f"There is {', '.join(forms[:6])}"
        found = ", ".join(map(str, actual)) or "no arguments"
        return self._refused(f"{written(candidates[0].name)} does not take {found}", node, remedy)

    def _equality(self, node: Call) -> Type:
        if (asked := null_test(node)) is not None:
            # What is already known does not matter here: asking twice is no mistake.
            with self._knowing(frozenset(), anew=True):
                kinds = [self.check(argument) for argument in node.arguments]
            kind = self.types[asked]
            if not (kind.is_nullable or kind in (NULL, DYN, NOTHING)):
                raise self._refused(f"{kind} is never null", node)
            return BOOL
        kinds = [self.check(argument) for argument in node.arguments]
        if not _is_comparable(*kinds):
            remedy = _conversion(node.arguments, kinds) or "Values of two types are never equal"
            raise self._refused(f"{written(node.function)} compares {kinds[0]} with {kinds[1]}", node, remedy)
        return BOOL

    def _membership(self, node: Call) -> Type:
        wanted, container = (self.check(argument) for argument in node.arguments)
        container = container.present
        if container == DYN:
            return BOOL
        if container.name not in ("list", "map"):
            raise self._refused(f"`in` looks into a list or map, and this is {container}", node)
        if not _is_comparable(wanted, container.parameters[0]):
            remedy = f"Its elements are {container.parameters[0]}"
            raise self._refused(f"`in` looks for {wanted} in {container}", node, remedy)
        return BOOL

    # What does not need all of its operands

    def _want_bool(self, node: Node, who: str) -> None:
        found = self.check(node)
        if fit(found, BOOL, {}) is Fit.NO:
            example = {INT: "x != 0", UINT: "x != 0u", STRING: "x != ''"}.get(found.present, "x > 0.0")
            raise self._refused(f"{who} takes bool, and this is {found}", node, f"Compare it, as in `{example}`")

    def _logic(self, node: Logic) -> Type:
        # For what comes beside it, an operand of && is true and one of || is false; else it does not matter. Only
        # plain questions count: they are asked first, wherever they stand.
        told = {
            operand: self._told(operand, when=node.operator == "&&")
            for operand in node.operands
            if null_test(operand) is not None
        }
        for operand in node.operands:
            others = frozenset[Reference]().union(*(more for other, more in told.items() if other is not operand))
            with self._knowing(others):
                self._want_bool(operand, f"`{node.operator}`")
        return BOOL

    def _conditional(self, node: Conditional) -> Type:
        self._want_bool(node.condition, "the condition of `?`")
        with self._knowing(self._told(node.condition, when=True)):
            then = self.check(node.then)
        with self._knowing(self._told(node.condition, when=False)):
            otherwise = self.check(node.otherwise)
        if not _is_comparable(then, otherwise) and NULL not in (then, otherwise):
            remedy = _conversion((node.then, node.otherwise), [then, otherwise])
            raise self._refused(f"`?` has {then} for true and {otherwise} for false", node, remedy)
        return join((then, otherwise))

    def _told(self, node: Node, *, when: bool) -> frozenset[Reference]:
        """Which variables are not null if a condition is true, or false."""
        match node:
            case Call(_, "!_", None, (operand,)):
                return self._told(operand, when=not when)
            case Logic(_, operator, operands) if operator == ("&&" if when else "||"):
                return frozenset[Reference]().union(*(self._told(operand, when=when) for operand in operands))
            case Call(_, function) if (asked := null_test(node)) is not None and (function == "_!=_") is when:
                return self._referred(asked)
        return frozenset()

    def _referred(self, node: Node) -> frozenset[Reference]:
        if isinstance(node, Name) and not node.is_rooted and node.name in self.locals:
            return frozenset([self.locals[node.name][0]])
        dotted = self._dotted(node)
        return frozenset([dotted]) if dotted is not None and dotted in self.variables else frozenset()

    @contextmanager
    def _knowing(self, more: frozenset[Reference], *, anew: bool = False) -> Iterator[None]:
        before = self.present
        self.present = more if anew else before | more
        yield
        self.present = before

    # Aggregates and macros

    def _map(self, node: MapLiteral) -> Type:
        for key, _ in node.entries:
            found = self.check(key)
            if found not in (*KEYS, DYN):
                raise self._refused(f"{found} cannot be a key", key, "Keys are int, uint, bool or string")
        contents = [self.check(value) for _, value in node.entries]
        return map_of(join(self.types[key] for key, _ in node.entries), join(contents))

    def _macro(self, node: Macro) -> Type:
        items = self.check(node.items).present
        if items.name not in ("list", "map") and items != DYN:
            raise self._refused(f"`{node.name}` goes through a list or map, and this is {items}", node)
        element = DYN if items == DYN else _taken(items.parameters[0])
        outer = self.locals
        self.locals = {**outer, node.variable: (node, element)}
        if node.condition is not None:
            self._want_bool(node.condition, f"the condition of `{node.name}`")
        with self._knowing(frozenset() if node.condition is None else self._told(node.condition, when=True)):
            transformed = element if node.transform is None else self.check(node.transform)
        self.locals = outer
        return list_of(transformed) if node.name in ("map", "filter") else BOOL


def _taken(element: Type) -> Type:
    """What is taken out of a list or map. There is nothing in an empty one, and no harm in any use of it."""
    return DYN if element == NOTHING else element


def _is_comparable(one: Type, other: Type) -> bool:
    """Whether values of two types can be equal, null aside."""
    one, other = one.present, other.present
    if {one, other} & {DYN, NOTHING}:
        return True
    return one.name == other.name and all(map(_is_comparable, one.parameters, other.parameters))


def _conversion(arguments: Iterable[Node], kinds: Iterable[Type]) -> str:
    """How two numbers of different types come together; empty if they are no such thing."""
    pairs = list(zip(arguments, (kind.present for kind in kinds), strict=True))
    if len(pairs) != 2 or any(kind not in NUMBERS for _, kind in pairs) or pairs[0][1] == pairs[1][1]:
        return ""
    for (argument, kind), (_, other) in (pairs, pairs[::-1]):
        if isinstance(argument, Literal) and kind != DOUBLE and isinstance(argument.value, int):
            if other == DOUBLE:
                return f"Write `{argument.value}.0` for `{argument.value}`"
            if argument.value >= 0:
                forms = {INT: f"`{argument.value}`", UINT: f"`{argument.value}u`"}
                return f"Write {forms[other]} for {forms[kind]}"
    to = DOUBLE if DOUBLE in (pairs[0][1], pairs[1][1]) else INT
    changed = pairs[0][0] if pairs[1][1] == to else pairs[1][0]
    shown = changed.name if isinstance(changed, Name) else "..."
    return f"Convert one, as in `{to}({shown})`"


def _near(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=3, cutoff=0.6)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
