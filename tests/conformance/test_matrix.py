"""Which client can do what: what is told here is what the cases are made for."""

from __future__ import annotations

from .client import Feature
from .kinds import KINDS

CANNOT = {
    Feature.CONNECTION: "mosquitto node-http",
    Feature.TEXT: "node-http",
    Feature.COMMANDS: "",
    Feature.NULL: "node node-ws node-http",
    Feature.SETTLING: "python-aio python-sync node aiomqtt paho mosquitto "
    "python-aio-ws python-sync-ws node-ws aiomqtt-ws paho-ws",
    Feature.BATCH: "python-aio python-sync node aiomqtt paho mosquitto "
    "python-aio-ws python-sync-ws node-ws aiomqtt-ws paho-ws",
    Feature.MODEL: "node-http",
    Feature.TWIN: "mosquitto node-http",
    Feature.DESIRED: "node-http",
    Feature.METHODS: "mosquitto node-http",
    Feature.MODULE: "node-http",
    Feature.INPUTS: "mosquitto node-http",
    Feature.EDGE: "aiomqtt paho mosquitto aiomqtt-ws paho-ws node-http",
    Feature.RENEWAL: "aiomqtt paho mosquitto aiomqtt-ws paho-ws node-http",
    Feature.RETURN: "aiomqtt paho mosquitto aiomqtt-ws paho-ws node-http",
    Feature.SESSION: "mosquitto node-http",
    Feature.CERTIFICATE: "",
    Feature.MODULE_CERTIFICATE: "node node-ws node-http",
    Feature.UPLOAD: "aiomqtt paho mosquitto aiomqtt-ws paho-ws",
    Feature.PROVISIONING: "mosquitto",
    Feature.PATIENCE: "aiomqtt paho mosquitto aiomqtt-ws paho-ws node-http",
}
"""By feature, the clients no case is made for that needs it."""


def test_matrix() -> None:
    """A client's features are those written down here; one that loses any loses cases."""
    assert {
        feature: " ".join(kind.name for kind in KINDS if feature not in kind.features) for feature in Feature
    } == CANNOT


def test_names() -> None:
    """Each client has a name of its own."""
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) == 12
