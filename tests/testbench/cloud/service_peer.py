"""A service that calls a hub's REST API over plain HTTP, with the token of a policy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from edge_gateway.testbench import LocalHub
from edge_gateway.testbench.cloud.service.configurations import Configurations
from edge_gateway.testbench.cloud.service.jobs import Jobs
from edge_gateway.testbench.cloud.service.rest import routes
from edge_gateway.testbench.cloud.tokens import sas_token

from .https_peers import http_client
from .mqtt_client import soon

VERSION = "api-version=2021-04-12"


def policy_token(hub: LocalHub, policy: str = "iothubowner") -> str:
    return sas_token(hub.host_name, hub.policies[policy].primary_key, int(time.time()) + 60, policy=policy)


class Service:
    """Makes calls; what it returns is the answer's body, and it fails on another status than expected."""

    def __init__(self, hub: LocalHub, session: aiohttp.ClientSession, jobs: Jobs) -> None:
        self.hub = hub
        self.jobs = jobs
        self.headers: Mapping[str, str] = {}
        """Of the last answer."""
        self.session = session

    async def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        expect: int = 200,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        policy: str = "iothubowner",
    ) -> Any:
        sent = {"Authorization": policy_token(self.hub, policy), **(headers or {})}
        data = orjson.dumps(document) if document is not None else body
        url = f"{path}{'&' if '?' in path else '?'}{VERSION}"
        response = await soon(self.session.request(method, url, data=data, headers=sent))
        content = await response.read()
        assert response.status == expect, content
        self.headers = response.headers
        return orjson.loads(content) if content else None

    async def fails(self, status: int, code: str, method: str, path: str, document: Any = None, **options: Any) -> str:
        """A call that is refused; its sentence."""
        answer = await self.call(method, path, document, expect=status, **options)
        head, _, text = answer["Message"].partition(";")
        assert head == f"ErrorCode:{code}"
        assert ";" not in text, "the Node SDK would cut it"
        return str(text)


@asynccontextmanager
async def service_of(hub: LocalHub) -> AsyncIterator[Service]:
    jobs = Jobs(hub)
    try:
        async with http_client(routes(hub, configurations=Configurations(hub), jobs=jobs)) as session:
            yield Service(hub, session, jobs)
    finally:
        await jobs.close()
