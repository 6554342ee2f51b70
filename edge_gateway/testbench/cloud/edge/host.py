"""An IoT Edge device on the own machine: a deployment runs here, with the gateway's modules or anybody's.

Every module gets its identity at the hub, its environment and its workload socket, and connects to this device's edge
hub. Unmodified module clients work, such as `IoTHubModuleClient.create_from_edge_environment` (Python) and
`ModuleClient.fromEnvironment` (Node). Images are not run, there being no container engine: for each module that is to
run, name a command or a coroutine. For one that is started by hand, under a debugger for instance, `environment` says
what it needs.

```
hub <-- EdgeAgent: modules come, go and start again        one process or coroutine for each module
    <-- EdgeHub: messages, twins, methods, C2D      <-->   by MQTT and HTTPS at the device's address
                                WorkloadApi         <-->   by a socket of the module's own
```

```python
async with EdgeHost(
    hub, "edge-1", Path("edge"), authority=authority, manifest=load_manifest(Path("deployment.json")),
    run={"sensor": ["python", "-m", "my_sensor"]},
) as edge:
    await hub.until(lambda: hub.messages)
    edge.go_offline()
```
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from edge_gateway.clock import Clock, SystemClock, rfc3339
from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import LocalAuthority
from edge_gateway.testbench.cloud.edge.agent import EdgeAgent, number_in
from edge_gateway.testbench.cloud.edge.ca import EdgeCa
from edge_gateway.testbench.cloud.edge.deployment_manifest import (
    AgentConfiguration,
    DeploymentManifest,
    HubConfiguration,
    ManifestRefused,
    ModuleSpec,
    parse_hub,
)
from edge_gateway.testbench.cloud.edge.hub import MAX_CLIENTS, REPORTED_SYNC_S, EdgeHub
from edge_gateway.testbench.cloud.edge.module import EdgeModule, Runnable
from edge_gateway.testbench.cloud.edge.upstream import Upstream
from edge_gateway.testbench.cloud.edge.workload_api import ENCRYPTION_KEY_BYTES, EdgeSecrets, WorkloadApi
from edge_gateway.testbench.cloud.front_door import HTTPS_PORT, MQTT_PORT
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import AGENT, HUB, Identity
from edge_gateway.testbench.cloud.refusals import IdentityNotFound
from edge_gateway.testbench.cloud.service.configurations import MANAGED_BY, Configurations
from edge_gateway.testbench.cloud.twin import Section

_log = structlog.get_logger()

WORKLOAD_API_VERSION: Final = "2022-08-03"
_KEY_FILE = "master-encryption-key"
_SOCKETS = "workload"
_MAX_COMMON_NAME_CHARACTERS = 64
_WITHOUT_DEPLOYMENT: Final[Section] = {"schemaVersion": "1.1", "routes": {"route": "FROM /* INTO $upstream"}}
_LEVELS: Final = ("error", "error", "error", "error", "warning", "info", "info", "debug")
"""Of the log, by severity of a module's line."""


