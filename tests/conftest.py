from __future__ import annotations

import os

import hypothesis
import pytest
import structlog

# Without a deadline: a busy machine is slow, and that is no fault of what is tested.
hypothesis.settings.register_profile("full", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))


def _drop(_: object, __: str, ___: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


@pytest.fixture(autouse=True, scope="session")
def quiet_log() -> None:
    """Nobody reads the log events of a simulated day, and printing them takes most of its time.

    A test that wants events looks at them with `structlog.testing.capture_logs`.
    """
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
