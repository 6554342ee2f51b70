"""A log line is an event with fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
import structlog

from edge_gateway.observability.log import configure_log

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Logging belongs to the whole process: put it back."""
    configured, level = structlog.get_config(), logging.getLogger().level
    levels = {name: logging.getLogger(name).level for name in ("azure", "mqtt", "paho")}
    yield
    structlog.configure(**configured)
    for name, each in {"": level, **levels}.items():
        logging.getLogger(name).setLevel(each)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_event_is_one_line_of_json() -> None:
    """Whatever an event's fields hold, it is one JSON object on one line, with its level and time."""
    stream = io.StringIO()
    configure_log("info", as_json=True, stream=stream)
    log = structlog.get_logger()
    log.info("link.opened", link='a"\n\x00é', path=object, count=3, nested={"a": [1]})
    log.warning("link.lost", reason="line\nbreak")
    first, second = lines(stream)
    assert first | {"timestamp": "", "path": ""} == {
        "event": "link.opened",
        "level": "info",
        "timestamp": "",
        "link": 'a"\n\x00é',
        "path": "",
        "count": 3,
        "nested": {"a": [1]},
    }
    assert (second["event"], second["level"], second["reason"]) == ("link.lost", "warning", "line\nbreak")
    assert abs(datetime.fromisoformat(first["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_exception_is_in_its_event() -> None:
    """A traceback does not tear a line apart, in either form."""
    for as_json in (True, False):
        stream = io.StringIO()
        configure_log("info", as_json=as_json, stream=stream)
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger().exception("gateway.failed")
        assert "ValueError: broken" in stream.getvalue()
        if as_json:
            assert "Traceback" in lines(stream)[0]["exception"]
        structlog.reset_defaults()


@pytest.mark.parametrize("least", LEVELS)
@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_less_severe_is_not_written(least: Level, as_json: bool) -> None:
    """Of one event at each level, those at and above the configured one are written, in order."""
    stream = io.StringIO()
    configure_log(least, as_json=as_json, stream=stream)
    log = structlog.get_logger()
    for level in LEVELS:
        getattr(log, level)(f"event.{level}", n=1)
    written = stream.getvalue().splitlines()
    expected = [f"event.{level}" for level in LEVELS[LEVELS.index(least) :]]
    assert len(written) == len(expected)
    assert all(event in line for event, line in zip(expected, written, strict=True))


def test_text_is_for_a_person() -> None:
    """Without JSON a line has time, level, event and fields, and no escape codes."""
    stream = io.StringIO()
    configure_log("info", as_json=False, stream=stream)
    structlog.get_logger().info("link.opened", link="a", path="/dev/ttyUSB0")
    line = stream.getvalue()
    assert "link.opened" in line
    assert "link=a path=/dev/ttyUSB0" in line
    assert "\x1b" not in line


def test_events_go_to_standard_error_if_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for answers of commands."""
    configure_log("info", as_json=True)
    structlog.get_logger().info("gateway.started")
    output = capsys.readouterr()
    assert output.out == ""
    assert json.loads(output.err)["event"] == "gateway.started"


def test_libraries_below_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What client libraries log, some of it with payloads, does not get out; what nobody else would report does."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own, which a gateway does not have
    stream = io.StringIO()
    configure_log("debug", as_json=True, stream=stream)
    for name in ("azure.iot.device", "mqtt", "paho", "asyncio", "other"):
        logging.getLogger(name).warning("payload %s", "secret")
    for name in ("azure.iot.device", "mqtt", "paho"):
        logging.getLogger(name).error("payload %s", "secret")
    assert stream.getvalue() == ""
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert stream.getvalue() == "ERROR asyncio Task exception was never retrieved\n"
