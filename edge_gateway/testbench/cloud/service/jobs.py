"""Jobs: the same twin update or direct method for all devices a condition chooses (REST `/jobs/v2`).

A job waits for its start, chooses its devices then, works on some of them at a time, and ends when all have an outcome
or its time is over. What was done for each device stays readable by queries on `devices.jobs`.

Times of jobs are wall time by the hub's clock; waiting is the event loop's, so that a test's clock moves no job.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.service.documents import (
    DocumentRefused,
    change_twin,
    identities,
    twin_document,
)
from edge_gateway.testbench.cloud.service.query import Condition, parse_condition

if TYPE_CHECKING:  # the hub's own routes come from modules that use this one
    from edge_gateway.testbench.cloud.hub import LocalHub

_log = structlog.get_logger()

MAX_JOBS = 1000
"""Kept at once; of those that have ended the oldest make room."""
_AT_A_TIME = 10
_EXECUTION_S = 3600
_MAX_EXECUTION_S = 30 * 24 * 3600
METHOD_TIMEOUT_S = 30.0
MIN_METHOD_TIMEOUT_S, MAX_METHOD_TIMEOUT_S = 5.0, 300.0
"""How long a device may take to answer a method."""


class JobNotFound(BenchError):
    """No job has this name."""


class JobExists(BenchError):
    """A job has this name already."""


class JobStatus(enum.Enum):
    """Of a job, and of what it does for a device; the values are those of documents."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more will happen."""
        return self not in (JobStatus.SCHEDULED, JobStatus.RUNNING)


class JobKind(enum.Enum):
    """What a job does; the values are those of documents."""

    TWIN_UPDATE = "scheduleUpdateTwin"
    METHOD = "scheduleDeviceMethod"


@dataclass(frozen=True, slots=True)
class MethodCall:
    """A direct method to call."""

    name: str
    payload: Any
    timeout_s: float
    connect_timeout_s: float


@dataclass(slots=True)
class DeviceJob:
    """What a job does for one device."""

    device_id: str
    changed_ns: int
    status: JobStatus = JobStatus.SCHEDULED
    start_ns: int = 0
    response: dict[str, Any] | None = None
    """A method's answer: status and payload."""
    failure: str = ""


@dataclass(slots=True)
class Job:
    """A job, from its request to its end."""

    job_id: str
    kind: JobKind
    condition_text: str
    condition: Condition
    request: Any
    """The twin's patch, or the method as it was written."""
    created_ns: int
    start_ns: int
    execution_s: float
    status: JobStatus = JobStatus.SCHEDULED
    end_ns: int = 0
    devices: list[DeviceJob] = field(default_factory=list)


