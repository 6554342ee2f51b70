"""Routes of IoT Edge: which message goes to which module's input, or up to the hub.

`[SELECT *] FROM <source> [WHERE <condition>] INTO <sink>`, for example
`FROM /messages/modules/sensor/* WHERE $body.temperature > 30 INTO BrokeredEndpoint("/modules/alarm/inputs/in")`.

- A source names the sender from the left: `/messages/*` is every message, `/messages/modules/sensor` all of one module.
- A condition sees the application's properties by their names (always texts), the system's as `$contentType`, and the
  body as `$body.a.b[0]`. The body can be asked only if content type and encoding say that it is JSON.
- A sink is `$upstream` or `BrokeredEndpoint("/modules/{module}/inputs/{input}")`.
- A message goes to a sink once, by the route of the best priority.

This is the language of edgeHub (Routing.Core in its sources), with its ways: nearly every character can be part of a
name, so that operators want spaces around them (`a != 'b'`, not `a!='b'`); a number compared with a property is
refused, because a property is a text (`AS_NUMBER(level) > 5`); a time in the body cannot be asked; what the body does
not have is null, and greater than any number. The bench keeps to them: a route that worked only here would be found
wrong in the field. It is stricter in one thing: edgeHub ignores what follows the sink.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeGuard

import orjson

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.conditions.expression import (
    BINDS_TIGHTEST,
    STRING_RULES,
    ExpressionRefused,
    Lexicon,
    Parser,
    Term,
    Token,
    TokenKind,
    literal,
)
from edge_gateway.testbench.cloud.conditions.functions import QUERY_FUNCTIONS, ROUTE_FUNCTIONS
from edge_gateway.testbench.cloud.conditions.values import EVERY_KIND, MISSING, UNDEFINED, Function, Kind, Outcome

BEST_PRIORITY = 0
WORST_PRIORITY = 9
DEFAULT_PRIORITY = 2_000_000_000
"""Of a route that has none: behind all that have one."""
MAX_TTL_S = 2**32 - 1
TWIN_CHANGES = "/twinChangeNotifications"
"""The source of notices that a twin has changed."""

_ROUTE_NAME = re.compile(r"[^.$# ]+")
_ENCODINGS: Final = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?", re.ASCII)
_BODY_STEP = re.compile(r"([^()<>@,;:\\\"/\[\]?={}.\t\n\r]+)(?:\[(\d{1,9})\])?", re.ASCII)

EDGE_NAMES: Final[Mapping[str, str]] = {
    "message-id": "messageId",
    "correlation-id": "cid",
    "user-id": "userId",
    "to": "to",
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "absolute-expiry-time": "absolute-expiry-time",
    "creation-time-utc": "creationTime",
    "output-name": "outputName",
    "connection-device-id": "connectionDeviceId",
    "connection-module-id": "connectionModuleId",
    "iothub-connection-device-id": "connectionDeviceId",
    "iothub-connection-module-id": "connectionModuleId",
    "iothub-enqueuedtime": "enqueuedTime",
    "interface-id": "iothub-interface-id",
    "dt-subject": "dt-subject",
    "message-schema": "messageSchema",
}
"""System properties by the names they have elsewhere in the bench, and those that conditions know them by."""


class RouteRefused(ExpressionRefused):
    """A route cannot be used."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The sink `$upstream`: IoT Hub, or the parent of a nested edge device."""

    def __str__(self) -> str:
        return "$upstream"


@dataclass(frozen=True, slots=True)
class ModuleInput:
    """The sink that is an input of a module on the same device."""

    module_id: str
    input_name: str

    def __str__(self) -> str:
        return f'BrokeredEndpoint("/modules/{self.module_id}/inputs/{self.input_name}")'


Sink: TypeAlias = Upstream | ModuleInput


class RouteMatch(NamedTuple):
    """Where a message goes."""

    sink: Sink
    priority: int
    """0 is the best."""
    ttl_s: int | None
    """How long it is kept for the sink; None: as long as the store's own setting says."""


def message_source(module_id: str = "", output_name: str = "") -> str:
    """The source of a message: of a device behind the gateway, or of a module, perhaps from an output."""
    source = f"/messages/modules/{module_id}" if module_id else "/messages"
    return f"{source}/outputs/{output_name}" if output_name else source


