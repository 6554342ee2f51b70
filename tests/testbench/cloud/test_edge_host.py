"""A whole edge device: a deployment with unmodified module clients as processes of their own, under a local IoT Hub."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.cloud.edge.deployment_manifest import DeploymentManifest, parse_manifest
from edge_gateway.testbench.cloud.edge.host import EdgeHost, deploy
from edge_gateway.testbench.cloud.edge.module import Runnable
from edge_gateway.testbench.cloud.identity import AGENT, HUB, IdentityName
from edge_gateway.testbench.cloud.refusals import IdentityNotFound
from edge_gateway.testbench.cloud.twin import Section
from tests.conformance.sdk_node import install_modules

from .mqtt_client import soon

EDGE = "edge-1"
MODULES = Path(__file__).parent / "edge_modules"
NODE_MODULES = Path(__file__).parents[2] / "conformance" / "node" / "node_modules"
ASKING = [sys.executable, str(MODULES / "asking.py")]
RELAYING = [sys.executable, str(MODULES / "relaying.py")]
AT_ONCE = {"CoolOffTimeUnitInSeconds": {"value": 0}}
"""Of edgeAgent: modules start again without a pause."""
SOON = {"ReportedPropertiesSyncFrequencySecs": {"value": 0}}
"""Of edgeHub: reported properties go up at once."""


def module(**changes: Any) -> dict[str, Any]:
    return {
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"image": "registry.example/module:1.0", "createOptions": "{}"},
        **changes,
    }


def document(modules: Mapping[str, Any], routes: Mapping[str, Any], **twins: Any) -> dict[str, Any]:
    system = {"type": "docker", "settings": {"image": "registry.example/system:1.5"}}
    return {
        "modulesContent": {
            AGENT: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {}},
                    "systemModules": {
                        "edgeAgent": {**system, "env": AT_ONCE},
                        "edgeHub": {**system, "status": "running", "restartPolicy": "always", "env": SOON},
                    },
                    "modules": dict(modules),
                }
            },
            HUB: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": dict(routes),
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
                }
            },
            **{name: {"properties.desired": desired} for name, desired in twins.items()},
        }
    }


def manifest(modules: Mapping[str, Any], routes: Mapping[str, Any] | None = None, **twins: Any) -> DeploymentManifest:
    return parse_manifest(document(modules, routes or {"up": "FROM /messages/* INTO $upstream"}, **twins))


TO_RELAY = 'FROM /messages/modules/asking/outputs/readings INTO BrokeredEndpoint("/modules/relaying/inputs/in")'
FROM_RELAY = "FROM /messages/modules/relaying/outputs/* INTO $upstream"


class Device:
    """A running edge device, and the ways tests look at it."""

    def __init__(self, hub: LocalHub, host: EdgeHost, lines: list[tuple[str, int, str]]) -> None:
        self.hub, self.host, self.lines = hub, host, lines

    def reported(self, module_id: str = AGENT) -> dict[str, Any]:
        reported: dict[str, Any] = self.hub.twin(EDGE, module_id).reported
        return reported

    async def up(self, module_id: str) -> None:
        """Wait until a module says that it is up."""
        await soon(self.host.until(lambda: self.is_up(module_id)))

    def is_up(self, module_id: str, times: int = 1) -> bool:
        return sum(name == module_id and line.endswith("is up") for name, _, line in self.lines) >= times

    async def ask(self, method: str, payload: Any = None, module_id: str = "asking") -> Any:
        """Call a module's method beside the hub."""
        name = IdentityName(EDGE, module_id)
        status, answer = await soon(self.host.edge_hub.invoke_method(name, method, payload, connect_timeout_s=15))
        assert status == 200
        return answer

    async def deploy(self, modules: Mapping[str, Any], routes: Mapping[str, Any] | None = None) -> None:
        """Deploy something else by the hub, and wait until it is done."""
        deploy(self.hub, EDGE, manifest(modules, routes))
        await soon(self.host.deployed())