class EdgeHost:
    """An edge device. Use it as an async context manager.

    Args:
        hub: the hub it belongs to, which gets the device and its system modules if it does not have them.
        device_id: its id.
        directory: where it keeps its encryption key and its sockets; made if it is not there. Its path has to be short,
            as paths of sockets are.
        authority: signs the certificate of the device's own authority; clients trust it.
        manifest: deployed on entering; None runs what is deployed at the hub.
        run: how modules run, by their names: a command line, or a coroutine function that gets the environment.
        address: the IPv4 address of its edge hub; see `free_loopback_address`.
        host_name: the gateway host name modules are given, `address` if None.
        mqtt_port: 8883 is the only one the SDKs connect to; 0 takes a free one.
        https_port: 443 is the only one the SDKs call methods at; None offers none.
        clock: wall time.
        on_line: called with a module's name, and severity (0 to 7) and text of a line it has written; None logs them.

    Raises:
        BenchError: on entering, directory or address cannot be used, or the manifest is more than the hub takes.
    """

    def __init__(
        self,
        hub: LocalHub,
        device_id: str,
        directory: Path,
        *,
        authority: LocalAuthority,
        manifest: DeploymentManifest | None = None,
        run: Mapping[str, Runnable] | None = None,
        address: str = "127.0.0.1",
        host_name: str | None = None,
        mqtt_port: int = MQTT_PORT,
        https_port: int | None = HTTPS_PORT,
        clock: Clock | None = None,
        on_line: Callable[[str, int, str], None] | None = None,
    ) -> None:
        self.device_id = device_id
        self.host_name = host_name if host_name is not None else address
        self.edge_hub: EdgeHub
        """There after entering."""
        self.agent: EdgeAgent
        """There after entering."""
        self._hub = hub
        self._directory = directory.absolute()
        self._authority = authority
        self._manifest = manifest
        self._run = run if run is not None else {}
        self._address, self._mqtt_port, self._https_port = address, mqtt_port, https_port
        self._clock = clock if clock is not None else SystemClock()
        self._on_line = on_line if on_line is not None else _log_line
        self._secrets: EdgeSecrets
        self._apis: dict[str, WorkloadApi] = {}
        self._deployed: dict[str, Mapping[str, str]] = {AGENT: {}, HUB: {}}
        """By module id, the environment its deployment gives it."""
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def _enter(self) -> None:
        self._register()
        if self._manifest is not None:
            deploy(self._hub, self.device_id, self._manifest)
        edge_authority = self._authority.intermediate(f"edge CA {self.device_id}"[:_MAX_COMMON_NAME_CHARACTERS])
        ca = EdgeCa(edge_authority, self._clock)
        key = _encryption_key(self._directory)
        self._secrets = EdgeSecrets(self._hub.host_name, self.device_id, ca, key, ca.root_pem)
        upstream = Upstream(self._hub, self._clock)
        self.edge_hub = EdgeHub(
            upstream,
            self.device_id,
            _hub_configuration(self._hub.twin(self.device_id, HUB).desired),
            authority=edge_authority,
            address=self._address,
            host_name=self.host_name,
            mqtt_port=self._mqtt_port,
            https_port=self._https_port,
            clock=self._clock,
        )
        self.agent = EdgeAgent(
            upstream,
            self.device_id,
            self,
            run=self._run,
            clock=self._clock,
            on_change=self.edge_hub.changed,
            on_line=self._on_line,
        )
        await self._resources.enter_async_context(self.edge_hub)
        self._resources.push_async_callback(self._close_sockets)
        for module_id in self._deployed:
            await self._open_socket(module_id)
        await self._resources.enter_async_context(self.agent)

    # What tests and developers ask for

    @property
    def modules(self) -> Mapping[str, EdgeModule]:
        """The modules of the deployment, by name."""
        return self.agent.modules

    def environment(self, module_id: str) -> dict[str, str]:
        """What a module finds in its environment, `$edgeAgent` and `$edgeHub` included.

        Raises:
            BenchError: it is not deployed.
        """
        if module_id not in self._deployed:
            raise BenchError("no such module is deployed", where=module_id, remedy="Name it in the deployment")
        environment = {
            **self._deployed[module_id],
            "IOTEDGE_WORKLOADURI": self._apis[module_id].uri,
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "IOTEDGE_MODULEGENERATIONID": self.module_identity(module_id).generation_id,
            "IOTEDGE_IOTHUBHOSTNAME": self._hub.host_name,
            "IOTEDGE_DEVICEID": self.device_id,
            "IOTEDGE_MODULEID": module_id,
            "IOTEDGE_APIVERSION": WORKLOAD_API_VERSION,
            ("EdgeDeviceHostName" if module_id in (AGENT, HUB) else "IOTEDGE_GATEWAYHOSTNAME"): self.host_name,
        }
        if module_id == AGENT:
            environment["Mode"] = "iotedged"
        environment.setdefault("RuntimeLogLevel", "Information")
        if "UpstreamProtocol" in self._deployed[AGENT]:
            environment.setdefault("UpstreamProtocol", self._deployed[AGENT]["UpstreamProtocol"])
        return environment

    def go_offline(self) -> None:
        """Cut the way to the hub: the edge hub's and the agent's."""
        self.edge_hub.go_offline()

    def go_online(self) -> None:
        """Open the way to the hub again."""
        self.edge_hub.go_online()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the device holds; it is judged again at each change. The caller sets a limit."""
        await self.edge_hub.until(condition)

    async def deployed(self) -> None:
        """Wait until the agent has dealt with the desired properties the hub has for it. The caller sets a limit."""
        twin = self._hub.twin(self.device_id, AGENT)
        await self.until(lambda: self.agent.applied_version == twin.desired_version)

    # workload_api.ModuleHost

    def module_identity(self, module_id: str) -> Identity:
        """The hub's entry of a module."""
        return self._hub.identity(self.device_id, module_id)

    def module_details(self) -> Sequence[Mapping[str, Any]]:
        """All modules as the workload API lists them."""
        return [_details(module) for module in self.modules.values()]

    # edge_agent.ModuleHouse

    def configured(self, configuration: AgentConfiguration) -> None:
        """Take what concerns the system modules from a deployment."""
        agent, hub = configuration.system_modules.edge_agent.env, configuration.system_modules.edge_hub.env
        self._deployed |= {AGENT: agent, HUB: hub}
        self.edge_hub.max_clients = int(number_in(hub, "MaxConnectedClients", MAX_CLIENTS + 1)) - 1
        self.edge_hub.reported_sync_s = number_in(hub, "ReportedPropertiesSyncFrequencySecs", REPORTED_SYNC_S)

    async def prepare(self, module_id: str, spec: ModuleSpec) -> Mapping[str, str]:
        """Give a module what it needs; return its environment."""
        self._ensure_module(module_id)
        self._deployed[module_id] = spec.env
        if module_id not in self._apis:
            await self._open_socket(module_id)
        return self.environment(module_id)

    async def discard(self, module_id: str) -> None:
        """Take a module's socket and identity away; one that somebody else manages stays at the hub."""
        del self._deployed[module_id]
        await self._apis.pop(module_id).__aexit__(None, None, None)
        try:
            if self.module_identity(module_id).managed_by == MANAGED_BY:
                self._hub.remove_module(self.device_id, module_id)
        except IdentityNotFound:
            _log.info("testbench.edge.module_gone", module=module_id)

    # How

    def _register(self) -> None:
        try:
            identity = self._hub.identity(self.device_id)
        except IdentityNotFound:
            identity = self._hub.add_device(self.device_id, edge=True)
        if not identity.edge:
            raise BenchError("the device is no edge device", where=self.device_id, remedy="Add it with edge=True")
        for module_id in (AGENT, HUB):
            self._ensure_module(module_id)

    def _ensure_module(self, module_id: str) -> None:
        known = (identity.module_id for identity in self._hub.registry.modules(self.device_id))
        if module_id not in known:
            self._hub.add_module(self.device_id, module_id, managed_by=MANAGED_BY)

    async def _open_socket(self, module_id: str) -> None:
        path = _private_directory(self._directory / _SOCKETS) / f"{module_id.lstrip('$')}.sock"
        self._apis[module_id] = await WorkloadApi(module_id, path, self._secrets, self).__aenter__()

    async def _close_sockets(self) -> None:
        for api in self._apis.values():
            await api.__aexit__(None, None, None)
        self._apis.clear()


