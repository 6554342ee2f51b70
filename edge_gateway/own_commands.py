"""What the gateway itself obeys, under its own name, as a sensor obeys the commands of its profile.

| Command | Arguments | Answer |
| --- | --- | --- |
| `publish-ledger` | | `rows`: how many were sent |
| `rotate-buffer-key` | | `key`: the number of the new one |
| `rotate-keys` | `key`: only this one | `rotated`, `failed`, `left` |
| `wipe-keys` | `confirm`: the gateway's name | |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from edge_gateway.emergency import WIPE_COMMAND, Emergency
from edge_gateway.errors import CommandInvalid, GatewayError, KeyStoreError
from edge_gateway.provisioning.rotation import KeyRotation
from edge_gateway.records import Command, CommandResult, CommandStatus, Value

_log = structlog.get_logger()

OWN_COMMANDS: Final = ("publish-ledger", "rotate-buffer-key", "rotate-keys", WIPE_COMMAND)


class OwnCommands:
    """Carries them out.

    Args:
        publish_ledger: sends the rows of the ledger that were not sent yet; raises a GatewayError if it cannot.
        rotate_buffer_key: seals what comes from now on with a new key, likewise.
        rotation: rotates the other keys.
        emergency: destroys them all.
    """

    def __init__(
        self,
        *,
        publish_ledger: Callable[[], Awaitable[int]],
        rotate_buffer_key: Callable[[], Awaitable[int]],
        rotation: KeyRotation,
        emergency: Emergency,
    ) -> None:
        self._publish_ledger = publish_ledger
        self._rotate_buffer_key = rotate_buffer_key
        self._rotation = rotation
        self._emergency = emergency

    async def run(self, command: Command) -> CommandResult:
        """Carry out a command and say how it ended. Never raises."""
        if command.name == WIPE_COMMAND:
            return await self._emergency.run_command(command)
        try:
            answer = await self._answer(command)
        except CommandInvalid as error:
            return CommandResult(CommandStatus.INVALID, str(error))
        except GatewayError as error:
            return CommandResult(CommandStatus.REFUSED, str(error))
        _log.info("gateway.command_done", command=command.name, source=command.source, **answer)
        return CommandResult(CommandStatus.ACKNOWLEDGED, answer=answer)

    async def _answer(self, command: Command) -> Mapping[str, Value]:
        allowed = ("key",) if command.name == "rotate-keys" else ()
        unknown = sorted(command.arguments.keys() - set(allowed))
        match command.name:
            case "publish-ledger" | "rotate-buffer-key" | "rotate-keys" if unknown:
                raise CommandInvalid(
                    f"has no argument {unknown[0][:64]!r}",
                    where=command.name,
                    remedy=f"{' or '.join(allowed) or 'Nothing'} would do",
                )
            case "publish-ledger":
                return {"rows": await self._publish_ledger()}
            case "rotate-buffer-key":
                return {"key": await self._rotate_buffer_key()}
            case "rotate-keys":
                return await self._rotate_keys(command.arguments.get("key", ""))
            case _:
                raise CommandInvalid(f"a gateway has no command {command.name!r}; {', '.join(OWN_COMMANDS)} would do")

    async def _rotate_keys(self, key: Value) -> Mapping[str, Value]:
        if not isinstance(key, str):
            raise CommandInvalid("is no text", where="rotate-keys: key", remedy="Give a key's name, or leave it out")
        rotated = await self._rotation.rotate_now(key)
        if key and not (rotated.done or rotated.failed):
            if not rotated.left:
                raise CommandInvalid(
                    "there is no such key", where=f"key {key[:64]!r}", remedy="See `edge-gateway keys list`"
                )
            raise KeyStoreError(
                "somebody has to bring the next one", where=f"key {key!r}", remedy=f"edge-gateway keys rotate {key}"
            )
        if rotated.failed and not rotated.done:
            name, reason = next(iter(rotated.failed.items()))
            raise KeyStoreError("was not rotated", where=f"key {name!r}", remedy=reason)
        return {
            "rotated": rotated.done,
            "failed": rotated.failed,
            "left": rotated.left,
            "left_count": rotated.left_count,
        }
