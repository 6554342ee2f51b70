"""Automatic configurations: which twins they are for, and what they write there (REST `/configurations`).

A configuration has content of one of three kinds, a condition and a priority:

- `deviceContent` sets parts of device twins, `moduleContent` of module twins: for each part the configuration with the
  highest priority wins.
- `modulesContent` is a deployment for edge devices. Of the full ones for a device the one with the highest priority is
  its base, of equal ones the newest. Layered ones above the base are laid on it, lowest first: `properties.desired`
  replaces what lies below, `properties.desired.a.b` one part of it. Without a base they do nothing.

`evaluate` compares all twins with all configurations and writes where something has changed since the last time. Azure
does so every few minutes; here the service's own calls do, and whoever else changes tags or reported properties that a
condition asks for calls it. A twin nobody is for any more stays as it is. That is documented (how-to-deploy-at-scale,
how to deploy with layered deployments); the names of system metrics and where a twin lists its configurations are
UNVERIFIED.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import structlog

from edge_gateway.clock import rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.identity import AGENT, HUB, Identity, IdentityName, etag
from edge_gateway.testbench.cloud.refusals import EtagMismatch, IdentityNotFound
from edge_gateway.testbench.cloud.service.documents import DocumentRefused, identities, twin_document
from edge_gateway.testbench.cloud.service.query import Collection, Condition, QueryRefused, parse_condition, parse_query
from edge_gateway.testbench.cloud.twin import Section, TwinRefused, replacing_patch

if TYPE_CHECKING:  # the hub's own routes come from modules that use this one
    from edge_gateway.testbench.cloud.hub import LocalHub

_log = structlog.get_logger()

MAX_CONFIGURATIONS = 100
_ID = re.compile(r"[a-z0-9\-:+%_#*?!(),=@;$'.]{1,128}")
_DESIRED = "properties.desired"
_KINDS = ("deviceContent", "modulesContent", "moduleContent")
MANAGED_BY = "IotEdge"
"""Who manages the modules of a deployment."""


class ConfigurationNotFound(BenchError):
    """No configuration has this id."""


class ConfigurationExists(BenchError):
    """A configuration has this id already."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration as a service has written it."""

    configuration_id: str
    kind: str
    """Which of the three kinds of content it has."""
    content: Mapping[str, Any]
    """By module for `modulesContent`, else the parts themselves."""
    condition_text: str
    condition: Condition
    priority: int
    labels: Mapping[str, str]
    metrics: Mapping[str, str]
    """Custom ones: their queries by their names."""
    created_ns: int
    updated_ns: int
    etag: str

    @property
    def is_base(self) -> bool:
        """Whether it is a full deployment, and not to be laid on one."""
        return self.kind == "modulesContent" and _DESIRED in self.content.get(AGENT, {})


@dataclass(slots=True)
class _Marks:
    """What one twin has to do with configurations."""

    applied: tuple[tuple[str, str], ...] = ()
    """Ids and etags of those whose content was written, lowest first."""
    statuses: dict[str, dict[str, str]] = field(default_factory=dict)


