"""`edge-gateway hub` as a process, used as its how-to says."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_gateway.testbench.listener import free_loopback_address, may_listen

PAGE = Path(__file__).parents[2] / "docs/how-to/develop-without-the-cloud.md"
START = "edge-gateway hub --directory bench"
TIME_LIMIT_S = 30


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


class Hub:
    """The process, started in a directory of the test's."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_gateway", "hub", "--json", *arguments],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        self.started: dict[str, Any] = orjson.loads(self.process.stderr.readline())

    def line(self) -> dict[str, Any]:
        """The next line of what devices sent."""
        assert self.process.stdout is not None
        document: dict[str, Any] = orjson.loads(self.process.stdout.readline())
        return document

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIME_LIMIT_S)
        return self.process.returncode


@pytest.fixture
def address() -> str:
    return free_loopback_address(random.Random())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An edge device's sockets are in its directory, and the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def hub(tmp_path: Path, address: str) -> Iterator[Hub]:
    start = next(block for block in blocks("sh") if block.startswith(START)).split()[2:]
    https = [] if may_listen(443) else ["--https-port", "0"]
    hub = Hub(tmp_path, *start, "--address", address, *https)
    yield hub
    hub.stop()


def run(directory: Path, address: str, script: str) -> str:
    """Run lines of a document as a shell would, with this installation's programs, at this hub's address."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script.replace("127.0.0.1", address)],
        cwd=directory,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(directory: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_block(holding: str) -> str:
    return next(block for block in blocks("python") if holding in block)


def shell_block(holding: str) -> str:
    return next(block for block in blocks("sh") if holding in block)


def test_a_device_connects_as_the_how_to_says(hub: Hub) -> None:
    """The SDK's example runs as it stands, and what it sends appears on the hub's standard output."""
    assert "$version" in run_python(hub.directory, python_block("IoTHubDeviceClient"))
    line = hub.line()
    assert (line["device"], line["body"]) == ("sensor-1", {"temperature": 21.5})


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed (mosquitto-clients)")
def test_any_mqtt_client_connects_with_a_token(hub: Hub, address: str) -> None:
    """The command for mosquitto's client works as it stands, but for the address."""
    run(hub.directory, address, shell_block("mosquitto_pub"))
    line = hub.line()
    assert (line["properties"], line["body"]) == ({"unit": "Cel"}, {"temperature": 21.7})


def test_the_commands_for_the_service_side(hub: Hub, address: str) -> None:
    """Events, twin and messages to a device work on the running hub."""
    for _ in range(2):
        run_python(hub.directory, python_block("IoTHubDeviceClient"))
    output = run(hub.directory, address, shell_block("hub events"))
    assert output.count('"sequence"') == 2
    assert '"period_s": 5' in output
    twin = orjson.loads(run(hub.directory, address, "edge-gateway hub twin sensor-1 -d bench"))
    assert twin["cloudToDeviceMessageCount"] == 1


def test_a_device_provisions_itself_as_the_how_to_says(hub: Hub, address: str) -> None:
    """The example of a group's device registers and is told the hub."""
    assert run_python(hub.directory, python_block("ProvisioningDeviceClient")).split() == ["assigned", address]


def test_the_gateway_runs_against_it(hub: Hub, address: str) -> None:
    """The configuration and the commands of the how-to bring a gateway to the hub."""
    settings = next(block for block in blocks("yaml") if "uplink" in block)
    (hub.directory / "gateway.yaml").write_text(settings.replace("127.0.0.1", address))
    import_key, start = shell_block("keys import").splitlines()
    run(hub.directory, address, import_key)
    gateway = subprocess.Popen(
        [sys.executable, "-m", "edge_gateway", *start.split()[1:]], cwd=hub.directory, stderr=subprocess.DEVNULL
    )
    try:
        run(
            hub.directory,
            address,
            'until edge-gateway hub twin gateway-1 -d bench | grep -q \'"connectionState": "Connected"\'; do :; done',
        )
    finally:
        gateway.terminate()
        gateway.wait(timeout=TIME_LIMIT_S)


def test_a_deployment_runs_as_the_how_to_says(short_path: Path, address: str) -> None:
    """The manifest, the module and the command of the how-to bring the module's message to the hub."""
    (short_path / "deployment.json").write_text(next(block for block in blocks("json") if "modulesContent" in block))
    (short_path / "meter.py").write_text(python_block("create_from_edge_environment"))
    arguments = shlex.split(shell_block("--deployment"))[2:]
    arguments[-1] = f"meter={sys.executable} meter.py"
    edge_address = free_loopback_address(random.Random())
    hub = Hub(short_path, *arguments, "--address", address, "--edge-address", edge_address, "--https-port", "-1")
    try:
        line = hub.line()
        assert (line["device"], line["module"], line["body"]) == ("edge-1", "meter", {"power": 230})
    finally:
        assert hub.stop() == 0


def test_calling_a_device_that_is_not_there(hub: Hub, address: str) -> None:
    """A call that cannot be made says why, and exits with 3."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_gateway", "hub", "call", "sensor-1", "blink", "-d", "bench"],
        cwd=hub.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "DeviceNotOnline" in done.stderr


def test_nothing_is_forgotten_over_a_restart(tmp_path: Path, address: str) -> None:
    """Started again with the same directory, the hub is the same one: same authority, keys, groups and twins."""
    arguments = ["-d", "bench", "--address", address, "--https-port", "-1", "--amqp-port", "-1"]
    first = Hub(tmp_path, *arguments, "--device", "sensor-1", "--device", "sensor-2", "--group", "plant")
    assert first.stop() == 0
    kept = {name: (tmp_path / "bench" / name).read_bytes() for name in ("bench-ca.pem", "connections.json")}
    assert orjson.loads(kept["connections.json"])["provisioning"]["groups"]["plant"]
    second = Hub(tmp_path, *arguments, "--device", "sensor-1", "--group", "plant")
    assert second.stop() == 0
    assert kept == {name: (tmp_path / "bench" / name).read_bytes() for name in kept}


def test_ports(tmp_path: Path, address: str) -> None:
    """Free ports can be asked for; the first line says which they are."""
    hub = Hub(tmp_path, "--address", address, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0")
    ports = hub.started["ports"]
    assert hub.stop(signal.SIGINT) == 0
    assert set(ports) == {"mqtt", "https", "amqp"}
    assert 0 not in ports.values()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--address", "192.0.2.1"], 3, "192.0.2.1"),
        (["--tier", "S9"], 2, "S9"),
        (["--device", "no spaces"], 3, "no spaces"),
        (["--module", "device"], 2, "DEVICE/MODULE"),
        (["--faults", "nowhere.yaml"], 3, "nowhere.yaml"),
        (["-d", "/proc/nowhere"], 3, "/proc/nowhere"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, address: str, arguments: list[str], code: int, told: str) -> None:
    """What cannot be done is said in a sentence, and the exit code tells whose fault it is."""
    where = [] if "--address" in arguments else ["--address", address]
    done = subprocess.run(
        [sys.executable, "-m", "edge_gateway", "hub", "--https-port", "-1", *where, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
