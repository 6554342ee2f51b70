"""Tokens to a tree: recursive descent along the grammar of the CEL specification (langdef.md, "Syntax").

Text is bounded (`MAX_CHARACTERS`), and so is the height of the tree: whatever walks a tree afterwards, Python's own
compiler included, may be recursive without care. `&&` and `||` take any number of operands in a row.

There are no message types here, so `Type{field: value}` of the grammar is refused.
"""

from __future__ import annotations

import math

from edge_gateway.cel.errors import ExpressionError
from edge_gateway.cel.lexer import RESERVED, Token, TokenKind, tokens
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
from edge_gateway.cel.types import BOOL, BYTES, DOUBLE, INT, LIMITS, NULL, STRING, UINT, Type

MAX_HEIGHT = 40
"""Of the tree, and of parentheses in each other. The specification wants 12 to 32 of each kind of nesting. Python
compiles no more than 200 brackets in each other, of which a level of the tree takes four at most."""
MAX_MACROS_NESTED = 2
"""Each nested macro runs for each element of the outer one. Two over lists of 4096 take seconds, three would hours."""

_LOGICAL = ("||", "&&")
_BINDS = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(["<", "<=", ">=", ">", "==", "!=", "in"], 3),
    **dict.fromkeys(["+", "-"], 4),
    **dict.fromkeys(["*", "/", "%"], 5),
}
"""Operators by how tightly they bind; all group from the left."""
_LITERALS = {TokenKind.DOUBLE: DOUBLE, TokenKind.STRING: STRING, TokenKind.BYTES: BYTES}
_MACROS = {("all", 2), ("exists", 2), ("exists_one", 2), ("filter", 2), ("map", 2), ("map", 3)}
"""Names with the numbers of arguments."""


