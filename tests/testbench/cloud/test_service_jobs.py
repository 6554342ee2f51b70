"""Jobs: twin updates and methods for all devices a condition chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.cloud.service import jobs as service_jobs
from edge_gateway.testbench.cloud.service.jobs import JobStatus

from .mqtt_client import connected_client, soon
from .service_peer import Service, service_of


@pytest.fixture
async def service(hub: LocalHub) -> AsyncIterator[Service]:
    async with service_of(hub) as service:
        yield service


def twin_update(condition: str, patch: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "scheduleUpdateTwin", "queryCondition": condition, "updateTwin": patch, **others}


def method(condition: str, **others: Any) -> dict[str, Any]:
    call = {"methodName": "reboot", "payload": {"in_s": 5}, "responseTimeoutInSeconds": 5}
    return {"type": "scheduleDeviceMethod", "queryCondition": condition, "cloudToDeviceMethod": call, **others}


async def ended(service: Service, job_id: str) -> dict[str, Any]:
    await soon(service.hub.until(lambda: service.jobs.get(job_id).status.ended))
    document: dict[str, Any] = await service.call("GET", f"/jobs/v2/{job_id}")
    return document


async def device_jobs(service: Service, job_id: str) -> list[dict[str, Any]]:
    query = {"query": f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{job_id}'"}
    rows: list[dict[str, Any]] = await service.call("POST", "/devices/query", query)
    assert service.headers["x-ms-item-type"] == "DeviceJob"
    return rows


async def test_twin_update(service: Service) -> None:
    """A twin update is made for all devices the condition chooses, and its outcomes can be queried."""
    hub = service.hub
    for number in range(25):
        hub.add_device(f"d{number}")
        hub.patch_tags(f"d{number}", {"even": number % 2 == 0})
    patch = {"etag": "*", "tags": {"job": 1}, "properties": {"desired": {"a": 1}}}
    planned = await service.call("PUT", "/jobs/v2/j", twin_update("tags.even = true", patch))
    assert (planned["jobId"], planned["type"]) == ("j", "scheduleUpdateTwin")
    document = await ended(service, "j")
    assert (document["status"], document["updateTwin"]) == ("completed", patch)
    assert document["deviceJobStatistics"] == {
        "deviceCount": 13,
        "failedCount": 0,
        "succeededCount": 13,
        "runningCount": 0,
        "pendingCount": 0,
    }
    assert (hub.twin("d2").tags["job"], hub.twin("d2").desired, hub.twin("d1").desired) == (1, {"a": 1}, {})
    rows = await device_jobs(service, "j")
    assert {row["deviceId"] for row in rows} == {f"d{number}" for number in range(0, 25, 2)}
    assert {row["status"] for row in rows} == {"completed"}


async def test_method(service: Service, authority: LocalAuthority) -> None:
    """A method is called on each device; one that is away fails alone, and the job with it."""
    hub = service.hub
    hub.add_device("away")
    async with connected_client(hub, authority, "there") as client:
        await client.subscribe("$iothub/methods/POST/#")
        await service.call("PUT", "/jobs/v2/j", method("*"))
        request = await client.receive(Publish)
        assert request.payload == b'{"in_s":5}'
        await client.publish(f"$iothub/methods/res/200/?{request.topic.partition('?')[2]}", b'{"ok":true}')
        document = await ended(service, "j")
    assert document["status"] == "failed"
    rows = {row["deviceId"]: row for row in await device_jobs(service, "j")}
    assert rows["there"]["outcome"] == {"deviceMethodResponse": {"status": 200, "payload": {"ok": True}}}
    assert (rows["there"]["status"], rows["away"]["status"]) == ("completed", "failed")
    assert "does not listen" in rows["away"]["error"]["description"]


async def test_a_device_that_refuses(service: Service) -> None:
    """What one twin cannot take fails for that device and is written to the others."""
    hub = service.hub
    hub.add_device("small")
    hub.add_device("full")
    hub.patch_desired("full", {f"k{number}": "x" * 4000 for number in range(8)})
    await service.call("PUT", "/jobs/v2/j", twin_update("*", {"properties": {"desired": {"a": "x" * 2000}}}))
    document = await ended(service, "j")
    assert document["deviceJobStatistics"]["failedCount"] == 1
    assert "a" in hub.twin("small").desired


async def test_scheduled_and_cancelled(service: Service) -> None:
    """A job waits for its start; cancelled before, it has done nothing."""
    service.hub.add_device("d")
    start = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    patch = {"tags": {"a": 1}}
    planned = await service.call("PUT", "/jobs/v2/later", twin_update("*", patch, startTime=start))
    assert planned["status"] == "scheduled"
    await service.call("PUT", "/jobs/v2/now", twin_update("*", {"tags": {"b": 1}}))
    await ended(service, "now")
    assert service.hub.twin("d").tags == {"b": 1}
    assert [job["jobId"] for job in await service.call("GET", "/jobs/v2/query?jobStatus=scheduled")] == ["later"]
    cancelled = await service.call("POST", "/jobs/v2/later/cancel")
    assert cancelled["status"] == "cancelled"
    assert await service.call("POST", "/jobs/v2/later/cancel") == cancelled
    assert service.hub.twin("d").tags == {"b": 1}


async def test_out_of_time(service: Service, authority: LocalAuthority) -> None:
    """When a job's time is over, what has no outcome has failed."""
    async with connected_client(service.hub, authority, "silent") as client:
        await client.subscribe("$iothub/methods/POST/#")
        await service.call("PUT", "/jobs/v2/j", method("*", maxExecutionTimeInSeconds=0.05))
        document = await ended(service, "j")
    assert document["status"] == "failed"
    assert (await device_jobs(service, "j"))[0]["error"]["description"] == "the job's time is over"


