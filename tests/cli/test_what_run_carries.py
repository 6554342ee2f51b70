"""What the process that runs for years has in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UNUSED = (
    *("rich", "pygments", "importlib.metadata", "urllib.request", "http", "email", "zipfile"),
    *("edge_gateway.cel", "edge_gateway.polling", "edge_gateway.codec.generated", "cbor2"),
)


@pytest.mark.parametrize("module", UNUSED)
def test_a_gateway_of_plain_sensors_does_not_carry_what_it_never_uses(module: str) -> None:
    """Neither what draws tables, nor what libraries take along to look around, nor what only other profiles need."""
    program = (
        "import sys\n"
        "from edge_gateway.cli.app import collect\n"
        "collect('run')\n"
        "from edge_gateway.codec import compile_profile, load_profile\n"
        "compile_profile(load_profile('reference-climate'))\n"
        f"sys.exit({module!r} in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_what_is_left_out_can_be_had_all_the_same() -> None:
    """It is left out of that one import, and not forbidden to anybody."""
    program = (
        "from edge_gateway.cli.app import collect\n"
        "collect('run')\n"
        "import rich.table\n"
        "import importlib.metadata\n"
        "importlib.metadata.version('pydantic')\n"
        "from urllib import request\n"
        "request.Request('http://localhost')\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(("variable", "proxied"), [("MQTT_PROXY", True), ("HTTPS_PROXY", False)])
def test_a_proxy_that_the_environment_names_for_mqtt_is_used(variable: str, proxied: bool) -> None:
    """Leaving out what reads the environment takes nothing from whoever has set it."""
    program = (
        "import sys\n"
        "from edge_gateway.cli.app import collect\n"
        "collect('run')\n"
        "from paho.mqtt.client import Client\n"
        "client = Client()\n"
        "client._host = 'broker.example'\n"
        f"sys.exit((client._get_proxy() is not None) != {proxied})\n"
    )
    environment = {**os.environ, variable: "http://proxy.example:3128"}
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=environment).returncode == 0
