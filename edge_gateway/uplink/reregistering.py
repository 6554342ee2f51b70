"""Has a gateway registered anew when its hub does not want it any more, or is gone.

A hub's customer may move a device to another hub, and a TPM's key at the hub may be a newer one than the TPM's, because
the power failed between the two. The provisioning service knows what is right, so it is asked: at once when the hub
refuses the gateway, after an hour when the hub is not reached, and never more often than once an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from edge_gateway.errors import GatewayError, UplinkError, UplinkRefused
from edge_gateway.uplink import Downlink, Session, Uplink

_log = structlog.get_logger()

_ASK_EVERY_S: Final = 3600.0
_WITHIN_S: Final = 120.0
"""A service that takes longer is asked the next time; meanwhile the hub may be there again."""


class Reregistering:
    """`Uplink` as another one.

    Args:
        uplink: finds out for each session who the gateway is.
        register: asks the service; returns False if the gateway came by none, raises a GatewayError if it says no.
    """

    def __init__(self, uplink: Uplink, register: Callable[[], Awaitable[bool]]) -> None:
        self._uplink = uplink
        self._register = register
        self._asked_at_s = float("-inf")
        self._failing_since_s: float | None = None

    @property
    def endpoint(self) -> str:
        """See `Uplink.endpoint`."""
        return self._uplink.endpoint

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        is_up = False
        try:
            async with self._uplink.connect(downlink) as session:
                is_up = True
                self._failing_since_s = None
                yield session
        except UplinkError as error:
            if not is_up:
                await self._consider(error)
            raise

    async def _consider(self, error: UplinkError) -> None:
        """Ask, if it is time to."""
        now_s = asyncio.get_running_loop().time()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        is_gone = isinstance(error, UplinkRefused) or now_s - self._failing_since_s >= _ASK_EVERY_S
        if not is_gone or now_s - self._asked_at_s < _ASK_EVERY_S:
            return
        self._asked_at_s = now_s
        try:
            async with asyncio.timeout(_WITHIN_S):
                is_done = await self._register()
        except GatewayError as told:
            _log.warning("uplink.not_registered", endpoint=self.endpoint, reason=str(told))
        except TimeoutError:
            _log.warning("uplink.not_registered", endpoint=self.endpoint, reason="the service takes too long")
        else:
            if is_done:
                _log.info("uplink.registered", endpoint=self.endpoint)
