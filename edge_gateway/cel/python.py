"""A checked expression to Python source: one expression, as one would write it by hand.

`temperature > 30.0 && humidity < 40.0` becomes `((temperature > 30.0) and (humidity < 40.0))`. Where CEL and Python
part, the source is longer, and only there:

- **Overflow.** Each whole number carries the bounds it is known to lie within. Where a sum of two 16-bit fields cannot
  leave 64 bits nothing is checked; elsewhere the result is compared with the range in place.
- **Null.** A variable that may be null is not looked at where it is used, but once around all that needs it.
- **`&&` and `||`** are decided by either side, whatever fails on the other. So operands that cannot fail go first, and
  one that can goes last: Python's `and` does the rest. Several that fail for nulls only are asked for those afterwards.
  What is left, several that can fail otherwise, goes through `all_of` and lambdas.
- **Dynamic values** go through functions that look at what they are.

Nothing of an expression's text reaches the source but as the `repr` of a checked literal; names are given by the host,
and must be identifiers.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edge_gateway.cel import values
from edge_gateway.cel.bounds import UNKNOWN, bounds_of, result_bounds
from edge_gateway.cel.checker import Checked, Chosen, null_test
from edge_gateway.cel.errors import line_and_column
from edge_gateway.cel.fragment import CONSTANTS, Fragment, Need, chain, constant, strict
from edge_gateway.cel.functions import Function, choosing, limited
from edge_gateway.cel.standard import BY_ZERO, ieee_quotient
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
from edge_gateway.cel.types import BOOL, BYTES, DOUBLE, DYN, INT, LIMITS, STRING, TYPE, UINT, Type


def python_source(checked: Checked, names: Mapping[str, str], prefix: str = "cel") -> tuple[str, dict[str, object]]:
    """Write an expression as Python.

    Args:
        checked: the expression.
        names: a Python name for each of its variables.
        prefix: what every other name in the source starts with, and none of `names`. Each expression of a namespace
            needs its own.

    Returns:
        The source of one expression, and the globals it needs. Evaluated, it gives the value or raises EvaluationError.

    Raises:
        ValueError: a name is missing, or cannot be one.
    """
    for name in (prefix, *(names.get(variable, "") for variable in checked.variables)):
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith(f"{prefix}_"):
            raise ValueError(f"{name!r} is no Python name for a variable, or no prefix of others")
    writer = _Writer(checked, names, prefix)
    root = writer.settled(writer.fragment(checked.expression.root))
    return root.code, writer.globals


class _Writer:
    def __init__(self, checked: Checked, names: Mapping[str, str], prefix: str) -> None:
        self._checked = checked
        self._names = names
        self._prefix = prefix
        self._elements: dict[Macro, str] = {}
        self._choosers: dict[tuple[Function, ...], Callable[..., Any]] = {}
        self._temporaries = 0
        self.globals: dict[str, object] = {}

    # Names and pieces

    def _global(self, value: object, name: str = "") -> str:
        """The name of a value the source needs."""
        stem = f"{self._prefix}_{(name or getattr(value, '__name__', 'value')).strip('_<>')}"
        unique, count = stem, 1
        while unique in self.globals and self.globals[unique] is not value:
            count += 1
            unique = f"{stem}_{count}"
        self.globals[unique] = value
        return unique

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"{self._prefix}_{self._temporaries}"

    def _where(self, node: Node) -> str:
        line, column = line_and_column(self._checked.expression.text, node.position)
        return repr(f"line {line}, column {column}")

    def _calling(self, call: Callable[..., Any], arguments: Iterable[str], name: str = "") -> str:
        return f"{self._global(call, name)}({', '.join(arguments)})"

    def _attempting(self, node: Node, call: Callable[..., Any], arguments: Iterable[str], name: str = "") -> str:
        """A call whose ValueError becomes an EvaluationError."""
        return self._calling(values.attempt, (self._global(call, name), self._where(node), *arguments))

    def _asked(self, needs: Sequence[Need], *, join: str = "and", test: str = "is not None") -> str:
        return f" {join} ".join(f"{name} {test}" for name in dict.fromkeys(need.python for need in needs))

    def _refusing(self, needs: Sequence[Need]) -> str:
        first: dict[str, Need] = {}
        for need in needs:
            first.setdefault(need.python, need)
        given = (f"({name}, {need.name!r}, {need.where})" for name, need in first.items())
        return self._calling(values.refuse_null, given)

    def settled(self, fragment: Fragment) -> Fragment:
        """The same, asking for what it needs."""
        if not fragment.needs:
            return fragment
        code = f"({fragment.code} if {self._asked(fragment.needs)} else {self._refusing(fragment.needs)})"
        return replace(fragment, code=code, needs=(), fails=True)

    def _lambda(self, fragment: Fragment, parameter: str = "") -> str:
        return f"lambda{' ' if parameter else ''}{parameter}: {self.settled(fragment).code}"

    # Operands

    def _argument(self, node: Node, wanted: Type) -> Fragment:
        """A value where a function wants a type."""
        if wanted == DYN or wanted.is_variable:
            return self._shown(node)
        return self.fragment(node) if wanted.is_nullable else self._present(node)

    def _truth(self, node: Node) -> Fragment:
        """A value that is true or false."""
        fragment = self._present(node)
        if self._checked.types[node] != DYN:
            return fragment
        return replace(fragment, code=self._attempting(node, values.truth, [fragment.code]), fails=True)

    def _shown(self, node: Node) -> Fragment:
        """A value whose type can be seen on it."""
        fragment = self.fragment(node)
        found = self._checked.types[node]
        box = values.BOXES.get(found.present)
        if box is None:
            return fragment
        code = self._calling(box, [fragment.code])
        if found.is_nullable:
            value = self._temporary()
            code = f"({self._calling(box, [value])} if ({value} := {fragment.code}) is not None else None)"
        return replace(fragment, code=code)

    def _present(self, node: Node) -> Fragment:
        """A value that is not null."""
        fragment = self.fragment(node)
        if not self._checked.types[node].is_nullable:
            return fragment
        where = self._where(node)
        if fragment.code.isidentifier():
            name = node.name if isinstance(node, Name) else fragment.code
            reference = self._checked.references.get(node)
            need = Need(fragment.code, reference if isinstance(reference, str) else name, where)
            return replace(fragment, needs=(*fragment.needs, need))
        value = self._temporary()
        refused = self._calling(values.refuse, ["'the value is null'", where])
        code = f"({value} if ({value} := {fragment.code}) is not None else {refused})"
        return replace(fragment, code=code, fails=True)

    # Nodes

    def fragment(self, node: Node) -> Fragment:
        """The source of a node's value, of its type."""
        match node:
            case Literal(_, value):
                return constant(value)
            case Name():
                return self._reference(node)
            case Select():
                return self._reference(node) if node in self._checked.references else self._select(node)
            case Call(_, "_==_" | "_!=_"):
                return self._equality(node)
            case Call(_, "@in"):
                return self._membership(node)
            case Call(_, "_[_]", _, (container, index)):
                operands = [self._present(container), self._present(index)]
                code = self._attempting(node, values.item, [each.code for each in operands])
                return strict(code, operands, fails=True, bounds=bounds_of(self._checked.types[node]))
            case Call(_, "!_", _, (operand,)):
                inverted = self._truth(operand)
                return replace(inverted, code=f"(not {inverted.code})")
            case Call():
                return self._call(node)
            case Logic():
                return self._logic(node)
            case Conditional():
                return self._conditional(node)
            case ListLiteral(_, elements):
                parts = list(map(self._shown, elements))
                return strict(f"[{', '.join(part.code for part in parts)}]", parts)
            case MapLiteral():
                return self._map(node)
            case Macro():
                return self._macro(node)
        raise TypeError(f"unknown node {node!r}")

    def _reference(self, node: Node) -> Fragment:
        reference = self._checked.references[node]
        if isinstance(reference, Type):
            return Fragment(self._global(reference, f"type_{reference.name.rpartition('.')[2]}"))
        code = self._elements[reference] if isinstance(reference, Macro) else self._names[reference]
        return Fragment(code, bounds=bounds_of(self._checked.types[node]))

    def _select(self, node: Select) -> Fragment:
        operand = self._present(node.operand)
        if node.is_test and self._checked.types[node.operand].present != DYN:
            return strict(f"({node.field!r} in {operand.code})", [operand])
        look = values.has_field if node.is_test else values.field
        code = self._attempting(node, look, [operand.code, repr(node.field)])
        return strict(code, [operand], fails=True, bounds=bounds_of(self._checked.types[node]))

    # Operators

    def _equality(self, node: Call) -> Fragment:
        is_equal = node.function == "_==_"
        if (asked := null_test(node)) is not None:
            fragment = self.fragment(asked)
            return replace(fragment, code=f"({fragment.code} is {'' if is_equal else 'not '}None)", bounds=UNKNOWN)
        kinds = [self._checked.types[argument] for argument in node.arguments]
        if all(map(_is_plain, kinds)):
            one, other = map(self.fragment, node.arguments)
            return strict(f"({one.code} {'==' if is_equal else '!='} {other.code})", [one, other])
        one, other = map(self._shown, node.arguments)
        compare = values.equal if is_equal else values.unequal
        return strict(self._calling(compare, [one.code, other.code]), [one, other])

    def _membership(self, node: Call) -> Fragment:
        wanted, container = node.arguments
        kind = self._checked.types[container].present
        within = self._present(container)
        of_constants = isinstance(container, ListLiteral) and all(type(each) is Literal for each in container.elements)
        # Python finds a NaN that is the very same object; in constants there is none.
        is_safe = kind != DYN and (kind.parameters[0].present != DOUBLE or of_constants)
        if is_safe and _is_plain(kind.parameters[0]) and _is_plain(self._checked.types[wanted]):
            looked_for = self.fragment(wanted)
            return strict(f"({looked_for.code} in {within.code})", [looked_for, within])
        looked_for = self._shown(wanted)
        codes = [looked_for.code, within.code]
        if kind == DYN:
            return strict(self._attempting(node, values.contained, codes), [looked_for, within], fails=True)
        return strict(self._calling(values.contained, codes), [looked_for, within])

    def _call(self, node: Call) -> Fragment:
        chosen = self._checked.chosen[node]
        first, *more = chosen.functions
        kinds = [self._checked.types[argument] for argument in chosen.arguments]
        wanted = first.parameter_types(len(kinds)) or ()
        if more or any(
            kind == DYN and not (parameter == DYN or parameter.is_variable)
            for kind, parameter in zip(kinds, wanted, strict=True)
        ):
            return self._dynamic_call(node, chosen)
        operands = list(map(self._argument, chosen.arguments, wanted))
        if chosen.prepared is not None:
            return strict(self._calling(chosen.prepared, [each.code for each in operands[:-1]], first.name), operands)
        if (constant := self._folded(first, chosen.arguments)) is not None:
            return constant
        made = self._applied(node, first, operands)
        return self._limited(node, first.result, made) if first.is_unlimited else made

    def _folded(self, function: Function, arguments: Sequence[Node]) -> Fragment | None:
        """What a function of constants gives, if that can stand in source."""
        constants = [argument.value for argument in arguments if isinstance(argument, Literal)]
        if not constants or len(constants) < len(arguments) or function.result == DYN:
            return None
        try:
            result = function.call(*constants)
            if function.is_unlimited:
                limited(result, function.result)
        except ValueError:
            return None  # where it is evaluated, and if it ever is, that is an error there
        is_written = type(result) in CONSTANTS and not (isinstance(result, float) and not math.isfinite(result))
        return constant(result) if is_written else None

    def _dynamic_call(self, node: Node, chosen: Chosen) -> Fragment:
        functions, arguments = chosen.functions, chosen.arguments
        if chosen.prepared is not None:
            functions = tuple(
                replace(each, parameters=each.parameters[:-1], call=chosen.prepared) for each in functions
            )
            arguments = arguments[:-1]
        operands = list(map(self._shown, arguments))
        name = functions[0].name
        stem = f"any_{name.replace('.', '_')}" if name[0].isalpha() else "any_operator"
        chooser = self._choosers.setdefault(functions, choosing(functions))
        code = self._attempting(node, chooser, [each.code for each in operands], stem)
        return strict(code, operands, fails=True, bounds=bounds_of(self._checked.types[node]))

    def _applied(self, node: Call, function: Function, operands: Sequence[Fragment]) -> Fragment:
        bounds = result_bounds(function, [operand.bounds for operand in operands])
        if bounds is None:
            bounds = UNKNOWN if function.is_unlimited else bounds_of(self._checked.types[node])
        codes = [operand.code for operand in operands]
        stem = function.name.replace(".", "_") if function.name[0].isalpha() else ""
        code, fails = "", False
        if function.name == "_/_" and function.result == DOUBLE:
            code = self._real_quotient(*codes, is_never_zero=_is_other_than_zero(node.arguments[1]))
        elif function.name in ("_/_", "_%_"):
            fails = operands[1].bounds[0] <= 0 <= operands[1].bounds[1]
            code = self._whole_quotient(node, function, operands, may_be_zero=fails)
        elif function.inline == "{0}":
            # Python warns of a literal that is compared with None, so a dynamic one is hidden from it.
            code = codes[0] if function.result != DYN else ""
        elif function.inline:
            code = function.inline.format(*codes)
            code = code if function.is_method else f"({code})"
        else:
            fails = function.fails
        if not code and fails:
            code = self._attempting(node, function.call, codes, stem)
        return strict(code or self._calling(function.call, codes, stem), operands, fails=fails, bounds=bounds)

    def _whole_quotient(
        self, node: Node, function: Function, operands: Sequence[Fragment], *, may_be_zero: bool
    ) -> str:
        """Division or remainder. Rounding toward zero and down are the same where nothing is negative."""
        dividend, divisor = operands
        below = divisor.code if _is_free(divisor.code) or not may_be_zero else self._temporary()
        if dividend.bounds[0] >= 0 and divisor.bounds[0] >= 0:
            code = f"({dividend.code} {'//' if function.name == '_/_' else '%'} {below})"
        else:
            code = self._calling(function.call, [dividend.code, below])
        if not may_be_zero:
            return code
        asked = below if below == divisor.code else f"({below} := {divisor.code})"
        refused = self._calling(values.refuse, [repr(BY_ZERO[function.name]), self._where(node)])
        return f"({code} if {asked} else {refused})"

    def _real_quotient(self, dividend: str, divisor: str, *, is_never_zero: bool) -> str:
        """Division where a divisor of 0.0 gives an infinity or NaN and Python would raise."""
        if is_never_zero:
            return f"({dividend} / {divisor})"
        above, below = (code if _is_free(code) else self._temporary() for code in (dividend, divisor))
        by_zero = self._calling(ieee_quotient, [above, below])
        # The dividend is a number, so the first question is only there to give it a name.
        named = "" if above == dividend else f"({above} := {dividend}) is not None and "
        asked = divisor if below == divisor else f"({below} := {divisor})"
        return f"({above} / {below} if {named}{asked} else {by_zero})"

    def _limited(self, node: Node, kind: Type, made: Fragment) -> Fragment:
        """A whole number that fits its type: known to, or compared with its range."""
        low, high = LIMITS[kind]
        if low <= made.bounds[0] and made.bounds[1] <= high:
            return made
        value = self._temporary()
        refused = self._attempting(node, limited, [value, self._global(kind, f"type_{kind.name.rpartition('.')[2]}")])
        code = f"({value} if {low} <= ({value} := {made.code}) <= {high} else {refused})"
        return replace(made, code=code, fails=True, bounds=(max(low, made.bounds[0]), min(high, made.bounds[1])))

    # What does not need all of its operands

    def _logic(self, node: Logic) -> Fragment:
        operands = list(map(self._truth, node.operands))
        # Plain questions for null come first, since what stands beside them relies on the answer.
        questions = [each for each, of in zip(operands, node.operands, strict=True) if null_test(of) is not None]
        sure = [each for each in operands if each.is_sure]
        sure.sort(key=lambda each: each not in questions)
        unsure = [each for each in operands if not each.is_sure]
        word = "and" if node.operator == "&&" else "or"
        if not unsure:
            return Fragment(chain(word, sure))
        if not any(each.fails for each in unsure) and all(each.needed == unsure[0].needed for each in unsure):
            # They all fail or none does.
            together = strict(chain(word, unsure), unsure)
            if not sure:
                return together
            last = self.settled(together)
        elif len(unsure) == 1:
            last = self.settled(unsure[0])
        elif any(each.fails for each in unsure):
            decide = values.all_of if word == "and" else values.any_of
            last = Fragment(self._calling(decide, map(self._lambda, unsure)), fails=True)
        else:
            last = self._asking_afterwards(word, unsure)
        return Fragment(chain(word, [*sure, last]), fails=True)

    def _asking_afterwards(self, word: str, operands: Sequence[Fragment]) -> Fragment:
        """Operands that fail for nulls only: those that can decide do, and then there may be no null."""
        needs = [need for operand in operands for need in operand.needs]
        if word == "and":
            parts = [f"({self._asked(each.needs, join='or', test='is None')} or {each.code})" for each in operands]
            parts.append(f"({self._asked(needs)} or {self._refusing(needs)})")
        else:
            parts = [f"({self._asked(each.needs)} and {each.code})" for each in operands]
            parts.append(f"(({self._asked(needs, join='or', test='is None')}) and {self._refusing(needs)})")
        return Fragment(f"({f' {word} '.join(parts)})", fails=True)

    def _conditional(self, node: Conditional) -> Fragment:
        condition = self._truth(node.condition)
        is_dynamic = self._checked.types[node].present == DYN
        branches = []
        for each in (node.then, node.otherwise):
            branch = self._shown(each) if is_dynamic else self.fragment(each)
            # What the condition needs has been asked for when a branch is taken.
            rest = tuple(need for need in branch.needs if need.python not in condition.needed)
            branches.append(self.settled(replace(branch, needs=rest)))
        then, otherwise = branches
        return Fragment(
            f"({then.code} if {condition.code} else {otherwise.code})",
            condition.needs,
            condition.fails or then.fails or otherwise.fails,
            (min(then.bounds[0], otherwise.bounds[0]), max(then.bounds[1], otherwise.bounds[1])),
        )

    # Aggregates and macros

    def _map(self, node: MapLiteral) -> Fragment:
        entries = [(self._shown(key), self._shown(value)) for key, value in node.entries]
        parts = [part for entry in entries for part in entry]
        keys = [(key.type, key.value) for key, _ in node.entries if isinstance(key, Literal)]
        if len({kind for kind, _ in keys}) <= 1 and len(set(keys)) == len(entries):
            return strict(f"{{{', '.join(f'{key.code}: {value.code}' for key, value in entries)}}}", parts)
        pairs = [f"({key.code}, {value.code})" for key, value in entries]
        return strict(self._attempting(node, values.mapping, pairs), parts, fails=True)

    def _macro(self, node: Macro) -> Fragment:
        items = self._present(node.items)
        if self._checked.types[node.items] == DYN:
            items = replace(items, code=self._attempting(node, values.items_of, [items.code]), fails=True)
        element = self._temporary()
        self._elements[node] = element
        source, fails = items.code, items.fails
        if node.condition is not None:
            condition = self._truth(node.condition)
            decide = _DECIDING.get(node.name, values.filtered)
            source = self._calling(decide, [source, self._lambda(condition, element)])
            fails = fails or not condition.is_sure
        if node.transform is not None:
            transform = self._shown(node.transform)
            source = self._calling(values.mapped, [source, self._lambda(transform, element)])
            fails = fails or not transform.is_sure
        return Fragment(source, items.needs, fails)


_DECIDING = {"all": values.all_hold, "exists": values.any_holds, "exists_one": values.one_holds}


def _is_free(code: str) -> bool:
    """Whether source costs nothing to evaluate again: a name or a number."""
    return code.isidentifier() or code[0].isdigit()


def _is_other_than_zero(node: Node) -> bool:
    return isinstance(node, Literal) and bool(node.value)


def _is_plain(kind: Type) -> bool:
    """Whether Python's `==` is CEL's for values of it. For lists it is not: a tuple is one too, and NaN is not NaN."""
    return kind.present in (BOOL, INT, UINT, DOUBLE, STRING, BYTES, TYPE)