@pytest.fixture
def gateway_address() -> str:
    return free_loopback_address(random.Random())


@pytest.fixture
def start(hub: LocalHub, authority: LocalAuthority, gateway_address: str, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(
        deployment: DeploymentManifest | None, run: Mapping[str, Runnable] | None = None, **arguments: Any
    ) -> AsyncIterator[Device]:
        lines: list[tuple[str, int, str]] = []

        def on_line(module_id: str, severity: int, line: str) -> None:
            lines.append((module_id, severity, line))
            host.edge_hub.changed()

        host = EdgeHost(
            hub,
            EDGE,
            tmp_path / "edge",
            authority=authority,
            manifest=deployment,
            run=run,
            address=gateway_address,
            **{"on_line": on_line, **arguments},
        )
        async with host:
            if deployment is not None:
                await soon(host.deployed())
            yield Device(hub, host, lines)

    return start


# With unmodified clients


async def test_through_two_modules(start: Any, hub: LocalHub) -> None:
    """Messages go from one module's output through another's input up to the hub: asyncio and blocking SDK clients."""
    routes = {"in": TO_RELAY, "out": FROM_RELAY}
    run = {"asking": ASKING, "relaying": RELAYING}
    async with start(manifest({"asking": module(), "relaying": module()}, routes), run) as device:
        await device.up("relaying")
        await device.ask("send", {"first": 0, "count": 20})
        await soon(hub.until(lambda: len(hub.messages) == 20))
    # The blocking client has several threads for what comes in, so that the order is its own.
    messages = {int(message.message_id or -1): message for message in hub.messages}
    assert sorted(messages) == list(range(20))
    assert (messages[9].device_id, messages[9].module_id, messages[9].body) == (EDGE, "relaying", b'{"number": 9}')
    assert messages[9].properties == {"from": "asking", "input": "in"}
    assert messages[9].system_properties["content-type"] == "application/json"


async def test_twin_and_methods(start: Any, hub: LocalHub) -> None:
    """A module reads its twin, is told of changes, reports, is called from the hub, and calls another module."""
    deployment = manifest({"asking": module(), "other": module()}, asking={"period_s": 5})
    async with start(deployment, {"asking": ASKING, "other": ASKING}) as device:
        await device.up("asking")
        await device.up("other")
        assert (await device.ask("twin"))["desired"] == {"period_s": 5, "$version": 2}
        await device.ask("report", {"state": {"ok": True}})
        await soon(hub.until(lambda: hub.twin(EDGE, "asking").reported == {"state": {"ok": True}}))
        hub.patch_desired(EDGE, {"period_s": 7}, "asking")
        await soon(hub.until(lambda: hub.twin(EDGE, "asking").reported.get("told") == 3))
        assert await soon(hub.invoke_method(EDGE, "echo", module_id="asking")) == (200, "echo")
        call = {"device": EDGE, "module": "other", "name": "hello", "payload": None}
        assert await device.ask("call", call) == {"status": 200, "payload": "hello"}


async def test_over_websockets(start: Any, hub: LocalHub) -> None:
    """A module that speaks MQTT over WebSockets sends and is called like any other."""
    deployment = manifest({"asking": module(env={"WEBSOCKETS": {"value": 1}})})
    async with start(deployment, {"asking": ASKING}) as device:
        await device.up("asking")
        await device.ask("send", {"first": 0, "count": 3})
        await soon(hub.until(lambda: len(hub.messages) == 3))


async def test_device_behind_it(start: Any, hub: LocalHub, authority: LocalAuthority, gateway_address: str) -> None:
    """The device SDK with a GatewayHostName sends, reports, and hears from the cloud, under its own identity."""
    async with start(manifest({}), {}):
        hub.add_device("leaf", scope=hub.identity(EDGE).scope)
        sent = hub.send_c2d("leaf", b"hello")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(MODULES / "leaf.py"),
            env={
                **os.environ,
                "CONNECTION": f"{hub.connection_string('leaf')};GatewayHostName={gateway_address}",
                "ROOT": authority.ca_pem,
            },
        )
        try:
            await soon(sent.completed())
            await soon(hub.until(lambda: hub.twin("leaf").reported == {"received": "hello"}))
            await soon(hub.until(lambda: len(hub.messages) == 1))
        finally:
            process.kill()
            await process.wait()
    assert (hub.messages[0].device_id, hub.messages[0].module_id, hub.messages[0].body) == ("leaf", "", b"up")


