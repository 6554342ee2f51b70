"""The way down: commands to devices, and what became of them."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from edge_gateway.buffer import Batch
from edge_gateway.buffer.intake import Intake
from edge_gateway.clock import Clock, stamp
from edge_gateway.errors import CommandInvalid
from edge_gateway.own_commands import OwnCommands
from edge_gateway.records import Command, CommandResult, CommandStatus, Event
from edge_gateway.roster import Roster

_log = structlog.get_logger()

MOST_WAITING_COMMANDS: Final = 16
"""Commands one device may have waiting for its turn."""


class WayDown:
    """What stands between whoever commands and the devices.

    Args:
        name: the gateway's own, by which it is commanded itself.
        own_commands: what it does then.
        roster: who can be commanded.
        intake: takes the results of what nobody waits for.
        clock: says when they came.
    """

    def __init__(self, name: str, own_commands: OwnCommands, roster: Roster, intake: Intake, clock: Clock) -> None:
        self._name = name
        self._own_commands = own_commands
        self._roster = roster
        self._intake = intake
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, command: Command) -> CommandResult:
        """Bring a command to its device and say how it ended. Never raises."""
        try:
            return await self._carry_out(command)
        except Exception:  # noqa: BLE001  # a fault of ours, which a hub would bring time and again if it ended us
            _log.exception("command.failed", device=command.device, command=command.name, source=command.source)
            return CommandResult(CommandStatus.NO_ANSWER, "the gateway itself has failed at it; its log says how")

    async def _carry_out(self, command: Command) -> CommandResult:
        device = self._roster.get(command.device)
        if device is None and command.device == self._name:
            return await self._own_commands.run(command)
        if device is None:
            return CommandResult(
                CommandStatus.INVALID, f"there is no device {command.device!r}; `edge-gateway status` lists them"
            )
        try:
            request = device.link.codec.encode_command(command.name, command.arguments, device.address)
        except CommandInvalid as error:
            return CommandResult(CommandStatus.INVALID, str(error))
        if device.waiting_commands >= MOST_WAITING_COMMANDS:
            return CommandResult(
                CommandStatus.UNREACHABLE, f"{MOST_WAITING_COMMANDS} commands wait for this device; try again later"
            )
        device.waiting_commands += 1
        try:
            async with device.turn:
                result = await device.link.request(request)
        finally:
            device.waiting_commands -= 1
        _log.info(
            "command.done",
            device=command.device,
            command=command.name,
            source=command.source,
            status=result.status.value,
            detail=result.detail,
        )
        return result

    def run_soon(self, command: Command) -> None:
        """Carry out a rule's command without keeping the link waiting for the answer that comes over it."""

        async def run() -> None:
            await self.report_result(command, await self.run(command))

        task = asyncio.create_task(run(), name=f"command {command.name} {command.device}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def report_result(self, command: Command, result: CommandResult) -> None:
        """Send the hub how a command ended that nobody waits for."""
        values = {"command": command.name, "status": result.status.value, "detail": result.detail}
        if command.correlation_id:
            values["correlation_id"] = command.correlation_id
        time_ns, time_trusted, uptime_ns = stamp(self._clock)
        event = Event(command.device, command.source, "command-result", time_ns, values, time_trusted, uptime_ns)
        device = self._roster.get(command.device)
        await self._intake.put(Batch([event], route="" if device is None else device.route))

    def running(self) -> list[asyncio.Task[None]]:
        """Those of rules that are still carried out."""
        return [*self._running]
