"""How what comes down to one identity at IoT Hub names a command.

The gateway's own identity has one direct method, `command`, whose payload says for which device (see
`uplink.commands`). A sensor's own identity has that too, where `device` may be left out because it can be no other; and
beside it a method for each command of its profile, with the arguments as payload:

```
method "set-relay", payload {"state": 1}
method "command",   payload {"command": "set-relay", "arguments": {"state": 1}}
```
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from edge_gateway.errors import CommandInvalid
from edge_gateway.records import Command
from edge_gateway.uplink.commands import LARGEST_COMMAND_BYTES, parse_command

COMMAND_METHOD: Final = "command"
"""The direct method that carries any command."""


class MethodUnknown(CommandInvalid):
    """There is no such direct method."""


class HubCommands:
    """Reads methods and messages for one identity.

    Args:
        device: the gateway's name for the sensor whose identity it is; empty for the gateway's own.
        names: the commands of the sensor's profile.
    """

    def __init__(self, device: str = "", names: Collection[str] = ()) -> None:
        self._device = device
        self._names = frozenset(names) if device else frozenset()

    def of_method(self, name: str, payload: bytes, request_id: str) -> Command:
        """The command that a direct method means.

        Raises:
            MethodUnknown: there is no such method.
            CommandInvalid: its payload cannot be used.
        """
        if name == COMMAND_METHOD:
            return self._generic(payload, "method", request_id)
        if name not in self._names:
            others = "".join(f", {each!r}" for each in sorted(self._names))
            only = "" if others else "only "
            raise MethodUnknown(f"there is {only}the method {COMMAND_METHOD!r}{others}")
        arguments = _loads(payload) if payload else None
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, Mapping):
            raise CommandInvalid("has a payload that is no JSON object", where=name, remedy='Send {"state": 1}')
        return Command(self._device, name, dict(arguments), "method", request_id)

    def of_message(self, payload: bytes, message_id: str) -> Command:
        """The command that a cloud-to-device message carries.

        Raises:
            CommandInvalid: it carries none.
        """
        return self._generic(payload, "c2d", message_id)

    def _generic(self, payload: bytes, source: str, correlation_id: str) -> Command:
        if not self._device:
            return parse_command(payload, source=source, correlation_id=correlation_id)
        document = _loads(payload)
        if isinstance(document, Mapping):
            document = {"device": self._device, **document}
            if document["device"] != self._device:
                raise CommandInvalid(
                    f"is for {str(document['device'])[:64]!r}, and this is the identity of {self._device!r}",
                    where="command",
                    remedy="Leave out 'device', or call the other's own method",
                )
        return parse_command(document, source=source, correlation_id=correlation_id)


def _loads(payload: bytes) -> Any:
    if len(payload) > LARGEST_COMMAND_BYTES:
        raise CommandInvalid(f"is larger than {LARGEST_COMMAND_BYTES} bytes", where="command")
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise CommandInvalid(f"is not JSON ({error})", where="command") from error
