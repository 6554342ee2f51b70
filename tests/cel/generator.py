"""Well-typed expressions by hypothesis, and values for their variables.

Nothing is avoided that can fail when it is evaluated: numbers are near the ends of their ranges as often as not,
nullable variables are null, keys are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from edge_gateway.cel import BOOL, DOUBLE, DYN, INT, STRING, UINT, Type, Uint, list_of, map_of, nullable

MOST, LEAST, UMOST = 2**63 - 1, -(2**63), 2**64 - 1

ints = st.sampled_from([0, 1, -1, 2, 7, -7, 100, 2**31, 2**53 + 1, MOST, LEAST, MOST - 1]) | st.integers(LEAST, MOST)
uints = st.sampled_from([0, 1, 7, UMOST, 2**63]) | st.integers(0, UMOST)
doubles = st.sampled_from([0.0, -0.0, 1.0, -1.5, 2.0**63, 1e308, float("inf"), float("nan")]) | st.floats()
texts = st.sampled_from(["", "a", "ab", "7", "-3", "ü", "\U0001f600"]) | st.text(max_size=3)
anything = st.recursive(
    st.none() | st.booleans() | ints | uints.map(Uint) | doubles | texts,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(texts | ints, parts, max_size=3),
    max_leaves=4,
)

VARIABLES: dict[str, tuple[Type, st.SearchStrategy[Any]]] = {
    "b": (BOOL, st.booleans()),
    "c": (nullable(BOOL), st.none() | st.booleans()),
    "i": (INT, ints),
    "j": (INT.within(0, 65535), st.integers(0, 65535)),
    "k": (nullable(INT), st.none() | ints),
    "n": (nullable(INT.within(-100, 100)), st.none() | st.integers(-100, 100)),
    "w": (UINT, uints),
    "x": (DOUBLE, doubles),
    "y": (nullable(DOUBLE), st.none() | doubles),
    "z": (nullable(DOUBLE), st.none() | doubles),
    "s": (STRING, texts),
    "t": (nullable(STRING), st.none() | texts),
    "l": (list_of(INT), st.lists(ints, max_size=3)),
    "o": (list_of(nullable(INT)), st.lists(st.none() | ints, max_size=3)),
    "q": (list_of(DOUBLE), st.lists(doubles, max_size=3)),
    "m": (map_of(STRING, INT), st.dictionaries(texts, ints, max_size=3)),
    "d": (DYN, anything),
    "e": (DYN, anything),
}
TYPES = {name: kind for name, (kind, _) in VARIABLES.items()}

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Writer:
    """Writes expressions of a wanted type, by drawing."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._locals: dict[str, list[str]] = {"int": [], "dyn": []}
        self._macros = 0

    def _one(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def of(self, kind: str, depth: int) -> str:
        if depth <= 0 or self._draw(st.integers(0, 5)) == 0:
            return self._leaf(kind)
        forms: Sequence[Callable[[int], str]] = {
            "bool": [
                self._comparison,
                self._comparison,
                self._logic,
                self._logic,
                self._logic,
                self._question,
                self._nulls,
                self._not,
                self._equality,
                self._membership,
                self._text_test,
                self._macro_test,
                self._has,
            ],
            "int": [self._whole, self._whole, self._whole, self._size, self._index, self._to_int, self._math_int],
            "uint": [self._whole_uint, self._to_uint],
            "double": [self._real, self._real, self._to_double, self._math_double],
            "string": [self._joined, self._to_string],
            "list(int)": [self._list, self._joined_lists, self._macro_list],
            "dyn": [self._dynamic, self._dynamic_arithmetic],
        }[kind]
        form = self._one(*forms, None)
        if kind in ("int", "double", "string") and self._one(True, *[False] * 9):
            return self._present(kind, depth - 1)
        if form is None:
            return f"({self.of('bool', depth - 1)} ? {self.of(kind, depth - 1)} : {self.of(kind, depth - 1)})"
        return str(form(depth - 1))

    def _leaf(self, kind: str) -> str:
        leaves = {
            "bool": ["b", "c", "true", "false"],
            "int": ["i", "j", "k", "n", "0", "1", "-7", "3", str(MOST), str(LEAST)],
            "uint": ["w", "0u", "3u", f"{UMOST}u"],
            "double": ["x", "y", "z", "0.0", "-1.5", "10.0", "1e300"],
            "string": ["s", "t", "''", "'a'", "'7'"],
            "list(int)": ["l", "[]", "[1, 2]", "[j]"],
            "dyn": ["d", "e", "dyn(1)", "dyn(1u)", "dyn(2.0)", "dyn('a')", "dyn(null)"],
        }[kind]
        return str(self._one(*leaves, *self._locals.get(kind, [])))

    def _kind(self) -> str:
        return str(self._one("bool", "int", "uint", "double", "string", "list(int)", "dyn"))

    def _comparison(self, depth: int) -> str:
        kind, symbol = self._one("int", "uint", "double", "double", "string", "dyn"), self._one("<", "<=", ">", ">=")
        other = self._one("int", "uint", "double") if kind in ("int", "uint", "double") else kind
        return f"({self.of(kind, depth)} {symbol} {self.of(other, depth)})"

    def _logic(self, depth: int) -> str:
        parts = [self.of("bool", depth) for _ in range(self._one(2, 2, 3, 4))]
        return f"({self._one(' && ', ' || ').join(parts)})"

    def _question(self, depth: int) -> str:
        name, kind = self._one(("c", "bool"), ("k", "int"), ("n", "int"), ("y", "double"), ("t", "string"))
        test = self._one(f"{name} != null", f"{name} == null", f"null != {name}", f"!({name} == null)")
        use = f"({name} {self._one('==', '<', '>')} {self.of(kind, depth)})" if kind != "bool" else name
        parts = self._draw(st.permutations([test, use, self.of("bool", depth)]))
        return f"({self._one(' && ', ' || ').join(parts)})"

    def _nulls(self, depth: int) -> str:
        names = self._draw(st.lists(st.sampled_from(["k", "n", "y", "z"]), min_size=2, max_size=3))
        tests = [f"{name} {self._one('<', '>')} j" for name in names]
        return f"({self._one(' && ', ' || ').join(tests)})"

    def _present(self, kind: str, depth: int) -> str:
        name = {"int": "k", "double": "y", "string": "t"}[kind]
        test = self._one(f"{name} == null", f"!({name} != null)", f"({name} == null || b)", f"({name} == null && b)")
        return f"({test} ? {self.of(kind, depth)} : {self._one(name, self.of(kind, depth))})"

    def _not(self, depth: int) -> str:
        return f"!{self.of('bool', depth)}"

    def _equality(self, depth: int) -> str:
        kind = self._kind()
        other = self._one(kind, kind, "dyn")
        return f"({self.of(kind, depth)} {self._one('==', '!=')} {self.of(other, depth)})"

    def _membership(self, depth: int) -> str:
        return str(
            self._one(
                lambda: f"({self.of('int', depth)} in {self.of('list(int)', depth)})",
                lambda: f"({self.of('string', depth)} in m)",
                lambda: f"({self.of('double', depth)} in q)",
                lambda: f"({self.of('int', depth)} in o)",
                lambda: f"({self.of('dyn', depth)} in {self.of('dyn', depth)})",
                lambda: f"({self.of('int', depth)} in [{self.of('int', depth)}, 3])",
            )()
        )

    def _text_test(self, depth: int) -> str:
        call = self._one("contains", "startsWith", "endsWith")
        return f"{self._one(self.of('string', depth), 'd')}.{call}({self.of('string', depth)})"

    def _scoped(self, kind: str, depth: int, wanted: str) -> tuple[str, str]:
        name = self._one("v", "u")
        self._locals[kind].append(name)
        self._macros += 1
        body = self.of(wanted, depth)
        self._macros -= 1
        self._locals[kind].remove(name)
        # Inside, the name may have been taken by another macro with elements of another type.
        return name, body

    def _macro_test(self, depth: int) -> str:
        if self._macros:
            return self._leaf("bool")
        items, kind = self._one(("l", "int"), ("o", "int"), ("d", "dyn"), (self.of("list(int)", depth), "int"))
        name, body = self._scoped(kind, depth, "bool")
        return f"{items}.{self._one('all', 'exists', 'exists_one')}({name}, {body})"

    def _has(self, depth: int) -> str:
        return str(self._one("has(m.a)", "has(d.a)", "has(d.a.ab)"))

    def _whole(self, depth: int) -> str:
        if self._one(True, False, False, False):
            return f"(-({self.of('int', depth)}))"
        return f"({self.of('int', depth)} {self._one('+', '-', '*', '/', '%')} {self.of('int', depth)})"

    def _whole_uint(self, depth: int) -> str:
        return f"({self.of('uint', depth)} {self._one('+', '-', '*', '/', '%')} {self.of('uint', depth)})"

    def _size(self, depth: int) -> str:
        return f"size({self._one(self.of('string', depth), self.of('list(int)', depth), 'm', 'd')})"

    def _index(self, depth: int) -> str:
        return str(
            self._one(
                lambda: f"{self.of('list(int)', depth)}[{self.of('int', depth)}]",
                lambda: f"m[{self.of('string', depth)}]",
                lambda: "m.a",
                lambda: f"o[{self._one('0', '1', 'd')}]",
                lambda: f"int(q[{self.of('int', depth)}])",
            )()
        )

    def _to_int(self, depth: int) -> str:
        return f"int({self.of(self._one('int', 'uint', 'double', 'string'), depth)})"

    def _math_int(self, depth: int) -> str:
        one, other = self.of("int", depth), self.of("int", depth)
        return str(
            self._one(
                f"math.abs({one})",
                f"math.greatest({one}, {other})",
                f"math.least({one}, {other}, 5)",
                f"math.bitAnd({one}, {other})",
            )
        )

    def _to_uint(self, depth: int) -> str:
        return f"uint({self.of(self._one('int', 'double', 'string'), depth)})"

    def _real(self, depth: int) -> str:
        return f"({self.of('double', depth)} {self._one('+', '-', '*', '/')} {self.of('double', depth)})"

    def _to_double(self, depth: int) -> str:
        return f"double({self.of(self._one('int', 'uint', 'double'), depth)})"

    def _math_double(self, depth: int) -> str:
        one = self.of("double", depth)
        return str(self._one(f"math.abs({one})", f"math.floor({one})", f"(-({one}))"))

    def _joined(self, depth: int) -> str:
        return f"({self.of('string', depth)} + {self.of('string', depth)})"

    def _to_string(self, depth: int) -> str:
        return f"string({self.of(self._one('int', 'uint', 'string'), depth)})"

    def _list(self, depth: int) -> str:
        return f"[{', '.join(self.of('int', depth) for _ in range(self._one(0, 1, 2)))}]"

    def _joined_lists(self, depth: int) -> str:
        return f"({self.of('list(int)', depth)} + {self.of('list(int)', depth)})"

    def _macro_list(self, depth: int) -> str:
        if self._macros:
            return self._leaf("list(int)")
        name, condition = self._scoped("int", depth, "bool")
        if self._one(True, False):
            return f"l.filter({name}, {condition})"
        self._locals["int"].append(name)
        self._macros += 1
        transform = self.of("int", depth)
        self._macros -= 1
        self._locals["int"].remove(name)
        return f"l.map({name}, {condition}, {transform})"

    def _dynamic(self, depth: int) -> str:
        kind = self._kind()
        other = self._kind()
        return str(
            self._one(
                lambda: f"dyn({self.of(kind, depth)})",
                lambda: f"[{self.of(kind, depth)}, {self.of(other, depth)}, 'x', 1u][{self.of('int', depth)}]",
                lambda: f"{{'a': {self.of(kind, depth)}, 'b': {self.of(other, depth)}, 'c': 1, 'd': ''}}.b",
                lambda: f"d[{self.of('dyn', depth)}]",
                lambda: "d.a",
            )()
        )

    def _dynamic_arithmetic(self, depth: int) -> str:
        return f"({self.of('dyn', depth)} {self._one('+', '-', '*', '/', '%')} {self.of('dyn', depth)})"


@st.composite
def expressions(draw: Draw) -> str:
    """Text of a well-typed expression over `VARIABLES`."""
    kind = draw(st.sampled_from(["bool", "bool", "bool", "int", "uint", "double", "string", "list(int)", "dyn"]))
    return Writer(draw).of(kind, draw(st.integers(1, 4)))


@st.composite
def sums(draw: Draw) -> str:
    """Text of whole numbers and what can leave their ranges."""

    def part(depth: int) -> str:
        if depth <= 0 or draw(st.integers(0, 3)) == 0:
            return str(draw(st.sampled_from(["i", "j", "n", "n", "k", "3", "-7", "65536", str(MOST), str(LEAST)])))
        form = draw(
            st.sampled_from(
                [
                    "{} + {}",
                    "{} - {}",
                    "{} * {}",
                    "{} / {}",
                    "{} % {}",
                    "-({})",
                    "math.abs({})",
                    "math.bitAnd({}, {})",
                    "int({} < 0 ? double({}) : 1.5)",
                    "b ? {} : {}",
                ]
            )
        )
        return f"({form.format(*(part(depth - 1) for _ in range(form.count('{}'))))})"

    return part(draw(st.integers(1, 4)))


values = st.fixed_dictionaries({name: strategy for name, (_, strategy) in VARIABLES.items()})