class RoutedMessage:
    """A message as conditions see it.

    Args:
        properties: the application's. Names are found whatever their case.
        system_properties: by their long names in the bench (`content-type`) or by those of edgeHub (`contentType`).
        body: read only if a condition asks for it.
    """

    def __init__(self, properties: Mapping[str, str], system_properties: Mapping[str, str], body: bytes) -> None:
        self.properties = {name.lower(): value for name, value in properties.items()}
        self.system = {EDGE_NAMES.get(name, name).lower(): value for name, value in system_properties.items()}
        self._body = body

    @cached_property
    def body(self) -> dict[str, Any] | None:
        """The body if it is a JSON object and the system properties say so."""
        encoding = _ENCODINGS.get(self.system.get("contentencoding", "").lower())
        if encoding is None or self.system.get("contenttype", "").lower() != "application/json":
            return None
        try:
            body = orjson.loads(self._body.decode(encoding).removeprefix("\ufeff"))
        except (UnicodeDecodeError, orjson.JSONDecodeError):
            return None
        return body if isinstance(body, dict) else None

    def body_value(self, path: Sequence[str | int]) -> Outcome:
        """What is at a place of the body.

        Undefined are objects, arrays, and texts in the form of a time, which edgeHub's JSON reader makes times of. What
        is not there is not undefined, but `MISSING`.
        """
        if self.body is None:
            return UNDEFINED
        at: Any = self.body
        for step in path:
            if isinstance(step, str):
                is_there = isinstance(at, dict) and step in at
            else:
                is_there = isinstance(at, list) and step < len(at)
            if not is_there:
                return MISSING
            at = at[step]
        if isinstance(at, dict | list) or (isinstance(at, str) and _ISO_TIME.fullmatch(at)):
            return UNDEFINED
        value: Value = at
        return value


@dataclass(frozen=True, slots=True)
class Route:
    """A route that was read."""

    source: str
    """The beginning of the sources it takes, in lower case, with a slash at its end."""
    condition: Term[RoutedMessage]
    sink: Sink

    def takes(self, source: str, message: RoutedMessage) -> bool:
        """Whether a message from this source goes this way."""
        return _folder(source).startswith(self.source) and self.condition.evaluate(message) is True


def parse_route(text: str, name: str = "") -> Route:
    """Read a route.

    Args:
        text: `FROM ... INTO ...`.
        name: the route's, for errors.

    Raises:
        RouteRefused: edgeHub would not take it, with the position and what would do.
    """
    return _RouteParser(text, f"route {name}" if name else "route").route()


class RouteTable:
    """The routes of a deployment.

    Args:
        routes: `routes` of the desired properties of `$edgeHub`: texts, or objects with `route` and perhaps `priority`
            (0 is the best, 9 the worst) and `timeToLiveSecs`.

    Raises:
        RouteRefused: one of them cannot be used; edgeHub then keeps the routes it had.
    """

    def __init__(self, routes: Mapping[str, Value]) -> None:
        self._routes = [
            (parse_route(text, name), priority, ttl_s) for name, text, priority, ttl_s in _specified(routes)
        ]

    def matches(
        self, source: str, properties: Mapping[str, str], system_properties: Mapping[str, str], body: bytes
    ) -> list[RouteMatch]:
        """Where a message goes, each sink once with the best priority; the best first.

        Args:
            source: see `message_source`.
            properties: see `RoutedMessage`.
            system_properties: see `RoutedMessage`.
            body: see `RoutedMessage`.
        """
        message = RoutedMessage(properties, system_properties, body)
        best: dict[Sink, RouteMatch] = {}
        for route, priority, ttl_s in self._routes:
            known = best.get(route.sink)
            if (known is None or priority < known.priority) and route.takes(source, message):
                best[route.sink] = RouteMatch(route.sink, priority, ttl_s)
        return sorted(best.values(), key=lambda match: match.priority)


