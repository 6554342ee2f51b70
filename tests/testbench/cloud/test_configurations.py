"""Automatic configurations: whom they are for, which wins, and what deployments laid on each other write."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.edge.deployment_manifest import ManifestRefused
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.cloud.refusals import EtagMismatch
from edge_gateway.testbench.cloud.service.configurations import (
    ConfigurationExists,
    ConfigurationNotFound,
    Configurations,
    layered,
    with_parts,
)
from edge_gateway.testbench.cloud.service.documents import DocumentRefused
from edge_gateway.testbench.cloud.service.query import QueryRefused
from edge_gateway.testbench.cloud.twin import Twin, replacing_patch

from .mqtt_client import connected_client
from .service_peer import Service, service_of

AGENT = IdentityName("edge", "$edgeAgent")


@pytest.fixture
def configurations(hub: LocalHub) -> Configurations:
    return Configurations(hub)


@pytest.fixture
async def service(hub: LocalHub) -> AsyncIterator[Service]:
    async with service_of(hub) as service:
        yield service


def for_devices(parts: dict[str, Any], condition: str = "*", priority: int = 0, **others: Any) -> dict[str, Any]:
    content = {"deviceContent": {f"properties.desired.{path}": value for path, value in parts.items()}}
    return {"content": content, "targetCondition": condition, "priority": priority, **others}


def module(image: str) -> dict[str, Any]:
    return {
        "type": "docker",
        "version": "1.0",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"image": image},
    }


def manifest(modules: dict[str, Any], routes: dict[str, Any]) -> dict[str, Any]:
    """The `modulesContent` of a full deployment."""
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": "agent"}},
            "edgeHub": {
                "type": "docker",
                "status": "running",
                "restartPolicy": "always",
                "settings": {"image": "hub"},
            },
        },
        "modules": modules,
    }
    hub = {"schemaVersion": "1.1", "routes": routes, "storeAndForwardConfiguration": {"timeToLiveSecs": 60}}
    return {"$edgeAgent": {"properties.desired": agent}, "$edgeHub": {"properties.desired": hub}}


def deployment(modules_content: dict[str, Any], priority: int, condition: str = "*") -> dict[str, Any]:
    return {"content": {"modulesContent": modules_content}, "targetCondition": condition, "priority": priority}


def layer(name: str, image: str, priority: int, condition: str = "*") -> dict[str, Any]:
    """A layered deployment that adds a module and its route."""
    content = {
        "$edgeAgent": {f"properties.desired.modules.{name}": module(image)},
        "$edgeHub": {f"properties.desired.routes.{name}": f"FROM /messages/modules/{name}/* INTO $upstream"},
        name: {"properties.desired.settings": {"rate": priority}},
    }
    return deployment(content, priority, condition)


def images(hub: LocalHub, device_id: str = "edge") -> dict[str, str]:
    modules: Any = hub.twin(device_id, "$edgeAgent").desired.get("modules", {})
    return {name: each["settings"]["image"] for name, each in modules.items()}


# Parts of twins


def test_parts_by_priority(hub: LocalHub, configurations: Configurations) -> None:
    """For each part of a twin the highest priority wins, and of equal ones the newest; the rest stays."""
    for device_id in ("d1", "d2"):
        hub.add_device(device_id)
        hub.patch_desired(device_id, {"own": 1, "shared": {"old": 1}})
    hub.patch_tags("d2", {"floor": 2})
    configurations.create("low", for_devices({"shared": {"by": "low"}, "a.b": 1}))
    configurations.create("high", for_devices({"shared": {"by": "high"}}, "tags.floor = 2", 5))
    assert hub.twin("d1").desired == {"own": 1, "shared": {"by": "low"}, "a": {"b": 1}}
    assert hub.twin("d2").desired == {"own": 1, "shared": {"by": "high"}, "a": {"b": 1}}
    configurations.remove("high", None)
    assert hub.twin("d2").desired["shared"] == {"by": "low"}


def test_what_nobody_is_for_stays(hub: LocalHub, configurations: Configurations) -> None:
    """A twin keeps what it got when its configuration goes, and what a solution wrote after it was applied."""
    hub.add_device("d")
    configurations.create("c", for_devices({"a": 1}))
    hub.patch_desired("d", {"a": 2})
    configurations.evaluate()
    assert hub.twin("d").desired == {"a": 2}
    configurations.remove("c", None)
    assert hub.twin("d").desired == {"a": 2}


def test_condition_follows_tags(hub: LocalHub, configurations: Configurations) -> None:
    """A device comes under a configuration when its tags say so, and a new device when it is added."""
    hub.add_device("d")
    configurations.create("c", for_devices({"a": 1}, "tags.on = true"))
    assert hub.twin("d").desired == {}
    hub.patch_tags("d", {"on": True})
    configurations.evaluate()
    assert hub.twin("d").desired == {"a": 1}


async def test_device_hears_once(hub: LocalHub, authority: LocalAuthority, configurations: Configurations) -> None:
    """A connected device hears of what is written, once."""
    async with connected_client(hub, authority, "d") as client:
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        configurations.create("c", for_devices({"a": 1}))
        configurations.evaluate()
        hub.patch_desired("d", {"end": True})
        assert (await client.receive(Publish)).payload == b'{"a":1,"$version":2}'
        assert (await client.receive(Publish)).payload == b'{"end":true,"$version":3}'


def test_modules(hub: LocalHub, configurations: Configurations) -> None:
    """A configuration for modules is for module twins only."""
    hub.add_device("d")
    hub.add_module("d", "m")
    document = {
        "content": {"moduleContent": {"properties.desired": {"a": 1}}},
        "targetCondition": "FROM devices.modules WHERE moduleId = 'm'",
    }
    configurations.create("c", document)
    assert (hub.twin("d", "m").desired, hub.twin("d").desired) == ({"a": 1}, {})
    assert configurations.statuses(IdentityName("d", "m")) == {"c": {"status": "Applied"}}


def test_too_large_for_a_twin(hub: LocalHub, configurations: Configurations) -> None:
    """What a twin cannot take is not written; the configuration is for it, but not applied."""
    hub.add_device("d")
    hub.patch_desired("d", {f"k{number}": "x" * 4000 for number in range(7)})
    configurations.create("c", for_devices({"a": "x" * 4000, "b": "x" * 4000}))
    assert "a" not in hub.twin("d").desired
    assert configurations.statuses(IdentityName("d")) == {"c": {"status": "Targeted"}}


# Deployments


def test_layers_on_a_base(hub: LocalHub, configurations: Configurations) -> None:
    """Layers above the base are laid on it, lowest first; the same module in two layers is the upper one's."""
    hub.add_device("edge", edge=True)
    hub.add_device("plain")
    configurations.create("under", layer("early", "under", 1))
    configurations.create("base", deployment(manifest({"own": module("base")}, {"up": "FROM /* INTO $upstream"}), 5))
    configurations.create("upper", layer("both", "upper", 20))
    configurations.create("lower", layer("both", "lower", 10))
    configurations.create("third", layer("third", "third", 15))
    assert images(hub) == {"own": "base", "both": "upper", "third": "third"}
    routes: Any = hub.twin("edge", "$edgeHub").desired["routes"]
    assert list(routes) == ["up", "both", "third"]
    assert hub.twin("edge", "both").desired == {"settings": {"rate": 20}}
    modules = {module.module_id: module for module in hub.registry.modules("edge")}
    assert set(modules) == {"$edgeAgent", "$edgeHub", "own", "both", "third"}
    assert modules["both"].managed_by == "IotEdge"
    assert hub.registry.modules("plain") == []
    assert configurations.statuses(AGENT) == {
        "under": {"status": "Targeted"},
        "base": {"status": "Applied"},
        "lower": {"status": "Applied"},
        "third": {"status": "Applied"},
        "upper": {"status": "Applied"},
    }


