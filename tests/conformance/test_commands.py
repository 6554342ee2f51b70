"""Cloud-to-device messages: in order, until they are confirmed, over any number of connections."""

from __future__ import annotations

from dataclasses import replace

from edge_gateway.testbench.cloud.cloud_messages import DeliveryState, Outcome

from .bench import CONFORMANCE, TEXTS, Bench
from .client import ClientKind, Ending, Feature
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.COMMANDS)
async def test_before_connect(bench: Bench, kind: ClientKind) -> None:
    """What was sent while the device was away reaches it, in order, and is done."""
    device = bench.device()
    sent = [bench.hub.send_c2d(device.device_id, str(number).encode()) for number in range(3)]
    async with bench.client(kind, device) as client:
        commands = await client.commands()
        assert [(await commands.get()).body for _ in sent] == [b"0", b"1", b"2"]
        for command in sent:
            await command.completed()


@clients_with(Feature.COMMANDS)
async def test_while_connected(bench: Bench, kind: ClientKind) -> None:
    """A message to a device that listens reaches it, and is done once."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        commands = await client.commands()
        sent = bench.hub.send_c2d(device.device_id, "Grüße 🌍".encode())
        assert (await commands.get()).body == "Grüße 🌍".encode()
        await sent.completed()
        assert commands.empty()
    assert sent.state is DeliveryState.COMPLETED


@clients_with(Feature.COMMANDS)
async def test_plain_properties(bench: Bench, kind: ClientKind) -> None:
    """Properties and the message's id reach the device, the wish for feedback among them."""
    device = bench.device()
    properties = {"action": "restart", "in_s": "5+1!#$&'*-.^_`|~", "iothub-ack": "full"}
    bench.hub.send_c2d(device.device_id, b"{}", properties, message_id="id-1:2")
    async with bench.client(kind, device) as client:
        command = await (await client.commands()).get()
    assert properties.items() <= command.properties.items()
    assert command.system["message-id"] == "id-1:2"


@clients_with(Feature.COMMANDS, Feature.TEXT)
async def test_text_properties(bench: Bench, kind: ClientKind) -> None:
    """Any text reaches the device as it was, in a property's name and in its value."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        commands = await client.commands()
        for text in (*TEXTS, ""):
            bench.hub.send_c2d(device.device_id, b"{}", {"value": text, f"name {text}": "1"})
            assert (await commands.get()).properties == {"value": text, f"name {text}": "1"}


@clients_with(Feature.COMMANDS)
async def test_large(bench: Bench, kind: ClientKind) -> None:
    """A message of almost 64 KB reaches the device whole."""
    device = bench.device()
    body = b"0123456789abcdef" * 4095
    bench.hub.send_c2d(device.device_id, body, {"line": "7"})
    async with bench.client(kind, device) as client:
        assert (await (await client.commands()).get()).body == body


@clients_with(Feature.COMMANDS, Feature.NULL)
async def test_no_value(bench: Bench, kind: ClientKind) -> None:
    """A property without a value is told apart from one with an empty value."""
    device = bench.device()
    bench.hub.send_c2d(device.device_id, b"{}", {"none": None, "empty": ""})
    async with bench.client(kind, device) as client:
        command = await (await client.commands()).get()
    assert command.properties == {"none": None, "empty": ""}


@clients_with(Feature.COMMANDS, Feature.CONNECTION)
async def test_unconfirmed(bench: Bench, kind: ClientKind) -> None:
    """A message whose confirmation the hub did not get is sent again on the next connection."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        commands = await client.commands()
        listening = bench.hub.send_c2d(device.device_id, b"first")
        assert (await commands.get()).body == b"first"
        await listening.completed()
        sent = bench.hub.send_c2d(device.device_id, b"again")
        bench.door.freeze(True)  # in the same step of the event loop: it is sent, and no answer is read
        try:
            assert (await commands.get()).body == b"again"
            bench.door.drop_connections(device.device_id)
        finally:
            bench.door.freeze(False)
        await client.lost()
    assert sent.state is DeliveryState.QUEUED
    async with bench.unconnected(kind, device) as client:
        commands = await client.commands()
        await client.connect()
        assert (await commands.get()).body == b"again"
        await sent.completed()
        assert commands.empty()


@clients_with(Feature.COMMANDS, Feature.SESSION)
async def test_kept_session(bench: Bench, kind: ClientKind) -> None:
    """The subscription of a session that is kept holds over connections; what was sent in between is not lost."""
    device = replace(bench.device(), keeps_session=True)
    async with bench.client(kind, device) as client:
        await client.commands()
    sent = bench.hub.send_c2d(device.device_id, b"in between")
    async with bench.unconnected(kind, device) as client:
        commands = await client.commands()
        await client.connect()
        assert (await commands.get()).body == b"in between"
        await sent.completed()
        assert commands.empty()


@clients_with(Feature.COMMANDS, Feature.SETTLING)
async def test_turned_down(bench: Bench, kind: ClientKind) -> None:
    """A message a device does not want is over, and its sender hears of it."""
    device = bench.device()
    sent = bench.hub.send_c2d(device.device_id, b"[1]", message_id="1", ack="full")
    async with bench.client(kind, device) as client:
        commands = await client.commands(Ending.REJECT)
        assert (await commands.get()).body == b"[1]"
        await sent.completed()
    assert sent.outcome is Outcome.REJECTED
    [record] = [each for each in bench.hub.feedback if each.device_id == device.device_id]
    assert (record.original_message_id, record.outcome) == ("1", Outcome.REJECTED)


@clients_with(Feature.COMMANDS, Feature.SETTLING)
async def test_put_back(bench: Bench, kind: ClientKind) -> None:
    """A message a device puts back comes again, ten times in all."""
    device = bench.device()
    sent = bench.hub.send_c2d(device.device_id, b"[1]")
    async with bench.client(kind, device) as client:
        commands = await client.commands(Ending.ABANDON)
        for _ in range(10):
            assert (await commands.get()).body == b"[1]"
        await sent.completed()
    assert sent.outcome is Outcome.DELIVERY_COUNT_EXCEEDED
    assert commands.empty()
