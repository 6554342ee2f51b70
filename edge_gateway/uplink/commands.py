"""What a command and its outcome look like in JSON, the same for every way down: method, C2D message, MQTT topic.

```json
{"device": "boiler-room", "command": "set-relay", "arguments": {"state": 1}}
{"status": "acknowledged", "detail": "", "answer": {"status": 0}}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from edge_gateway.errors import CommandInvalid
from edge_gateway.records import Command, CommandResult, CommandStatus

LARGEST_COMMAND_BYTES: Final = 128 * 1024
"""What a direct method may carry; larger ones are refused whatever way they came."""

HTTP_STATUS: Final[Mapping[CommandStatus, int]] = {
    CommandStatus.ACKNOWLEDGED: 200,
    CommandStatus.SENT: 202,
    CommandStatus.INVALID: 400,
    CommandStatus.REFUSED: 409,
    CommandStatus.UNREACHABLE: 503,
    CommandStatus.NO_ANSWER: 504,
}
"""How an outcome is told where only a number fits, as in a direct method's status."""


def parse_command(payload: bytes | Mapping[str, Any] | None, *, source: str, correlation_id: str = "") -> Command:
    """Read a command from JSON, parsed or not.

    Raises:
        CommandInvalid: it is no JSON object of the form above; the text says what is wrong.
    """
    example = 'Send {"device": "boiler-room", "command": "set-relay", "arguments": {"state": 1}}'
    if isinstance(payload, bytes):
        if len(payload) > LARGEST_COMMAND_BYTES:
            raise CommandInvalid(f"is larger than {LARGEST_COMMAND_BYTES} bytes", where="command", remedy=example)
        try:
            payload = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise CommandInvalid(f"is not JSON ({error})", where="command", remedy=example) from error
    if not isinstance(payload, Mapping):
        raise CommandInvalid("is not a JSON object", where="command", remedy=example)
    device, name, arguments = payload.get("device"), payload.get("command"), payload.get("arguments", {})
    for key, value in (("device", device), ("command", name)):
        if not isinstance(value, str) or not value:
            raise CommandInvalid(f"needs {key!r} as text", where="command", remedy=example)
    if not isinstance(arguments, Mapping):
        raise CommandInvalid("has 'arguments' that are no object", where="command", remedy=example)
    unknown = sorted(set(payload) - {"device", "command", "arguments"})
    if unknown:
        raise CommandInvalid(f"has a key {unknown[0]!r} that means nothing", where="command", remedy=example)
    return Command(str(device), str(name), dict(arguments), source, correlation_id)


def describe_result(result: CommandResult) -> dict[str, Any]:
    """The outcome as a JSON object."""
    return {"status": result.status.value, "detail": result.detail, "answer": dict(result.answer)}
