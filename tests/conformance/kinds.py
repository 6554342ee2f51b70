"""Every client the suite runs, and how a case is made for those that have what it needs."""

from __future__ import annotations

from functools import partial

import pytest

from edge_gateway.testbench.cloud.front_door import HTTPS_PORT
from edge_gateway.testbench.listener import may_listen

from .by_hand import TopicKind
from .client import ClientKind, Feature
from .mosquitto_tools import MosquittoTools
from .mqtt_links import AiomqttLink, PahoLink
from .sdk_node import NodeProcess, NodeSdk
from .sdk_python import PythonSdk

NODE = NodeProcess()
_NODE_FEATURES = frozenset(Feature) - {
    Feature.NULL,
    Feature.SETTLING,
    Feature.BATCH,
    Feature.MODULE_CERTIFICATE,
}
"""It shows the text `undefined` for a property without a value, and takes no certificates for modules."""
_BY_HTTPS_ONLY = {Feature.UPLOAD, Feature.EDGE}
"""What clients that speak MQTT otherwise do by HTTPS."""
_NODE_HTTP_FEATURES = frozenset(
    {
        Feature.COMMANDS,
        Feature.SETTLING,
        Feature.BATCH,
        Feature.CERTIFICATE,
        Feature.UPLOAD,
        Feature.PROVISIONING,
    }
)

BY_MQTT: tuple[ClientKind, ...] = (
    PythonSdk("python-aio", asynchronous=True),
    PythonSdk("python-sync", asynchronous=False),
    NodeSdk("node", NODE, "mqtt", _NODE_FEATURES),
    TopicKind("aiomqtt", AiomqttLink),
    TopicKind("paho", PahoLink),
    MosquittoTools(),
)
BY_WEBSOCKET: tuple[ClientKind, ...] = (
    PythonSdk("python-aio-ws", asynchronous=True, websockets=True),
    PythonSdk("python-sync-ws", asynchronous=False, websockets=True),
    NodeSdk("node-ws", NODE, "mqtt-ws", _NODE_FEATURES),
    TopicKind("aiomqtt-ws", partial(AiomqttLink, websockets=True)),
    TopicKind("paho-ws", partial(PahoLink, websockets=True)),
)
BY_HTTPS: tuple[ClientKind, ...] = (NodeSdk("node-http", NODE, "http", _NODE_HTTP_FEATURES),)
KINDS = (*BY_MQTT, *BY_WEBSOCKET, *BY_HTTPS)


def clients_with(*features: Feature, by_websocket: bool = True) -> pytest.MarkDecorator:
    """Run a case with each client that has these features, as its argument `kind`.

    Args:
        features: what the case needs.
        by_websocket: also by WebSocket; not worth the while for what takes seconds and is the same by MQTT.
    """
    able = [kind for kind in KINDS if kind.features.issuperset(features) and (by_websocket or kind not in BY_WEBSOCKET)]
    cases = [pytest.param(kind, id=kind.name, marks=_skipped_without(_missing(kind, features))) for kind in able]
    return pytest.mark.parametrize("kind", cases)


def _skipped_without(missing: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(missing), reason=f"needs {missing}")


def _missing(kind: ClientKind, features: tuple[Feature, ...]) -> str:
    needs_https = kind not in BY_MQTT or not _BY_HTTPS_ONLY.isdisjoint(features)
    if needs_https and not may_listen(HTTPS_PORT):
        return f"a hub on port {HTTPS_PORT} (be root, or set sysctl net.ipv4.ip_unprivileged_port_start)"
    return kind.missing()