def _specified(routes: Mapping[str, Value]) -> Iterable[tuple[str, str, int, int | None]]:
    for name, given in routes.items():
        where = f"route {name}"
        specification = {"route": given} if isinstance(given, str) else given
        if not _ROUTE_NAME.fullmatch(name):
            raise _misshaped("a route's name is empty or has a dot, `$`, `#` or space", where, "Give it another name")
        if not isinstance(specification, Mapping) or not isinstance(text := specification.get("route"), str):
            raise _misshaped("neither a text nor an object with `route`", where, "Write FROM ... INTO ...")
        priority = specification.get("priority", DEFAULT_PRIORITY)
        if not _is_count(priority, WORST_PRIORITY) and priority != DEFAULT_PRIORITY:
            raise _misshaped(f"priority {priority!r}", where, "Use 0 (best) to 9")
        ttl_s = specification.get("timeToLiveSecs", 0)
        if not _is_count(ttl_s, MAX_TTL_S):
            raise _misshaped(f"timeToLiveSecs {ttl_s!r}", where, f"Use 0 (as the store) to {MAX_TTL_S}")
        yield name, text, int(priority), ttl_s or None


def _misshaped(what: str, where: str, remedy: str) -> RouteRefused:
    return RouteRefused(what, where=where, position=0, remedy=remedy)


