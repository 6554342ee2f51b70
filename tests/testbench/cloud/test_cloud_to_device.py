"""Cloud-to-device messages from the hub's side: locks, ends, and who is told of them. Hours pass at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench import DeliveryState, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.cloud.cloud_messages import LOCK_S, MAX_DELIVERIES, Outcome
from edge_gateway.testbench.cloud.mqtt.packets import Puback, Publish
from edge_gateway.testbench.cloud.refusals import LimitExceeded, MessageLockLost
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from .mqtt_client import connected_client

HOUR_S = 3600


def at_a_hub(test: Callable[[LocalHub], Awaitable[None]]) -> None:
    """Run a test in virtual time, at a hub nobody can connect to, with one device."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        hub = LocalHub(host_name="hub.example", clock=clock, rng=random.Random(1))
        hub.add_device("sensor-1")
        await test(hub)

    run_virtual(main())


def outcomes(hub: LocalHub) -> list[tuple[str, Outcome]]:
    return [(record.original_message_id, record.outcome) for record in hub.feedback]


def test_a_message_is_handed_out_once_while_its_lock_lasts() -> None:
    """Who asks again gets nothing until the lock has ended, and then the same message."""

    async def test(hub: LocalHub) -> None:
        hub.send_c2d("sensor-1", b"x")
        first = hub.receive_c2d("sensor-1")
        assert first is not None
        lock = first.lock_token
        assert hub.receive_c2d("sensor-1") is None
        await asyncio.sleep(LOCK_S + 1)
        assert hub.receive_c2d("sensor-1") is first
        with pytest.raises(MessageLockLost):
            hub.complete_c2d("sensor-1", lock)
        hub.complete_c2d("sensor-1", first.lock_token)
        assert first.outcome is Outcome.SUCCESS

    at_a_hub(test)


def test_messages_are_handed_out_in_order() -> None:
    """The oldest that waits goes first, and one that came back goes before younger ones."""

    async def test(hub: LocalHub) -> None:
        for body in (b"1", b"2", b"3"):
            hub.send_c2d("sensor-1", body)
        first = hub.receive_c2d("sensor-1")
        assert first is not None
        hub.abandon_c2d("sensor-1", first.lock_token)
        bodies = []
        while (message := hub.receive_c2d("sensor-1")) is not None:
            bodies.append(message.body)
        assert bodies == [b"1", b"2", b"3"]

    at_a_hub(test)


def test_feedback() -> None:
    """The sender hears of the ends it asked for, and of no others."""

    async def test(hub: LocalHub) -> None:
        for ack in ("none", "positive", "negative", "full"):
            for way in ("done", "refused"):
                hub.send_c2d("sensor-1", b"", message_id=f"{way}-{ack}", ack=ack)
        while (message := hub.receive_c2d("sensor-1")) is not None:
            if message.system_properties["message-id"].startswith("done"):
                hub.complete_c2d("sensor-1", message.lock_token)
            else:
                hub.reject_c2d("sensor-1", message.lock_token)
        assert outcomes(hub) == [
            ("done-positive", Outcome.SUCCESS),
            ("refused-negative", Outcome.REJECTED),
            ("done-full", Outcome.SUCCESS),
            ("refused-full", Outcome.REJECTED),
        ]

    at_a_hub(test)


def test_expiry() -> None:
    """A message that nobody takes ends at its time, an hour after it was sent if nothing else was said."""

    async def test(hub: LocalHub) -> None:
        hub.send_c2d("sensor-1", b"", message_id="hour", ack="full")
        hub.send_c2d("sensor-1", b"", message_id="minute", ack="full", expires_ns=hub.now_ns() + 60 * NS_PER_S)
        await asyncio.sleep(61)
        assert outcomes(hub) == [("minute", Outcome.EXPIRED)]
        await asyncio.sleep(HOUR_S)
        assert outcomes(hub)[1:] == [("hour", Outcome.EXPIRED)]
        assert hub.receive_c2d("sensor-1") is None

    at_a_hub(test)


def test_given_back_too_often() -> None:
    """A message that is abandoned ten times is over; locks that ran out or connections that broke do not count."""

    async def test(hub: LocalHub) -> None:
        hub.send_c2d("sensor-1", b"", message_id="m", ack="negative")
        for _ in range(MAX_DELIVERIES):
            message = hub.receive_c2d("sensor-1")
            assert message is not None
            assert not hub.feedback
            hub.abandon_c2d("sensor-1", message.lock_token)
        assert outcomes(hub) == [("m", Outcome.DELIVERY_COUNT_EXCEEDED)]

    at_a_hub(test)


def test_purge_and_full_queue() -> None:
    """Fifty may wait; purging ends them all."""

    async def test(hub: LocalHub) -> None:
        for number in range(50):
            hub.send_c2d("sensor-1", b"", message_id=str(number), ack="full")
        with pytest.raises(LimitExceeded):
            hub.send_c2d("sensor-1", b"")
        assert hub.purge_c2d("sensor-1") == 50
        assert {outcome for _, outcome in outcomes(hub)} == {Outcome.PURGED}

    at_a_hub(test)


def test_a_message_without_puback_comes_again_on_the_same_connection() -> None:
    """Over MQTT, what a device does not confirm is sent again when its lock has ended, marked as a repeat."""

    async def main() -> None:
        authority = LocalAuthority()
        clock = VirtualClock(asyncio.get_running_loop())
        address = free_loopback_address(random.Random())
        async with (
            LocalHub(authority=authority, address=address, clock=clock) as hub,
            connected_client(hub, authority, keep_alive_s=600) as client,
        ):
            await client.subscribe("devices/sensor-1/messages/devicebound/#")
            sent = hub.send_c2d("sensor-1", b"x")
            first = await client.receive(Publish)
            await asyncio.sleep(LOCK_S)
            again = await client.receive(Publish)
            assert (first.dup, again.dup) == (False, True)
            assert again.packet_id == first.packet_id
            assert sent.state is DeliveryState.SENT
            client.send(Puback(again.packet_id))
            await sent.completed()

    run_virtual(main())


def test_removing_a_device_ends_its_messages() -> None:
    """The sender hears that a message was purged with its device, and the message's time passes without harm."""

    async def test(hub: LocalHub) -> None:
        hub.send_c2d("sensor-1", b"", message_id="m", ack="full")
        hub.remove_device("sensor-1")
        await asyncio.sleep(2 * HOUR_S)
        assert outcomes(hub) == [("m", Outcome.PURGED)]

    at_a_hub(test)
