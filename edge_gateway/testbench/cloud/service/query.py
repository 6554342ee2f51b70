"""Queries of IoT Hub over twins and jobs, and the conditions that say which devices a configuration or a job is for.

`SELECT * | <list> FROM devices | devices.modules | devices.jobs [WHERE <condition>] [GROUP BY <names>]`, for example
`SELECT tags.floor AS floor, COUNT() AS devices FROM devices WHERE connectionState = 'Connected' GROUP BY tags.floor`.

A query runs over documents as services read them, each a JSON object. What a document does not have is undefined, and
is left out of the row. A name is a path of members; a member whose name is a word of the language or has other
characters than letters, digits, `_` and `$` stands in double brackets: `tags.[[group]].[[my-tag]]`.

IoT Hub publishes no grammar. Documented are the clauses, the operators and the restrictions kept here; not verified are
the comparison of values of two kinds (never equal, and in no order), where NOT ends (it takes in a comparison), whether
a hyphen may stand in a bare name (here it may not, so that nobody subtracts by accident), and the size of a page that a
client does not ask for.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import orjson

from edge_gateway.testbench.cloud.conditions.expression import (
    BINDS_BELOW_EQUALITY,
    STRING_RULES,
    ExpressionRefused,
    Lexicon,
    Parser,
    Term,
    Token,
    TokenKind,
    literal,
)
from edge_gateway.testbench.cloud.conditions.functions import QUERY_FUNCTIONS
from edge_gateway.testbench.cloud.conditions.values import UNDEFINED, Kind, Nothing, Outcome

MAX_PAGE_ITEMS = 1000

Document: TypeAlias = Mapping[str, Any]


class QueryRefused(ExpressionRefused):
    """A query, condition or continuation cannot be used."""


class Collection(enum.Enum):
    """What can stand behind FROM."""

    DEVICES = "devices"
    MODULES = "devices.modules"
    JOBS = "devices.jobs"


@dataclass(frozen=True, slots=True)
class Condition:
    """Chooses documents of a collection."""

    collection: Collection
    term: Term[Document]

    def holds(self, document: Document) -> bool:
        """Whether it is exactly true of a document."""
        return self.term.evaluate(document) is True


class Page(NamedTuple):
    """A part of a query's rows."""

    rows: list[Document]
    continuation: str | None
    """Asks for the next page; None behind the last one."""


