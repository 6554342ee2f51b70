from __future__ import annotations

import pytest
import structlog


def _drop(_: object, __: str, ___: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


@pytest.fixture(autouse=True, scope="session")
def quiet_log() -> None:
    """Nobody reads the log events of a simulated day, and printing them takes most of its time.

    A test that wants events looks at them with `structlog.testing.capture_logs`.
    """
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
