"""Deployment manifests: which modules an edge device runs, and how messages travel between them.

A manifest is the desired properties of several twins in one document: `$edgeAgent` (modules, with their environment and
restart policy), `$edgeHub` (routes and how long messages are kept), and each module's own. Tools wrap it differently;
all wrappings are read:

```
{"modulesContent": {...}}                            a file made from a template
{"content": {"modulesContent": {...}}}               what `az` takes
{"id": "...", "content": {"modulesContent": {...}}}  a configuration of the service's REST API
```

Keys and values are checked as strictly as the published JSON schema does: a device ignores a misspelled key, and that
is found in the field. What is wrong is told all at once, each with its path. Values are never told: an environment may
hold a password.

Not here: making a manifest from a template, and layered deployments, which the hub merges before a device sees them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.edge.routes import RouteRefused, RouteTable
from edge_gateway.testbench.cloud.identity import AGENT, HUB
from edge_gateway.testbench.cloud.twin import Section

MAX_MANIFEST_BYTES: Final = 1 << 20
"""All twins of 50 modules are larger only if nobody could apply them."""
MAX_MODULES: Final = 50
DEFAULT_TIME_TO_LIVE_S: Final = 7200
MAX_CREATE_OPTIONS_PARTS: Final = 8
LAST_IN_STARTUP_ORDER: Final = 4_294_967_295

_DESIRED = "properties.desired"
_AGENT_SCHEMAS = ("1.0", "1.1")
_HUB_SCHEMAS = ("1.0", "1.1", "1.2", "1.3")
_ROUTE_KEYS = ("route", "priority", "timeToLiveSecs")
_INVALID, _SCHEMA_UNKNOWN, _EMPTY = 400, 412, 417

RestartPolicy: TypeAlias = Literal["never", "on-failure", "on-unhealthy", "always"]


class ManifestRefused(BenchError):
    """A manifest, or a twin's desired properties that came from one, cannot be applied.

    Attributes:
        code: what an edge device reports as `lastDesiredStatus.code`: 400 wrong, 412 a schema version nobody here
            knows, 417 empty.
    """

    def __init__(self, what: str, *, where: str, remedy: str, code: int = _INVALID) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.code = code


class _Part(BaseModel):
    """A part of a manifest; written in camel case there."""

    model_config = ConfigDict(frozen=True, strict=True, alias_generator=to_camel, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, part: Any) -> Any:
        known = [str(field.alias) for field in cls.model_fields.values()]
        unknown = [str(key) for key in part if key not in known] if isinstance(part, dict) else []
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1) or known
            raise ValueError(f"`{unknown[0]}` is not a key here; {' or '.join(near)} would do")
        return part


def _env_text(value: Any) -> Any:
    """Numbers and flags become the text a process finds in its environment, as JSON writes them."""
    if not isinstance(value, dict) or value.keys() != {"value"}:
        raise ValueError('not of the form {"value": ...}')
    if not isinstance(value["value"], str | int | float):
        raise ValueError("its value is not text, a number, true or false")
    return value["value"] if isinstance(value["value"], str) else orjson.dumps(value["value"]).decode()


def _route_table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("not an object with a route under each name")
    for name, route in value.items():
        unknown = set(route) - set(_ROUTE_KEYS) if isinstance(route, dict) else ()
        if unknown:
            raise ValueError(f"`{min(unknown)}` is not a key of route {name}; {', '.join(_ROUTE_KEYS)} would do")
    try:
        return RouteTable(value)
    except RouteRefused as error:
        raise ValueError(str(error)) from None


def _create_options(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("not JSON as text; generate the manifest from its template")
    try:
        options = orjson.loads(value or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"its text is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise ValueError("its text is not a JSON object")
    return options


def _image(value: str) -> str:
    if "${" in value:
        raise ValueError("a placeholder is left; generate the manifest from its template")
    return value


_ModuleName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$")]
_RegistryName: TypeAlias = Annotated[str, Field(pattern=r"^[^.$# ]+$")]
_EnvName: TypeAlias = Annotated[str, Field(pattern=r"^[^+#$\s.]+$")]
Environment: TypeAlias = Annotated[
    dict[_EnvName, Annotated[str, BeforeValidator(_env_text)]], Field(default_factory=dict, repr=False)
]


class ModuleSettings(_Part):
    """What a container engine needs to know."""

    image: Annotated[str, Field(pattern=r"^\S+$"), AfterValidator(_image)]
    create_options: Annotated[dict[str, Any], BeforeValidator(_create_options)] = Field(default_factory=dict)
    """Docker's, parsed. In the manifest they are JSON as text, cut into parts if it is long."""

    @model_validator(mode="before")
    @classmethod
    def _join_parts(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        parts = {str(key).lower(): key for key in settings if str(key).lower().startswith("createoptions")}
        names = ["createoptions", *(f"createoptions{number:02}" for number in range(1, MAX_CREATE_OPTIONS_PARTS))]
        present = [name for name in names if name in parts]
        if present != names[: len(present)] or len(present) != len(parts):
            raise ValueError(
                "parts of createOptions do not follow each other as createOptions, createOptions01, ... 07"
            )
        texts = [settings[parts[name]] for name in present]
        if len(texts) > 1 and not all(isinstance(text, str) for text in texts):
            raise ValueError("a part of createOptions is not text")
        others = {key: value for key, value in settings.items() if key not in parts.values()}
        return others | ({"createOptions": texts[0] if len(texts) == 1 else "".join(texts)} if texts else {})


class SystemModuleSpec(_Part):
    """The agent, which starts the others and is started by the host."""

    type: Literal["docker"]
    settings: ModuleSettings
    env: Environment
    image_pull_policy: Literal["on-create", "never"] = "on-create"


class HubModuleSpec(SystemModuleSpec):
    """The edge hub."""

    status: Literal["running"]
    restart_policy: Literal["always"]
    startup_order: Annotated[int, Field(ge=0, le=LAST_IN_STARTUP_ORDER)] = LAST_IN_STARTUP_ORDER


class ModuleSpec(SystemModuleSpec):
    """A module of the solution's."""

    status: Literal["running", "stopped"]
    restart_policy: RestartPolicy
    startup_order: Annotated[int, Field(ge=0, le=LAST_IN_STARTUP_ORDER)] = LAST_IN_STARTUP_ORDER
    """Lower ones start first."""
    version: str = ""


class RegistryCredentials(_Part):
    """How to log in to a registry of images."""

    username: str
    password: str = Field(repr=False)
    address: Annotated[str, Field(pattern=r"^\S+$")]


class RuntimeSettings(_Part):
    """The container engine's; read and not used, as no images are run here."""

    min_docker_version: str = ""
    logging_options: str = ""
    registry_credentials: dict[_RegistryName, RegistryCredentials] = Field(default_factory=dict)


class Runtime(_Part):
    """The container engine."""

    type: Literal["docker"]
    settings: RuntimeSettings


class SystemModules(_Part):
    """The two modules every edge device has."""

    edge_agent: SystemModuleSpec
    edge_hub: HubModuleSpec


class AgentConfiguration(_Part):
    """The desired properties of `$edgeAgent`."""

    schema_version: str
    runtime: Runtime
    system_modules: SystemModules
    modules: Annotated[dict[_ModuleName, ModuleSpec], Field(max_length=MAX_MODULES)]

    def starting_order(self) -> list[str]:
        """Names of the modules, first to start first."""
        return sorted(self.modules, key=lambda name: (self.modules[name].startup_order, name))


class StoreLimits(_Part):
    """How much the edge hub keeps."""

    max_size_bytes: Annotated[int, Field(gt=0)]


class StoreAndForward(_Part):
    """How long the edge hub keeps messages it cannot deliver."""

    time_to_live_s: int = Field(alias="timeToLiveSecs")
    """Negative: for ever."""
    store_limits: StoreLimits | None = None


class HubConfiguration(_Part):
    """The desired properties of `$edgeHub`."""

    schema_version: str
    routes: Annotated[RouteTable, BeforeValidator(_route_table)]
    store_and_forward: StoreAndForward = Field(
        default_factory=lambda: StoreAndForward(timeToLiveSecs=DEFAULT_TIME_TO_LIVE_S),
        alias="storeAndForwardConfiguration",
    )
    mqtt_broker: dict[str, Any] | None = None
    """Of schema 1.2; the product has dropped it, and so it is read and not obeyed."""
    integrity: dict[str, Any] | None = None
    """Of schema 1.3: signatures over the manifest, which are not checked here."""

    @model_validator(mode="before")
    @classmethod
    def _objects_need_1_1(cls, configuration: Any) -> Any:
        if isinstance(configuration, dict) and str(configuration.get("schemaVersion")).startswith("1.0"):
            routes = configuration.get("routes")
            objects = (
                [name for name, route in routes.items() if isinstance(route, dict)] if isinstance(routes, dict) else []
            )
            if objects:
                raise ValueError(f"route `{objects[0]}` is an object, which needs schemaVersion 1.1")
        return configuration


class DeploymentManifest:
    """A manifest that has been checked.

    Args:
        desired: the desired properties of each twin by module id, `$edgeAgent` and `$edgeHub` among them.
        where: named in errors.

    Raises:
        ManifestRefused: it cannot be applied.
    """

    def __init__(self, desired: Mapping[str, Section], where: str = "manifest") -> None:
        missing = [module_id for module_id in (AGENT, HUB) if module_id not in desired]
        if missing:
            raise ManifestRefused(
                f"{' and '.join(missing)} missing",
                where=where,
                remedy="A layered deployment is applied by the hub, over a base deployment",
            )
        self.agent = parse_agent(desired[AGENT], f"{where}.{AGENT}")
        self.hub = parse_hub(desired[HUB], f"{where}.{HUB}")
        self.desired = MappingProxyType(dict(desired))
        """By module id: what each twin's desired properties become."""


def load_manifest(path: Path) -> DeploymentManifest:
    """Read a manifest from a file.

    Raises:
        ManifestRefused: it cannot be read or applied; the text names each wrong key by its path.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ManifestRefused(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Give the path of a deployment manifest"
        ) from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestRefused(
            f"is larger than {MAX_MANIFEST_BYTES} bytes", where=str(path), remedy="Is it the right file?"
        )
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ManifestRefused(f"is not JSON: {error}", where=str(path), remedy="Correct it there") from None
    return parse_manifest(document, str(path))


def parse_manifest(document: Any, where: str = "manifest") -> DeploymentManifest:
    """Check a manifest in any of its wrappings.

    Args:
        document: what JSON gave.
        where: named in errors.

    Raises:
        ManifestRefused: it cannot be applied.
    """
    modules, found = document, ""
    for wrapping in ("content", "modulesContent"):
        if isinstance(modules, dict) and wrapping in modules:
            if "$schema-template" in modules:
                raise ManifestRefused("is a template", where=where, remedy="Generate the manifest from it")
            modules = modules[wrapping]
            found = wrapping
    if found != "modulesContent" or not isinstance(modules, dict):
        raise ManifestRefused("no modulesContent", where=where, remedy='Start with {"modulesContent": {...}}')
    desired: dict[str, Section] = {}
    for module_id, twin in modules.items():
        if not isinstance(twin, dict) or twin.keys() != {_DESIRED} or not isinstance(twin[_DESIRED], dict):
            raise ManifestRefused(
                f'is not of the form {{"{_DESIRED}": {{...}}}}',
                where=f"{where}.{module_id}",
                remedy="Keys with more dots belong to layered deployments, which the hub applies",
            )
        desired[module_id] = twin[_DESIRED]
    return DeploymentManifest(desired, where)


def parse_agent(desired: Section, where: str = AGENT) -> AgentConfiguration:
    """Check the desired properties of `$edgeAgent`, from a manifest or from its twin.

    Raises:
        ManifestRefused: they cannot be applied; `code` says what a device reports.
    """
    return _parsed(AgentConfiguration, desired, where, _AGENT_SCHEMAS)


def parse_hub(desired: Section, where: str = HUB) -> HubConfiguration:
    """Check the desired properties of `$edgeHub`, from a manifest or from its twin.

    Raises:
        ManifestRefused: they cannot be applied; `code` says what a device reports.
    """
    return _parsed(HubConfiguration, desired, where, _HUB_SCHEMAS)


_Configuration = TypeVar("_Configuration", AgentConfiguration, HubConfiguration)


def _parsed(model: type[_Configuration], desired: Section, where: str, schemas: tuple[str, ...]) -> _Configuration:
    desired = {key: value for key, value in desired.items() if not key.startswith("$")}  # a twin's `$version`
    if not desired:
        raise ManifestRefused("is empty", where=where, remedy="Apply a deployment to the device", code=_EMPTY)
    version = desired.get("schemaVersion")
    if isinstance(version, str) and ".".join(version.split(".")[:2]) not in schemas:
        raise ManifestRefused(
            f"schemaVersion {version[:20]!r} is not known",
            where=where,
            remedy=f"{' or '.join(schemas)} would do",
            code=_SCHEMA_UNKNOWN,
        )
    try:
        return model.model_validate(desired)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors(include_url=False, include_input=False)]
        raise ManifestRefused(
            "; ".join(problems), where=where, remedy="See the schema of deployment manifests"
        ) from None


def _sentence(problem: Mapping[str, Any]) -> str:
    steps = [step for step in problem["loc"] if step != "[key]"]
    path = ".".join(map(str, steps))
    match problem["type"]:
        case "missing":
            return f"`{path}` is missing"
        case "value_error":
            text = str(problem["msg"]).removeprefix("Value error, ")
        case "string_pattern_mismatch" if problem["loc"][-1] == "[key]":
            text = "a name with a character that is not allowed there"
        case _:
            text = str(problem["msg"])
            text = text[0].lower() + text[1:]
    return f"`{path}`: {text}" if path else text
