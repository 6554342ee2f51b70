"""Scripts of faults: what they say, when it happens, and that it ends."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.fault_script import FaultScript, Target, load_fault_script, play, schedule
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Pingreq, Pingresp, Puback, Publish
from edge_gateway.testbench.cloud.throttle import Operation
from edge_gateway.testbench.virtual_time import run_virtual

from .mqtt_client import RawClient, connected_client, soon, tls_client

EVENTS = "devices/sensor-1/messages/events/"
LONG_S = 1000.0


def script(*faults: dict[str, object], seed: int = 1) -> FaultScript:
    return FaultScript.model_validate({"seed": seed, "faults": list(faults)})


@pytest.fixture
def target(hub: LocalHub, authority: LocalAuthority) -> Target:
    return Target(hub.door, hub, authority)


class Playing:
    """A fault that lasts until the test ends it."""

    def __init__(self, target: Target, fault: dict[str, object]) -> None:
        self._task = asyncio.create_task(play(script({"at_s": 0, "for_s": LONG_S, **fault}), target))

    async def __aenter__(self) -> None:
        for _ in range(3):  # the task begins, sleeps for no time, and acts
            await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def pings(client: RawClient) -> bool:
    """Whether the hub still answers on this connection."""
    client.send(Pingreq())
    return await client.receive(Pingresp) == Pingresp()


@given(st.integers(0, 2**32), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=10))
def test_the_same_seed_gives_the_same_steps(seed: int, spans: list[tuple[float, float]]) -> None:
    """Drawn times lie in their spans, steps come in order, and a second reading of the script is the same."""
    written = script(
        *({"at_s": {"from": min(span), "to": max(span)}, "kind": "freeze", "for_s": 1} for span in spans), seed=seed
    )
    steps = schedule(written)
    assert steps == schedule(written)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    for step in steps:
        span = step.fault.at_s
        if step.begins and not isinstance(span, float):
            assert span.earliest_s <= step.at_s <= span.latest_s


def test_a_script_from_a_file(tmp_path: Path) -> None:
    """Every kind can be written in YAML."""
    path = tmp_path / "faults.yaml"
    path.write_text(
        """
        seed: 7
        faults:
          - {at_s: 1, kind: refuse, for_s: 1}
          - {at_s: {from: 20, to: 40}, kind: close, device: sensor-1}
          - {at_s: 1, kind: freeze, for_s: 1}
          - {at_s: 1, kind: delay, delay_s: 0.2, for_s: 1}
          - {at_s: 1, kind: loss, share: 0.1, for_s: 1}
          - {at_s: 1, kind: throttle, tier: S1, units: 2, for_s: 1}
          - {at_s: 1, kind: expire-tokens}
          - {at_s: 1, kind: rotate-keys, device: sensor-1}
          - {at_s: 1, kind: certificate, shown: expired, for_s: 1}
          - {at_s: 1, kind: pubacks, answer: twice, for_s: 1}
          - {at_s: 1, kind: restart, state: lost, for_s: 1}
        """
    )
    assert len(schedule(load_fault_script(path))) == 11 + 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("faults: [{at_s: 1, kind: freese, for_s: 1}]", "freeze"),
        ("faults: [{at_s: 1, kind: freeze, for_s: 0}]", "for_s"),
        ("faults: [{at_s: 1, kind: freeze}]", "for_s"),
        ("faults: [{at_s: 1, kind: loss, share: 2, for_s: 1}]", "share"),
        ("faults: [{at_s: 1, kind: close, devise: x}]", "devise"),
        ("[", "faults.yaml"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong in a script is said with the key and a value that would do."""
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(BenchError, match=told):
        load_fault_script(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is an error that names it."""
    with pytest.raises(BenchError, match="nowhere"):
        load_fault_script(tmp_path / "nowhere.yaml")


async def test_refuse(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """New connections are refused, and accepted again afterwards; one that is there stays."""
    async with connected_client(hub, authority) as client:
        async with Playing(target, {"kind": "refuse"}):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(hub.address, hub.port)
            assert await pings(client)
        async with connected_client(hub, authority, "sensor-2"):
            pass


async def test_close_one(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """The connection of the device that is named is cut, and no other."""
    async with connected_client(hub, authority) as one, connected_client(hub, authority, "sensor-2") as two:
        await play(script({"at_s": 0, "kind": "close", "device": "sensor-1"}), target)
        await one.closed()
        assert await pings(two)


async def test_freeze_ends(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """A frozen connection is silent, and says everything afterwards."""
    async with connected_client(hub, authority) as client:
        async with Playing(target, {"kind": "freeze"}):
            client.send(Publish(EVENTS, b"x", 1, 9))
            await asyncio.sleep(0.05)
            assert hub.statistics.messages == 0
        assert await client.receive(Puback) == Puback(9)


async def test_delay_keeps_order(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """Answers come later by the delay, in the order they were given, also when the fault ends in between."""
    async with connected_client(hub, authority) as client:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with Playing(target, {"kind": "delay", "delay_s": 0.1}):
            client.send(Publish(EVENTS, b"1", 1, 1))
            await soon(hub.until(lambda: hub.statistics.messages == 1))
        client.send(Publish(EVENTS, b"2", 1, 2))
        assert [await client.receive(Puback), await client.receive(Puback)] == [Puback(1), Puback(2)]
        assert loop.time() - begun_s >= 0.1


async def test_loss(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """A lost message is neither received nor confirmed; the connection lives."""
    async with connected_client(hub, authority) as client:
        async with Playing(target, {"kind": "loss", "share": 1.0}):
            client.send(Publish(EVENTS, b"1", 1, 1))
            assert await pings(client)
        await client.publish(EVENTS, b"2", 2)
        assert [message.body for message in hub.messages] == [b"2"]


@pytest.mark.parametrize(("answer", "pubacks"), [("late", [1]), ("twice", [1, 1]), ("never", [])])
async def test_pubacks(
    hub: LocalHub, authority: LocalAuthority, target: Target, answer: str, pubacks: list[int]
) -> None:
    """Confirmations come late, twice or never; the message is taken in all the same."""
    async with connected_client(hub, authority) as client:
        async with Playing(target, {"kind": "pubacks", "answer": answer, "delay_s": 0.05}):
            begun_s = asyncio.get_running_loop().time()
            client.send(Publish(EVENTS, b"1", 1, 1))
            await soon(hub.until(lambda: hub.statistics.messages == 1))
            for packet_id in pubacks:
                assert await client.receive(Puback) == Puback(packet_id)
            if answer == "late":
                assert asyncio.get_running_loop().time() - begun_s >= 0.05
        await client.publish(EVENTS, b"2", 2)


async def test_throttle(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """Held to a tier, confirmations beyond its rate wait."""
    async with connected_client(hub, authority) as client:
        loop = asyncio.get_running_loop()
        async with Playing(target, {"kind": "throttle", "tier": "S1"}):
            begun_s = loop.time()
            client.send(*(Publish(EVENTS, b"x", 1, packet_id) for packet_id in range(1, 121)))
            for _ in range(120):
                await client.receive(Puback)
            assert loop.time() - begun_s >= 0.19
        assert {hub.throttle.shape(Operation.D2C) for _ in range(200)} == {0.0}


async def test_expired_tokens(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """Who came with a token is cut off."""
    async with connected_client(hub, authority) as client:
        await play(script({"at_s": 0, "kind": "expire-tokens"}), target)
        await client.closed()


async def test_rotated_keys(hub: LocalHub, authority: LocalAuthority, target: Target) -> None:
    """The device is cut off, its old key is refused and its new one accepted."""
    async with connected_client(hub, authority) as client:
        old = hub.sas_token("sensor-1")
        await play(script({"at_s": 0, "kind": "rotate-keys", "device": "sensor-1"}), target)
        await client.closed()
    async with tls_client(hub, authority) as client:
        assert await client.connect(hub, "sensor-1", token=old) == Connack(5)
    async with connected_client(hub, authority):
        pass


@pytest.mark.parametrize("shown", ["wrong-name", "expired", "unknown-ca"])
async def test_certificates(hub: LocalHub, authority: LocalAuthority, target: Target, shown: str) -> None:
    """A client that checks certificates does not connect while a wrong one is shown, and does afterwards."""
    async with Playing(target, {"kind": "certificate", "shown": shown}):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(hub.address, hub.port, ssl=authority.client_context())
    async with connected_client(hub, authority):
        pass


@pytest.mark.parametrize(("state", "version"), [("kept", 2), ("lost", 1)])
async def test_restart(hub: LocalHub, authority: LocalAuthority, target: Target, state: str, version: int) -> None:
    """Everybody is cut off and refused; afterwards twins are as they were, or empty. Identities stay."""
    async with connected_client(hub, authority) as client:
        hub.patch_desired("sensor-1", {"period_s": 1})
        async with Playing(target, {"kind": "restart", "state": state}):
            await client.closed()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(hub.address, hub.port)
        async with connected_client(hub, authority):
            assert hub.twin("sensor-1").desired_version == version


def test_overlapping_faults_of_one_kind(authority: LocalAuthority) -> None:
    """The last to begin decides how it goes wrong, and the last to end puts it right."""

    async def main() -> list[float]:
        hub = LocalHub(host_name="hub.example")
        target = Target(FrontDoor([hub], authority=authority), hub, authority)
        playing = asyncio.create_task(
            play(
                script(
                    {"at_s": 0, "kind": "loss", "share": 1.0, "for_s": 20},
                    {"at_s": 10, "kind": "loss", "share": 0.5, "for_s": 40},
                ),
                target,
            )
        )
        seen = []
        for _ in range(6):
            await asyncio.sleep(9)
            seen.append(target.door.faults.loss)
        await playing
        return seen

    assert run_virtual(main()) == [1.0, 0.5, 0.5, 0.5, 0.5, 0.0]


def test_a_script_that_is_broken_off_leaves_no_fault(authority: LocalAuthority) -> None:
    """Cancelled, a script puts right what it has begun."""

    async def main() -> float:
        hub = LocalHub(host_name="hub.example")
        target = Target(FrontDoor([hub], authority=authority), hub, authority)
        playing = asyncio.create_task(play(script({"at_s": 0, "kind": "delay", "delay_s": 1, "for_s": 20}), target))
        await asyncio.sleep(1)
        assert target.door.faults.delay_s == 1
        playing.cancel()
        await asyncio.wait([playing])
        return target.door.faults.delay_s

    assert run_virtual(main()) == 0.0
