"""A device behind the edge hub, on the device SDK: it says that it is up, and reports what the cloud sends to it."""

from __future__ import annotations

import os
import threading
from typing import Any

from azure.iot.device import IoTHubDeviceClient


def main() -> None:
    client = IoTHubDeviceClient.create_from_connection_string(
        os.environ["CONNECTION"], server_verification_cert=os.environ["ROOT"]
    )

    def report(message: Any) -> None:
        client.patch_twin_reported_properties({"received": message.data.decode()})

    client.on_message_received = report
    client.send_message("up")
    threading.Event().wait()


if __name__ == "__main__":
    main()
