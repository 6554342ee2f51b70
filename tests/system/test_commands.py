"""Commands from the cloud, through the hub and the gateway to a sensor on its line, and the answer all the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import pytest

from edge_gateway.records import Value
from edge_gateway.testbench import LocalAuthority

from .feeder import Manners
from .site import GATEWAY, HubSite, open_site

ANSWER_TIMEOUT_S = 0.5
SET_RELAY, PING = 2, 3


@pytest.fixture
async def site(tmp_path_factory: pytest.TempPathFactory, authority: LocalAuthority) -> AsyncIterator[HubSite]:
    """A running gateway with three sensors, connected to its hub."""
    async with open_site(
        tmp_path_factory.mktemp("site"), authority, sensors=3, link={"answer_timeout_s": ANSWER_TIMEOUT_S}
    ) as site:
        await site.gateway.start_reading()
        await site.gateway.event("uplink.connected")
        yield site
        assert (await site.gateway.stop()).code == 0
        assert site.verdict() == []


def set_relay(device: str, state: int = 1) -> dict[str, Value]:
    return {"device": device, "command": "set-relay", "arguments": {"state": state}}


async def call(site: HubSite, payload: Mapping[str, Value], method: str = "command") -> tuple[int, dict[str, Any]]:
    """Call a direct method as a cloud service does; return the status and the answer's payload."""
    response = await site.hub.invoke_method(GATEWAY, method, payload, timeout_s=20)
    assert isinstance(response.payload, dict)
    return response.status, response.payload


async def test_a_direct_method_returns_what_became_of_the_command(site: HubSite) -> None:
    """200 when the sensor agrees, 409 when it declines, 504 when it is mute; in each case it heard the command."""
    obeying, refusing, mute = site.sensors
    refusing.manners, mute.manners = Manners.REFUSE, Manners.MUTE
    for sensor, status, word in (
        (obeying, 200, "acknowledged"),
        (refusing, 409, "refused"),
        (mute, 504, "no-answer"),
    ):
        answer = await call(site, set_relay(sensor.name))
        assert (answer[0], answer[1]["status"]) == (status, word)
        assert sensor.commands == [(SET_RELAY, 1)]


async def test_a_direct_method_that_cannot_be_carried_out_says_why(site: HubSite) -> None:
    """400 with what would do instead, and no sensor hears of it; 404 for a method that there is not."""
    wrong: Sequence[tuple[Mapping[str, Value], str]] = (
        (set_relay("sensor-99"), "there is no device 'sensor-99'"),
        (set_relay("sensor-01", state=2), "state"),
        ({"device": "sensor-01", "command": "self-destruct"}, "self-destruct"),
        ({"device": "sensor-01"}, "needs 'command'"),
    )
    for payload, reason in wrong:
        status, answer = await call(site, payload)
        assert status == 400
        assert reason in answer["detail"]
    status, answer = await call(site, {}, method="reboot")
    assert (status, answer["detail"]) == (404, "there is only the method 'command'")
    assert not any(sensor.commands for sensor in site.sensors)


async def test_a_cloud_to_device_message_is_answered_by_an_event(site: HubSite) -> None:
    """Its outcome comes up the alert lane with the message's id, so that the asker can join the two."""
    obeying, refusing, mute = site.sensors
    refusing.manners, mute.manners = Manners.REFUSE, Manners.MUTE
    wanted = {}
    for sensor, word in ((obeying, "acknowledged"), (refusing, "refused"), (mute, "no-answer")):
        ask = {"device": sensor.name, "command": "ping"}
        await site.hub.send_c2d(GATEWAY, orjson.dumps(ask), message_id=f"ask-{sensor.name}").completed()
        wanted[sensor.name] = (word, f"ask-{sensor.name}")
    await site.receiver.until(lambda: len(site.receiver.events) >= 3)
    events = {event["device"]: event for event in site.receiver.events}
    assert {event["event"] for event in events.values()} == {"command-result"}
    assert {
        device: (event["values"]["status"], event["values"]["correlation_id"]) for device, event in events.items()
    } == wanted
    assert [sensor.commands for sensor in site.sensors] == [[(PING, 0)]] * 3
