"""Looks at one tamper input again and again, until it is seen tampered with for long enough.

| What is seen | What follows |
| --- | --- |
| untouched for `hold_s` | the input is armed, also over restarts |
| tampered with for `hold_s`, and armed | the watch ends: there is a reason to wipe |
| tampered with, not armed | a fault in status: the lid was never closed, or the contact is wired the other way |
| nothing, it cannot be read | a fault in status |
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import structlog

from edge_gateway.emergency.tamper import InputUnreadable, TamperInput
from edge_gateway.emergency.tamper.arming import Arming
from edge_gateway.emergency.tamper.hold import Hold
from edge_gateway.emergency.threads import in_thread

_log = structlog.get_logger()

_NOT_ARMED = (
    "it is tampered with, and is not armed, as it was never seen untouched with these settings. Close the box; or if "
    "it is closed, `tampered_when` is the wrong way round"
)


class TamperWatch:
    """A tamper input with what decides about it.

    Args:
        name: the input's, in status and reason.
        source: the input.
        hold_s: how long a state has to hold to be believed.
        look_every_s: how often it is looked at.
        arming: remembers what was seen.
        settings: the input's settings as text; `arming` knows it by these.
    """

    def __init__(
        self, name: str, source: TamperInput, *, hold_s: float, look_every_s: float, arming: Arming, settings: str
    ) -> None:
        self.name = name
        self._source = source
        self._look_every_s = look_every_s
        self._arming = arming
        self._settings = settings
        self._tampered = Hold(hold_s, most_gap_s=2 * look_every_s)
        self._untouched = Hold(hold_s, most_gap_s=2 * look_every_s)
        self._state = "unknown"
        self.fault = ""
        """Why it does not protect anything now, with what to do about it; empty while it does."""

    def status(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "name": self.name,
            "state": self._state,
            "armed": self._arming.is_armed(self._settings),
            "fault": self.fault,
        }

    async def tampered(self) -> None:
        """Return when it was tampered with for long enough; not before."""
        try:
            while True:
                if await self._look():
                    _log.error("tamper.detected", input=self.name)
                    return
                await asyncio.sleep(self._look_every_s)
        finally:
            self._source.close()  # a look that is still under way fails, and nobody hears of it

    async def _look(self) -> bool:
        seen: bool | None = None
        fault = ""
        try:
            seen = await in_thread(self._source.is_tampered, name=f"tamper {self.name}")
        except InputUnreadable as error:
            fault = str(error)
        now_s = asyncio.get_running_loop().time()
        self._state = "unknown" if seen is None else "tampered" if seen else "untouched"
        armed = self._arming.is_armed(self._settings)
        if self._untouched.look(seen is False, now_s) and not armed:
            await in_thread(partial(self._arming.arm, self._settings), name=f"tamper {self.name}")
            _log.info("tamper.armed", input=self.name)
        holds = self._tampered.look(seen is True, now_s)
        if seen is True and not armed:
            fault = _NOT_ARMED
        if fault and not self.fault:
            _log.error("tamper.failing", input=self.name, reason=fault)
        elif self.fault and not fault:
            _log.info("tamper.recovered", input=self.name)
        self.fault = fault
        return holds and armed
