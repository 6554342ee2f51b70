"""Module identities: a second level below the device, with telemetry, twin and methods of their own."""

from __future__ import annotations

from dataclasses import replace

from .bench import CONFORMANCE, Bench
from .client import ClientKind, Feature, Message
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.MODULE)
async def test_telemetry(bench: Bench, kind: ClientKind) -> None:
    """A module's messages are the module's, and not its device's."""
    module = bench.module()
    async with bench.client(kind, module) as client:
        await client.send(Message(b"[1]", {"a": "b"}, {"message-id": "1"}))
    [message] = bench.telemetry(module)
    assert (message.body, message.properties, message.message_id) == (b"[1]", {"a": "b"}, "1")
    assert message.system_properties["iothub-connection-device-id"] == module.device_id
    assert message.system_properties["iothub-connection-module-id"] == module.module_id
    assert '"scope":"module"' in message.system_properties["iothub-connection-auth-method"]
    assert not bench.telemetry(replace(module, module_id=""))


@clients_with(Feature.MODULE)
async def test_output(bench: Bench, kind: ClientKind) -> None:
    """A message by an output names it, and its properties are whole to the last."""
    module = bench.module()
    async with bench.client(kind, module) as client:
        await client.send_output("alerts", Message(b"[1]", {"a": "b", "last": "c d"}))
    [message] = bench.telemetry(module)
    assert message.system_properties["output-name"] == "alerts"
    assert message.properties == {"a": "b", "last": "c d"}


@clients_with(Feature.MODULE, Feature.TWIN)
async def test_twin(bench: Bench, kind: ClientKind) -> None:
    """A module has a twin of its own."""
    module = bench.module()
    bench.hub.patch_desired(module.device_id, {"whose": "device"})
    bench.hub.patch_desired(module.device_id, {"whose": "module"}, module.module_id)
    async with bench.client(kind, module) as client:
        assert (await client.twin())["desired"] == {"whose": "module", "$version": 2}
        await client.report({"from": "module"})
    assert bench.hub.twin(module.device_id, module.module_id).reported == {"from": "module"}
    assert bench.hub.twin(module.device_id).reported == {}


@clients_with(Feature.MODULE, Feature.DESIRED)
async def test_desired_patches(bench: Bench, kind: ClientKind) -> None:
    """A module hears of changes to its own desired properties only."""
    module = bench.module()
    async with bench.client(kind, module) as client:
        patches = await client.desired_patches()
        bench.hub.patch_desired(module.device_id, {"whose": "device"})
        bench.hub.patch_desired(module.device_id, {"whose": "module"}, module.module_id)
        assert await patches.get() == {"whose": "module", "$version": 2}


@clients_with(Feature.MODULE, Feature.METHODS)
async def test_method(bench: Bench, kind: ClientKind) -> None:
    """A module answers its own methods."""
    module = bench.module()
    async with bench.client(kind, module) as client:
        await client.answer_methods(["ping"], lambda _, payload: (200, payload))
        response = await bench.hub.invoke_method(
            module.device_id, "ping", [1], module_id=module.module_id, connect_timeout_s=10
        )
    assert response == (200, [1])


@clients_with(Feature.MODULE, Feature.CONNECTION)
async def test_beside_its_device(bench: Bench, kind: ClientKind) -> None:
    """A module and its device are connected at the same time."""
    module = bench.module()
    device = replace(module, module_id="", key=bench.hub.identity(module.device_id).primary_key)
    async with bench.client(kind, device) as one, bench.client(kind, module) as other:
        await one.send(Message(b"device"))
        await other.send(Message(b"module"))
    assert [message.body for message in bench.telemetry(device)] == [b"device"]
    assert [message.body for message in bench.telemetry(module)] == [b"module"]


@clients_with(Feature.MODULE)
async def test_key_of_the_device(bench: Bench, kind: ClientKind) -> None:
    """A module's own key is wanted, and not its device's."""
    module = bench.module()
    device_key = bench.hub.identity(module.device_id).primary_key
    await bench.turns_away(kind, replace(module, key=device_key))
