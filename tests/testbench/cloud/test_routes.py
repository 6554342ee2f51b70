"""Routes of IoT Edge: sources, sinks, what conditions see of a message, priorities."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.conditions.values import MISSING, UNDEFINED
from edge_gateway.testbench.cloud.edge.routes import (
    DEFAULT_PRIORITY,
    MAX_TTL_S,
    TWIN_CHANGES,
    ModuleInput,
    RoutedMessage,
    RouteMatch,
    RouteRefused,
    RouteTable,
    Upstream,
    message_source,
    parse_route,
)

JSON = {"content-type": "application/json", "content-encoding": "utf-8"}
BODY = {
    "temperature": 41.5,
    "unit": "C",
    "ok": True,
    "none": None,
    "at": "2026-05-01T12:00:00Z",
    "list": [1, {"deep": "x"}],
    "object": {"inner": 1},
}


def holds(
    condition: str,
    body: bytes = b"",
    system: dict[str, str] | None = None,
    properties: dict[str, str] | None = None,
) -> bool:
    route = parse_route(f"FROM /* WHERE {condition} INTO $upstream")
    return route.takes("/messages", RoutedMessage(properties or {}, system if system is not None else JSON, body))


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("/*", ["leaf", "module", "output", "other", "twin"]),
        ("/messages/*", ["leaf", "module", "output", "other"]),
        ("/messages", ["leaf", "module", "output", "other"]),
        ("/messages/modules/*", ["module", "output", "other"]),
        ("/messages/modules/sensor/*", ["module", "output"]),
        ("/messages/modules/sensor", ["module", "output"]),
        ("/messages/modules/sensor/outputs/*", ["output"]),
        ("/messages/modules/sensor/outputs/out", ["output"]),
        ("/messages/modules/SENSOR/outputs/Out", ["output"]),
        ("/messages/modules/sensor/outputs/ou", []),
        ("/messages/modules/sens", []),
        ("/twinChangeNotifications", ["twin"]),
    ],
)
def test_sources(source: str, taken: list[str]) -> None:
    """A source takes what begins with it, by whole steps and whatever the case."""
    sources = {
        "leaf": message_source(),
        "module": message_source("sensor"),
        "output": message_source("sensor", "out"),
        "other": message_source("sensor2", "out"),
        "twin": TWIN_CHANGES,
    }
    route = parse_route(f"FROM {source} INTO $upstream")
    message = RoutedMessage({}, {}, b"")
    assert [name for name, each in sources.items() if route.takes(each, message)] == taken


@pytest.mark.parametrize(
    ("sink", "meant"),
    [
        ("$upstream", Upstream()),
        ("$UpStream", Upstream()),
        ('BrokeredEndpoint("/modules/alarm/inputs/in")', ModuleInput("alarm", "in")),
        ("brokeredendpoint ( 'modules/alarm/inputs/in/' )", ModuleInput("alarm", "in")),
    ],
)
def test_sinks(sink: str, meant: Upstream | ModuleInput) -> None:
    """A sink is the hub or an input of a module; its keywords are known in any case."""
    assert parse_route(f"select * from /messages/* into {sink}").sink == meant


@pytest.mark.parametrize("sink", [Upstream(), ModuleInput("a", "b")], ids=str)
def test_sink_as_text(sink: Upstream | ModuleInput) -> None:
    """A sink is written as a route has it."""
    assert parse_route(f"FROM /* INTO {sink}").sink == sink


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FORM /* INTO $upstream",
        "SELECT FROM /* INTO $upstream",
        "FROM INTO $upstream",
        "FROM messages INTO $upstream",
        "FROM /messages/ INTO $upstream",
        "FROM /* WHERE INTO $upstream",
        "FROM /* WHERE a = 'b'",
        "FROM /* WHERE a == 'b' INTO $upstream",
        "FROM /* INTO",
        "FROM /* INTO upstream",
        "FROM /* INTO $downstream",
        "FROM /* INTO '/modules/a/inputs/b'",
        "FROM /* INTO BrokeredEndpoint('/modules/a')",
        "FROM /* INTO BrokeredEndpoint('//modules/a/inputs/b')",
        "FROM /* INTO BrokeredEndpoint('/modules/a/inputs/b'",
        "FROM /* INTO BrokeredEndpoint(/modules/a/inputs/b)",
        "FROM /* INTO OtherEndpoint('/modules/a/inputs/b')",
        "FROM /* INTO $upstream now",
    ],
)
def test_refused(text: str) -> None:
    """What is no route is refused with the route's name."""
    with pytest.raises(RouteRefused, match="route hot, character"):
        parse_route(text, "hot")


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ("$body.temperature > 40", True),
        ("$BODY.temperature >= 41.5", True),
        ("$body.Temperature = 41.5", False),
        ("$body.temperature = '41.5'", False),
        ("$body.temperature != '41.5'", True),
        ("$body.unit > $body.temperature", True),
        ("$body.list[0] + $body.list[0] = 2", True),
        ("$body.list[1].deep = 'x'", True),
        ("$body.list[7] = null", True),
        ("$body.ok", True),
        ("NOT $body.ok", False),
        ("$body.ok AND true", True),
        ("$body.ok AND $body.ok AND 1 = 1", True),
        ("$body.missing = null", True),
        ("$body.none = null", True),
        ("$body.temperature != null", True),
        ("$body.missing > 5", True),
        ("$body.missing < 5", False),
        ("IS_DEFINED($body.missing)", True),
        ("IS_DEFINED($body.object)", False),
        ("IS_DEFINED($body.list)", False),
        ("IS_DEFINED($body.at)", False),
        ("$body.at = '2026-05-01T12:00:00Z'", False),
        ("IS_NULL($body.none)", True),
        ("IS_NULL($body.missing)", False),
        ("IS_NULL($body.temperature)", True),
        ("IS_NULL($body.object)", False),
        ("$body.missing OR true", False),
        ("$body.missing = true OR true", True),
        ("LENGTH($body.unit) = 1", True),
        ("LENGTH($body.temperature) = 1", False),
        ("$body", False),
    ],
)
def test_body(condition: str, outcome: bool) -> None:
    """Conditions see the body as edgeHub does, with its ways about null, times and booleans."""
    assert holds(f"{condition} = 'x'" if condition == "$body" else condition, orjson.dumps(BODY)) is outcome


