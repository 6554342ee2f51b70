"""Deployment manifests: what is read from them, and what is said about wrong ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.edge.deployment_manifest import (
    DEFAULT_TIME_TO_LIVE_S,
    MAX_MANIFEST_BYTES,
    MAX_MODULES,
    ManifestRefused,
    load_manifest,
    parse_agent,
    parse_hub,
    parse_manifest,
)
from edge_gateway.testbench.cloud.edge.routes import message_source
from edge_gateway.testbench.cloud.identity import AGENT, HUB

SCHEMA = jsonschema.Draft4Validator(
    json.loads((Path(__file__).parent / "schemas/azure-iot-edge-deployment-2.0.json").read_text())
)


def module(**changes: Any) -> dict[str, Any]:
    """A module as a manifest has it."""
    return {
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"image": "registry.example/sensor:1.0"},
        **changes,
    }


def manifest(**modules: dict[str, Any]) -> dict[str, Any]:
    """A manifest with these modules, each route of which goes up."""
    system = {"type": "docker", "settings": {"image": "registry.example/system:1.5", "createOptions": "{}"}}
    return {
        "modulesContent": {
            AGENT: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
                    "systemModules": {
                        "edgeAgent": system,
                        "edgeHub": {**system, "status": "running", "restartPolicy": "always"},
                    },
                    "modules": modules,
                }
            },
            HUB: {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": {"up": "FROM /messages/* INTO $upstream"},
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 3600},
                }
            },
        }
    }


def desired(document: dict[str, Any], module_id: str) -> dict[str, Any]:
    section: dict[str, Any] = document["modulesContent"][module_id]["properties.desired"]
    return section


@pytest.mark.parametrize(
    "wrap",
    [
        lambda document: document,
        lambda document: {"content": document},
        lambda document: {"id": "base", "content": document, "targetCondition": "deviceId='edge'", "priority": 10},
    ],
    ids=["file", "az", "configuration"],
)
def test_wrappings(wrap: Callable[[Any], Any]) -> None:
    """A manifest is read from whatever tools put around it."""
    checked = parse_manifest(wrap(manifest(sensor=module())))
    assert list(checked.agent.modules) == ["sensor"]
    assert list(checked.desired) == [AGENT, HUB]


def test_whole_module() -> None:
    """Everything a manifest can say about a module is read; what it leaves out has the product's defaults."""
    document = manifest(
        sensor=module(
            version="2.1",
            status="stopped",
            restartPolicy="on-unhealthy",
            imagePullPolicy="never",
            startupOrder=3,
            env={"PORT": {"value": "/dev/ttyS1"}, "BAUD": {"value": 9600}, "FAST": {"value": True}},
        ),
        plain=module(),
    )
    document["modulesContent"]["sensor"] = {"properties.desired": {"period_s": 5}}
    checked = parse_manifest(document)
    sensor, plain = checked.agent.modules["sensor"], checked.agent.modules["plain"]
    assert (sensor.version, sensor.status, sensor.restart_policy) == ("2.1", "stopped", "on-unhealthy")
    assert (sensor.image_pull_policy, sensor.startup_order) == ("never", 3)
    assert sensor.env == {"PORT": "/dev/ttyS1", "BAUD": "9600", "FAST": "true"}
    assert (plain.env, plain.settings.create_options, plain.startup_order) == ({}, {}, 2**32 - 1)
    assert checked.desired["sensor"] == {"period_s": 5}


