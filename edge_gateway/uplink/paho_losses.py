"""Mends paho-mqtt 1.6.1, which takes a broken connection for a bug of its own when TLS or the network says so.

It knows `ConnectionError` only. A TLS error (an end without a farewell, which is what a reset under load looks like) or
a plain `OSError` (no route to host) goes through it uncaught: under the device SDK it ends paho's thread, so that only
the next time-out notices, and under aiomqtt it comes out of any call. paho 2.0 takes every `OSError` for a loss
(https://github.com/eclipse-paho/paho.mqtt.python/pull/797), but azure-iot-device 2.14 forbids it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any


@cache
def mend_paho() -> None:
    """Let every client of paho's notice every loss of its connection. Doing it again does nothing."""
    # Imported here, so that a gateway pays for it when it needs it.
    from paho.mqtt.client import Client

    for name in ("_sock_send", "_sock_recv"):
        setattr(Client, name, _telling_losses(getattr(Client, name)))


def _telling_losses(call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @wraps(call)
    def telling(client: Any, argument: Any) -> Any:
        try:
            return call(client, argument)
        except (BlockingIOError, ConnectionError):
            raise
        except OSError as error:
            raise ConnectionAbortedError(str(error)) from error

    return telling