def parse(text: str) -> Expression:
    """Read a text.

    Raises:
        ExpressionError: it is no expression, or a longer or higher one than allowed.
    """
    parser = _Parser(text)
    root = parser.expression()
    parser.expect_end()
    _check_height(text, root)
    return Expression(text, root)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._nesting = 0

    # Tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += token.kind is not TokenKind.END
        return token

    def _is(self, symbol: str) -> bool:
        return self._next.kind is TokenKind.SYMBOL and self._next.text == symbol

    def _skip(self, symbol: str) -> bool:
        found = self._is(symbol)
        self._at += found
        return found

    def _expect(self, symbol: str, why: str) -> Token:
        if not self._is(symbol):
            raise self._refused(f"found {self._next}", remedy=f"Write `{symbol}` {why}")
        return self._take()

    def expect_end(self) -> None:
        """Nothing may be left."""
        if self._next.kind is not TokenKind.END:
            remedy = _MISTAKEN_WORDS.get(self._next.text, "An operator may be missing before it")
            raise self._refused(f"found {self._next} after the end of the expression", remedy=remedy)

    def _refused(self, what: str, token: Token | None = None, remedy: str = "") -> ExpressionError:
        position = (token if token is not None else self._next).position
        return ExpressionError(what, text=self._text, position=position, remedy=remedy)

    # Grammar

    def expression(self) -> Node:
        """Expr."""
        self._nesting += 1
        if self._nesting > MAX_HEIGHT:
            raise self._refused("nested too deeply", remedy=f"Nest at most {MAX_HEIGHT} levels")
        tree = self._operators(0)
        if self._is("?"):
            token = self._take()
            then = self._operators(0)
            self._expect(":", "and the value for false")
            tree = Conditional(token.position, tree, then, self.expression())
        self._nesting -= 1
        return tree

    def _operators(self, binds: int) -> Node:
        """Operands joined by operators that bind more tightly than this."""
        tree = self._unary()
        while (level := _BINDS.get(self._next.text, 0)) > binds:
            token = self._take()
            operands = [tree, self._operators(level)]
            if token.text in _LOGICAL:
                while self._skip(token.text):
                    operands.append(self._operators(level))
                tree = Logic(token.position, token.text, tuple(operands))
            else:
                name = "@in" if token.text == "in" else f"_{token.text}_"
                tree = Call(token.position, name, None, tuple(operands))
        return tree

    def _unary(self) -> Node:
        signs: list[Token] = []
        while self._is("!") or self._is("-"):
            if signs and signs[-1].text != self._next.text:
                raise self._refused(
                    f"found {self._next} after {signs[-1]}", remedy="Put the second sign and its operand in parentheses"
                )
            signs.append(self._take())
        # The sign of a number belongs to it, or the least int could not be written.
        if signs and signs[-1].text == "-" and self._next.kind in (TokenKind.INT, TokenKind.DOUBLE):
            tree = self._member(self._number(sign=signs.pop()))
        else:
            tree = self._member(self._primary())
        for sign in reversed(signs):
            tree = Call(sign.position, f"{sign.text}_", None, (tree,))
        return tree

    def _member(self, tree: Node) -> Node:
        while True:
            if self._is("["):
                token = self._take()
                tree = Call(token.position, "_[_]", None, (tree, self.expression()))
                self._expect("]", "after the index")
            elif self._skip("."):
                token = self._take()
                if token.kind not in (TokenKind.NAME, TokenKind.QUOTED):
                    raise self._refused(f"found {token} where the name of a field or function should be", token)
                is_call = token.kind is TokenKind.NAME and self._is("(")
                tree = self._receiver_call(tree, token) if is_call else Select(token.position, tree, token.text)
            elif self._is("{"):
                raise self._refused("there are no message types", remedy="A map is written `{'key': value}`")
            else:
                return tree

    def _primary(self) -> Node:
        token = self._next
        match token.kind, token.text:
            case (TokenKind.INT | TokenKind.UINT | TokenKind.DOUBLE, _):
                return self._number()
            case (TokenKind.STRING | TokenKind.BYTES, _):
                self._take()
                return Literal(token.position, token.value, _LITERALS[token.kind])
            case (TokenKind.SYMBOL, "true" | "false"):
                self._take()
                return Literal(token.position, token.text == "true", BOOL)
            case (TokenKind.SYMBOL, "null"):
                self._take()
                return Literal(token.position, None, NULL)
            case (TokenKind.SYMBOL, "("):
                self._take()
                inner = self.expression()
                self._expect(")", "to close the parenthesis")
                return inner
            case (TokenKind.SYMBOL, "["):
                self._take()
                return ListLiteral(token.position, self._elements("]"))
            case (TokenKind.SYMBOL, "{"):
                self._take()
                return self._map(token)
            case (TokenKind.NAME, _) | (TokenKind.SYMBOL, "."):
                return self._name()
            case _:
                raise self._refused(
                    f"found {token} where a value should be", token, "A value is a name, a number, a 'text' or the like"
                )

    def _number(self, sign: Token | None = None) -> Node:
        token = self._take()
        value = token.value
        position = token.position if sign is None else sign.position
        if isinstance(value, float):
            if math.isinf(value):
                raise self._refused(f"{token} is beyond the greatest double, 1.8e308", token)
            return Literal(position, value if sign is None else -value, DOUBLE)
        if not isinstance(value, int):
            raise TypeError("the lexer gives numbers a value")
        number = value if sign is None else -value
        kind: Type = UINT if token.kind is TokenKind.UINT else INT
        low, high = LIMITS[kind]
        if not low <= number <= high:
            raise self._refused(f"{token} does not fit in {kind}", token, f"It holds {low} to {high}")
        return Literal(position, number, kind)

    def _name(self) -> Node:
        is_rooted = self._skip(".")
        token = self._take()
        if token.kind is not TokenKind.NAME:
            raise self._refused(f"found {token} where a name should be", token)
        if token.text in RESERVED:
            raise self._refused(f"`{token.text}` is reserved", token, "Choose another name")
        if not self._is("("):
            return Name(token.position, token.text, is_rooted)
        self._take()
        arguments = self._elements(")")
        if token.text != "has" or is_rooted:
            return Call(token.position, token.text, None, arguments)
        match arguments:
            case (Select(_, operand, field, False),):
                return Select(token.position, operand, field, is_test=True)
            case _:
                raise self._refused(
                    "`has` takes one field of a map, as in `has(map.key)`",
                    token,
                    "Whether a variable has a value is `variable != null`",
                )

    def _receiver_call(self, target: Node, name: Token) -> Node:
        self._take()
        arguments = self._elements(")")
        if (name.text, len(arguments)) not in _MACROS:
            return Call(name.position, name.text, target, arguments)
        variable, *parts = arguments
        if not isinstance(variable, Name) or variable.is_rooted:
            raise ExpressionError(
                f"`{name.text}` starts with the name for an element",
                text=self._text,
                position=variable.position,
                remedy=f"For instance: `{name.text}(x, ...)`",
            )
        transform = parts.pop() if name.text == "map" else None
        return Macro(name.position, name.text, target, variable.name, parts[0] if parts else None, transform)

    def _elements(self, closing: str) -> tuple[Node, ...]:
        """ExprList, up to and with what closes it. A list may end in a comma."""
        elements: list[Node] = []
        while not self._skip(closing):
            if elements:
                self._expect(",", f"or `{closing}`")
                if closing == "]" and self._skip(closing):
                    break
            elements.append(self.expression())
        return tuple(elements)

    def _map(self, opening: Token) -> Node:
        """MapInits, up to and with the brace."""
        entries: list[tuple[Node, Node]] = []
        while not self._skip("}"):
            if entries:
                self._expect(",", "or `}`")
                if self._skip("}"):
                    break
            key = self.expression()
            self._expect(":", "and the value of this key")
            entries.append((key, self.expression()))
        return MapLiteral(opening.position, tuple(entries))


_MISTAKEN_WORDS = {"and": "And is `&&`", "or": "Or is `||`", "not": "Not is `!`", "if": "Write `condition ? a : b`"}


def _check_height(text: str, root: Node) -> None:
    """Refuse what is too high or nests too many macros; without recursion, since rows of operators are high as well."""
    waiting = [(root, 1, 0)]
    while waiting:
        node, height, macros = waiting.pop()
        if height > MAX_HEIGHT:
            raise ExpressionError(
                "too many operations on the result of another",
                text=text,
                position=node.position,
                remedy=f"At most {MAX_HEIGHT} in a row",
            )
        inner = macros + isinstance(node, Macro)
        if inner > MAX_MACROS_NESTED:
            raise ExpressionError(
                "too many macros in each other",
                text=text,
                position=node.position,
                remedy=f"Nest at most {MAX_MACROS_NESTED}",
            )
        for child in node.children:
            is_once = isinstance(node, Macro) and child is node.items
            waiting.append((child, height + 1, macros if is_once else inner))
