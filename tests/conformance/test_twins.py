"""Device twins: both sections and their versions, seen from the device."""

from __future__ import annotations

import pytest

from edge_gateway.records import Value

from .bench import CONFORMANCE, Bench
from .client import ClientKind, Feature, Refused
from .kinds import clients_with

pytestmark = CONFORMANCE

BEYOND_A_LIMIT: dict[str, Value] = {
    "dot in a name": {"not.allowed": 1},
    "space in a name": {"not allowed": 1},
    "dollar in a name": {"$not": 1},
    "long name": {"x" * 1025: 1},
    "long text": {"a": "x" * 4097},
    "large integer": {"a": 2**52 + 1},
    "large section": {f"a{number}": "x" * 4096 for number in range(9)},
    "deep": {"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": {"9": {"10": {"11": 1}}}}}}}}}}},
}


@clients_with(Feature.TWIN)
async def test_new_twin(bench: Bench, kind: ClientKind) -> None:
    """A new device's twin is empty, and its sections have version 1."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        assert await client.twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}


@clients_with(Feature.TWIN)
async def test_values(bench: Bench, kind: ClientKind) -> None:
    """Values of every kind come from the solution to the device as they are, and back."""
    device = bench.device()
    values: dict[str, Value] = {
        "text": "Grüße 🌍",
        "empty": "",
        "integer": 2**52,
        "negative": -7,
        "fraction": 0.5,
        "flag": False,
        "list": [1, "two", {"three": 3}],
        "nested": {"a": {"b": {"c": True}}},
    }
    bench.hub.patch_desired(device.device_id, values)
    async with bench.client(kind, device) as client:
        assert (await client.twin())["desired"] == {**values, "$version": 2}
        await client.report(values)
        assert (await client.twin())["reported"] == {**values, "$version": 2}
    assert bench.hub.twin(device.device_id).reported == values


@clients_with(Feature.TWIN)
async def test_reported_patches(bench: Bench, kind: ClientKind) -> None:
    """Patches merge, null deletes, and each counts the version on."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.report({"a": 1, "deep": {"b": 2, "c": 3}})
        await client.report({"a": None, "deep": {"b": 4, "d": [5]}})
        assert (await client.twin())["reported"] == {"deep": {"b": 4, "c": 3, "d": [5]}, "$version": 3}


@clients_with(Feature.TWIN)
async def test_refused(bench: Bench, kind: ClientKind) -> None:
    """A patch beyond a limit is refused and changes nothing; the connection stays."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.report({"a": 1})
        for why, patch in BEYOND_A_LIMIT.items():
            with pytest.raises(Refused):
                await client.report(patch)
            assert (await client.twin())["reported"] == {"a": 1, "$version": 2}, why


@clients_with(Feature.DESIRED)
async def test_desired_patches(bench: Bench, kind: ClientKind) -> None:
    """Changes of the desired properties reach a device that listens, in order, each with its version."""
    device = bench.device()
    bench.hub.patch_desired(device.device_id, {"before": 1})
    async with bench.client(kind, device) as client:
        patches = await client.desired_patches()
        bench.hub.patch_desired(device.device_id, {"period_s": 5, "deep": {"b": "Grüße"}})
        bench.hub.patch_desired(device.device_id, {"period_s": None})
        assert await patches.get() == {"period_s": 5, "deep": {"b": "Grüße"}, "$version": 3}
        assert await patches.get() == {"period_s": None, "$version": 4}


@clients_with(Feature.DESIRED)
async def test_replaced(bench: Bench, kind: ClientKind) -> None:
    """A solution that puts other desired properties in place of all sends the device the whole of them."""
    device = bench.device()
    bench.hub.patch_desired(device.device_id, {"old": 1, "kept": {"a": 1, "b": 2}})
    async with bench.client(kind, device) as client:
        patches = await client.desired_patches()
        bench.hub.replace_desired(device.device_id, {"kept": {"a": 1}, "new": [3]})
        assert await patches.get() == {"kept": {"a": 1}, "new": [3], "$version": 3}


@clients_with(Feature.DESIRED, Feature.TWIN)
async def test_all_at_once(bench: Bench, kind: ClientKind) -> None:
    """A device that asks, reports and is patched at the same time mixes up nothing."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        patches = await client.desired_patches()
        for number in range(1, 6):
            bench.hub.patch_desired(device.device_id, {"wanted": number})
            await client.report({"seen": number})
            twin = await client.twin()
            assert twin["desired"] == {"wanted": number, "$version": number + 1}
            assert twin["reported"] == {"seen": number, "$version": number + 1}
        assert [(await patches.get())["wanted"] for _ in range(5)] == [1, 2, 3, 4, 5]
