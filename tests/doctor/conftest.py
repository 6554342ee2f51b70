from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_gateway.testbench.sensor_line import PtyLine
from tests.doctor.healthy_box import HealthyBox, box_with_hub, lone_box


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[HealthyBox]:
    """A box without a hub."""
    box = lone_box(tmp_path)
    with PtyLine(box.port):
        yield box


@pytest.fixture
async def healthy(tmp_path: Path) -> AsyncIterator[HealthyBox]:
    """A box with a hub."""
    async with box_with_hub(tmp_path) as box:
        yield box