class Configurations:
    """A hub's configurations.

    Args:
        hub: whose twins they are for.
    """

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._configurations: dict[str, Configuration] = {}
        self._marks: dict[IdentityName, _Marks] = {}
        self._etags = 0

    def get(self, configuration_id: str) -> Configuration:
        """A configuration by its id.

        Raises:
            ConfigurationNotFound: there is none.
        """
        if configuration_id not in self._configurations:
            raise ConfigurationNotFound("no such configuration", where=configuration_id, remedy="Create it first")
        return self._configurations[configuration_id]

    def all(self) -> list[Configuration]:
        """All configurations, oldest first."""
        return list(self._configurations.values())

    def create(self, configuration_id: str, document: Any) -> Configuration:
        """Take a new configuration and apply it where it is for.

        Raises:
            ConfigurationExists: there is one of that id.
            DocumentRefused: it is none.
            QueryRefused: its condition or a metric is no query.
            ManifestRefused: a full deployment no edge device could run.
        """
        if configuration_id in self._configurations:
            raise ConfigurationExists("the configuration exists already", where=configuration_id, remedy="Update it")
        if len(self._configurations) >= MAX_CONFIGURATIONS:
            raise _refused(f"{MAX_CONFIGURATIONS} configurations already", configuration_id, "Delete some")
        now_ns = self._hub.now_ns()
        return self._put(_read(configuration_id, document, now_ns, now_ns))

    def update(self, configuration_id: str, document: Any, known_etag: str | None) -> Configuration:
        """Change all of a configuration but its content, which stays for its life.

        Args:
            configuration_id: which.
            document: the whole configuration.
            known_etag: of the configuration the service knows; None takes any.

        Raises:
            ConfigurationNotFound: there is none of that id.
            EtagMismatch: it has changed since.
            DocumentRefused: it is none, or has other content.
            QueryRefused: its condition or a metric is no query.
        """
        known = self._known(configuration_id, known_etag)
        changed = _read(configuration_id, document, known.created_ns, self._hub.now_ns())
        if changed.content != known.content:
            raise _refused("the content cannot be changed", configuration_id, "Create another configuration")
        return self._put(changed)

    def remove(self, configuration_id: str, known_etag: str | None) -> None:
        """Forget a configuration; twins it was for go to the next, or stay as they are.

        Raises:
            ConfigurationNotFound: there is none of that id.
            EtagMismatch: it has changed since.
        """
        self._known(configuration_id, known_etag)
        del self._configurations[configuration_id]
        self.evaluate()

    def statuses(self, name: IdentityName) -> dict[str, dict[str, str]]:
        """What configurations have to do with a twin: `{id: {"status": "Applied" | "Targeted"}}`."""
        marks = self._marks.get(name)
        return dict(marks.statuses) if marks is not None else {}

    def twins(self, collection: Collection) -> list[dict[str, Any]]:
        """The twins of all devices or modules as queries see them."""
        modules = collection is Collection.MODULES
        return [
            twin_document(self._hub, identity, self.statuses(identity.name))
            for identity in identities(self._hub, modules=modules)
        ]

    def document(self, configuration: Configuration) -> dict[str, Any]:
        """A configuration as services read it, with its metrics as they are now."""
        queries = _system_queries(configuration)
        return {
            "id": configuration.configuration_id,
            "schemaVersion": "1.0",
            "labels": dict(configuration.labels),
            "content": {configuration.kind: configuration.content},
            "targetCondition": configuration.condition_text,
            "createdTimeUtc": rfc3339(configuration.created_ns),
            "lastUpdatedTimeUtc": rfc3339(configuration.updated_ns),
            "priority": configuration.priority,
            "systemMetrics": {"results": self._counted(queries), "queries": queries},
            "metrics": {
                "results": self._counted(configuration.metrics),
                "queries": dict(configuration.metrics),
            },
            "etag": configuration.etag,
        }

    def evaluate(self) -> None:
        """Write to twins what configurations have for them and was not written yet."""
        self._marks = {name: marks for name, marks in self._marks.items() if _is_there(self._hub, name)}
        for identity in list(identities(self._hub, modules=True)):
            self._set_parts(identity, "moduleContent")
        for identity in list(identities(self._hub, modules=False)):
            self._set_parts(identity, "deviceContent")
            if identity.edge:
                self._deploy(identity)

    def apply_content(self, device_id: str, content: Any) -> None:
        """Write a deployment to one edge device, without a configuration (`applyConfigurationContent`).

        Raises:
            IdentityNotFound: no such device.
            DocumentRefused: it is no edge device, or the content is no deployment.
            ManifestRefused: a deployment no edge device could run.
            TwinRefused: it breaks a limit; modules before the one named are written.
        """
        identity = self._hub.identity(device_id)
        kind, modules = _read_content(content, device_id)
        if kind != "modulesContent" or not identity.edge:
            raise _refused("only an edge device takes modulesContent", device_id, "Set capabilities.iotEdge")
        if _DESIRED in modules.get(AGENT, {}):
            _check_manifest(modules, device_id)
        self._write_modules(identity, layered([modules]))

    def _known(self, configuration_id: str, known_etag: str | None) -> Configuration:
        known = self.get(configuration_id)
        if known_etag is not None and known_etag != known.etag:
            raise EtagMismatch("it has changed in the meantime", where=configuration_id, remedy="Read it again")
        return known

    def _put(self, configuration: Configuration) -> Configuration:
        self._etags += 1
        configuration = replace(configuration, etag=etag(self._etags))
        self._configurations[configuration.configuration_id] = configuration
        self.evaluate()
        return configuration

    def _counted(self, queries: Mapping[str, str]) -> dict[str, int]:
        results = {}
        for name, text in queries.items():
            query = parse_query(text)
            results[name] = len(query.run(self.twins(query.collection)))
        return results

    def _targeting(self, identity: Identity, kind: str) -> list[Configuration]:
        """The configurations of a kind that are for a twin, lowest first."""
        candidates = [each for each in self._configurations.values() if each.kind == kind]
        if not candidates:
            return []
        document = twin_document(self._hub, identity)
        chosen = [each for each in candidates if each.condition.holds(document)]
        return sorted(chosen, key=lambda each: (each.priority, each.created_ns))

    def _set_parts(self, identity: Identity, kind: str) -> None:
        chosen = self._targeting(identity, kind)
        marks = self._marks.setdefault(identity.name, _Marks())
        applied = _versions(chosen)
        if chosen and applied != marks.applied:
            desired = self._hub.twin(*identity.name).desired
            for configuration in chosen:
                desired = with_parts(desired, configuration.content)
            try:
                self._write_desired(identity.name, desired)
            except TwinRefused as error:
                _log.warning("testbench.configurations.refused", twin=str(identity.name), reason=str(error))
                applied = ()
        marks.applied = applied
        marks.statuses = _statuses(chosen, applied)

    def _deploy(self, identity: Identity) -> None:
        targeting = self._targeting(identity, "modulesContent")
        bases = [each for each in targeting if each.is_base]
        above = [each for each in targeting if not each.is_base and bases and each.priority > bases[-1].priority]
        stack = [*bases[-1:], *above]
        agent = IdentityName(identity.device_id, AGENT)
        marks = self._marks.setdefault(agent, _Marks())
        applied = _versions(stack)
        if applied != marks.applied or not marks.statuses:
            try:
                if targeting:
                    self._write_modules(identity, layered([each.content for each in stack]))
            except BenchError as error:  # of what one device cannot take the others hear nothing
                _log.warning("testbench.configurations.refused", twin=str(agent), reason=str(error))
                applied = ()
        marks.applied = applied
        marks.statuses = _statuses(targeting, applied)

    def _write_modules(self, device: Identity, contents: Mapping[str, Mapping[str, Any]]) -> None:
        """Write module twins of a deployment; modules that are not there are registered."""
        agent = contents.get(AGENT, {}).get(_DESIRED, {})
        named = agent.get("modules", {}) if isinstance(agent, Mapping) else {}
        known = {module.module_id for module in self._hub.registry.modules(device.device_id)}
        for module_id in dict.fromkeys([AGENT, HUB, *contents, *named]):
            if module_id not in known:
                self._hub.add_module(device.device_id, module_id, managed_by=MANAGED_BY)
        for module_id, parts in contents.items():
            name = IdentityName(device.device_id, module_id)
            self._write_desired(name, with_parts(self._hub.twin(*name).desired, parts))

    def _write_desired(self, name: IdentityName, desired: Section) -> None:
        patch = replacing_patch(self._hub.twin(*name).desired, desired)
        if patch:
            self._hub.patch_desired(name.device_id, patch, name.module_id)