def deploy(hub: LocalHub, device_id: str, manifest: DeploymentManifest) -> None:
    """Write a manifest to the twins of an edge device, as a service does; module identities it lacks are made.

    Raises:
        BenchError: the device is no edge device, or a twin would be larger than the hub allows.
    """
    modules = {module_id: {"properties.desired": desired} for module_id, desired in manifest.desired.items()}
    Configurations(hub).apply_content(device_id, {"modulesContent": modules})


def _hub_configuration(desired: Section) -> HubConfiguration:
    """What the edge hub starts with; without a deployment it could read, everything goes up."""
    try:
        return parse_hub(desired)
    except ManifestRefused:
        return parse_hub(_WITHOUT_DEPLOYMENT)


def _encryption_key(directory: Path) -> bytes:
    """The key by which the host encrypts for its modules: the same at every start."""
    path = _private_directory(directory) / _KEY_FILE
    try:
        if not path.exists():
            replace_durably(path, os.urandom(ENCRYPTION_KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise _unusable(directory, error) from error
    if len(key) != ENCRYPTION_KEY_BYTES:
        raise BenchError("not an encryption key", where=str(path), remedy="Remove it to get a new one")
    return key


def _private_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from error
    return path


def _unusable(directory: Path, error: OSError) -> BenchError:
    return BenchError(
        f"cannot be used: {error.strerror}", where=str(directory), remedy="Name a directory that can be written"
    )


def _details(module: EdgeModule) -> dict[str, Any]:
    spec, state = module.spec, module.state
    status: dict[str, Any] = {"runtimeStatus": {"status": state.status, "description": state.description}}
    if state.last_start_ns:
        status["startTime"] = rfc3339(state.last_start_ns)
    if state.last_exit_ns:
        status["exitStatus"] = {"exitTime": rfc3339(state.last_exit_ns), "statusCode": str(state.exit_code)}
    settings = {"image": spec.settings.image, "createOptions": spec.settings.create_options}
    return {
        "id": "id",
        "name": module.name,
        "type": spec.type,
        "config": {"settings": settings, "env": []},
        "status": status,
    }


def _log_line(module: str, severity: int, line: str) -> None:
    getattr(_log, _LEVELS[severity])("testbench.module.line", module=module, line=line)
