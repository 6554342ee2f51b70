"""A module on the SDK's asyncio client that does what it is asked for by direct methods."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from azure.iot.device import Message, MethodResponse
from azure.iot.device.aio import IoTHubModuleClient


async def main() -> None:
    client = IoTHubModuleClient.create_from_edge_environment(websockets="WEBSOCKETS" in os.environ)
    await client.connect()

    async def do(name: str, payload: Any) -> Any:
        match name:
            case "send":
                for number in range(payload["first"], payload["first"] + payload["count"]):
                    message = Message(
                        json.dumps({"number": number}),
                        message_id=str(number),
                        content_encoding="utf-8",
                        content_type="application/json",
                    )
                    message.custom_properties["kind"] = "reading"
                    await client.send_message_to_output(message, "readings")
                return None
            case "twin":
                return await client.get_twin()
            case "report":
                return await client.patch_twin_reported_properties(payload)
            case "call":
                parameters = {"methodName": payload["name"], "payload": payload["payload"]}
                return await client.invoke_method(parameters, payload["device"], payload["module"])
        return name

    async def answer(request: Any) -> None:
        result = await do(request.name, request.payload)
        await client.send_method_response(MethodResponse.create_from_method_request(request, 200, result))

    async def desired(patch: Any) -> None:
        await client.patch_twin_reported_properties({"told": patch["$version"]})

    client.on_twin_desired_properties_patch_received = desired
    client.on_method_request_received = answer
    print("<6> 2026-05-01 12:00:00.000 +00:00 [INF] - asking module is up", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
