"""The calls of services on identities: one by one, in bulk, and how many there are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.https import HttpRefused, read_json
from edge_gateway.testbench.cloud.identity import AGENT, HUB, Identity, IdentityName
from edge_gateway.testbench.cloud.refusals import EtagMismatch, IdentityExists, IdentityNotFound
from edge_gateway.testbench.cloud.service.configurations import Configurations
from edge_gateway.testbench.cloud.service.documents import (
    DocumentRefused,
    change_twin,
    device_document,
    identity_from,
    module_document,
)
from edge_gateway.testbench.cloud.service.requests import answer, known_etag, name_of, sentence, top
from edge_gateway.testbench.cloud.throttle import Operation

if TYPE_CHECKING:  # the hub imports this module
    from edge_gateway.testbench.cloud.hub import LocalHub

MAX_BULK_DEVICES = 100

_BULK_CODES: Mapping[type[BenchError], str] = {
    IdentityNotFound: "DeviceNotFound",
    IdentityExists: "DeviceAlreadyExists",
    EtagMismatch: "PreconditionFailed",
}


class RegistryCalls:
    """Identities of devices and modules."""

    def __init__(self, hub: LocalHub, configurations: Configurations) -> None:
        self._hub = hub
        self._configurations = configurations

    async def list_devices(self, request: web.Request) -> web.Response:
        """Devices, in the order they were added."""
        self._hub.throttle.admit(Operation.REGISTRY, "registry")
        devices = itertools.islice(self._hub.registry.devices(), top(request))
        return answer([device_document(self._hub, identity) for identity in devices])

    async def list_modules(self, request: web.Request) -> web.Response:
        """A device's modules."""
        self._hub.throttle.admit(Operation.REGISTRY, "registry")
        modules = self._hub.registry.modules(request.match_info["device_id"])
        return answer([module_document(self._hub, identity) for identity in modules])

    async def show(self, request: web.Request) -> web.Response:
        """A device or module."""
        self._hub.throttle.admit(Operation.REGISTRY, "registry")
        return self._shown(self._hub.registry.get(name_of(request)))

    async def put(self, request: web.Request) -> web.Response:
        """A new device or module, or with `If-Match` a changed one."""
        self._hub.throttle.admit(Operation.REGISTRY, "registry")
        name, document = name_of(request), await read_json(request)
        if "If-Match" not in request.headers:
            identity = self._create(name, document)
        else:
            known = self._hub.registry.get(name)
            identity = self._hub.registry.update(identity_from(self._hub, name, document, known), known_etag(request))
        self._configurations.evaluate()
        return self._shown(identity)

    async def remove(self, request: web.Request) -> web.Response:
        """Forget a device or module."""
        self._hub.throttle.admit(Operation.REGISTRY, "registry")
        self._hub.registry.remove(name_of(request), known_etag(request))
        return web.Response(status=204)

    async def change_devices(self, request: web.Request) -> web.Response:
        """Some devices at once: each is changed or not for itself, and errors say which were not."""
        documents = await read_json(request)
        if not isinstance(documents, list) or not 0 < len(documents) <= MAX_BULK_DEVICES:
            raise HttpRefused(
                400, "ArgumentInvalid", f"not a list of 1 to {MAX_BULK_DEVICES} devices", where=request.path
            )
        errors = []
        for document in documents:
            self._hub.throttle.admit(Operation.REGISTRY, "registry")
            try:
                self._change(document)
            except BenchError as error:
                errors.append(_bulk_error(document, error))
        self._configurations.evaluate()
        return answer({"isSuccessful": not errors, "errors": errors, "warnings": []}, status=400 if errors else 200)

    async def count_devices(self, _request: web.Request) -> web.Response:
        """How many devices there are."""
        enabled = [identity.enabled for identity in self._hub.registry.devices()]
        return answer(
            {
                "totalDeviceCount": len(enabled),
                "enabledDeviceCount": enabled.count(True),
                "disabledDeviceCount": enabled.count(False),
            }
        )

    async def count_connections(self, _request: web.Request) -> web.Response:
        """How many devices are connected."""
        return answer({"connectedDeviceCount": sum(map(self._hub.is_connected, self._hub.device_ids))})

    def _shown(self, identity: Identity) -> web.Response:
        document = module_document if identity.module_id else device_document
        return answer(document(self._hub, identity), identity.etag)

    def _create(self, name: IdentityName, document: Any) -> Identity:
        identity = self._hub.registry.add(identity_from(self._hub, name, document))
        if identity.edge and not identity.module_id:
            for module_id in (AGENT, HUB):
                self._hub.add_module(identity.device_id, module_id)
        return identity

    def _change(self, document: Any) -> None:
        """One device of a bulk change, as its import mode says. That none means createOrUpdate is UNVERIFIED."""
        device_id, module_id = (
            (document.get("id"), document.get("moduleId") or "") if isinstance(document, Mapping) else (None, "")
        )
        if not isinstance(device_id, str) or not isinstance(module_id, str):
            raise DocumentRefused("there is no id", where="devices", remedy="Give each device one")
        name = IdentityName(device_id, module_id)
        mode = str(document.get("importMode") or "createOrUpdate").lower()
        matches = mode.endswith("ifmatchetag")
        etag = document.get("eTag") or document.get("etag") if matches else None
        if matches and not etag:
            raise EtagMismatch("there is no eTag to match", where=str(name), remedy="Read the device first")
        registry = self._hub.registry
        match mode.removesuffix("ifmatchetag"):
            case "create":
                self._create(name, document)
            case "createorupdate":
                try:
                    known = registry.get(name)
                except IdentityNotFound:
                    self._create(name, document)
                else:
                    registry.update(identity_from(self._hub, name, document, known))
            case "update":
                registry.update(identity_from(self._hub, name, document, registry.get(name)), etag)
            case "delete":
                registry.remove(name, etag)
                return
            case "updatetwin":
                twin_etag = document.get("twinETag") if matches else None
                change_twin(self._hub, name, document, etag=twin_etag, replaces=False)
                return
            case _:
                raise DocumentRefused(f"importMode {mode!r}", where=str(name), remedy="Use create, update or delete")
        if document.get("tags") is not None or document.get("properties") is not None:
            change_twin(self._hub, name, document, etag=None, replaces=False)


def _bulk_error(document: Any, error: BenchError) -> dict[str, Any]:
    known = document if isinstance(document, Mapping) else {}
    return {
        "deviceId": known.get("id"),
        "moduleId": known.get("moduleId"),
        "errorCode": _BULK_CODES.get(type(error), "ArgumentInvalid"),
        "errorStatus": sentence(error),
    }