async def test_killed_module(start: Any, hub: LocalHub) -> None:
    """A module that is killed is started again and gets what came in between."""
    routes = {"in": TO_RELAY, "out": FROM_RELAY}
    run = {"asking": ASKING, "relaying": RELAYING}
    async with start(manifest({"asking": module(), "relaying": module()}, routes), run) as device:
        await device.up("relaying")
        await device.up("asking")
        killed = device.host.modules["relaying"]
        killed.kill()
        await device.ask("send", {"first": 0, "count": 10})
        await soon(hub.until(lambda: len({message.message_id for message in hub.messages}) == 10))
        assert killed.state.restarts == 1
        assert killed.state.exit_code == -signal.SIGKILL
        relaying = device.reported()["modules"]["relaying"]
        assert (relaying["restartCount"], relaying["runtimeStatus"]) == (1, "running")


async def test_offline_for_a_while(start: Any, hub: LocalHub) -> None:
    """What modules send and report while the hub is out of reach arrives later: all of it, once by its id, in order."""
    async with start(manifest({"asking": module()}, asking={"period_s": 5}), {"asking": ASKING}) as device:
        await device.up("asking")
        await device.ask("send", {"first": 0, "count": 5})
        await device.ask("twin")
        upstream = device.host.edge_hub.upstream
        upstream.faults.pubacks_withheld = True  # what is under way when the link goes is sent twice
        await device.ask("send", {"first": 5, "count": 5})
        await soon(hub.until(lambda: len(hub.messages) > 5))
        device.host.go_offline()
        upstream.faults.pubacks_withheld = False
        await device.ask("send", {"first": 10, "count": 5})
        await device.ask("report", {"offline": True})
        assert (await device.ask("twin"))["desired"] == {"period_s": 5, "$version": 2}
        assert len(hub.messages) == 6
        device.host.go_online()
        await soon(device.host.until(lambda: device.host.edge_hub.waiting() == 0))
        await soon(hub.until(lambda: hub.twin(EDGE, "asking").reported.get("offline") is True))
    ids = [message.message_id for message in hub.messages]
    assert list(dict.fromkeys(ids)) == [str(number) for number in range(15)]
    assert len(ids) == 16


async def test_started_offline(start: Any, hub: LocalHub) -> None:
    """A module that starts again while the hub is out of reach connects and sends."""
    async with start(manifest({"asking": module()}), {"asking": ASKING}) as device:
        await device.up("asking")
        device.host.go_offline()
        device.host.modules["asking"].kill()
        await soon(device.host.until(lambda: device.is_up("asking", times=2)))
        await device.ask("send", {"first": 0, "count": 3})
        device.host.go_online()
        await soon(hub.until(lambda: len(hub.messages) == 3))


@pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs the Debian packages nodejs and npm"
)
async def test_node(start: Any, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK for Node has input, output, twin and methods from its environment alone."""
    await install_modules()
    monkeypatch.setenv("NODE_PATH", str(NODE_MODULES))
    routes = {"in": TO_RELAY, "out": FROM_RELAY}
    run = {"asking": ASKING, "relaying": ["node", str(MODULES / "relaying.js")]}
    deployment = manifest({"asking": module(), "relaying": module()}, routes, relaying={"period_s": 5})
    async with start(deployment, run) as device:
        await device.up("relaying")
        await device.ask("send", {"first": 0, "count": 3})
        await soon(hub.until(lambda: len(hub.messages) == 3))
        desired = await device.ask("twin", module_id="relaying")
        await soon(hub.until(lambda: hub.twin(EDGE, "relaying").reported == {"node": True}))
        call = {"device": EDGE, "module": "asking", "name": "hello"}
        assert await device.ask("call", call, module_id="relaying") == {"status": 200, "payload": "hello"}
    assert desired["period_s"] == 5
    assert [message.properties["input"] for message in hub.messages] == ["in"] * 3


# The environment


async def test_environment(start: Any, hub: LocalHub, gateway_address: str) -> None:
    """A module finds what the deployment gives it and all that clients read; names are those of the product."""
    deployment = manifest(
        {"sensor": module(env={"PORT": {"value": "/dev/ttyS1"}, "RuntimeLogLevel": {"value": "debug"}})}
    )
    async with start(deployment) as device:
        environment = device.host.environment("sensor")
        assert environment.pop("IOTEDGE_WORKLOADURI").startswith("unix:///")
        assert environment == {
            "PORT": "/dev/ttyS1",
            "RuntimeLogLevel": "debug",
            "IOTEDGE_APIVERSION": "2022-08-03",
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "IOTEDGE_DEVICEID": EDGE,
            "IOTEDGE_GATEWAYHOSTNAME": gateway_address,
            "IOTEDGE_IOTHUBHOSTNAME": hub.host_name,
            "IOTEDGE_MODULEGENERATIONID": hub.identity(EDGE, "sensor").generation_id,
            "IOTEDGE_MODULEID": "sensor",
        }
        system = device.host.environment(HUB)
        assert system["ReportedPropertiesSyncFrequencySecs"] == "0"
        assert system["EdgeDeviceHostName"] == gateway_address
        assert "IOTEDGE_GATEWAYHOSTNAME" not in system
        assert device.host.environment(AGENT)["Mode"] == "iotedged"
        with pytest.raises(BenchError, match="no such module"):
            device.host.environment("nobody")


async def test_environment_of_a_process(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's process has the host's environment too, but not what would lead it to another hub."""
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.setenv("EdgeHubConnectionString", "HostName=elsewhere")
    monkeypatch.setenv("IOTEDGE_PARENTHOSTNAME", "elsewhere")
    names = ("COLOUR", "EdgeHubConnectionString", "IOTEDGE_PARENTHOSTNAME", "IOTEDGE_MODULEID")
    code = f"import os; print([os.environ.get(name) for name in {names}])"
    run = {"sensor": [sys.executable, "-c", code]}
    async with start(manifest({"sensor": module(restartPolicy="never")}), run) as device:
        await soon(device.host.until(lambda: bool(device.lines)))
    assert device.lines == [("sensor", 6, "['green', None, None, 'sensor']")]


# Deployments


async def nothing(_: Mapping[str, str]) -> None:
    """A module that does nothing."""
    await asyncio.Event().wait()


async def test_identities(start: Any, hub: LocalHub) -> None:
    """Every module of the deployment gets an identity that the edge device manages."""
    async with start(manifest({"a": module(), "b": module()})):
        managers = {module.module_id: module.managed_by for module in hub.registry.modules(EDGE)}
    assert managers == dict.fromkeys((AGENT, HUB, "a", "b"), "IotEdge")
    assert hub.identity(EDGE).edge


async def test_reports(start: Any, hub: LocalHub) -> None:
    """The agent reports the deployment and every module; leaving, it says that it is not running."""
    options = '{"HostConfig":{"Binds":["' + "x" * 600 + '"]}}'
    modules = {
        "runs": module(version="1.2", env={"A": {"value": "b"}}),
        "image": module(settings={"image": "registry.example/a", "createOptions": options}),
        "ends": module(restartPolicy="never"),
        "stopped": module(status="stopped"),
    }
    run: dict[str, Runnable] = {
        "runs": nothing,
        "ends": [sys.executable, "-c", "raise SystemExit(2)"],
        "stopped": nothing,
    }
    async with start(manifest(modules), run) as device:
        await soon(hub.until(lambda: device.reported().get("modules", {}).get("ends", {}).get("exitCode") == 2))
        reported = device.reported()
        assert reported["lastDesiredVersion"] == hub.twin(EDGE, AGENT).desired_version
        assert reported["lastDesiredStatus"] == {"code": 200, "description": ""}
        statuses = {name: each["runtimeStatus"] for name, each in reported["modules"].items()}
        assert statuses == {"runs": "running", "image": "unknown", "ends": "failed", "stopped": "stopped"}
        runs = reported["modules"]["runs"]
        assert (runs["version"], runs["restartPolicy"], runs["env"]) == ("1.2", "always", {"A": {"value": "b"}})
        settings = reported["modules"]["image"]["settings"]
        assert settings["createOptions"] + settings["createOptions01"] == options
        assert set(reported["systemModules"]) == {"edgeAgent", "edgeHub"}
        details = {each["name"]: each["status"]["runtimeStatus"]["status"] for each in device.host.module_details()}
        assert details == statuses
    assert device.reported()["lastDesiredStatus"]["code"] == 406


async def test_new_deployment(start: Any, hub: LocalHub) -> None:
    """A new deployment stops what is gone, starts what is new, and starts anew what has changed; the rest runs on."""
    starts: list[str] = []

    def runs(name: str) -> Runnable:
        async def run(environment: Mapping[str, str]) -> None:
            starts.append(f"{name} {environment['A']}")
            await asyncio.Event().wait()

        return run

    def with_env(text: str) -> dict[str, Any]:
        return module(env={"A": {"value": text}})

    run = {name: runs(name) for name in ("same", "changed", "gone", "new")}
    first = {name: with_env("1") for name in ("same", "changed", "gone")}
    async with start(manifest(first), run) as device:
        assert sorted(starts) == ["changed 1", "gone 1", "same 1"]
        gone = device.host.modules["gone"]
        await device.deploy({"same": with_env("1"), "changed": with_env("2"), "new": with_env("1")})
        assert starts[3:] == ["changed 2", "new 1"]
        assert gone.state.status == "stopped"
        with pytest.raises(IdentityNotFound):
            hub.identity(EDGE, "gone")
        with pytest.raises(BenchError):
            device.host.environment("gone")


async def test_order_of_starting(start: Any) -> None:
    """Modules start in the order the deployment asks for, each when the one before has been started."""
    started: list[str] = []

    def runs(name: str) -> Runnable:
        async def run(_: Mapping[str, str]) -> None:
            started.append(name)
            await asyncio.Event().wait()

        return run

    orders = {"c": 2, "a": 1, "b": 0}
    modules = {name: module(startupOrder=order) for name, order in orders.items()}
    async with start(manifest(modules), {name: runs(name) for name in orders}):
        assert started == ["b", "a", "c"]


async def test_wrong_deployment(start: Any, hub: LocalHub) -> None:
    """A deployment that cannot be read is reported with its code, and changes nothing."""
    async with start(manifest({"a": module()}), {"a": nothing}) as device:
        patches: list[tuple[Section, int]] = [
            ({"modules": {"a": {"status": "on"}}}, 400),
            ({"schemaVersion": "9.0"}, 412),
        ]
        for patch, code in patches:
            hub.patch_desired(EDGE, patch, AGENT)
            await soon(device.host.deployed())
            await soon(hub.until(lambda code=code: device.reported()["lastDesiredStatus"]["code"] == code))  # type: ignore[misc]  # bound at once
            assert device.host.modules["a"].state.status == "running"


async def test_no_deployment(start: Any, hub: LocalHub) -> None:
    """A device nothing was deployed to says so, and takes what is deployed later."""
    async with start(None, {"a": nothing}) as device:
        await soon(hub.until(lambda: device.reported().get("lastDesiredStatus", {}).get("code") == 417))
        await device.deploy({"a": module()})
        assert device.host.modules["a"].state.status == "running"


async def test_deployed_while_offline(start: Any, hub: LocalHub) -> None:
    """What is deployed while the hub is out of reach comes when it is there again."""
    async with start(manifest({"a": module()}), {"a": nothing, "b": nothing}) as device:
        device.host.go_offline()
        deploying = asyncio.create_task(device.deploy({"b": module()}))
        await asyncio.sleep(0)
        assert list(device.host.modules) == ["a"]
        device.host.go_online()
        await soon(deploying)
        assert list(device.host.modules) == ["b"]


async def test_methods_of_the_agent(start: Any, hub: LocalHub) -> None:
    """The agent answers a ping and starts a module again; what it cannot do it refuses."""
    async with start(manifest({"a": module()}), {"a": nothing}) as device:

        async def call(name: str, payload: Any = None) -> int:
            return (await soon(hub.invoke_method(EDGE, name, payload, module_id=AGENT))).status

        assert await call("ping") == 200
        assert await call("RestartModule", {"schemaVersion": "1.0", "id": "a"}) == 200
        await soon(device.host.until(lambda: device.host.modules["a"].state.restarts == 1))
        assert await call("RestartModule", {"schemaVersion": "1.0", "id": "b"}) == 400
        assert await call("RestartModule") == 400
        assert await call("dance") == 400


async def test_lines_in_the_log(start: Any) -> None:
    """What modules write is in the bench's log, with the severity they gave it."""
    code = "print('<3> 2026-05-01 12:00:00.000 +00:00 [ERR] - hot'); print('plain')"
    run = {"a": [sys.executable, "-c", code]}
    with capture_logs() as events:
        async with start(manifest({"a": module(restartPolicy="never")}), run, on_line=None) as device:
            await soon(device.host.until(lambda: device.host.modules["a"].state.status == "stopped"))
    lines = [(event["log_level"], event["line"]) for event in events if event["event"] == "testbench.module.line"]
    assert lines == [("error", "<3> 2026-05-01 12:00:00.000 +00:00 [ERR] - hot"), ("info", "plain")]


# The host's own things


async def test_what_is_kept(start: Any, tmp_path: Path) -> None:
    """The encryption key is kept for the next start, where only its owner can read it."""
    for _ in range(2):
        async with start(manifest({})):
            key = tmp_path / "edge" / "master-encryption-key"
            first = key.read_bytes()
            assert key.stat().st_mode & 0o777 == 0o600
            assert (tmp_path / "edge").stat().st_mode & 0o777 == 0o700
    assert key.read_bytes() == first


async def test_wrong_key(start: Any, tmp_path: Path) -> None:
    """A key file that holds something else is told, and not replaced."""
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "master-encryption-key").write_bytes(b"short")
    with pytest.raises(BenchError, match="not an encryption key"):
        async with start(manifest({})):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is not kept from writing anyway")
async def test_unusable_directory(hub: LocalHub, authority: LocalAuthority) -> None:
    """A directory that cannot be made is told by its path."""
    with pytest.raises(BenchError, match=r"/proc/edge.*cannot be used"):
        async with EdgeHost(hub, EDGE, Path("/proc/edge"), authority=authority):
            pass


async def test_not_an_edge_device(start: Any, hub: LocalHub) -> None:
    """A device that is none of that kind has no modules of a deployment."""
    hub.add_device(EDGE)
    with pytest.raises(BenchError, match="no edge device"):
        async with start(manifest({})):
            pass


async def test_everything_ends(start: Any, hub: LocalHub, tmp_path: Path) -> None:
    """When the host is left, its modules, connections and sockets are gone."""
    async with start(manifest({"asking": module()}), {"asking": ASKING}) as device:
        await device.up("asking")
        pid = device.host.modules["asking"].pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list((tmp_path / "edge" / "workload").iterdir())
    await soon(hub.until(lambda: not hub.is_connected(EDGE, "asking") and not hub.is_connected(EDGE, AGENT)))
