"""What services ask a hub for over HTTPS: the calls of IoT Hub's REST API that the service SDKs make.

Identities one by one and in bulk, modules, twins, queries, direct methods, jobs, configurations, statistics, purging
of queues and feedback; api-version 2021-04-12, any other is taken as well. One call is the bench's own:
`POST /devices/{device}/messages/devicebound` sends a message to a device, for those who do not speak AMQP. Its headers
are those of messages in the other direction: `iothub-messageid`, `iothub-ack`, `iothub-expiry`, `iothub-app-{name}`.

A caller shows a token of one of the hub's policies. Which right a call needs is documented for identities (registry
read, registry write) and for twins, methods, queries, jobs and messages (service connect); for configurations and
statistics it is UNVERIFIED. An etag comes in `If-Match`, with or without quotes; `*` and, where a thing is deleted or
its twin written, none at all take any.

Not here: import and export jobs, which need a storage account, and digital twins.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.https import HttpRefused, read_json
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.service.configurations import (
    ConfigurationExists,
    ConfigurationNotFound,
    Configurations,
    check_queries,
)
from edge_gateway.testbench.cloud.service.documents import change_twin, twin_document
from edge_gateway.testbench.cloud.service.jobs import JobExists, JobNotFound, Jobs, job_document, method_call
from edge_gateway.testbench.cloud.service.messages import MessageCalls
from edge_gateway.testbench.cloud.service.query import Collection, QueryRefused, parse_query
from edge_gateway.testbench.cloud.service.registry import RegistryCalls
from edge_gateway.testbench.cloud.service.requests import answer, known_etag, max_items, name_of, paged, sentence, top
from edge_gateway.testbench.cloud.throttle import Operation
from edge_gateway.testbench.cloud.tokens import Right

if TYPE_CHECKING:  # the hub imports this module
    from edge_gateway.testbench.cloud.hub import LocalHub

_REFUSALS: Mapping[type[BenchError], tuple[int, str]] = {
    ConfigurationNotFound: (404, "ConfigurationNotFound"),
    ConfigurationExists: (409, "ConfigurationAlreadyExists"),
    JobNotFound: (404, "JobNotFound"),
    JobExists: (409, "JobAlreadyExists"),
    QueryRefused: (400, "ArgumentInvalid"),
}
"""What `https` does not know the answers to. That IoT Hub has these codes is UNVERIFIED."""

_Call: TypeAlias = Callable[[web.Request], Coroutine[Any, Any, web.Response]]


def routes(
    hub: LocalHub, *, configurations: Configurations | None = None, jobs: Jobs | None = None
) -> list[web.RouteDef]:
    """A hub's answers to services.

    Args:
        hub: which one.
        configurations: the hub's; made here if nobody else needs them.
        jobs: the hub's; made here if nobody else needs them.
    """
    configurations = configurations if configurations is not None else Configurations(hub)
    jobs = jobs if jobs is not None else Jobs(hub)
    read, write, serve = Right.REGISTRY_READ, Right.REGISTRY_WRITE, Right.SERVICE_CONNECT
    registry = RegistryCalls(hub, configurations)
    twins = _TwinCalls(hub, configurations, jobs)
    messages = MessageCalls(hub)
    settings = _ConfigurationCalls(hub, configurations)
    planned = _JobCalls(jobs)
    device, module = "/devices/{device_id}", "/devices/{device_id}/modules/{module_id}"
    feedback = "/messages/serviceBound/feedback"
    table: list[tuple[str, str, Right, _Call]] = [
        ("GET", "/devices", read, registry.list_devices),
        ("GET", "/devices/", read, registry.list_devices),  # as the Node SDK writes it
        ("POST", "/devices", write, registry.change_devices),
        ("GET", device, read, registry.show),
        ("PUT", device, write, registry.put),
        ("DELETE", device, write, registry.remove),
        ("GET", f"{device}/modules", read, registry.list_modules),
        ("GET", module, read, registry.show),
        ("PUT", module, write, registry.put),
        ("DELETE", module, write, registry.remove),
        ("GET", "/statistics/devices", read, registry.count_devices),
        ("GET", "/statistics/service", read, registry.count_connections),
        ("POST", "/devices/query", serve, twins.query),
        ("POST", f"{device}/applyConfigurationContent", write, settings.apply),
        ("DELETE", f"{device}/commands", serve, messages.purge),
        ("POST", f"{device}/messages/devicebound", serve, messages.send),
        ("GET", feedback, serve, messages.receive_feedback),
        ("DELETE", f"{feedback}/{{lock_token}}", serve, messages.complete_feedback),
        ("POST", f"{feedback}/{{lock_token}}/abandon", serve, messages.abandon_feedback),
        ("GET", "/configurations", read, settings.list_all),
        ("POST", "/configurations/testQueries", read, settings.check),
        ("GET", "/configurations/{configuration_id}", read, settings.show),
        ("PUT", "/configurations/{configuration_id}", write, settings.put),
        ("DELETE", "/configurations/{configuration_id}", write, settings.remove),
        ("GET", "/jobs/v2/query", serve, planned.list_all),
        ("GET", "/jobs/v2/{job_id}", serve, planned.show),
        ("PUT", "/jobs/v2/{job_id}", serve, planned.put),
        ("POST", "/jobs/v2/{job_id}/cancel", serve, planned.cancel),
    ]
    for twin in ("/twins/{device_id}", "/twins/{device_id}/modules/{module_id}"):
        table += [
            ("GET", twin, serve, twins.show),
            ("PATCH", twin, serve, twins.patch),
            ("PUT", twin, serve, twins.replace),
            ("POST", f"{twin}/methods", serve, twins.invoke),
        ]
    return [web.RouteDef(method, path, _admitted(hub, right, call), {}) for method, path, right, call in table]


def _admitted(hub: LocalHub, right: Right, call: _Call) -> Callable[[web.Request], Coroutine[Any, Any, web.Response]]:
    """A handler that lets only services in that have a right."""

    async def handle(request: web.Request) -> web.Response:
        hub.admit_service(request.headers.get("Authorization", ""), right, request.path)
        if "api-version" not in request.query:
            raise HttpRefused(400, "InvalidProtocolVersion", "there is no api-version", where=request.path)
        try:
            return await call(request)
        except tuple(_REFUSALS) as error:
            status, code = _REFUSALS[type(error)]
            raise HttpRefused(status, code, sentence(error), where=request.path) from error

    return handle


class _TwinCalls:
    """Twins, queries over them, and direct methods."""

    def __init__(self, hub: LocalHub, configurations: Configurations, jobs: Jobs) -> None:
        self._hub = hub
        self._configurations = configurations
        self._jobs = jobs

    async def show(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.TWIN_READ, "twins")
        return self._shown(name_of(request))

    async def patch(self, request: web.Request) -> web.Response:
        return await self._change(request, replaces=False)

    async def replace(self, request: web.Request) -> web.Response:
        return await self._change(request, replaces=True)

    async def query(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.QUERY, "queries")
        document = await read_json(request)
        if not isinstance(document, Mapping) or not isinstance(text := document.get("query"), str):
            raise HttpRefused(400, "ArgumentInvalid", "there is no query", where=request.path)
        query = parse_query(text)
        if query.collection is Collection.JOBS:
            documents = self._jobs.device_documents()
        else:
            documents = self._configurations.twins(query.collection)
        page = query.page(documents, max_items(request), request.headers.get("x-ms-continuation") or None)
        return paged(page.rows, query.item_type, page.continuation)

    async def invoke(self, request: web.Request) -> web.Response:
        name = name_of(request)
        call = method_call(await read_json(request), str(name))
        response = await self._hub.invoke_method(
            name.device_id,
            call.name,
            call.payload,
            module_id=name.module_id,
            timeout_s=call.timeout_s,
            connect_timeout_s=call.connect_timeout_s,
        )
        return answer({"status": response.status, "payload": response.payload})

    async def _change(self, request: web.Request, *, replaces: bool) -> web.Response:
        self._hub.throttle.admit(Operation.TWIN_UPDATE, "twins")
        name = name_of(request)
        change_twin(self._hub, name, await read_json(request), etag=known_etag(request), replaces=replaces)
        self._configurations.evaluate()
        return self._shown(name)

    def _shown(self, name: IdentityName) -> web.Response:
        identity = self._hub.registry.get(name)
        document = twin_document(self._hub, identity, self._configurations.statuses(name))
        return answer(document, document["etag"])


class _ConfigurationCalls:
    """Automatic configurations, and deployments to one edge device."""

    def __init__(self, hub: LocalHub, configurations: Configurations) -> None:
        self._hub = hub
        self._configurations = configurations

    async def list_all(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.CONFIGURATION, "configurations")
        configurations = self._configurations.all()[: top(request)]
        return answer([self._configurations.document(each) for each in configurations])

    async def show(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.CONFIGURATION, "configurations")
        configuration = self._configurations.get(request.match_info["configuration_id"])
        return answer(self._configurations.document(configuration), configuration.etag)

    async def put(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.CONFIGURATION, "configurations")
        configuration_id, document = request.match_info["configuration_id"], await read_json(request)
        creates = "If-Match" not in request.headers
        if creates:
            configuration = self._configurations.create(configuration_id, document)
        else:
            configuration = self._configurations.update(configuration_id, document, known_etag(request))
        document = self._configurations.document(configuration)
        return answer(document, configuration.etag, status=201 if creates else 200)

    async def remove(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.CONFIGURATION, "configurations")
        self._configurations.remove(request.match_info["configuration_id"], known_etag(request))
        return web.Response(status=204)

    async def check(self, request: web.Request) -> web.Response:
        document = await read_json(request)
        condition = document.get("targetCondition") or "" if isinstance(document, Mapping) else None
        queries = document.get("customMetricQueries") or {} if isinstance(document, Mapping) else None
        if not isinstance(condition, str) or not isinstance(queries, Mapping):
            raise HttpRefused(400, "ArgumentInvalid", "there is nothing to check", where=request.path)
        condition_error, metric_errors = check_queries(condition, {name: str(text) for name, text in queries.items()})
        return answer({"targetConditionError": condition_error or None, "customMetricQueryErrors": metric_errors})

    async def apply(self, request: web.Request) -> web.Response:
        self._hub.throttle.admit(Operation.CONFIGURATION, "configurations")
        self._configurations.apply_content(request.match_info["device_id"], await read_json(request))
        return web.Response(status=204)


class _JobCalls:
    """Twin updates and methods for many devices."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def put(self, request: web.Request) -> web.Response:
        return answer(job_document(self._jobs.add(request.match_info["job_id"], await read_json(request))))

    async def show(self, request: web.Request) -> web.Response:
        return answer(job_document(self._jobs.get(request.match_info["job_id"])))

    async def cancel(self, request: web.Request) -> web.Response:
        return answer(job_document(self._jobs.cancel(request.match_info["job_id"])))

    async def list_all(self, request: web.Request) -> web.Response:
        wanted = {"type": request.query.get("jobType"), "status": request.query.get("jobStatus")}
        documents = [
            document
            for document in map(job_document, self._jobs.all())
            if all(value in (None, "", document[member]) for member, value in wanted.items())
        ]
        continuation = request.headers.get("x-ms-continuation") or "0"
        if not continuation.isdecimal() or len(continuation) > 9:
            raise HttpRefused(400, "ArgumentInvalid", "the continuation is none of ours", where=request.path)
        start = int(continuation)
        end = start + max_items(request)
        return paged(documents[start:end], "JobResponse", str(end) if end < len(documents) else None)