@pytest.mark.parametrize(
    "condition",
    [
        "$body.temperature % 2 = 0",
        "- $body.temperature < 0",
        "true AND $body.ok",
        "$body.ok AND true AND $body.ok",
        "$body.a.* = 1",
        "$body.list[] = 1",
        "$body.list[x] = 1",
        "$body.a..b = 1",
        "$body.a = undefined",
        "$body.",
    ],
)
def test_body_refused(condition: str) -> None:
    """Where edgeHub has no operator for values of the body, or no way to their place, the route is refused."""
    with pytest.raises(RouteRefused):
        holds(condition)


@pytest.mark.parametrize(
    ("system", "body"),
    [
        ({}, orjson.dumps(BODY)),
        ({"content-type": "application/json"}, orjson.dumps(BODY)),
        ({"content-encoding": "utf-8"}, orjson.dumps(BODY)),
        ({**JSON, "content-type": "application/json; charset=utf-8"}, orjson.dumps(BODY)),
        ({**JSON, "content-encoding": "latin-1"}, orjson.dumps(BODY)),
        (JSON, b"\xff"),
        (JSON, b"[1]"),
        (JSON, b"{"),
        (JSON, b"{" * 2000),
    ],
)
def test_body_that_cannot_be_asked(system: dict[str, str], body: bytes) -> None:
    """Without type and encoding, or if it is no JSON object, all of the body is undefined."""
    assert not holds("IS_DEFINED($body.temperature)", body, system)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "UTF-8"])
def test_body_encodings(encoding: str) -> None:
    """The body is read in the encoding it says, with or without a byte order mark."""
    codec = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, "utf-8")
    for mark in ("", "\ufeff"):
        body = f'{mark}{{"name": "Öl"}}'.encode(codec)
        assert holds("$body.name = 'Öl'", body, {**JSON, "content-encoding": encoding})


def test_names() -> None:
    """An application's property wins over the system's and the body's of its name; braces mean the system's."""
    properties = {"$contentType": "mine", "$body.a": "text", "Level": "5"}
    body = b'{"a": 1}'
    for condition in (
        "level = '5'",
        "$contentType = 'mine'",
        "{$contentType} = 'application/json'",
        "{ $CONTENTENCODING } = 'utf-8'",
        "$body.a = 'text'",
        "{$body.a} = 1",
    ):
        assert holds(condition, body, properties=properties), condition


