"""What happens over the life of a connection: its token ends, it is lost, it is made again."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from edge_gateway.records import Value

from .bench import CONFORMANCE, Bench
from .by_hand import token
from .client import Access, Client, ClientKind, Feature, Inbox, Message
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.CONNECTION, by_websocket=False)
async def test_token_end(bench: Bench, kind: ClientKind) -> None:
    """The hub drops a connection when its token has ended."""
    device = bench.device()
    ends_soon = token(f"{device.hub_name}/devices/{device.device_id}", device.key, lifetime_s=1.5)
    async with bench.client(kind, replace(device, key="", token=ends_soon)) as client:
        await client.send(Message(b"before"))
        await client.lost()
    assert [message.body for message in bench.telemetry(device)] == [b"before"]


@clients_with(Feature.RENEWAL, by_websocket=False)
async def test_token_renewal(bench: Bench, kind: ClientKind) -> None:
    """A client renews its token in time by connecting again, and listens on to all it listened to."""
    device = replace(bench.device(), token_lifetime_s=kind.soon_renewed_s)
    async with bench.client(kind, device) as client:
        ears = await _listening(bench, device, client)
        before = bench.hub.statistics.connections
        await bench.hub.until(lambda: bench.hub.statistics.connections > before)
        await _listens_on(bench, device, client, ears)


@clients_with(Feature.RETURN)
async def test_return(bench: Bench, kind: ClientKind) -> None:
    """A client that was cut off comes back by itself, and listens on to all it listened to."""
    device = replace(bench.device(), returns=True)
    async with bench.client(kind, device) as client:
        ears = await _listening(bench, device, client)
        bench.door.drop_connections(device.device_id)
        await _listens_on(bench, device, client, ears)


class _Ears(NamedTuple):
    commands: Inbox[Message]
    patches: Inbox[dict[str, Value]]


async def _listening(bench: Bench, device: Access, client: Client) -> _Ears:
    """Subscribe to everything there is, and wait until all of it is in force."""
    ears = _Ears(await client.commands(), await client.desired_patches())
    await client.twin()
    await client.answer_methods(["ping"], lambda _, __: (200, "pong"))
    assert await bench.hub.invoke_method(device.device_id, "ping", connect_timeout_s=10) == (200, "pong")
    command = bench.hub.send_c2d(device.device_id, b"there?")
    assert (await ears.commands.get()).body == b"there?"
    await command.completed()
    return ears


async def _listens_on(bench: Bench, device: Access, client: Client, ears: _Ears) -> None:
    """Nothing that the SDKs count on is missing in the session the hub has kept; they do not subscribe again."""
    assert await bench.hub.invoke_method(device.device_id, "ping", connect_timeout_s=20) == (200, "pong")
    bench.hub.send_c2d(device.device_id, b"still there?")
    assert (await ears.commands.get()).body == b"still there?"
    await client.report({"b": 2})
    assert (await client.twin())["reported"] == {"b": 2, "$version": 2}
    bench.hub.patch_desired(device.device_id, {"a": 1})
    while (patch := await ears.patches.get())["$version"] == 1:
        pass  # the Python SDK tells of the section as it was when it came back
    assert patch == {"a": 1, "$version": 2}
    await client.send(Message(b"back"))
    assert [message.body for message in bench.telemetry(device)] == [b"back"]
