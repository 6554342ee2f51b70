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
_BY_HTTPS = {Feature.UPLOAD, Feature.EDGE}
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

KINDS: tuple[ClientKind, ...] = (
    PythonSdk("python-aio", asynchronous=True),
    PythonSdk("python-sync", asynchronous=False),
    NodeSdk("node", NODE, "mqtt", _NODE_FEATURES),
    TopicKind("aiomqtt", AiomqttLink),
    TopicKind("paho", PahoLink),
    MosquittoTools(),
)
OVER_HTTPS: tuple[ClientKind, ...] = (
    PythonSdk("python-aio-ws", asynchronous=True, websockets=True),
    PythonSdk("python-sync-ws", asynchronous=False, websockets=True),
    NodeSdk("node-ws", NODE, "mqtt-ws", _NODE_FEATURES),
    NodeSdk("node-http", NODE, "http", _NODE_HTTP_FEATURES),
    TopicKind("aiomqtt-ws", partial(AiomqttLink, websockets=True)),
    TopicKind("paho-ws", partial(PahoLink, websockets=True)),
)
"""Those that come to the port for HTTPS, be it by WebSocket."""


def clients_with(*features: Feature) -> pytest.MarkDecorator:
    """Run a case with each client that has these features, as its argument `kind`."""
    able = [kind for kind in (*KINDS, *OVER_HTTPS) if kind.features.issuperset(features)]
    cases = [pytest.param(kind, id=kind.name, marks=_skipped_without(kind, features)) for kind in able]
    return pytest.mark.parametrize("kind", cases)


def _skipped_without(kind: ClientKind, features: tuple[Feature, ...]) -> pytest.MarkDecorator:
    missing = kind.missing()
    if not may_listen(HTTPS_PORT) and (kind in OVER_HTTPS or not _BY_HTTPS.isdisjoint(features)):
        missing = f"a hub on port {HTTPS_PORT} (be root, or set sysctl net.ipv4.ip_unprivileged_port_start)"
    return pytest.mark.skipif(bool(missing), reason=f"{kind.name} needs {missing}")
