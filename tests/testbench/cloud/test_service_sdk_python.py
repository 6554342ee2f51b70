"""The Python service SDK, unmodified, against the hub's REST API: host and CA are all it is told.

Messages to devices and their feedback go by AMQP in this SDK and are tested there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.mqtt.packets import Publish

from .mqtt_client import connected_client, soon

iot_hub = pytest.importorskip("azure.iot.hub", reason="pip install azure-iot-hub six")
models = pytest.importorskip("azure.iot.hub.models", reason="comes with azure.iot.hub")
HttpOperationError = pytest.importorskip("msrest.exceptions", reason="comes with azure.iot.hub").HttpOperationError


@pytest.fixture
async def hub(
    authority: LocalAuthority, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LocalHub]:
    """A hub whose CA the SDK's HTTP library trusts; the SDK knows no port but 443."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    async with LocalHub(authority=authority, address=address, https_port=443) as hub:
        yield hub


def refused(error: pytest.ExceptionInfo[Any]) -> int:
    status: int = error.value.response.status_code
    return status


async def test_registry(hub: LocalHub) -> None:
    """Devices and modules are created, read, changed, listed, counted and deleted."""
    manager = iot_hub.IoTHubRegistryManager.from_connection_string(hub.service_connection_string())

    def use() -> None:
        device = manager.create_device_with_sas("d1", "", "", "enabled", iot_edge=True)
        assert device.authentication.symmetric_key.primary_key == hub.identity("d1").primary_key
        assert device.device_scope.startswith("ms-azure-iot-edge://d1-")
        assert manager.get_device("d1").as_dict() == device.as_dict()
        manager.create_device_with_x509("d2", "ab" * 20, "cd" * 20, "disabled")
        manager.create_device_with_certificate_authority("d3", "enabled")
        disabled = manager.update_device_with_sas(
            "d1", device.etag, "", "", "disabled", iot_edge=True, status_reason="maintenance"
        )
        assert (disabled.status, disabled.status_reason) == ("disabled", "maintenance")
        with pytest.raises(HttpOperationError) as error:
            manager.update_device_with_sas("d1", device.etag, "", "", "enabled")
        assert refused(error) == 412
        with pytest.raises(HttpOperationError) as error:
            manager.create_device_with_sas("d1", "", "", "enabled")
        assert refused(error) == 409
        assert [each.device_id for each in manager.get_devices()] == ["d1", "d2", "d3"]
        assert manager.get_device_registry_statistics().disabled_device_count == 2
        assert manager.get_service_statistics().connected_device_count == 0
        module = manager.create_module_with_sas("d2", "m", "me", "", "")
        changed = manager.update_module_with_sas("d2", "m", "you", module.etag, "", "")
        assert (manager.get_module("d2", "m").managed_by, changed.managed_by) == ("you", "you")
        assert [each.module_id for each in manager.get_modules("d2")] == ["m"]
        manager.delete_module("d2", "m")
        bulk = manager.bulk_create_or_update_devices(
            [
                models.ExportImportDevice(id="d4", import_mode="create"),
                models.ExportImportDevice(id="x", import_mode="update"),
            ]
        )
        assert (bulk.is_successful, [each.error_code for each in bulk.errors]) == (False, ["DeviceNotFound"])
        for device_id in ("d1", "d2", "d3", "d4"):
            manager.delete_device(device_id)
        with pytest.raises(HttpOperationError) as error:
            manager.get_device("d1")
        assert refused(error) == 404

    await soon(asyncio.to_thread(use))
    assert hub.device_ids == []


async def test_twins_and_queries(hub: LocalHub) -> None:
    """Twins are read, patched and replaced, and queried page by page."""
    for number in range(5):
        hub.add_device(f"d{number}")
    hub.add_module("d0", "m")
    manager = iot_hub.IoTHubRegistryManager.from_connection_string(hub.service_connection_string("service"))

    def use() -> None:
        patch = models.Twin(tags={"floor": 1}, properties=models.TwinProperties(desired={"a": 1}))
        twin = manager.update_twin("d0", patch)
        assert (twin.tags, twin.properties.desired["a"], twin.connection_state) == ({"floor": 1}, 1, "Disconnected")
        assert manager.get_twin("d0").etag == twin.etag
        twin.tags = {"floor": 2}
        twin = manager.replace_twin("d0", twin, twin.etag)
        with pytest.raises(HttpOperationError) as error:
            manager.update_twin("d0", patch, "AAAAAAAAAAA=")
        assert refused(error) == 412
        module = manager.update_module_twin("d0", "m", patch)
        assert manager.get_module_twin("d0", "m").etag == module.etag
        assert manager.replace_module_twin("d0", "m", module).tags == {"floor": 1}
        query = models.QuerySpecification(query="SELECT * FROM devices")
        found, continuation = [], None
        while True:
            page = manager.query_iot_hub(query, continuation, 2)
            assert page.type == "Twin"
            found += [each.device_id for each in page.items]
            if (continuation := page.continuation_token) is None:
                break
        assert found == [f"d{number}" for number in range(5)]
        with pytest.raises(HttpOperationError) as error:
            manager.query_iot_hub(models.QuerySpecification(query="SELECT * FROM nowhere"))
        assert refused(error) == 400

    await soon(asyncio.to_thread(use))
    assert (hub.twin("d0").tags, hub.twin("d0").desired) == ({"floor": 2}, {"a": 1})


