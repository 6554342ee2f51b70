"""Direct methods: asked by the solution, answered by the device, or not."""

from __future__ import annotations

import asyncio

import pytest

from edge_gateway.records import Value
from edge_gateway.testbench import DeviceNotOnline, MethodTimedOut

from .bench import CONFORMANCE, Bench, soon
from .client import ClientKind, Feature
from .kinds import clients_with

pytestmark = CONFORMANCE


def echo(name: str, payload: Value) -> tuple[int, Value]:
    return 200, {"name": name, "payload": payload}


@clients_with(Feature.METHODS)
async def test_payloads(bench: Bench, kind: ClientKind) -> None:
    """JSON of every kind goes to the method and comes back."""
    device = bench.device()
    payloads: list[Value] = [None, True, 0, -1.5, "Grüße 🌍", "", [], [1, [2]], {}, {"a": {"b": None}}]
    async with bench.client(kind, device) as client:
        await client.answer_methods(["echo"], echo)
        for payload in payloads:
            response = await bench.hub.invoke_method(device.device_id, "echo", payload, connect_timeout_s=10)
            assert response == (200, {"name": "echo", "payload": payload})


@clients_with(Feature.METHODS)
async def test_answers(bench: Bench, kind: ClientKind) -> None:
    """The device's status and payload, of any kind, come back."""
    device = bench.device()
    answers: list[tuple[int, Value]] = [(200, None), (404, "no such method"), (500, {"error": [1]}), (1, 0), (-1, [])]
    waiting = iter(answers)
    async with bench.client(kind, device) as client:
        await client.answer_methods(["status"], lambda _, __: next(waiting))
        for answer in answers:
            assert await bench.hub.invoke_method(device.device_id, "status", connect_timeout_s=10) == answer


@clients_with(Feature.METHODS)
async def test_several_at_once(bench: Bench, kind: ClientKind) -> None:
    """Each of several calls at the same time gets its own answer."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.answer_methods(["a", "b"], echo)
        responses = await asyncio.gather(
            *(
                bench.hub.invoke_method(device.device_id, name, number, connect_timeout_s=10)
                for number, name in enumerate("abab")
            )
        )
    assert [response.payload for response in responses] == [
        {"name": name, "payload": number} for number, name in enumerate("abab")
    ]


@clients_with(Feature.METHODS)
async def test_large_payload(bench: Bench, kind: ClientKind) -> None:
    """A payload of almost 128 KB goes there and back."""
    device = bench.device()
    payload = "x" * (128 * 1024 - 100)
    async with bench.client(kind, device) as client:
        await client.answer_methods(["echo"], lambda _, sent: (200, sent))
        response = await bench.hub.invoke_method(device.device_id, "echo", payload, connect_timeout_s=10)
    assert response == (200, payload)


@clients_with(Feature.METHODS)
async def test_no_answer(bench: Bench, kind: ClientKind) -> None:
    """A method the device does not answer ends at the caller's time limit; the next call is not disturbed."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.answer_methods(["echo", "silent"], lambda name, _: None if name == "silent" else (200, None))
        assert await bench.hub.invoke_method(device.device_id, "echo", connect_timeout_s=10) == (200, None)
        with pytest.raises(MethodTimedOut):
            await bench.hub.invoke_method(device.device_id, "silent", timeout_s=0.1)
        assert await bench.hub.invoke_method(device.device_id, "echo") == (200, None)


@clients_with(Feature.METHODS)
async def test_not_online(bench: Bench, kind: ClientKind) -> None:
    """A device that is away is not online, and one that went is not either."""
    device = bench.device()
    with pytest.raises(DeviceNotOnline):
        await bench.hub.invoke_method(device.device_id, "echo")
    async with bench.client(kind, device) as client:
        await client.answer_methods(["echo"], echo)
        await bench.hub.invoke_method(device.device_id, "echo", connect_timeout_s=10)
    await soon(bench.hub.until(lambda: not bench.hub.is_connected(device.device_id)))
    with pytest.raises(DeviceNotOnline):
        await bench.hub.invoke_method(device.device_id, "echo")


@clients_with(Feature.METHODS)
async def test_lost_on_the_way(bench: Bench, kind: ClientKind) -> None:
    """A device that goes without an answer ends the call."""
    device = bench.device()
    called = asyncio.Event()

    def hang(_: str, __: Value) -> None:
        called.set()

    async with bench.client(kind, device) as client:
        await client.answer_methods(["hang"], hang)
        call = asyncio.create_task(bench.hub.invoke_method(device.device_id, "hang", connect_timeout_s=10))
        await called.wait()
        bench.door.drop_connections(device.device_id)
        with pytest.raises(DeviceNotOnline):
            await call
        await client.lost()
