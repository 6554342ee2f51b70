"""AMQP 1.0 for the local hub, as the service SDKs speak it: `AmqpEndpoint`.

From bytes to effect: `values`, `composites` and `frames` are the codec; `connection` and `sessions` are the protocol,
without I/O; `service` is what a hub offers, with `feeds` and `events` for what it sends; `endpoint` joins them to a
socket. Why it is our own: docs/decisions/0008-amqp-on-the-local-hub.md.
"""

from edge_gateway.testbench.cloud.amqp.endpoint import AmqpEndpoint

__all__ = ["AmqpEndpoint"]