class Jobs:
    """A hub's jobs.

    Args:
        hub: whose devices they are for.
    """

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, job_id: str, document: Any) -> Job:
        """Plan a job as a service has written it.

        Args:
            job_id: its name.
            document: `{"type", "queryCondition", "updateTwin" | "cloudToDeviceMethod", "startTime",
                "maxExecutionTimeInSeconds"}`.

        Raises:
            JobExists: there is one of that name.
            DocumentRefused: it is none.
            QueryRefused: its condition is none.
        """
        if job_id in self._jobs:
            raise JobExists("the job exists already", where=job_id, remedy="Give it another name")
        job = self._planned(job_id, document)
        for old in [each for each in self._jobs.values() if each.status.ended][
            : max(0, len(self._jobs) + 1 - MAX_JOBS)
        ]:
            del self._jobs[old.job_id]
        if len(self._jobs) >= MAX_JOBS:
            raise DocumentRefused(f"{MAX_JOBS} jobs wait or run already", where=job_id, remedy="Cancel some")
        self._jobs[job_id] = job
        task = asyncio.get_running_loop().create_task(self._run(job), name=f"testbench-job-{job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))
        return job

    def get(self, job_id: str) -> Job:
        """A job by its name.

        Raises:
            JobNotFound: there is none.
        """
        if job_id not in self._jobs:
            raise JobNotFound("no such job", where=job_id, remedy="Old ones are forgotten")
        return self._jobs[job_id]

    def all(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def cancel(self, job_id: str) -> Job:
        """End a job before it would; what it has done stays done.

        Raises:
            JobNotFound: there is none.
        """
        job = self.get(job_id)
        if not job.status.ended:
            self._end(job, JobStatus.CANCELLED)
            self._tasks[job_id].cancel()
        return job

    async def close(self) -> None:
        """End all jobs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def device_documents(self) -> list[dict[str, Any]]:
        """What queries on `devices.jobs` see."""
        return [_device_document(job, each) for job in self._jobs.values() for each in job.devices]

    def _planned(self, job_id: str, document: Any) -> Job:
        if not isinstance(document, Mapping):
            raise _refused("not a JSON object", job_id)
        try:
            kind = JobKind(document.get("type"))
        except ValueError:
            kinds = " or ".join(each.value for each in JobKind)
            raise _refused(f"job type {document.get('type')!r}", job_id, f"Use {kinds}") from None
        request = document.get("updateTwin" if kind is JobKind.TWIN_UPDATE else "cloudToDeviceMethod")
        if not isinstance(request, Mapping):
            raise _refused("what to do is not a JSON object", job_id)
        if kind is JobKind.METHOD:
            method_call(request, job_id)
        condition_text = document.get("queryCondition")
        if not isinstance(condition_text, str):
            raise _refused("queryCondition is not a text", job_id, "Use * for every device")
        execution_s = document.get("maxExecutionTimeInSeconds") or _EXECUTION_S
        if not isinstance(execution_s, int | float) or not 0 < execution_s <= _MAX_EXECUTION_S:
            raise _refused("maxExecutionTimeInSeconds is no time in seconds", job_id)
        now_ns = self._hub.now_ns()
        return Job(
            job_id,
            kind,
            condition_text,
            parse_condition(condition_text, f"job {job_id}"),
            dict(request),
            now_ns,
            _time_ns(document.get("startTime"), now_ns, job_id),
            execution_s,
        )

    async def _run(self, job: Job) -> None:
        await asyncio.sleep(max(0.0, (job.start_ns - self._hub.now_ns()) / NS_PER_S))
        job.status = JobStatus.RUNNING
        chosen = [
            identity
            for identity in identities(self._hub, modules=False)
            if job.condition.holds(twin_document(self._hub, identity))
        ]
        job.devices = [DeviceJob(identity.device_id, self._hub.now_ns()) for identity in chosen]
        self._hub.changed()
        work = self._update_twin if job.kind is JobKind.TWIN_UPDATE else self._call_method
        places = asyncio.Semaphore(_AT_A_TIME)
        try:
            async with asyncio.timeout(job.execution_s), asyncio.TaskGroup() as group:
                for device in job.devices:
                    group.create_task(
                        self._do(job, device, work, places), name=f"testbench-job-{job.job_id}-{device.device_id}"
                    )
        except TimeoutError:
            for device in job.devices:
                if not device.status.ended:
                    self._settle(device, JobStatus.FAILED, "the job's time is over")
        failed = any(device.status is JobStatus.FAILED for device in job.devices)
        self._end(job, JobStatus.FAILED if failed else JobStatus.COMPLETED)

    async def _do(
        self,
        job: Job,
        device: DeviceJob,
        work: Callable[[Job, DeviceJob], Coroutine[Any, Any, None]],
        places: asyncio.Semaphore,
    ) -> None:
        async with places:
            device.status, device.start_ns = JobStatus.RUNNING, self._hub.now_ns()
            try:
                await work(job, device)
            except BenchError as error:  # it fails for this device, whatever the reason, and for no other
                self._settle(device, JobStatus.FAILED, str(error))
            else:
                self._settle(device, JobStatus.COMPLETED)

    async def _update_twin(self, job: Job, device: DeviceJob) -> None:
        etag = job.request.get("etag")
        change_twin(
            self._hub,
            IdentityName(device.device_id),
            job.request,
            etag=None if etag in (None, "", "*") else etag,
            replaces=False,
        )

    async def _call_method(self, job: Job, device: DeviceJob) -> None:
        call = method_call(job.request, job.job_id)
        response = await self._hub.invoke_method(
            device.device_id,
            call.name,
            call.payload,
            timeout_s=call.timeout_s,
            connect_timeout_s=call.connect_timeout_s,
        )
        device.response = {"status": response.status, "payload": response.payload}

    def _settle(self, device: DeviceJob, status: JobStatus, failure: str = "") -> None:
        device.status, device.failure, device.changed_ns = status, failure, self._hub.now_ns()

    def _end(self, job: Job, status: JobStatus) -> None:
        job.status, job.end_ns = status, self._hub.now_ns()
        for device in job.devices:
            if not device.status.ended:
                self._settle(device, status)
        _log.info("testbench.jobs.ended", job=job.job_id, status=status.value, devices=len(job.devices))
        self._hub.changed()


def method_call(document: Any, where: str) -> MethodCall:
    """A direct method as a service has written it.

    Args:
        document: `{"methodName", "payload", "responseTimeoutInSeconds", "connectTimeoutInSeconds"}`.
        where: what it is for, in errors.

    Raises:
        DocumentRefused: it is none, or a time is out of bounds.
    """
    if not isinstance(document, Mapping) or not isinstance(name := document.get("methodName"), str) or not name:
        raise _refused("there is no methodName", where)
    timeout_s = document.get("responseTimeoutInSeconds")
    timeout_s = METHOD_TIMEOUT_S if timeout_s is None else timeout_s
    connect_timeout_s = document.get("connectTimeoutInSeconds")
    connect_timeout_s = 0 if connect_timeout_s is None else connect_timeout_s
    if not _is_between(timeout_s, MIN_METHOD_TIMEOUT_S, MAX_METHOD_TIMEOUT_S):
        raise _refused("responseTimeoutInSeconds out of bounds", where, "Use 5 to 300")
    if not _is_between(connect_timeout_s, 0, MAX_METHOD_TIMEOUT_S):
        raise _refused("connectTimeoutInSeconds out of bounds", where, "Use 0 to 300")
    return MethodCall(name, document.get("payload"), timeout_s, connect_timeout_s)


def job_document(job: Job) -> dict[str, Any]:
    """A job as services read it."""
    states = [device.status for device in job.devices]
    return {
        "jobId": job.job_id,
        "type": job.kind.value,
        "queryCondition": job.condition_text,
        "updateTwin" if job.kind is JobKind.TWIN_UPDATE else "cloudToDeviceMethod": job.request,
        "createdTime": rfc3339(job.created_ns),
        "startTime": rfc3339(job.start_ns),
        "endTime": rfc3339(job.end_ns) if job.end_ns else None,
        "maxExecutionTimeInSeconds": job.execution_s,
        "status": job.status.value,
        "deviceJobStatistics": {
            "deviceCount": len(states),
            "failedCount": states.count(JobStatus.FAILED),
            "succeededCount": states.count(JobStatus.COMPLETED),
            "runningCount": states.count(JobStatus.RUNNING),
            "pendingCount": states.count(JobStatus.SCHEDULED),
        },
    }


def _device_document(job: Job, device: DeviceJob) -> dict[str, Any]:
    document: dict[str, Any] = {
        "deviceId": device.device_id,
        "jobId": job.job_id,
        "jobType": job.kind.value,
        "status": device.status.value,
        "createdDateTimeUtc": rfc3339(job.created_ns),
        "lastUpdatedDateTimeUtc": rfc3339(device.changed_ns),
        "startTimeUtc": rfc3339(device.start_ns) if device.start_ns else None,
        "endTimeUtc": rfc3339(device.changed_ns) if device.status.ended else None,
        "outcome": {"deviceMethodResponse": device.response},
    }
    if device.failure:
        document["error"] = {"code": "DeviceJobFailed", "description": device.failure}
    return document


def _time_ns(text: Any, otherwise_ns: int, where: str) -> int:
    if text is None or text == "":
        return otherwise_ns
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * NS_PER_S)
    except (TypeError, ValueError, OverflowError):
        raise _refused("startTime is no time", where, "Use ISO 8601, e.g. 2026-05-01T12:00:00Z") from None


def _is_between(value: Any, lowest: float, highest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _refused(what: str, where: str, remedy: str = "See the REST reference of IoT Hub") -> DocumentRefused:
    return DocumentRefused(what, where=where, remedy=remedy)