def layered(contents: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What deployments laid on each other write.

    Args:
        contents: of `modulesContent`, the base first.

    Returns:
        For each module the parts of its twin, a whole section (`properties.desired`) before parts of it. A part of a
        section that is whole is set in it already.
    """
    modules: dict[str, dict[str, Any]] = {}
    for content in contents:
        for module_id, parts in content.items():
            below = modules.get(module_id, {})
            if _DESIRED in parts:
                below = {_DESIRED: parts[_DESIRED]}
            finer = {path: value for path, value in parts.items() if path != _DESIRED}
            if _DESIRED in below:
                modules[module_id] = {_DESIRED: with_parts(below[_DESIRED], finer)}
            else:
                # A part set again goes behind parts of it that were set before, or they would outlive it.
                modules[module_id] = {path: value for path, value in below.items() if path not in finer} | finer
    return modules


def with_parts(section: Mapping[str, Value], parts: Mapping[str, Any]) -> Section:
    """Desired properties after parts of them were set.

    Args:
        section: before.
        parts: values by paths, `properties.desired` for all of it, `properties.desired.a.b` for what is below.
    """
    changed: Section = dict(section)
    for path, value in parts.items():
        steps = path.split(".")[2:]
        if not steps:
            changed = dict(value)
            continue
        at = changed
        for step in steps[:-1]:
            below = at.get(step)
            at[step] = below = dict(below) if isinstance(below, Mapping) else {}
            at = below
        at[steps[-1]] = value
    return changed


def check_queries(target_condition: str, metrics: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What is wrong with a configuration's condition, and with its metrics by their names; empty if nothing."""
    condition_error, metric_errors = "", {}
    try:
        parse_condition(target_condition, "targetCondition")
    except QueryRefused as error:
        condition_error = str(error)
    for name, text in metrics.items():
        try:
            parse_query(text)
        except QueryRefused as error:
            metric_errors[name] = str(error)
    return condition_error, metric_errors


def _read(configuration_id: str, document: Any, created_ns: int, updated_ns: int) -> Configuration:
    if not _ID.fullmatch(configuration_id):
        raise _refused("not a configuration's id", configuration_id, "Use 1 to 128 lower-case letters, digits and -")
    if not isinstance(document, Mapping):
        raise _refused("not a JSON object", configuration_id)
    kind, content = _read_content(document.get("content"), configuration_id)
    condition_text = document.get("targetCondition") or ""
    priority = document.get("priority") or 0
    labels = document.get("labels") or {}
    metrics = document.get("metrics") or {}
    queries = metrics.get("queries") or {} if isinstance(metrics, Mapping) else None
    if not isinstance(condition_text, str) or not _is_texts(labels) or not _is_texts(queries):
        raise _refused("targetCondition is a text, labels and metrics are objects of texts", configuration_id)
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority < 2**31:
        raise _refused(f"priority {priority!r}", configuration_id, "Use 0 or more, higher wins")
    condition = parse_condition(condition_text, "targetCondition")
    wanted = Collection.MODULES if kind == "moduleContent" else Collection.DEVICES
    if condition_text and condition.collection is not wanted:
        raise _refused(f"{kind} is for {wanted.value}", configuration_id, "Write FROM devices.modules WHERE ...")
    for text in queries.values():
        parse_query(text)
    configuration = Configuration(
        configuration_id,
        kind,
        content,
        condition_text,
        condition,
        priority,
        dict(labels),
        dict(queries),
        created_ns,
        updated_ns,
        "",
    )
    if configuration.is_base:
        _check_manifest(content, configuration_id)
    return configuration


def _read_content(content: Any, where: str) -> tuple[str, dict[str, Any]]:
    kinds = [kind for kind in _KINDS if content.get(kind)] if isinstance(content, Mapping) else []
    if len(kinds) != 1:
        raise _refused("the content is not of one kind", where, f"Use one of {', '.join(_KINDS)}")
    inner = content[kinds[0]]
    by_twin = inner if kinds[0] == "modulesContent" else {"": inner}
    if not isinstance(by_twin, Mapping):
        raise _refused("the content is not a JSON object", where)
    for parts in by_twin.values():
        if not isinstance(parts, Mapping) or not all(_is_part(path, value) for path, value in parts.items()):
            raise _refused("the content has other keys than parts of twins", where, "Use properties.desired.name")
    return kinds[0], dict(inner)


def _check_manifest(modules_content: Mapping[str, Any], where: str) -> None:
    from edge_gateway.testbench.cloud.edge.deployment_manifest import parse_manifest  # its models: up to 3 MiB

    parse_manifest({"modulesContent": modules_content}, where)


def _is_part(path: str, value: Any) -> bool:
    steps = path.split(".")
    return steps[:2] == ["properties", "desired"] and all(steps) and (len(steps) > 2 or isinstance(value, Mapping))


def _system_queries(configuration: Configuration) -> dict[str, str]:
    marked = f"configurations.[[{configuration.configuration_id}]].status"
    collection = "devices.modules" if configuration.kind != "deviceContent" else "devices"
    queries = {
        "targetedCount": f"SELECT deviceId FROM {collection} WHERE is_defined({marked})",  # noqa: S608  # an id was checked
        "appliedCount": f"SELECT deviceId FROM {collection} WHERE {marked} = 'Applied'",  # noqa: S608  # an id was checked
    }
    if configuration.kind == "modulesContent":
        reported = (
            f"SELECT deviceId FROM devices.modules WHERE moduleId = '{AGENT}' AND {marked} = 'Applied' "  # noqa: S608  # as above
            "AND properties.desired.$version = properties.reported.lastDesiredVersion "
            "AND properties.reported.lastDesiredStatus.code"
        )
        queries["reportedSuccessfulCount"] = f"{reported} = 200"
        queries["reportedFailedCount"] = f"{reported} != 200"
    return queries


def _versions(configurations: Iterable[Configuration]) -> tuple[tuple[str, str], ...]:
    return tuple((each.configuration_id, each.etag) for each in configurations)


def _statuses(targeting: Iterable[Configuration], applied: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    written = {configuration_id for configuration_id, _ in applied}
    return {
        each.configuration_id: {"status": "Applied" if each.configuration_id in written else "Targeted"}
        for each in targeting
    }


def _is_texts(document: Any) -> TypeGuard[Mapping[str, str]]:
    return isinstance(document, Mapping) and all(isinstance(text, str) for text in document.values())


def _is_there(hub: LocalHub, name: IdentityName) -> bool:
    try:
        hub.registry.get(name)
    except IdentityNotFound:
        return False
    return True


def _refused(what: str, where: str, remedy: str = "See the REST reference of IoT Hub") -> DocumentRefused:
    return DocumentRefused(what, where=where, remedy=remedy)
