from __future__ import annotations

import pytest
import structlog

from edge_gateway.observability.log import configure_log


@pytest.fixture(autouse=True, scope="session")
def quiet_log() -> None:
    """Log events of code under test are not interesting, and printing a simulated day of them takes most of its time."""
    configure_log("error", as_json=False)
    structlog.configure(cache_logger_on_first_use=False)  # a test may look at events with structlog.testing
