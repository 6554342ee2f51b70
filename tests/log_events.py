"""Looking at log events, of every level, whatever is configured for the rest of the suite."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def log_events() -> Iterator[list[MutableMapping[str, Any]]]:
    """The events logged within the block, each with its fields and `log_level`; nothing of them is written."""
    before = structlog.get_config()
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield capture.entries
    finally:
        structlog.configure(**before)
