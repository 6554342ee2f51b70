"""The twin of an edge device's own module, `$edgeAgent` or `$edgeHub`: what the cloud wants of it, and what it reports.

Desired properties are fetched whole whenever they may have changed. What is reported is a state and not a series of
patches: whoever owns the twin says how things are, and the difference to what the hub has goes up as soon as it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import structlog

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.edge.twin import patch_between
from edge_gateway.testbench.cloud.edge.upstream import LinkDown, TwinRequestRefused, Upstream
from edge_gateway.testbench.cloud.hub_session import MethodResponse
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.cloud.topics import DESIRED_PATCHES, METHODS
from edge_gateway.testbench.cloud.twin import Section

_log = structlog.get_logger()

_BAD_REQUEST = 400
_AGAIN_AFTER_S = 1.0
"""After the hub refused: it may have been throttling."""


class SystemTwin:
    """One system module's way to the cloud.

    Args:
        upstream: the way up.
        name: whose twin.
        on_desired: called with the desired properties, `$version` among them, when they are new.
        on_method: answers direct methods at once.
    """

    def __init__(
        self,
        upstream: Upstream,
        name: IdentityName,
        *,
        on_desired: Callable[[Section], None],
        on_method: Callable[[str, Value], MethodResponse],
    ) -> None:
        self._name = name
        self._on_desired, self._on_method = on_desired, on_method
        self._state: Section = {}
        self._at_hub: Section = {}
        """What of it the hub has."""
        self._fresh = False
        """The twin has been fetched since it may have changed last."""
        self._version: Value = None
        self._changed = asyncio.Event()
        self._link = upstream.open(name, self)
        self._link.subscribe(DESIRED_PATCHES)
        self._link.subscribe(METHODS)

    def report(self, state: Section) -> None:
        """Say how things are now."""
        self._state = state
        self._changed.set()

    def close(self) -> None:
        """Be done. What was reported and has not gone up stays away."""
        self._link.close()

    async def run(self) -> None:
        """Keep both sides informed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.settle()
            except LinkDown:
                continue  # a new connection is a change
            except TwinRequestRefused as error:
                _log.warning("testbench.edge.twin_refused", module=str(self._name), status=error.status)
                if error.status != _BAD_REQUEST:  # which it would be again, until there is something else to report
                    await asyncio.sleep(_AGAIN_AFTER_S)
                    self._fresh = False
                    self._changed.set()

    async def settle(self) -> None:
        """Fetch what may be new, and bring up what the hub does not have.

        Raises:
            LinkDown: the hub is out of reach.
            TwinRequestRefused: the hub did not take or give something.
        """
        if not self._fresh:
            self._fresh = True  # before asking: what changes while the answer is on its way is asked for again
            twin = await self._link.get_twin()
            self._at_hub = {name: member for name, member in twin["reported"].items() if name != "$version"}
            if twin["desired"]["$version"] != self._version:
                self._version = twin["desired"]["$version"]
                self._on_desired(twin["desired"])
        state = self._state
        patch = patch_between(self._at_hub, state)
        if patch:
            await self._link.patch_reported(patch)
            self._at_hub = state

    # edge_upstream.Client

    def link_changed(self) -> None:
        """Compare with the hub anew when it is there again."""
        self._fresh = False
        self._changed.set()

    def told(self, packet: Publish) -> None:
        """Fetch new desired properties, or answer a method."""
        if packet.topic.startswith(DESIRED_PATCHES[:-1]):
            self._fresh = False  # the patch says what changed, the twin what is
            self._changed.set()
        elif packet.topic.startswith(METHODS[:-1]):
            name, _, request_id = packet.topic[len(METHODS) - 1 :].partition("/?$rid=")
            status, payload = self._on_method(name, orjson.loads(packet.payload or b"null"))
            self._link.publish(f"$iothub/methods/res/{status}/?$rid={request_id}", orjson.dumps(payload))
