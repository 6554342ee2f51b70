"""Telemetry: what was sent arrives, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from .bench import CONFORMANCE, TEXTS, Bench
from .client import ClientKind, Feature, Lost, Message, Refused
from .kinds import clients_with

pytestmark = CONFORMANCE

LARGEST_BYTES = 256 * 1024
"""Of a message, body and properties together."""
PLAIN = "%41!#$&'*+-.^_`|~"
ROOM_BYTES = 1024
"""What the Python SDK keeps free below it: it counts Python's objects, not bytes."""


@clients_with()
async def test_body(bench: Bench, kind: ClientKind) -> None:
    """Any body arrives byte for byte, also none."""
    device = bench.device()
    bodies = [b"[1.5]", b"", bytes(range(256)), "Grüße 🌍".encode()]
    async with bench.client(kind, device) as client:
        for body in bodies:
            await client.send(Message(body))
    assert [message.body for message in bench.telemetry(device)] == bodies


@clients_with()
async def test_plain_properties(bench: Bench, kind: ClientKind) -> None:
    """Names and values of the characters that are allowed on every way arrive, each once."""
    properties = {"line": "7", "unit-of.value_1": "mm-per-s", PLAIN: "name", "value": PLAIN}
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send(Message(b"{}", properties))
    [message] = bench.telemetry(device)
    assert message.properties == properties


@clients_with(Feature.TEXT)
async def test_text_properties(bench: Bench, kind: ClientKind) -> None:
    """Any text arrives as it was, in a property's name and in its value."""
    device = bench.device()
    sent = [{"value": text, text: "name", "after": "1"} for text in TEXTS]
    async with bench.client(kind, device) as client:
        for properties in sent:
            await client.send(Message(b"{}", properties))
    assert [message.properties for message in bench.telemetry(device)] == sent


@clients_with(Feature.TEXT)
async def test_empty_value(bench: Bench, kind: ClientKind) -> None:
    """A property with an empty value has one."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send(Message(b"{}", {"empty": "", "after": "1"}))
    [message] = bench.telemetry(device)
    assert message.properties == {"empty": "", "after": "1"}


@clients_with()
async def test_system_properties(bench: Bench, kind: ClientKind) -> None:
    """System properties arrive by their long names and stay out of the application's."""
    system = {
        "message-id": "id-1:2",
        "correlation-id": "order.3",
        "user-id": "worker_4",
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send(Message(b"{}", {"line": "7"}, system))
    [message] = bench.telemetry(device)
    assert message.properties == {"line": "7"}
    assert message.message_id == "id-1:2"
    assert system.items() <= message.system_properties.items()


@clients_with()
async def test_stamps(bench: Bench, kind: ClientKind) -> None:
    """The hub says who sent a message, and by which kind of proof."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send(Message(b"{}", {}, {"message-id": "1"}))
    [message] = bench.telemetry(device)
    assert message.system_properties["iothub-connection-device-id"] == device.device_id
    assert (
        message.system_properties["iothub-connection-auth-generation-id"]
        == bench.hub.identity(device.device_id).generation_id
    )
    assert '"scope":"device"' in message.system_properties["iothub-connection-auth-method"]


@clients_with(Feature.MODEL)
async def test_model(bench: Bench, kind: ClientKind) -> None:
    """The hub notes on each message which model the device says it is a kind of."""
    device = replace(bench.device(), model_id="dtmi:com:example:sensor;1")
    async with bench.client(kind, device) as client:
        await client.send(Message(b"{}"))
    [message] = bench.telemetry(device)
    assert message.system_properties["dt-dataschema"] == "dtmi:com:example:sensor;1"


@clients_with(Feature.BATCH)
async def test_batch(bench: Bench, kind: ClientKind) -> None:
    """Messages sent as one arrive each for itself, with their properties."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send_batch([Message(b"1", {"a": "1"}), Message(bytes(range(256))), Message(b"", {"b": "2"})])
    assert [(message.body, message.properties) for message in bench.telemetry(device)] == [
        (b"1", {"a": "1"}),
        (bytes(range(256)), {}),
        (b"", {"b": "2"}),
    ]


@clients_with(Feature.CONNECTION)
async def test_many_at_once(bench: Bench, kind: ClientKind) -> None:
    """Messages sent at the same time all arrive, once each."""
    device = bench.device()
    bodies = [str(number).encode() for number in range(100)]
    async with bench.client(kind, device) as client:
        await asyncio.gather(*(client.send(Message(body)) for body in bodies))
    assert sorted(message.body for message in bench.telemetry(device)) == sorted(bodies)


@clients_with()
async def test_large(bench: Bench, kind: ClientKind) -> None:
    """A message of almost the largest size arrives."""
    body = bytes(LARGEST_BYTES - ROOM_BYTES)
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.send(Message(body, {"line": "7"}))
    [message] = bench.telemetry(device)
    assert message.body == body


@clients_with()
async def test_too_large(bench: Bench, kind: ClientKind) -> None:
    """A message above the largest size does not arrive, and whoever sends it is told."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        with pytest.raises((Refused, Lost)):
            await client.send(Message(bytes(LARGEST_BYTES + 1)))
    assert not bench.telemetry(device)
