"""Who is let in, and who is cut off."""

from __future__ import annotations

import base64
from dataclasses import replace

from .bench import CONFORMANCE, Bench, soon
from .client import ClientKind, Feature, Message
from .kinds import clients_with

pytestmark = CONFORMANCE

OTHER_KEY = base64.b64encode(bytes(32)).decode()


@clients_with()
async def test_either_key(bench: Bench, kind: ClientKind) -> None:
    """A device gets in by its primary and by its secondary key."""
    device = bench.device()
    identity = bench.hub.identity(device.device_id)
    for key in (identity.primary_key, identity.secondary_key):
        async with bench.client(kind, replace(device, key=key)) as client:
            await client.send(Message(key.encode()))
    assert [message.body.decode() for message in bench.telemetry(device)] == [
        identity.primary_key,
        identity.secondary_key,
    ]


@clients_with()
async def test_wrong_key(bench: Bench, kind: ClientKind) -> None:
    """Another key than the device's is not authorised."""
    await bench.turns_away(kind, replace(bench.device(), key=OTHER_KEY))


@clients_with()
async def test_expired_token(bench: Bench, kind: ClientKind) -> None:
    """A token that has ended by the hub's clock is not authorised."""
    bench.clock.ahead_s = 7200.0
    try:
        await bench.turns_away(kind, bench.device())
    finally:
        bench.clock.ahead_s = 0.0


@clients_with()
async def test_unknown_device(bench: Bench, kind: ClientKind) -> None:
    """A device the hub does not know is not authorised."""
    await bench.turns_away(kind, replace(bench.device(), device_id="unknown"))


@clients_with()
async def test_disabled_device(bench: Bench, kind: ClientKind) -> None:
    """A disabled device is not authorised, and is let in when it is enabled again."""
    device = bench.device()
    bench.hub.set_enabled(device.device_id, False)
    await bench.turns_away(kind, device)
    bench.hub.set_enabled(device.device_id, True)
    async with bench.client(kind, device) as client:
        await client.send(Message())


@clients_with(Feature.CONNECTION)
async def test_other_hub(bench: Bench, kind: ClientKind) -> None:
    """A device of another hub is not authorised."""
    await bench.turns_away(kind, replace(bench.device(), hub_name="other.example"))


@clients_with(Feature.CONNECTION)
async def test_taken_over(bench: Bench, kind: ClientKind) -> None:
    """A device that connects again ends its older connection."""
    device = bench.device()
    async with bench.client(kind, device) as older, bench.client(kind, device) as newer:
        await older.lost()
        await newer.send(Message(b"newer"))
    assert [message.body for message in bench.telemetry(device)] == [b"newer"]


@clients_with(Feature.CONNECTION)
async def test_disabled_while_connected(bench: Bench, kind: ClientKind) -> None:
    """Disabling a device ends its connection."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        bench.hub.set_enabled(device.device_id, False)
        await client.lost()


@clients_with(Feature.CONNECTION)
async def test_farewell(bench: Bench, kind: ClientKind) -> None:
    """A client that closes is gone at the hub."""
    device = bench.device()
    async with bench.client(kind, device):
        assert bench.hub.is_connected(device.device_id)
    await soon(bench.hub.until(lambda: not bench.hub.is_connected(device.device_id)))
