"""What all uplinks to IoT Hub do alike, with the device SDK or without: refusals, commands, C2D messages, the twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.errors import UplinkLost, UplinkRefused
from edge_gateway.records import CommandResult, CommandStatus, Message
from edge_gateway.testbench import DeliveryState, FaultProxy, LocalAuthority, LocalHub
from edge_gateway.uplink import iot_hub
from edge_gateway.uplink.commands import HTTP_STATUS
from tests.log_events import log_events

from .far_sides import (
    GATEWAY,
    TIME_LIMIT_S,
    HubFarSide,
    RecordingDownlink,
    certified_far_side,
    failure_to_connect,
    hub_device_far_side,
    hub_far_side,
    soon,
)

COMMAND = {"device": "boiler", "command": "ping"}


@pytest.fixture(params=[hub_far_side, hub_device_far_side, certified_far_side], ids=["sdk", "no-sdk", "certificate"])
async def hub(request: pytest.FixtureRequest, authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[HubFarSide]:
    async with request.param(authority, tmp_path) as far_side:
        yield far_side


@asynccontextmanager
async def listening(hub: HubFarSide, gateway: RecordingDownlink) -> AsyncIterator[None]:
    async with asyncio.timeout(TIME_LIMIT_S), hub.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        try:
            yield
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)


async def test_both_send_the_same(authority: LocalAuthority, gateway: RecordingDownlink, tmp_path: Path) -> None:
    """A message has the same properties, system's and own, whichever uplink sent it: one receiver takes both."""
    seen = []
    for number, far_side in enumerate((hub_far_side, hub_device_far_side, certified_far_side)):
        (tmp_path / str(number)).mkdir()
        async with asyncio.timeout(TIME_LIMIT_S), far_side(authority, tmp_path / str(number)) as hub:
            async with hub.uplink().connect(gateway.downlink()) as session:
                await session.send(Message("5eed-n1+/&é", "normal", 1, 1, b"[]"))
            (message,) = hub.hub.messages
            system = {key: text for key, text in message.system_properties.items() if not key.startswith("iothub-")}
            seen.append((message.message_id, message.properties, system, message.body))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][2] == {
        "message-id": "5eed-n1+/&é",
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }


# --- refusals of this hub ------------------------------------------------------------------------------------------


