"""The edge agent: it makes the modules of an edge device what the twin of `$edgeAgent` wants, and reports how they are.

A new deployment is taken as a whole: what is gone or changed is stopped, then what is missing started, in the order
the deployment asks for. One that cannot be read changes nothing; its fault is reported with the code of a real device.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

import orjson
import structlog

from edge_gateway import __version__
from edge_gateway.clock import Clock, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.edge.deployment_manifest import (
    AgentConfiguration,
    ManifestRefused,
    ModuleSpec,
    SystemModuleSpec,
    parse_agent,
)
from edge_gateway.testbench.cloud.edge.module import EdgeModule, ModuleState, RestartSettings, Runnable
from edge_gateway.testbench.cloud.edge.system_twin import SystemTwin
from edge_gateway.testbench.cloud.edge.tasks import OwnedTasks
from edge_gateway.testbench.cloud.edge.upstream import LinkDown, TwinRequestRefused, Upstream
from edge_gateway.testbench.cloud.hub_session import MethodResponse
from edge_gateway.testbench.cloud.identity import AGENT, IdentityName
from edge_gateway.testbench.cloud.twin import Section

_log = structlog.get_logger()

_REPORTED_SCHEMA = "1.0"
_OK, _INVALID, _NOT_RUNNING, _FAILED = 200, 400, 406, 500
_CREATE_OPTIONS_PART_CHARACTERS: Final = 512
_GOODBYE_WITHIN_S = 5.0


class ModuleHouse(Protocol):
    """Where modules live: it gives them what they need before they run."""

    async def prepare(self, module_id: str, spec: ModuleSpec) -> Mapping[str, str]:
        """Make a module's identity and workload socket; return its environment.

        Raises:
            BenchError: it cannot be done.
        """

    async def discard(self, module_id: str) -> None:
        """Take back what `prepare` gave to a module that is deployed no more."""

    def configured(self, configuration: AgentConfiguration) -> None:
        """A deployment is about to be applied."""


class EdgeAgent:
    """The agent of one edge device. Use it as an async context manager.

    Args:
        upstream: the way to the hub.
        device_id: the edge device, which the hub has with its module `$edgeAgent`.
        house: prepares modules.
        run: how modules run, by their names; those without are deployed and do not run.
        clock: wall time, for reports.
        on_change: called when a module's state or the deployment has changed.
        on_line: called with a module's name, and severity and text of a line it has written.
    """

    def __init__(
        self,
        upstream: Upstream,
        device_id: str,
        house: ModuleHouse,
        *,
        run: Mapping[str, Runnable],
        clock: Clock,
        on_change: Callable[[], None],
        on_line: Callable[[str, int, str], None],
    ) -> None:
        self.modules: dict[str, EdgeModule] = {}
        """Those of the deployment, by name."""
        self.applied_version: Value = None
        """`$version` of the desired properties that were applied or refused last."""
        self._house = house
        self._run = run
        self._clock = clock
        self._on_change, self._on_line = on_change, on_line
        self._configuration: AgentConfiguration | None = None
        self._status: Section = {"code": _NOT_RUNNING, "description": "Agent is not running"}
        self._wanted: Section = {}
        self._asked = asyncio.Event()
        self._started_ns = clock.now_ns()
        self._tasks = OwnedTasks(f"testbench-edge-agent-{device_id}")
        self._name = IdentityName(device_id, AGENT)
        self._upstream = upstream
        self._twin: SystemTwin

    async def __aenter__(self) -> Self:
        self._twin = SystemTwin(
            self._upstream, self._name, on_desired=self._take_desired, on_method=self._answer_method
        )
        self._report()
        self._tasks.spawn(self._twin.run(), "twin")
        self._tasks.spawn(self._apply_deployments(), "deployments")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._tasks.end()
        finally:
            for module in self.modules.values():
                await module.stop()
            await self._say_goodbye()
            self._twin.close()

    async def _say_goodbye(self) -> None:
        self._status = {"code": _NOT_RUNNING, "description": "Agent is not running"}
        self._report()
        try:
            async with asyncio.timeout(_GOODBYE_WITHIN_S):
                await self._twin.settle()
        except (LinkDown, TwinRequestRefused, TimeoutError) as error:
            _log.info("testbench.agent.left_unsaid", reason=type(error).__name__)

    # Deployments

    def _take_desired(self, desired: Section) -> None:
        self._wanted = desired
        self._asked.set()

    async def _apply_deployments(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            desired = self._wanted
            code, description = _OK, ""
            try:
                await self._apply(parse_agent(desired))
            except ManifestRefused as refused:
                code, description = refused.code, str(refused)
            except BenchError as error:
                code, description = _FAILED, str(error)
            self._status = {"code": code, "description": description}
            self.applied_version = desired.get("$version")
            _log.info("testbench.agent.applied", version=self.applied_version, code=code, description=description)
            self._changed()

    async def _apply(self, configuration: AgentConfiguration) -> None:
        self._configuration = configuration
        self._house.configured(configuration)
        for name, module in list(self.modules.items()):
            if configuration.modules.get(name) != module.spec:
                await module.stop()
                del self.modules[name]
                if name not in configuration.modules:
                    await self._house.discard(name)
        settings = restart_settings(configuration.system_modules.edge_agent.env)
        for name in configuration.starting_order():
            if name not in self.modules:
                spec = configuration.modules[name]
                module = EdgeModule(
                    name,
                    spec,
                    self._run.get(name),
                    environment=await self._house.prepare(name, spec),
                    settings=settings,
                    clock=self._clock,
                    on_change=self._changed,
                    on_line=self._on_line,
                )
                self.modules[name] = module
                await module.start()

    # Direct methods

    def _answer_method(self, name: str, payload: Value) -> MethodResponse:
        match name.lower(), payload:
            case "ping", _:
                return MethodResponse(_OK, None)
            case "restartmodule", {"schemaVersion": str(), "id": str(module_id)} if module_id in self.modules:
                self.modules[module_id].restart()
                return MethodResponse(_OK, None)
            case "restartmodule", _:
                return MethodResponse(_INVALID, {"message": "no such module, or no schemaVersion and id"})
            case _:
                return MethodResponse(_INVALID, {"message": f"Method {name} is not supported"})

    # Reports

    def _changed(self) -> None:
        self._report()
        self._on_change()

    def _report(self) -> None:
        state: Section = {
            "schemaVersion": _REPORTED_SCHEMA,
            "version": {"version": __version__, "build": "", "commit": ""},
            "lastDesiredVersion": self.applied_version,
            "lastDesiredStatus": self._status,
        }
        configuration = self._configuration
        if configuration is not None:
            runtime = configuration.runtime
            system = configuration.system_modules
            running = ModuleState("running", "running", last_start_ns=self._started_ns)
            state |= {
                "runtime": {
                    "type": runtime.type,
                    "platform": {
                        "os": platform.system().lower(),
                        "architecture": platform.machine(),
                        "version": __version__,
                    },
                    "settings": {"minDockerVersion": runtime.settings.min_docker_version},
                },
                "systemModules": {
                    "edgeAgent": _reported(system.edge_agent, running),
                    "edgeHub": {
                        **_reported(system.edge_hub, running),
                        "status": "running",
                        "restartPolicy": "always",
                        "restartCount": 0,
                    },
                },
                "modules": {name: _reported_module(module) for name, module in self.modules.items()},
            }
        self._twin.report(state)


def restart_settings(environment: Mapping[str, str]) -> RestartSettings:
    """When modules are started again, as the environment of edgeAgent says; what is no number is passed over."""
    default = RestartSettings()
    return RestartSettings(
        number_in(environment, "CoolOffTimeUnitInSeconds", default.cool_off_unit_s),
        int(number_in(environment, "MaxRestartCount", default.max_restarts)),
        60 * number_in(environment, "IntensiveCareTimeInMinutes", default.intensive_care_s / 60),
    )


def number_in(environment: Mapping[str, str], name: str, default: float) -> float:
    """A number of 0 or more from the environment of a system module, or the default."""
    text = environment.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        _log.warning("testbench.agent.no_number", variable=name)
        return default
    return float(text)


def _reported_module(module: EdgeModule) -> Section:
    spec, state = module.spec, module.state
    return {
        **_reported(spec, state),
        "version": spec.version,
        "status": spec.status,
        "restartPolicy": spec.restart_policy,
        "restartCount": state.restarts,
        "env": {name: {"value": text} for name, text in spec.env.items()},
        **({"lastRestartTimeUtc": rfc3339(state.last_restart_ns)} if state.last_restart_ns else {}),
    }


def _reported(spec: SystemModuleSpec, state: ModuleState) -> Section:
    times = {"lastStartTimeUtc": state.last_start_ns, "lastExitTimeUtc": state.last_exit_ns}
    return {
        "type": spec.type,
        "imagePullPolicy": spec.image_pull_policy,
        "runtimeStatus": state.status,
        "statusDescription": state.description,
        "exitCode": state.exit_code,
        **{name: rfc3339(time_ns) for name, time_ns in times.items() if time_ns},
        "settings": {"image": spec.settings.image, **_parts(spec.settings.create_options)},
    }


def _parts(create_options: Mapping[str, Any]) -> dict[str, str]:
    """Docker's options as text, cut into parts as in a manifest."""
    text = orjson.dumps(create_options).decode()
    size = _CREATE_OPTIONS_PART_CHARACTERS
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return {f"createOptions{number:02}" if number else "createOptions": part for number, part in enumerate(parts)}
