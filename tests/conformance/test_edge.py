"""An edge device: its modules, and devices behind it, have its edge hub in the place of IoT Hub."""

from __future__ import annotations

from .bench import CONFORMANCE, Bench, soon
from .client import Access, Client, ClientKind, Feature, Message
from .edge_bench import RECEIVER, SENDER, running_edge
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.MODULE)
async def test_up(bench: Bench, kind: ClientKind) -> None:
    """What a module sends by an output that is routed up arrives at the hub as the module's."""
    async with running_edge(bench) as edge:
        module = edge.module(SENDER)
        async with bench.client(kind, module) as client:
            await client.send_output("up", Message(b"[1]", {"a": "b", "last": "c d"}, {"message-id": "1"}))
        await _received(bench, module)
    [message] = bench.telemetry(module)
    assert (message.body, message.properties, message.message_id) == (b"[1]", {"a": "b", "last": "c d"}, "1")
    assert message.system_properties["iothub-connection-module-id"] == SENDER


@clients_with(Feature.MODULE, Feature.INPUTS)
async def test_across(bench: Bench, kind: ClientKind) -> None:
    """What is routed to another module's input gets there, with all its properties, once it listens."""
    async with running_edge(bench) as edge, bench.client(kind, edge.module(SENDER)) as sender:
        sent = Message(b"[1]", {"a": "b", "text": "Grüße & more"}, {"message-id": "1", "content-type": "text/plain"})
        await sender.send_output("across", sent)
        async with bench.client(kind, edge.module(RECEIVER)) as receiver:
            name, message = await (await receiver.inputs()).get()
    assert name == "from-sender"
    assert message.body == sent.body
    assert sent.properties.items() <= message.properties.items()
    assert sent.system.items() <= message.system.items()


@clients_with(Feature.EDGE)
async def test_environment(bench: Bench, kind: ClientKind) -> None:
    """A module that has nothing but its environment sends, has a twin, and answers and calls methods."""
    async with (
        running_edge(bench) as edge,
        bench.client(kind, edge.deployed_module(SENDER)) as sender,
        bench.client(kind, edge.deployed_module(RECEIVER)) as receiver,
    ):
        await sender.send_output("up", Message(b"[1]"))
        await _received(bench, edge.module(SENDER))
        await _has_a_twin(bench, edge.module(SENDER), sender)
        await receiver.answer_methods(["ping"], lambda _, payload: (201, {"echo": payload}))
        device_id = edge.host.device_id
        response = await bench.hub.invoke_method(device_id, "ping", [0], module_id=RECEIVER, connect_timeout_s=10)
        assert response == (201, {"echo": [0]})
        assert await sender.call(device_id, RECEIVER, "ping", [1]) == (201, {"echo": [1]})


@clients_with(Feature.MODULE, Feature.TWIN, Feature.DESIRED)
async def test_twin(bench: Bench, kind: ClientKind) -> None:
    """A module's twin is reached through the edge hub."""
    async with running_edge(bench) as edge, bench.client(kind, edge.module(SENDER)) as client:
        await _has_a_twin(bench, edge.module(SENDER), client)


@clients_with(Feature.MODULE, Feature.CONNECTION)
async def test_offline(bench: Bench, kind: ClientKind) -> None:
    """What is sent while the edge device has no way to the hub arrives when it has one, in order."""
    bodies = [str(number).encode() for number in range(5)]
    async with running_edge(bench) as edge:
        module = edge.module(SENDER)
        edge.host.go_offline()
        async with bench.client(kind, module) as client:
            for body in bodies:
                await client.send_output("up", Message(body))
        assert not bench.telemetry(module)
        edge.host.go_online()
        await _received(bench, module, len(bodies))
    assert [message.body for message in bench.telemetry(module)] == bodies


@clients_with(Feature.CONNECTION, Feature.COMMANDS, Feature.TWIN, Feature.METHODS)
async def test_device_behind_it(bench: Bench, kind: ClientKind) -> None:
    """A device that is told of the gateway does all it could do at the hub."""
    async with running_edge(bench) as edge:
        device = edge.device()
        async with bench.client(kind, device) as client:
            await client.send(Message(b"[1]", {"a": "b"}))
            await _received(bench, device)
            await _has_a_twin(bench, device, client)
            commands = await client.commands()
            bench.hub.send_c2d(device.device_id, b"hello")
            assert (await commands.get()).body == b"hello"
            await client.answer_methods(["ping"], lambda _, payload: (200, payload))
            response = await bench.hub.invoke_method(device.device_id, "ping", [1], connect_timeout_s=10)
            assert response == (200, [1])
    [message] = bench.telemetry(device)
    assert (message.body, message.properties) == (b"[1]", {"a": "b"})


async def _received(bench: Bench, sender: Access, count: int = 1) -> None:
    await soon(bench.hub.until(lambda: len(bench.telemetry(sender)) >= count))


async def _has_a_twin(bench: Bench, access: Access, client: Client) -> None:
    twin = bench.hub.twin(access.device_id, access.module_id)
    patches = await client.desired_patches()
    bench.hub.patch_desired(access.device_id, {"a": 1}, access.module_id)
    assert (await patches.get())["a"] == 1
    assert (await client.twin())["desired"]["a"] == 1
    await client.report({"b": 2})
    await soon(bench.hub.until(lambda: twin.reported == {"b": 2}))
