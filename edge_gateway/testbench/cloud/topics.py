"""The MQTT topics of IoT Hub and edge hub (iothub-mqtt devguide), for one device or module."""

from __future__ import annotations

import re

from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.property_bag import parse_property_bag

TWIN_RESPONSES = "$iothub/twin/res/#"
DESIRED_PATCHES = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"
TWIN_GET = "$iothub/twin/GET/?$rid="
REPORTED_PATCH = "$iothub/twin/PATCH/properties/reported/?$rid="
_METHOD_RESPONSE = re.compile(r"\$iothub/methods/res/(-?\d{1,9})/\?\$rid=([^&]+)")


class Topics:
    """The topics that are a device's or module's own.

    Attributes:
        events: prefix of what it sends; the property bag follows.
        devicebound: filter of what is sent to it from the cloud.
        inputs: filter of what comes to a module's inputs.
        subscriptions: every filter it may subscribe to.
    """

    def __init__(self, name: IdentityName) -> None:
        self.events = f"{name.path}/messages/events/"
        self.devicebound = f"{name.path}/messages/devicebound/#"
        self.inputs = f"{name.path}/inputs/#"
        subscriptions = {self.devicebound, TWIN_RESPONSES, DESIRED_PATCHES, METHODS}
        if name.module_id:
            subscriptions |= {self.inputs, f"{name.path}/#"}
        self.subscriptions = frozenset(subscriptions)

    def properties(self, topic: str) -> tuple[dict[str, str], dict[str, str]]:
        """Application and system properties of an events topic.

        Raises:
            ValueError: the property bag is not percent-encoded UTF-8.
        """
        return parse_property_bag(topic[len(self.events) :])


def method_request(name: str, request_id: str) -> str:
    """The topic of a direct method's call."""
    return f"$iothub/methods/POST/{name}/?$rid={request_id}"


def method_response(topic: str) -> tuple[int, str] | None:
    """Status and request id of a direct method's answer; None if the topic is another."""
    answer = _METHOD_RESPONSE.fullmatch(topic)
    return (int(answer[1]), answer[2]) if answer is not None else None


def twin_response(status: int, request_id: str, version: int | None = None) -> str:
    """The topic of the answer to a twin request."""
    suffix = "" if version is None else f"&$version={version}"
    return f"$iothub/twin/res/{status}/?$rid={request_id}{suffix}"


def desired_patch(version: int) -> str:
    """The topic of changed desired properties."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"
