"""Queries: choosing, projecting, grouping, paging, and the conditions of configurations."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.service.query import Collection, Query, QueryRefused, parse_condition, parse_query
from edge_gateway.testbench.cloud.twin import Twin

TWINS: list[dict[str, Any]] = [
    {"deviceId": "d1", "status": "enabled", "tags": {"floor": 1, "group": "a", "my-tag": "x", "a.b": 1}},
    {"deviceId": "d2", "status": "enabled", "tags": {"floor": 2, "group": "b"}, "properties": {"reported": {"n": 7}}},
    {"deviceId": "d3", "status": "disabled", "tags": {"floor": 2}, "properties": {"reported": {"n": 9, "o": {}}}},
    {"deviceId": "d4", "status": "enabled", "tags": {}, "properties": {"reported": {"n": "many"}}},
]


def ids(condition: str) -> str:
    rows = parse_query(f"SELECT * FROM devices WHERE {condition}").run(TWINS)
    return "".join(row["deviceId"][1] for row in rows)


def rows(text: str) -> list[Any]:
    return parse_query(text).run(TWINS)


@pytest.mark.parametrize(
    ("condition", "chosen"),
    [
        ("deviceId = 'd1'", "1"),
        ("DeviceId='d1'", "1"),
        ("devices.deviceId = 'd1'", "1"),
        ("tags.floor = 2", "23"),
        ("tags.floor=2 AND status='enabled'", "2"),
        ("tags.floor != 2", "1"),
        ("tags.floor < 2 OR tags.floor >= 2", "123"),
        ("NOT tags.floor = 2", "1"),
        ("NOT is_defined(tags.floor)", "4"),
        ("tags.Floor = 2", ""),
        ("deviceId IN ['d1', 'd3', 5]", "13"),
        ("deviceId NIN ['d1', 'd3']", "24"),
        ("tags.floor IN [-1, 1]", "1"),
        ("tags.floor NIN [1]", "23"),
        ("properties.reported.n > 7", "3"),
        ("properties.reported.n > 7 OR properties.reported.n = 'many'", "34"),
        ("properties.reported.n + 1 = 8", "2"),
        ("properties.reported.n != 7", "34"),
        ("properties.reported.o = properties.reported.o", ""),
        ("is_object(properties.reported.o)", "3"),
        ("STARTSWITH(deviceId, 'd') AND ENDSWITH(deviceId, '4')", "4"),
        ("tags.[[group]] = 'a'", "1"),
        ("tags.[[my-tag]] = 'x'", "1"),
        ("[[tags]].[[a.b]] = 1", "1"),
        ("true", "1234"),
        ("'true'", ""),
        ("null", ""),
    ],
)
def test_where(condition: str, chosen: str) -> None:
    """A document is in the result exactly if the condition is true of it; what it does not have is undefined."""
    assert ids(condition) == chosen


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (
            "SELECT DeviceId, tags.floor AS level FROM devices WHERE tags.floor = 2",
            [{"deviceId": "d2", "level": 2}, {"deviceId": "d3", "level": 2}],
        ),
        ("SELECT properties.reported.n FROM devices", [{}, {"n": 7}, {"n": 9}, {"n": "many"}]),
        ("select top 1 deviceId from devices", [{"deviceId": "d1"}]),
        ("SELECT COUNT() AS total FROM devices", [{"total": 4}]),
        ("SELECT COUNT() AS total FROM devices WHERE deviceId = 'x'", [{"total": 0}]),
        (
            "SELECT tags.floor AS floor, COUNT() AS devices FROM devices GROUP BY tags.floor",
            [{"floor": 1, "devices": 1}, {"floor": 2, "devices": 2}, {"devices": 1}],
        ),
        (
            "SELECT SUM(properties.reported.n) AS s, AVG(properties.reported.n) AS a, "
            "MIN(properties.reported.n) AS l, MAX(properties.reported.n) AS h, MAX(tags.none) AS none FROM devices",
            [{"s": 16, "a": 8, "l": 7, "h": 9}],
        ),
        (
            "SELECT status, tags.floor, COUNT() AS n FROM devices GROUP BY status, tags.floor",
            [
                {"status": "enabled", "floor": 1, "n": 1},
                {"status": "enabled", "floor": 2, "n": 1},
                {"status": "disabled", "floor": 2, "n": 1},
                {"status": "enabled", "n": 1},
            ],
        ),
    ],
)
def test_select(text: str, result: list[Any]) -> None:
    """Rows have what was asked for, under the names that were asked for, without what is undefined."""
    assert rows(text) == result


def test_select_all() -> None:
    """`SELECT *` gives the documents as they are, twins of the hub among them."""
    twin = Twin()
    twin.patch_tags({"floor": 3})
    document = {"deviceId": "d", **twin.service_document()}
    assert parse_query("SELECT * FROM devices WHERE tags.floor = 3").run([document]) == [document]
    assert parse_query("SELECT * FROM devices WHERE properties.desired.$version = 1").run([document]) == [document]


@pytest.mark.parametrize(
    ("text", "collection", "item_type"),
    [
        ("SELECT * FROM devices", Collection.DEVICES, "Twin"),
        ("SELECT deviceId FROM devices", Collection.DEVICES, "Raw"),
        ("SELECT * FROM devices.modules WHERE devices.modules.moduleId = 'm'", Collection.MODULES, "Twin"),
        ("SELECT * FROM Devices.Jobs WHERE devices.jobs.jobId = 'j'", Collection.JOBS, "DeviceJob"),
    ],
)
def test_collections(text: str, collection: Collection, item_type: str) -> None:
    """A query says what it has to be run over and what its rows are."""
    query = parse_query(text)
    assert (query.collection, query.item_type) == (collection, item_type)
    assert len(query.run([{"moduleId": "m", "jobId": "j"}])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1: the end where SELECT should be"),
        ("SELECT", "character 7"),
        ("SELECT * devices", "where FROM should be"),
        ("SELECT * FROM twins", "There are devices, devices.modules, devices.jobs"),
        ("SELECT * FROM devices WHERE", "character 28"),
        ("SELECT * FROM devices WHERE tags.x = ", "where a value should be"),
        ("SELECT * FROM devices WHERE tags.group = 'a'", r"Write \[\[group\]\]"),
        ("SELECT * FROM devices WHERE tags.my-tag = 'a'", r"Write \[\[my-tag\]\]"),
        ("SELECT * FROM devices WHERE deviceId IN ('a')", r"where \[ should be"),
        ("SELECT * FROM devices WHERE deviceId IN []", "where a constant should be"),
        ("SELECT * FROM devices WHERE deviceId IN [a]", "where a constant should be"),
        ("SELECT * FROM devices WHERE deviceId = 'a' ORDER BY deviceId", "left over"),
        ("SELECT * FROM devices WHERE a || b = 'c'", "left over"),
        ("SELECT * FROM devices GROUP BY status", "Name it behind GROUP BY"),
        ("SELECT deviceId, COUNT() AS n FROM devices", "Name it behind GROUP BY"),
        ("SELECT COUNT() FROM devices", "Write AS"),
        ("SELECT MEDIAN(a) AS m FROM devices", "There are COUNT"),
        ("SELECT COUNT(*) AS n FROM devices", r"where \) should be"),
        ("SELECT moduleId, COUNT() AS n FROM devices.modules GROUP BY moduleId", "only devices can be grouped"),
        ("SELECT jobId FROM devices.jobs", "jobs cannot be listed in part"),
        ("SELECT TOP x deviceId FROM devices", "where a whole number should be"),
        ("SELECT *, deviceId FROM devices", "where FROM should be"),
        ("SELECT * FROM devices WHERE " + "a = 1 AND " * 1000 + "a = 1", "8192"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """What is no query is refused with the place and, where there is one, the way out."""
    with pytest.raises(QueryRefused, match=message):
        parse_query(text)


@given(st.integers(1, 6))
def test_pages(size: int) -> None:
    """Page after page gives each row once; the last page has no continuation."""
    query = parse_query("SELECT deviceId FROM devices")
    collected: list[Any] = []
    continuation = None
    while True:
        page = query.page(TWINS, size, continuation)
        collected += page.rows
        if (continuation := page.continuation) is None:
            break
        assert len(page.rows) == size
    assert collected == query.run(TWINS)


@pytest.mark.parametrize("continuation", ["", "x", "====", "MTAgeA==", "ä"])
def test_foreign_continuation(continuation: str) -> None:
    """A continuation that this query did not give is refused."""
    with pytest.raises(QueryRefused, match="Begin again"):
        parse_query("SELECT * FROM devices").page(TWINS, 1, continuation)
    other = parse_query("SELECT deviceId FROM devices").page(TWINS, 1)
    with pytest.raises(QueryRefused):
        parse_query("SELECT * FROM devices").page(TWINS, 1, other.continuation)


@pytest.mark.parametrize(
    ("text", "collection", "chosen"),
    [
        ("*", Collection.DEVICES, 4),
        ("", Collection.DEVICES, 0),
        ("deviceId = 'd1'", Collection.DEVICES, 1),
        ("tags.floor=2", Collection.DEVICES, 2),
        ("FROM devices.modules WHERE tags.floor=2", Collection.MODULES, 2),
    ],
)
def test_conditions(text: str, collection: Collection, chosen: int) -> None:
    """A configuration's condition chooses by itself: all, none, or those it is true of."""
    condition = parse_condition(text)
    assert (condition.collection, sum(map(condition.holds, TWINS))) == (collection, chosen)


@pytest.mark.parametrize("text", ["* AND true", "tags.floor=2 3", "SELECT * FROM devices"])
def test_condition_refused(text: str) -> None:
    """What could not stand behind WHERE is no condition; the error says whose it was."""
    with pytest.raises(QueryRefused, match="configuration c, character"):
        parse_condition(text, "configuration c")


CLAUSES = (  # noqa: SIM905  # a list of literals would take a page
    "SELECT FROM WHERE GROUP BY AS TOP * , ( ) [ ] devices devices.modules devices.jobs COUNT() SUM( tags.a "
    "deviceId = < IN AND OR NOT 'x' 5 true [[a]]"
).split()


@given(st.lists(st.sampled_from(CLAUSES), max_size=14).map(" ".join) | st.text(max_size=60))
def test_arbitrary_queries(text: str) -> None:
    """Any text is a query that runs, or is refused."""
    for prefix in ("", "SELECT * FROM devices WHERE ", "SELECT "):
        query: Query | None = None
        with suppress(QueryRefused):
            query = parse_query(prefix + text)
        if query is not None:
            query.run(TWINS)
