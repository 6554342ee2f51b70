"""What the process that runs for years has in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UNUSED = (
    *("rich", "pygments", "importlib.metadata", "urllib.request", "http", "email", "zipfile"),
    *("edge_gateway.cel", "edge_gateway.polling", "edge_gateway.codec.generated", "cbor2"),
    *("typer", "pickle", "zoneinfo", "sysconfig"),
)


@pytest.mark.parametrize("module", UNUSED)
def test_a_gateway_of_plain_sensors_does_not_carry_what_it_never_uses(module: str) -> None:
    """Neither what draws tables, nor what libraries take along to look around, nor what only other profiles need."""
    program = (
        "import sys\n"
        "from edge_gateway.cli.lean import import_lean\n"
        "import_lean()\n"
        "import edge_gateway.cli.gateway_process\n"
        "from edge_gateway.codec import compile_profile, load_profile\n"
        "compile_profile(load_profile('reference-climate'))\n"
        f"sys.exit({module!r} in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_what_is_left_out_can_be_had_all_the_same() -> None:
    """It is left out of that one import, and not forbidden to anybody."""
    program = (
        "from edge_gateway.cli.lean import import_lean\n"
        "import_lean()\n"
        "import edge_gateway.cli.gateway_process\n"
        "import rich.table\n"
        "import importlib.metadata\n"
        "importlib.metadata.version('pydantic')\n"
        "from urllib import request\n"
        "request.Request('http://localhost')\n"
        "import pickle, zoneinfo\n"
        "assert pickle.loads(pickle.dumps(zoneinfo.ZoneInfo('UTC'))).key == 'UTC'\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(("variable", "proxied"), [("MQTT_PROXY", True), ("HTTPS_PROXY", False)])
def test_a_proxy_that_the_environment_names_for_mqtt_is_used(variable: str, proxied: bool) -> None:
    """Leaving out what reads the environment takes nothing from whoever has set it."""
    program = (
        "import sys\n"
        "from edge_gateway.cli.lean import import_lean\n"
        "import_lean()\n"
        "import edge_gateway.cli.gateway_process\n"
        "from paho.mqtt.client import Client\n"
        "client = Client()\n"
        "client._host = 'broker.example'\n"
        f"sys.exit((client._get_proxy() is not None) != {proxied})\n"
    )
    environment = {**os.environ, variable: "http://proxy.example:3128"}
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=environment).returncode == 0


def test_what_reads_declarations_goes_when_they_have_been_read() -> None:
    """The profile's model keeps nothing of what validated it, and the next document is read all the same."""
    program = (
        "import gc, pydantic\n"
        "from edge_gateway.codec import Profile, load_profile\n"
        "from edge_gateway.config.settings import forget_validators\n"
        "def validators():\n"
        "    gc.collect()\n"
        "    return sum(isinstance(each, pydantic.TypeAdapter) for each in gc.get_objects())\n"
        "before = validators()\n"
        "load_profile('reference-climate')\n"
        "assert validators() == before + 1\n"
        "forget_validators()\n"
        "assert validators() == before\n"
        "assert not Profile.__pydantic_complete__  # which it would be, had it a validator of its own\n"
        "load_profile('reference-climate')\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