async def test_list(service: Service) -> None:
    """Jobs are listed by kind and status, in pages of the asked size."""
    for number in range(5):
        await service.call("PUT", f"/jobs/v2/j{number}", twin_update("*", {"tags": {}}))
        await ended(service, f"j{number}")
    path = "/jobs/v2/query?jobType=scheduleUpdateTwin&jobStatus=completed"
    first = await service.call("GET", path, headers={"x-ms-max-item-count": "3"})
    headers = {"x-ms-max-item-count": "3", "x-ms-continuation": service.headers["x-ms-continuation"]}
    last = await service.call("GET", path, headers=headers)
    assert [job["jobId"] for job in first + last] == [f"j{number}" for number in range(5)]
    assert "x-ms-continuation" not in service.headers
    assert await service.call("GET", "/jobs/v2/query?jobType=scheduleDeviceMethod") == []


async def test_refused(service: Service) -> None:
    """What is no job, or there already, is refused."""
    good = twin_update("*", {"tags": {}})
    await service.call("PUT", "/jobs/v2/j", good)
    await service.fails(409, "JobAlreadyExists", "PUT", "/jobs/v2/j", good)
    await service.fails(404, "JobNotFound", "GET", "/jobs/v2/x")
    await service.fails(404, "JobNotFound", "POST", "/jobs/v2/x/cancel")
    wrong: list[Any] = [
        [],
        {**good, "type": "export"},
        {**good, "updateTwin": None},
        {**good, "queryCondition": 5},
        {**good, "queryCondition": "a ="},
        {**good, "startTime": "soon"},
        {**good, "startTime": 5},
        {**good, "maxExecutionTimeInSeconds": -1},
        {**method("*"), "cloudToDeviceMethod": {}},
    ]
    for document in wrong:
        await service.fails(400, "ArgumentInvalid", "PUT", "/jobs/v2/new", document)
    await service.fails(400, "ArgumentInvalid", "GET", "/jobs/v2/query", headers={"x-ms-continuation": "x"})


async def test_old_jobs_make_room(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs that have ended only so many are kept; those that have not are never dropped."""
    monkeypatch.setattr(service_jobs, "MAX_JOBS", 2)
    later = {"startTime": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    await service.call("PUT", "/jobs/v2/waiting", twin_update("*", {}, **later))
    await service.call("PUT", "/jobs/v2/first", twin_update("*", {}))
    await ended(service, "first")
    await service.call("PUT", "/jobs/v2/second", twin_update("*", {}, **later))
    assert [job.job_id for job in service.jobs.all()] == ["waiting", "second"]
    await service.fails(400, "ArgumentInvalid", "PUT", "/jobs/v2/third", twin_update("*", {}))


async def test_close(service: Service) -> None:
    """Closing ends jobs that wait, and leaves no task behind."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await service.call("PUT", "/jobs/v2/j", twin_update("*", {}, startTime=later))
    await soon(service.jobs.close())
    assert service.jobs.get("j").status is JobStatus.SCHEDULED
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("testbench-job")]