def _is_count(value: Value, highest: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


def _folder(source: str) -> str:
    return source.rstrip("/").lower() + "/"


_NAME = r"""[^()<>@,;:\\"/\[\]?={} \t\n\r]+"""
_PATH = r"""[^()<>@,;:\\"/?={} \t\n\r]+"""
_LEXICON = Lexicon(
    [
        (TokenKind.KEYWORD, r"(?i:select|from|where|into)"),
        *STRING_RULES,
        (TokenKind.NUMBER, r"-?[0-9]+"),
        (TokenKind.NUMBER, r"0[xX][0-9a-fA-F]+"),
        (TokenKind.NUMBER, r"-?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?"),
        (TokenKind.NUMBER, r"-?[0-9]*[eE][+-]?[0-9]+"),
        (TokenKind.CONSTANT, r"true|false|null|undefined"),
        (TokenKind.SYMBOL, r"<=|>=|<>|!=|\|\||\?\?|[(),+*/%=<>{}-]"),
        (TokenKind.KEYWORD, r"(?i:and|or|not)"),
        (TokenKind.SYSTEM_NAME, rf"\${_PATH}"),
        (TokenKind.NAME, _NAME),
        (TokenKind.UNREADABLE, _PATH),
        (TokenKind.SPACE, r"[ \t\r\n]+|/\*[\s\S]*?\*/"),
    ]
)
"""GrammarLexer.g4. The order decides between rules that match equally much; else the one that matches more wins."""


def _is_null_in_body(value: Outcome) -> Outcome:
    """All that is there is null to edgeHub, which compares identities here, and what is missing is not."""
    return UNDEFINED if value is UNDEFINED else value is not MISSING


_IS_NULL_IN_BODY = Function((EVERY_KIND,), Kind.BOOL, _is_null_in_body)


class _RouteParser(Parser[RoutedMessage]):
    refusal = RouteRefused
    lexicon: ClassVar[Lexicon] = _LEXICON
    functions = ROUTE_FUNCTIONS
    not_binds = BINDS_TIGHTEST
    orders_kinds = True

    def route(self) -> Route:
        if self.skip("SELECT"):
            self.expect("*")
        self.expect("FROM")
        source = self._source()
        condition: Term[RoutedMessage] = self.expression() if self.skip("WHERE") else literal(True)
        self.expect("INTO")
        sink = self._sink()
        self.expect_end()
        return Route(source, condition, sink)

    def named(self, token: Token) -> Term[RoutedMessage]:
        name = token.text.lower()
        if token.kind is TokenKind.NAME:
            return Term(Kind.STRING, lambda message: message.properties.get(name, UNDEFINED))
        if not name.startswith("$body."):
            system_name = name[1:]
            return Term(
                Kind.STRING,
                lambda message: message.properties.get(name, message.system.get(system_name, UNDEFINED)),
            )
        in_body = self._in_body(token)
        return Term(
            Kind.ANY,
            lambda message: message.properties[name] if name in message.properties else in_body.evaluate(message),
        )

    def braced(self, token: Token) -> Term[RoutedMessage]:
        """`{$name}`: the system's property even if the application has one of that name."""
        named = self.take()
        if named.kind is not TokenKind.SYSTEM_NAME:
            raise self.refused(f"{named} in braces", token, "Only {$name} can be in braces")
        self.expect("}")
        if named.text.lower().startswith("$body."):
            return self._in_body(named)
        system_name = named.text[1:].lower()
        return Term(Kind.STRING, lambda message: message.system.get(system_name, UNDEFINED))

    def function(self, token: Token, kinds: Sequence[Kind]) -> Function:
        name = token.text.upper()
        if name == "IS_NULL" and list(kinds) == [Kind.ANY]:
            return _IS_NULL_IN_BODY
        if name not in self.functions and name in QUERY_FUNCTIONS:
            raise self.refused(f"{token.text} works in queries, not in routes", token, _INSTEAD.get(name, ""))
        return super().function(token, kinds)

    def check_operands(self, token: Token, *operands: Term[RoutedMessage]) -> None:
        """Refuse the operators that edgeHub does not have for values of the body."""
        takes_none = token.word == "%" or (token.word == "-" and len(operands) == 1)
        if takes_none and Kind.ANY in [operand.kind for operand in operands]:
            raise self.refused(f"{token.text} does not work on values of the body", token, "Use AS_NUMBER($body...)")

    def logical(self, token: Token, operands: Sequence[Term[RoutedMessage]]) -> Term[RoutedMessage]:
        """As edgeHub, for which a value of the body can stand in front, or second behind another one."""
        first, second, *others = operands
        of_body = [operand.kind is Kind.ANY for operand in operands]
        if any(of_body[2:]) or (of_body[1] and not of_body[0]):
            raise self.refused(
                f"a value of the body alone behind {token.text}", token, "Write it in front, or compare it: ... = true"
            )
        if not of_body[0]:
            return super().logical(token, operands)
        # Only two booleans decide anything then: `$body.missing OR true` is undefined.
        pair = super().logical(token, [first, second])
        both = [first.evaluate, second.evaluate]
        strict: Term[RoutedMessage] = Term(
            Kind.BOOL,
            lambda message: (
                pair.evaluate(message) if all(isinstance(evaluate(message), bool) for evaluate in both) else UNDEFINED
            ),
            pair.depth + 1,
        )
        return super().logical(token, [strict, *others]) if others else strict

    def _in_body(self, token: Token) -> Term[RoutedMessage]:
        path: list[str | int] = []
        for step in token.text[len("$body.") :].split("."):
            match = _BODY_STEP.fullmatch(step)
            if match is None or step == "*":
                raise self.refused(f"{token} is no place in a body", token, "Use $body.name.name[0].name")
            path += [match[1]] if match[2] is None else [match[1], int(match[2])]
        return Term(Kind.ANY, lambda message: message.body_value(path))

    def _source(self) -> str:
        source = ""
        while self.skip("/"):
            item = self.take()
            if item.word != "*" and item.kind is not TokenKind.NAME:
                raise self.refused(f"{item} in a source", item, "Use /messages/modules/{module}/outputs/{output} or /*")
            source += f"/{item.text}"
        if not source:
            raise self.refused(f"{self.peek()} where a source should be", remedy="Use /messages/* for every message")
        return _folder(source.rstrip("*"))

    def _sink(self) -> Sink:
        token = self.take()
        if token.kind is TokenKind.SYSTEM_NAME and token.text.lower() == "$upstream":
            return Upstream()
        if token.kind is not TokenKind.NAME or token.text.lower() != "brokeredendpoint":
            raise self.refused(f"{token} is no sink", token, _SINKS)
        self.expect("(")
        endpoint = self.take()
        items = endpoint.text[1:-1].strip().removeprefix("/").removesuffix("/").split("/")
        if endpoint.kind is not TokenKind.STRING or len(items) != 4:
            raise self.refused(f"{endpoint} is no input of a module", endpoint, _SINKS)
        self.expect(")")
        return ModuleInput(items[1], items[3])


_INSTEAD: Final = {"STARTSWITH": "Write STARTS_WITH", "ENDSWITH": "Write ENDS_WITH"}
_SINKS: Final = 'Use $upstream or BrokeredEndpoint("/modules/{module}/inputs/{input}")'
