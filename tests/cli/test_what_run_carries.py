"""What the process that runs for years has in memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNUSED = ("rich", "pygments", "edge_gateway.cel", "edge_gateway.polling", "edge_gateway.codec.generated", "cbor2")


@pytest.mark.parametrize("module", UNUSED)
def test_a_gateway_of_plain_sensors_does_not_carry_what_it_never_uses(module: str) -> None:
    """Neither what draws tables, nor what only other profiles need."""
    program = (
        "import sys\n"
        "from edge_gateway.cli.app import collect\n"
        "collect('run')\n"
        "from edge_gateway.codec import compile_profile, load_profile\n"
        "compile_profile(load_profile('reference-climate'))\n"
        f"sys.exit({module!r} in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_rich_can_be_had_all_the_same() -> None:
    """It is left out of that one import, and not forbidden to anybody."""
    program = "from edge_gateway.cli.app import collect\ncollect('run')\nimport rich.table\n"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
