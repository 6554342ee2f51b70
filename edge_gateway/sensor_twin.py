"""The twin of a sensor that has an identity of its own: desired properties become commands.

A desired property that is called as a command of the sensor's profile is that command, with the property as its
arguments. It is sent until the sensor has obeyed, or refused. How it went is reported under the same name, in the form
the IoT Plug and Play convention gives to writable properties:
https://learn.microsoft.com/azure/iot/concepts-convention#writable-properties

```json
{"desired":  {"set-relay": {"state": 1}}}
{"reported": {"set-relay": {"value": {"state": 1}, "ac": 200, "av": 7, "ad": ""}}}
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import structlog

from edge_gateway.records import Command, CommandResult, CommandStatus, Value
from edge_gateway.uplink.commands import HTTP_STATUS

_log = structlog.get_logger()

_TRY_AGAIN_S: Final = 60.0

_LATER: Final = (CommandStatus.UNREACHABLE, CommandStatus.NO_ANSWER)
"""Outcomes that another day may be others."""


class SensorTwin:
    """What is desired of one sensor, and what has become of it.

    Args:
        device: the sensor.
        commands: of its profile; other properties are somebody else's.
        run_command: brings a command to it.
        about: what to report of it besides.
    """

    def __init__(
        self,
        device: str,
        commands: Collection[str],
        run_command: Callable[[Command], Awaitable[CommandResult]],
        about: Callable[[], Mapping[str, Value]],
    ) -> None:
        self._device = device
        self._commands = frozenset(commands)
        self._run_command = run_command
        self._about = about
        self._desired: dict[str, Any] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._version = 0
        self._changed = asyncio.Event()

    async def apply(self, desired: Mapping[str, Value], whole: bool) -> None:
        """Desired properties came, all of them or those that changed."""
        version = desired.get("$version")
        self._version = version if isinstance(version, int) else self._version
        if whole:
            for name in [name for name in self._desired if name not in desired]:
                self._forget(name)
        for name, wanted in desired.items():
            if name not in self._commands:
                continue
            if wanted is None:
                self._forget(name)
            elif wanted != self._desired.get(name):
                self._forget(name)
                self._desired[name] = wanted
        self._changed.set()

    def reported(self) -> Mapping[str, Value]:
        """See `Downlink.reported`."""
        return {**self._about(), **self._answers}

    async def run(self) -> None:
        """Send what is desired and not obeyed yet, until cancelled."""
        while True:
            self._changed.clear()
            for name in [name for name in self._desired if name not in self._answers]:
                await self._obey(name)
            is_done = self._desired.keys() <= self._answers.keys()
            try:
                async with asyncio.timeout(None if is_done else _TRY_AGAIN_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _obey(self, name: str) -> None:
        wanted, version = self._desired.get(name), self._version
        if not isinstance(wanted, Mapping):
            status, detail = HTTP_STATUS[CommandStatus.INVALID], 'give the arguments as an object, as in {"state": 1}'
        else:
            result = await self._run_command(Command(self._device, name, dict(wanted), "twin"))
            if result.status in _LATER:
                return
            status, detail = HTTP_STATUS[result.status], result.detail
        if self._desired.get(name) is wanted:  # not another one meanwhile
            self._answers[name] = {"value": wanted, "ac": status, "av": version, "ad": detail[:1000]}
            _log.info("twin.obeyed", device=self._device, command=name, status=status)

    def _forget(self, name: str) -> None:
        self._desired.pop(name, None)
        self._answers.pop(name, None)