def test_no_base(hub: LocalHub, configurations: Configurations) -> None:
    """A layer without a base does nothing until one comes."""
    hub.add_device("edge", edge=True)
    configurations.create("layer", layer("extra", "extra", 10))
    assert images(hub) == {}
    assert configurations.statuses(AGENT) == {"layer": {"status": "Targeted"}}
    configurations.create("base", deployment(manifest({}, {}), 1))
    assert images(hub) == {"extra": "extra"}


def test_next_base(hub: LocalHub, configurations: Configurations) -> None:
    """Of full deployments the highest is written whole; when it goes, the next takes its place."""
    hub.add_device("edge", edge=True)
    configurations.create("first", deployment(manifest({"a": module("first")}, {}), 1))
    configurations.create("second", deployment(manifest({"b": module("second")}, {}), 2, "deviceId = 'edge'"))
    assert images(hub) == {"b": "second"}
    configurations.remove("second", None)
    assert images(hub) == {"a": "first"}


def test_section_replaces_layers_below(hub: LocalHub, configurations: Configurations) -> None:
    """A whole section in an upper layer replaces what lower ones have set of that module."""
    hub.add_device("edge", edge=True)
    configurations.create("base", deployment({**manifest({}, {}), "m": {"properties.desired": {"base": 1}}}, 1))
    configurations.create("part", deployment({"m": {"properties.desired.part": 2}}, 2))
    assert hub.twin("edge", "m").desired == {"base": 1, "part": 2}
    configurations.create("whole", deployment({"m": {"properties.desired": {"whole": 3}}}, 3))
    assert hub.twin("edge", "m").desired == {"whole": 3}
    configurations.create("last", deployment({"m": {"properties.desired.part": 4}}, 4))
    assert hub.twin("edge", "m").desired == {"whole": 3, "part": 4}