_Fold: TypeAlias = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    """Empty: the name is the document's own spelling of the path's last member."""
    path: tuple[str, ...]
    """Empty for COUNT()."""
    fold: _Fold | None
    """Makes one value of a group's numbers; None takes the value as it is."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was read."""

    text: str
    condition: Condition
    columns: tuple[_Column, ...]
    """Empty for `SELECT *`."""
    groups: tuple[tuple[str, ...], ...]
    top: int | None

    @property
    def collection(self) -> Collection:
        """What it has to be run over."""
        return self.condition.collection

    @property
    def item_type(self) -> str:
        """What its rows are, as the header `x-ms-item-type` says."""
        if self.columns:
            return "Raw"
        return "DeviceJob" if self.collection is Collection.JOBS else "Twin"

    def run(self, documents: Iterable[Document]) -> list[Document]:
        """All rows, in the order of the documents."""
        chosen = (document for document in documents if self.condition.holds(document))
        rows: Iterable[Document] = chosen
        if self.groups or any(column.fold for column in self.columns):
            rows = (self._folded(group) for group in self._grouped(chosen))
        elif self.columns:
            rows = (self._row(document) for document in chosen)
        return list(islice(rows, self.top))

    def page(self, documents: Iterable[Document], max_items: int, continuation: str | None = None) -> Page:
        """Some of the rows.

        Args:
            documents: of the collection as it is now; pages of a query do not freeze it.
            max_items: how many rows, at most `MAX_PAGE_ITEMS`.
            continuation: of the page before; None for the first one.

        Raises:
            QueryRefused: the continuation is none of this query's.
        """
        start = self._start(continuation) if continuation is not None else 0
        rows = self.run(documents)
        end = start + max(1, min(max_items, MAX_PAGE_ITEMS))
        return Page(rows[start:end], self._continuation(end) if end < len(rows) else None)

    def _row(self, document: Document) -> Document:
        row = {}
        for column in self.columns:
            name, value = _found(document, column.path)
            if not isinstance(value, Nothing):
                row[column.name or name] = value
        return row

    def _grouped(self, documents: Iterable[Document]) -> Iterable[list[Document]]:
        if not self.groups:
            return [list(documents)]
        groups: dict[bytes, list[Document]] = {}
        for document in documents:
            values = [_found(document, path)[1] for path in self.groups]
            present = [[] if isinstance(value, Nothing) else [value] for value in values]
            groups.setdefault(orjson.dumps(present, option=orjson.OPT_SORT_KEYS), []).append(document)
        return groups.values()

    def _folded(self, group: list[Document]) -> Document:
        row: dict[str, Any] = {}
        for column in self.columns:
            if column.fold is None:
                name, value = _found(group[0], column.path)
                if not isinstance(value, Nothing):
                    row[column.name or name] = value
            elif not column.path:
                row[column.name] = len(group)
            else:
                values = [_found(document, column.path)[1] for document in group]
                numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
                if numbers:
                    row[column.name] = column.fold(numbers)
        return row

    def _continuation(self, start: int) -> str:
        return base64.urlsafe_b64encode(f"{start} {self._digest()}".encode()).decode()

    def _start(self, continuation: str) -> int:
        try:
            start, digest = base64.urlsafe_b64decode(continuation.encode("ascii")).decode("ascii").split(" ")
            if digest == self._digest() and start.isdecimal() and len(start) < 10:
                return int(start)
        except ValueError:
            pass  # refused below, as any other that is none of ours
        raise QueryRefused("the continuation is none of this query's", where="", position=0, remedy="Begin again")

    def _digest(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        QueryRefused: it is none, with the position.
    """
    return _QueryParser(text, "query").query()


def parse_condition(text: str, where: str = "condition") -> Condition:
    """Read the condition of a configuration or a job: what could stand behind WHERE, or `*` for every device.

    A configuration for modules has `FROM devices.modules WHERE` in front.

    Args:
        text: the condition. One that is empty holds nowhere.
        where: whose it is, for errors.

    Raises:
        QueryRefused: it is none, with the position.
    """
    return _QueryParser(text, where).lone_condition()


_KEYWORDS: Final = "select|top|from|where|group|by|as|and|or|not|in|nin"
_CONSTANTS: Final = "true|false|null|undefined"
_WORDS: Final = frozenset([*_KEYWORDS.split("|"), *_CONSTANTS.split("|")])
_FOLDS: Final[Mapping[str, _Fold]] = {
    "COUNT": len,
    "SUM": sum,
    "AVG": lambda numbers: sum(numbers) / len(numbers),
    "MIN": min,
    "MAX": max,
}
_STEP = r"(?:[^\W\d][\w$-]*|\$[\w$-]+|\[\[[^\[\]]+\]\])"
_LEXICON = Lexicon(
    [
        (TokenKind.KEYWORD, f"(?i:{_KEYWORDS})"),
        (TokenKind.CONSTANT, f"(?i:{_CONSTANTS})"),
        *STRING_RULES,
        (TokenKind.NUMBER, r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"),
        (TokenKind.NUMBER, r"0[xX][0-9a-fA-F]+"),
        (TokenKind.SYMBOL, r"<=|>=|<>|!=|[(),+*/%=<>\[\]-]"),
        (TokenKind.NAME, rf"{_STEP}(?:\.{_STEP})*"),
        (TokenKind.SPACE, r"\s+"),
    ]
)


class _QueryParser(Parser[Document]):
    refusal = QueryRefused
    lexicon: ClassVar[Lexicon] = _LEXICON
    functions = QUERY_FUNCTIONS
    not_binds = BINDS_BELOW_EQUALITY
    orders_kinds = False

    def query(self) -> Query:
        self.expect("SELECT")
        top = self._count() if self.skip("TOP") else None
        columns_token = self.peek()
        columns = () if self.skip("*") else tuple(self._listed(self._column))
        condition = self._from_where()
        groups_token = self.peek()
        groups = tuple(self._listed(self._path)) if self.skip("GROUP", "BY") else ()
        self.expect_end()
        if condition.collection is Collection.JOBS and columns:
            raise self.refused("jobs cannot be listed in part", columns_token, "Use SELECT * FROM devices.jobs")
        if groups and condition.collection is not Collection.DEVICES:
            raise self.refused("only devices can be grouped", groups_token, "Use FROM devices")
        if groups or any(column.fold for column in columns):
            loose = not columns or any(not column.fold and column.path not in groups for column in columns)
            if loose:
                raise self.refused(
                    "a column is neither grouped nor a function of a group", columns_token, "Name it behind GROUP BY"
                )
        return Query(self._text, condition, columns, groups, top)

    def lone_condition(self) -> Condition:
        if self.peek().word == "FROM":
            condition = self._from_where()
        elif self.peek().kind is TokenKind.END:
            condition = Condition(Collection.DEVICES, literal(False))
        else:
            every: Term[Document] = literal(True)
            condition = Condition(Collection.DEVICES, every if self.skip("*") else self.expression())
        self.expect_end()
        return condition

    def named(self, token: Token) -> Term[Document]:
        path = self._steps(token)
        return Term(Kind.ANY, lambda document: _found(document, path)[1])

    def _from_where(self) -> Condition:
        self.expect("FROM")
        token = self.take()
        try:
            collection = Collection(token.text.lower())
        except ValueError:
            there_are = ", ".join(each.value for each in Collection)
            raise self.refused(f"no collection {token}", token, f"There are {there_are}") from None
        every: Term[Document] = literal(True)
        return Condition(collection, self.expression() if self.skip("WHERE") else every)

    def _listed(self, read: Callable[[], Any]) -> Iterable[Any]:
        yield read()
        while self.skip(","):
            yield read()

    def _column(self) -> _Column:
        token = self.peek()
        fold = None
        if token.kind is TokenKind.NAME and self._tokens[self._at + 1].word == "(":
            fold = _FOLDS.get(self.take().text.upper())
            if fold is None:
                raise self.refused(f"no function {token.text} of a group", token, f"There are {', '.join(_FOLDS)}")
            self.expect("(")
            path = () if token.text.upper() == "COUNT" else self._path()
            self.expect(")")
        else:
            path = self._path()
        name = ""
        if self.skip("AS"):
            name = ".".join(self._steps(self._name()))
        elif fold:
            raise self.refused(f"{token.text}() has no name", remedy="Write AS and a name behind it")
        return _Column(name, path, fold)

    def _path(self) -> tuple[str, ...]:
        return self._steps(self._name())

    def _name(self) -> Token:
        token = self.take()
        if token.kind is not TokenKind.NAME:
            raise self.refused(f"{token} where a name should be", token)
        return token

    def _steps(self, token: Token) -> tuple[str, ...]:
        steps = list(_steps_in(token.text))
        for step in steps:
            if step.lower() in _WORDS:
                raise self.refused(f"{step} is a word of the language", token, f"Write [[{step}]]")
            if "-" in step and not step.startswith("[["):
                raise self.refused("a hyphen in a name", token, f"Write [[{step}]], or spaces around a minus")
        for collection in (Collection.MODULES, Collection.JOBS, Collection.DEVICES):
            prefix = collection.value.split(".")
            if len(steps) > len(prefix) and [step.lower() for step in steps[: len(prefix)]] == prefix:
                steps = steps[len(prefix) :]
                break
        return tuple(step.removeprefix("[[").removesuffix("]]") for step in steps)

    def _count(self) -> int:
        token = self.take()
        if token.kind is not TokenKind.NUMBER or not token.text.isdecimal() or len(token.text) > 9:
            raise self.refused(f"{token} where a whole number should be", token)
        return int(token.text)


def _steps_in(text: str) -> Iterable[str]:
    """A path's members; a dot within double brackets is part of one."""
    step = ""
    for part in text.split("."):
        step = f"{step}.{part}" if step else part
        if not step.startswith("[[") or step.endswith("]]"):
            yield step
            step = ""


def _found(document: Document, path: Sequence[str]) -> tuple[str, Outcome]:
    """The last member's name as the document has it, and its value. The first member is found in any case."""
    at: Any = document
    name = ""
    for index, step in enumerate(path):
        if not isinstance(at, Mapping):
            return step, UNDEFINED
        name = step
        if not index and step not in at:
            name = next((key for key in at if key.lower() == step.lower()), step)
        if name not in at:
            return name, UNDEFINED
        at = at[name]
    value: Outcome = at
    return name, value
