"""paho, mended: whatever the operating system or TLS says of a broken connection is a loss."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import pytest
from paho.mqtt.client import MQTT_ERR_AGAIN, MQTT_ERR_CONN_LOST, Client

from edge_gateway.uplink.paho_losses import mend_paho


class BrokenSocket:
    """Fails every call in one way."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def send(self, data: bytes) -> int:
        raise self._error

    def recv(self, size_bytes: int) -> bytes:
        raise self._error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), MQTT_ERR_CONN_LOST),
        (ssl.SSLError(1, "bad record mac"), MQTT_ERR_CONN_LOST),
        (OSError(errno.EHOSTUNREACH, "No route to host"), MQTT_ERR_CONN_LOST),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), MQTT_ERR_CONN_LOST),
        (ConnectionResetError(errno.ECONNRESET, "reset"), MQTT_ERR_CONN_LOST),
        (BlockingIOError(), MQTT_ERR_AGAIN),
        (ssl.SSLWantReadError(), MQTT_ERR_AGAIN),
        (ssl.SSLWantWriteError(), MQTT_ERR_AGAIN),
    ],
)
def test_what_breaks_a_connection_is_a_loss(error: OSError, outcome: int) -> None:
    """Reading and writing tell a loss by its return code and raise nothing; "try again" stays what it is."""
    mend_paho()
    mend_paho()
    client: Any = Client()  # what is asked of it here is not public
    client._sock = BrokenSocket(error)
    assert (client._send_pingreq() or client._packet_write()) == outcome
    client._sock = BrokenSocket(error)
    assert client._packet_read() == outcome
