"""The MQTT topics of a device at IoT Hub: written, and read from any bytes without ever raising.

Source: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub; the property bag at a topic's end is
percent-encoded as RFC 3986 has it, so a plus sign is one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

TWIN_RESPONSES: Final = "$iothub/twin/res/#"
DESIRED_PATCHES: Final = "$iothub/twin/PATCH/properties/desired/#"
METHODS: Final = "$iothub/methods/POST/#"

_TWIN_ANSWER: Final = re.compile(r"\$iothub/twin/res/(\d{1,9})/\?(.*)", re.DOTALL)
_DESIRED_PATCH: Final = re.compile(r"\$iothub/twin/PATCH/properties/desired/\?\$version=(\d{1,18})")
_METHOD_CALL: Final = re.compile(r"\$iothub/methods/POST/([^/]+)/\?\$rid=(.+)", re.DOTALL)


class TwinAnswer(NamedTuple):
    """What the hub says to a twin request."""

    status: int
    request_id: str


class DesiredPatch(NamedTuple):
    """Desired properties have changed, and are at this version now."""

    version: int


class MethodCall(NamedTuple):
    """A direct method is called."""

    name: str
    request_id: str
    """As it came; the answer gives it back so."""


class CloudMessage(NamedTuple):
    """A cloud-to-device message."""

    message_id: str
    """The sender's; may be empty."""


Arrival: TypeAlias = TwinAnswer | DesiredPatch | MethodCall | CloudMessage


class DeviceTopics:
    """The topics of one device.

    Args:
        device_id: it stands in topics as it is, and is not percent-encoded.
    """

    def __init__(self, device_id: str) -> None:
        self._events = f"devices/{device_id}/messages/events/%24.mid="
        self._devicebound = f"devices/{device_id}/messages/devicebound/"
        self.subscriptions: Final = (f"{self._devicebound}#", METHODS, DESIRED_PATCHES, TWIN_RESPONSES)
        """Filters of all that can come down."""

    def event(self, message_id: str, lane: str) -> str:
        """Where a message goes, with the properties the device SDK would give it."""
        return (
            f"{self._events}{quote(message_id, safe='')}&%24.ct=application%2Fjson&%24.ce=utf-8"
            f"&lane={quote(lane, safe='')}"
        )

    def read(self, topic: str) -> Arrival | None:
        """What comes by a topic; None if it is nothing a device is told."""
        if topic.startswith(self._devicebound):
            return CloudMessage(_property(topic.removeprefix(self._devicebound), "$.mid"))
        if (match := _METHOD_CALL.fullmatch(topic)) is not None:
            return MethodCall(match[1], match[2])
        if (match := _DESIRED_PATCH.match(topic)) is not None:
            return DesiredPatch(int(match[1]))
        if (match := _TWIN_ANSWER.fullmatch(topic)) is not None:
            return TwinAnswer(int(match[1]), _property(match[2], "$rid"))
        return None


def twin_get(request_id: str) -> str:
    """Where the twin is asked for."""
    return f"$iothub/twin/GET/?$rid={request_id}"


def reported_patch(request_id: str) -> str:
    """Where reported properties are told."""
    return f"$iothub/twin/PATCH/properties/reported/?$rid={request_id}"


def method_answer(status: int, request_id: str) -> str:
    """Where a direct method is answered."""
    return f"$iothub/methods/res/{status}/?$rid={request_id}"


def _property(bag: str, name: str) -> str:
    """One property of a bag; empty if it is not there."""
    for part in bag.removeprefix("?").removesuffix("/").split("&"):
        key, _, value = part.partition("=")
        if unquote(key) == name:
            return unquote(value)
    return ""
