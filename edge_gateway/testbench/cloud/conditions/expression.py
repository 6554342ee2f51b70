"""The condition language that IoT Edge routes and IoT Hub queries share: text in, a function of the judged thing out.

```
text --Lexicon--> tokens --Parser--> Term.evaluate(message or twin) -> True, 5.0, "text", None, ... or UNDEFINED
```

- Text is read once. What is wrong with it is said then, with the position, and never later.
- What is not there is `UNDEFINED`, and so is everything made of it. A condition holds only where it is exactly True.
- Where it can be told beforehand that an operator or a function cannot work (`'a' > 5`), the text is refused.
- Text, nesting and depth are bounded, so that hostile text ends in an error like any other.

`routes` and `query` each say what a name stands for, which functions there are, and where their language has ways of
its own. Values and operators are in `expression_values`, functions in `expression_functions`.
"""

from __future__ import annotations

import enum
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, NamedTuple

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.conditions.values import (
    ORDER_OF_KINDS,
    UNDEFINED,
    Function,
    Judged,
    Kind,
    Outcome,
    arithmetic,
    comparison,
    decision,
    defined,
    joined,
    kind_of,
)

MAX_CHARACTERS = 8192
"""Of a query, says IoT Hub's documentation; taken for routes as well."""
MAX_NESTING = 50
"""Parentheses, function calls and prefixes within each other. Each costs some frames of Python's stack."""
MAX_DEPTH = 200
"""Of a compiled term: `1 + 1 + 1` is three deep. AND and OR are not, they may have as many operands as fit."""


class ExpressionRefused(BenchError):
    """A text of the language cannot be used.

    Attributes:
        position: where in the text, counted from 0.
    """

    def __init__(self, what: str, *, where: str, position: int, remedy: str = "") -> None:
        super().__init__(what, where=f"{where}, character {position + 1}" if where else "", remedy=remedy)
        self.position = position


class TokenKind(enum.Enum):
    """What a token is to the grammar."""

    STRING = "a text"
    NUMBER = "a number"
    CONSTANT = "a constant"
    NAME = "a name"
    SYSTEM_NAME = "a name with $"
    KEYWORD = "a keyword"
    SYMBOL = "a symbol"
    SPACE = "space"
    BROKEN_STRING = "a text without its end"
    UNREADABLE = "a symbol that means nothing here"
    END = "the end"


class Token(NamedTuple):
    """A piece of a text."""

    kind: TokenKind
    text: str
    position: int
    """Of its first character, from 0."""

    @property
    def word(self) -> str:
        """What the grammar compares: keywords and symbols in upper case, nothing for other tokens."""
        return self.text.upper() if self.kind in (TokenKind.KEYWORD, TokenKind.SYMBOL) else ""

    def __str__(self) -> str:
        return "the end" if self.kind is TokenKind.END else repr(self.text)


_ESCAPE = r"""\\(?:["'\\]|u[0-9a-fA-F]{4})"""
_DOUBLE_QUOTED, _SINGLE_QUOTED = rf'"(?:{_ESCAPE}|[^"\\])*', rf"'(?:{_ESCAPE}|[^'\\])*"
STRING_RULES = (
    (TokenKind.STRING, rf"""{_DOUBLE_QUOTED}"|{_SINGLE_QUOTED}'"""),
    (TokenKind.BROKEN_STRING, rf"{_DOUBLE_QUOTED}|{_SINGLE_QUOTED}"),
)


class Lexicon:
    """Cuts a text into tokens: at each place the rule that matches most, of equal ones the first.

    Args:
        rules: token kinds with regular expressions.
    """

    def __init__(self, rules: Sequence[tuple[TokenKind, str]]) -> None:
        self._rules = [(kind, re.compile(pattern)) for kind, pattern in rules]

    def tokens(self, text: str) -> list[Token]:
        """All tokens but spaces, with an END behind."""
        tokens = []
        at = 0
        while at < len(text):
            kind, end = TokenKind.UNREADABLE, at + 1
            for candidate, pattern in self._rules:
                if (match := pattern.match(text, at)) and (
                    match.end() > end or (match.end() == end and kind is TokenKind.UNREADABLE)
                ):
                    kind, end = candidate, match.end()
            if kind is not TokenKind.SPACE:
                tokens.append(Token(kind, text[at:end], at))
            at = end
        tokens.append(Token(TokenKind.END, "", len(text)))
        return tokens


