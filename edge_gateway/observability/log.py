"""A log line is an event with fields: a fixed dotted name, and what varies beside it. Never a key or a token."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal, TextIO

import structlog

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_log(
    level: Literal["debug", "info", "warning", "error"], *, as_json: bool, stream: TextIO | None = None
) -> None:
    """Send log events to `stream`, standard error if left out.

    Args:
        level: the least severe level written.
        as_json: one JSON object a line, for a log collector; else text for a person.
        stream: where lines go.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries below us log through the standard library, some of them with payloads. Only what goes wrong
    # in a way they cannot report by an exception is let through.
    logging.basicConfig(stream=stream or sys.stderr, level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    for library in ("azure", "mqtt", "paho"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