def test_apply_content(hub: LocalHub, configurations: Configurations) -> None:
    """A deployment can be written to one edge device without a configuration."""
    hub.add_device("edge", edge=True)
    hub.add_device("plain")
    configurations.apply_content("edge", {"modulesContent": manifest({"m": module("one")}, {})})
    assert images(hub) == {"m": "one"}
    configurations.apply_content("edge", {"modulesContent": {"m": {"properties.desired": {"a": 1}}}})
    assert hub.twin("edge", "m").desired == {"a": 1}
    for device_id, content in (("plain", {"modulesContent": manifest({}, {})}), ("edge", {"deviceContent": {}})):
        with pytest.raises(DocumentRefused):
            configurations.apply_content(device_id, content)
    broken = manifest({"m": {**module("one"), "colour": "red"}}, {})
    with pytest.raises(ManifestRefused, match="colour"):
        configurations.apply_content("edge", {"modulesContent": broken})


# What is refused


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"content": {}},
        {"content": {"deviceContent": {"properties.desired.a": 1}, "moduleContent": {"properties.desired.a": 1}}},
        {"content": {"deviceContent": {"properties.reported.a": 1}}},
        {"content": {"deviceContent": {"properties.desired": 1}}},
        {"content": {"deviceContent": {"properties.desired.a..b": 1}}},
        {"content": {"modulesContent": {"m": []}}},
        {"content": {"modulesContent": []}},
        for_devices({"a": 1}, priority=-1),
        {**for_devices({"a": 1}), "priority": "high"},
        {**for_devices({"a": 1}), "labels": ["x"]},
        for_devices({"a": 1}, "FROM devices.modules WHERE a = 1"),
    ],
)
def test_refused(configurations: Configurations, document: Any) -> None:
    """What is no configuration is refused, and nothing is kept of it."""
    with pytest.raises(DocumentRefused):
        configurations.create("c", document)
    assert configurations.all() == []


def test_more_that_is_refused(configurations: Configurations) -> None:
    """An id beyond the alphabet, a wrong condition or metric, and a deployment no device could run."""
    with pytest.raises(DocumentRefused):
        configurations.create("Upper", for_devices({"a": 1}))
    with pytest.raises(QueryRefused):
        configurations.create("c", for_devices({"a": 1}, "tags.a ="))
    with pytest.raises(QueryRefused):
        configurations.create("c", for_devices({"a": 1}, metrics={"queries": {"m": "SELECT"}}))
    with pytest.raises(ManifestRefused):
        configurations.create("c", deployment({"$edgeAgent": {"properties.desired": {}}}, 1))


def test_update(hub: LocalHub, configurations: Configurations) -> None:
    """Condition and priority change under the known etag; the content stays for the configuration's life."""
    hub.add_device("d")
    created = configurations.create("c", for_devices({"a": 1}, ""))
    assert hub.twin("d").desired == {}
    with pytest.raises(EtagMismatch):
        configurations.update("c", for_devices({"a": 1}), "AAAAAAAAAAA=")
    with pytest.raises(DocumentRefused, match="content"):
        configurations.update("c", for_devices({"a": 2}), created.etag)
    updated = configurations.update("c", for_devices({"a": 1}), created.etag)
    assert (hub.twin("d").desired, updated.created_ns) == ({"a": 1}, created.created_ns)
    assert updated.etag != created.etag
    with pytest.raises(ConfigurationExists):
        configurations.create("c", for_devices({"a": 1}))
    with pytest.raises(ConfigurationNotFound):
        configurations.update("x", for_devices({"a": 1}), None)


# Over HTTPS


async def test_calls(service: Service) -> None:
    """A configuration is created, read, changed, listed and deleted; its metrics count twins as they are now."""
    hub = service.hub
    for device_id in ("d1", "d2"):
        hub.add_device(device_id)
    document = for_devices(
        {"a": 1},
        "deviceId IN ['d1']",
        3,
        id="c",
        labels={"who": "me"},
        metrics={"queries": {"all": "SELECT deviceId FROM devices"}},
    )
    created = await service.call("PUT", "/configurations/c", document, expect=201)
    assert created["systemMetrics"]["results"] == {"targetedCount": 1, "appliedCount": 1}
    assert created["metrics"]["results"] == {"all": 2}
    assert (created["labels"], created["priority"], created["content"]) == ({"who": "me"}, 3, document["content"])
    assert await service.call("GET", "/configurations/c") == created
    twin = await service.call("GET", "/twins/d1")
    assert twin["configurations"] == {"c": {"status": "Applied"}}
    await service.fails(409, "ConfigurationAlreadyExists", "PUT", "/configurations/c", document)
    changed = await service.call(
        "PUT", "/configurations/c", {**created, "targetCondition": "*"}, headers={"If-Match": created["etag"]}
    )
    assert changed["systemMetrics"]["results"]["appliedCount"] == 2
    assert await service.call("GET", "/configurations?top=20") == [changed]
    old = {"If-Match": f'"{created["etag"]}"'}
    await service.fails(412, "PreconditionFailed", "DELETE", "/configurations/c", headers=old)
    await service.call("DELETE", "/configurations/c", expect=204)
    await service.fails(404, "ConfigurationNotFound", "GET", "/configurations/c")