@dataclass(frozen=True, slots=True)
class Term(Generic[Judged]):
    """A compiled piece of text."""

    kind: Kind
    evaluate: Callable[[Judged], Outcome]
    depth: int = 1


_BINDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(["??"], 1),
    **dict.fromkeys(["OR"], 2),
    **dict.fromkeys(["AND"], 3),
    **dict.fromkeys(["=", "!=", "<>"], 4),
    **dict.fromkeys(["<", "<=", ">", ">=", "IN", "NIN"], 5),
    **dict.fromkeys(["+", "-", "||"], 6),
    **dict.fromkeys(["*", "/", "%"], 7),
}
"""Binary operators by how tightly they bind (edgeHub's Condition grammar); all group from the left."""
BINDS_TIGHTEST: Final = 8
BINDS_BELOW_EQUALITY: Final = 3

_ARITHMETIC: Final = frozenset("+-*/%")
_LOGICAL: Final = frozenset([Kind.BOOL, Kind.NULL, Kind.UNDEFINED, Kind.ANY])


class Parser(ABC, Generic[Judged]):
    """Reads a text of the language from its beginning.

    Args:
        text: all of it.
        where: what the text is, for errors.

    Raises:
        ExpressionRefused: from every method, of the subclass's own kind.
    """

    refusal: ClassVar[type[ExpressionRefused]]
    lexicon: ClassVar[Lexicon]
    functions: ClassVar[Mapping[str, Function]]
    """By their names in upper case."""
    not_binds: ClassVar[int]
    """How tightly NOT binds, see `_BINDS`."""
    orders_kinds: ClassVar[bool]
    """Whether `<` and `>` order values of two kinds, by their kinds. If not, the outcome is undefined."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self._nesting = 0
        if len(text) > MAX_CHARACTERS:
            raise self.refusal(
                f"{len(text)} characters", where=where, position=0, remedy=f"At most {MAX_CHARACTERS} are read"
            )
        self._text = text
        self._tokens = self.lexicon.tokens(text)
        self._at = 0

    @abstractmethod
    def named(self, token: Token) -> Term[Judged]:
        """What a NAME or SYSTEM_NAME stands for."""

    def function(self, token: Token, kinds: Sequence[Kind]) -> Function:
        """The function of a name for arguments of these kinds."""
        function = self.functions.get(token.text.upper())
        if function is None:
            raise self.refused(f"no function {token.text}", token, f"There are {', '.join(sorted(self.functions))}")
        if not function.accepts(kinds):
            raise self.refused(f"{token.text} does not take ({', '.join(kind.value for kind in kinds)})", token)
        return function

    def check_operands(self, token: Token, *operands: Term[Judged]) -> None:
        """Refuse operands that never work, beyond what the language itself says."""

    # Tokens

    def peek(self) -> Token:
        """The next token."""
        return self._tokens[self._at]

    def take(self) -> Token:
        """The next token, and go past it."""
        token = self._tokens[self._at]
        self._at += token.kind is not TokenKind.END
        return token

    def skip(self, *words: str) -> bool:
        """Go past these keywords or symbols if they are next, one after another."""
        ahead = self._tokens[self._at : self._at + len(words)]
        if [token.word for token in ahead] != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, wanted: str) -> None:
        """Go past a keyword or symbol that has to be next."""
        if not self.skip(wanted):
            raise self.refused(f"{self.peek()} where {wanted} should be")

    def expect_end(self) -> None:
        """Nothing may be left."""
        if self.peek().kind is not TokenKind.END:
            raise self.refused(f"{self.peek()} is left over", remedy="An operator may be missing before it")

    def refused(self, what: str, token: Token | None = None, remedy: str = "") -> ExpressionRefused:
        """An error at a token, the next one if none is given; to be raised."""
        position = (token if token is not None else self.peek()).position
        return self.refusal(what, where=self.where, position=position, remedy=remedy)

    # Grammar

    def expression(self, binds: int = 0) -> Term[Judged]:
        """Read an expression, as far as operators bind more tightly than `binds`."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self.refused("nested too deeply", remedy=f"Nest at most {MAX_NESTING} levels")
        left = self._operand()
        while (level := _BINDS.get(self.peek().word, 0)) > binds:
            token = self.take()
            if token.word in ("AND", "OR"):
                operands = [left, self.expression(level)]
                while self.skip(token.word):
                    operands.append(self.expression(level))
                left = self.logical(token, operands)
            elif token.word in ("IN", "NIN"):
                left = self._member(token, left)
            else:
                left = self._binary(token, left, self.expression(level))
            if left.depth > MAX_DEPTH:
                raise self.refused("too many operators in a row", token, f"Use at most {MAX_DEPTH}")
        self._nesting -= 1
        return left

    def _operand(self) -> Term[Judged]:
        token = self.take()
        match token.kind, token.word:
            case (_, "("):
                inner = self.expression()
                self.expect(")")
                return inner
            case (_, "NOT"):
                return self._inverted(token, self.expression(self.not_binds))
            case (_, "-"):
                return self._negated(token, self.expression(BINDS_TIGHTEST))
            case (TokenKind.STRING, _):
                return literal(unescaped(token.text[1:-1]))
            case (TokenKind.NUMBER, _):
                return literal(number_in(token.text))
            case (TokenKind.CONSTANT, _):
                return literal(_CONSTANTS[token.text.lower()])
            case (TokenKind.NAME | TokenKind.SYSTEM_NAME, _):
                if token.kind is TokenKind.NAME and self.peek().word == "(":
                    return self._call(token)
                return self.named(token)
            case (_, "{"):
                return self.braced(token)
            case (TokenKind.BROKEN_STRING, _):
                raise self.refused("a text without its closing quote", token, r"Write a quote in it as \' or \"")
            case _:
                raise self.refused(f"{token} where a value should be", token)

    def braced(self, token: Token) -> Term[Judged]:
        """What stands for something in braces, whose first one was taken."""
        raise self.refused(f"{token} where a value should be", token)

    def _call(self, name: Token) -> Term[Judged]:
        self.expect("(")
        arguments = []
        if not self.skip(")"):
            arguments.append(self.expression())
            while self.skip(","):
                arguments.append(self.expression())
            self.expect(")")
        kinds = [argument.kind for argument in arguments]
        function = self.function(name, kinds)
        call, evaluations = function.call, [argument.evaluate for argument in arguments]
        return Term(
            function.gives,
            lambda judged: call([evaluate(judged) for evaluate in evaluations]),
            _depth(*arguments),
        )

    def _negated(self, token: Token, inner: Term[Judged]) -> Term[Judged]:
        self._check(token, inner.kind in (Kind.NUMBER, Kind.ANY), inner)
        value = inner.evaluate
        return Term(Kind.NUMBER, lambda judged: arithmetic("-", 0, value(judged)), _depth(inner))

    def _inverted(self, token: Token, inner: Term[Judged]) -> Term[Judged]:
        if inner.kind is Kind.NULL:
            return literal(True)
        self._check(token, inner.kind in (Kind.BOOL, Kind.ANY), inner)
        value = inner.evaluate

        def inverted(judged: Judged) -> Outcome:
            outcome = value(judged)
            return not outcome if isinstance(outcome, bool) else UNDEFINED

        return Term(Kind.BOOL, inverted, _depth(inner))

    def _binary(self, token: Token, left: Term[Judged], right: Term[Judged]) -> Term[Judged]:
        first, second, word = left.evaluate, right.evaluate, token.word
        if word in _ARITHMETIC:
            self._check(token, _both(Kind.NUMBER, left, right), left, right)
            kind = Kind.NUMBER if Kind.ANY not in (left.kind, right.kind) else Kind.ANY
            return Term(kind, lambda judged: arithmetic(word, first(judged), second(judged)), _depth(left, right))
        if word == "||":
            self._check(token, _both(Kind.STRING, left, right), left, right)
            return Term(Kind.STRING, lambda judged: joined(first(judged), second(judged)), _depth(left, right))
        self._check(token, _comparable(left.kind, right.kind), left, right)
        if word == "??":
            kind = left.kind if left.kind is right.kind else Kind.ANY
            return Term(kind, lambda judged: defined(first(judged), lambda: second(judged)), _depth(left, right))
        compare = comparison(word, self.orders_kinds)
        return Term(Kind.BOOL, lambda judged: compare(first(judged), second(judged)), _depth(left, right))

    def logical(self, token: Token, operands: Sequence[Term[Judged]]) -> Term[Judged]:
        """Operands joined by AND or by OR; null counts for nothing in OR, and makes all of AND null."""
        for left, right in itertools.pairwise(operands):
            self._check(token, left.kind in _LOGICAL and right.kind in _LOGICAL, left, right)
        kinds = {operand.kind for operand in operands}
        if kinds == {Kind.NULL} or (Kind.NULL in kinds and token.word == "AND"):
            return literal(None)
        evaluations = [operand.evaluate for operand in operands if operand.kind is not Kind.NULL]
        return Term(Kind.BOOL, decision(evaluations, decides=token.word == "OR"), _depth(*operands))

    def _member(self, token: Token, left: Term[Judged]) -> Term[Judged]:
        """`left IN [constant, ...]`, of queries only: IN is no keyword in routes."""
        self.expect("[")
        members = [self._constant()]
        while self.skip(","):
            members.append(self._constant())
        self.expect("]")
        equal, value, wanted = comparison("=", self.orders_kinds), left.evaluate, token.word == "IN"

        def contained(judged: Judged) -> Outcome:
            outcome = value(judged)
            if kind_of(outcome) not in ORDER_OF_KINDS:
                return UNDEFINED
            return any(equal(outcome, member) is True for member in members) is wanted

        return Term(Kind.BOOL, contained, _depth(left))

    def _constant(self) -> Outcome:
        token = self.take()
        sign = -1 if token.word == "-" else 1
        if sign < 0:
            token = self.take()
        match token.kind:
            case TokenKind.STRING if sign > 0:
                return unescaped(token.text[1:-1])
            case TokenKind.NUMBER:
                return arithmetic("*", sign, number_in(token.text))
            case TokenKind.CONSTANT if sign > 0:
                return _CONSTANTS[token.text.lower()]
            case _:
                raise self.refused(f"{token} where a constant should be", token)

    def _check(self, token: Token, possible: bool, *operands: Term[Judged]) -> None:
        if not possible:
            kinds = " and ".join(operand.kind.value for operand in operands)
            raise self.refused(f"{token.text} does not work on {kinds}", token)
        self.check_operands(token, *operands)


_CONSTANTS: Final[Mapping[str, Outcome]] = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}


def literal(value: Outcome) -> Term[Judged]:
    """A term that is always the same."""
    return Term(kind_of(value), lambda _: value)


def unescaped(text: str) -> str:
    """The inside of a quoted text without its escapes."""
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))",
        lambda match: chr(int(match[1], 16)) if match[1] else match[2],
        text,
        flags=re.DOTALL,
    )


def number_in(text: str) -> Outcome:
    """A number as the language writes it; undefined where the text has the form of one but no digits."""
    try:
        return float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
    except (ValueError, OverflowError):
        return UNDEFINED


def _depth(*parts: Term[Judged]) -> int:
    return 1 + max((part.depth for part in parts), default=0)


def _both(kind: Kind, left: Term[Judged], right: Term[Judged]) -> bool:
    return all(part.kind in (kind, Kind.ANY) for part in (left, right))


def _comparable(left: Kind, right: Kind) -> bool:
    return left is right or (Kind.ANY in (left, right) and Kind.UNDEFINED not in (left, right))
