"""A wipe of a gateway that runs: mark, tell the hub, fall silent, destroy, stop.

The mark comes before the alert, so that a power cut while the hub is being told ends wiped as well. The alert has a few
seconds and no more, because whoever opened the box may pull the plug.

Who asks, be it a tamper input, a rule, a direct method or a command on the box, asks `Emergency.begin`, which returns
when the mark is durable, so that the asker can be answered while there is a session. `Emergency.run` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog

from edge_gateway.clock import Clock, stamp
from edge_gateway.emergency.mark import WipeReport
from edge_gateway.emergency.revocable import RevocableKeyStore
from edge_gateway.emergency.tamper.watch import TamperWatch
from edge_gateway.emergency.threads import in_thread
from edge_gateway.emergency.wipe import Wipe
from edge_gateway.errors import GatewayError
from edge_gateway.records import Command, CommandResult, CommandStatus, Event

_log = structlog.get_logger()

WIPE_COMMAND: Final = "wipe-keys"
"""The gateway's own command. Its argument `confirm` is the gateway's name, unless a rule of the gateway's sends it."""

_FROM_A_RULE: Final = "rule:"
_FALLS_SILENT_WITHIN_S: Final = 2.0
"""How long sessions may take to end before keys go all the same."""


class RunningGateway(Protocol):
    """What a gateway that runs does in an emergency."""

    async def alert(self, event: Event) -> None:
        """Make an event durable, and return when the hub has confirmed it. Cancelled when it takes too long."""
        ...

    async def fall_silent(self) -> None:
        """End all sessions with the hub, and begin no other. Cancelled when it takes too long."""
        ...


class Emergency:
    """Waits for a reason to wipe, and does it.

    Args:
        gateway: its name.
        wipe: the wipe; its key store is `keys`.
        keys: what the rest of the gateway signs with.
        watches: the tamper inputs.
        clock: stamps the alert.
        alert_within_s: how long the hub may take to confirm the alert.
    """

    def __init__(
        self,
        gateway: str,
        wipe: Wipe,
        keys: RevocableKeyStore,
        watches: Sequence[TamperWatch] = (),
        *,
        clock: Clock,
        alert_within_s: float = 3.0,
    ) -> None:
        self._gateway = gateway
        self._wipe = wipe
        self._keys = keys
        self._watches = tuple(watches)
        self._clock = clock
        self._alert_within_s = alert_within_s
        self._source = ""
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self.report: WipeReport | None = None
        """How the wipe stands; None if none was begun."""

    @property
    def faults(self) -> list[str]:
        """What is wrong with the tamper inputs, a sentence each."""
        return [f"tamper input {each.name}: {each.fault}" for each in self._watches if each.fault]

    def status(self) -> dict[str, Any]:
        """The tamper inputs and the wipe, as JSON can say it."""
        return {
            "inputs": [each.status() for each in self._watches],
            "wipe": None if self.report is None else {"reason": self.report.reason, "done": self.report.done},
        }

    async def begin(self, reason: str, *, source: str) -> None:
        """Begin a wipe, which goes on by itself; returns when no power cut can stop it any more.

        Args:
            reason: who or what asks, for people.
            source: the same for the alert, as `Event.source`.

        Raises:
            ConfigError: the data directory is gone.
        """
        if self.report is None:
            self._source = source
            self.report = await in_thread(partial(self._wipe.begin, reason), name="wipe")
            self._begun.set()

    async def ended(self) -> WipeReport:
        """Wait until a wipe that was begun has ended."""
        await self._ended.wait()
        assert self.report is not None  # noqa: S101  # set before the event is
        return self.report

    async def run_command(self, command: Command) -> CommandResult:
        """Carry out `wipe-keys`. The answer can still be sent when this returns."""
        confirm = command.arguments.get("confirm")
        if not command.source.startswith(_FROM_A_RULE) and confirm != self._gateway:
            return CommandResult(
                CommandStatus.INVALID,
                f"{WIPE_COMMAND} destroys all keys of this gateway for good; to mean it, give its name: "
                f'{{"confirm": "{self._gateway}"}}',
            )
        try:
            await self.begin(f"command {WIPE_COMMAND} by {command.source}", source=command.source)
        except GatewayError as error:
            return CommandResult(CommandStatus.REFUSED, str(error))
        return CommandResult(CommandStatus.ACKNOWLEDGED, "the wipe has begun and cannot be stopped")

    async def run(self, gateway: RunningGateway, stop: asyncio.Event) -> None:
        """Watch the tamper inputs, and if there is ever a reason, wipe and have the gateway stop.

        Whatever happens during a wipe, a cancellation too, it is ended first.

        Args:
            gateway: the one that runs.
            stop: set when all is destroyed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = [
                    tasks.create_task(self._watch(each), name=f"tamper input {each.name}") for each in self._watches
                ]
                await self._begun.wait()
                for task in watching:
                    task.cancel()
            await self._tell(gateway)
            self._keys.revoke()
            self.report = await in_thread(self._wipe.finish, name="wipe")
            self._ended.set()
        finally:
            if self._begun.is_set():
                if not self._ended.is_set():
                    self._keys.revoke()
                    self.report = self._wipe.finish()
                    self._ended.set()
                stop.set()

    async def _watch(self, watch: TamperWatch) -> None:
        await watch.tampered()
        try:
            await self.begin(f"tamper input {watch.name}", source=f"tamper:{watch.name}")
        except GatewayError as error:
            _log.error("wipe.impossible", reason=str(error))

    async def _tell(self, gateway: RunningGateway) -> None:
        """Tell the hub if it can be told in time, and end the sessions with it."""
        assert self.report is not None  # noqa: S101  # begun
        time_ns, time_trusted, uptime_ns = stamp(self._clock)
        values = {"emergency": "wipe", "reason": self.report.reason}
        event = Event(self._gateway, self._source, "alert-raised", time_ns, values, time_trusted, uptime_ns)
        for doing, call, within_s in (
            ("alert", partial(gateway.alert, event), self._alert_within_s),
            ("sessions", gateway.fall_silent, _FALLS_SILENT_WITHIN_S),
        ):
            try:
                # Waited for from outside: what clings to a cancellation must not hold up a wipe.
                task = asyncio.create_task(call(), name=f"wipe {doing}")
                done, _ = await asyncio.wait((task,), timeout=within_s)
                if not done:
                    task.cancel()
                    _log.warning("wipe.not_in_time", doing=doing, within_s=within_s)
                else:
                    task.result()
            except GatewayError as error:
                _log.warning("wipe.not_told", doing=doing, reason=str(error))