async def test_deployment_over_https(service: Service) -> None:
    """A deployment reaches edge devices that come later, and what they report counts."""
    base = deployment(manifest({"m": module("one")}, {}), 1, "tags.site = 'Ulm'")
    await service.call("PUT", "/configurations/base", base, expect=201)
    await service.call("PUT", "/devices/edge", {"deviceId": "edge", "capabilities": {"iotEdge": True}})
    assert images(service.hub) == {}
    await service.call("PATCH", "/twins/edge", {"tags": {"site": "Ulm"}})
    assert images(service.hub) == {"m": "one"}
    agent = service.hub.twin("edge", "$edgeAgent")
    agent.patch_reported({"lastDesiredVersion": agent.desired_version, "lastDesiredStatus": {"code": 200}})
    results = (await service.call("GET", "/configurations/base"))["systemMetrics"]["results"]
    assert results == {
        "targetedCount": 1,
        "appliedCount": 1,
        "reportedSuccessfulCount": 1,
        "reportedFailedCount": 0,
    }
    content = {"modulesContent": manifest({"m": module("two")}, {})}
    await service.call("POST", "/devices/edge/applyConfigurationContent", content, expect=204)
    assert images(service.hub) == {"m": "two"}


async def test_check_queries(service: Service) -> None:
    """Conditions and metrics can be checked before they are used."""
    document = {"targetCondition": "tags.a = 1", "customMetricQueries": {"good": "SELECT * FROM devices", "bad": "x"}}
    answer = await service.call("POST", "/configurations/testQueries", document)
    assert answer["targetConditionError"] is None
    assert list(answer["customMetricQueryErrors"]) == ["bad"]
    answer = await service.call("POST", "/configurations/testQueries", {"targetCondition": "tags.a ="})
    assert "targetCondition, character 9" in answer["targetConditionError"]


# Layers alone

NAMES = st.sampled_from(["a", "b", "c"])
SECTIONS = st.dictionaries(NAMES, st.integers(0, 3) | st.dictionaries(NAMES, st.integers(0, 3), max_size=2), max_size=3)
PARTS = st.dictionaries(
    st.lists(NAMES, max_size=2).map(lambda steps: ".".join(["properties", "desired", *steps])), SECTIONS, max_size=3
)


@given(SECTIONS, st.lists(PARTS, max_size=4))
def test_layers_are_parts_in_turn(section: dict[str, Any], contents: list[dict[str, Any]]) -> None:
    """What layers write together is what each would write after the one below it, section first in each."""
    turn: Any = section
    for parts in contents:
        turn = with_parts(turn, dict(sorted(parts.items())))
    together = layered([{"m": dict(sorted(parts.items()))} for parts in contents])
    assert with_parts(section, together.get("m", {})) == turn


@given(SECTIONS, SECTIONS)
def test_replacing_patch(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Merged into the old section, the patch makes the new one; of equal ones there is none."""
    twin = Twin()
    twin.patch_desired(old)
    patch = replacing_patch(old, new)
    twin.patch_desired(patch)
    assert twin.desired == new
    assert bool(patch) is (old != new)


def test_parts_leave_their_section_alone() -> None:
    """Setting parts changes a copy."""
    section: dict[str, Any] = {"a": {"b": 1}}
    assert with_parts(section, {"properties.desired.a.c": 2}) == {"a": {"b": 1, "c": 2}}
    assert section == {"a": {"b": 1}}


def test_many_devices_are_quick(hub: LocalHub, configurations: Configurations) -> None:
    """A configuration for every third of some hundred devices writes to those and no others."""
    rng = random.Random(1)
    chosen = {f"d{number}" for number in range(300) if rng.random() < 1 / 3}
    for number in range(300):
        hub.add_device(f"d{number}")
        hub.patch_tags(f"d{number}", {"chosen": f"d{number}" in chosen})
    configurations.create("c", for_devices({"a": 1}, "tags.chosen = true"))
    assert {device_id for device_id in hub.device_ids if hub.twin(device_id).desired} == chosen