async def test_method(hub: LocalHub, authority: LocalAuthority) -> None:
    """A direct method goes to the device and its answer comes back."""
    manager = iot_hub.IoTHubRegistryManager.from_connection_string(hub.service_connection_string("service"))
    call = models.CloudToDeviceMethod(method_name="reboot", payload={"in_s": 5}, response_timeout_in_seconds=20)
    async with connected_client(hub, authority, "d") as client:
        await client.subscribe("$iothub/methods/POST/#")
        answer = asyncio.create_task(asyncio.to_thread(manager.invoke_device_method, "d", call))
        request = await client.receive(Publish)
        assert request.payload == b'{"in_s":5}'
        await client.publish(f"$iothub/methods/res/202/?{request.topic.partition('?')[2]}", b'"soon"')
        result = await soon(answer)
        assert (result.status, result.payload) == (202, "soon")
    with pytest.raises(HttpOperationError) as error:
        await soon(asyncio.to_thread(manager.invoke_device_method, "d", call))
    assert refused(error) == 404


async def test_configurations(hub: LocalHub) -> None:
    """Configurations are created, read, changed, listed, checked and deleted."""
    manager = iot_hub.IoTHubConfigurationManager.from_connection_string(hub.service_connection_string())
    hub.add_device("d")
    hub.add_device("edge", edge=True)

    def use() -> None:
        content = models.ConfigurationContent(device_content={"properties.desired.a": {"b": 1}})
        wanted = models.Configuration(id="c", content=content, target_condition="*", priority=5, labels={"who": "me"})
        created = manager.create_configuration(wanted)
        assert created.system_metrics.results["appliedCount"] == 2
        assert manager.get_configuration("c").as_dict() == created.as_dict()
        created.priority = 7
        updated = manager.update_configuration(created, created.etag)
        assert [each.priority for each in manager.get_configurations(20)] == [7]
        check = models.ConfigurationQueriesTestInput(target_condition="tags.a =")
        assert "character" in manager.test_configuration_queries(check).target_condition_error
        edge = models.ConfigurationContent(modules_content={"m": {"properties.desired": {"a": 1}}})
        manager.apply_configuration_on_edge_device("edge", edge)
        manager.delete_configuration("c", updated.etag)
        with pytest.raises(HttpOperationError) as error:
            manager.get_configuration("c")
        assert refused(error) == 404

    await soon(asyncio.to_thread(use))
    assert hub.twin("d").desired == {"a": {"b": 1}}
    assert hub.twin("edge", "m").desired == {"a": 1}


async def test_jobs(hub: LocalHub) -> None:
    """A twin update for many devices is planned and followed to its end.

    This SDK cannot list jobs: it wants an object where the hub, as other SDKs know it, answers with an array.
    """
    manager = iot_hub.IoTHubJobManager.from_connection_string(hub.service_connection_string())
    hub.add_device("d1")
    hub.add_device("d2")
    request = models.JobRequest(
        job_id="j",
        type="scheduleUpdateTwin",
        query_condition="deviceId IN ['d1', 'd2']",
        update_twin=models.Twin(etag="*", tags={"job": 1}),
        max_execution_time_in_seconds=60,
    )
    planned = await soon(asyncio.to_thread(manager.create_scheduled_job, "j", request))
    assert planned.job_id == "j"
    await soon(hub.until(lambda: hub.twin("d2").tags == {"job": 1}))
    job = await soon(asyncio.to_thread(manager.get_scheduled_job, "j"))
    assert (job.status, job.device_job_statistics.succeeded_count) == ("completed", 2)


async def test_purge_and_feedback(hub: LocalHub) -> None:
    """Feedback over HTTP and purging answer as this SDK wants it."""
    manager = iot_hub.IoTHubHttpRuntimeManager.from_connection_string(hub.service_connection_string())
    hub.add_device("d")
    hub.send_c2d("d", b"x", message_id="m", ack="full")
    hub.purge_c2d("d")

    def use() -> None:
        assert manager.receive_feedback_notification() is None

    await soon(asyncio.to_thread(use))
    assert not hub.feedback, "they are under a lock"


async def test_denied(hub: LocalHub) -> None:
    """A policy without the right is refused."""
    manager = iot_hub.IoTHubRegistryManager.from_connection_string(hub.service_connection_string("device"))
    with pytest.raises(HttpOperationError) as error:
        await soon(asyncio.to_thread(manager.get_twin, "d"))
    assert refused(error) == 401