def test_starting_order() -> None:
    """Modules start by their order and then by name; those without an order come last."""
    modules = {"c": module(startupOrder=1), "b": module(), "a": module(), "d": module(startupOrder=0)}
    assert parse_manifest(manifest(**modules)).agent.starting_order() == ["d", "c", "a", "b"]


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_create_options_in_parts(parts: int) -> None:
    """Options cut into parts are put together again, wherever they were cut."""
    options = {"HostConfig": {"Binds": [f"/dev/ttyS{number}:/dev/ttyS{number}" for number in range(100)]}}
    text = json.dumps(options)
    size = -(-len(text) // parts)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    keys = ["createOptions", *(f"createOptions{number:02}" for number in range(1, parts))]
    settings = {"image": "registry.example/sensor", **dict(zip(keys, pieces, strict=True))}
    checked = parse_manifest(manifest(sensor=module(settings=settings)))
    assert checked.agent.modules["sensor"].settings.create_options == options


def test_routes_and_store() -> None:
    """Routes are ready for messages, and the store's settings are there."""
    document = manifest()
    desired(document, HUB)["routes"] = {
        "alarm": {"route": "FROM /messages/modules/a/outputs/alarm INTO $upstream", "priority": 0, "timeToLiveSecs": 9},
        "rest": "FROM /messages/* INTO $upstream",
    }
    desired(document, HUB)["storeAndForwardConfiguration"]["storeLimits"] = {"maxSizeBytes": 1000}
    hub = parse_manifest(document).hub
    assert [match[1:] for match in hub.routes.matches(message_source("a", "alarm"), {}, {}, b"")] == [(0, 9)]
    assert hub.store_and_forward.time_to_live_s == 3600
    assert hub.store_and_forward.store_limits is not None
    assert hub.store_and_forward.store_limits.max_size_bytes == 1000


def test_store_by_default() -> None:
    """Without settings of its own, the hub keeps messages for two hours."""
    assert parse_hub({"schemaVersion": "1.0", "routes": {}}).store_and_forward.time_to_live_s == DEFAULT_TIME_TO_LIVE_S


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A manifest with one module, `sensor`, changed in place."""
    document = manifest(sensor=module())
    change(document["modulesContent"])
    return document


def agent(modules: dict[str, Any]) -> Any:
    return modules[AGENT]["properties.desired"]


def hub(modules: dict[str, Any]) -> Any:
    return modules[HUB]["properties.desired"]


def sensor(modules: dict[str, Any]) -> Any:
    return agent(modules)["modules"]["sensor"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda all_: sensor(all_).update(restartPolicy="allways"), "`modules.sensor.restartPolicy`: input should be"),
        (lambda all_: sensor(all_).update(restartPolice="always"), "`restartPolice` is not a key here; restartPolicy"),
        (lambda all_: sensor(all_).pop("settings"), "`modules.sensor.settings` is missing"),
        (lambda all_: sensor(all_).update(startupOrder=-1), "`modules.sensor.startupOrder`"),
        (lambda all_: sensor(all_).update(startupOrder="1"), "`modules.sensor.startupOrder`"),
        (lambda all_: sensor(all_).update(env={"A": "b"}), '`modules.sensor.env.A`: not of the form {"value": ...}'),
        (lambda all_: sensor(all_).update(env={"A": {"value": None}}), "`modules.sensor.env.A`"),
        (lambda all_: sensor(all_).update(env={"A.B": {"value": "c"}}), "`modules.sensor.env.A.B`: a name with"),
        (lambda all_: sensor(all_)["settings"].update(image="${MODULES.sensor}"), "a placeholder is left"),
        (lambda all_: sensor(all_)["settings"].update(createOptions="{"), "its text is not JSON"),
        (lambda all_: sensor(all_)["settings"].update(createOptions="[]"), "its text is not a JSON object"),
        (lambda all_: sensor(all_)["settings"].update(createOptions={}), "not JSON as text; generate the manifest"),
        (lambda all_: sensor(all_)["settings"].update(createOptions="{", createOptions02="}"), "do not follow"),
        (lambda all_: sensor(all_)["settings"].update(createOptions="{", createOptions01=1), "is not text"),
        (lambda all_: agent(all_)["modules"].update({"a b": module()}), "`modules.a b`: a name with a character"),
        (lambda all_: agent(all_)["systemModules"].pop("edgeHub"), "`systemModules.edgeHub` is missing"),
        (lambda all_: agent(all_)["systemModules"]["edgeHub"].update(status="stopped"), "`systemModules.edgeHub.stat"),
        (lambda all_: agent(all_)["runtime"].update(type="moby"), "`runtime.type`"),
        (lambda all_: agent(all_).update(modules={f"m{n}": module() for n in range(MAX_MODULES + 1)}), "`modules`"),
        (lambda all_: hub(all_).update(routes=["FROM /* INTO $upstream"]), "`routes`: not an object"),
        (lambda all_: hub(all_).update(routes={"up": "FROM /* TO $upstream"}), "`routes`: route up"),
        (lambda all_: hub(all_).update(routes={"up": {"route": "FROM /* INTO $upstream", "prio": 1}}), "`prio` is not"),
        (lambda all_: hub(all_).update(routes={"up": {"route": "", "priority": 11}}), "`routes`: route up"),
        (lambda all_: hub(all_).update(schemaVersion="1.0", routes={"up": {"route": ""}}), "needs schemaVersion 1.1"),
        (
            lambda all_: hub(all_).update(storeAndForwardConfiguration={}),
            "`storeAndForwardConfiguration.timeToLiveSecs`",
        ),
        (lambda all_: all_.pop(HUB), "$edgeHub missing"),
        (lambda all_: all_.update(sensor={"properties.desired.layer": {}}), "$edgeHub"),
    ],
)
def test_wrong_manifests(change: Callable[[dict[str, Any]], object], text: str) -> None:
    """What is wrong is named by its path, and the manifest refused as a device would."""
    if text == "$edgeHub":
        text = "Keys with more dots belong to layered deployments"
    with pytest.raises(ManifestRefused) as refused:
        parse_manifest(broken(change))
    assert text in str(refused.value)
    assert refused.value.code == 400


def test_everything_wrong_is_told() -> None:
    """All problems of a twin are told at once."""

    def spoil(modules: dict[str, Any]) -> None:
        sensor(modules)["status"] = "on"
        agent(modules)["runtime"]["type"] = "podman"

    with pytest.raises(ManifestRefused) as refused:
        parse_manifest(broken(spoil), "line-3.json")
    assert refused.value.where == "line-3.json.$edgeAgent"
    assert "`modules.sensor.status`" in refused.value.what
    assert "`runtime.type`" in refused.value.what


def test_no_secret_is_told() -> None:
    """Neither errors nor reprs show values of the environment or passwords of registries."""
    secret = "hunter2"
    document = manifest(sensor=module(env={"TOKEN": {"value": secret}}))
    credentials = {"own": {"username": "u", "password": secret, "address": "registry.example"}}
    desired(document, AGENT)["runtime"]["settings"]["registryCredentials"] = credentials
    assert secret not in repr(parse_manifest(document).agent)
    desired(document, AGENT)["modules"]["sensor"]["env"]["TOKEN"] = {"value": [secret]}
    credentials["own"]["password"] = [secret]  # type: ignore[assignment]  # wrong on purpose
    with pytest.raises(ManifestRefused) as refused:
        parse_manifest(document)
    assert secret not in str(refused.value)
    assert "registryCredentials.own.password" in str(refused.value)


@pytest.mark.parametrize(("parse", "known"), [(parse_agent, "1.0 or 1.1"), (parse_hub, "1.0 or 1.1 or 1.2 or 1.3")])
def test_codes_a_device_reports(parse: Callable[[dict[str, Any]], object], known: str) -> None:
    """A twin without a deployment is 417, a schema nobody knows 412, anything else wrong 400."""
    for section, code in [({"$version": 1}, 417), ({"schemaVersion": "2.0"}, 412), ({"schemaVersion": "1.1"}, 400)]:
        with pytest.raises(ManifestRefused) as refused:
            parse(section)  # type: ignore[arg-type]  # mypy takes the values of a literal for objects
        assert refused.value.code == code
        assert code != 412 or known in str(refused.value)


def test_twin_with_version() -> None:
    """Desired properties as a twin has them, with `$version`, are read like those of a manifest."""
    section = desired(manifest(sensor=module()), AGENT)
    assert parse_agent({**section, "$version": 7, "schemaVersion": "1.1.0"}).modules.keys() == {"sensor"}


def test_files(tmp_path: Path) -> None:
    """A manifest is read from a file; a file that holds none is refused with its name and what to do."""
    path = tmp_path / "deployment.json"
    with pytest.raises(ManifestRefused, match=r"deployment\.json: cannot be read"):
        load_manifest(path)
    for content, text in [
        (b"{", "is not JSON"),
        (b"[]", "no modulesContent"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "is larger than"),
        (orjson.dumps({"$schema-template": "4.0.0", **manifest()}), "is a template"),
        (orjson.dumps({"content": {"content": {}}}), "no modulesContent"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ManifestRefused, match=text):
            load_manifest(path)
    path.write_bytes(orjson.dumps(manifest(sensor=module())))
    assert load_manifest(path).agent.starting_order() == ["sensor"]


def paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in a document."""
    return (
        [path, *(inner for key, member in value.items() for inner in paths(member, (*path, key)))]
        if isinstance(value, dict)
        else [path]
    )


RICH = manifest(
    sensor=module(version="1", startupOrder=1, imagePullPolicy="never", env={"A": {"value": 1}}), alarm=module()
)
RICH["modulesContent"]["sensor"] = {"properties.desired": {"period_s": 1}}
DESIRED_OF_SENSOR = ("modulesContent", "sensor", "properties.desired")
strange: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1.5, "", "x", "1.1", "running", [], {}, {"x": 1}, {"value": "x"}, "FROM /* INTO $upstream"]
)


@given(
    st.sampled_from([path for path in paths(RICH) if len(path) > 1 and path[:3] != DESIRED_OF_SENSOR]),
    st.sampled_from(["remove", "replace", "add"]),
    strange,
)
def test_as_strict_as_the_published_schema(path: tuple[str, ...], change: str, value: Any) -> None:
    """Whatever one thing is changed in a manifest: what the published schema refuses is refused here."""
    document = copy.deepcopy(RICH)
    *parents, last = path
    place = document
    for key in parents:
        place = place[key]
    match change:
        case "remove":
            del place[last]
        case "replace":
            place[last] = value
        case _:
            place["x"] = value
    if SCHEMA.is_valid(document):
        return
    with pytest.raises(ManifestRefused):
        parse_manifest(document)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted({key for path in paths(RICH) for key in path})), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(anything)
def test_any_document(document: Any) -> None:
    """Whatever JSON is given, it is read or refused."""
    with suppress(ManifestRefused):
        parse_manifest({"modulesContent": document})