def test_system_properties() -> None:
    """System properties are known by edgeHub's names, whether they come by those or by the bench's."""
    system = {"connection-module-id": "m", "correlation-id": "c", "message-id": "i", "dt-subject": "s"}
    assert holds("$connectionModuleId = 'm' AND $cid = 'c' AND $messageId = 'i' AND $dt-subject = 's'", system=system)
    assert holds("NOT IS_DEFINED($connectionModuleId)", system={})
    assert holds("$connectionDeviceId = 'd'", system={"connectionDeviceId": "d"})


def test_letters_of_names() -> None:
    """As in edgeHub nearly every letter can be part of a name, so that operators want spaces around them."""
    assert holds("a-b = '1'", properties={"a-b": "1"})
    assert holds("a!='1'", properties={"a!": "1"})
    assert holds("-x = '1'", properties={"-x": "1"})
    assert not holds("IS_DEFINED(-undefined)")


def test_table() -> None:
    """A message goes to each sink once, by the route of the best priority, and with that route's time."""
    table = RouteTable(
        {
            "all": "FROM /messages/* INTO $upstream",
            "hot": {"route": "FROM /* WHERE level = '9' INTO $upstream", "priority": 0, "timeToLiveSecs": 60},
            "warm": {"route": "FROM /* WHERE level = '9' INTO $upstream", "priority": 3, "timeToLiveSecs": 5},
            "alarm": {
                "route": 'FROM /messages/modules/m/* INTO BrokeredEndpoint("/modules/alarm/inputs/in")',
                "priority": 9,
            },
        }
    )
    source = message_source("m", "out")
    assert table.matches(source, {}, {}, b"") == [
        RouteMatch(ModuleInput("alarm", "in"), 9, None),
        RouteMatch(Upstream(), DEFAULT_PRIORITY, None),
    ]
    assert table.matches(message_source(), {"level": "9"}, {}, b"") == [RouteMatch(Upstream(), 0, 60)]
    assert table.matches(TWIN_CHANGES, {}, {}, b"") == []


@pytest.mark.parametrize(
    ("name", "specification"),
    [
        ("a.b", "FROM /* INTO $upstream"),
        ("", "FROM /* INTO $upstream"),
        ("r", None),
        ("r", 5),
        ("r", {}),
        ("r", {"route": 5}),
        ("r", {"route": "FROM /* INTO $upstream", "priority": 10}),
        ("r", {"route": "FROM /* INTO $upstream", "priority": True}),
        ("r", {"route": "FROM /* INTO $upstream", "timeToLiveSecs": -1}),
        ("r", {"route": "FROM /* INTO $upstream", "timeToLiveSecs": MAX_TTL_S + 1}),
        ("r", {"route": "FROM /* INTO nowhere"}),
    ],
)
def test_table_refused(name: str, specification: Value) -> None:
    """A manifest's routes are refused with the name of the wrong one."""
    with pytest.raises(RouteRefused, match=f"route {name}"):
        RouteTable({"fine": "FROM /* INTO $upstream", name: specification})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=1), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=1), json_values),
    st.lists(st.sampled_from(["a", "b", 0, 1]), min_size=1, max_size=4),
)
def test_places_in_bodies(body: dict[str, Value], path: list[str | int]) -> None:
    """A place of a body is the plain value there, undefined if it is none, or said to be missing."""
    expected: object = body
    for step in path:
        is_there = isinstance(expected, dict) if isinstance(step, str) else isinstance(expected, list)
        try:
            expected = expected[step] if is_there else MISSING  # type: ignore[index]  # `is_there` says it can be
        except (KeyError, IndexError):
            expected = MISSING
    found = RoutedMessage({}, JSON, orjson.dumps(body)).body_value(path)
    assert found == (UNDEFINED if isinstance(expected, dict | list) else expected)


@given(st.text(max_size=80), st.binary(max_size=40))
def test_arbitrary_routes_and_bodies(condition: str, body: bytes) -> None:
    """Any text is a route or is refused, and a route judges any body."""
    try:
        route = parse_route(f"FROM /* WHERE {condition} INTO $upstream")
    except RouteRefused:
        return
    route.takes("/messages", RoutedMessage({}, JSON, body))
