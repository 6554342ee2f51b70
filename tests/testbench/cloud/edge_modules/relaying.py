"""A module on the SDK's blocking client: what comes to its input goes to its output, marked."""

from __future__ import annotations

import threading
from typing import Any

from azure.iot.device import IoTHubModuleClient, Message


def main() -> None:
    client = IoTHubModuleClient.create_from_edge_environment()

    def relay(received: Any) -> None:
        message = Message(
            received.data,
            message_id=received.message_id,
            content_encoding=received.content_encoding,
            content_type=received.content_type,
        )
        message.custom_properties["from"] = received.custom_properties["$.cmid"]
        message.custom_properties["input"] = received.input_name
        client.send_message_to_output(message, "relayed")

    # Before connecting, which it does by itself: what waited comes with the old session's subscription at once.
    client.on_message_received = relay
    print("<6> 2026-05-01 12:00:00.000 +00:00 [INF] - relaying module is up", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