async def test_a_disabled_device_is_refused(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A device that was switched off at the hub is told so, and is let in when it is on again."""
    hub.hub.set_enabled(GATEWAY, False)
    error = await soon(failure_to_connect(hub.uplink(), gateway))
    assert isinstance(error, UplinkRefused)
    assert "that the device is enabled" in error.remedy
    hub.hub.set_enabled(GATEWAY, True)
    async with listening(hub, gateway):
        assert hub.hub.is_connected(GATEWAY)


async def test_a_second_gateway_of_the_same_name_takes_over(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """When the identity connects from elsewhere, this session is lost and says so."""
    async with asyncio.timeout(TIME_LIMIT_S), hub.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        async with hub.uplink().connect(gateway.downlink()):
            with pytest.raises(BaseExceptionGroup) as caught:
                await lost
        assert caught.group_contains(UplinkLost)
    assert hub.hub.statistics.taken_over == 1


@pytest.mark.parametrize("expired", [True, False])
async def test_a_certificate_that_is_not_in_order_is_refused(
    hub: HubFarSide, gateway: RecordingDownlink, authority: LocalAuthority, expired: bool
) -> None:
    """A certificate that has ended, or that names another host, is refused with its fault."""
    names = [hub.hub.host_name] if expired else ["other.example.net"]
    certificate = authority.server_certificate(names, expired=expired)
    async with LocalHub(authority=authority, address="127.0.0.1", port=0, certificate=certificate) as wrong:
        hub.proxy.mode = hub.proxy.mode.REFUSE
        async with FaultProxy(wrong.address, wrong.port, hub.proxy.address, hub.proxy.port):
            error = await soon(failure_to_connect(hub.uplink(), gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what.startswith("shows a certificate that cannot be trusted: ")
    assert ("expired" if expired else "mismatch") in error.what


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", CommandStatus)
async def test_a_method_answers_with_a_number_too(
    hub: HubFarSide, gateway: RecordingDownlink, status: CommandStatus
) -> None:
    """A direct method's status is the documented number for how the command ended."""
    gateway.obey = lambda _: CommandResult(status)
    async with listening(hub, gateway):
        response = await hub.hub.invoke_method(GATEWAY, "command", COMMAND)
    assert response.status == HTTP_STATUS[status]


async def test_an_unknown_method_is_not_found(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """There is one method; others are answered with 404 and its name."""
    async with listening(hub, gateway):
        response = await hub.hub.invoke_method(GATEWAY, "reboot", COMMAND)
    assert response == (404, {"status": "invalid", "detail": "there is only the method 'command'"})
    assert gateway.commands == []


async def test_a_message_from_the_cloud_is_obeyed_and_reported(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A cloud-to-device message is a command whose outcome goes up as a record, under the message's id."""
    async with listening(hub, gateway):
        message = hub.hub.send_c2d(GATEWAY, b'{"device": "boiler", "command": "ping"}', message_id="m-1")
        await gateway.until(lambda: bool(gateway.results))
        await message.completed()
    ((command, result),) = gateway.results
    assert (command.device, command.name, command.source, command.correlation_id) == ("boiler", "ping", "c2d", "m-1")
    assert result.status is CommandStatus.ACKNOWLEDGED


async def test_a_message_waits_for_the_gateway(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """What was sent while the gateway was away is obeyed when it is back."""
    message = hub.hub.send_c2d(GATEWAY, b'{"device": "boiler", "command": "ping"}')
    assert message.state is DeliveryState.QUEUED
    async with listening(hub, gateway):
        await gateway.until(lambda: bool(gateway.results))


async def test_a_message_that_is_no_command_is_logged_and_done_with(
    hub: HubFarSide, gateway: RecordingDownlink
) -> None:
    """Nonsense is not redelivered for ever, and the log says which message it was."""
    with log_events() as events:
        async with listening(hub, gateway):
            message = hub.hub.send_c2d(GATEWAY, b"switch it off!", message_id="m-2")
            await message.completed()
            hub.hub.send_c2d(GATEWAY, b'{"device": "boiler", "command": "ping"}')
            await gateway.until(lambda: bool(gateway.results))
    (invalid,) = [each for each in events if each["event"] == "uplink.command_invalid"]
    assert (invalid["source"], invalid["message_id"]) == ("c2d", "m-2")
    assert len(gateway.commands) == 1


# --- twin ----------------------------------------------------------------------------------------------------------


async def test_desired_properties_come_whole_and_then_in_patches(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A session begins with the whole document and goes on with what changes, nulls included, in order."""
    hub.hub.patch_desired(GATEWAY, {"rules": [], "other": 1})
    async with listening(hub, gateway):
        await gateway.until(lambda: len(gateway.desired) == 1)
        hub.hub.patch_desired(GATEWAY, {"other": None})
        hub.hub.patch_desired(GATEWAY, {"rules": [{"name": "hot"}]})
        await gateway.until(lambda: len(gateway.desired) == 3)
    assert gateway.desired == [
        ({"rules": [], "other": 1, "$version": 2}, True),
        ({"other": None, "$version": 3}, False),
        ({"rules": [{"name": "hot"}], "$version": 4}, False),
    ]


@pytest.fixture
def reports_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iot_hub, "_REPORT_EVERY_S", 0.02)


def reported(hub: HubFarSide) -> dict[str, Any]:
    return dict(hub.hub.twin(GATEWAY).reported)


async def reports(hub: HubFarSide, expected: dict[str, Any]) -> None:
    async with asyncio.timeout(TIME_LIMIT_S):
        await hub.hub.until(lambda: reported(hub) == expected)


@pytest.mark.usefixtures("reports_often")
async def test_what_the_gateway_reports_is_in_the_twin(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """The twin follows what the gateway reports: new, changed and, also deep inside, gone."""
    gateway.to_report = {"rules": {"value": ["a"], "ac": 400, "ad": "wrong"}, "devices": 3, "gone": 1}
    async with listening(hub, gateway):
        await reports(hub, {"rules": {"value": ["a"], "ac": 400, "ad": "wrong"}, "devices": 3, "gone": 1})
        gateway.to_report = {"rules": {"value": ["b"]}, "devices": 4}
        await reports(hub, {"rules": {"value": ["b"]}, "devices": 4})


@pytest.mark.usefixtures("reports_often")
async def test_what_an_earlier_session_reported_is_taken_back(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """After a restart, what no longer holds is gone from the twin; what other programs put there stays."""
    gateway.to_report = {"rules": {"value": ["a"], "ac": 400}, "devices": 3}
    async with listening(hub, gateway):
        await reports(hub, {"rules": {"value": ["a"], "ac": 400}, "devices": 3})
    hub.hub.twin(GATEWAY).patch_reported({"somebody": "else"})
    gateway.to_report = {"rules": {"value": ["a"]}, "devices": 3}
    async with listening(hub, gateway):
        await reports(hub, {"rules": {"value": ["a"]}, "devices": 3, "somebody": "else"})


@pytest.mark.usefixtures("reports_often")
async def test_what_has_not_changed_is_not_reported_again(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A reconnect costs no twin update, of which the hub allows few."""
    gateway.to_report = {"devices": 3, "gateway": {"name": "g"}}
    async with listening(hub, gateway):
        await reports(hub, {"devices": 3, "gateway": {"name": "g"}})
    version = hub.hub.twin(GATEWAY).reported_version
    async with listening(hub, gateway):
        await hub.hub.invoke_method(GATEWAY, "command", COMMAND)
        gateway.to_report = {"devices": 4, "gateway": {"name": "g"}}
        await reports(hub, {"devices": 4, "gateway": {"name": "g"}})
    assert hub.hub.twin(GATEWAY).reported_version == version + 1


@pytest.mark.parametrize("is_silent", [True, False], ids=["hangs", "fails"])
async def test_a_farewell_that_fails_leaves_nothing_running(
    authority: LocalAuthority,
    gateway: RecordingDownlink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_silent: bool,
) -> None:
    """The device SDK's own tasks end with the session, though the connection breaks while it says goodbye."""
    from azure.iot.device.aio import IoTHubDeviceClient
    from azure.iot.device.exceptions import ConnectionDroppedError
    from azure.iot.device.iothub.aio.loop_management import get_client_handler_runner_loop

    async def disconnect(_: object) -> None:
        if is_silent:
            await asyncio.Event().wait()
        raise ConnectionDroppedError

    monkeypatch.setattr(iot_hub, "_FAREWELL_S", 0.1)
    monkeypatch.setattr(iot_hub, "_SDK_LEAVES_WITHIN_S", 0.2)
    async with asyncio.timeout(TIME_LIMIT_S), hub_far_side(authority, tmp_path) as hub:
        before = asyncio.all_tasks(get_client_handler_runner_loop())
        async with hub.uplink().connect(gateway.downlink()):
            runners = asyncio.all_tasks(get_client_handler_runner_loop()) - before
            assert len(runners) >= 4
            monkeypatch.setattr(IoTHubDeviceClient, "disconnect", disconnect)
        while not all(each.done() for each in runners):  # noqa: ASYNC110  # of another loop
            await asyncio.sleep(0.01)
